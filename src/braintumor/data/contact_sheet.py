"""Draw a contact sheet of a data folder: some slices of every class and split, with counts and sizes."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.data.layout import list_images
from braintumor.data.manifest import SPLITS, Row
from braintumor.download import Progress
from braintumor.errors import ImageError
from braintumor.io.read import read
from braintumor.overlay import FAINT_INK, INK, PAPER, font

SLICES: Final = 12
SIDE, GAP, MARGIN, CAPTION = 112, 4, 24, 34  # pixels
THREADS: Final = 8

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Strip:
    """One class of one split.

    Attributes:
        caption: part, class, number of readable images and their sizes.
        images: files of the slices to show.
    """

    caption: str
    images: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """A page with the texts on it.

    Attributes:
        page: RGB.
        captions: of its rows, from top to bottom.
        unreadable: reason of every path that is left out, relative to the data folder.
    """

    page: Image.Image
    captions: tuple[str, ...]
    unreadable: dict[str, str]


def contact_sheet(data_dir: Path, progress: Progress) -> ContactSheet:
    """Return the contact sheet of a data folder: 12 slices per class and split, evenly drawn by name.

    Every image is read once, to know its size and whether it can be read at all.

    Args:
        data_dir: in one of the layouts of `data.layout`.
        progress: called with the images read and their number.

    Raises:
        DataError: no known layout.
    """
    listing = list_images(data_dir)
    unreadable, sizes = dict(listing.skipped), {}
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda row: _size_of(listing.manifest.path(row)), listing.manifest)
        # results come in the order of the rows, whichever thread is done first, so pages do not differ between runs
        for done, (row, size) in enumerate(zip(listing.manifest, results, strict=True), 1):
            if isinstance(size, str):
                unreadable[row.image] = size
            else:
                sizes[row] = size
            progress(done, len(listing.manifest))
    strips = [
        _strip(label, rows, sizes, data_dir)
        for split in (*SPLITS, "")
        for label in CLASSES
        if (rows := [row for row in listing.manifest if (row.split, row.label) == (split, label)])
    ]
    return ContactSheet(_draw(strips), tuple(strip.caption for strip in strips), unreadable)


def _size_of(image: Path) -> Size | str:
    """Return width and height of an image, or why it cannot be read."""
    try:
        height, width = read(image).pixels.shape
    except ImageError as error:
        return error.reason
    return width, height


def _strip(label: str, rows: Sequence[Row], sizes: dict[Row, Size], data_dir: Path) -> Strip:
    """Return one class of one split; its readable images are drawn evenly by name, the first and the last included."""
    # the caption counts readable images only; the others are listed with their reasons
    readable = [row for row in rows if row in sizes]
    source = f"{rows[0].source} · " if rows[0].source else ""
    count = f"{len(readable):,} image{'' if len(readable) == 1 else 's'}"
    caption = f"{source}{TITLES[label]} · {count}{_sizes_text([sizes[row] for row in readable])}"
    positions = np.linspace(0, len(readable) - 1, min(SLICES, len(readable))).round().astype(int).tolist()
    return Strip(caption, tuple(data_dir / readable[position].image for position in positions))


def _sizes_text(sizes: Sequence[Size]) -> str:
    """Return the most frequent size, and how many images have another one."""
    if not sizes:
        return ""
    [((width, height), count)] = Counter(sizes).most_common(1)
    others = len(sizes) - count
    return f" · {width} x {height}" + (f", {others:,} of other sizes" if others else "")


def _draw(strips: Sequence[Strip]) -> Image.Image:
    """Return the page of these rows, with the disclaimer below."""
    width = 2 * MARGIN + SLICES * (SIDE + GAP) - GAP
    page = Image.new("RGB", (width, MARGIN + len(strips) * (CAPTION + SIDE + GAP) + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    top = MARGIN // 2
    for row in strips:
        pen.text((MARGIN, top + CAPTION / 2), row.caption, INK, font(18), anchor="lm")
        for column, image in enumerate(row.images):
            page.paste(_tile(image), (MARGIN + column * (SIDE + GAP), top + CAPTION))
        top += CAPTION + SIDE + GAP
    pen.text((MARGIN, page.height - MARGIN), DISCLAIMER, FAINT_INK, font(16), anchor="lm")
    return page


def _tile(image: Path) -> Image.Image:
    """Return a slice inside a black square, its proportions kept.

    Raises:
        ImageError: it has become unreadable.
    """
    grey = Image.fromarray(np.rint(read(image).pixels * 255).astype(np.uint8))
    factor = SIDE / max(grey.size)
    # a side of a very long picture would round to 0 pixels
    grey = grey.resize(
        (max(1, round(grey.width * factor)), max(1, round(grey.height * factor))), Image.Resampling.LANCZOS
    )
    square = Image.new("L", (SIDE, SIDE))
    square.paste(grey, ((SIDE - grey.width) // 2, (SIDE - grey.height) // 2))
    return square
