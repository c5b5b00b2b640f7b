"""Find pairs of images that show the same slice: near-identical, slightly cropped, mirrored or turned ones.

Two slices are compared by their structure: grey levels minus their surroundings, over the local contrast, on 24 x 24
pixels. So a change of brightness, contrast, gamma or compression matters little, while a neighbouring slice of the same
patient differs. They are compared as whole pictures, by the head's box, and with one of them cropped by 5 %.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from braintumor.data.duplicates.descriptors import SIDE, WHOLE, Floats, Window, structure_descriptor
from braintumor.data.duplicates.search import Index, build_index
from braintumor.data.duplicates.symmetries import ORIENTATIONS, inverse, oriented
from braintumor.data.duplicates.thumbnails import NO_BOX, Thumbnails

RELATED: Final = 0.9
"""Similarity above which two slices are of one patient: duplicates, or neighbours whose patient is not named.

Fixed on 590 pairs labelled by eye, see docs/concepts/leakage.md.
"""
CROP: Final = 0.05
BLOCK: Final = 512
WORKERS: Final = 2
LARGE: Final = 20_000
SAMPLE: Final = 2000
CHUNK: Final = 1024

Integers = NDArray[np.int64]
CROPS: Final = tuple(
    (top, top + 1 - CROP, left, left + 1 - CROP) for top in (0, 0.025, 0.05) for left in (0, 0.025, 0.05)
)


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of similar slices, the first from one set and the second from another or the same.

    Attributes:
        first: (P,) positions in the one set.
        second: (P,) positions in the other.
        score: (P,) float32 similarity, at most 1.
        orientation: (P,) index into `ORIENTATIONS`: the first, mirrored or not and then turned counter-clockwise
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

    def __getitem__(self, index: NDArray[np.generic]) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(
            self.first[index], self.second[index], self.score[index], self.orientation[index], self.window[index]
        )


@dataclass(frozen=True, eq=False)
class ComparedSet:
    """One set as it is compared.

    Attributes:
        levels: (N, 48, 48) grey levels.
        crop: the part of them that is compared, as shares of the side.
        window: (N or 1, 4) that crop as shares of the whole pictures.
        structures: (N, 24, 24) structure; None where a set is too large to keep it.
    """

    levels: NDArray[np.uint8]
    crop: Window
    window: Floats
    structures: Floats | None

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.levels)

    def structure(self, index: Integers | slice) -> Floats:
        """Return the structure of some slices."""
        return (
            structure_descriptor(self.levels[index], self.crop) if self.structures is None else self.structures[index]
        )

    @cached_property
    def index(self) -> Index:
        """Return the index of all slices."""
        count = len(self)
        # sorted, as reading in order is faster; drawn with a fixed seed, so that an audit repeats itself
        sample = self.structure(np.sort(np.random.default_rng(0).permutation(count)[:SAMPLE]))
        return build_index(sample, (self.structure(slice(start, start + CHUNK)) for start in range(0, count, CHUNK)))

    def part(self, index: slice) -> "ComparedSet":
        """Return some slices as a set of their own, whose structure is kept."""
        window = self.window[index] if len(self.window) > 1 else self.window
        return ComparedSet(self.levels[index], self.crop, window, self.structure(index))


@dataclass(frozen=True, eq=False)
class View:
    """One way in which two sets are compared.

    Attributes:
        mine: the one set.
        theirs: the other.
        symmetric: exchanging a pair's members gives the same similarity.
    """

    mine: ComparedSet
    theirs: ComparedSet
    symmetric: bool


def similar_pairs(a: Thumbnails, b: Thumbnails | None = None, threshold: float = RELATED) -> Pairs:
    """Return all pairs whose similarity exceeds the threshold, each once with its best view, sorted by positions.

    In sets of more than 20,000 slices only the 30 nearest of a slice in each view and orientation are compared, and
    three crops are tried. On the public set 0.998 of the pairs above 0.9, 0.996 of those that are the same slice, and
    0.93 of those above 0.8 are found so; see benchmarks/duplicate_labels.py.

    Args:
        a: N slices.
        b: M slices; by default `a` itself, with first < second.
        threshold: smallest similarity.
    """
    within = b is None
    other = a if b is None else b
    # comparing all grows with the square: at 20,000 slices the index takes over
    approximate = max(len(a), len(other)) > LARGE
    search = _nearest_pairs if approximate else _pairs_of
    pairs = joined([search(view, threshold, within) for view in _views(a, other, within, not approximate)])
    return _best_of(_turned_round(pairs) if within else pairs, len(other))


def _views(a: Thumbnails, b: Thumbnails, within: bool, keep: bool) -> Iterator[View]:
    """Yield the ways in which two sets are compared: whole, by the head's box, and with either side cropped.

    Args:
        a: the one set.
        b: the other.
        within: both are one.
        keep: the structure is kept and all crops are tried; else the central one and two opposite ones.
    """

    def side(levels: NDArray[np.uint8], window: Floats, crop: Window = WHOLE) -> ComparedSet:
        return ComparedSet(levels, crop, window, structure_descriptor(levels, crop) if keep else None)

    wholes = side(a.whole, NO_BOX), side(b.whole, NO_BOX)
    yield View(*wholes, symmetric=True)
    yield View(side(a.head, a.box), side(b.head, b.box), symmetric=True)
    for crop in CROPS if keep else CROPS[::4]:
        window = np.array([crop], np.float32)
        yield View(side(a.whole, window, crop), wholes[1], symmetric=False)
        if not within:  # within one set the pair comes the other way round anyhow
            yield View(wholes[0], side(b.whole, window, crop), symmetric=False)


def _pairs_of(view: View, threshold: float, within: bool) -> Pairs:
    """Return the pairs of one view; within one set those with first < second, in a symmetric view each once."""
    everything = slice(None)
    ours, structures = parity_parts(view.mine.structure(everything)), view.theirs.structure(everything)
    # four mirrorings come from the parts, the other four orientations from the transposed pictures
    theirs = parity_parts(structures), parity_parts(structures.transpose(0, 2, 1))

    def search(start: int) -> Integers:
        mine = tuple(part[start : start + BLOCK] for part in ours)
        # the other half of a symmetric view holds the same pairs once more
        skipped = start if within and view.symmetric else 0
        best = np.maximum(*(largest(mine, [part[skipped:] for part in other]) for other in theirs))
        positions: Integers = np.argwhere(best > threshold) + np.array([start, skipped])
        return positions

    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(search, range(0, len(view.mine), BLOCK)))
    positions = np.concatenate([np.empty((0, 2), np.int64), *results])
    positions = positions[positions[:, 0] < positions[:, 1]] if within and view.symmetric else positions
    return _described(view, positions[positions[:, 0] != positions[:, 1]] if within else positions)


def _nearest_pairs(view: View, threshold: float, within: bool) -> Pairs:
    """Return the pairs of one view as `_pairs_of`, compared only with the nearest ones of an index."""
    index = view.theirs.index

    def search(start: int) -> Pairs:
        mine = view.mine.part(slice(start, start + CHUNK))
        first, second = index.candidates(mine.structure(slice(None)), threshold)
        distinct = first + start != second if within else slice(None)  # found from either side in a symmetric view
        pairs = _described(replace(view, mine=mine), np.stack([first, second], axis=1)[distinct])
        pairs = pairs[pairs.score > threshold]
        return replace(pairs, first=pairs.first + start)

    with ThreadPoolExecutor(WORKERS) as pool:
        return joined(list(pool.map(search, range(0, len(view.mine), CHUNK))))


def parity_parts(pictures: Floats) -> tuple[Floats, ...]:
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
    # |x| is the larger of x and -x, so each absolute value stands for two mirrorings; in place, since N x M is large
    same += np.abs(odd_x + odd_y)
    even -= odd
    odd_x -= odd_y
    even += np.abs(odd_x, out=odd_x)
    np.maximum(same, even, out=same)
    return same


def _described(view: View, positions: Integers) -> Pairs:
    """Return (P, 2) pairs with similarity, orientation and windows, computed pair by pair."""
    first, second = positions.T
    score, orientation = np.empty(len(first), np.float32), np.empty(len(first), np.int64)
    # the search above only says which pairs; score and orientation are computed again for these few, exactly
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        mine, theirs = view.mine.structure(first[part]), view.theirs.structure(second[part])
        products = np.stack([np.einsum("pij,pij->p", oriented(mine, o), theirs) for o in range(len(ORIENTATIONS))])
        score[part], orientation[part] = products.max(axis=0), products.argmax(axis=0)
    windows = [
        side.window[indices] if len(side.window) > 1 else np.repeat(side.window, len(indices), 0)
        for side, indices in ((view.mine, first), (view.theirs, second))
    ]
    return Pairs(first, second, score, orientation, np.stack(windows, axis=1))


def joined(results: list[Pairs]) -> Pairs:
    """Return the pairs of several searches one after the other."""
    names = ("first", "second", "score", "orientation", "window")
    return Pairs(*(np.concatenate([getattr(pairs, name) for pairs in results]) for name in names))


def _best_of(pairs: Pairs, size: int) -> Pairs:
    """Return each pair once, as it scored highest, sorted by positions. Within one set the smaller position is first.

    Args:
        pairs: with repetitions.
        size: of the second set.
    """
    # by first, then second, then falling score
    order = np.lexsort((-pairs.score, pairs.second, pairs.first))
    key = (pairs.first * size + pairs.second)[order]  # the best of each pair comes first of its run
    return pairs[order[np.append(True, key[1:] != key[:-1])]] if len(order) else pairs


def _turned_round(pairs: Pairs) -> Pairs:
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
    graph = sparse.coo_array((np.ones(len(links), np.bool_), (links[:, 0], links[:, 1])), shape=(size, size))
    labels = csgraph.connected_components(graph, directed=False)[1]
    # scipy does not promise in which order it numbers components, and group names must not depend on its version
    _, first, component = np.unique(labels, return_index=True, return_inverse=True)
    numbers: Integers = np.argsort(np.argsort(first))[component].astype(np.int64)
    return numbers
