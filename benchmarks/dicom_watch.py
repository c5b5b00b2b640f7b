"""Our watcher with Orthanc on the same two cores: how fast, and whether each image is answered exactly once.

First 500 MR images of 256 x 256 pixels are sent to Orthanc and then answered by `watch` with the bundled model: three
results for each, stored beside it. The time is that of the whole process, from its start until everything is answered,
and `memory` the peak of it, without the two processes that decode.
Then 400 other images come while the watcher is killed 20 times, Orthanc 5 times, and the network is cut 5 times, for up
to 7 seconds, at moments drawn from a fixed seed; at `kills.at_work` the watcher had images left to answer. `lost` are
images that lack one of their results at the end, `doubled` those with a result of one kind twice, over both runs.

Needs: Debian's orthanc, orthanc-dicomweb and dcmtk, and the right to make a network namespace.
Takes: long, 4 minutes where Orthanc is installed.
Command: python benchmarks/dicom_watch.py
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, number, record

sys.path.insert(0, str(ROOT))

from braintumor.classes import CLASSES
from tests.dicom import make
from tests.pacs.hospital import Census, Hospital, missing, storm

IMAGES, SIZE, PER_STUDY = 500, 256, 20
KILLS = 20
STORM_IMAGES = KILLS * PER_STUDY


def studies(folder: Path, images: int) -> list[Path]:
    """Write images, in a folder for each study, and return the folders."""
    for index in range(images):
        study = folder / str(index // PER_STUDY)
        study.mkdir(parents=True, exist_ok=True)
        label, place = CLASSES[index % 4], index % PER_STUDY + 1
        made = make.mr(label, index, size=SIZE, number=place, study=f"{folder.name} {study.name}")
        made.save_as(study / f"{place}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def throughput(folder: Path) -> tuple[float, float, Census]:
    """Return the seconds for all images, the peak memory of the watcher (MiB), and what is in the archive then."""
    sent = studies(folder / "clean", IMAGES)
    hospital = Hospital(folder / "hospital")
    try:
        hospital.open()
        hospital.send(*sent)
        began = time.perf_counter()
        watcher = hospital.watcher(folder / "state", folder / "log", once=True)
        _, status, used = os.wait4(watcher.pid, 0)
        seconds = time.perf_counter() - began
        watcher.returncode = os.waitstatus_to_exitcode(status)
        assert watcher.returncode == 0, (folder / "log").read_text()
        return seconds, used.ru_maxrss / 1024, hospital.census()
    finally:
        hospital.leave()


def main() -> None:
    """Measure and record."""
    if missing():
        sys.exit(missing())
    with tempfile.TemporaryDirectory() as temporary:
        seconds, memory, clean = throughput(Path(temporary) / "throughput")
        folder = Path(temporary) / "storm"
        sent = studies(folder / "rough", STORM_IMAGES)
        hospital = Hospital(folder / "hospital")
        try:
            hospital.open()
            done = storm(hospital, folder / "state", folder / "log", sent)
            rough = hospital.census()
        finally:
            hospital.leave()
    assert (len(clean.sources), len(rough.sources)) == (IMAGES, STORM_IMAGES)
    total = IMAGES + STORM_IMAGES
    record(
        "dicom-watch",
        "python benchmarks/dicom_watch.py",
        {
            "images": number(IMAGES, "images"),
            "images_per_second": number(IMAGES / seconds, "images/s", n=IMAGES),
            "memory": number(memory, "MiB"),
            "kills": number(done["watcher killed"] + done["archive killed"], "kills"),
            "kills.watcher": number(done["watcher killed"], "kills"),
            "kills.at_work": number(done["at work"], "kills"),
            "kills.archive": number(done["archive killed"], "kills"),
            "cuts": number(done["cuts"], "cuts"),
            "storm.images": number(STORM_IMAGES, "images"),
            "lost": number(clean.lost + rough.lost, "images", n=total),
            "doubled": number(clean.doubled + rough.doubled, "images", n=total),
        },
    )


if __name__ == "__main__":
    main()
