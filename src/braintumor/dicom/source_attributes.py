"""Extract the attributes that results must repeat of their image (patient, study, geometry), and no others."""

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

# fmt: off
EMPTY_IF_UNKNOWN: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)
"""Type 2 in every result: present, though perhaps without a value (PS3.3 C.7.1.1, C.7.2.1)."""

OPTIONAL: Final = (
    "IssuerOfPatientID", "PatientAge", "StudyDescription", "Modality",
    "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime",
    "InstanceNumber", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "NumberOfFrames",
    "Rows", "Columns", "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientOrientation",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)
# fmt: on

GEOMETRY: Final = {
    "ImagePositionPatient": ("PlanePositionSequence", 3),
    "ImageOrientationPatient": ("PlaneOrientationSequence", 6),
    "PixelSpacing": ("PixelMeasuresSequence", 2),
    "SliceThickness": ("PixelMeasuresSequence", 1),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", 1),
}
"""The functional group of each in a multi-frame image (PS3.3 C.7.6.16.2), and its number of values."""

LARGEST_LENGTH: Final = 1e6  # mm; a position beyond a kilometre is damage
NOT_ORTHOGONAL: Final = 1e-3  # how far the directions of rows and columns may be from unit length and a right angle
REPLACED: Final = "\ufffd"
"""Python's mark for bytes that are not text in any of the file's character sets."""
MOST_VALUES: Final = {
    "PatientOrientation": 2,
    "LossyImageCompressionRatio": 8,
    "LossyImageCompressionMethod": 8,
    **{keyword: count for keyword, (_, count) in GEOMETRY.items()},
}
LONGEST_RAW: Final = 1024  # bytes of all values of an attribute together
TEXT: Final = ("LO", "PN", "SH")
UID: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
HOUR: Final = re.compile(r"(\d\d)(?:(\d\d)(?:(\d\d)(?:\.\d{1,6})?)?)?", re.ASCII)
WHOLE: Final = re.compile(r"[+-]?\d{1,11}", re.ASCII)
DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def extract_attributes(dataset: Dataset, frame: int, name: str = "bytes") -> dict[str, Any]:
    """Return the attributes that results repeat of one frame, as DICOM JSON (PS3.18 F); see `restore_attributes`.

    Only attributes listed in this module are taken, each with its value representation of PS3.6, never the file's, and
    only if it is valid and no longer than PS3.5 6.2 allows: an invalid one is left out, or empty where results must
    have it. Text becomes UTF-8. Geometry comes from the frame's functional groups where there are any, complete
    (position, orientation, pixel spacing) or not at all. `ReferencedFrameNumber` is the frame, `NumberOfFrames` at
    least 1.

    Args:
        dataset: an image as pydicom reads it; it is not changed.
        frame: frame number, from 1.
        name: what to call the image in an error.

    Raises:
        ImageError: a UID is missing or invalid, so that no result can refer to the image; or the Patient ID cannot be
            repeated unchanged, so that an archive could file results under another patient.
        DicomRefusalError: the functional groups are damaged.
    """
    attributes = Dataset()
    encodings = _encodings_of(dataset)
    for keyword in (*NEEDED, *EMPTY_IF_UNKNOWN, *OPTIONAL):
        values = _valid_values(dataset, keyword, encodings)
        if values:
            setattr(attributes, keyword, values if len(values) > 1 else values[0])
        elif keyword in NEEDED or (keyword == "PatientID" and _is_filled(dataset, keyword)):
            raise ImageError(name, f"{keyword} is missing or invalid; send the image again from the archive")
        elif keyword in EMPTY_IF_UNKNOWN:
            setattr(attributes, keyword, None)
    attributes.NumberOfFrames = max(1, int(attributes.get("NumberOfFrames") or 1))
    attributes.ReferencedFrameNumber = frame
    for keyword, numbers in _geometry(dataset, frame).items():
        setattr(attributes, keyword, list(numbers) if len(numbers) > 1 else numbers[0])
    return attributes.to_json_dict()


