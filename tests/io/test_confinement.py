"""Confinement: a compromised decoder can do nothing but reply."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from braintumor.io import confinement
from braintumor.io.confinement import PROTECTIONS
from braintumor.io.sandbox import Sandbox

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NOBODY = 65534
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Landlock and seccomp are Linux's")
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are those of x86-64")


TRIED = """
import json, os, sys
sys.path.insert(0, {folder!r})
from confined_operations import attempts
print(json.dumps({{"confined": attempts({user}), "free": attempts(os.getuid(), confined=False)}}))
"""


@linux
@x86
@pytest.mark.parametrize("user", [os.getuid(), NOBODY])
def test_no_operation_succeeds_that_would_without_confinement(user: int) -> None:
    if user != os.getuid() != 0:
        pytest.skip("only root may change its account")
    program = [sys.executable, "-c", TRIED.format(folder=str(BENCHMARKS), user=user)]
    succeeded = json.loads(subprocess.run(program, capture_output=True, check=True).stdout.splitlines()[-1])
    assert succeeded["confined"] == []
    assert len(succeeded["free"]) >= 40


@linux
def test_children_say_what_holds() -> None:
    with Sandbox(children=1) as sandbox:
        assert sandbox.missing_protections() == ()


CONFINED = "import sys\nfrom braintumor.io import confinement\n{change}\nprint(*confinement.confine(), flush=True)"


def confined(change: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", CONFINED.format(change=change)], capture_output=True, text=True, check=True
    ).stdout.strip()


@linux
def test_what_the_kernel_does_not_offer_is_left_out_and_not_claimed() -> None:
    assert confined("") == " ".join(PROTECTIONS)
    assert confined("confinement._system_call = lambda *_: -1") == "seccomp"
    assert confined("confinement.platform.machine = lambda: 'riscv64'") == "landlock"
    assert confined("confinement._prctl = lambda *_: -1") == ""


@linux
def test_a_call_by_the_convention_of_another_architecture_ends_the_process() -> None:
    first = b"".join(confinement._filter("x86_64", 1))[:24]
    # load the architecture; go on if it is the right one; else SECCOMP_RET_KILL_PROCESS
    assert first == bytes.fromhex("20 00 00 00 04 00 00 00  15 00 01 00 3e 00 00 c0  06 00 00 00 00 00 00 80")


@linux
@pytest.mark.skipif(os.getuid() != 0, reason="changes the account")
def test_a_hidden_process_cannot_be_read_by_others_of_its_account() -> None:
    code = (
        f"import os, sys; from braintumor.io import confinement; os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "confinement._prctl(confinement._PR_SET_DUMPABLE, 1)  # as after starting a program\n"
        "if sys.argv[1] == 'hidden': confinement.hide()\n"
        "pid = os.fork() or os._exit(os.system(f'cat /proc/{os.getppid()}/environ > /dev/null 2>&1') != 0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    status = {
        kind: subprocess.run([sys.executable, "-c", code, kind], check=False).returncode for kind in ("open", "hidden")
    }
    assert status == {"open": 0, "hidden": 1}
