from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    RawDataStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from braintumor.dicom.eligibility import RULES, ineligibility, notes
from tests.dicom.make import NAME, PATIENT, SOURCES, capture, ct, enhanced, item, mr


@pytest.mark.parametrize("kind", SOURCES)
def test_slices_of_the_head_in_mr_are_classified(kind: str) -> None:
    dataset = SOURCES[kind]()
    assert ineligibility(dataset) is None
    assert notes(dataset) == ()


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": None},
        {"BodyPartExamined": "HEAD"},
        {"BodyPartExamined": "PITUITARY"},
        {"BodyPartExamined": "SELLA TURCICA"},
        {"SeriesDescription": None, "ProtocolName": None, "StudyDescription": None, "BodyPartExamined": None},
        {"SeriesDescription": "sag t1 brain and cervical spine", "BodyPartExamined": None},
        {"SeriesDescription": "t2_tse_tra_p2_320"},
        {"SeriesDescription": "FLAIR location of lesion"},
        {"ImageType": ["DERIVED", "SECONDARY", "OTHER"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]},
        {"ImageType": ["ORIGINAL", "PRIMARY"]},
        {"ImageType": None},
        {"DiffusionBValue": 0.0},
    ],
)
def test_what_says_nothing_against_it_is_classified(attributes: dict[str, Any]) -> None:
    assert ineligibility(mr(**attributes)) is None


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Modality": "US"}, "Modality is US, ultrasound; only MR slices of the head are classified"),
        ({"Modality": "PT"}, "Modality is PT"),
        ({"Modality": "SEG"}, "Modality is SEG, a segmentation"),
        ({"Modality": ""}, "Modality is missing"),
        ({"Modality": None}, "Modality is missing"),
        ({"Modality": "MRSECRET"}, "Modality is not MR;"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer (ImageType)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "SCOUT"]}, "a localizer (ImageType)"),
        ({"SeriesDescription": "3-plane loc"}, "a localizer (SeriesDescription or ProtocolName)"),
        (
            {"SeriesDescription": None, "ProtocolName": "AAHead_Scout_64ch"},
            "a localizer (SeriesDescription or ProtocolName)",
        ),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "a map or a derived image (ImageType"),
        ({"ImageType": ["DERIVED", "SECONDARY", "ADC", "UNSPECIFIED"]}, "a map or a derived image (ImageType"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW"]}, "a map or a derived image (ImageType"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "a map or a derived image (ImageType"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP"]}, "a map or a derived image (ImageType"),
        ({"ImageType": ["DERIVED", "PRIMARY", "T1_MAP"]}, "a map or a derived image (ImageType"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RELCBV"]}, "a map or a derived image (ImageType"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "a reformatted or projected image (ImageType)"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP"]}, "a reformatted or projected image"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, "a reformatted or projected image"),
        ({"DiffusionBValue": 1000.0}, "diffusion-weighted (DiffusionBValue is not 0)"),
        ({"SeriesDescription": "ep2d_diff_3scan_trace"}, "a map or a special technique (SeriesDescription"),
        ({"SeriesDescription": "ADC (10^-6 mm²/s)"}, "a map or a special technique (SeriesDescription"),
        ({"SeriesDescription": "TOF_3D"}, "a map or a special technique (SeriesDescription"),
        ({"BodyPartExamined": "KNEE"}, "another part of the body (BodyPartExamined, or a description)"),
        ({"BodyPartExamined": "BRAIN", "SeriesDescription": "SAG T2 CERVICAL SPINE"}, "another part of the body"),
        (
            {
                "BodyPartExamined": None,
                "SeriesDescription": "sag t2 c-spine",
                "StudyDescription": "MRI BRAIN AND C SPINE",
            },
            "another part of the body",
        ),
        ({"BodyPartExamined": "SPINE", "SeriesDescription": "t1 sag"}, "another part of the body"),
        ({"BodyPartExamined": None, "StudyDescription": "MR Lumbar Spine"}, "another part of the body"),
        ({"PhotometricInterpretation": "RGB"}, "a colour image (PhotometricInterpretation)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a colour image (PhotometricInterpretation)"),
        ({"Manufacturer": "braintumor"}, "a result of braintumor itself (Manufacturer)"),
        ({"ContributingEquipmentSequence": [item(Manufacturer="braintumor")]}, "a result of braintumor itself"),
    ],
)
def test_what_says_something_else_is_refused_with_the_attribute(attributes: dict[str, Any], reason: str) -> None:
    answer = ineligibility(mr(**attributes))
    assert answer is not None
    assert answer.startswith(reason)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (EnhancedSRStorage, "a report"),
        (KeyObjectSelectionDocumentStorage, "a report or a selection"),
        (SegmentationStorage, "a segmentation"),
        (ParametricMapStorage, "a parametric map"),
        (GrayscaleSoftcopyPresentationStateStorage, "a presentation state"),
        (EncapsulatedPDFStorage, "a document"),
        (RTDoseStorage, "radiotherapy"),
        (RawDataStorage, "raw data"),
        ("1.2.840.10008.5.1.4.1.1.4.2", "spectroscopy"),
    ],
)
def test_objects_that_hold_no_slice_are_refused(kind: str, expected: str) -> None:
    reason = ineligibility(mr(SOPClassUID=kind))
    assert reason is not None
    assert reason.startswith("SOPClassUID is that of ")
    assert expected in reason


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "SeriesDescription": "Ax T1 POST",
            "ProtocolName": "BRAIN TUMOR PERFUSION",
        },  # of the whole study
        {"SeriesDescription": "Ax T1 POST", "ProtocolName": "STROKE BRAIN/MRA"},
        {"SeriesDescription": "Ax T2", "ProtocolName": "LOC + T2"},
        {"SeriesDescription": "t1 brain", "BodyPartExamined": "LSPINE"},
        {"SeriesDescription": "t1 head and neck"},
        {"SeriesDescription": "t1 ax", "BodyPartExamined": "BRAIN", "StudyDescription": "MRI CERVICAL SPINE"},
        {"SeriesDescription": "t1 ax", "BodyPartExamined": None, "StudyDescription": "MRI BRAIN AND CERVICAL SPINE"},
    ],
)
def test_the_series_own_description_decides_before_protocol_study_and_body_part(attributes: dict[str, Any]) -> None:
    assert ineligibility(mr(**attributes)) is None


