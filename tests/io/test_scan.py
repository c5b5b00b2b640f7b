"""The values that a slice may hold."""

import numpy as np
import pytest
from numpy.typing import NDArray

from braintumor.io.scan import Scan


def test_a_slice_has_pixels_and_may_have_spacing_and_a_source() -> None:
    pixels = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    assert (Scan(pixels).spacing, Scan(pixels).source) == (None, "bytes")
    scan = Scan(pixels, (0.5, 0.6), "a.png")
    assert (scan.pixels is pixels, scan.spacing, scan.source) == (True, (0.5, 0.6), "a.png")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), r"expected one \(H, W\) slice, got shape \(3, 8, 8\)"),
        (np.zeros((0, 8), np.float32), r"expected one \(H, W\) slice, got shape \(0, 8\)"),
        (np.zeros((8, 8), np.uint8), r"expected float32 in \[0, 1\], got uint8; divide"),
        (np.zeros((8, 8)), r"expected float32 in \[0, 1\], got float64"),
        (np.full((8, 8), 255, np.float32), r"expected grey values in \[0, 1\], got 255 to 255"),
        (np.full((8, 8), -0.5, np.float32), r"expected grey values in \[0, 1\], got -0.5 to -0.5"),
        (np.full((8, 8), np.nan, np.float32), r"expected grey values in \[0, 1\], got nan to nan"),
    ],
)
def test_other_arrays_are_refused(pixels: NDArray[np.float32], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scan(pixels)
