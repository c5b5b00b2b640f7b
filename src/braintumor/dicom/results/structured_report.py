"""What a model says about a slice as a structured report: template 1500, after IHE AI Results."""

import math
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

from braintumor.classes import CLASSES
from braintumor.dicom import codes
from braintumor.dicom.coding import Code, dataset
from braintumor.dicom.results.base import (
    REPORT,
    ResultContext,
    fingerprint,
    new_result_dataset,
    reference,
    reference_to,
)

NO_MAP = "The image does not say where it lies in the patient: the class map is in the overlay only."


def structured_report(case: ResultContext, class_map: Dataset | None) -> Dataset:
    """Return the Comprehensive 3D SR of a slice (PS3.3 A.35.13, PS3.16 TID 1500), preliminary and unverified.

    It holds the decision (a class, or "Referred to a reader" with the reasons), the probability of each class, how
    unlike the images of training the slice is, and what had to be assumed in reading it. No class is called a
    finding: for want of a tumor class it says "No tumor class predicted on this slice".

    Args:
        case: slice, prediction and model.
        class_map: the result with the class map, to refer to; None where there is none.
    """
    made = new_result_dataset(case, REPORT)
    made.ReferencedPerformedProcedureStepSequence = []
    made.PerformedProcedureCodeSequence = []
    made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "PARTIAL", "UNVERIFIED", "PRELIMINARY"
    made.CompletionFlagDescription = "One slice, judged by software alone"
    made.CurrentRequestedProcedureEvidenceSequence = [_evidence(case, class_map)]
    made.CodingSchemeIdentificationSequence = [
        dataset(
            CodingSchemeDesignator=codes.OWN,
            CodingSchemeName=codes.OWN_NAME,
            CodingSchemeResponsibleOrganization=codes.MANUFACTURER,
        )
    ]
    made.update(
        dataset(
            ValueType="CONTAINER",
            ConceptNameCodeSequence=[codes.REPORT.item()],
            ContinuityOfContent="SEPARATE",
            ContentTemplateSequence=[_template("1500")],
            ContentSequence=[
                _coded("HAS CONCEPT MOD", codes.LANGUAGE, codes.ENGLISH),
                *_observer(case),
                _coded("HAS CONCEPT MOD", codes.PROCEDURE, _procedure(case)),
                _container(codes.IMAGE_LIBRARY, [_container(codes.IMAGE_GROUP, [_library_entry(case)])]),
                _container(codes.MEASUREMENTS, [_group(case, class_map)]),
            ],
        )
    )
    return made


def _evidence(case: ResultContext, class_map: Dataset | None) -> Dataset:
    """Return which objects of the study the report refers to (PS3.3 C.17.2.3)."""
    series = [_series_of(str(case.source.SeriesInstanceUID), reference(case, whole=True))]
    if class_map is not None:
        series.append(_series_of(str(class_map.SeriesInstanceUID), reference_to(class_map)))
    return dataset(StudyInstanceUID=case.source.StudyInstanceUID, ReferencedSeriesSequence=series)


def _series_of(uid: str, instance: Dataset) -> Dataset:
    return dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=[instance])


def _template(identifier: str) -> Dataset:
    """Return the template of PS3.16 that a container follows."""
    return dataset(MappingResource="DCMR", TemplateIdentifier=identifier)


def _observer(case: ResultContext) -> list[Dataset]:
    """Return who observed: the software (TID 1001, 1004)."""
    context = "HAS OBS CONTEXT"
    return [
        _coded(context, codes.OBSERVER_TYPE, codes.DEVICE),
        _uid_of_item(context, codes.DEVICE_UID, case.device_uid()),
        _text(context, codes.DEVICE_NAME, codes.MANUFACTURER),
        _text(context, codes.DEVICE_MANUFACTURER, codes.MANUFACTURER),
        _text(context, codes.DEVICE_MODEL, case.model.card.name),
        _text(context, codes.DEVICE_SERIAL, fingerprint(case.model)[:32]),
    ]


def _procedure(case: ResultContext) -> Code:
    """Return what was imaged, in the most general words of context group 100: the file names no verified code."""
    return codes.MRI if case.source.get("Modality") == "MR" else codes.IMAGING


