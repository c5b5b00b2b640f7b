"""What results must repeat of the image they belong to: patient, study, place in space; nothing else is kept."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from typing import Any, Final

from pydicom.charset import CODES_TO_ENCODINGS, decode_bytes, default_encoding, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName, format_number_as_ds

from braintumor.dicom.attributes import functional_groups, items
from braintumor.errors import ImageError

NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""Without these no result can refer to the image."""

EMPTY_IF_UNKNOWN: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
"""Type 2 in every result: present, though perhaps without a value (PS3.3 C.7.1.1, C.7.2.1)."""

OPTIONAL: Final = (
    *("IssuerOfPatientID", "PatientAge", "StudyDescription", "Modality"),
    *("SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime"),
    *("InstanceNumber", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "NumberOfFrames"),
    *("Rows", "Columns", "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientOrientation"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)

GEOMETRY: Final = {
    "ImagePositionPatient": ("PlanePositionSequence", 3),
    "ImageOrientationPatient": ("PlaneOrientationSequence", 6),
    "PixelSpacing": ("PixelMeasuresSequence", 2),
    "SliceThickness": ("PixelMeasuresSequence", 1),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", 1),
}
"""In which functional group a multi-frame image keeps each (PS3.3 C.7.6.16.2), and how many numbers it is."""

LARGEST_LENGTH: Final = 1e6  # mm; a position beyond a kilometre is damage
NOT_ORTHOGONAL: Final = 1e-3  # how far the directions of rows and columns may be from unit length and a right angle
REPLACED: Final = "\ufffd"
"""What stands for bytes that are no text in any of the file's character sets."""
MOST_VALUES: Final = {
    "PatientOrientation": 2,
    "LossyImageCompressionRatio": 8,
    "LossyImageCompressionMethod": 8,
    **{keyword: count for keyword, (_, count) in GEOMETRY.items()},
}
LONGEST_RAW: Final = 1024  # bytes, of all values of an attribute
TEXT: Final = ("LO", "PN", "SH")
UID: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
HOUR: Final = re.compile(r"(\d\d)(?:(\d\d)(?:(\d\d)(?:\.\d{1,6})?)?)?", re.ASCII)
WHOLE: Final = re.compile(r"[+-]?\d{1,11}", re.ASCII)
DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def extract_attributes(dataset: Dataset, frame: int, name: str = "bytes") -> dict[str, Any]:
    """Return what results repeat of one frame of an image, as DICOM JSON (PS3.18 F); see `restore_attributes`.

    Only attributes listed in this module are taken, each as its value representation of PS3.6, never as the file's,
    and only if it is valid and no longer than PS3.5 6.2 allows: an invalid one is left out, or empty where results
    must have it. Text becomes UTF-8. Geometry comes from the frame's functional groups where there are any, as whole
    (position, orientation, pixel spacing) or not at all. `ReferencedFrameNumber` is the frame, `NumberOfFrames` at
    least 1.

    Args:
        dataset: an image as pydicom reads it; it is not changed.
        frame: from 1.
        name: what to call the image in an error.

    Raises:
        ImageError: a UID is missing or invalid, so that no result can refer to the image; or the Patient ID cannot be
            repeated as it is, so that an archive could file results under another patient.
        DicomRefusalError: the functional groups are damaged.
    """
    kept = Dataset()
    encodings = _encodings_of(dataset)
    for keyword in (*NEEDED, *EMPTY_IF_UNKNOWN, *OPTIONAL):
        values = _valid_values(dataset, keyword, encodings)
        if values:
            setattr(kept, keyword, values if len(values) > 1 else values[0])
        elif keyword in NEEDED or (keyword == "PatientID" and _is_filled(dataset, keyword)):
            raise ImageError(name, f"{keyword} is missing or invalid; send the image again from the archive")
        elif keyword in EMPTY_IF_UNKNOWN:
            setattr(kept, keyword, None)
    kept.NumberOfFrames = max(1, int(kept.get("NumberOfFrames") or 1))
    kept.ReferencedFrameNumber = frame
    for keyword, numbers in _geometry(dataset, frame).items():
        setattr(kept, keyword, list(numbers) if len(numbers) > 1 else numbers[0])
    return kept.to_json_dict()


def restore_attributes(origin: Mapping[str, Any]) -> Dataset:
    """Return the attributes that `extract_attributes` kept as a dataset.

    Raises:
        ValueError: others, or invalid ones: they come from a process that its file may have taken over.
    """
    dataset = Dataset.from_json(dict(origin))
    if extract_attributes(dataset, int(dataset.ReferencedFrameNumber)) != origin:
        raise ValueError("expected attributes as they are taken from an image")
    return dataset


def _is_filled(dataset: Dataset, keyword: str) -> bool:
    """Tell whether an attribute has a value, be it valid or not."""
    value = dataset.get_item(keyword).value if keyword in dataset else None
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _encodings_of(dataset: Dataset) -> list[str]:
    """Return Python's names of the character sets of a dataset's text, unknown ones left out; the first is the usual.

    Source: PS3.3 C.12.1.1.2.
    """
    named = dataset.original_character_set
    names = [named] if isinstance(named, str) else list(named)
    known = [python_encoding.get(str(each).strip(), str(each).strip()) for each in names]
    return [each for each in known if each in python_encoding.values()] or [default_encoding]


def _valid_values(dataset: Dataset, keyword: str, encodings: Sequence[str]) -> list[Any]:
    """Return an attribute's values, all of them valid, or none."""
    vr = dictionary_VR(keyword)
    texts = _texts_of(dataset, keyword, vr, encodings)
    if len(texts) > MOST_VALUES.get(keyword, 1) or (keyword == "PatientOrientation" and len(texts) == 1):
        return []
    check = ENUMERATED.get(keyword, VALID[vr])
    if keyword == "PatientID" and any(REPLACED in text for text in texts):
        return []
    values = [check(text) for text in texts]
    return [] if None in values else values


def _texts_of(dataset: Dataset, keyword: str, vr: str, encodings: Sequence[str]) -> list[str]:
    """Return an attribute's values as text without padding; none if it is absent, empty or of a very odd kind.

    pydicom's own conversion warns of invalid values with their text, which may be a patient's name.
    """
    element = dataset.get_item(keyword) if keyword in dataset else None
    if element is None or element.value is None or element.VR == "SQ":
        return []
    value = element.value
    if isinstance(element, RawDataElement):
        if len(value) > LONGEST_RAW:
            return []
        if vr == "US":
            order = "little" if element.is_little_endian else "big"
            return [str(int.from_bytes(value, order))] if len(value) == 2 else []
        value = _decoded(value, encodings if vr in TEXT else [default_encoding]).split("\\")
    several = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    texts = [str(each).strip(" \0") for each in several]
    return texts if any(texts) else []


def _decoded(content: bytes, encodings: Sequence[str]) -> str:
    """Return text in the first character set that fits it, escapes to others included (PS3.5 6.1.2.5)."""
    if b"\x1b" in content and all(_known_escape(part, encodings) for part in content.split(b"\x1b")[1:]):
        return decode_bytes(content, list(encodings), set(b"\\^="))
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeError:
            continue
    return content.decode(encodings[0], errors="replace")


def _known_escape(part: bytes, encodings: Sequence[str]) -> bool:
    """Tell whether what follows an escape character switches to a character set that the dataset names."""
    code = b"\x1b" + part[: 3 if part.startswith((b"$(", b"$)")) else 2]
    return CODES_TO_ENCODINGS.get(code) in (*encodings, default_encoding)


def _plain(longest: int) -> Callable[[str], str | None]:
    """Return a check that gives text back if it is not too long and holds no control characters."""

    def check(text: str) -> str | None:
        return text if len(text) <= longest and text.isprintable() and "\\" not in text else None

    return check


def _matching(pattern: str) -> Callable[[str], str | None]:
    """Return a check that gives text back if all of it is as a regular expression says."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str | None:
        return text if compiled.fullmatch(text) else None

    return check


def _uid(text: str) -> str | None:
    """Return a valid UID back (PS3.5 9.1)."""
    return text if len(text) <= 64 and UID.fullmatch(text) else None


def _person(text: str) -> PersonName | None:
    """Return a name of up to three spellings of 64 characters (PS3.5 6.2.1.2)."""
    spellings = text.split("=")
    fits = len(spellings) <= 3 and all(_plain(64)(each) is not None and each.count("^") <= 4 for each in spellings)
    return PersonName(text) if fits else None


def _day(text: str) -> str | None:
    """Return a date YYYYMMDD that exists, also from the YYYY.MM.DD of before DICOM 3."""
    text = text.replace(".", "")
    try:
        date.fromisoformat(text if len(text) == 8 and text.isdecimal() else "")
    except ValueError:
        return None
    return text


def _hour(text: str) -> str | None:
    """Return a time HH, HHMM, HHMMSS or HHMMSS.FFFFFF that exists."""
    parts = HOUR.fullmatch(text)
    try:
        time(*(int(part or 0) for part in parts.groups()) if parts else (24,))
    except ValueError:
        return None
    return text


def _whole(text: str) -> int | None:
    """Return a whole number of 31 bits and a sign (PS3.5 6.2)."""
    return int(text) if WHOLE.fullmatch(text) and abs(int(text)) < 2**31 else None


def _decimal(text: str) -> float | None:
    """Return a finite decimal number, rounded so that 16 characters hold it (PS3.5 6.2)."""
    if not DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return float(format_number_as_ds(value)) + 0.0 if abs(value) <= LARGEST_LENGTH else None


VALID: Final[Mapping[str, Callable[[str], Any]]] = {
    "AS": _matching(r"\d{3}[DWMY]"),
    "CS": _matching(r"[A-Z0-9_ ]{0,16}"),
    "DA": _day,
    "DS": _decimal,
    "IS": _whole,
    "LO": _plain(64),
    "PN": _person,
    "SH": _plain(16),
    "TM": _hour,
    "UI": _uid,
    "US": _whole,
}

ENUMERATED: Final[Mapping[str, Callable[[str], Any]]] = {
    "PatientSex": _matching("[MFO]"),
    "PatientOrientation": _matching("[LRAPHF]{1,3}"),
    "LossyImageCompression": _matching("0[01]"),
}
"""Attributes that may have certain values only."""


def _geometry(dataset: Dataset, frame: int) -> dict[str, list[float]]:
    """Return position, orientation and spacings of a frame in millimetres; nothing if the frame has no full place."""
    shared = functional_groups(dataset, frame)
    found = {}
    for keyword, (group, count) in GEOMETRY.items():
        for place in (*(item for each in shared for item in items(each, group)[:1]), dataset):
            values = _valid_values(place, keyword, [default_encoding])
            if len(values) == count:
                found[keyword] = values
                break
    found = {keyword: values for keyword, values in found.items() if _count_positive(keyword, values)}
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    is_whole = all(keyword in found for keyword in needed) and _is_orthonormal(found["ImageOrientationPatient"])
    return found if is_whole else {}


def _count_positive(keyword: str, values: Sequence[float]) -> bool:
    """Tell whether what must be a positive length is one; a spacing between slices may not be negative here."""
    return keyword.startswith("Image") or all(value > 0 for value in values)


def _is_orthonormal(directions: Sequence[float]) -> bool:
    """Tell whether six direction cosines are two unit vectors at a right angle (PS3.3 C.7.6.2.1.1)."""
    row, column = directions[:3], directions[3:]
    lengths = (math.hypot(*row), math.hypot(*column))
    across = sum(a * b for a, b in zip(row, column, strict=True))
    return all(abs(length - 1) <= NOT_ORTHOGONAL for length in lengths) and abs(across) <= NOT_ORTHOGONAL
