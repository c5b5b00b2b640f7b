"""Build what all results about a slice share: patient, study, equipment, references to the image, and UIDs."""

import hashlib
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)

from braintumor import __version__
from braintumor.classes import TITLES
from braintumor.dicom.codes import CLASSES_OF, MANUFACTURER, PROCESSING_EQUIPMENT, RESEARCH_ONLY
from braintumor.dicom.coding import dataset
from braintumor.dicom.source_attributes import EMPTY_IF_UNKNOWN
from braintumor.io.scan import Scan
from braintumor.models.session import ONNX_FILES, Model, read_model_file
from braintumor.predictor import Prediction

UTF8: Final = "ISO_IR 192"
NO_DATE: Final = ("19000101", "000000")  # Content Date must have a value; nobody takes this one for real
LARGEST_NUMBER: Final = 2**31 - 1  # of an IS (PS3.5 6.2)
KEPT: Final = ("IssuerOfPatientID", "PatientAge", "StudyDescription", "SeriesDate", "SeriesTime")
"""Copied from the source where it has them; the date makes archives sort a result's series beside that of the image."""


class ResultKind(NamedTuple):
    """Kind of result: its name in descriptions, SOP class, modality, and the last two digits of its series number."""

    title: str
    sop_class: UID
    modality: str
    digits: int


OVERLAY: Final = ResultKind("overlay", SecondaryCaptureImageStorage, "OT", 91)
CLASS_MAP: Final = ResultKind("class map", ParametricMapStorage, "OT", 92)
REPORT: Final = ResultKind("report", Comprehensive3DSRStorage, "SR", 93)


@dataclass(frozen=True, eq=False)
class ResultContext:
    """A slice that came from DICOM, and a model's prediction for it.

    Attributes:
        source: the attributes that results repeat of the image, from `source_attributes.restore_attributes`.
        scan: the slice as the model saw it.
        prediction: the model's answer.
        model: the model that gave it.
    """

    source: Dataset
    scan: Scan
    prediction: Prediction
    model: Model

    @property
    def frame(self) -> int:
        """Return the number of the slice's frame in the image, from 1."""
        return int(self.source.ReferencedFrameNumber)

    @property
    def has_frames(self) -> bool:
        """Tell whether the image has more than one frame."""
        return int(self.source.NumberOfFrames) > 1

    @property
    def number(self) -> int:
        """Return the Instance Number of the results: the frame number, or that of a single-frame image."""
        return self.frame if self.has_frames else int(self.source.get("InstanceNumber") or 1)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the reasons for referral in words; "No tumor" becomes "No tumor class", lest it read as a finding."""
        titles = TITLES | {"no_tumor": CLASSES_OF["no_tumor"].meaning}
        return tuple(reason.text(titles) for reason in self.prediction.reasons)

    def uid(self, role: str) -> str:
        """Return the UID of an object about this slice; the same for the same image, model and settings.

        A copy of the image in another study or series, perhaps of another patient by mistake, has its own results.
        """
        source = self.source
        image = (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID, self.frame)
        return _uid_of(role, *map(str, image), *_provenance(self.model))

    def series_uid(self, kind: ResultKind) -> str:
        """Return the UID of the series that holds all results of one kind about the image's series."""
        series = (self.source.StudyInstanceUID, self.source.SeriesInstanceUID)
        return _uid_of("series", kind.title, *map(str, series), *_provenance(self.model))

    def device_uid(self) -> str:
        """Return the UID of the model with this version of the package."""
        return _uid_of("device", *_provenance(self.model)[:3])  # without the policy: it is a setting of the device


def _provenance(model: Model) -> tuple[str, ...]:
    """Return all that determines the results about an image: package version, model, its files, operating point."""
    return __version__, model.identity, fingerprint(model), repr(model.policy)


def provenance_hash(model: Model) -> str:
    """Return a hash of all that determines the results about an image: equal hashes mean equal results."""
    return hashlib.sha256("\0".join(_provenance(model)).encode()).hexdigest()[:32]


