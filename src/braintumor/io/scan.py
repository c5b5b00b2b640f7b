"""Define a slice once read, grey values in [0, 1] whatever the file was, and its position in a volume."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from braintumor.errors import BrainTumorError, Refusal

SMALLEST_SIDE: Final = 16
LARGEST_SIDE: Final = 8_000  # the slice is padded to a square: 64 megapixels
LARGEST_VOLUME: Final = 192 << 20  # bytes of the voxels as stored, unpacked
RANGE: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
PLANES: Final = ("acquired", "axial", "coronal", "sagittal")
SERIES: Final = re.compile("series [0-9a-f]{8}")
"""The name of a volume that is a DICOM series."""


@dataclass(frozen=True)
class SlicePosition:
    """The position of a slice in a volume.

    Attributes:
        volume: the name that the slices of one volume share: the file's for NIfTI and for DICOM that names no series;
            else a code made from the UIDs of study and series, which does not say whose they are.
        number: counted from 1: a DICOM file's Instance Number or its frame, a NIfTI volume's slice.
        position: millimetres along the slices' normal, None where the file does not say; sorts the slices.
    """

    volume: str
    number: int
    position: float | None = None


def slice_name(file: str, number: int, count: int) -> str:
    """Return the name of a slice: that of its file, followed by # and the number if the file holds several."""
    return f"{file}#{number}" if count > 1 else file


def number_in_file(name: str, place: SlicePosition | None) -> int | None:
    """Return the number of a slice named by `slice_name`, None where its file holds no other."""
    return place.number if place and name.endswith(f"#{place.number}") else None


@dataclass(frozen=True)
class SliceSelection:
    """The slices of a volume to read.

    Attributes:
        plane: `acquired`, as the file stores them, or for NIfTI `axial`, `coronal` or `sagittal`.
        ranges: first and last numbers, both included; none for all slices.
    """

    plane: str = "acquired"
    ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise BrainTumorError(f"no plane is called {self.plane!r}; choose one of {', '.join(PLANES)}")

    @classmethod
    def of(cls, slices: str, plane: str = "acquired") -> Self:
        """Return the selection that a text describes: all, 12, 10-20, or 1-5,9.

        Raises:
            BrainTumorError: the text cannot be understood, or there is no such plane.
        """
        matches = [] if slices == "all" else [RANGE.fullmatch(part.strip()) for part in slices.split(",")]
        ranges = tuple((int(match[1]), int(match[2] or match[1])) for match in matches if match)
        if len(ranges) < len(matches) or any(first > last for first, last in ranges):
            raise BrainTumorError(f"expected slice numbers such as 12, 10-20 or 1-5,9, or all, got {slices!r}")
        return cls(plane, ranges)

    def wants(self, number: int) -> bool:
        """Tell whether the slice of this number is selected."""
        return not self.ranges or any(first <= number <= last for first, last in self.ranges)


ALL_SLICES: Final = SliceSelection()


def unusable_size(width: int, height: int, largest: int) -> tuple[str, Refusal] | None:
    """Return why slices of this size are not read, None where they are; `largest` limits width x height."""
    size = f"{width} x {height} pixels"
    if max(width, height) > LARGEST_SIDE:
        return f"{size}; at most {LARGEST_SIDE} on each side are read", Refusal.TOO_LARGE
    if width * height > largest:
        return f"{size}; at most {largest:,} in all are read here", Refusal.TOO_LARGE
    if min(width, height) < SMALLEST_SIDE:
        return f"{size}; at least {SMALLEST_SIDE} on each side are needed", Refusal.TOO_SMALL
    return None


@dataclass(frozen=True, eq=False)
class Scan:
    """One slice.

    Attributes:
        pixels: (H, W) float32 in [0, 1], row 0 at the top, 0 is black.
        spacing: (row, column) distance of pixel centres in millimetres, None where the file does not say.
        source: the slice's name in results: a path as given, or a neutral name for bytes.
        notes: what had to be assumed in reading it.
        place: its position in its volume; None for an image that stands alone.
        origin: the attributes of its DICOM file that results must repeat, as DICOM JSON; None for other files.
    """

    pixels: NDArray[np.float32]
    spacing: tuple[float, float] | None = None
    source: str = "bytes"
    notes: tuple[str, ...] = ()
    place: SlicePosition | None = None
    origin: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or 0 in self.pixels.shape:
            raise ValueError(f"expected one (H, W) slice, got shape {self.pixels.shape}")
        if self.pixels.dtype != np.float32:
            raise ValueError(f"expected float32 in [0, 1], got {self.pixels.dtype}; divide by the largest grey value")
        low, high = float(self.pixels.min()), float(self.pixels.max())
        if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
            raise ValueError(f"expected grey values in [0, 1], got {low:g} to {high:g}")
