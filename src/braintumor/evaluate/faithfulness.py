"""Test whether a class map names the pixels that the answer rests on, by taking pixels away; no outline is needed.

All three tests rank the pixels of the network's input by a map, enlarged bilinearly, and ask the model again and again
for the probability of one class. A map that names the wrong pixels does no better than ranks drawn at random.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

from braintumor.classes import CLASSES
from braintumor.models.session import Model
from braintumor.predictor import Predictor, PreparedSlice

STEPS: Final = 10
ROAD_SHARES: Final = (0.2, 0.4, 0.6, 0.8)
ROAD_NOISE: Final = 2.0  # grey levels
BLUR: Final = 0.05  # of the side
TOLERANCE: Final = 1e-3  # of the residual; the noise is far larger
STRAIGHT, DIAGONAL = 1 / 6, 1 / 12  # weights of the neighbours
EIGHT: Final = {
    (row, column): STRAIGHT if 0 in (row, column) else DIAGONAL
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if row or column
}

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Ask = Callable[[Sequence[Levels]], NDArray[np.float64]]
"""Answers with the probability of one class for each slice (S, S)."""


@dataclass(frozen=True)
class Faithfulness:
    """The faithfulness of one map.

    Attributes:
        deletion: mean probability while the pixels are blackened, the highest ranks first; low is good.
        insertion: mean probability while they are uncovered in a blurred slice, likewise; high is good.
        road: mean over four shares of the pixels of how much less probable the class becomes when the highest ranks
            are filled from their neighbours than when the lowest are, halved: from -0.5 to 0.5, high is good.

    Sources: deletion and insertion arXiv:1806.07421; ROAD arXiv:2202.00449.
    """

    deletion: float
    insertion: float
    road: float


def measure_faithfulness(levels: Levels, class_map: Floats, ask: Ask, seed: int) -> Faithfulness:
    """Return how faithful a map (h, w) of one class is for a slice (S, S); `seed` is that of ROAD's noise."""
    order = ranks(class_map, levels.shape[0], seed)
    black, blurred = np.zeros_like(levels), ndimage.gaussian_filter(levels, BLUR * levels.shape[0])
    shares = np.arange(STEPS + 1) / STEPS
    deleted = ask([np.where(order < share * order.size, black, levels) for share in shares])
    inserted = ask([np.where(order < share * order.size, levels, blurred) for share in shares])
    # most relevant first, then least relevant first, all in one batch
    holes = [order < share * order.size for share in ROAD_SHARES]
    holes += [order >= (1 - share) * order.size for share in ROAD_SHARES]
    filled = ask([imputed(levels, hole, seed) for hole in holes])
    most, least = filled[: len(ROAD_SHARES)], filled[len(ROAD_SHARES) :]
    return Faithfulness(area(deleted), area(inserted), float((least - most).mean()) / 2)


def asking(model: Model, name: str) -> Ask:
    """Return what asks a model for the probability of a class."""

    def ask(slices: Sequence[Levels]) -> NDArray[np.float64]:
        answers = Predictor(model).predict([PreparedSlice("", levels) for levels in slices])
        return np.array([answer.probabilities[CLASSES.index(name)] for answer in answers], np.float64)

    return ask


def ranks(class_map: Floats, side: int, seed: int) -> NDArray[np.int64]:
    """Return the (S, S) ranks of pixels by a map (h, w), 0 for the highest value; equal values are ranked at random."""
    enlarged = np.asarray(Image.fromarray(class_map).resize((side, side), Image.Resampling.BILINEAR))
    chance = np.random.default_rng(seed).random(enlarged.size)
    # flat parts of a map would otherwise be ranked from the top left corner on, which is no map's doing
    order = np.lexsort((chance, -enlarged.ravel()))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return rank.reshape(enlarged.shape)


def area(values: NDArray[np.float64]) -> float:
    """Return the area under values at equal steps from 0 to 1, by trapezoids."""
    return float((values[1:] + values[:-1]).mean() / 2)


def imputed(levels: Levels, hole: Bools, seed: int) -> Levels:
    """Return a slice (S, S) with a hole (S, S) filled: each pixel the weighted mean of its eight neighbours, and noise.

    Neighbours straight across weigh twice as much as diagonal ones; those beyond the edge do not count.
    """
    return fill_hole(levels, hole, EIGHT, tolerance=TOLERANCE, noise=ROAD_NOISE, seed=seed)


def fill_hole(
    levels: Levels,
    hole: Bools,
    weights: Mapping[tuple[int, int], float],
    *,
    tolerance: float,
    noise: float = 0.0,
    seed: int = 0,
) -> Levels:
    """Return a slice (S, S) with a hole (S, S) in which each pixel is the weighted mean of its neighbours, plus noise.

    Neighbours beyond the edge of the slice do not count. Without a hole, or where all is hole, nothing changes.

    Args:
        levels: the slice.
        hole: the pixels to fill; their own grey levels do not count.
        weights: of a pixel's neighbours by their offset (rows, columns); the same for opposite offsets.
        tolerance: of the residual, relative to the right-hand side.
        noise: standard deviation in grey levels.
        seed: of the noise.
    """
    if not hole.any() or hole.all():
        return levels
    matrix, constant = _mean_equations(levels, hole, weights)
    # the matrix is symmetric and positive definite, as every pixel of the hole is linked to a known one by neighbours;
    # conjugate gradients from a blurred slice need a fraction of the time of a factorisation where most pixels are hole
    start = ndimage.gaussian_filter(levels.astype(np.float64), BLUR * hole.shape[0])[hole]
    solution, _ = cg(matrix, constant, x0=start, rtol=tolerance)
    if noise:
        solution = solution + np.random.default_rng(seed).normal(0, noise, len(solution))
    result = levels.copy()
    result[hole] = np.rint(solution).clip(0, 255)
    return result


def _mean_equations(
    levels: Levels, hole: Bools, weights: Mapping[tuple[int, int], float]
) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
    """Return the equations of the K pixels of a hole: a (K, K) matrix and what their known neighbours add, (K,).

    A row says: total weight of the neighbours, times the pixel, minus its weighted unknown neighbours, is the weighted
    sum of the known ones.
    """
    pixels = np.argwhere(hole)
    count = len(pixels)
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(count)
    constant, total = np.zeros(count), np.zeros(count)
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    entries: list[NDArray[np.float64]] = []
    for offset, weight in weights.items():
        beside = pixels + np.array(offset)
        inside = ((beside >= 0) & (beside < hole.shape)).all(axis=1)
        row, neighbours = np.flatnonzero(inside), tuple(beside[inside].T)
        total[row] += weight
        unknown = hole[neighbours]
        constant[row[~unknown]] += weight * levels[neighbours][~unknown]
        rows.append(row[unknown])
        columns.append(number[neighbours][unknown])
        entries.append(np.full(int(unknown.sum()), -weight))
    coordinates = (np.concatenate(rows), np.concatenate(columns))
    links = sparse.csr_matrix((np.concatenate(entries), coordinates), shape=(count, count))
    return sparse.diags(total, format="csr") + links, constant
