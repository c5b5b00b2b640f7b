"""Choose the values that become black and white where a file does not say: one rule for all formats."""

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

PERCENTILES: Final = (0.1, 99.9)
"""Of the values of an image or volume without a display window: what becomes black and white. Narrower ones change more
answers, see benchmarks/windowing.py; the full range would let a single bright pixel darken all others."""
BY_PERCENTILES: Final = f"grey values from the {PERCENTILES[0]} to the {PERCENTILES[1]} percentile"
BIT_DEPTHS: Final = (8, 10, 12, 14, 16)
REACHED: Final = ((0.9, 0.95, 1.05, 1.1), (0.0, 1.0, 1.0, 0.0))
"""Weight of a full range by the largest value, as a share of a bit depth's end: 1 from 0.95 to 1.05, 0 beyond."""
FILLED: Final = ((0.4, 0.6), (0.0, 1.0))
"""Weight of a full range by the white of the percentiles, as such a share: few values alone must not reach that far.
They would else darken all others; now a single saturated pixel does so at most by 1/0.6."""
LUMA: Final = (19595, 38470, 7471)
"""0.299, 0.587 and 0.114 times 2^16, the shares of red, green and blue by ITU-R 601, as in Pillow."""
Floats = TypeVar("Floats", NDArray[np.float32], NDArray[np.float64])
ENDS: Final = tuple(2**bits - 1 for bits in BIT_DEPTHS)


def limits(values: NDArray[Any]) -> tuple[float, float]:
    """Return the values that become black and white, both 0 where there are none."""
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, PERCENTILES).tolist()
    return low, high


def between(values: Floats, low: float, high: float) -> Floats:
    """Turn values in place into 0 up to `low`, 1 above `high`, and a straight line between them; return them.

    Where `high` is not above `low`, what exceeds it is white and all else black.
    """
    if not high > low:
        return (values > high).astype(values.dtype)
    # In place, since a slice of 64 megapixels takes 256 MB as float32.
    values -= low
    values /= high - low
    return np.clip(values, 0, 1, out=values)


def deep_limits(values: NDArray[Any]) -> tuple[float, float, float]:
    """Return the black and the white of values from 0 to 65,535, and how far they have the full range of a bit depth.

    Values of a full range, from 0 to 2^bits - 1 with 8, 10, 12, 14 or 16 bits, keep it: black is 0, white 2^bits - 1.
    All others are shown by the percentiles, since how many bits a scanner fills says nothing about the brightness of
    an image. Between the two the limits move in proportion: the share is 1 for a full range, 0 for none.
    """
    low, high = limits(values)
    largest = int(values.max())
    # The smallest depth that may have produced the largest value, with the tolerance of `REACHED` above its end.
    white = next((end for end in ENDS if largest <= REACHED[0][-1] * end), ENDS[-1])
    # Straight lines instead of thresholds: one pixel more or less cannot make the brightness jump.
    share = float(np.interp(largest / white, *REACHED) * np.interp(high / white, *FILLED))
    return low * (1 - share), high + share * (white - high), share
