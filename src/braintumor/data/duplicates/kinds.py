"""Classify pairs of copies by how close they are, count them, and list those that cross splits or classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates.alignment import related
from braintumor.data.duplicates.groups import same_name
from braintumor.data.duplicates.pairs import Pairs, joined
from braintumor.data.duplicates.symmetries import ORIENTATIONS
from braintumor.data.duplicates.thumbnails import NO_BOX, Thumbnails, sharing_bytes
from braintumor.data.manifest import Manifest

KINDS: Final = ("bytes", "pixels", "near", "turned", "related")
"""From the closest: same bytes, same decoded pixels, same slice, same slice mirrored or turned, related."""
COPIES: Final = KINDS[:-1]
RELATIONS: Final = (*KINDS, "group", "none")
"""Of a test image to training: its closest pair, else only its group, else nothing."""
LISTED: Final = 200
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CopyPairs:
    """P pairs of images.

    Attributes:
        pairs: positions, similarity, orientation.
        kind: (P,) index into `KINDS`.
    """

    pairs: Pairs
    kind: Integers


@dataclass(frozen=True)
class Count:
    """The number of copies of one kind.

    Attributes:
        pairs: all of them.
        images: that are in one.
        across_splits: pairs with one image in one split and one in another.
        across_classes: pairs whose images have two labels.
    """

    pairs: int
    images: int
    across_splits: int
    across_classes: int


@dataclass(frozen=True)
class Pair:
    """One pair for a list.

    Attributes:
        images: both paths.
        labels: both labels.
        splits: both splits.
        score: similarity, at most 1.
        mirrored: the first must be mirrored left-right to look like the second.
        rotation: degrees by which it must then be turned counter-clockwise.
    """

    images: tuple[str, str]
    labels: tuple[str, str]
    splits: tuple[str, str]
    score: float
    mirrored: bool
    rotation: int


def find_copies(manifest: Manifest, pixels: Sequence[bytes], thumbnails: Thumbnails) -> CopyPairs:
    """Return all pairs of images that are copies or related, each with its kind.

    Images without structure (of one grey level) count as copies only by their bytes or pixels; of many such ones each
    is paired with the first.

    Args:
        manifest: N images.
        pixels: N hashes of the decoded pixels.
        thumbnails: N thumbnails.
    """
    pairs, same = related(thumbnails)
    size = len(manifest)
    names = [digest.hex() for digest in pixels]
    exact = np.array([*sharing_bytes(manifest), *same_name(names)], np.int64).reshape(-1, 2)
    exact_keys, listed_keys = exact @ np.array([size, 1]), pairs.first * size + pairs.second
    # identical pictures without structure resemble nothing by their descriptors, so the search does not return them
    missing = exact[~np.isin(exact_keys, listed_keys)]
    pairs = joined([pairs, _identical(np.unique(missing, axis=0))])
    same = np.append(same, np.ones(len(pairs) - len(same), np.bool_))
    # without a hash the path stands for the file, which then is identical to no other
    hashes = np.unique([row.sha256 or row.image for row in manifest], return_inverse=True)[1]
    pictures = np.unique(names, return_inverse=True)[1]
    # the first condition that holds counts: the kinds are sorted from the closest
    kind = np.select(
        [
            hashes[pairs.first] == hashes[pairs.second],
            pictures[pairs.first] == pictures[pairs.second],
            same & (pairs.orientation == 0),
            same,
        ],
        list(range(len(COPIES))),
        KINDS.index("related"),
    )
    return CopyPairs(pairs, kind.astype(np.int64))


def _identical(positions: Integers) -> Pairs:
    """Return positions (P, 2) as pairs of identical pictures."""
    # the whole of either picture: (P, 2, 4)
    window = np.repeat(NO_BOX[None], len(positions), 0).repeat(2, 1)
    ones = np.ones(len(positions), np.float32)
    return Pairs(positions[:, 0], positions[:, 1], ones, np.zeros(len(positions), np.int64), window)


def counts(copies: CopyPairs, splits: Integers, labels: Integers) -> dict[str, Count]:
    """Return how often each kind occurs.

    Args:
        copies: among N images.
        splits: (N,) number of each image's split.
        labels: (N,) class of each image.
    """
    result = {}
    for number, kind in enumerate(KINDS):
        first, second = (side[copies.kind == number] for side in (copies.pairs.first, copies.pairs.second))
        result[kind] = Count(
            pairs=len(first),
            images=len(np.union1d(first, second)),
            across_splits=int((splits[first] != splits[second]).sum()),
            across_classes=int((labels[first] != labels[second]).sum()),
        )
    return result


def closest_relations(copies: CopyPairs, groups: Integers, held_out: Flags) -> dict[str, int]:
    """Return how many held-out images have which closest relation to the other images, in the order of `RELATIONS`.

    Args:
        copies: among N images.
        groups: (N,) group of each.
        held_out: (N,) which are held out.
    """
    closest = np.where(np.isin(groups, groups[~held_out]), RELATIONS.index("group"), RELATIONS.index("none"))
    for one, other in ((copies.pairs.first, copies.pairs.second), (copies.pairs.second, copies.pairs.first)):
        across = held_out[one] & ~held_out[other]
        # unbuffered, as an image may stand in several pairs; kinds are numbered from the closest
        np.minimum.at(closest, one[across], copies.kind[across])
    return dict(
        zip(RELATIONS, np.bincount(closest[held_out], minlength=len(RELATIONS)).tolist(), strict=True),
    )


def listed(copies: CopyPairs, chosen: Flags, manifest: Manifest, groups: Integers) -> tuple[Pair, ...]:
    """Return at most 200 of the pairs: two labels first, then two splits, one pair of a group before its second.

    Args:
        copies: P pairs.
        chosen: (P,) which of them.
        manifest: the N images.
        groups: (N,) group of each.
    """
    pairs = copies.pairs[chosen]
    rows = manifest.rows
    labels = np.array([row.label for row in rows])
    splits = np.array([row.split for row in rows])
    # many copies of one slice make many pairs; the first of each group comes before the second of any
    repeat = np.ones(len(pairs), np.int64)
    repeat[np.unique(groups[pairs.first], return_index=True)[1]] = 0
    # the last key sorts first
    order = np.lexsort(
        (
            -pairs.score,
            repeat,
            splits[pairs.first] == splits[pairs.second],
            labels[pairs.first] == labels[pairs.second],
        )
    )
    return tuple(_pair(pairs, index, manifest) for index in order[:LISTED].tolist())


def _pair(pairs: Pairs, index: int, manifest: Manifest) -> Pair:
    """Return one pair for a list."""
    one, other = manifest.rows[int(pairs.first[index])], manifest.rows[int(pairs.second[index])]
    mirrored, turns = ORIENTATIONS[int(pairs.orientation[index])]
    return Pair(
        images=(one.image, other.image),
        labels=(one.label, other.label),
        splits=(one.split, other.split),
        score=min(1.0, round(float(pairs.score[index]), 4)),
        mirrored=bool(mirrored),
        rotation=90 * turns,
    )
