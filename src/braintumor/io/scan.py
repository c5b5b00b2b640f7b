"""What one slice is, once read: grey values in [0, 1], whatever the file was."""

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
"""What a volume is called that is a DICOM series."""


@dataclass(frozen=True)
class SlicePosition:
    """Where a slice lies in a volume.

    Attributes:
        volume: what the slices of one volume share: for NIfTI, and DICOM that names no series, what the file is called;
            else a code made from the UIDs of study and series, which does not say whose they are.
        number: counted from 1: a DICOM file's Instance Number or its frame, a NIfTI volume's slice.
        position: millimetres along the slices' normal, None where the file does not say; sorts the slices.
    """

    volume: str
    number: int
    position: float | None = None


def slice_name(file: str, number: int, count: int) -> str:
    """Return what to call a slice of a file: by the file's name, of several slices with # and the number."""
    return f"{file}#{number}" if count > 1 else file


def number_in_file(name: str, place: SlicePosition | None) -> int | None:
    """Return the number of a slice that is called as `slice_name` says, None where its file has no other."""
    return place.number if place and name.endswith(f"#{place.number}") else None


@dataclass(frozen=True)
class SliceSelection:
    """Which slices of a volume are wanted.

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
        """Return the choice that a text makes: all, 12, 10-20, or 1-5,9.

        Raises:
            BrainTumorError: it is no such text, or there is no such plane.
        """
        found = [] if slices == "all" else [RANGE.fullmatch(part.strip()) for part in slices.split(",")]
        ranges = tuple((int(each[1]), int(each[2] or each[1])) for each in found if each)
        if len(ranges) < len(found) or any(first > last for first, last in ranges):
            raise BrainTumorError(f"expected numbers of slices such as 12, 10-20 or 1-5,9, or all, got {slices!r}")
        return cls(plane, ranges)

    def wants(self, number: int) -> bool:
        """Tell whether the slice of this number is wanted."""
        return not self.ranges or any(first <= number <= last for first, last in self.ranges)


ALL_SLICES: Final = SliceSelection()


def unusable_size(width: int, height: int, largest: int) -> tuple[str, Refusal] | None:
    """Return why slices of so many pixels are not read, None where they are; at most `largest` in all."""
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
        source: what to call the slice in results: a path as given, or a neutral name for bytes.
        notes: what had to be assumed in reading it.
        place: where it lies in its volume; None for an image that stands alone.
        origin: what results about it must repeat of its DICOM file, as DICOM JSON; None for other files.
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
