"""How much a fresh environment with the package takes on the disk, and how long it takes to make.

Twice: with the service, and with DICOM besides, as in a hospital. The environments are made with `python -m venv` and
filled with the locked libraries of `requirements/serve.txt`, and of `requirements/dicom.txt`; pip and the compiled
Python files count, too. Afterwards the installed package must classify phantom slices and start its service there, and
in the second one write the DICOM results of a synthetic image. Needs the package index.

Takes: long, two minutes where there is a package index.
Command: python benchmarks/install.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, number, record

from braintumor.data.phantom import write_phantoms

sys.path.insert(0, str(ROOT))  # the files of the tests
from tests.dicom import make

KINDS = {"use": ("serve",), "hospital": ("serve", "dicom")}
"""Extras of each environment."""


def main() -> None:
    """Produce `install.json`."""
    numbers = {}
    for name, extras in KINDS.items():
        with tempfile.TemporaryDirectory() as scratch:
            size, seconds = installed(Path(scratch), extras)
        numbers[f"{name}_mib"] = number(size, "MiB")
        numbers[f"{name}_seconds"] = number(seconds, "seconds")
    record("install", "python benchmarks/install.py", numbers)


def installed(folder: Path, extras: tuple[str, ...]) -> tuple[float, float]:
    """Make an environment with extras and use it; return its MiB and the seconds it took to make."""
    python = folder / "environment" / "bin" / "python"
    began = time.perf_counter()
    run(sys.executable, "-m", "venv", str(folder / "environment"))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    locks = [word for extra in extras for word in ("-r", str(ROOT / "requirements" / f"{extra}.txt"))]
    run(*pip, "--require-hashes", *locks)
    run(*pip, "--no-deps", str(ROOT))
    seconds = time.perf_counter() - began
    size = mib(folder / "environment")
    write_phantoms(folder / "slices", 2, size=224)
    run(str(python), "-m", "braintumor", "predict", str(folder / "slices"), cwd=folder)
    if "dicom" in extras:
        (folder / "slice.dcm").write_bytes(make.encoded(make.mr()))
        run(str(python), "-m", "braintumor", "dicom", "classify", "slice.dcm", "--out", "results", cwd=folder)
        assert len(list((folder / "results").rglob("*.dcm"))) == 3
    service = [str(python), "-m", "braintumor", "serve", "--port", "0"]
    with subprocess.Popen(service, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = [process.stdout.readline() for _ in range(2)]
        process.terminate()
    assert said[1].startswith("open http://127.0.0.1:"), said
    without_torch = subprocess.run([str(python), "-c", "import torch"], check=False, capture_output=True)
    assert without_torch.returncode, "torch is there"
    return size, seconds


def run(*command: str, cwd: Path = ROOT) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, cwd=cwd, check=True)


def mib(folder: Path) -> float:
    """Return the bytes of all files in a folder, MiB."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 2**20


if __name__ == "__main__":
    main()
