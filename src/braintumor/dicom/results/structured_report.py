"""Make the structured report of a prediction: PS3.16 TID 1500, following IHE AI Results."""

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

NO_MAP = "The image does not state its position in the patient: the class map is in the overlay only."


def structured_report(context: ResultContext, class_map: Dataset | None) -> Dataset:
    """Return the Comprehensive 3D SR of a slice (PS3.3 A.35.13, PS3.16 TID 1500), preliminary and unverified.

    It holds the decision (a class, or "Referred to a reader" with the reasons), the probability of each class, the OOD
    score, and what had to be assumed in reading the slice. No class is called a finding: without a tumor class it says
    "No tumor class predicted on this slice".

    Args:
        context: slice, prediction and model.
        class_map: the class map to refer to, None where there is none.
    """
    report = new_result_dataset(context, REPORT)
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    # PARTIAL: it covers one slice. VERIFIED would need a person who verified it (PS3.3 C.17.2).
    report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag = "PARTIAL", "UNVERIFIED", "PRELIMINARY"
    report.CompletionFlagDescription = "One slice, assessed by software only"
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(context, class_map)]
    report.CodingSchemeIdentificationSequence = [
        dataset(
            CodingSchemeDesignator=codes.OWN,
            CodingSchemeName=codes.OWN_NAME,
            CodingSchemeResponsibleOrganization=codes.MANUFACTURER,
        )
    ]
    report.update(
        dataset(
            ValueType="CONTAINER",
            ConceptNameCodeSequence=[codes.REPORT.item()],
            ContinuityOfContent="SEPARATE",
            ContentTemplateSequence=[_template("1500")],
            ContentSequence=[
                _coded("HAS CONCEPT MOD", codes.LANGUAGE, codes.ENGLISH),
                *_observer(context),
                _coded("HAS CONCEPT MOD", codes.PROCEDURE, _procedure(context)),
                _container(codes.IMAGE_LIBRARY, [_container(codes.IMAGE_GROUP, [_library_entry(context)])]),
                _container(codes.MEASUREMENTS, [_group(context, class_map)]),
            ],
        )
    )
    return report


def _evidence(context: ResultContext, class_map: Dataset | None) -> Dataset:
    """Return the objects of the study that the report refers to (PS3.3 C.17.2.3)."""
    series = [_series_of(str(context.source.SeriesInstanceUID), reference(context, whole=True))]
    if class_map is not None:
        series.append(_series_of(str(class_map.SeriesInstanceUID), reference_to(class_map)))
    return dataset(StudyInstanceUID=context.source.StudyInstanceUID, ReferencedSeriesSequence=series)


def _series_of(uid: str, instance: Dataset) -> Dataset:
    return dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=[instance])


def _template(identifier: str) -> Dataset:
    """Return the reference to a template of PS3.16 that a container follows."""
    return dataset(MappingResource="DCMR", TemplateIdentifier=identifier)


def _observer(context: ResultContext) -> list[Dataset]:
    """Return the observer, which is the software (TID 1001, 1004)."""
    relationship = "HAS OBS CONTEXT"
    return [
        _coded(relationship, codes.OBSERVER_TYPE, codes.DEVICE),
        _uid_of_item(relationship, codes.DEVICE_UID, context.device_uid()),
        _text(relationship, codes.DEVICE_NAME, codes.MANUFACTURER),
        _text(relationship, codes.DEVICE_MANUFACTURER, codes.MANUFACTURER),
        _text(relationship, codes.DEVICE_MODEL, context.model.card.name),
        _text(relationship, codes.DEVICE_SERIAL, fingerprint(context.model)[:32]),
    ]


def _procedure(context: ResultContext) -> Code:
    """Return the procedure by a most general code of context group 100, since the file has no verified one."""
    return codes.MRI if context.source.get("Modality") == "MR" else codes.IMAGING


def _library_entry(context: ResultContext) -> Dataset:
    """Return the entry of the image in the image library (TID 1601)."""
    entry = _image("CONTAINS", codes.SOURCE, reference(context))
    if modality := codes.MODALITIES.get(context.source.get("Modality", "")):
        entry.ContentSequence = [_coded("HAS ACQ CONTEXT", codes.MODALITY, modality)]
    return entry


def _group(context: ResultContext, class_map: Dataset | None) -> Dataset:
    """Return the measurement group with all statements about the slice (TID 1501)."""
    model, prediction = context.model, context.prediction
    items = [
        _text("HAS OBS CONTEXT", codes.TRACKING, f"{codes.MANUFACTURER} {prediction.model}, slice {context.number}"),
        _uid_of_item("HAS OBS CONTEXT", codes.TRACKING_UID, context.uid("tracking")),
        _coded("HAS CONCEPT MOD", codes.FINDING_SITE, codes.BRAIN),
        _text("HAS CONCEPT MOD", codes.ALGORITHM_NAME, f"{codes.MANUFACTURER} {model.card.name}"),
        _text("HAS CONCEPT MOD", codes.ALGORITHM_VERSION, prediction.model),
        _coded("HAS CONCEPT MOD", codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
        _text("CONTAINS", codes.COMMENT, codes.RESEARCH_ONLY),
        _coded("CONTAINS", codes.DECISION, codes.DECISIONS[prediction.decision]),
        *(_text("CONTAINS", codes.REASON, reason) for reason in context.reasons),
        *(_coded("CONTAINS", codes.IN_PREDICTION_SET, codes.CLASSES_OF[name]) for name in prediction.prediction_set),
        *_measurements(context),
        *(_text("CONTAINS", codes.COMMENT, note) for note in context.scan.notes),
        _image("CONTAINS", codes.SOURCE_OF_MEASUREMENT, reference(context)),
    ]
    if class_map is None:
        items.append(_text("CONTAINS", codes.COMMENT, NO_MAP))
    else:
        items.append(_image("CONTAINS", codes.CLASS_ACTIVATION, reference_to(class_map)))
    group = _container(codes.GROUP, items)
    group.ContentTemplateSequence = [_template("1501")]
    return group


def _measurements(context: ResultContext) -> Iterator[Dataset]:
    """Yield the probability of each class, and the OOD score if it is a number."""
    for name, probability in zip(CLASSES, context.prediction.probabilities.tolist(), strict=True):
        measurement = _measured(codes.PROBABILITY, f"{probability:.6f}")
        measurement.ContentSequence = [_coded("HAS CONCEPT MOD", codes.CLASS, codes.CLASSES_OF[name])]
        yield measurement
    # A numeric value is a DS, which holds neither infinity nor NaN.
    if math.isfinite(context.prediction.ood_score):
        yield _measured(codes.OOD_SCORE, f"{context.prediction.ood_score:.4g}")


def _content_item(relationship: str, kind: str, name: Code, **values: Any) -> Dataset:
    """Return a content item of the report (PS3.3 C.17.3)."""
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
    """Return a content item with a number without unit; `value` has at most 16 characters, as a DS."""
    number = dataset(NumericValue=value, MeasurementUnitsCodeSequence=[codes.NO_UNITS.item()])
    return _content_item("CONTAINS", "NUM", name, MeasuredValueSequence=[number])
