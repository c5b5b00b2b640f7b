"""Find the slice of a reference set with known patients that an image was made from, and its position in that slice."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from braintumor.data.duplicates.pairs import Pairs, similar_pairs
from braintumor.data.duplicates.symmetries import ORIENTATIONS
from braintumor.data.duplicates.thumbnails import Thumbnails
from braintumor.data.layout import add_hashes
from braintumor.data.manifest import Manifest, Row
from braintumor.errors import DataError
from braintumor.text import from_cell

COLUMNS: Final = ("figshare_id", "class", "patient", "tumor_outline_xy")
SUFFIXES: Final = (".png", ".jpg")


@dataclass(frozen=True)
class Match:
    """The source slice of an image.

    Attributes:
        reference_id: of the source slice.
        patient: of the source slice.
        label: of the source slice.
        mirrored: the image must be mirrored left-right to look like its source.
        rotation: degrees by which it must then be turned counter-clockwise.
        window: x0, y0, x1, y1 of the whole image, so mirrored and turned, in pixels of the source slice.
        score: similarity, at most 1.
    """

    reference_id: str
    patient: str
    label: str
    mirrored: bool
    rotation: int
    window: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Reference:
    """A reference folder.

    Attributes:
        manifest: a row per slice, `image` relative to the folder's images/, with label, patient and sha256.
        outlines: the tumor's outline of each slice as `x y;x y;…` in pixels, in the same order.
    """

    manifest: Manifest
    outlines: tuple[str, ...]

    def identifier(self, index: int) -> str:
        """Return the id of a slice."""
        return Path(self.manifest.rows[index].image).stem


def check_reference(folder: Path) -> None:
    """Raise where a folder is not laid out as a reference folder; its table and images are not read.

    Raises:
        DataError: saying what was expected.
    """
    if not is_reference(folder):
        raise DataError(
            f"{folder} is not a reference folder: expected images/ and annotations.csv in it; "
            "braintumor data get figshare makes one"
        )


def read_reference(folder: Path) -> Reference:
    """Return a reference folder: `images/ID.(jpg|png)` and `annotations.csv`.

    Raises:
        DataError: no such folder, other columns, or a slice without its image.
    """
    table, images = folder / "annotations.csv", folder / "images"
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            lines = [
                {name: from_cell(cell or "") for name, cell in line.items() if name} for line in csv.DictReader(stream)
            ]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(
            f"{folder} is not a reference folder: expected images/ and annotations.csv ({error}); "
            "braintumor data get figshare makes one"
        ) from error
    # further columns are welcome: the table may hold notes of its own
    if not lines or not set(COLUMNS) <= set(lines[0]):
        columns = ",".join(lines[0]) if lines else "no lines"
        raise DataError(f"{table}: expected the columns {','.join(COLUMNS)}, got {columns}")
    # one listing instead of two look-ups a slice: folders on network drives hold thousands of images
    present = {path.name for path in images.iterdir()} if images.is_dir() else set()
    names = [
        next((line["figshare_id"] + s for s in SUFFIXES if line["figshare_id"] + s in present), "") for line in lines
    ]
    missing = [line["figshare_id"] for line, name in zip(lines, names, strict=True) if not name]
    if missing:
        shown = ", ".join(missing[:10])
        raise DataError(f"{images} lacks the images of {len(missing)} slices ({shown}); expected ID.png or ID.jpg")
    rows = [
        Row(name, line["class"], patient=line["patient"], source="reference")
        for line, name in zip(lines, names, strict=True)
    ]
    hashed, problems = add_hashes(images, rows)
    if problems:
        raise DataError(f"cannot read {len(problems)} images in {images}, first {next(iter(problems))}")
    return Reference(Manifest(images, tuple(hashed)), tuple(line["tumor_outline_xy"] for line in lines))


def match(thumbnails: Thumbnails, reference: Reference, reference_thumbnails: Thumbnails) -> list[Match | None]:
    """Return the most similar slice of the reference for each of N images, None where none is similar enough.

    Args:
        thumbnails: N thumbnails.
        reference: the folder.
        reference_thumbnails: the thumbnails of its slices, in order.
    """
    pairs = similar_pairs(thumbnails, reference_thumbnails)
    # in rising order of similarity, so that the last one written for an image is the most similar; the sort is stable,
    # or two equally similar slices would change places between runs
    best: list[int | None] = [None] * len(thumbnails)
    for index in np.argsort(pairs.score, kind="stable").tolist():
        best[int(pairs.first[index])] = index
    return [None if index is None else _described(pairs, index, reference) for index in best]


def _described(pairs: Pairs, index: int, reference: Reference) -> Match:
    """Return one pair of an image and a reference slice as a match."""
    second = int(pairs.second[index])
    row = reference.manifest.rows[second]
    mirrored, turns = ORIENTATIONS[int(pairs.orientation[index])]
    with Image.open(reference.manifest.path(row)) as image:
        width, height = image.size
    top, bottom, left, right = placed(pairs.window[index], mirrored, turns)
    return Match(
        reference_id=reference.identifier(second),
        patient=row.patient,
        label=row.label,
        mirrored=bool(mirrored),
        rotation=90 * turns,
        window=(left * width, top * height, right * width, bottom * height),
        score=min(1.0, float(pairs.score[index])),
    )


def placed(windows: "np.ndarray", mirrored: int, turns: int) -> tuple[float, float, float, float]:
    """Return top, bottom, left, right of a whole image in its source, as shares of the source.

    Args:
        windows: (2, 4) top, bottom, left, right of what was compared, of the image and of the source.
        mirrored: 1 where the image was mirrored left-right first.
        turns: quarters by which it was then turned counter-clockwise.
    """
    (top, bottom, left, right), source = windows.astype(np.float64)
    # the same order as in `oriented`: mirrored first, then turned
    if mirrored:
        left, right = 1 - right, 1 - left
    for _ in range(turns):  # counter-clockwise: the right edge becomes the upper one
        top, bottom, left, right = 1 - right, 1 - left, top, bottom
    # the compared windows correspond, so their sizes give the scale, and the whole image reaches as far beyond the
    # source's window as it reaches beyond its own
    high, wide = (source[1] - source[0]) / (bottom - top), (source[3] - source[2]) / (right - left)
    return (
        source[0] - top * high,
        source[1] + (1 - bottom) * high,
        source[2] - left * wide,
        source[3] + (1 - right) * wide,
    )


def patients(matches: Sequence[Match | None]) -> list[str]:
    """Return the patient of each match, empty where there is none."""
    return [f"patient {match.patient}" if match else "" for match in matches]


def is_reference(folder: Path) -> bool:
    """Return whether a folder is laid out as a reference folder."""
    return (folder / "annotations.csv").is_file() and (folder / "images").is_dir()


def known_folds() -> dict[tuple[str, str], int]:
    """Return the published fold of each slice of the Figshare set, by its id and patient."""
    table = resources.files("braintumor.data") / "public" / "figshare-folds.csv"
    # without the table no slice has a published fold
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8") as stream:
        return {(line["figshare_id"], line["patient"]): int(line["fold"]) for line in csv.DictReader(stream)}
