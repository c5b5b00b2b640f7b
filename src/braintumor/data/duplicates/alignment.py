"""Decide whether two similar slices are the same slice: align one to the other, then compare their details.

Neighbouring slices of one patient resemble each other in the large as much as a sharpened or framed copy resembles its
original. They differ in the details, at the scale of 1 % of the side, once the pictures lie exactly on each other.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates.descriptors import gaussian_mean
from braintumor.data.duplicates.pairs import RELATED, Integers, Pairs, similar_pairs
from braintumor.data.duplicates.symmetries import ORIENTATIONS, Floats
from braintumor.data.duplicates.thumbnails import FINE_SIDE as SIDE
from braintumor.data.duplicates.thumbnails import Thumbnails

CANDIDATE: Final = 0.8
"""Similarity above which two slices are compared in detail: copies that were sharpened, framed or cropped reach it.

No duplicate among 90 pairs labelled by eye with a similarity of 0.75 to 0.80; see benchmarks/duplicate_labels.py.
"""
DUPLICATE: Final = 0.82
"""Similarity in detail above which two candidates show the same slice.

Fixed on one half of 590 pairs labelled by eye and checked on the other; see benchmarks/duplicate_labels.py.
"""
SIGMA: Final = 0.8
CONTRAST_FLOOR: Final = 0.06
STEPS: Final = 3
REACH: Final = 0.1  # of the window: how far an edge may move
COVER: Final = 0.6  # of the window: how much of it must show the picture
FLAT: Final = 0.01
STIFFNESS: Final = 2e-4  # of the trace of the curvature
BLOCK: Final = 256
WORKERS: Final = 2
CENTRES: Final = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)  # of the pixels, as shares of the side


def related(a: Thumbnails, b: Thumbnails | None = None) -> tuple[Pairs, NDArray[np.bool_]]:
    """Return all P pairs that must stay in the same split, and whether each (P,) shows one slice.

    The others are so similar that they are of one patient: neighbouring slices, or two series of one place.

    Args:
        a: N slices.
        b: M slices; by default `a` itself, with first < second.
    """
    pairs = similar_pairs(a, b, CANDIDATE)
    same = same_slice(pairs, a, a if b is None else b)
    kept = same | (pairs.score > RELATED)
    return pairs[kept], same[kept]


def same_slice(pairs: Pairs, a: Thumbnails, b: Thumbnails) -> NDArray[np.bool_]:
    """Return (P,) whether each pair shows the same slice.

    Args:
        pairs: from `similar_pairs`, with a threshold of at most `CANDIDATE` if none is to be missed.
        a: the slices that `pairs.first` counts.
        b: the slices that `pairs.second` counts.
    """
    same = np.zeros(len(pairs), np.bool_)
    candidates = np.flatnonzero(pairs.score > CANDIDATE)
    same[candidates] = detail_similarity(pairs[candidates], a, b, DUPLICATE) > DUPLICATE
    return same


def detail_similarity(pairs: Pairs, a: Thumbnails, b: Thumbnails, enough: float = 1.0) -> Floats:
    """Return (P,) float32 similarity in detail, at most 1: the correlation once the first lies best on the second.

    Args:
        pairs: P pairs.
        a: the slices that `pairs.first` counts.
        b: the slices that `pairs.second` counts.
        enough: a pair that is more similar than this is not aligned further.
    """

    def of_block(start: int) -> Floats:
        batch = pairs[np.arange(start, min(start + BLOCK, len(pairs)))]
        first, windows = turned(_detail(a.fine[batch.first]), batch.window[:, 0], batch.orientation)
        return aligned(first, windows, cut(_detail(b.fine[batch.second]), batch.window[:, 1]), enough)

    with ThreadPoolExecutor(WORKERS) as pool:
        return np.concatenate([np.empty(0, np.float32), *pool.map(of_block, range(0, len(pairs), BLOCK))])


def _detail(levels: NDArray[np.uint8]) -> Floats:
    """Return the (N, 64, 64) float32 detail: the root grey level minus its Gaussian mean, over the local contrast."""
    gauss = gaussian_mean(SIDE, SIGMA)
    grey = np.sqrt(levels / np.float32(255))
    difference = grey - gauss @ grey @ gauss.T
    contrast = np.sqrt(np.maximum(gauss @ (difference * difference) @ gauss.T, 0))
    result: Floats = difference / (contrast + np.float32(CONTRAST_FLOOR))
    return result


def turned(pictures: Floats, windows: Floats, orientation: Integers) -> tuple[Floats, Floats]:
    """Return (N, S, S) pictures in their orientations (N,), and their (N, 4) windows, which turn with them."""
    pictures, windows = pictures.copy(), windows.copy()
    for number, (mirrored, turns) in enumerate(ORIENTATIONS):
        chosen = orientation == number
        picture, (top, bottom, left, right) = pictures[chosen], windows[chosen].T
        if mirrored:
            picture, left, right = picture[:, :, ::-1], 1 - right, 1 - left
        for _ in range(turns):  # counter-clockwise: the right edge becomes the upper one
            top, bottom, left, right = 1 - right, 1 - left, top, bottom
        pictures[chosen] = np.rot90(picture, turns, axes=(1, 2))
        windows[chosen] = np.stack([top, bottom, left, right], axis=1)
    return pictures, windows


def cut(pictures: Floats, windows: Floats) -> Floats:
    """Return what (N, S, S) pictures show in windows, as (N, S, S), interpolated linearly."""
    rows, columns = (_interpolation(_places(edges)) for edges in (windows[:, :2], windows[:, 2:]))
    shown: Floats = np.matmul(np.matmul(rows, pictures), columns.transpose(0, 2, 1))
    return shown


def _places(edges: Floats) -> Floats:
    """Return where the (N, 64) pixel centres between two (N, 2) edges lie, as shares of the side."""
    return edges[:, :1] + (edges[:, 1:] - edges[:, :1]) * CENTRES


def _interpolation(position: Floats) -> Floats:
    """Return the (N, 64, 64) weights of linear interpolation at (N, 64) shares of the side."""
    pixel = (position * SIDE - np.float32(0.5)).clip(0, SIDE - 1)
    weights: Floats = np.maximum(0, 1 - np.abs(pixel[:, :, None] - np.arange(SIDE, dtype=np.float32)))
    return weights


def aligned(pictures: Floats, windows: Floats, targets: Floats, enough: float) -> Floats:
    """Return (N,) the largest correlation of what pictures show in a window with targets, as its edges move.

    The four edges move by Gauss-Newton steps on the squared difference, so shift and stretch are found together.

    Args:
        pictures: (N, S, S) details.
        windows: (N, 4) top, bottom, left, right to begin with, as shares of the side.
        targets: (N, S, S) details that the windows should show.
        enough: pairs that correlate more than this are left as they are.
    """
    best, edges = np.full(len(pictures), -1, np.float32), windows.copy()
    active = np.arange(len(pictures))  # pairs that are not similar enough yet
    for step in range(STEPS + 1):
        shown = cut(pictures[active], edges[active])
        inside = _covered(edges[active])
        shown, target = _standardised(shown, inside), _standardised(targets[active], inside)
        score = np.einsum("nij,nij->n", shown, target)
        # a step may make it worse, so the best one counts; a window that shows too little of the picture fits anything
        best[active] = np.maximum(best[active], np.where(inside.mean(axis=(1, 2)) > COVER, score, -1))
        unlike = best[active] <= enough
        if step == STEPS or not unlike.any():
            break
        active, shown, target, inside = active[unlike], shown[unlike], target[unlike], inside[unlike]
        size = np.repeat(windows[active][:, 1::2] - windows[active][:, ::2], 2, axis=1)
        moved = edges[active] + _movement(shown, target, inside) * size
        # not further than REACH from where it began: two neighbouring slices could be stretched onto each other
        edges[active] = moved.clip(windows[active] - REACH * size, windows[active] + REACH * size)
    return best


def _covered(windows: Floats) -> Floats:
    """Return (N, 64, 64) ones where a window shows the picture, zeros where it reaches beyond."""
    rows, columns = (
        ((position >= 0) & (position <= 1)).astype(np.float32)
        for position in (_places(windows[:, :2]), _places(windows[:, 2:]))
    )
    inside: Floats = rows[:, :, None] * columns[:, None, :]
    return inside


def _standardised(pictures: Floats, inside: Floats) -> Floats:
    """Return (N, S, S) pictures with mean 0 and norm 1 inside, 0 outside; zeros where there is no contrast."""
    count = np.maximum(inside.sum(axis=(1, 2)), 1)
    mean = np.einsum("nij,nij->n", pictures, inside) / count
    centred = (pictures - mean[:, None, None]) * inside
    norm = np.sqrt(np.einsum("nij,nij->n", centred, centred))[:, None, None]
    result: Floats = np.where(norm > FLAT, centred / np.maximum(norm, FLAT), 0)
    return result


def _movement(shown: Floats, target: Floats, inside: Floats) -> Floats:
    """Return (N, 4) by how much top, bottom, left and right should move, as shares of the window's height and width."""
    down, across = np.zeros_like(shown), np.zeros_like(shown)
    down[:, 1:-1] = (shown[:, 2:] - shown[:, :-2]) * (SIDE / 2) * inside[:, 1:-1]
    across[:, :, 1:-1] = (shown[:, :, 2:] - shown[:, :, :-2]) * (SIDE / 2) * inside[:, :, 1:-1]
    # moving one edge moves a row by its distance from the opposite edge: a linear weight per edge
    near_end, near_start = CENTRES, 1 - CENTRES
    change = np.stack(
        [down * near_start[:, None], down * near_end[:, None], across * near_start, across * near_end], axis=1
    ).reshape(len(shown), 4, -1)
    curvature = change @ change.transpose(0, 2, 1)
    # Levenberg-Marquardt damping, relative to the curvature: a picture without edges in one direction would make the
    # equations singular
    stiffness = STIFFNESS * np.trace(curvature, axis1=1, axis2=2) + 1e-6
    curvature += stiffness[:, None, None] * np.eye(4, dtype=np.float32)
    slope = change @ (target - shown).reshape(len(shown), -1, 1)
    steps: Floats = np.linalg.solve(curvature, slope)[:, :, 0]
    return steps.clip(-REACH / 2, REACH / 2)
