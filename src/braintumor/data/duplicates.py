"""Which images show the same slice: near-identical, slightly cropped, mirrored or turned ones.

Two slices are compared by their structure: grey levels minus their surroundings, over the local contrast, on 24 x 24
pixels. So a change of brightness, contrast, gamma or compression matters little, while a neighbouring slice of the same
patient differs. They are compared as whole pictures, by the head's box, and with one of them cropped by 5 %.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.miniatures import NO_BOX, Miniatures
from braintumor.data.miniatures import SIDE as SOURCE_SIDE

RELATED: Final = 0.9
"""Similarity above which two slices are of one patient: duplicates, or neighbours whose patient is not named.

Fixed on 590 pairs labelled by eye, see docs/concepts/leakage.md.
"""
SIDE: Final = 24
SIGMA: Final = 1.5
CONTRAST_FLOOR: Final = 0.03
FLAT: Final = 1e-3
CROP: Final = 0.05
BLOCK: Final = 512
WORKERS: Final = 2
ORIENTATIONS: Final = tuple((mirrored, turns) for mirrored in (0, 1) for turns in range(4))

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Window = tuple[float, float, float, float]
CROPS: Final = tuple(
    (top, top + 1 - CROP, left, left + 1 - CROP) for top in (0, 0.025, 0.05) for left in (0, 0.025, 0.05)
)
WHOLE: Final = (0.0, 1.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of similar slices, the first from one set and the second from another or the same.

    Attributes:
        first: (P,) positions in the one set.
        second: (P,) positions in the other.
        score: (P,) float32 similarity, at most 1.
        orientation: (P,) index into `ORIENTATIONS`: the first, mirrored if told so and then turned counter-clockwise
            by so many quarters, looks like the second.
        window: (P, 2, 4) float32 top, bottom, left, right of what was compared, as shares of either picture.
    """

    first: Integers
    second: Integers
    score: Floats
    orientation: Integers
    window: Floats

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first)

    def __getitem__(self, which: NDArray[np.generic]) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(
            self.first[which], self.second[which], self.score[which], self.orientation[which], self.window[which]
        )


@dataclass(frozen=True, eq=False)
class View:
    """One way in which two sets are compared.

    Attributes:
        mine: (N, 24, 24) structure of the one set.
        theirs: (M, 24, 24) structure of the other.
        windows: what is compared of either set's pictures: (N or 1, 4) and (M or 1, 4).
        symmetric: exchanging a pair's members gives the same similarity.
    """

    mine: Floats
    theirs: Floats
    windows: tuple[Floats, Floats]
    symmetric: bool


def similar_pairs(a: Miniatures, b: Miniatures | None = None, threshold: float = RELATED) -> Pairs:
    """Return all pairs whose similarity exceeds the threshold, each once with its best view, sorted by positions.

    Args:
        a: N slices.
        b: M slices; by default `a` itself, with first < second.
        threshold: smallest similarity.
    """
    within = b is None
    found = joined([pairs_of(view, threshold, within) for view in views(a, a if b is None else b, within)])
    return best_of(turned_round(found) if within else found, len(a) if b is None else len(b))


def views(a: Miniatures, b: Miniatures, within: bool) -> Iterator[View]:
    """Yield the ways in which two sets are compared, all crops of either side included."""
    wholes = structure(a.whole), structure(b.whole)
    full = NO_BOX
    yield View(*wholes, (full, full), symmetric=True)
    yield View(structure(a.head), structure(b.head), (a.box, b.box), symmetric=True)
    for crop in CROPS:
        window = np.array([crop], np.float32)
        yield View(structure(a.whole, crop), wholes[1], (window, full), symmetric=False)
        if not within:
            yield View(wholes[0], structure(b.whole, crop), (full, window), symmetric=False)


def structure(levels: NDArray[np.uint8], window: Window = WHOLE) -> Floats:
    """Return the (N, 24, 24) float32 structure of (N, 48, 48) grey levels in a window, with mean 0 and norm 1.

    It is the root of the grey level minus its Gaussian mean, over the Gaussian root mean square of that difference. A
    picture without contrast gives zeros, which resemble nothing, not even each other.
    """
    rows, columns = sampling(window[0], window[1]), sampling(window[2], window[3])
    gauss = gaussian()
    result = np.empty((len(levels), SIDE, SIDE), np.float32)
    for start in range(0, len(levels), BLOCK):
        grey = rows @ np.sqrt(levels[start : start + BLOCK] / np.float32(255)) @ columns.T
        detail = grey - gauss @ grey @ gauss.T
        contrast = np.sqrt(np.maximum(gauss @ (detail * detail) @ gauss.T, 0))
        values = detail / (contrast + np.float32(CONTRAST_FLOOR))
        values -= values.mean(axis=(1, 2), keepdims=True)
        norm = np.linalg.norm(values, axis=(1, 2), keepdims=True)
        result[start : start + BLOCK] = np.where(norm > FLAT, values / np.maximum(norm, FLAT), 0)
    return result


@cache
def sampling(low: float, high: float) -> Floats:
    """Return the (24, 48) matrix that averages 48 pixels between two shares of the side to 24, by area."""
    edges = np.linspace(low, high, SIDE + 1) * SOURCE_SIDE
    pixel = np.arange(SOURCE_SIDE)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = overlap.clip(min=0)
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


