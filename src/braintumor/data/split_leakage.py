"""Find the groups and patients that lie in more than one split, and the groups that carry two labels."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.data.duplicates.groups import GroupRow
from braintumor.data.duplicates.kinds import LISTED
from braintumor.data.manifest import Manifest
from braintumor.data.reference import Match

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """The groups: images linked by copies, similarity or patient.

    Attributes:
        number: of groups.
        largest: images in the largest.
        across_splits: groups with images in more than one split.
        with_two_labels: groups whose images have more than one label.
        mixed: of these at most 200, each with its images per class.
    """

    number: int
    largest: int
    across_splits: int
    with_two_labels: int
    mixed: tuple[tuple[str, dict[str, int]], ...]


@dataclass(frozen=True)
class Patients:
    """The patients, as far as they are known.

    Attributes:
        known_by: `reference` where images were matched with a reference folder, `shipped` where they were recognised as
            images of the public set.
        images: whose source slice and so patient is known, per class.
        number: of patients.
        held_out: patients with an image in the held-out part.
        shared: of these, with another image in training.
        other_label: images whose source slice has another label; None where that of the source is not known.
        other_labels: of these at most 200: image, its label, its source, the label of the source.
    """

    known_by: str
    images: dict[str, int]
    number: int
    held_out: int
    shared: int
    other_label: int | None
    other_labels: tuple[tuple[str, str, str, str], ...]


def grouping(groups: Integers, splits: Integers, labels: Integers, rows: Sequence[GroupRow]) -> Groups:
    """Return what the groups of N images are like.

    Args:
        groups: (N,) numbers from 0 on.
        splits: (N,) number of each image's split.
        labels: (N,) class of each image.
        rows: N lines of groups.csv.
    """
    seen_in, seen_as = (_several(groups, values) for values in (splits, labels))
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in np.flatnonzero(np.isin(groups, seen_as)).tolist():
        members[int(groups[index])].append(index)
    mixed = [
        (
            rows[images[0]].group,
            {label: n for i, label in enumerate(CLASSES) if (n := int((labels[images] == i).sum()))},
        )
        for _, images in sorted(members.items())[:LISTED]
    ]
    return Groups(
        number=len(np.unique(groups)),
        largest=int(np.bincount(groups).max()),
        across_splits=len(seen_in),
        with_two_labels=len(seen_as),
        mixed=tuple(mixed),
    )


def _several(groups: Integers, values: Integers) -> Integers:
    """Return the groups whose images have more than one of the (N,) values."""
    # each pair of group and value once: a group that is left several times has several values
    distinct = np.unique(np.stack([groups, values]), axis=1)[0]
    names, times = np.unique(distinct, return_counts=True)
    several: Integers = names[times > 1]
    return several


def patients_of(
    manifest: Manifest, rows: Sequence[GroupRow], matches: Sequence[Match | None] | None, held_out: str
) -> Patients | None:
    """Return the patients of N images, None where none is known.

    Args:
        manifest: N images.
        rows: N lines of groups.csv.
        matches: N source slices where there is a reference folder.
        held_out: name of the held-out split, empty if there is none.
    """
    named = [(image, row) for image, row in zip(manifest, rows, strict=True) if row.patient]
    if not named:
        return None
    held = {row.patient for image, row in named if held_out and image.split == held_out}
    training = {row.patient for image, row in named if image.split != held_out}
    other = [
        (row.image, row.label, source.reference_id, source.label)
        for row, source in (zip(manifest, matches, strict=True) if matches else ())
        if source and source.label != row.label
    ]
    counts = Counter(image.label for image, _ in named)
    return Patients(
        known_by="shipped" if matches is None else "reference",
        images={label: counts[label] for label in CLASSES},
        number=len(held | training),
        held_out=len(held),
        shared=len(held & training),
        other_label=None if matches is None else len(other),
        other_labels=tuple(other[:LISTED]),
    )
