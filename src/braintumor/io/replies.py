"""What a decoder's process says about a file, checked as if an enemy had written it."""

import math
from typing import Any, Final

import numpy as np

from braintumor.errors import ImageError, Refusal
from braintumor.io.scan import SERIES, Scan, SlicePosition, slice_name, unusable_size
from braintumor.io.worker import LARGEST

LONGEST_REASON: Final = 500  # letters
MOST_NOTES: Final = 20
LARGEST_NUMBER: Final = 2**31  # of a slice; DICOM's Instance Number is a whole number of 31 bits with a sign


def refusal_of(answer: dict[str, Any], name: str) -> ImageError:
    """Return the refusal in a child's message; nothing that a terminal could take for more than text.

    Raises:
        One of `MALFORMED_ERRORS`: it is none that a child gives.
    """
    reason = answer["reason"]
    if not is_text(reason) or answer["code"] in (Refusal.ABANDONED, Refusal.BUSY):  # which only this process can know
        raise ValueError("expected a reason of letters")
    return ImageError(name, reason, Refusal(answer["code"]))


def is_text(value: object) -> bool:
    """Tell whether something is one printable line of text, not too long."""
    return isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_REASON


def scan_of(answer: dict[str, Any], pixels: bytearray, name: str) -> Scan:
    """Return the slice in a child's message about a file of this name.

    Raises:
        One of `MALFORMED_ERRORS`: it is none, or names another file or place.
    """
    height, width = answer["shape"]
    if type(height) is not int or type(width) is not int or unusable_size(width, height, LARGEST):
        raise ValueError("expected a slice of a usable size")
    values = np.frombuffer(pixels, np.float32).reshape(height, width)
    place = _place_of(answer["place"], name)
    names = (name, place and slice_name(name, place.number, 2))
    if answer["source"] not in names:
        raise ValueError("an answer about another file")
    notes = tuple(answer["notes"])
    if len(notes) > MOST_NOTES or not all(map(is_text, notes)):
        raise ValueError("expected notes of letters")
    origin = answer["origin"]
    if origin is not None and not isinstance(origin, dict):
        raise TypeError("expected attributes by their tags")
    return Scan(values, _spacing_of(answer["spacing"]), answer["source"], notes, place, origin)


def _place_of(said: Any, name: str) -> SlicePosition | None:
    """Return where in its volume a child says that a slice of the file of this name lies; raises as `scan_of`."""
    if said is None:
        return None
    place = SlicePosition(**said)
    if place.volume != name and not SERIES.fullmatch(place.volume):
        raise ValueError("an answer about another file")
    if type(place.number) is not int or abs(place.number) > LARGEST_NUMBER:
        raise ValueError("expected the number of a slice")
    if place.position is not None and not _is_length(place.position):
        raise ValueError("expected a position in millimetres")
    return place


def _spacing_of(said: Any) -> tuple[float, float] | None:
    """Return what a child says of the distances of pixels; raises as `scan_of`."""
    if said is None:
        return None
    spacings = tuple(said)
    if len(spacings) != 2 or not all(_is_length(value) and value > 0 for value in spacings):
        raise ValueError("expected two spacings in millimetres")
    return float(spacings[0]), float(spacings[1])


def _is_length(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
