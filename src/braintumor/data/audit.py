"""Whether a data set can carry the numbers measured on it: copies, patients across splits, labels, files, shortcuts."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braintumor import __version__
from braintumor.classes import CLASSES, DISCLAIMER
from braintumor.data.copies import (
    COPIES,
    KINDS,
    LISTED,
    Copies,
    Count,
    Pair,
    closest_relations,
    counts,
    find_copies,
    listed,
)
from braintumor.data.groups import GroupRow, group_numbers, group_rows, recognised
from braintumor.data.layout import list_images
from braintumor.data.manifest import SPLITS, Manifest
from braintumor.data.miniatures import Miniatures, miniatures
from braintumor.data.quality import Facts, Look, Oddity, looks, oddities, quality
from braintumor.data.reference import Match, match, patients, read_reference
from braintumor.data.shortcuts import Shortcuts, shortcuts
from braintumor.errors import DataError
from braintumor.files import cache_folder

Integers = NDArray[np.int64]
Progress = Callable[[int, int], None]
Say = Callable[[str], None]


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


@dataclass(frozen=True)
class Audit:
    """What an audit found; all rates are fractions.

    Attributes:
        images: readable ones.
        counts: readable images per split and class; the split is empty in a data set without parts.
        unreadable: number of paths that are no readable image.
        unreadable_listed: at most 200 of them, each with its reason.
        copies: per kind of `copies.KINDS`.
        pairs: per kind at most 200 pairs.
        conflicts: copies with two labels, at most 200 pairs.
        held_out: the split whose images are related to the others: test, else val, empty if there is neither.
        relations: number of held-out images per closest relation to training, see `copies.RELATIONS`.
        groups: see `Groups`.
        patients: None where none is known.
        looks: per class.
        odd: per kind of `quality.ODDITIES`.
        shortcuts: None where there are too few groups to measure it.
        rows: the lines of groups.csv.
        date: ISO 8601, UTC.
    """

    images: int
    counts: dict[str, dict[str, int]]
    fingerprint: str
    unreadable: int
    unreadable_listed: dict[str, str]
    copies: dict[str, Count]
    pairs: dict[str, tuple[Pair, ...]]
    conflicts: tuple[Pair, ...]
    held_out: str
    relations: dict[str, int]
    groups: Groups
    patients: Patients | None
    looks: dict[str, Look]
    odd: dict[str, Oddity]
    shortcuts: Shortcuts | None
    rows: tuple[GroupRow, ...]
    date: str
    package_version: str = __version__
    disclaimer: str = DISCLAIMER

    @property
    def n_conflicts(self) -> int:
        """Return the number of pairs of copies with two labels."""
        return sum(self.copies[kind].across_classes for kind in COPIES)

    @property
    def n_held_out(self) -> int:
        """Return the number of held-out images."""
        return sum(self.relations.values())

    @property
    def sharing(self) -> int:
        """Return how many held-out images share a group with training."""
        return self.n_held_out - self.relations.get("none", 0)

    @property
    def leaks(self) -> bool:
        """Tell whether anything crosses splits."""
        return self.groups.across_splits > 0

    @property
    def one_size(self) -> bool:
        """Tell whether all images have the same size."""
        return all(look.sizes == 1 for look in self.looks.values()) and len({x.size for x in self.looks.values()}) == 1

    def to_json(self) -> dict[str, Any]:
        """Return the content of audit.json."""
        fields = dataclasses.asdict(dataclasses.replace(self, rows=()))
        del fields["rows"]
        summary = {"leak": self.leaks, "images_sharing_a_group_with_training": self.sharing}
        return {"disclaimer": fields.pop("disclaimer"), **summary, "label_conflicts": self.n_conflicts, **fields}


def audit(data_dir: Path, reference: Path | None, progress: Progress, say: Say) -> Audit:
    """Return the audit of a data folder; nothing is written but the cache.

    Args:
        data_dir: in one of the known layouts.
        reference: a reference folder, from which the images inherit patients. Without it, images of the public set are
            recognised and take theirs from the table shipped with the package.
        progress: called with the files read and in all.
        say: called with what is done next.

    Raises:
        DataError: no known layout, no readable image, or no such reference.
    """
    theirs = read_reference(reference) if reference else None
    listing = list_images(data_dir)
    say(f"reading {len(listing.manifest):,} images")
    looked = list(quality(listing.manifest, progress))
    unreadable = listing.skipped | {row.image: found for row, found in looked if isinstance(found, str)}
    readable = [(row, found) for row, found in looked if isinstance(found, Facts)]
    if not readable:
        raise DataError(f"none of the {len(looked)} images in {data_dir} can be read; copy them again")
    manifest, facts = Manifest(data_dir, tuple(row for row, _ in readable)), [found for _, found in readable]
    found, _ = miniatures(manifest, cache_folder())
    say(f"comparing {len(manifest):,} images with one another")
    copies = find_copies(manifest, [each.pixels for each in facts], found)
    matches: list[Match | None] = [None] * len(manifest)
    if theirs:
        say(f"comparing them with {len(theirs.manifest):,} reference slices")
        matches = match(found, theirs, miniatures(theirs.manifest, cache_folder())[0])
    groups = group_numbers(manifest, found, copies.pairs, patients(matches), use_shipped=theirs is None)
    rows = group_rows(manifest, groups, matches)
    if not theirs:
        rows = with_shipped(rows, manifest, found)
    say("measuring shortcuts")
    return judged(manifest, facts, copies, groups, rows, matches if theirs else None, unreadable)


def with_shipped(rows: list[GroupRow], manifest: Manifest, found: Miniatures) -> list[GroupRow]:
    """Return the lines with what the shipped table says about images of the public set."""
    known = recognised(manifest, found)
    return [
        dataclasses.replace(line, image=row.image, group=row.group) if line else row
        for row, line in zip(rows, known, strict=True)
    ]


def judged(
    manifest: Manifest,
    facts: Sequence[Facts],
    copies: Copies,
    groups: Integers,
    rows: list[GroupRow],
    matches: list[Match | None] | None,
    unreadable: dict[str, str],
) -> Audit:
    """Return the audit of N readable images from all that was found out about each.

    Args:
        manifest: N images.
        facts: of their N files.
        copies: among them.
        groups: (N,) group of each.
        rows: N lines of groups.csv.
        matches: N source slices where there is a reference folder.
        unreadable: reason of every path that is left out.
    """
    labels = np.array([CLASSES.index(row.label) for row in manifest], np.int64)
    splits = np.array([(*SPLITS, "").index(row.split) for row in manifest], np.int64)
    parts = manifest.counts()
    held_out = next((part for part in ("test", "val") if part in parts and len(parts) > 1), "")
    held = np.array([row.split == held_out for row in manifest]) & bool(held_out)
    two_labels = (labels[copies.pairs.first] != labels[copies.pairs.second]) & (copies.kind < len(COPIES))
    return Audit(
        images=len(manifest),
        counts=parts,
        fingerprint=manifest.fingerprint(),
        unreadable=len(unreadable),
        unreadable_listed=dict(sorted(unreadable.items())[:LISTED]),
        copies=counts(copies, splits, labels),
        pairs={kind: listed(copies, copies.kind == index, manifest, groups) for index, kind in enumerate(KINDS)},
        conflicts=listed(copies, two_labels, manifest, groups),
        held_out=held_out,
        relations=closest_relations(copies, groups, held) if held_out else {},
        groups=grouping(groups, splits, labels, rows),
        patients=patients_of(manifest, rows, matches, held_out),
        looks=looks(facts, labels),
        odd=oddities(manifest, facts),
        shortcuts=shortcuts(facts, labels, groups),
        rows=tuple(rows),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def grouping(groups: Integers, splits: Integers, labels: Integers, rows: Sequence[GroupRow]) -> Groups:
    """Return what the groups of N images are like.

    Args:
        groups: (N,) numbers from 0 on.
        splits: (N,) number of each image's split.
        labels: (N,) class of each image.
        rows: N lines of groups.csv.
    """
    seen_in, seen_as = (several(groups, values) for values in (splits, labels))
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in np.flatnonzero(np.isin(groups, seen_as)).tolist():
        members[int(groups[index])].append(index)
    mixed = [
        (rows[where[0]].group, {label: n for i, label in enumerate(CLASSES) if (n := int((labels[where] == i).sum()))})
        for _, where in sorted(members.items())[:LISTED]
    ]
    return Groups(
        number=len(np.unique(groups)),
        largest=int(np.bincount(groups).max()),
        across_splits=len(seen_in),
        with_two_labels=len(seen_as),
        mixed=tuple(mixed),
    )


def several(groups: Integers, values: Integers) -> Integers:
    """Return the groups whose images have more than one of the (N,) values."""
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
    known = [(image, row) for image, row in zip(manifest, rows, strict=True) if row.patient]
    if not known:
        return None
    held = {row.patient for image, row in known if held_out and image.split == held_out}
    training = {row.patient for image, row in known if image.split != held_out}
    other = [
        (row.image, row.label, found.reference_id, found.label)
        for row, found in zip(manifest, matches or (), strict=bool(matches))
        if found and found.label != row.label
    ]
    counts = Counter(image.label for image, _ in known)
    return Patients(
        known_by="shipped" if matches is None else "reference",
        images={label: counts[label] for label in CLASSES},
        number=len(held | training),
        held_out=len(held),
        shared=len(held & training),
        other_label=None if matches is None else len(other),
        other_labels=tuple(other[:LISTED]),
    )
