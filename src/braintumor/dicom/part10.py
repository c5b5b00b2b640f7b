"""Recognise a DICOM file by its first bytes: where its attributes begin, and how they are stored."""

import re
from dataclasses import dataclass
from typing import Final

MARK: Final = b"DICM"
PREAMBLE_BYTES: Final = 128
_FIRST_GROUPS: Final = (2, 8)
"""Groups of the file meta information and of the image; one of them begins a file (PS3.10 7.1, PS3.5 7.1)."""
_LARGEST_ELEMENT: Final = 0x0100  # no file begins with a higher element of these groups
_LARGEST_IMPLICIT: Final = 256  # bytes of a first attribute: a number, a name of a character set, an Image Type
_EXPLICIT: Final = re.compile(rb"UL|OB|CS|UI|SH|LO|DA|TM|DT|SQ|LT|ST|UT|UN|PN|IS|US|AE|OW")


@dataclass(frozen=True)
class DicomStart:
    """Position and encoding of the first attribute of a DICOM file.

    Attributes:
        offset: in bytes.
        group: 2 for file meta information, 8 for an image without it; 0 where the mark DICM alone decided.
        explicit: whether its VR is stored.
        little: whether it is little endian.
    """

    offset: int
    group: int
    explicit: bool = True
    little: bool = True


def dicom_start(content: bytes) -> DicomStart | None:
    """Return how a file begins if it is DICOM, None otherwise.

    The standard (PS3.10 7.1) asks for 128 bytes and DICM; some scanners and programs leave out the first, or both.

    Args:
        content: of the file, or its first 160 bytes.
    """
    if content[PREAMBLE_BYTES : PREAMBLE_BYTES + len(MARK)] == MARK:
        return DicomStart(PREAMBLE_BYTES + len(MARK), 0)
    offset = len(MARK) if content.startswith(MARK) else 0
    # Little endian first: group 0008 read in the wrong order is 0800, which begins no file, so at most one order fits.
    for little in (True, False):
        start = _first_attribute(content[offset : offset + 8], offset, little)
        if start is not None:
            return start
    return None


def _first_attribute(head: bytes, offset: int, little: bool) -> DicomStart | None:
    """Return how the attribute is stored that begins with these 8 bytes, None where it cannot begin a file."""
    order = "little" if little else "big"
    group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
    if len(head) < 8 or group not in _FIRST_GROUPS or element > _LARGEST_ELEMENT:
        return None
    if _EXPLICIT.match(head, 4):
        return DicomStart(offset, group, True, little)
    # No VR: implicit. Any four bytes could be a length, so it has to be even (PS3.5 7.1.1) and short. Implicit VR is
    # little endian only (PS3.5 A.1), and never used for file meta information.
    length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
    is_plausible = length % 2 == 0 and length <= _LARGEST_IMPLICIT and little and group == _FIRST_GROUPS[-1]
    return DicomStart(offset, group, False, little) if is_plausible else None
