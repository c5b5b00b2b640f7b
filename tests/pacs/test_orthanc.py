"""Our watcher with a real Orthanc, over a real network that can be cut."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from braintumor.classes import CLASSES
from tests.dicom import make
from tests.pacs.hospital import URL, Hospital, storm

pytestmark = pytest.mark.pacs
RESULTS = {
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.2.840.10008.5.1.4.1.1.88.34": "3D structured report",
}


def study(folder: Path, images: int, name: object = 0, size: int = 96) -> Path:
    """Write the images of a study, 20 per series."""
    folder.mkdir()
    for number in range(images):
        label = CLASSES[number % 4]
        dataset = make.mr(label, number, size=size, number=number % 20 + 1, study=name, series=number // 20)
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def ended(watcher: subprocess.Popen[bytes], log: Path) -> list[str]:
    """Return what a watcher that ends by itself has printed."""
    assert watcher.wait(120) == 0, log.read_text()
    return log.read_text().splitlines()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.parametrize("root", ["", "/dicom-web"], ids=["changes", "qido"])
def test_results_appear_beside_the_images_that_a_scanner_sent(hospital: Hospital, tmp_path: Path, root: str) -> None:
    hospital.send(study(tmp_path / "study", 4))
    lines = ended(hospital.watcher(tmp_path / "state", tmp_path / "log", URL + root, once=True), tmp_path / "log")
    assert lines[-1] == "4 answered, 0 refused, 12 passed, 0 gone, 0 waiting"

    census = hospital.census()
    assert len(census.sources) == 4
    assert list(census.sets.values()) == [dict.fromkeys(RESULTS, 1)] * 4
    for attribute in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert {instance[attribute] for instance in census.results} == {census.sources[0][attribute]}
    series = {instance["SeriesInstanceUID"] for instance in census.results}
    assert not series & {instance["SeriesInstanceUID"] for instance in census.sources}


@pytest.mark.slow
def test_a_second_run_and_a_lost_journal_change_nothing(hospital: Hospital, tmp_path: Path) -> None:
    hospital.send(study(tmp_path / "study", 3))
    log = tmp_path / "log"
    ended(hospital.watcher(tmp_path / "state", log, once=True), log)
    before = sorted(hospital.ask("/instances"))
    assert len(before) == 3 + 9
    assert "0 answered" in ended(hospital.watcher(tmp_path / "state", log, once=True), log)[-1]
    assert "3 answered" in ended(hospital.watcher(tmp_path / "another", log, once=True), log)[-1]
    assert sorted(hospital.ask("/instances")) == before


@pytest.mark.slow
def test_what_is_no_brain_mri_and_what_cannot_be_decoded_is_refused_once(hospital: Hospital, tmp_path: Path) -> None:
    folder = study(tmp_path / "study", 1)
    make.mr(seed=1, number=2, BodyPartExamined="KNEE", SeriesDescription="knee", ProtocolName="knee").save_as(
        folder / "knee.dcm", enforce_file_format=True
    )
    make.mr(seed=2, number=3, PixelData=b"\0" * 100).save_as(folder / "short.dcm", enforce_file_format=True)
    hospital.send(folder)
    log = tmp_path / "log"
    lines = ended(hospital.watcher(tmp_path / "state", log, once=True), log)
    assert lines[-1] == "1 answered, 2 refused, 3 passed, 0 gone, 0 waiting"
    assert len(hospital.census().results) == 3
    assert "0 answered, 0 refused" in ended(hospital.watcher(tmp_path / "state", log, once=True), log)[-1]


@pytest.mark.slow
def test_a_running_watcher_answers_what_comes_and_leaves_cleanly(hospital: Hospital, tmp_path: Path) -> None:
    log = tmp_path / "log"
    watcher = hospital.watcher(tmp_path / "state", log)
    hospital.send(study(tmp_path / "first", 2, 1))
    wait_for(lambda: len(hospital.ask("/instances")) == 8)
    hospital.send(study(tmp_path / "second", 15, 2))
    wait_for(lambda: len(hospital.ask("/instances")) > 8 + 15 + 3)
    watcher.send_signal(signal.SIGTERM)
    assert "waiting" in ended(watcher, log)[-1]
    census = hospital.census()
    assert census.doubled == 0
    assert census.lost == sum(not kinds for kinds in census.sets.values()), "a set was left unfinished"


@pytest.mark.slow
def test_no_patient_data_is_printed_logged_or_kept(hospital: Hospital, tmp_path: Path) -> None:
    folder = study(tmp_path / "study", 2)
    odd = make.mr(seed=5, number=9)  # values that pydicom warns of, with the values
    odd.save_as(folder / "odd.dcm", enforce_file_format=True)
    content = (folder / "odd.dcm").read_bytes()
    (folder / "odd.dcm").write_bytes(content.replace(b"19700101", b"SECRETXX"))
    hospital.send(folder)
    hidden = tmp_path / "watcher"
    hidden.mkdir()
    log = hidden / "log"
    lines = ended(hospital.watcher(hidden / "state", log, once=True), log)
    assert "3 answered" in lines[-1]
    uids = {instance[name] for instance in hospital.census().sources for name in ("SOPInstanceUID", "StudyInstanceUID")}
    hospital.close()
    broken = hospital.watcher(hidden / "state", log)
    wait_for(lambda: "cannot be reached" in log.read_text())
    broken.terminate()
    ended(broken, log)
    assert {file.name for file in hidden.rglob("*")} >= {"log", "lock", "journal.sqlite"}
    for file in [*hidden.rglob("*"), *hospital.folder.glob("tmp*/**/*")]:
        text = file.read_bytes() if file.is_file() else b""
        for secret in ("SECRET", "MRN12345", "correct horse", *uids):
            assert secret.encode() not in text + file.name.encode(), file
    assert "2.25." not in log.read_text()  # as all UIDs of these images begin


def chaos(hospital: Hospital, tmp_path: Path, kills: int, images: int, longest_cut: float) -> None:
    """Kill watcher and Orthanc and cut the network while images come, then see that each has one set of results."""
    parts = [study(tmp_path / str(number), images, number) for number in range(kills)]
    done = storm(hospital, tmp_path / "state", tmp_path / "log", parts, longest_cut)
    assert done["watcher killed"] == kills
    assert done["at work"] >= kills / 2
    census = hospital.census()
    assert len(census.sources) == kills * images
    assert (census.lost, census.doubled) == (0, 0)
    assert len(census.results) == 3 * kills * images


@pytest.mark.slow
def test_kills_and_cuts_lose_nothing_and_double_nothing(hospital: Hospital, tmp_path: Path) -> None:
    chaos(hospital, tmp_path, 4, 8, 0.5)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_double_nothing(hospital: Hospital, tmp_path: Path) -> None:
    chaos(hospital, tmp_path, 20, 20, 7.0)
