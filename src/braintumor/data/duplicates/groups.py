"""Group the images that must stay in the same split: duplicates of one slice and slices of one patient; groups.csv."""

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.data.duplicates.alignment import related
from braintumor.data.duplicates.descriptors import pixel_overlap
from braintumor.data.duplicates.pairs import Pairs, components
from braintumor.data.duplicates.thumbnails import SIDE, Thumbnails, sharing_bytes
from braintumor.data.manifest import Manifest
from braintumor.data.reference import Match
from braintumor.errors import DataError
from braintumor.files import replacing
from braintumor.text import from_cell, to_cell

Integers = NDArray[np.int64]
PUBLIC: Final = "brain-tumor-mri"
SAME_PICTURE_BITS: Final = 14  # of 128 may differ between the picture in the table and a scaled or compressed one


@dataclass(frozen=True)
class GroupRow:
    """One line of groups.csv.

    Attributes:
        image: path relative to the data folder; the file name alone in the table shipped for the public set.
        group: name of the group; images of one group never cross splits.
        patient: of the source slice; empty if unknown, as all that follows.
        reference_id: of the source slice.
        mirrored: 1 where the image must be mirrored left-right to look like its source, else 0.
        rotation: degrees by which it must then be turned counter-clockwise: 0, 90, 180 or 270.
        x0: left edge of the image in pixels of the source slice, y0 the upper, x1 the right, y1 the lower one, after
            mirroring and turning.
        score: similarity of the two, at most 1.
    """

    image: str
    group: str
    patient: str = ""
    reference_id: str = ""
    mirrored: str = ""
    rotation: str = ""
    x0: str = ""
    y0: str = ""
    x1: str = ""
    y1: str = ""
    score: str = ""


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(GroupRow))


def group_rows(manifest: Manifest, numbers: Integers, matches: Sequence[Match | None]) -> list[GroupRow]:
    """Return the lines of groups.csv.

    Args:
        manifest: N images.
        numbers: (N,) group of each.
        matches: N source slices, None where there is none.
    """
    lines = []
    for row, number, match in zip(manifest, numbers.tolist(), matches, strict=True):
        line = GroupRow(row.image, name_of(number))
        if match is not None:
            edges = {name: f"{edge:.1f}" for name, edge in zip(("x0", "y0", "x1", "y1"), match.window, strict=True)}
            line = dataclasses.replace(
                line,
                patient=match.patient,
                reference_id=match.reference_id,
                mirrored=str(int(match.mirrored)),
                rotation=str(match.rotation),
                score=f"{match.score:.4f}",
                **edges,
            )
        lines.append(line)
    return lines


def name_of(number: int) -> str:
    """Return the name of a group by its number."""
    return f"g{number:05d}"


def write_groups(rows: Iterable[GroupRow], path: Path) -> None:
    """Write groups.csv whole or not at all.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    with replacing(path) as aside, aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(to_cell, dataclasses.astuple(row)) for row in rows)


def read_groups(path: Path) -> list[GroupRow]:
    """Return the lines of a groups.csv.

    Raises:
        DataError: no such file, or other columns.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            header, *lines = [list(map(from_cell, line)) for line in csv.reader(stream)] or [[]]
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read the groups in {path}: {error}") from error
    # a table with other columns, or with a line cut short, would shift patients to other images
    if tuple(header) != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise DataError(
            f"{path}: expected the columns {','.join(COLUMNS)} in every line; write it with braintumor audit"
        )
    return [GroupRow(*line) for line in lines]


