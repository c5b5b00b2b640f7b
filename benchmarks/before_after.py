"""Whether a change made anything slower: two commits take turns on the same machine, with the model of the package.

Each commit is checked out beside this one and runs from its own sources in the same environment: one PNG and one DICOM
file from a cold shell, folders of both, and the service under load. The ratio is the median of the turns' ratios, above
1 where the commit that is checked out here is better; its range is that of the turns.

With a commit as argument it is compared with that one.

Command: python benchmarks/before_after.py
Takes: long, 8 minutes.
"""

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from record import ROOT, data_folder, number, record, spread

sys.path.append(str(ROOT))

from braintumor.io.read import read
from tests.dicom import make

BEFORE = "18f4e78"  # the last commit before faults found from outside were mended
TURNS = 5
PER_CLASS, DICOM_FILES = 100, 120
CLIENTS, LOAD_SECONDS = 16, 8


@dataclass(frozen=True)
class Checkout:
    """A commit's sources, and what to measure with them.

    Attributes:
        root: of the sources.
        pictures: a folder of PNG or JPEG slices.
        dicom: a folder of DICOM files of one series.
    """

    root: Path
    pictures: Path
    dicom: Path

    def start(self, *arguments: str, **pipes: int) -> "subprocess.Popen[str]":
        """Return a running command of this commit."""
        environment = os.environ | {"PYTHONPATH": str(self.root / "src")}
        command = [sys.executable, "-m", "braintumor", *arguments]
        return subprocess.Popen(command, env=environment, cwd="/", text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def predict_seconds(self, path: Path) -> float:
        """Return the wall time of `predict`, which must succeed."""
        began = time.perf_counter()
        process = self.start("predict", str(path), stdout=subprocess.DEVNULL)
        if process.wait() != 0:
            sys.exit(f"predict ended with {process.returncode}")
        return time.perf_counter() - began

    def cold_picture(self) -> float:
        """Return answers a second, with a new process for each."""
        return 1 / self.predict_seconds(min(self.pictures.iterdir()))

    def cold_dicom(self) -> float:
        """Return answers a second, with a new process for each."""
        return 1 / self.predict_seconds(min(self.dicom.iterdir()))

    def picture_folder(self) -> float:
        """Return images a second of one command."""
        return len(list(self.pictures.iterdir())) / self.predict_seconds(self.pictures)

    def dicom_folder(self) -> float:
        """Return images a second of one command."""
        return DICOM_FILES / self.predict_seconds(self.dicom)

    def service(self) -> float:
        """Return answers a second of the service under load; each must be 200."""
        body = form(min(self.pictures.iterdir()).read_bytes())
        with running(self) as (host, port):
            until, counts = time.monotonic() + LOAD_SECONDS, [0] * CLIENTS

            def ask(client: int) -> None:
                connection = http.client.HTTPConnection(host, port, timeout=60)
                while time.monotonic() < until:
                    connection.request("POST", "/v1/predictions?maps=true", body, HEADERS)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        raise RuntimeError(f"status {answer.status}")
                    counts[client] += 1

            threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return sum(counts) / LOAD_SECONDS


HEADERS = {"Content-Type": "multipart/form-data; boundary=x"}
MEASURED: dict[str, tuple[Callable[[Checkout], float], str]] = {
    "cold.picture": (Checkout.cold_picture, "answers/s"),
    "cold.dicom": (Checkout.cold_dicom, "answers/s"),
    "folder.pictures": (Checkout.picture_folder, "images/s"),
    "folder.dicom": (Checkout.dicom_folder, "images/s"),
    "service": (Checkout.service, "answers/s"),
}


def main() -> None:
    """Produce `before-after.json`."""
    commit = sys.argv[1] if len(sys.argv) > 1 else BEFORE
    with tempfile.TemporaryDirectory() as folder:
        pictures, dicom, older = (Path(folder) / name for name in ("pictures", "dicom", "older"))
        write_files(pictures, dicom)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(older), commit], check=True)
        try:
            before, after = (Checkout(root, pictures, dicom) for root in (older, ROOT))
            numbers = {}
            for name, (measure, unit) in MEASURED.items():
                turns = [(measure(before), measure(after)) for _ in range(TURNS + 1)][1:]
                numbers[f"{name}.before"] = spread([turn[0] for turn in turns], unit)
                numbers[f"{name}.after"] = spread([turn[1] for turn in turns], unit)
                numbers[f"{name}.ratio"] = spread([turn[1] / turn[0] for turn in turns], "ratio")
        finally:
            subprocess.run([*git, "remove", "--force", str(older)], check=True)
    worst = min(numbers[f"{name}.ratio"]["value"] for name in MEASURED)
    numbers["worst"] = number(worst, "ratio", n=len(MEASURED))
    record("before-after", " ".join(["python benchmarks/before_after.py", *sys.argv[1:]]), numbers)


def write_files(pictures: Path, dicom: Path) -> None:
    """Write slices of the public set's test part as they are, and some of them as DICOM files of one series."""
    pictures.mkdir()
    dicom.mkdir()
    for label in ("glioma", "meningioma", "notumor", "pituitary"):
        for source in sorted((data_folder() / "brain-tumor-mri" / "Testing" / label).iterdir())[:PER_CLASS]:
            (pictures / source.name).write_bytes(source.read_bytes())
    for index, source in enumerate(sorted(pictures.iterdir())[:DICOM_FILES]):
        dataset = make.mr(number=index + 1, bits=12)
        levels = np.rint(read(source).pixels * 4095).astype(np.int64)
        dataset.Rows, dataset.Columns = levels.shape
        make.pixels(dataset, levels, 12, signed=False, inverted=False)
        (dicom / f"{index:04d}.dcm").write_bytes(make.encoded(dataset))


@contextmanager
def running(checkout: Checkout) -> Iterator[tuple[str, int]]:
    """Start the service of a commit; yield where it listens."""
    process = checkout.start("serve", "--port", "0", stdout=subprocess.PIPE)
    try:
        assert process.stdout
        address = next(found for line in process.stdout if (found := re.search(r"http://([\d.]+):(\d+)/", line)))
        yield address[1], int(address[2])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def form(content: bytes) -> bytes:
    """Return the form that uploads one file."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n"


if __name__ == "__main__":
    main()
