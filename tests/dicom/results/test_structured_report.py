import dataclasses
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import highdicom
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from braintumor.classes import CLASSES
from braintumor.dicom import codes, source_attributes
from braintumor.dicom.coding import Code
from braintumor.dicom.results.images import encoded, results
from braintumor.io.scan import Scan
from braintumor.models.session import Model
from braintumor.predictor import Prediction
from tests.dicom import make
from tests.referrals import EMPTY, OUT_OF_DISTRIBUTION, uncertain


def reported(
    prediction: Prediction, model: Model, source: Dataset | None = None, frame: int = 1, notes: tuple[str, ...] = ()
) -> Dataset:
    """Return the report about a source as it is in its file."""
    source = source or make.mr(number=7)
    origin = source_attributes.extract_attributes(source, frame)
    scan = Scan(make.shown(), source="slice", notes=notes, origin=origin)
    return pydicom.dcmread(io.BytesIO(encoded(results(scan, prediction, model)[-1])))


def nodes(dataset: Dataset) -> Iterator[Dataset]:
    """Yield all nodes below one."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from nodes(item)


def values_of(report: Dataset, name: Code) -> list[str]:
    """Return the values of all nodes with this name, as people read them."""
    values = []
    for node in nodes(report):
        if node.ConceptNameCodeSequence[0].CodeValue == name.value:
            coded = node.get("ConceptCodeSequence")
            values.append(coded[0].CodeMeaning if coded else str(node.get("TextValue") or node.get("UID")))
    return values


def group_of(report: Dataset) -> highdicom.sr.MeasurementsAndQualitativeEvaluations:
    """Return the report's only group as highdicom, another reader, finds it by template 1501."""
    read = highdicom.sr.srread(io.BytesIO(encoded(report)))
    assert isinstance(read, highdicom.sr.Comprehensive3DSR)
    (group,) = read.content.get_image_measurement_groups()
    return group


def test_each_class_has_its_probability(model: Model, prediction: Prediction) -> None:
    measured = group_of(reported(prediction, model)).get_measurements()
    measurements = [measurement for measurement in measured if measurement.name.value == "122157"]
    probabilities = {}
    for measurement in measurements:
        modifier = next(
            item for item in measurement[0].ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "class"
        )
        probabilities[modifier.ConceptCodeSequence[0].CodeMeaning] = measurement.value
    assert probabilities == {"Glioma": 0.8125, "Meningioma": 0.125, "Pituitary tumor": 0.0375, "No tumor class": 0.025}
    assert {measurement.unit.value for measurement in measured} == {"1"}
    assert [measurement.value for measurement in measured if measurement.name.value == "ood_score"] == [1.25]


def test_an_ood_score_that_is_no_number_is_left_out(model: Model, prediction: Prediction) -> None:
    report = reported(dataclasses.replace(prediction, ood_score=float("inf")), model)
    assert [measurement.name.value for measurement in group_of(report).get_measurements()] == ["122157"] * 4


@pytest.mark.parametrize(
    ("decision", "meaning"),
    [
        ("glioma", "Glioma class predicted on this slice"),
        ("meningioma", "Meningioma class predicted on this slice"),
        ("pituitary", "Pituitary tumor class predicted on this slice"),
        ("no_tumor", "No tumor class predicted on this slice"),
    ],
)
def test_an_answer_is_a_decision_without_reasons(
    decision: str, meaning: str, model: Model, prediction: Prediction
) -> None:
    report = reported(dataclasses.replace(prediction, predicted=decision, decision=decision), model)
    assert values_of(report, codes.DECISION) == [meaning]
    assert values_of(report, codes.REASON) == []
    assert [
        evaluation.value.meaning
        for evaluation in group_of(report).get_qualitative_evaluations(codes_of(codes.DECISION))
    ] == [meaning]


def codes_of(code: Code) -> highdicom.sr.CodedConcept:
    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)


def test_a_referral_says_why_and_predicts_nothing(model: Model, prediction: Prediction) -> None:
    reasons = (EMPTY, uncertain("glioma", "no_tumor"))
    report = reported(dataclasses.replace(prediction, decision="refer", reasons=reasons), model)
    assert values_of(report, codes.DECISION) == ["Referred to a reader"]
    assert values_of(report, codes.REASON) == ["image quality: empty", "uncertain between Glioma and No tumor class"]
    assert b"class predicted" not in encoded(report)


@pytest.mark.parametrize("decision", ["no_tumor", "refer"])
def test_no_tumor_is_never_a_finding(decision: str, model: Model, prediction: Prediction) -> None:
    reasons = (uncertain("no_tumor", "glioma"),) if decision == "refer" else ()
    report = reported(dataclasses.replace(prediction, predicted="no_tumor", decision=decision, reasons=reasons), model)
    assert not any(node.ConceptNameCodeSequence[0].CodeValue == "121071" for node in nodes(report))  # Finding
    content = encoded(report)
    assert content.count(b"No tumor") == content.count(b"No tumor class") > 0


def test_the_report_is_preliminary_unverified_and_for_research(model: Model, prediction: Prediction) -> None:
    report = reported(prediction, model)
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("PARTIAL", "UNVERIFIED", "PRELIMINARY")
    assert values_of(report, codes.COMMENT)[0].startswith("Research use only. Not for diagnostic use.")
    assert "VerifyingObserverSequence" not in report


