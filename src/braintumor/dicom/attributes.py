"""What the attributes of a DICOM image say, damaged ones included: numbers, codes, functional groups of a frame."""

import math
from collections.abc import Iterator
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from braintumor.errors import DECODE_ERRORS, DicomRefusalError

CONVERSION_ERRORS: Final = (*DECODE_ERRORS, BytesLengthException)
"""What pydicom raises on reading a damaged value."""
TOO_DEEP: Final = "sequences are nested too deeply; at most some hundred levels are read"


def values(dataset: Dataset, keyword: str) -> tuple[Any, ...]:
    """Return an attribute's values as pydicom reads them; none if it is absent or empty.

    Raises:
        DicomRefusalError: they are damaged.
    """
    try:
        value = dataset.get(keyword)
    except CONVERSION_ERRORS as error:
        raise DicomRefusalError(f"{keyword} is damaged; send the image again") from error
    if value is None or (isinstance(value, str | bytes) and not value):
        return ()
    return tuple(value) if isinstance(value, list | MultiValue) else (value,)


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return an attribute's values as finite numbers; none if it is absent or empty.

    Raises:
        DicomRefusalError: they are no such numbers.
    """
    try:
        found = tuple(float(value) for value in values(dataset, keyword))
    except (OverflowError, TypeError, ValueError) as error:
        raise DicomRefusalError(f"{keyword} is no number; send the image again") from error
    if not all(map(math.isfinite, found)):
        raise DicomRefusalError(f"{keyword} is not finite; send the image again")
    return found


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Return an attribute's first value as a whole number, or the default if it is absent or empty.

    Raises:
        DicomRefusalError: it is no whole number; or it is absent, and there is no default.
    """
    found = numbers(dataset, keyword)
    if not found:
        if default is None:
            raise DicomRefusalError(f"{keyword} is missing; send the image again")
        return default
    if found[0] != int(found[0]):
        raise DicomRefusalError(f"{keyword} is no whole number; send the image again")
    return int(found[0])


def integer_or(dataset: Dataset, keyword: str, otherwise: int) -> int:
    """Return an attribute's first value as a whole number, another one where it is absent or none."""
    try:
        return integer(dataset, keyword, otherwise)
    except DicomRefusalError:
        return otherwise


def codes(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return an attribute's texts in upper case without spaces around them; damaged ones count as absent."""
    try:
        return tuple(value.strip().upper() for value in values(dataset, keyword) if isinstance(value, str))
    except DicomRefusalError:
        return ()


def code(dataset: Dataset, keyword: str) -> str:
    """Return the first of `codes`, or an empty text."""
    found = codes(dataset, keyword)
    return found[0] if found else ""


def items(dataset: Dataset, keyword: str) -> Sequence:
    """Return the items of a sequence; none if it is absent or of another kind.

    Raises:
        DicomRefusalError: it is damaged.
    """
    try:
        sequence = dataset.get(keyword)
    except RecursionError as error:
        raise DicomRefusalError(TOO_DEEP) from error
    except CONVERSION_ERRORS as error:
        raise DicomRefusalError(f"{keyword} is damaged; send the image again") from error
    return sequence if isinstance(sequence, Sequence) else Sequence()


def functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """Return a functional group's item for a frame, from 1: its own one, else the shared one, else none.

    Source: PS3.3 C.7.6.16.1.
    """
    return next((found[0] for place in functional_groups(dataset, frame) if (found := items(place, keyword))), None)


def functional_groups(dataset: Dataset, frame: int) -> list[Dataset]:
    """Return the functional groups of a frame, from 1: its own ones, then those that all share, as far as there are."""
    own, shared = items(dataset, "PerFrameFunctionalGroupsSequence"), items(dataset, "SharedFunctionalGroupsSequence")
    return [*own[frame - 1 : frame], *shared[:1]]


def shared_functional_group(dataset: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a functional group of all frames."""
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for place in items(dataset, sequence):
            yield from items(place, keyword)


def functional_group_of(dataset: Dataset, frame: int, keyword: str, attribute: str) -> Dataset:
    """Return where an attribute of a frame is: in a functional group that holds it, else in the dataset itself."""
    found = functional_group(dataset, frame, keyword)
    return found if found is not None and attribute in found else dataset
