"""Describe the structure of a slice: grey levels minus their surroundings, over the local contrast."""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates.thumbnails import SIDE as SOURCE_SIDE

SIDE: Final = 24
SIGMA: Final = 1.5
CONTRAST_FLOOR: Final = 0.03
FLAT: Final = 1e-3
BLOCK: Final = 512

Floats = NDArray[np.float32]
Window = tuple[float, float, float, float]
WHOLE: Final = (0.0, 1.0, 0.0, 1.0)


def structure_descriptor(levels: NDArray[np.uint8], window: Window = WHOLE) -> Floats:
    """Return the (N, 24, 24) float32 structure of (N, 48, 48) grey levels in a window, with mean 0 and norm 1.

    It is the root of the grey level minus its Gaussian mean, over the Gaussian root mean square of that difference. A
    picture without contrast gives zeros, which resemble nothing, not even each other.
    """
    rows, columns = _sampling(window[0], window[1]), _sampling(window[2], window[3])
    gauss = gaussian_mean(SIDE, SIGMA)
    result = np.empty((len(levels), SIDE, SIDE), np.float32)
    for start in range(0, len(levels), BLOCK):  # blocks that fit into the cache; all at once would take gigabytes
        grey = rows @ np.sqrt(levels[start : start + BLOCK] / np.float32(255)) @ columns.T
        # the contrast is that of the detail, not of the grey levels, and its floor keeps noise in black from counting
        detail = grey - gauss @ grey @ gauss.T
        contrast = np.sqrt(np.maximum(gauss @ (detail * detail) @ gauss.T, 0))
        values = detail / (contrast + np.float32(CONTRAST_FLOOR))
        values -= values.mean(axis=(1, 2), keepdims=True)
        norm = np.linalg.norm(values, axis=(1, 2), keepdims=True)
        result[start : start + BLOCK] = np.where(norm > FLAT, values / np.maximum(norm, FLAT), 0)
    return result


@cache
def _sampling(low: float, high: float) -> Floats:
    """Return the (24, 48) matrix that averages 48 pixels between two shares of the side to 24, by area."""
    weights = pixel_overlap(np.linspace(low, high, SIDE + 1) * SOURCE_SIDE, SOURCE_SIDE)
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def pixel_overlap(edges: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return the (F, side) lengths that pixels of width 1 share with F adjoining fields, given their F + 1 edges.

    Divided by the width of the fields, the rows average pixels to fields by area.
    """
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return overlap.clip(min=0)


@cache
def gaussian_mean(side: int, sigma: float) -> Floats:
    """Return the (side, side) matrix of a Gaussian mean, renormalised at the borders; sigma in pixels."""
    position = np.arange(side)
    weights = np.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix
