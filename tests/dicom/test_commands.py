"""Output and files of `braintumor dicom classify`, and of `predict` and `explain` on DICOM files and volumes."""

import csv
import io
import itertools
import json
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from braintumor.classes import DISCLAIMER
from braintumor.cli.main import main
from braintumor.dicom.results import images
from tests.dicom import make
from tests.referrals import EMPTY
from tests.volume_files import brain

pytestmark = pytest.mark.usefixtures("shared_decoders")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Return a folder of three slices of a series without suffix, a file of four frames, a CT slice and a DICOMDIR."""
    folder = tmp_path / "study"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"IM{number}").write_bytes(make.encoded(make.mr(seed=number, number=number)))
    (folder / "frames.dcm").write_bytes(make.encoded(make.enhanced()))
    (folder / "ct.dcm").write_bytes(make.encoded(make.ct()))
    (folder / "notes.txt").write_text("no image")
    (folder / "DICOMDIR").write_bytes((folder / "IM1").read_bytes())
    return folder


def status_of(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_results_are_written_by_series_and_named_after_nobody(
    study: Path, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert status_of("dicom", "classify", study, "--model", model_folder, "--out", out) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == f"tiny 1.2. {DISCLAIMER}"
    lines = output.out.splitlines()[:3]
    assert sorted(line.partition(": ")[2].partition(",")[0] for line in lines) == [
        "T1 with contrast agent",
        "T1 with contrast agent",
        "left out: Modality is CT",
    ]
    series = sorted(out.iterdir())
    assert sorted(len(list(folder.iterdir())) for folder in series) == [9, 12]
    names = {file.name for file in out.rglob("*.dcm")}
    assert names == {f"{number:04d}-{kind}.dcm" for number in range(1, 5) for kind in ("overlay", "map", "report")}
    assert (
        sum(
            "class predicted on this slice -> " in line or "Referred to a reader (" in line
            for line in output.out.splitlines()
        )
        == 7
    )
    sources = {make.mr(seed=number, number=number).SOPInstanceUID for number in (1, 2, 3)}
    reports = [pydicom.dcmread(file) for file in out.rglob("*-report.dcm")]
    referred = {
        item.ReferencedSOPInstanceUID
        for report in reports
        for study_item in report.CurrentRequestedProcedureEvidenceSequence
        for series_item in study_item.ReferencedSeriesSequence
        for item in series_item.ReferencedSOPSequence
    }
    assert sources < referred
    for text in (make.NAME, make.PATIENT):
        assert text not in output.out + output.err + "".join(str(file) for file in out.rglob("*"))


def test_the_same_images_give_the_same_files(study: Path, tmp_path: Path, model_folder: Path) -> None:
    contents = []
    for name in ("a", "b"):
        status_of("dicom", "classify", study / "IM1", "--model", model_folder, "--out", tmp_path / name)
        contents.append({file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.dcm")})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


def test_instances_of_the_same_number_do_not_overwrite_each_other(tmp_path: Path, model_folder: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for seed in (1, 2):
        dataset = make.mr(seed=seed, number=7)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = make.uid("same number", seed)
        (folder / f"{seed}.dcm").write_bytes(make.encoded(dataset))
    assert status_of("dicom", "classify", folder, "--model", model_folder, "--out", tmp_path / "out") == 0
    reports = sorted(file.name for file in (tmp_path / "out").rglob("*-report.dcm"))
    assert reports == ["0007-2-report.dcm", "0007-report.dcm"]


def test_only_dicom_files_are_answered_with_dicom(
    slices: list[Path], tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("dicom", "classify", slices[0], "--model", model_folder, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"unreadable: {slices[0]}: not a DICOM file" in error
    assert "nothing to classify" in error
    assert not (tmp_path / "out").exists()
    (tmp_path / "slice.dcm").write_bytes(make.encoded(make.mr()))
    arguments = ["--model", model_folder, "--out", tmp_path / "out"]
    assert status_of("dicom", "classify", slices[0], tmp_path / "slice.dcm", *arguments) == 3
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 3


def test_the_best_series_alone_is_classified_where_that_is_wished(
    study: Path, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model_folder, "--out", tmp_path / "out", "--series", "best"]
    assert status_of("dicom", "classify", study, *arguments) == 0
    assert sum("comes first" in line for line in capsys.readouterr().out.splitlines()) == 2
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_wanted_slices_are_chosen_by_number(
    study: Path, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model_folder, "--slices", "2-3", "--format", "csv"]
    status_of("predict", study / "frames.dcm", study / "IM2", *arguments)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["slice"] for row in rows] == ["2", "3", "2"]
    assert [row["image"] for row in rows] == [
        f"{study / 'frames.dcm'}#2",
        f"{study / 'frames.dcm'}#3",
        f"{study / 'IM2'}",
    ]
    assert rows[0]["volume"] == rows[1]["volume"] != rows[2]["volume"]
    assert status_of("predict", study / "IM1", "--model", model_folder, "--slices", "9") == 3
    assert "none of its slices has a requested number" in capsys.readouterr().err
    for wrong in ("9-1", "a", "1,,2", "-3"):
        assert status_of("predict", study / "IM1", "--model", model_folder, f"--slices={wrong}") == 2
        assert "expected slice numbers such as 12, 10-20 or 1-5,9, or all" in capsys.readouterr().err


def test_explain_draws_the_slices_of_a_volume_with_their_numbers(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = tmp_path / "brain.nii.gz"
    volume.write_bytes(brain())
    out = tmp_path / "out"
    assert (
        status_of("explain", volume, "--model", model_folder, "--out", out, "--slices", "5,12", "--plane", "axial") == 0
    )
    assert {file.name for file in out.iterdir()} == {
        f"brain-{number:04d}.{suffix}" for number in (5, 12) for suffix in ("png", "npy")
    }
    with Image.open(out / "brain-0005.png") as page:
        assert page.width > 900
    assert f"{volume}#5: " in capsys.readouterr().out


def test_predict_answers_every_slice_of_a_volume_in_json(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = tmp_path / "brain.nii.gz"
    volume.write_bytes(brain())
    assert status_of("predict", volume, "--model", model_folder, "--format", "json") == 0
    answer = json.loads(capsys.readouterr().out)
    predictions = answer["predictions"]
    assert [record["slice"] for record in predictions] == list(range(1, 13))
    assert {record["volume"] for record in predictions} == {str(volume)}
    assert predictions[0]["reasons"] == [EMPTY.record()]
    (summary,) = answer["volumes"]
    assert (summary["volume"], summary["slices"]) == (str(volume), 12)
    numbers = [*itertools.chain(*summary["decided"].values()), *(record["slice"] for record in summary["referred"])]
    assert sorted(numbers) == list(range(1, 13))
    assert status_of("predict", volume, "--model", model_folder) == 0
    assert summary["text"] in capsys.readouterr().out.splitlines()
    assert status_of("predict", volume, "--model", model_folder, "--format", "csv") == 0
    printed = capsys.readouterr()
    assert summary["text"] in printed.err.splitlines()
    assert len(printed.out.splitlines()) == 13
    assert status_of("predict", volume, "--model", model_folder, "--slices", "4") == 0
    assert "1 slice" not in capsys.readouterr().out


def test_an_image_without_identifiers_is_answered_but_gets_no_results(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, attributes in (("good.dcm", {}), ("bad.dcm", {"StudyInstanceUID": None})):
        (tmp_path / name).write_bytes(make.encoded(make.mr(**attributes)))
    out = tmp_path / "out"
    assert status_of("dicom", "classify", tmp_path, "--model", model_folder, "--out", out) == 3
    problem = "identifiers in the file are missing or invalid: no DICOM results can refer to it"
    assert f"unreadable: {tmp_path / 'bad.dcm'}: {problem}" in capsys.readouterr().err
    assert len(list(out.rglob("*.dcm"))) == 3
    assert status_of("predict", tmp_path / "bad.dcm", "--model", model_folder, "--format", "json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    assert answer["notes"] == [problem]


def test_what_a_library_says_of_a_patient_stops_nothing_and_is_not_repeated(
    study: Path,
    tmp_path: Path,
    model_folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = itertools.count()

    def report(*_: object) -> object:
        if next(calls) == 0:
            raise ValueError(f"Invalid value for VR PN: {make.NAME}")
        return original(*_)

    original = images.structured_report
    monkeypatch.setattr(images, "structured_report", report)
    out = tmp_path / "out"
    assert status_of("dicom", "classify", study / "IM1", study / "IM2", "--model", model_folder, "--out", out) == 3
    output = capfd.readouterr()
    assert "no results can be made from it (ValueError)" in output.err
    assert make.NAME not in output.out + output.err
    assert len(list(out.rglob("*.dcm"))) == 3


def test_of_two_files_that_say_to_be_the_same_image_one_gets_results(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "study", tmp_path / "out"
    folder.mkdir()
    for name, seed in (("first", 1), ("other", 2), ("copy", 1)):
        (folder / name).write_bytes(make.encoded(make.mr(seed=seed)))
    files = [folder / name for name in ("first", "other", "copy")]
    assert status_of("dicom", "classify", *files, "--model", model_folder, "--out", out) == 3
    assert (
        f"{folder / 'other'}: has the identifiers of an earlier file but different content" in capsys.readouterr().err
    )
    assert len({file.read_bytes() for file in out.rglob("*.dcm")}) == 3
