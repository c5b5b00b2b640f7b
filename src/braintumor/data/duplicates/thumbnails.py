"""Thumbnails of slices, by which similar slices are found: the whole picture and the head alone."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from braintumor.data.manifest import Manifest, Row, at_hand
from braintumor.errors import ImageError, StorageError
from braintumor.files import replacing
from braintumor.io.read import read
from braintumor.io.scan import Scan

SIDE: Final = 48
FINE_SIDE: Final = 64
HEAD_GREY: Final = 20 / 255
HEAD_SHARE: Final = 0.02
DECODERS: Final = 4
NO_BOX: Final = np.array([[0, 1, 0, 1]], np.float32)
BLACK: Final = np.zeros((1, SIDE, SIDE), np.uint8)
CACHE_VERSION: Final = 3  # raise it when `read` or `make_thumbnail` gives other values
SEAL_BYTES: Final = 32  # of SHA-256


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """N slices in small.

    Attributes:
        whole: (N, 48, 48) uint8 grey levels of the whole picture, squeezed to a square; zeros if it is unreadable.
        head: (N, 48, 48) uint8 grey levels of the head's box; zeros where no head was found.
        fine: (N, 64, 64) uint8 grey levels of the whole picture with all the detail that this size can hold.
        box: (N, 4) float32 top, bottom, left, right of the head's box as shares of the picture.
    """

    whole: NDArray[np.uint8]
    head: NDArray[np.uint8]
    fine: NDArray[np.uint8]
    box: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.whole)

    def __getitem__(self, index: NDArray[np.generic] | list[int] | slice) -> "Thumbnails":
        """Return some of the slices."""
        return Thumbnails(self.whole[index], self.head[index], self.fine[index], self.box[index])

    @staticmethod
    def stacked(parts: "list[Thumbnails]") -> "Thumbnails":
        """Return the slices of several as one."""
        names = ("whole", "head", "fine", "box")
        return Thumbnails(*(np.concatenate([getattr(part, name) for part in (NOTHING[:0], *parts)]) for name in names))


NOTHING: Final = Thumbnails(BLACK, BLACK, np.zeros((1, FINE_SIDE, FINE_SIDE), np.uint8), NO_BOX)


def make_thumbnail(scan: Scan) -> Thumbnails:
    """Return the thumbnail of one slice, N = 1.

    The head is the box of the rows and columns in which more than 2 % of the pixels exceed 20/255.
    """
    levels = Image.fromarray(np.rint(scan.pixels * 255).astype(np.uint8))
    # a share of the pixels, since a few bright ones of noise or writing lie outside every head
    bright = scan.pixels > HEAD_GREY
    rows = np.flatnonzero(bright.mean(axis=1) > HEAD_SHARE)
    columns = np.flatnonzero(bright.mean(axis=0) > HEAD_SHARE)
    whole = _small(levels, (0, 0, *levels.size))
    fine = np.asarray(levels.resize((FINE_SIDE, FINE_SIDE), Image.Resampling.LANCZOS))[None]
    # an empty or nearly black slice: its head is zeros, which resemble nothing
    if not rows.size or not columns.size:
        return Thumbnails(whole, BLACK, fine, NO_BOX)
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    box = np.array([[top, bottom, left, right]], np.float32) / np.repeat(scan.pixels.shape, 2)
    return Thumbnails(whole, _small(levels, (left, top, right, bottom)), fine, box.astype(np.float32))


def _small(levels: Image.Image, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return the (1, 48, 48) grey levels of a box: left, top, right, bottom."""
    return np.asarray(levels.resize((SIDE, SIDE), Image.Resampling.BOX, box=box))[None]


def make_thumbnails(manifest: Manifest, cache: Path) -> tuple[Thumbnails, dict[str, str]]:
    """Return the thumbnails of all rows, and the reason for every image that cannot be read.

    If all are readable, they are kept in the cache folder under the SHA-256 of the files, so that no file is decoded
    for its thumbnail twice.

    Args:
        manifest: N rows, with the SHA-256 of the files; without them nothing is kept.
        cache: the cache folder; if it cannot be written, nothing is kept.
    """
    hashes = [row.sha256 for row in manifest]
    # Pillow stands in the key, as its releases decode and resample differently
    key = hashlib.sha256(json.dumps([CACHE_VERSION, PIL.__version__, hashes]).encode()).hexdigest()[:32]
    file = cache / "miniatures" / f"{key}.bytes"
    cached = _recall(file, len(manifest)) if all(hashes) else None
    if cached is not None:
        return cached, {}
    thumbnails, problems = _made(manifest)
    if all(hashes) and not problems:
        # a cache that cannot be written only costs time; files that changed while they were read must not be cached
        with suppress(OSError, StorageError):
            if len(at_hand(manifest)) == len(manifest):  # still what was listed
                _keep(file, thumbnails)
    return thumbnails, problems


def _recall(file: Path, count: int) -> Thumbnails | None:
    """Return the thumbnails of so many slices that `_keep` wrote; None if the file is absent or damaged."""
    try:
        content = memoryview(file.read_bytes())
    except OSError:
        return None
    # read without copying; the seal tells a file that a crash or a full disk cut short
    seal, values = content[:SEAL_BYTES], content[SEAL_BYTES:]
    sides = (SIDE, SIDE, FINE_SIDE)
    ends = np.cumsum([count * side * side for side in sides]).tolist()
    if len(values) != ends[-1] + 16 * count or hashlib.sha256(values).digest() != seal:
        return None
    whole, head, fine = (
        np.frombuffer(values[end - count * side * side : end], np.uint8).reshape(count, side, side)
        for side, end in zip(sides, ends, strict=True)
    )
    return Thumbnails(whole, head, fine, np.frombuffer(values[ends[-1] :], np.float32).reshape(count, 4))


def _keep(file: Path, thumbnails: Thumbnails) -> None:
    """Write thumbnails after the SHA-256 of their bytes, whole or not at all."""
    values = b"".join(part.tobytes() for part in (thumbnails.whole, thumbnails.head, thumbnails.fine, thumbnails.box))
    with replacing(file) as aside:
        aside.write_bytes(hashlib.sha256(values).digest() + values)


def _made(manifest: Manifest) -> tuple[Thumbnails, dict[str, str]]:
    """Return the thumbnails of the files, zeros for unreadable ones, and the reasons of these."""
    with ThreadPoolExecutor(DECODERS) as pool:
        results = list(pool.map(lambda row: _attempt(manifest, row), manifest.rows))
    problems = {row.image: reason for row, (_, reason) in zip(manifest.rows, results, strict=True) if reason}
    return Thumbnails.stacked([thumbnails for thumbnails, _ in results]), problems


def _attempt(manifest: Manifest, row: Row) -> tuple[Thumbnails, str]:
    """Return the thumbnail of a row's image and an empty text, or zeros and why it cannot be read."""
    try:
        return make_thumbnail(read(manifest.path(row))), ""
    except ImageError as error:
        return NOTHING, error.reason


def sharing_bytes(manifest: Manifest) -> Iterator[tuple[int, int]]:
    """Yield the positions of the first image with the same bytes and of each further one."""
    first: dict[str, int] = {}
    for index, row in enumerate(manifest):
        if row.sha256 and first.setdefault(row.sha256, index) != index:
            yield first[row.sha256], index
