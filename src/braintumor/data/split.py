"""Divide a data set into splits or folds: whole groups only, every class in proportion."""

import dataclasses
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row, leaks
from braintumor.errors import DataError

__all__ = ["fold_numbers", "leaks", "split"]

Integers = NDArray[np.int64]


def split(manifest: Manifest, fraction: float = 0.15, seed: int = 0, part: str = "val") -> Manifest:
    """Return the manifest with about `fraction` of the training images of every class moved to `part`.

    Rows whose split is train or empty take part; those that stay become train, rows of other splits are unchanged.
    A group moves as a whole; a row without a group is a group of its own. The groups are drawn in random order, so
    that large ones are as likely to move as small ones, and moved while this brings the class counts closer to the
    wanted ones. The result depends on seed and rows, not on their order.

    Raises:
        DataError: a class has fewer than two groups to divide between train and `part`.
        ValueError: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1, got {fraction}")
    groups = _movable_groups(manifest)
    counts = np.array([[[row.label for row in rows].count(label) for label in CLASSES] for rows in groups])
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen = _choose(counts.reshape(-1, len(CLASSES)), order, fraction, part)
    moved = {row.image for index in chosen for row in groups[index]}
    stay = {"": "train"}  # rows without a split become training rows
    rows = (
        dataclasses.replace(row, split=part if row.image in moved else stay.get(row.split, row.split))
        for row in manifest.rows
    )
    return Manifest(manifest.root, tuple(rows))


def _movable_groups(manifest: Manifest) -> list[list[Row]]:
    """Return the training rows by group, in the order of each group's first image name."""
    # the kind stands in the key, since a group may be called like the image of another row
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(manifest.rows, key=lambda row: row.image):
        if row.split in ("train", ""):
            groups["group" if row.group else "image", row.group or row.image].append(row)
    return list(groups.values())


def _choose(counts: NDArray[np.int64], order: NDArray[np.int64], fraction: float, part: str) -> list[int]:
    """Return the indices of the groups to move, given the (groups, classes) number of images in each.

    Raises:
        DataError: a class of which one side would get no image.
    """
    total = counts.sum(axis=0)
    target, moved, chosen = fraction * total, np.zeros_like(total), list[int]()
    scale = np.maximum(target, 1)  # relative to the wanted count, so that small classes weigh as much
    for index in order:
        # a group moves only if that brings the counts nearer to the target and leaves every class some training images
        with_it = moved + counts[index]
        nearer = np.linalg.norm((with_it - target) / scale) < np.linalg.norm((moved - target) / scale)
        if nearer and _leaves_some(with_it, total):
            moved, chosen = with_it, [*chosen, int(index)]
    # the greedy pass may leave out a small class altogether; it then gets its smallest group that can be spared
    for label in np.flatnonzero((moved == 0) & (total > 0)):
        spare = [int(index) for index in order if counts[index, label] and _leaves_some(moved + counts[index], total)]
        if not spare:
            name, groups = CLASSES[label], np.count_nonzero(counts[:, label])
            raise DataError(
                f"{name} has too few groups ({groups}, {total[label]} images) to give both train and {part} one; "
                f"add images of other patients, or provide the {part} images in a folder of their own"
            )
        # the smallest, as it disturbs the proportions of the other classes least
        smallest = min(spare, key=lambda index: int(counts[index].sum()))
        moved, chosen = moved + counts[smallest], [*chosen, smallest]
    return chosen


def _leaves_some(moved: NDArray[np.int64], total: NDArray[np.int64]) -> bool:
    """Return whether every class that there is keeps an image on the training side."""
    return bool((moved[total > 0] < total[total > 0]).all())


def fold_numbers(groups: Integers, labels: Integers, given: Integers | None = None, *, folds: int = 5) -> Integers:
    """Return (N,) the fold of each image, 0 to folds - 1: whole groups, every class in proportion.

    The groups are placed from the largest to the smallest, each in the fold that lacks most of its classes.

    Args:
        groups: (N,) group of each image.
        labels: (N,) class of each image, in the order of `CLASSES`.
        given: (N,) folds that are fixed already, -1 where they are not; they hold for the whole group.
        folds: how many.

    Raises:
        DataError: a group with two given folds, or fewer groups than folds.
    """
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise DataError(f"{len(names)} groups cannot be divided into {folds} folds; add images of other patients")
    counts = np.zeros((len(names), len(CLASSES)), np.int64)
    np.add.at(counts, (members, labels), 1)
    fixed = _given_folds(members, len(names), given)
    target = np.maximum(counts.sum(axis=0) / folds, 1)
    filled = np.array([counts[fixed == fold].sum(axis=0) for fold in range(folds)])
    chosen = fixed.copy()
    # large groups first: while the folds are empty they still fit anywhere, and small ones even out what is left
    for group in sorted(np.flatnonzero(fixed < 0), key=lambda group: (-counts[group].sum(), group)):
        # how much the squared, relative distance from the wanted counts would grow in each fold, (folds, classes)
        need = ((filled + counts[group] - target) / target) ** 2 - ((filled - target) / target) ** 2
        fold = int(need.sum(axis=1).argmin())
        chosen[group] = fold
        filled[fold] += counts[group]
    return chosen[members]


def _given_folds(members: Integers, size: int, given: Integers | None) -> Integers:
    """Return (size,) the fixed fold of each group, -1 where it has none.

    Raises:
        DataError: a group with two folds.
    """
    fixed = np.full(size, -1, np.int64)
    if given is not None:
        fixed[members[given >= 0]] = given[given >= 0]
        # of two folds for one group the later one was written: reading back shows the other as different
        if (fixed[members[given >= 0]] != given[given >= 0]).any():
            raise DataError("a group of images lies in two published folds; the groups or the folds were changed")
    return fixed