def _library_entry(case: ResultContext) -> Dataset:
    """Return the entry of the image in the image library (TID 1601)."""
    entry = _image("CONTAINS", codes.SOURCE, reference(case))
    if modality := codes.MODALITIES.get(case.source.get("Modality", "")):
        entry.ContentSequence = [_coded("HAS ACQ CONTEXT", codes.MODALITY, modality)]
    return entry


def _group(case: ResultContext, class_map: Dataset | None) -> Dataset:
    """Return all that is said about the slice (TID 1501)."""
    model, prediction = case.model, case.prediction
    said = [
        _text("HAS OBS CONTEXT", codes.TRACKING, f"{codes.MANUFACTURER} {prediction.model}, slice {case.number}"),
        _uid_of_item("HAS OBS CONTEXT", codes.TRACKING_UID, case.uid("tracking")),
        _coded("HAS CONCEPT MOD", codes.FINDING_SITE, codes.BRAIN),
        _text("HAS CONCEPT MOD", codes.ALGORITHM_NAME, f"{codes.MANUFACTURER} {model.card.name}"),
        _text("HAS CONCEPT MOD", codes.ALGORITHM_VERSION, prediction.model),
        _coded("HAS CONCEPT MOD", codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
        _text("CONTAINS", codes.COMMENT, codes.RESEARCH_ONLY),
        _coded("CONTAINS", codes.DECISION, codes.DECISIONS[prediction.decision]),
        *(_text("CONTAINS", codes.REASON, reason) for reason in case.reasons),
        *(_coded("CONTAINS", codes.IN_PREDICTION_SET, codes.CLASSES_OF[name]) for name in prediction.prediction_set),
        *_measurements(case),
        *(_text("CONTAINS", codes.COMMENT, note) for note in case.scan.notes),
        _image("CONTAINS", codes.SOURCE_OF_MEASUREMENT, reference(case)),
    ]
    if class_map is None:
        said.append(_text("CONTAINS", codes.COMMENT, NO_MAP))
    else:
        said.append(_image("CONTAINS", codes.CLASS_ACTIVATION, reference_to(class_map)))
    made = _container(codes.GROUP, said)
    made.ContentTemplateSequence = [_template("1501")]
    return made


def _measurements(case: ResultContext) -> Iterator[Dataset]:
    """Yield the probability of each class, and how unlike the training images the slice is."""
    for name, share in zip(CLASSES, case.prediction.probabilities.tolist(), strict=True):
        made = _measured(codes.PROBABILITY, f"{share:.6f}")
        made.ContentSequence = [_coded("HAS CONCEPT MOD", codes.CLASS, codes.CLASSES_OF[name])]
        yield made
    if math.isfinite(case.prediction.ood_score):
        yield _measured(codes.OOD_SCORE, f"{case.prediction.ood_score:.4g}")


def _content_item(relationship: str, kind: str, name: Code, **values: Any) -> Dataset:
    """Return a node of the report (PS3.3 C.17.3)."""
    concept = [name.item()]
    return dataset(RelationshipType=relationship, ValueType=kind, ConceptNameCodeSequence=concept, **values)


def _container(name: Code, items: list[Dataset]) -> Dataset:
    return _content_item("CONTAINS", "CONTAINER", name, ContinuityOfContent="SEPARATE", ContentSequence=items)


def _coded(relationship: str, name: Code, value: Code) -> Dataset:
    return _content_item(relationship, "CODE", name, ConceptCodeSequence=[value.item()])


def _text(relationship: str, name: Code, value: str) -> Dataset:
    return _content_item(relationship, "TEXT", name, TextValue=value)


def _uid_of_item(relationship: str, name: Code, value: str) -> Dataset:
    return _content_item(relationship, "UIDREF", name, UID=value)


def _image(relationship: str, name: Code, referenced: Dataset) -> Dataset:
    return _content_item(relationship, "IMAGE", name, ReferencedSOPSequence=[referenced])


def _measured(name: Code, value: str) -> Dataset:
    """Return a node whose value is a number without unit, of at most 16 characters."""
    number = dataset(NumericValue=value, MeasurementUnitsCodeSequence=[codes.NO_UNITS.item()])
    return _content_item("CONTAINS", "NUM", name, MeasuredValueSequence=[number])
