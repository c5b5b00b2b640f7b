"""Check a decoder process's replies about a file as if an attacker had written them."""

import math
from typing import Any, Final

import numpy as np

from braintumor.errors import ImageError, Refusal
from braintumor.io.scan import SERIES, Scan, SlicePosition, slice_name, unusable_size
from braintumor.io.worker import LARGEST

LONGEST_REASON: Final = 500  # letters
MOST_NOTES: Final = 20
LARGEST_NUMBER: Final = 2**31  # of a slice; DICOM's Instance Number lies from -2^31 to 2^31 - 1


def refusal_of(header: dict[str, Any], name: str) -> ImageError:
    """Return the refusal in a child's message; its text holds nothing that acts on a terminal.

    Raises:
        One of `MALFORMED_ERRORS`: it is none that a child gives.
    """
    reason = header["reason"]
    # The two codes depend on other files and processes, of which a child knows nothing: it would only lie.
    if not is_text(reason) or header["code"] in (Refusal.ABANDONED, Refusal.BUSY):
        raise ValueError("expected a reason of letters")
    return ImageError(name, reason, Refusal(header["code"]))


def is_text(value: object) -> bool:
    """Tell whether a value is one printable line of text of at most 500 characters."""
    return isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_REASON


def scan_of(header: dict[str, Any], pixels: bytearray, name: str) -> Scan:
    """Return the slice in a child's message about a file of this name.

    Raises:
        One of `MALFORMED_ERRORS`: it holds none, or names another file or position.
    """
    height, width = header["shape"]
    # `type`, not `isinstance`: True and False are integers, too.
    if type(height) is not int or type(width) is not int or unusable_size(width, height, LARGEST):
        raise ValueError("expected a slice of a usable size")
    values = np.frombuffer(pixels, np.float32).reshape(height, width)
    place = _position_of(header["place"], name)
    # Names come back to the user: a child may only repeat the one it was given, alone or with the slice's number.
    names = (name, place and slice_name(name, place.number, 2))
    if header["source"] not in names:
        raise ValueError("an answer about another file")
    notes = tuple(header["notes"])
    if len(notes) > MOST_NOTES or not all(map(is_text, notes)):
        raise ValueError("expected notes of letters")
    origin = header["origin"]
    if origin is not None and not isinstance(origin, dict):
        raise TypeError("expected attributes by their tags")
    return Scan(
        values,
        _spacing_of(header["spacing"]),
        source=header["source"],
        notes=notes,
        place=place,
        origin=origin,
    )


def _position_of(fields: Any, name: str) -> SlicePosition | None:
    """Return the position in its volume of a slice of the file of this name; raises as `scan_of`."""
    if fields is None:
        return None
    place = SlicePosition(**fields)
    if place.volume != name and not SERIES.fullmatch(place.volume):
        raise ValueError("an answer about another file")
    if type(place.number) is not int or abs(place.number) > LARGEST_NUMBER:
        raise ValueError("expected the number of a slice")
    if place.position is not None and not _is_length(place.position):
        raise ValueError("expected a position in millimetres")
    return place


def _spacing_of(values: Any) -> tuple[float, float] | None:
    """Return the (row, column) spacing of pixels in millimetres; raises as `scan_of`."""
    if values is None:
        return None
    spacings = tuple(values)
    if len(spacings) != 2 or not all(_is_length(value) and value > 0 for value in spacings):
        raise ValueError("expected two spacings in millimetres")
    return float(spacings[0]), float(spacings[1])


def _is_length(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
