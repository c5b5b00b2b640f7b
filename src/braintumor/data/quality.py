"""Facts about the image files of a data set: format, size, brightness, border, and what is odd about them."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row
from braintumor.errors import ImageError
from braintumor.io.read import Stored, read_stored
from braintumor.models.image_quality import FLAT_RANGE, has_writing

ODDITIES: Final = {
    "text": "writing or a ruler beside the head",
    "coloured": "coloured pixels, as in screenshots",
    "frame": "light lines or margins along at least two edges",
    "screen": "the size of a screen",
    "elongated": "one side more than twice the other",
    "flat": "almost no contrast",
}
COLOURED_SHARE: Final = 0.005  # of the pixels
LIGHT: Final = 60  # of 255
FRAME_LINES: Final = 3
SCREENS: Final = frozenset(
    {(640, 480), (800, 600), (1024, 768), (1280, 720), (1280, 800), (1280, 1024), (1366, 768), (1440, 900)}
    | {(1536, 864), (1600, 900), (1680, 1050), (1920, 1080), (1920, 1200), (2560, 1440), (2880, 1800), (3840, 2160)}
    | {(1334, 750), (1792, 828), (2400, 1080), (2436, 1125), (2532, 1170), (2556, 1179), (2778, 1284)}
)
DECODERS: Final = 4
CHUNK: Final = 256
Grey = NDArray[np.uint8]
LISTED: Final = 200


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts about one file.

    Attributes:
        stored: format, mode and share of coloured pixels.
        width: in pixels, upright.
        height: in pixels, upright.
        mean: grey value in [0, 1].
        border: median grey value in [0, 1] of the outermost three lines on every side.
        pixels: hash of size and 8-bit grey values; equal where two files show the very same picture.
        odd: which of `ODDITIES` hold.
    """

    stored: Stored
    width: int
    height: int
    mean: float
    border: float
    pixels: bytes
    odd: tuple[str, ...]


def quality(manifest: Manifest, progress: Callable[[int, int], None]) -> Iterator[tuple[Row, FileFacts | str]]:
    """Yield every row with the facts of its file, or why it cannot be read; each file is decoded once.

    Args:
        manifest: N images.
        progress: called with the files done and N.
    """
    done = 0
    with ThreadPoolExecutor(DECODERS) as pool:
        # in chunks, as the pool would decode the whole data set ahead of whoever takes the results
        for start in range(0, len(manifest), CHUNK):
            rows = manifest.rows[start : start + CHUNK]
            yield from zip(rows, pool.map(lambda row: _attempt(manifest, row), rows), strict=True)
            done += len(rows)
            progress(done, len(manifest))


def _attempt(manifest: Manifest, row: Row) -> FileFacts | str:
    """Return the facts of a row's file, or why it cannot be read."""
    try:
        scan, stored = read_stored(manifest.path(row))
    except ImageError as error:
        return error.reason
    return facts(np.rint(scan.pixels * 255).astype(np.uint8), stored)


def facts(grey: Grey, stored: Stored) -> FileFacts:
    """Return the facts of a slice (H, W) of 8-bit grey values."""
    height, width = grey.shape
    signs = {
        "text": has_writing(grey),
        "coloured": stored.coloured > COLOURED_SHARE,
        "frame": _has_frame(grey),
        "screen": (max(grey.shape), min(grey.shape)) in SCREENS,
        "elongated": max(grey.shape) > 2 * min(grey.shape),
        "flat": int(grey.max()) - int(grey.min()) < FLAT_RANGE * 255,
    }
    size = np.array(grey.shape, np.int64).tobytes()  # or two pictures of one grey value would be the same
    return FileFacts(
        stored=stored,
        width=width,
        height=height,
        mean=float(grey.mean()) / 255,
        border=float(np.median(np.concatenate([side.ravel() for side in _sides(grey)]))) / 255,
        pixels=hashlib.blake2b(size + np.ascontiguousarray(grey).tobytes(), digest_size=16).digest(),
        odd=tuple(name for name, holds in signs.items() if holds),
    )


def _sides(grey: Grey) -> tuple[Grey, ...]:
    """Return the outermost three lines on every side, (3, H or W) each."""
    turned = grey.T
    return grey[:FRAME_LINES], grey[-FRAME_LINES:], turned[:FRAME_LINES], turned[-FRAME_LINES:]


def _has_frame(grey: Grey) -> bool:
    """Return whether a light, even line runs along at least two edges."""
    light_edges = 0
    # the brightest of three lines at each position: a frame need not be the outermost line, nor exactly straight
    for side in _sides(grey):
        dark, light = np.percentile(side.max(axis=0), (10, 90))
        if dark > LIGHT and light - dark < LIGHT:  # light, and even from one end to the other
            light_edges += 1
    return light_edges >= 2


@dataclass(frozen=True)
class SliceLook:
    """A summary of the files of one class.

    Attributes:
        formats: number of files per format and mode, the most frequent first.
        sizes: number of different sizes.
        size: the most frequent one, width and height.
        aspect: smallest and largest width over height.
        mean: 5th, 50th and 95th percentile of the mean grey value, in [0, 1].
        border: the same of the border's grey value.
    """

    formats: dict[str, int]
    sizes: int
    size: tuple[int, int]
    aspect: tuple[float, float]
    mean: tuple[float, float, float]
    border: tuple[float, float, float]


@dataclass(frozen=True)
class Oddity:
    """Files that are odd in one way: how many, per class, and at most 200 of them, evenly by name."""

    images: int
    per_class: dict[str, int]
    listed: tuple[str, ...]


def looks(facts: Sequence[FileFacts], labels: NDArray[np.int64]) -> dict[str, SliceLook]:
    """Return how the files look, per class that occurs.

    Args:
        facts: of N files.
        labels: (N,) class of each, in the order of `CLASSES`.
    """
    return {
        name: _look([facts[file] for file in np.flatnonzero(labels == index).tolist()])
        for index, name in enumerate(CLASSES)
        if (labels == index).any()
    }


def _look(facts: Sequence[FileFacts]) -> SliceLook:
    """Return how the files of one class look, at least one."""
    sizes = Counter((file.width, file.height) for file in facts)
    aspects = [width / height for width, height in sizes]
    return SliceLook(
        formats=dict(Counter(f"{file.stored.format} {file.stored.mode}" for file in facts).most_common()),
        sizes=len(sizes),
        size=sizes.most_common(1)[0][0],
        aspect=(min(aspects), max(aspects)),
        mean=_spread([file.mean for file in facts]),
        border=_spread([file.border for file in facts]),
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the 5th, 50th and 95th percentile."""
    low, middle, high = np.percentile(values, (5, 50, 95)).round(4).tolist()
    return low, middle, high


def oddities(manifest: Manifest, facts: Sequence[FileFacts]) -> dict[str, Oddity]:
    """Return the odd ones of N files, per kind of `ODDITIES`."""
    result = {}
    for kind in ODDITIES:
        # the rows are sorted by path, so evenly spaced ones come from all folders
        rows = [row for row, file in zip(manifest, facts, strict=True) if kind in file.odd]
        counts = Counter(row.label for row in rows)
        positions = np.linspace(0, len(rows) - 1, min(LISTED, len(rows))).round().astype(int).tolist()
        per_class = {label: counts[label] for label in CLASSES}
        result[kind] = Oddity(len(rows), per_class, tuple(rows[position].image for position in positions))
    return result
