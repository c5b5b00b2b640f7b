"""Audit a data set: copies, patients across splits, conflicting labels, unreadable or odd files, shortcuts."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braintumor import __version__
from braintumor.classes import CLASSES, DISCLAIMER
from braintumor.data.duplicates.groups import GroupRow, group_numbers, group_rows, recognised
from braintumor.data.duplicates.kinds import (
    COPIES,
    KINDS,
    LISTED,
    CopyPairs,
    Count,
    Pair,
    closest_relations,
    counts,
    find_copies,
    listed,
)
from braintumor.data.duplicates.thumbnails import Thumbnails, make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import SPLITS, Manifest
from braintumor.data.quality import FileFacts, Oddity, SliceLook, looks, oddities, quality
from braintumor.data.reference import Match, match, patients, read_reference
from braintumor.data.shortcuts import Shortcuts, shortcuts
from braintumor.data.split_leakage import Groups, Patients, grouping, patients_of
from braintumor.errors import DataError
from braintumor.files import cache_folder

Integers = NDArray[np.int64]
Progress = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit; all rates are fractions.

    Attributes:
        images: readable ones.
        counts: readable images per split and class; the split is empty in a data set without parts.
        unreadable: number of paths that are no readable image.
        unreadable_listed: at most 200 of them, each with its reason.
        copies: per kind of `kinds.KINDS`.
        pairs: per kind at most 200 pairs.
        conflicts: copies with two labels, at most 200 pairs.
        held_out: the split whose images are related to the others: test, else val, empty if there is neither.
        relations: number of held-out images per closest relation to training, see `kinds.RELATIONS`.
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
    looks: dict[str, SliceLook]
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
        # groups, not pairs: two images may be linked over a third one without being alike
        return self.groups.across_splits > 0

    @property
    def one_size(self) -> bool:
        """Tell whether all images have the same size."""
        return all(look.sizes == 1 for look in self.looks.values()) and len({x.size for x in self.looks.values()}) == 1

    def to_json(self) -> dict[str, Any]:
        """Return the content of audit.json: the main numbers as `summary`, then everything but the rows."""
        # the rows are in groups.csv; without them audit.json stays small enough to read
        fields = dataclasses.asdict(dataclasses.replace(self, rows=()))
        del fields["rows"]
        return {"disclaimer": fields.pop("disclaimer"), "summary": self.summary(), **fields}

    def summary(self) -> dict[str, Any]:
        """Return the main numbers by name."""
        patients = self.patients
        return {
            "leak": self.leaks,
            "images": self.images,
            "unreadable": self.unreadable,
            **{f"pairs_{kind}": entry.pairs for kind, entry in self.copies.items()},
            "groups": self.groups.number,
            "groups_across_splits": self.groups.across_splits,
            "groups_with_two_labels": self.groups.with_two_labels,
            "label_conflicts": self.n_conflicts,
            "held_out_images": self.n_held_out,
            "held_out_images_sharing_a_group": self.sharing,
            "images_with_known_patient": sum(patients.images.values()) if patients else 0,
            "patients": patients.number if patients else 0,
            "held_out_patients_in_training": patients.shared if patients else 0,
            **{f"odd_{kind}": entry.images for kind, entry in self.odd.items()},
            "shortcut_accuracy": self.shortcuts.accuracy.value if self.shortcuts else None,
            "shortcut_chance": self.shortcuts.chance if self.shortcuts else None,
        }


def audit(data_dir: Path, reference: Path | None, progress: Progress, say: Say) -> AuditResult:
    """Return the audit of a data folder; nothing is written but the cache.

    Args:
        data_dir: in one of the known layouts.
        reference: a reference folder, from which the images inherit patients. Without it, images of the public set are
            recognised and take theirs from the table shipped with the package.
        progress: called with the files read and in all.
        say: called with the name of the next step.

    Raises:
        DataError: no known layout, no readable image, or no such reference.
    """
    # first, as a wrong folder should not be found out after minutes of reading images
    reference_set = read_reference(reference) if reference else None
    listing = list_images(data_dir)
    say(f"reading {len(listing.manifest):,} images")
    results = list(quality(listing.manifest, progress))
    unreadable = listing.skipped | {row.image: reason for row, reason in results if isinstance(reason, str)}
    readable = [(row, file) for row, file in results if isinstance(file, FileFacts)]
    if not readable:
        raise DataError(f"none of the {len(results)} images in {data_dir} can be read; copy them again")
    manifest, facts = Manifest(data_dir, tuple(row for row, _ in readable)), [file for _, file in readable]
    thumbnails, _ = make_thumbnails(manifest, cache_folder())
    say(f"comparing {len(manifest):,} images with one another")
    copies = find_copies(manifest, [file.pixels for file in facts], thumbnails)
    # without a reference folder nothing is matched, and the shipped table fills the rows below
    matches: list[Match | None] = [None] * len(manifest)
    if reference_set:
        say(f"comparing them with {len(reference_set.manifest):,} reference slices")
        matches = match(thumbnails, reference_set, make_thumbnails(reference_set.manifest, cache_folder())[0])
    groups = group_numbers(manifest, thumbnails, copies.pairs, patients(matches), use_shipped=reference_set is None)
    rows = group_rows(manifest, groups, matches)
    if not reference_set:
        # the table was made from the same reference set, so it would only repeat the matches where there are any
        rows = _with_shipped(rows, manifest, thumbnails)
    say("measuring shortcuts")
    return _judged(manifest, facts, copies, groups, rows, matches if reference_set else None, unreadable)


def _with_shipped(rows: list[GroupRow], manifest: Manifest, thumbnails: Thumbnails) -> list[GroupRow]:
    """Return the lines with what the shipped table says about images of the public set."""
    shipped = recognised(manifest, thumbnails)
    return [
        dataclasses.replace(line, image=row.image, group=row.group) if line else row
        for row, line in zip(rows, shipped, strict=True)
    ]


def _judged(
    manifest: Manifest,
    facts: Sequence[FileFacts],
    copies: CopyPairs,
    groups: Integers,
    rows: list[GroupRow],
    matches: list[Match | None] | None,
    unreadable: dict[str, str],
) -> AuditResult:
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
    # a single part is no split, so that nothing can be held out from the rest
    held_out = next((part for part in ("test", "val") if part in parts and len(parts) > 1), "")
    held = np.array([bool(held_out) and row.split == held_out for row in manifest], np.bool_)
    # related slices of one patient may well have two labels; copies of one slice may not
    two_labels = (labels[copies.pairs.first] != labels[copies.pairs.second]) & (copies.kind < len(COPIES))
    return AuditResult(
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