def _uid_of(*parts: str) -> str:
    """Return a UID made from the SHA-256 of the parts, in the arc of UUIDs, 2.25 (PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    # A version has to be stated, or it is no valid UUID; 5 is that of UUIDs made from names by a hash.
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


IMPLEMENTATION: Final = UID(_uid_of("implementation", MANUFACTURER))


@lru_cache(maxsize=8)  # by identity of the model: its weights are hashed once, not for every slice
def fingerprint(model: Model) -> str:
    """Return the SHA-256 of a model's network and card in hexadecimal.

    Raises:
        ModelError: its ONNX file is no longer there.
    """
    network = read_model_file(model.folder / ONNX_FILES[model.precision])
    return hashlib.sha256(network + model.card.to_json().encode()).hexdigest()


def new_result_dataset(context: ResultContext, kind: ResultKind) -> Dataset:
    """Return a result with the modules that all have: patient, study, series, equipment, SOP common, file meta data.

    Its date is that of the image, not today's: the same image and model give the same bytes, so that the results of a
    study that is read again later replace nothing and add nothing.
    """
    source = context.source
    result = Dataset()
    result.SpecificCharacterSet = UTF8
    for keyword in (*EMPTY_IF_UNKNOWN, *KEPT, "StudyInstanceUID"):
        if keyword in source:
            result.add(source[keyword])
    result.Modality, result.SeriesInstanceUID = kind.modality, context.series_uid(kind)
    result.SeriesNumber, result.InstanceNumber = series_number(source.get("SeriesNumber"), kind), context.number
    result.SeriesDescription = f"{MANUFACTURER} {kind.title}, research use only"
    result.SOPClassUID, result.SOPInstanceUID = kind.sop_class, context.uid(kind.title)
    result.ContentDate, result.ContentTime = _date_and_time(source)
    result.update(_equipment(context))
    result.ContributingEquipmentSequence = [_contribution(context)]
    result.file_meta = _file_meta(result)
    return result


def series_number(number: Any, kind: ResultKind) -> int:
    """Return the source's series number with two more digits, so that results sort behind it."""
    extended = 100 * int(number or 0) + kind.digits
    # A negative or very large number cannot be extended; 99 is then as good as any.
    return extended if 0 < extended <= LARGEST_NUMBER else 9900 + kind.digits


def _date_and_time(source: Dataset) -> tuple[str, str]:
    """Return date and time of the image, from the most exact event that it dates."""
    for event in ("Content", "Acquisition", "Series", "Study"):
        if day := source.get(f"{event}Date"):
            return str(day), str(source.get(f"{event}Time") or NO_DATE[1])
    return NO_DATE


def _equipment(context: ResultContext) -> Dataset:
    """Return the equipment that made the result (PS3.3 C.7.5.2)."""
    return dataset(
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=short(context.model.card.name),
        DeviceSerialNumber=fingerprint(context.model)[:32],
        SoftwareVersions=[__version__, short(context.model.identity)],
        DeviceUID=context.device_uid(),
    )


def _contribution(context: ResultContext) -> Dataset:
    """Return the description of the algorithm that IHE AI Results requires, an item of contributing equipment."""
    contribution = _equipment(context)
    contribution.ContributionDescription = f"Algorithm that classifies brain MRI slices. {RESEARCH_ONLY}"
    contribution.PurposeOfReferenceCodeSequence = [PROCESSING_EQUIPMENT.item()]
    return contribution


def short(text: str, longest: int = 64) -> str:
    """Return text as DICOM's LO allows it: without backslashes and control characters, and cut to a length."""
    printable = "".join(character for character in text.replace("\\", "/") if character.isprintable())
    return printable[:longest].strip() or "unnamed"


def _file_meta(result: Dataset) -> FileMetaDataset:
    """Return the file meta information of a result (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = result.SOPClassUID, result.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, IMPLEMENTATION
    meta.ImplementationVersionName = f"BTMRI {__version__}"[:16]
    return meta


def reference(context: ResultContext, *, whole: bool = False) -> Dataset:
    """Return a reference to the frame; to the image if `whole`, or if it has one frame only (PS3.3 10.3)."""
    image = reference_to(context.source)
    if context.has_frames and not whole:
        image.ReferencedFrameNumber = context.frame
    return image


def reference_to(instance: Dataset) -> Dataset:
    """Return a reference to a whole object (PS3.3 10.8)."""
    return dataset(ReferencedSOPClassUID=instance.SOPClassUID, ReferencedSOPInstanceUID=instance.SOPInstanceUID)
