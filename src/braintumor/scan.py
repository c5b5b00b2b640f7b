"""What one slice is, once read: grey values in [0, 1], whatever the file was."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Scan:
    """One slice.

    Attributes:
        pixels: (H, W) float32 in [0, 1], row 0 at the top, 0 is black.
        spacing: (row, column) distance of pixel centres in millimetres, None where the file does not say.
        source: what to call the slice in results: a path as given, or a neutral name for bytes.
    """

    pixels: NDArray[np.float32]
    spacing: tuple[float, float] | None = None
    source: str = "bytes"

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or 0 in self.pixels.shape:
            raise ValueError(f"expected one (H, W) slice, got shape {self.pixels.shape}")
        if self.pixels.dtype != np.float32:
            raise ValueError(f"expected float32 in [0, 1], got {self.pixels.dtype}; divide by the largest grey value")
        low, high = float(self.pixels.min()), float(self.pixels.max())
        if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
            raise ValueError(f"expected grey values in [0, 1], got {low:g} to {high:g}")
