"""The tables of the public sets that are shipped with the package: groups, patients and outlines' windows, and folds.

Everything is computed from the pixels; tables that are there already are not used.

Takes: 2 minutes.
Command: python benchmarks/public_groups.py
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from record import ROOT, data_folder, number, record

from braintumor.classes import CLASSES
from braintumor.data.duplicates.alignment import related
from braintumor.data.duplicates.groups import GroupRow, group_numbers, group_rows, picture_codes, write_groups
from braintumor.data.duplicates.thumbnails import Thumbnails, make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest
from braintumor.data.reference import Match, Reference, match, patients, read_reference
from braintumor.data.split import Integers, fold_numbers
from braintumor.files import cache_folder, replacing

TABLES = ROOT / "src" / "braintumor" / "data" / "public"


def main() -> None:
    """Write the tables and produce `public-groups.json`."""
    data = data_folder()
    manifest, reference = list_images(data / "brain-tumor-mri").manifest, read_reference(data / "figshare")
    found, theirs = (make_thumbnails(each, cache_folder())[0] for each in (manifest, reference.manifest))
    matches = match(found, reference, theirs)
    groups = group_numbers(manifest, found, related(found)[0], patients(matches), use_shipped=False)
    folds = fold_numbers(groups, labels(manifest))
    rows = [replace(row, image=Path(row.image).name) for row in group_rows(manifest, groups, matches)]
    write_groups(rows, TABLES / "brain-tumor-mri-groups.csv")
    codes = [f"{code:032x}" for code in picture_codes(found)]
    write_table("brain-tumor-mri-folds.csv", ("image", "fold", "picture"), rows, folds, codes)
    slices = figshare_folds(reference, theirs, matches, folds)
    ids = [(reference.identifier(index), row.patient) for index, row in enumerate(reference.manifest)]
    with replacing(TABLES / "figshare-folds.csv") as aside, aside.open("w", newline="") as stream:
        lines = [(*known, int(fold)) for known, fold in zip(ids, slices, strict=True)]
        csv.writer(stream, lineterminator="\n").writerows([("figshare_id", "patient", "fold"), *lines])
    record("public-groups", "python benchmarks/public_groups.py", facts(manifest, groups, matches))


def labels(manifest: Manifest) -> Integers:
    """Return the class (N,) of each image."""
    return np.array([CLASSES.index(row.label) for row in manifest], np.int64)


def write_table(name: str, columns: tuple[str, ...], rows: list[GroupRow], folds: Integers, codes: list[str]) -> None:
    """Write the folds of the four-class set with the codes of the pictures."""
    with replacing(TABLES / name) as aside, aside.open("w", newline="") as stream:
        lines = zip((row.image for row in rows), folds.tolist(), codes, strict=True)
        csv.writer(stream, lineterminator="\n").writerows([columns, *lines])


def figshare_folds(reference: Reference, theirs: Thumbnails, matches: list[Match | None], folds: Integers) -> Integers:
    """Return the fold (M,) of each reference slice: that of its patient in the four-class set where it is there."""
    manifest = reference.manifest
    groups = group_numbers(manifest, theirs, related(theirs)[0], use_shipped=False)
    by_patient = {match.patient: int(fold) for match, fold in zip(matches, folds, strict=True) if match}
    of_group: dict[int, set[int]] = {}
    for row, group in zip(manifest, groups.tolist(), strict=True):
        if row.patient in by_patient:
            of_group.setdefault(group, set()).add(by_patient[row.patient])
    given = [of_group[group].copy().pop() if len(of_group.get(group, ())) == 1 else -1 for group in groups.tolist()]
    return fold_numbers(groups, labels(manifest), np.array(given, np.int64))


def facts(manifest: Manifest, groups: Integers, matches: list[Match | None]) -> dict[str, Any]:
    """Return what the tables say about the official split."""
    test = np.array([row.split == "test" for row in manifest])
    shared = np.isin(groups[test], groups[~test])
    sizes = np.bincount(groups)
    mixed = [group for group in range(len(sizes)) if len({*labels(manifest)[groups == group].tolist()}) > 1]
    train, tested = (
        {match.patient for match, where in zip(matches, test, strict=True) if match and where == part}
        for part in (False, True)
    )
    return {
        "images": number(len(manifest), "images"),
        "groups": number(len(sizes), "groups"),
        "largest_group": number(int(sizes.max()), "images"),
        "groups_with_two_labels": number(len(mixed), "groups"),
        "matched": number(sum(match is not None for match in matches), "images", n=len(manifest)),
        "patients": number(len(train | tested), "patients"),
        "test.patients": number(len(tested), "patients"),
        "test.patients_in_training": number(len(tested & train), "patients"),
        "test.share_in_training": number(float(shared.mean()), "fraction", n=int(test.sum())),
        "test.images_sharing_nothing": number(int((~shared).sum()), "images", n=int(test.sum())),
    }


if __name__ == "__main__":
    main()
