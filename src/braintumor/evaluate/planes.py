"""Classify slices as axial, coronal or sagittal by their thumbnails.

The weights are those of a logistic regression on slices of the public and of the reference set whose plane was told by
eye, and on varied copies of them. On 300 others, of which none shares a group with those, 294 planes are right, 0.980
(95 % interval in `benchmarks/results/planes.json`): all 143 axial, 91 of 96 coronal and 60 of 61 sagittal ones.

Limits: most errors are coronal slices cut off below the brain or tilted; of the test slices without a tumor only 2 are
not axial; there is no further answer for oblique slices or for what is no head.
`benchmarks/planes.py` fits and measures again.
"""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates.descriptors import pixel_overlap

PLANES: Final = ("axial", "coronal", "sagittal")
SIDE: Final = 32
FLAT: Final = 1e-3
FEATURES: Final = 4 * 16 * 8
WEIGHTS: Final = Path(__file__).with_name("planes.npy")

Floats = NDArray[np.float32]


def planes(heads: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the plane of each of N slices, one of `PLANES`; an empty name where a thumbnail has no contrast.

    A mirrored slice gets the same plane.

    Args:
        heads: (N, S, S) uint8 grey levels of `Thumbnails.head`.

    Raises:
        ValueError: the thumbnails have another shape.
    """
    thumbnails = standardised(heads)
    logits = features(thumbnails) @ weights()[:-1] + weights()[-1]  # (N, 3)
    best = logits.argmax(axis=1)
    return tuple(PLANES[index] if thumbnail.any() else "" for index, thumbnail in zip(best, thumbnails, strict=True))


def standardised(heads: NDArray[np.uint8]) -> Floats:
    """Return (N, S, S) grey levels averaged to (N, 32, 32) float32 with mean 0 and norm 1; zeros without contrast.

    Raises:
        ValueError: the thumbnails have another shape.
    """
    if heads.ndim != 3 or heads.shape[1] != heads.shape[2] or heads.shape[1] < SIDE:
        raise ValueError(f"expected thumbnails (N, S, S) of at least {SIDE} pixels, got {heads.shape}")
    side = heads.shape[1]
    average = (pixel_overlap(np.linspace(0, side, SIDE + 1), side) * SIDE / side).astype(np.float32)  # (32, S)
    grey = average @ (heads / np.float32(255)) @ average.T
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    norm = np.linalg.norm(grey, axis=(1, 2), keepdims=True)
    return np.where(norm > FLAT, grey / np.maximum(norm, FLAT), np.float32(0))


def features(thumbnails: Floats) -> Floats:
    """Return the (N, 512) features of (N, 32, 32) thumbnails, which a mirror leaves as they are.

    Four maps of 16 x 8 numbers: the mean of the left and the right half, how far they differ, and how strong the
    vertical and the horizontal changes of grey are. A profile is uneven, a slice from the front or above is not;
    neck and face have edges where an axial slice has none.

    Raises:
        ValueError: the thumbnails have another shape.
    """
    if thumbnails.ndim != 3 or thumbnails.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"expected thumbnails (N, {SIDE}, {SIDE}), got {thumbnails.shape}")
    grey = thumbnails * np.float32(SIDE)  # variance 1
    down, across = np.gradient(grey, axis=(1, 2))
    # the absolute value makes the difference of the halves the same for a mirrored slice
    uneven = np.abs(_halves(grey, -1))
    maps = np.stack([_halves(grey, 1), uneven, _halves(np.abs(down), 1), _halves(np.abs(across), 1)], axis=1)
    return maps.reshape(len(grey), FEATURES).astype(np.float32, copy=False)


def _halves(values: Floats, sign: int) -> Floats:
    """Return the left half plus `sign` times the mirrored right half, over 2, as (N, 16, 8) means of 2 x 2 pixels."""
    left, right = values[:, :, : SIDE // 2], values[:, :, : SIDE // 2 - 1 : -1]
    half = (left + np.float32(sign) * right) / 2
    means: Floats = half.reshape(-1, SIDE // 2, 2, SIDE // 4, 2).mean(axis=(2, 4))
    return means


@cache
def weights() -> Floats:
    """Return the (513, 3) weights of the logits of `PLANES` by `features`, the constants in the last row."""
    values: Floats = np.load(WEIGHTS, allow_pickle=False)
    return values
