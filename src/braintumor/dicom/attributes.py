"""Read attributes of a DICOM image, even damaged ones: numbers, codes, and the functional groups of a frame."""

import math
from collections.abc import Iterator
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from braintumor.errors import DECODE_ERRORS, DicomRefusalError

CONVERSION_ERRORS: Final = (*DECODE_ERRORS, BytesLengthException)
"""Errors that pydicom raises on reading a damaged value."""
TOO_DEEP: Final = "sequences are nested too deeply; at most a few hundred levels are read"


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
        DicomRefusalError: one of them is damaged, not a number, or not finite.
    """
    try:
        numeric = tuple(float(value) for value in values(dataset, keyword))
    except (OverflowError, TypeError, ValueError) as error:
        raise DicomRefusalError(f"{keyword} is not a number; send the image again") from error
    if not all(map(math.isfinite, numeric)):
        raise DicomRefusalError(f"{keyword} is not finite; send the image again")
    return numeric


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Return an attribute's first value as a whole number, or the default if it is absent or empty.

    Raises:
        DicomRefusalError: it is not a whole number; or it is absent, and there is no default.
    """
    numeric = numbers(dataset, keyword)
    if not numeric:
        if default is None:
            raise DicomRefusalError(f"{keyword} is missing; send the image again")
        return default
    if numeric[0] != int(numeric[0]):
        raise DicomRefusalError(f"{keyword} is not a whole number; send the image again")
    return int(numeric[0])


def integer_or(dataset: Dataset, keyword: str, otherwise: int) -> int:
    """Return an attribute's first value as a whole number, `otherwise` where it is absent, damaged or not whole."""
    try:
        return integer(dataset, keyword, otherwise)
    except DicomRefusalError:
        return otherwise


def codes(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return an attribute's text values in upper case, stripped of spaces; damaged ones count as absent."""
    try:
        return tuple(value.strip().upper() for value in values(dataset, keyword) if isinstance(value, str))
    except DicomRefusalError:
        return ()


def code(dataset: Dataset, keyword: str) -> str:
    """Return the first of `codes`, or an empty text."""
    texts = codes(dataset, keyword)
    return texts[0] if texts else ""


def items(dataset: Dataset, keyword: str) -> Sequence:
    """Return the items of a sequence; none if it is absent or the attribute is not a sequence.

    Raises:
        DicomRefusalError: it is damaged.
    """
    try:
        sequence = dataset.get(keyword)  # pydicom parses a sequence of defined length here, not before
    except RecursionError as error:
        raise DicomRefusalError(TOO_DEEP) from error
    except CONVERSION_ERRORS as error:
        raise DicomRefusalError(f"{keyword} is damaged; send the image again") from error
    return sequence if isinstance(sequence, Sequence) else Sequence()


def functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """Return a functional group's item for a frame, from 1: its own one, else the shared one, else None.

    Source: PS3.3 C.7.6.16.1.
    """
    for groups in functional_groups(dataset, frame):
        if group_items := items(groups, keyword):
            return group_items[0]
    return None


def functional_groups(dataset: Dataset, frame: int) -> list[Dataset]:
    """Return the functional groups of a frame, from 1: first its own, then those that all frames share, if any."""
    own, shared = items(dataset, "PerFrameFunctionalGroupsSequence"), items(dataset, "SharedFunctionalGroupsSequence")
    return [*own[frame - 1 : frame], *shared[:1]]  # slices: the frame may have no item of its own


def shared_functional_group(dataset: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a functional group, those shared by all frames first, then those of single frames."""
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for groups in items(dataset, sequence):
            yield from items(groups, keyword)


def functional_group_of(dataset: Dataset, frame: int, keyword: str, attribute: str) -> Dataset:
    """Return the dataset that holds an attribute of a frame: the functional group if it does, else the image itself."""
    group = functional_group(dataset, frame, keyword)
    return group if group is not None and attribute in group else dataset