def test_it_says_which_algorithm_on_what_device(model: Model, prediction: Prediction) -> None:
    report = reported(prediction, model)
    assert values_of(report, codes.ALGORITHM_NAME) == [f"braintumor {model.card.name}"]
    assert values_of(report, codes.ALGORITHM_VERSION) == [model.identity]
    assert values_of(report, codes.ALGORITHM_FAMILY) == ["Artificial Intelligence"]
    assert values_of(report, codes.OBSERVER_TYPE) == ["Device"]
    assert values_of(report, codes.DEVICE_UID) == [report.DeviceUID]
    assert values_of(report, codes.DEVICE_MANUFACTURER) == ["braintumor"]
    assert values_of(report, codes.FINDING_SITE) == ["Brain"]
    assert values_of(report, codes.PROCEDURE) == ["MRI unspecified body region"]
    assert values_of(reported(prediction, model, make.ct()), codes.PROCEDURE) == ["Imaging procedure"]


def test_notes_and_prediction_sets_are_reported(model: Model, prediction: Prediction) -> None:
    both = dataclasses.replace(prediction, prediction_set=("glioma", "no_tumor"))
    report = reported(both, model, notes=("no window in the file",))
    assert values_of(report, codes.COMMENT)[1:] == ["no window in the file"]
    assert values_of(report, codes.IN_PREDICTION_SET) == ["Glioma", "No tumor class"]


def test_it_refers_to_the_image_and_the_class_map(model: Model, prediction: Prediction) -> None:
    for source, frame in ((make.mr(), 1), (make.enhanced(), 3)):
        origin = source_attributes.extract_attributes(source, frame)
        scan = Scan(make.shown(), source="slice", origin=origin)
        _, class_map, report = results(scan, prediction, model)
        pictures = {
            node.ConceptNameCodeSequence[0].CodeMeaning: node.ReferencedSOPSequence[0]
            for node in nodes(report)
            if node.ValueType == "IMAGE"
        }
        assert pictures.keys() == {"Source", "Source of Measurement", "Gradient-weighted class activation"}
        for name in ("Source", "Source of Measurement"):
            assert pictures[name].ReferencedSOPInstanceUID == source.SOPInstanceUID
            assert pictures[name].get("ReferencedFrameNumber") == (3 if frame == 3 else None)
        ours = pictures["Gradient-weighted class activation"]
        assert ours.ReferencedSOPInstanceUID == class_map.SOPInstanceUID
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
        assert evidence.StudyInstanceUID == source.StudyInstanceUID
        listed = [
            (series.SeriesInstanceUID, series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
            for series in evidence.ReferencedSeriesSequence
        ]
        assert listed == [
            (source.SeriesInstanceUID, source.SOPInstanceUID),
            (class_map.SeriesInstanceUID, class_map.SOPInstanceUID),
        ]


def test_without_a_place_it_says_that_there_is_no_class_map(model: Model, prediction: Prediction) -> None:
    report = reported(prediction, model, make.capture())
    assert values_of(report, codes.COMMENT)[-1].startswith("The image does not state its position in the patient")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert len(evidence.ReferencedSeriesSequence) == 1


def test_its_tracking_identifiers_stay_the_same(model: Model, prediction: Prediction) -> None:
    first, again = (group_of(reported(prediction, model)) for _ in range(2))
    assert first.tracking_uid == again.tracking_uid
    assert first.tracking_identifier == f"braintumor {model.identity}, slice 7"
    assert group_of(reported(prediction, model, make.mr(number=8))).tracking_uid != first.tracking_uid


def all_codes() -> list[Code]:
    """Return all codes of `codes`, in whatever table."""
    collected: list[Code] = []
    for value in vars(codes).values():
        collected += [
            code for code in (value.values() if isinstance(value, dict) else [value]) if isinstance(code, Code)
        ]
    return collected


@pytest.mark.parametrize("code", [code for code in all_codes() if code.scheme not in (codes.OWN, "RFC5646")])
def test_codes_of_the_standard_mean_what_pydicom_says(code: Code) -> None:
    meanings = {entry[code.value][0] for entry in concepts[code.scheme].values() if code.value in entry}
    meanings = {meaning.removesuffix(" (attribute)") for meaning in meanings}
    assert code.meaning in meanings


def test_the_report_says_whose_the_own_codes_are(model: Model, prediction: Prediction) -> None:
    (scheme,) = reported(prediction, model).CodingSchemeIdentificationSequence
    assert (scheme.CodingSchemeDesignator, scheme.CodingSchemeResponsibleOrganization) == ("99BTMRI", "braintumor")


def test_our_own_codes_fit_and_differ() -> None:
    own = [code for code in all_codes() if code.scheme == codes.OWN]
    assert len({code.value for code in own}) == len(own)
    assert all(len(code.value) <= 16 and len(code.meaning) <= 64 for code in all_codes())
    assert set(codes.CLASSES_OF) == set(CLASSES)
    assert set(codes.DECISIONS) == {*CLASSES, "refer"}


@pytest.mark.pacs
@pytest.mark.parametrize("decision", ["glioma", "refer"])
def test_dsrdump_reads_the_report(decision: str, model: Model, prediction: Prediction, tmp_path: Path) -> None:
    program = shutil.which("dsrdump")
    if program is None:
        pytest.skip("dsrdump is not installed; it comes with Debian's dcmtk")
    reasons = (OUT_OF_DISTRIBUTION,) if decision == "refer" else ()
    report = reported(dataclasses.replace(prediction, decision=decision, reasons=reasons), model, make.enhanced(), 2)
    (tmp_path / "report.dcm").write_bytes(encoded(report))
    done = subprocess.run([program, "+Pl", tmp_path / "report.dcm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if not line.startswith("W: The VR checker")] == []
    assert codes.DECISIONS[decision].meaning in done.stdout
    assert '"Probability")="0.812500" (1,UCUM,"no units")' in done.stdout
    assert "PRELIMINARY" in done.stdout
    assert "UNVERIFIED" in done.stdout
    assert (OUT_OF_DISTRIBUTION.text() in done.stdout) == (decision == "refer")