def group_numbers(
    manifest: Manifest,
    thumbnails: Thumbnails,
    pairs: Pairs | None = None,
    patients: Sequence[str] | None = None,
    *,
    use_shipped: bool = True,
) -> Integers:
    """Return (N,) group numbers in the order of the groups' first images.

    Linked are images with the same bytes, those that show one slice or very similar ones, and those of one patient.
    Images of the public set that are recognised by name and picture take their links from the table shipped with the
    package; only where some image is not recognised are all of them compared.

    Args:
        manifest: N images; a `patient` or `group` in a row links it too.
        thumbnails: N thumbnails.
        pairs: those of `alignment.related` within the N images where they are known already.
        patients: N patients, empty where unknown.
        use_shipped: False makes the table that is shipped.
    """
    # the table is made with this very function, which must not read its own result then
    shipped = recognised(manifest, thumbnails) if use_shipped else [None] * len(manifest)
    # links of all sources go into one graph: a patient may join two sets of copies, and a copy two patients
    links = [list(sharing_bytes(manifest))]
    names = [
        [row.patient and f"patient {row.patient}" for row in manifest],
        [row.group for row in manifest],
        [line.group if line else "" for line in shipped],
        [line.patient and f"patient {line.patient}" if line else "" for line in shipped],
        list(patients or ()),
    ]
    links += [same_name(column) for column in names]
    # comparing all images takes minutes; where the table knows every one of them, its links are complete
    if pairs is None and not all(shipped):
        # whether two of them are the same slice does not matter here: related slices belong together as well
        pairs, _ = related(thumbnails)
    if pairs is not None:
        links.append(list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)))
    flat = np.array([link for group_links in links for link in group_links], np.int64).reshape(-1, 2)
    return components(len(manifest), flat)


def same_name(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of each name's first bearer and of each further one; empty names link nothing."""
    first: dict[str, int] = {}
    return [(first[name], index) for index, name in enumerate(names) if name and first.setdefault(name, index) != index]


@dataclass(frozen=True)
class PublicImage:
    """One image of the public set in the shipped tables: its line of groups.csv, its fold and its difference hash."""

    row: GroupRow
    fold: int
    code: int


@cache
def public_set() -> dict[str, PublicImage]:
    """Return what the package knows of the public set, by file name."""
    folder = resources.files("braintumor.data") / "public"
    with resources.as_file(folder / f"{PUBLIC}-groups.csv") as path:
        rows = read_groups(path) if path.is_file() else []
    # without the tables no image is recognised, and all are compared
    if not rows:
        return {}
    with (folder / f"{PUBLIC}-folds.csv").open(encoding="utf-8") as stream:
        folds = {line["image"]: line for line in csv.DictReader(stream)}
    return {
        row.image: PublicImage(row, int(folds[row.image]["fold"]), int(folds[row.image]["picture"], 16)) for row in rows
    }


def recognised(manifest: Manifest, thumbnails: Thumbnails) -> list[GroupRow | None]:
    """Return the shipped line of each image of the public set, None for images that are not of it.

    An image is recognised by its file name and, since names repeat elsewhere, by its picture, whatever its size.
    """
    return [image.row if image else None for image in known_images(manifest, thumbnails)]


def known_images(manifest: Manifest, thumbnails: Thumbnails) -> list[PublicImage | None]:
    """Return what the package knows of each image, None where it does not know it."""
    shipped = public_set()
    by_name = [shipped.get(row.image.rsplit("/", 1)[-1]) for row in manifest]
    codes = picture_codes(thumbnails)
    return [
        image if image and (image.code ^ code).bit_count() <= SAME_PICTURE_BITS else None
        for image, code in zip(by_name, codes, strict=True)
    ]


def picture_codes(thumbnails: Thumbnails) -> list[int]:
    """Return a 128-bit code of each of N pictures: whether each of 8 x 8 fields is brighter than its neighbours.

    64 bits compare with the field to the right and 64 with the one below.

    Source: the difference hash (dHash) of N. Krawetz, 2013.
    """
    # nine fields along one side have eight neighbours to compare with
    wide, narrow = _averaging(9), _averaging(8)
    levels = thumbnails.whole.astype(np.float64)
    across, down = narrow @ levels @ wide.T, wide @ levels @ narrow.T
    right, below = across[:, :, :-1] > across[:, :, 1:], down[:, :-1] > down[:, 1:]
    bits = np.stack([right, below], axis=1).reshape(len(thumbnails), 128)
    return [int("".join("1" if bit else "0" for bit in row), 2) for row in bits]


def _averaging(fields: int) -> NDArray[np.float64]:
    """Return the (fields, 48) matrix that averages the pixels of a thumbnail's side to so many fields."""
    return pixel_overlap(np.linspace(0, SIDE, fields + 1), SIDE) * fields / SIDE