@cache
def gaussian() -> Floats:
    """Return the (24, 24) matrix of a Gaussian mean, renormalised at the borders."""
    position = np.arange(SIDE)
    weights = np.exp(-0.5 * ((position[:, None] - position) / SIGMA) ** 2)
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def pairs_of(view: View, threshold: float, within: bool) -> Pairs:
    """Return the pairs of one view; within one set those with first < second, in a symmetric view each once."""
    ours, theirs = parts(view.mine), (parts(view.theirs), parts(view.theirs.transpose(0, 2, 1)))

    def search(start: int) -> Integers:
        mine = tuple(part[start : start + BLOCK] for part in ours)
        skipped = start if within and view.symmetric else 0
        best = np.maximum(*(largest(mine, [part[skipped:] for part in other]) for other in theirs))
        where: Integers = np.argwhere(best > threshold) + np.array([start, skipped])
        return where

    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(search, range(0, len(view.mine), BLOCK)))
    where = np.concatenate([np.empty((0, 2), np.int64), *found])
    where = where[where[:, 0] < where[:, 1]] if within and view.symmetric else where
    where = where[where[:, 0] != where[:, 1]] if within else where
    return described(view, where[:, 0], where[:, 1])


def parts(pictures: Floats) -> tuple[Floats, ...]:
    """Return the four parts (N, 144) of (N, 24, 24) pictures that are even or odd under the two mirrors.

    In the order even, odd in x, odd in y, odd in both. The inner product of two pictures is the sum of those of the
    parts; a mirror in x changes the sign of the parts odd in x, so one set of products serves four orientations.
    """
    half = SIDE // 2
    left, right = pictures[:, :, :half], pictures[:, :, : half - 1 : -1]
    folded = [
        top + sign_y * bottom
        for sign_y in (1, -1)
        for side in (left + right, left - right)
        for top, bottom in [(side[:, :half], side[:, : half - 1 : -1])]
    ]
    return tuple(np.ascontiguousarray(part.reshape(len(pictures), half * half) / 2) for part in folded)


def largest(mine: tuple[Floats, ...], theirs: list[Floats]) -> Floats:
    """Return (N, M): the largest correlation over the four mirrorings, from the parts of both sets."""
    even, odd_x, odd_y, odd = (a @ b.T for a, b in zip(mine, theirs, strict=True))
    same: Floats = even + odd
    same += np.abs(odd_x + odd_y)
    even -= odd
    odd_x -= odd_y
    even += np.abs(odd_x, out=odd_x)
    np.maximum(same, even, out=same)
    return same


def described(view: View, first: Integers, second: Integers) -> Pairs:
    """Return pairs with similarity, orientation and windows, computed pair by pair."""
    score, orientation = np.empty(len(first), np.float32), np.empty(len(first), np.int64)
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        theirs = view.theirs[second[part]]
        products = np.stack(
            [np.einsum("pij,pij->p", oriented(view.mine[first[part]], o), theirs) for o in range(len(ORIENTATIONS))]
        )
        score[part], orientation[part] = products.max(axis=0), products.argmax(axis=0)
    mine, other = view.windows
    window = np.stack(
        [
            mine[first] if len(mine) > 1 else np.repeat(mine, len(first), 0),
            other[second] if len(other) > 1 else np.repeat(other, len(first), 0),
        ],
        axis=1,
    )
    return Pairs(first, second, score, orientation, window)


def oriented(pictures: Floats, orientation: int) -> Floats:
    """Return (N, S, S) pictures in one of `ORIENTATIONS`: mirrored left-right or not, then turned."""
    mirrored, turns = ORIENTATIONS[orientation]
    return np.rot90(pictures[:, :, ::-1] if mirrored else pictures, turns, axes=(1, 2))


def inverse(orientation: int) -> int:
    """Return the orientation that undoes another: a mirror image undoes itself, a turn is turned back."""
    mirrored, turns = ORIENTATIONS[orientation]
    return orientation if mirrored else ORIENTATIONS.index((0, -turns % 4))


def joined(found: list[Pairs]) -> Pairs:
    """Return the pairs of several searches one after the other."""
    names = ("first", "second", "score", "orientation", "window")
    return Pairs(*(np.concatenate([getattr(pairs, name) for pairs in found]) for name in names))


def best_of(pairs: Pairs, size: int) -> Pairs:
    """Return each pair once, as it scored highest, sorted by positions. Within one set the smaller position is first.

    Args:
        pairs: with repetitions.
        size: of the second set.
    """
    order = np.lexsort((-pairs.score, pairs.second, pairs.first))
    key = (pairs.first * size + pairs.second)[order]
    return pairs[order[np.append(True, key[1:] != key[:-1])]] if len(order) else pairs


def turned_round(pairs: Pairs) -> Pairs:
    """Return the pairs with first < second: where it is the other way, the members are exchanged."""
    wrong = pairs.first > pairs.second
    first, second = np.where(wrong, [pairs.second, pairs.first], [pairs.first, pairs.second])
    undone = np.array([inverse(o) for o in range(len(ORIENTATIONS))])
    orientation = np.where(wrong, undone[pairs.orientation], pairs.orientation)
    window = np.where(wrong[:, None, None], pairs.window[:, ::-1], pairs.window)
    return Pairs(first, second, pairs.score, orientation, window)


def components(size: int, links: Integers) -> Integers:
    """Return (size,) numbers of the connected components, in the order of their first members.

    Args:
        size: number of nodes.
        links: (L, 2) pairs of linked nodes, in either direction.
    """
    both = np.concatenate([links, links[:, ::-1]])
    smallest, before = np.arange(size), np.full(size, -1)
    while (smallest != before).any():
        before = smallest.copy()
        np.minimum.at(smallest, both[:, 0], smallest[both[:, 1]])
        smallest = smallest[smallest]  # every node points at a node of its component that comes earlier
    return np.unique(smallest, return_inverse=True)[1].astype(np.int64)
