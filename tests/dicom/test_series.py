from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from braintumor.dicom.series import Chosen, contrast, described, series_code
from braintumor.dicom.series import choose as choose_files
from braintumor.dicom.study import survey
from braintumor.io.sandbox import Sandbox
from tests.dicom.make import NAME, PATIENT, capture, ct, encoded, enhanced, mr

PLAIN = {"ContrastBolusAgent": None, "ProtocolName": None, "BodyPartExamined": None}
UNKNOWN = {**PLAIN, "SeriesDescription": None, "EchoTime": None, "RepetitionTime": None}


def series(name: str, count: int = 6, **attributes: Any) -> list[Dataset]:
    return [mr(number=number, series=name, **attributes) for number in range(1, count + 1)]


def choose(study: list[Dataset], **options: bool) -> list[Chosen]:
    return choose_files([described(dataset, dataset.SOPInstanceUID) for dataset in study], **options)


def code_of(image: Dataset) -> str:
    return series_code(image.StudyInstanceUID, image.SeriesInstanceUID)


def wanted(study: list[Dataset], **options: bool) -> list[bool]:
    return [chosen.wanted for chosen in choose(study, **options)]


def test_each_series_in_scope_is_classified_and_the_others_are_explained() -> None:
    localizer = series("scout", 3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    first, second, third = choose([*localizer, *series("t1"), ct()])
    assert not first.wanted
    assert first.explanation == "left out: a localizer (ImageType); only diagnostic slices are classified"
    assert len(first.files) == 3
    assert second.wanted
    assert second.explanation == "T1 with contrast agent, axial, 6 slices"
    assert second.volume == code_of(series("t1")[0])
    assert second.files == tuple(dataset.SOPInstanceUID for dataset in series("t1"))
    assert third.explanation.startswith("left out: Modality is CT")


def test_files_out_of_scope_are_left_out_of_their_series() -> None:
    (chosen,) = choose([*series("t1", 2), mr(number=3, series="t1", ImageType=["DERIVED", "SECONDARY", "MPR"])])
    assert chosen.wanted
    assert len(chosen.files) == 2
    assert chosen.explanation.endswith("2 slices; 1 file left out: not an MR slice of the head")


def test_files_of_two_studies_or_without_series_are_not_put_together() -> None:
    one, copy = (mr(series="t1", study=study) for study in (1, 2))
    copy.SeriesInstanceUID = one.SeriesInstanceUID
    nameless = [mr(number=number, SeriesInstanceUID=None) for number in (7, 8)]
    assert [len(chosen.files) for chosen in choose([one, copy, *nameless])] == [1, 1, 1, 1]


def test_no_files_make_no_series() -> None:
    assert choose([]) == []
    assert choose([], best=True) == []


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, "T1 with contrast agent"),
        ({"ContrastBolusAgent": None}, "T1 with contrast agent"),  # "t1 ax post"
        ({"ContrastBolusAgent": None, "SeriesDescription": "t1_se_tra", "ProtocolName": None}, "T1"),
        ({"SeriesDescription": "t1 pre contrast", "ProtocolName": None}, "T1"),
        ({**PLAIN, "SeriesDescription": "AX T1 +GD"}, "T1 with contrast agent"),
        ({**PLAIN, "SeriesDescription": "T2 TSE"}, "T2 or FLAIR"),
        ({**PLAIN, "SeriesDescription": "FLAIR post contrast"}, "T2 or FLAIR"),
        ({**UNKNOWN, "EchoTime": 10, "RepetitionTime": 500}, "T1"),
        ({**UNKNOWN, "EchoTime": 100, "RepetitionTime": 5000}, "T2 or FLAIR"),
        ({**UNKNOWN, "EchoTime": 20, "RepetitionTime": 5000}, "unknown contrast"),
        (UNKNOWN, "unknown contrast"),
        ({**UNKNOWN, "AcquisitionContrast": "T2"}, "T2 or FLAIR"),
        ({**UNKNOWN, "AcquisitionContrast": "T1"}, "T1"),
    ],
)
def test_the_contrast_is_known_by_attributes_description_or_times(attributes: dict[str, Any], expected: str) -> None:
    assert contrast(mr(**attributes)) == expected


def test_the_best_series_is_t1_with_contrast_then_t1_then_t2_then_unknown() -> None:
    unknown, t2 = series("unknown", **UNKNOWN), series("t2", **{**PLAIN, "SeriesDescription": "t2"})
    t1, post = series("t1", **{**PLAIN, "SeriesDescription": "t1"}), series("post")
    assert wanted([*unknown, *t2, *t1, *post], best=True) == [False, False, False, True]
    assert wanted([*unknown, *t2, *t1], best=True) == [False, False, True]
    assert wanted([*unknown, *t2], best=True) == [False, True]
    assert wanted(unknown, best=True) == [True]
    explanations = [chosen.explanation for chosen in choose([*t2, *post], best=True)]
    assert explanations[0] == "left out: another series comes first; this one is T2 or FLAIR, axial, 6 slices"
    assert explanations[1] == "comes first: T1 with contrast agent, axial, 6 slices"


def test_few_slices_come_last_then_axial_comes_first_then_many_slices() -> None:
    few, t2 = series("few", 4), series("t2", 5, **{**PLAIN, "SeriesDescription": "t2"})
    assert wanted([*few, *t2], best=True) == [False, True]
    sagittal = series("sagittal", 9, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    assert wanted([*sagittal, *series("axial", 6)], best=True) == [False, True]
    assert wanted([*series("six", 6), *series("seven", 7)], best=True) == [False, True]
    assert wanted([*series("second", SeriesNumber=2), *series("first", SeriesNumber=1)], best=True) == [False, True]


def test_frames_count_as_slices() -> None:
    chosen = choose([enhanced(("glioma",) * 7), *series("six")], best=True)
    assert [series_choice.wanted for series_choice in chosen] == [True, False]
    assert chosen[0].explanation == "comes first: T1 with contrast agent, axial, 7 slices"


def test_captures_are_classified() -> None:
    (chosen,) = choose([capture()])
    assert chosen.explanation == "unknown contrast, not axial, 1 slice"


def test_a_study_is_surveyed_in_files(tmp_path: Path) -> None:
    paths = []
    for number, dataset in enumerate(
        [*series("t1", 2), ct(), *series("t2", 1, **{**PLAIN, "SeriesDescription": "t2"})]
    ):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(encoded(dataset))
    (tmp_path / "broken").write_bytes(paths[0].read_bytes()[:140])
    (tmp_path / "text").write_text("no DICOM file")
    with Sandbox(1) as sandbox:
        study = survey([*paths, tmp_path / "broken", tmp_path / "text", tmp_path / "missing"], sandbox)
        best = survey(paths, sandbox, best=True)
    assert study.files == tuple(map(str, [*paths[:2], paths[3]]))
    assert [error.source for error in study.unreadable] == [str(tmp_path / n) for n in ("broken", "text", "missing")]
    assert study.explanations[0] == f"{code_of(series('t1')[0])}: T1 with contrast agent, axial, 2 slices"
    assert best.files == tuple(map(str, paths[:2]))


def test_no_explanation_holds_text_of_the_files() -> None:
    study = [
        mr(SeriesDescription=NAME, ProtocolName=PATIENT),
        mr(series=1, Modality="SECRET"),
        mr(series=2, EchoTime=None),
    ]
    for chosen in choose(study, best=True):
        assert "SECRET" not in chosen.explanation
        assert PATIENT not in chosen.explanation