def restore_attributes(origin: Mapping[str, Any]) -> Dataset:
    """Return the attributes that `extract_attributes` returned, as a dataset.

    Raises:
        ValueError: `extract_attributes` could not have returned these.
        ImageError: a UID or the Patient ID is missing or invalid.
    """
    dataset = Dataset.from_json(dict(origin))
    # They come from a decoder process that its file may have taken over. Sound attributes come out of a second
    # extraction unchanged; whatever else was slipped in, or is too long or invalid, makes a difference.
    if extract_attributes(dataset, int(dataset.ReferencedFrameNumber)) != origin:
        raise ValueError("expected attributes as they are taken from an image")
    return dataset


def _is_filled(dataset: Dataset, keyword: str) -> bool:
    """Tell whether an attribute has a value, valid or not."""
    value = dataset.get_item(keyword).value if keyword in dataset else None
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _encodings_of(dataset: Dataset) -> list[str]:
    """Return Python's names of the character sets of a dataset's text, without unknown ones; the first is the default.

    Source: PS3.3 C.12.1.1.2.
    """
    charsets = dataset.original_character_set
    names = [charsets] if isinstance(charsets, str) else list(charsets)
    # DICOM's terms as in the file, or Python's name where pydicom made the dataset from scratch
    encodings = [python_encoding.get(str(name).strip(), str(name).strip()) for name in names]
    return [encoding for encoding in encodings if encoding in python_encoding.values()] or [default_encoding]


def _valid_values(dataset: Dataset, keyword: str, encodings: Sequence[str]) -> list[Any]:
    """Return an attribute's values if all of them are valid, else none."""
    vr = dictionary_VR(keyword)
    texts = _texts_of(dataset, keyword, vr, encodings)
    if len(texts) > MOST_VALUES.get(keyword, 1) or (keyword == "PatientOrientation" and len(texts) == 1):
        return []
    check = ENUMERATED.get(keyword, VALID[vr])
    # Another text may lose a letter, but a Patient ID that differs in one is another patient's.
    if keyword == "PatientID" and any(REPLACED in text for text in texts):
        return []
    values = [check(text) for text in texts]
    return [] if None in values else values


def _texts_of(dataset: Dataset, keyword: str, vr: str, encodings: Sequence[str]) -> list[str]:
    """Return an attribute's values as text without padding; none if it is absent, empty, too long or a sequence.

    pydicom's own conversion quotes invalid values in warnings, and they may be a patient's name.
    """
    element = dataset.get_item(keyword) if keyword in dataset else None  # get_item does not convert
    if element is None or element.value is None or element.VR == "SQ":
        return []
    value = element.value
    if isinstance(element, RawDataElement):
        if len(value) > LONGEST_RAW:
            return []
        if vr == "US":  # the only binary value representation in our lists
            order = "little" if element.is_little_endian else "big"
            return [str(int.from_bytes(value, order))] if len(value) == 2 else []
        value = _decoded(value, encodings if vr in TEXT else [default_encoding]).split("\\")
    is_multiple = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    texts = [str(item).strip(" \0") for item in (value if is_multiple else [value])]
    return texts if any(texts) else []


def _decoded(content: bytes, encodings: Sequence[str]) -> str:
    """Return text in the first character set that fits, escapes to others included (PS3.5 6.1.2.5)."""
    # pydicom warns of escapes that it does not know; only text without such is left to it.
    if b"\x1b" in content and all(_is_known_escape(part, encodings) for part in content.split(b"\x1b")[1:]):
        return decode_bytes(content, list(encodings), set(b"\\^="))  # delimiters, where each set ends
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeError:
            continue
    return content.decode(encodings[0], errors="replace")


def _is_known_escape(part: bytes, encodings: Sequence[str]) -> bool:
    """Tell whether what follows an escape character switches to a character set that the dataset names."""
    # Sets of several bytes a character have a longer escape: $( or $) and a letter
    code = b"\x1b" + part[: 3 if part.startswith((b"$(", b"$)")) else 2]
    return CODES_TO_ENCODINGS.get(code) in (*encodings, default_encoding)


