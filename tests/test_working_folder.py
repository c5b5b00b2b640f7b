"""Working and data folders: nothing that lies in them is ever run."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from braintumor.io.child import import_folders
from tests.volume_files import brain

LOADED = "import sys; from braintumor.io import worker; worker.preload(); print(*sys.modules)"


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Return the names of all modules that a decoder imports, of some that Python itself does, and of libraries."""
    printed = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in printed.split()}
    return sorted({name for name in loaded if name.isidentifier()} - {"__main__"} | {"sitecustomize", "dl"})


@pytest.fixture
def folder(tmp_path: Path, names: list[str], slices: list[Path]) -> Path:
    """Return a folder as it may come on a disc: slices, and a module of every name that a decoder imports."""
    make = pytest.importorskip("tests.dicom.make", reason="DICOM needs its extra")
    folder = tmp_path / "disc"
    folder.mkdir()
    assert {"resource", "socket", "json", "numpy", "PIL", "pydicom", "braintumor"} <= set(names)
    for name in names:
        planted = f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + '\\n')\nraise ImportError('planted')\n"
        (folder / f"{name}.py").write_text(planted)
    (folder / "scan.dcm").write_bytes(make.encoded(make.mr(size=64)))
    (folder / "scan.nii.gz").write_bytes(brain(("no_tumor", "glioma")))
    (folder / "scan.png").write_bytes(slices[0].read_bytes())
    return folder


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return how the installed command is started: a script in a folder of its own."""
    script = tmp_path / "bin" / "braintumor"
    script.parent.mkdir()
    script.write_text("import sys\nfrom braintumor.cli.main import script\nscript()\n")
    return [sys.executable, str(script)]


def run(command: Sequence[str], folder: Path, **other: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | other)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_commands_run_nothing_of_the_folder_they_are_started_in(
    folder: Path, command: list[str], tmp_path: Path
) -> None:
    for arguments in (
        ["predict", "scan.dcm", "scan.nii.gz", "scan.png", "--format", "json"],
        ["predict", "."],
        ["explain", "scan.dcm", "scan.nii.gz", "--out", str(tmp_path / "explanations")],
        ["dicom", "classify", "scan.dcm", "--out", str(tmp_path / "results")],
    ):
        printed = run([*command, *arguments], folder)
        assert "scan" in printed
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_service_runs_nothing_of_the_folder_it_is_started_in(
    folder: Path, command: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn", reason="the service needs the extra serve")
    with subprocess.Popen([*command, "serve", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout
            address = next(line.split()[1] for line in service.stdout if line.startswith("open "))
            assert len(posted(f"{address}v1/predictions", (folder / "scan.dcm").read_bytes())["slices"]) == 1
        finally:
            service.send_signal(signal.SIGTERM)
    assert not (tmp_path / "ran").exists()


def posted(address: str, content: bytes) -> Any:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + content + b"\r\n--x--\r\n"
    request = urllib.request.Request(address, body, {"Content-Type": "multipart/form-data; boundary=x"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_as_a_module_only_what_python_imports_before_us_can_be_shadowed(
    folder: Path, command: list[str], tmp_path: Path
) -> None:
    # `python -m` itself looks for these in the working folder, before a line of ours is run
    first = "import sys; print(*sys.modules)"
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "early.py").write_text(first)
    early = run([sys.executable, "-m", "early"], tmp_path / "bare", PYTHONPATH="").split()
    for name in (*early, "runpy", "pkgutil", "sitecustomize", "braintumor"):
        (folder / f"{name.partition('.')[0]}.py").unlink(missing_ok=True)
    assert len(list(folder.glob("*.py"))) > 100
    assert "scan.dcm" in run([sys.executable, "-m", "braintumor", "predict", "scan.dcm"], folder)
    assert not (tmp_path / "ran").exists()


def test_a_child_neither_looks_in_the_working_folder_nor_beside_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, elsewhere, work = (tmp_path / name for name in ("program", "elsewhere", "work"))
    for made in (program, elsewhere, work):
        made.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(program / "script.py"), raising=False)
    monkeypatch.setattr(sys, "path", ["", ".", "relative", str(work), str(program), str(elsewhere), *sys.path])
    folders = import_folders()
    assert str(elsewhere) in folders
    assert not {"", ".", "relative", str(work), str(program)} & set(folders)
    assert all(Path(path).is_absolute() for path in folders)


@pytest.fixture(autouse=True)
def no_users_python_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep PYTHONPATH absolute: what it names, a user has asked for."""
    entries = [str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*entries, str(Path(__file__).parent.parent)]))