def test_computed_tomography_is_refused_by_its_modality() -> None:
    assert ineligibility(ct()) == "Modality is CT, computed tomography; only MR slices of the head are classified"


@pytest.mark.parametrize("modality", ["MR", "OT", "SC", "", None])
def test_a_secondary_capture_needs_no_modality(modality: str | None) -> None:
    assert ineligibility(capture(Modality=modality)) is None


def test_a_secondary_capture_of_another_modality_is_refused() -> None:
    assert str(ineligibility(capture(Modality="CT"))).startswith("Modality is CT")


def test_a_frame_of_another_kind_refuses_the_file() -> None:
    dataset = enhanced()
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[2].MRImageFrameTypeSequence = [item(FrameType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])]
    assert str(ineligibility(dataset)).startswith("a map")
    del groups[2].MRImageFrameTypeSequence
    groups[1].MRDiffusionSequence = [item(DiffusionBValue=500.0)]
    assert str(ineligibility(dataset)).startswith("diffusion-weighted")


def test_burned_in_text_and_unknown_regions_are_noted() -> None:
    assert notes(mr(BurnedInAnnotation="YES")) == (
        "BurnedInAnnotation is YES: text in the picture may mislead the model",
    )
    assert notes(mr(BodyPartExamined="TETE")) == ("BodyPartExamined is not recognised; the head is assumed",)


def test_no_reason_holds_text_of_the_file() -> None:
    def planted(**attributes: Any) -> Dataset:
        free = {"SeriesDescription": f"adc loc {NAME}", "ProtocolName": f"knee {NAME}", "StudyDescription": PATIENT}
        return mr(**{"BodyPartExamined": "KNEE", **free, **attributes})

    for dataset in (
        planted(),
        planted(Modality=PATIENT),
        planted(ImageType=["A", "B", "ADC", PATIENT]),
        planted(Manufacturer=NAME),
    ):
        assert "SECRET" not in str(ineligibility(dataset))
        assert PATIENT not in str(ineligibility(dataset))
    assert "SECRET" not in " ".join(notes(mr(BodyPartExamined="SECRET")))


def test_each_rule_has_its_own_name() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_documentation_lists_the_rules_in_their_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "use" / "dicom.md").read_text()
    table = page.partition("| rule |")[2].partition("\n\n")[0]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [rule.name for rule in RULES]