def _plain(longest: int) -> Callable[[str], str | None]:
    """Return a check that passes text of at most so many characters, none of them a control or a backslash."""

    def check(text: str) -> str | None:
        return text if len(text) <= longest and text.isprintable() and "\\" not in text else None

    return check


def _matching(pattern: str) -> Callable[[str], str | None]:
    """Return a check that passes text that matches a regular expression as a whole."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str | None:
        return text if compiled.fullmatch(text) else None

    return check


def _uid(text: str) -> str | None:
    """Return a UID if it is valid (PS3.5 9.1)."""
    return text if len(text) <= 64 and UID.fullmatch(text) else None


def _person(text: str) -> PersonName | None:
    """Return a name of up to three spellings of up to 64 characters and five components (PS3.5 6.2.1.2)."""
    spellings = text.split("=")
    check = _plain(64)
    is_valid = len(spellings) <= 3 and all(check(name) is not None and name.count("^") <= 4 for name in spellings)
    return PersonName(text) if is_valid else None


def _day(text: str) -> str | None:
    """Return a date YYYYMMDD that exists, also from YYYY.MM.DD, as before DICOM 3."""
    text = text.replace(".", "")
    if len(text) != 8 or not text.isdecimal():  # fromisoformat takes more forms, as 2026W011
        return None
    try:
        date.fromisoformat(text)
    except ValueError:
        return None
    return text


def _hour(text: str) -> str | None:
    """Return a time HH, HHMM, HHMMSS or HHMMSS.FFFFFF that exists."""
    match = HOUR.fullmatch(text)
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups())
    try:
        time(hour, minute, second)
    except ValueError:
        return None
    return text


def _whole(text: str) -> int | None:
    """Return a whole number of 31 bits and a sign (IS in PS3.5 6.2)."""
    return int(text) if WHOLE.fullmatch(text) and abs(int(text)) < 2**31 else None


def _decimal(text: str) -> float | None:
    """Return a decimal number, rounded so that 16 characters hold it (DS in PS3.5 6.2)."""
    if not DECIMAL.fullmatch(text):
        return None
    value = float(text)
    # Infinity fails the comparison; adding 0.0 turns -0.0 into 0.0.
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
"""Attributes with enumerated values."""


def _geometry(dataset: Dataset, frame: int) -> dict[str, list[float]]:
    """Return position, orientation and spacings of a frame in millimetres; nothing if one that is needed is missing."""
    all_groups = functional_groups(dataset, frame)
    geometry = {}
    for keyword, (group, count) in GEOMETRY.items():
        # The first valid one counts: the frame's own group, the shared group, the image itself
        for holder in (*(item for groups in all_groups for item in items(groups, group)[:1]), dataset):
            values = _valid_values(holder, keyword, [default_encoding])
            if len(values) == count:
                geometry[keyword] = values
                break
    geometry = {keyword: values for keyword, values in geometry.items() if _is_possible(keyword, values)}
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    is_complete = all(keyword in geometry for keyword in needed)
    # Half a geometry would put a class map in the wrong place, which is worse than in none.
    return geometry if is_complete and _is_orthonormal(geometry["ImageOrientationPatient"]) else {}


def _is_possible(keyword: str, values: Sequence[float]) -> bool:
    """Tell whether lengths that must be positive are; a negative spacing between slices is not kept, either."""
    return keyword.startswith("Image") or all(value > 0 for value in values)


def _is_orthonormal(directions: Sequence[float]) -> bool:
    """Tell whether six direction cosines are two unit vectors at a right angle (PS3.3 C.7.6.2.1.1)."""
    row, column = directions[:3], directions[3:]
    lengths = (math.hypot(*row), math.hypot(*column))
    across = sum(a * b for a, b in zip(row, column, strict=True))
    return all(abs(length - 1) <= NOT_ORTHOGONAL for length in lengths) and abs(across) <= NOT_ORTHOGONAL
