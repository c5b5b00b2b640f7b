"""The eight ways in which a picture can lie: mirrored or not, turned by quarters."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ORIENTATIONS: Final = tuple((mirrored, turns) for mirrored in (0, 1) for turns in range(4))


def oriented(pictures: Floats, orientation: int) -> Floats:
    """Return (N, S, S) pictures in one of `ORIENTATIONS`: mirrored left-right or not, then turned."""
    mirrored, turns = ORIENTATIONS[orientation]
    return np.rot90(pictures[:, :, ::-1] if mirrored else pictures, turns, axes=(1, 2))


def inverse(orientation: int) -> int:
    """Return the orientation that undoes another: a mirror image undoes itself, a turn is turned back."""
    mirrored, turns = ORIENTATIONS[orientation]
    # turning by k quarters is undone by 4 - k; a mirror image that is turned is a mirroring in another axis
    return orientation if mirrored else ORIENTATIONS.index((0, -turns % 4))
