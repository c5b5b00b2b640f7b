"""The figshare set with patients and tumor outlines: download, and MATLAB files to a reference folder.

Cheng 2017, doi 10.6084/m9.figshare.1512427, CC BY 4.0: 3,064 contrast-enhanced T1 slices. The authors count 233
patients; names that differ only by a letter at the end are one patient here, which leaves 209.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from braintumor.data.public.matlab import Slice, read_slice
from braintumor.data.public.unzip import members
from braintumor.download import Progress, Remote, fetch, fetch_text
from braintumor.errors import DataError, DownloadError
from braintumor.files import publish, replacing, write_text
from braintumor.text import to_cell

ARTICLE: Final = "https://api.figshare.com/v2/articles/1512427"
PAGE: Final = "https://figshare.com/articles/dataset/brain_tumor_dataset/1512427"
ARCHIVES: Final = (
    "brainTumorDataPublic_1-766.zip",
    "brainTumorDataPublic_767-1532.zip",
    "brainTumorDataPublic_1533-2298.zip",
    "brainTumorDataPublic_2299-3064.zip",
)
COLUMNS: Final = ("figshare_id", "class", "patient", "tumor_outline_xy")
PLAIN_NAME: Final = re.compile(r"\w[\w.-]*", re.ASCII)
NUMBERED: Final = re.compile(r"(?:.*/)?([1-9]\d{0,5})\.mat", re.ASCII)


def get_figshare(out: Path, progress: Progress) -> Path:
    """Return the reference folder `OUT/figshare`; it is made from the published files if it is not there.

    The published files stay in `OUT/figshare-original`; they may be put there by hand. The folder is renamed into
    place when it is complete. An interrupted call goes on where it stopped.

    Args:
        out: where both folders are made.
        progress: called with bytes while downloading, then with slices.

    Raises:
        DownloadError: no connection, or another content than published.
        DataError: an archive or a slice that cannot be used, or an incomplete folder under the final name.
        StorageError: the disk is full or the folder cannot be written to.
    """
    reference = out / "figshare"
    if (reference / "annotations.csv").is_file():
        return reference
    if reference.exists():
        raise DataError(f"{reference} exists but has no annotations.csv; remove it or choose another --out")
    archives = _originals(out / "figshare-original", progress)
    _convert(archives, reference, progress)
    return reference


def _originals(folder: Path, progress: Progress) -> list[Path]:
    """Return the archives, verified; what is missing is fetched, with the small files beside them.

    Without a file list, archives that lie there are taken as they are: each member still has a CRC-32.

    Raises:
        DownloadError: something is missing and cannot be fetched; says what to do by hand.
    """
    archives = [folder / name for name in ARCHIVES]
    try:
        listed = _published(folder)
    except DownloadError as error:
        if all(archive.is_file() for archive in archives):
            return archives
        raise DownloadError(f"{error}.", *_by_hand(folder)) from error
    try:
        for remote in listed:
            fetch(remote, folder, progress)
    except DownloadError as error:
        raise DownloadError(f"{error}.", *_by_hand(folder)) from error
    return archives


def _by_hand(folder: Path) -> tuple[str, ...]:
    """Return the lines that say how to go on without a network."""
    return (
        f"On a machine without network, put these files into {folder} and run the same command again:",
        f"  {', '.join(ARCHIVES)} from {PAGE}",
        f"  article.json, the answer of {ARTICLE}, to have the archives verified",
    )


def _published(folder: Path) -> list[Remote]:
    """Return the files of the article; the list is kept as `article.json`, and taken from there if it is there.

    Raises:
        DownloadError: no connection, or a list that does not name the archives.
    """
    kept = folder / "article.json"
    # a list put there by hand lets a machine without network verify the archives
    text = kept.read_text("utf-8", errors="replace") if kept.is_file() else fetch_text(ARTICLE)
    try:
        remotes = [_remote_of(entry) for entry in json.loads(text)["files"] if not entry.get("is_link_only")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        origin = f"{kept}, which can be removed" if kept.is_file() else ARTICLE
        raise DownloadError(f"expected figshare's list of files from {origin}, got something else ({error})") from error
    # a changed article must not end in a reference set that lacks patients
    missing = set(ARCHIVES) - {remote.name for remote in remotes}
    if missing:
        raise DownloadError(f"the list of files from {ARTICLE} lacks {', '.join(sorted(missing))}")
    if not kept.is_file():
        write_text(kept, text)
    return remotes


def _remote_of(entry: dict[str, object]) -> Remote:
    """Return one file of the list.

    Raises:
        ValueError, LookupError: a field is missing, or the name or the address is none to use.
    """
    name, url, size = str(entry["name"]), str(entry["download_url"]), int(str(entry["size"]))
    md5 = str(entry.get("computed_md5") or entry["supplied_md5"]).lower()
    # the name becomes a path here, and the address is opened: the list comes from elsewhere, so neither is trusted
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"the file name {name!r}")
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"the address {url!r}")
    return Remote(name, url, size, md5)


def _convert(archives: list[Path], reference: Path, progress: Progress) -> None:
    """Write the reference folder of all slices in the archives: `images/ID.png` and `annotations.csv`.

    Raises:
        DataError: a slice is missing, twice there or not readable.
        StorageError: the folder cannot be written.
    """
    # filled under another name and renamed at the end: a folder under the final name is always complete
    aside = reference.with_name(f".{reference.name}.part")
    wanted = {archive: _numbers(archive) for archive in archives}
    total = sum(map(len, wanted.values()))
    slices: dict[int, tuple[str, str, str]] = {}
    for archive, expected in wanted.items():
        for number, content in _slices_in(archive, expected):
            record = read_slice(content, f"{archive}: {number}.mat")
            target = aside / "images" / f"{number}.png"
            if not target.is_file():  # written by an earlier call that was interrupted
                write_grey(target, record)
            slices[number] = (record.label, record.patient, _outline_text(record))
            progress(len(slices), total)
    with replacing(aside / "annotations.csv") as file, file.open("w", encoding="utf-8", newline="") as stream:
        rows = [(number, *slices[number]) for number in sorted(slices)]
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *(map(to_cell, row) for row in rows)])
    publish(aside, reference)


def _numbers(archive: Path) -> range:
    """Return the numbers of the slices that an archive holds by its name, `…_1-766.zip`."""
    first, last = archive.stem.rsplit("_", 1)[1].split("-")
    return range(int(first), int(last) + 1)


def _slices_in(archive: Path, expected: range) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of every MATLAB file in an archive.

    Raises:
        DataError: the numbers are not exactly the expected ones.
    """
    seen: set[int] = set()
    for match, content in members(archive, NUMBERED):
        number = int(match[1])
        # the number becomes the file name of the slice, so it must be one of this archive and only once
        if number not in expected or number in seen:
            raise DataError(f"{archive} holds {match[0]} twice or by mistake; expected {expected[0]} to {expected[-1]}")
        seen.add(number)
        yield number, content
    missing = sorted(set(expected) - seen)
    if missing:
        raise DataError(
            f"{archive} lacks {len(missing)} slice(s), first {missing[0]}.mat; remove it and download it again"
        )


def write_grey(target: Path, record: Slice) -> None:
    """Write a slice as 16-bit grey PNG: its darkest value becomes 0, its brightest 65535, linearly between.

    The published values are in the scanner's units, with another range in every slice.
    """
    # 16 bits, since 8 would merge grey values that the scanner told apart
    pixels = record.pixels.astype(np.float64)
    low, high = pixels.min(), pixels.max()
    grey = np.rint((pixels - low) * (65535 / max(high - low, 1))).astype(np.uint16)
    with replacing(target) as aside:
        Image.fromarray(grey).save(aside, "PNG")


def _outline_text(record: Slice) -> str:
    """Return an outline as `x y;x y;…` in pixels with one decimal."""
    return ";".join(f"{x:.1f} {y:.1f}" for x, y in record.outline.tolist())
