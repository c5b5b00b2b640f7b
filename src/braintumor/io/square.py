"""Resample slices to square pixels: shown pixel by pixel, a head would otherwise look squeezed."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NEARLY_SQUARE: Final = 1.01  # sides of a pixel that differ by less are left


def square_shape(shape: tuple[int, int], row: float, column: float) -> tuple[int, int]:
    """Return the (H, W) that makes the pixels of a slice square, without fewer of them.

    Args:
        shape: (H, W) of the slice.
        row: distance of rows, in any unit.
        column: distance of columns, in the same unit.
    """
    # Towards the finer spacing: nothing that was measured is lost.
    finer = min(row, column)
    if max(row, column) < NEARLY_SQUARE * finer:
        return shape
    return max(1, round(shape[0] * row / finer)), max(1, round(shape[1] * column / finer))


def squared(
    pixels: NDArray[np.float32], spacing: tuple[float, float] | None, aspect: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], tuple[float, float] | None, tuple[str, ...]]:
    """Return a slice (H, W) with square pixels, their (row, column) millimetres, and a note if it was resampled.

    Args:
        pixels: (H, W) in [0, 1].
        spacing: (row, column) distance of the pixels in millimetres, None if unknown.
        aspect: without a spacing, how high and how wide a pixel is, in any unit.
    """
    size = spacing or aspect
    if size is None or (shape := square_shape(pixels.shape, *size)) == pixels.shape:
        return pixels, spacing, ()
    finer = np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR)).clip(0, 1)
    if spacing is None:
        return finer, None, (f"pixels of aspect ratio {size[1]:.3g}:{size[0]:.3g} (width to height) made square",)
    # What rounding to whole pixels does to the spacing is kept: field of view before = field of view after.
    row, column = (length * before / after for length, before, after in zip(spacing, pixels.shape, shape, strict=True))
    return finer, (row, column), (f"pixels of {spacing[1]:.3g} x {spacing[0]:.3g} mm made square",)
