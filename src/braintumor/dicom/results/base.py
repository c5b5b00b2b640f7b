"""What all results about one slice share: whose they are, from which image and equipment, and their UIDs."""

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
NO_DATE: Final = ("19000101", "000000")
LARGEST_NUMBER: Final = 2**31 - 1
KEPT: Final = ("IssuerOfPatientID", "PatientAge", "StudyDescription", "SeriesDate", "SeriesTime")
"""Of the source, where it has them; the date, so that archives sort a result's series beside that of the image."""


class ResultKind(NamedTuple):
    """One kind of result: what it is called in descriptions, its object, and the last two digits of its series."""

    title: str
    sop_class: UID
    modality: str
    digits: int


OVERLAY: Final = ResultKind("overlay", SecondaryCaptureImageStorage, "OT", 91)
CLASS_MAP: Final = ResultKind("class map", ParametricMapStorage, "OT", 92)
REPORT: Final = ResultKind("report", Comprehensive3DSRStorage, "SR", 93)


@dataclass(frozen=True, eq=False)
class ResultContext:
    """A slice that came from DICOM, and what a model says about it.

    Attributes:
        source: what results repeat of the image, as `source_attributes.restore_attributes` gives it.
    """

    source: Dataset
    scan: Scan
    prediction: Prediction
    model: Model

    @property
    def frame(self) -> int:
        """Return which frame of the image it is, from 1."""
        return int(self.source.ReferencedFrameNumber)

    @property
    def has_frames(self) -> bool:
        """Tell whether the image has further frames."""
        return int(self.source.NumberOfFrames) > 1

    @property
    def number(self) -> int:
        """Return the Instance Number of the results: the frame, or that of an image with a single frame."""
        return self.frame if self.has_frames else int(self.source.get("InstanceNumber") or 1)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why the slice is referred; a class is called a class, so that none reads as a finding."""
        titles = TITLES | {"no_tumor": CLASSES_OF["no_tumor"].meaning}
        return tuple(reason.text(titles) for reason in self.prediction.reasons)

    def uid(self, role: str) -> str:
        """Return the UID of something that belongs to this slice; the same for the same image, model and settings.

        A copy of the image in another study or series, be it of another patient by mistake, has results of its own.
        """
        source = self.source
        image = (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID, self.frame)
        return _uid_of(role, *map(str, image), *_authorship(self.model))

    def series_uid(self, kind: ResultKind) -> str:
        """Return the UID of the series in which results of one kind about the image's series are."""
        series = (self.source.StudyInstanceUID, self.source.SeriesInstanceUID)
        return _uid_of("series", kind.title, *map(str, series), *_authorship(self.model))

    def device_uid(self) -> str:
        """Return the UID of the model with this version of the package."""
        return _uid_of("device", *_authorship(self.model)[:3])


def _authorship(model: Model) -> tuple[str, ...]:
    """Return all that decides what is said about an image: package, model and operating point."""
    return __version__, model.identity, fingerprint(model), repr(model.policy)


def provenance_hash(model: Model) -> str:
    """Return a hash of all that decides what is said about an image: who has the same one makes the same results."""
    return hashlib.sha256("\0".join(_authorship(model)).encode()).hexdigest()[:32]


def _uid_of(*parts: str) -> str:
    """Return the UID that a SHA-256 of the parts makes, in the arc of UUIDs, 2.25 (PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


IMPLEMENTATION: Final = UID(_uid_of("implementation", MANUFACTURER))


@lru_cache(maxsize=8)
def fingerprint(model: Model) -> str:
    """Return the SHA-256 of a model's network and card in hexadecimal.

    Raises:
        ModelError: its file is no longer there.
    """
    network = read_model_file(model.folder / ONNX_FILES[model.precision])
    return hashlib.sha256(network + model.card.to_json().encode()).hexdigest()


def new_result_dataset(case: ResultContext, kind: ResultKind) -> Dataset:
    """Return a result with the modules that all have: patient, study, series, equipment, SOP common, file meta data.

    Its date is that of the image, not of today: the same image and model give the same bytes, and the results of a
    study that is read again later replace nothing and add nothing.
    """
    source = case.source
    made = Dataset()
    made.SpecificCharacterSet = UTF8
    for keyword in (*EMPTY_IF_UNKNOWN, *KEPT, "StudyInstanceUID"):
        if keyword in source:
            made.add(source[keyword])
    made.Modality, made.SeriesInstanceUID = kind.modality, case.series_uid(kind)
    made.SeriesNumber, made.InstanceNumber = series_number(source.get("SeriesNumber"), kind), case.number
    made.SeriesDescription = f"{MANUFACTURER} {kind.title}, research use only"
    made.SOPClassUID, made.SOPInstanceUID = kind.sop_class, case.uid(kind.title)
    made.ContentDate, made.ContentTime = _moment(source)
    made.update(_equipment(case))
    made.ContributingEquipmentSequence = [_contribution(case)]
    made.file_meta = _file_meta(made)
    return made


def series_number(number: Any, kind: ResultKind) -> int:
    """Return the source's series number with two more digits, so that results sort behind it."""
    numbered = 100 * int(number or 0) + kind.digits
    return numbered if 0 < numbered <= LARGEST_NUMBER else 9900 + kind.digits


def _moment(source: Dataset) -> tuple[str, str]:
    """Return date and time of the image, as exactly as it says."""
    for event in ("Content", "Acquisition", "Series", "Study"):
        if day := source.get(f"{event}Date"):
            return str(day), str(source.get(f"{event}Time") or NO_DATE[1])
    return NO_DATE


def _equipment(case: ResultContext) -> Dataset:
    """Return who made the result (PS3.3 C.7.5.2)."""
    return dataset(
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=short(case.model.card.name),
        DeviceSerialNumber=fingerprint(case.model)[:32],
        SoftwareVersions=[__version__, short(case.model.identity)],
        DeviceUID=case.device_uid(),
    )


def _contribution(case: ResultContext) -> Dataset:
    """Return the description of the algorithm that IHE AI Results asks for, an item of contributing equipment."""
    made = _equipment(case)
    made.ContributionDescription = f"Algorithm that classifies brain MRI slices. {RESEARCH_ONLY}"
    made.PurposeOfReferenceCodeSequence = [PROCESSING_EQUIPMENT.item()]
    return made


def short(text: str, longest: int = 64) -> str:
    """Return text as DICOM's long strings hold it: no backslash, no control characters, not too long."""
    return "".join(each for each in text.replace("\\", "/") if each.isprintable())[:longest].strip() or "unnamed"


def _file_meta(made: Dataset) -> FileMetaDataset:
    """Return the file meta data of a result (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, IMPLEMENTATION
    meta.ImplementationVersionName = f"BTMRI {__version__}"[:16]
    return meta


def reference(case: ResultContext, *, whole: bool = False) -> Dataset:
    """Return a reference to the frame, to the image if that is `whole` or has one frame only (PS3.3 10.3)."""
    made = reference_to(case.source)
    if case.has_frames and not whole:
        made.ReferencedFrameNumber = case.frame
    return made


def reference_to(made: Dataset) -> Dataset:
    """Return a reference to a whole object (PS3.3 10.8)."""
    return dataset(ReferencedSOPClassUID=made.SOPClassUID, ReferencedSOPInstanceUID=made.SOPInstanceUID)
