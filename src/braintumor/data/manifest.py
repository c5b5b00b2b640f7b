"""The manifest of a data set: one row per image with label, group, content hash and split."""

import csv
import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from braintumor.classes import CLASSES
from braintumor.errors import DataError
from braintumor.files import file_sha256, replacing
from braintumor.text import from_cell, to_cell

SPLITS: Final = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        image: path relative to the data folder, with forward slashes.
        label: one of `CLASSES`.
        group: what must never cross splits (patient, near-duplicates); empty if unknown.
        patient: name of the patient in the source; empty if unknown.
        source: folder of the layout that it came from, e.g. `Training`; empty if there is none.
        sha256: of the file's bytes, in hexadecimal.
        split: train, val or test; empty if not yet decided.
    """

    image: str
    label: str
    group: str = ""
    patient: str = ""
    source: str = ""
    sha256: str = ""
    split: str = ""


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Manifest:
    """The rows of a data set and the folder that their image paths are relative to."""

    root: Path
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        """Return the rows one by one."""
        return iter(self.rows)

    def path(self, row: Row) -> Path:
        """Return where the image of a row lies."""
        return self.root / row.image

    def part(self, *splits: str) -> "Manifest":
        """Return the rows of these splits, in the same order."""
        return Manifest(self.root, tuple(row for row in self.rows if row.split in splits))

    def some(self, number: int) -> "Manifest":
        """Return at most so many rows, spread evenly over all."""
        # rounded up, so that there are never more than asked for
        step = max(1, -(-len(self.rows) // number))
        return Manifest(self.root, self.rows[::step])

    def group_numbers(self) -> list[int]:
        """Return a number for the group of each row; an image without a group is a group of its own."""
        numbers: dict[str, int] = {}
        return [numbers.setdefault(row.group or row.image, len(numbers)) for row in self.rows]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images per split that occurs, and in it per class, zeros included."""
        images = Counter((row.split, row.label) for row in self.rows)
        splits = [split for split in (*SPLITS, "") if any(row.split == split for row in self.rows)]
        return {split: {label: images[split, label] for label in CLASSES} for split in splits}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the rows (image, label, sha256, split, group); order and root do not count."""
        # JSON keeps the borders of the fields: "a" + "bc" and "ab" + "c" must not be the same
        lines = sorted(json.dumps([row.image, row.label, row.sha256, row.split, row.group]) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest.csv` whole or not at all: a crash leaves the old file.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    # surrogateescape: file names that are no UTF-8 are read back as the same bytes
    with replacing(path) as aside, aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(to_cell, dataclasses.astuple(row)) for row in manifest.rows)


def read_manifest(path: Path, root: Path) -> Manifest:
    """Return the manifest in a CSV file written by `write_manifest`.

    Args:
        path: the CSV file.
        root: the data folder that its image paths are relative to; the images are not opened.

    Raises:
        DataError: no such file, other columns, an unknown label or split, an image outside the root or listed
            twice, or a group in several splits.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            header, *lines = [list(map(from_cell, line)) for line in csv.reader(stream)] or [[]]
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read the manifest {path}: {error}") from error
    if tuple(header) != COLUMNS:
        raise DataError(f"{path}: expected the columns {','.join(COLUMNS)}, got {','.join(header) or 'an empty file'}")
    faults = [f"line {number}: {fault}" for number, line in enumerate(lines, 2) if (fault := _fault_of(line))]
    # lines first: rows that do not have all columns cannot be compared
    _refuse(path, "lines that cannot be used", faults)
    manifest = Manifest(root, tuple(Row(*line) for line in lines))
    repeats = Counter(row.image for row in manifest)
    _refuse(path, "images listed more than once", [image for image, count in repeats.items() if count > 1])
    crossing = [f"{group} in {', '.join(splits)}" for group, splits in leaks(manifest)]
    _refuse(path, "groups that cross splits", crossing)
    return manifest


def _fault_of(line: list[str]) -> str:
    """Return what is wrong with one line of a manifest, an empty text if nothing is."""
    if len(line) != len(COLUMNS):
        return f"expected {len(COLUMNS)} columns, got {len(line)}"
    row = Row(*line)
    image = PurePosixPath(row.image)
    # a manifest comes with a model from elsewhere: it must not make us open files outside the data folder
    if not row.image or image.is_absolute() or ".." in image.parts:
        return f"expected an image path inside the data folder, got {row.image!r}"
    if row.label not in CLASSES:
        return f"unknown label {row.label!r}, expected one of {', '.join(CLASSES)}"
    if row.split not in (*SPLITS, ""):
        return f"unknown split {row.split!r}, expected {', '.join(SPLITS)} or nothing"
    return ""


def _refuse(path: Path, what: str, offenders: list[str]) -> None:
    """Raise a DataError that lists the offenders (the first 20), if there are any."""
    if offenders:
        more = [f"  and {len(offenders) - 20} more"] if len(offenders) > 20 else []
        raise DataError(
            f"{path} has {what} ({len(offenders)}):", *(f"  {offender}" for offender in offenders[:20]), *more
        )


def leaks(manifest: Manifest) -> list[tuple[str, tuple[str, ...]]]:
    """Return the groups that occur in several splits, each with its splits, both sorted. Unknown ones do not count."""
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for row in manifest.rows:
        # an unknown group is not one big group, and an undecided row cannot leak yet
        if row.group and row.split:
            splits_of[row.group].add(row.split)
    return [(group, tuple(sorted(splits))) for group, splits in sorted(splits_of.items()) if len(splits) > 1]


def at_hand(manifest: Manifest) -> Manifest:
    """Return the rows whose file lies under the manifest's root with the recorded content."""
    with ThreadPoolExecutor(8) as pool:
        paths = [manifest.path(row) for row in manifest]
        hashes = list(pool.map(lambda path: file_sha256(path) if path.is_file() else None, paths))
    return Manifest(
        manifest.root, tuple(row for row, sha256 in zip(manifest, hashes, strict=True) if row.sha256 == sha256)
    )


def validation_images(folder: Path, data_dir: Path) -> Manifest:
    """Return the validation images of a model that lie unchanged in the data folder.

    Raises:
        DataError: there are none.
    """
    listed = read_manifest(folder / "manifest.csv", data_dir).part("val")
    images = at_hand(listed)
    if not images:
        raise DataError(
            f"none of the {len(listed)} validation images in {folder / 'manifest.csv'} is in {data_dir}; "
            "name the data folder that the model was trained on"
        )
    return images
