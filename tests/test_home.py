"""Accounts without a home folder, as containers give them: what needs none works, the others name a variable."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from braintumor.files import cache_folder, user_folder

PACKAGE = Path(__file__).parent.parent / "src"
SETPRIV = shutil.which("setpriv")
as_nobody_known = pytest.mark.skipif(
    SETPRIV is None or os.geteuid() != 0, reason="only root, with setpriv, can become an account without an entry"
)
UNKNOWN = 54321
NOWHERE = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    """Return a command of an account that has no entry; it may read what root may, where the libraries lie."""
    rights = ("--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    account = (str(SETPRIV), f"--reuid={UNKNOWN}", f"--regid={UNKNOWN}", *rights)
    return [*account, sys.executable, "-m", "braintumor", *map(str, arguments)]


def run(*arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = NOWHERE | {name: str(value) for name, value in variables.items()}
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    """Return a folder that the account may write to."""
    folder = tmp_path / "writable"
    folder.mkdir()
    os.chown(folder, UNKNOWN, UNKNOWN)
    return folder


@pytest.mark.slow
@as_nobody_known
def test_what_needs_no_cache_works_without_a_home(slices: list[Path], writable: Path) -> None:
    for arguments in (
        ("predict", slices[0]),
        ("explain", slices[0], "--out", writable / "explained"),
        ("models", "list"),
        ("data", "show", slices[0].parent.parent.parent, "--out", writable / "sheet.png"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert "Research use only" in done.stdout


@pytest.mark.slow
@as_nobody_known
def test_what_needs_a_folder_names_the_variable(phantoms: Path, model_folder: Path, writable: Path) -> None:
    pytest.importorskip("kagglehub")
    for arguments, variable in (
        (("audit", phantoms, "--out", writable / "audit"), "BRAINTUMOR_CACHE"),
        (("train", "--data_dir", phantoms, "--model", "cnn", "--out", writable / "run"), "BRAINTUMOR_CACHE"),
        (("models", "add", model_folder), "BRAINTUMOR_MODELS"),
        (("data", "get", "kaggle", "--out", writable), "HOME"),
    ):
        done = run(*arguments)
        assert done.returncode == 2, arguments
        assert variable in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@as_nobody_known
@pytest.mark.parametrize("variable", ["BRAINTUMOR_CACHE", "XDG_CACHE_HOME"])
def test_the_variables_are_enough(phantoms: Path, model_folder: Path, writable: Path, variable: str) -> None:
    pytest.importorskip("sklearn")
    done = run("audit", phantoms, "--out", writable / "audit", **{variable: writable / "cache"})
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    if variable == "BRAINTUMOR_CACHE":
        assert done.stderr == ""
    assert run("models", "add", model_folder, XDG_DATA_HOME=writable / "data").returncode == 0
    assert (writable / "data" / "braintumor" / "models" / "tiny" / "card.json").is_file()


@pytest.mark.slow
@as_nobody_known
def test_the_service_starts_without_a_home() -> None:
    pytest.importorskip("uvicorn")
    with subprocess.Popen(command("serve", "--port", 0), env=NOWHERE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout
        assert service.stdout.readline() == "cnn 0.1.0 int8\n"
        assert service.stdout.readline().startswith("open http://127.0.0.1:")
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) in (0, -signal.SIGTERM)


def test_paths_that_are_not_absolute_name_no_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for chosen in ("relative", "./cache", "", "~/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", chosen)
        assert user_folder("XDG_CACHE_HOME", ".cache") == tmp_path / ".cache"
    monkeypatch.setenv("HOME", "relative")
    assert user_folder("XDG_CACHE_HOME", ".cache") is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("BRAINTUMOR_CACHE", raising=False)
    assert cache_folder() == tmp_path / "x" / "braintumor"
