"""Tumor outlines of images: the expert's outline in the reference slice, carried over to the image."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from braintumor.data.duplicates.groups import GroupRow, known_images
from braintumor.data.duplicates.thumbnails import make_thumbnails
from braintumor.data.manifest import Manifest
from braintumor.data.reference import Match, Reference, match, read_reference
from braintumor.errors import DataError
from braintumor.io.read import read

FINENESS: Final = 4  # a mask is drawn this much finer and averaged, so that a pixel on the outline is partly inside

Polygon = NDArray[np.float64]


def outlines(manifest: Manifest, folder: Path, cache: Path) -> list[Polygon | None]:
    """Return the tumor's outline in each image, None where none is known.

    Slices of the reference folder have their own outline. Images of the public set, recognised by name and picture,
    take their source slice from the table shipped with the package; only where some image is not recognised is its
    source searched in the reference folder.

    Args:
        manifest: N images.
        folder: the reference folder.
        cache: folder of the cache.

    Returns:
        N polygons (P, 2) of x and y, from 0 to 1 over the square to which `Preprocess` pads the image.

    Raises:
        DataError: the reference folder cannot be used, or no image has an outline.
    """
    reference = read_reference(folder)
    texts = {reference.identifier(index): text for index, text in enumerate(reference.outlines)}
    # a reference folder may be evaluated itself: its images need no search
    if (manifest.root / "images").resolve() == reference.manifest.root.resolve():
        sources = [_itself(manifest.path(row)) for row in manifest]
    else:
        sources = _sources(manifest, reference, cache)
    outlined = [source if source and source.reference_id in texts else None for source in sources]
    # a reference folder of other patients is a mistake that would otherwise show as an empty table
    if not any(outlined):
        raise DataError(f"no image of {manifest.root} comes from a slice in {folder}, so no tumor outline is known")
    return [
        padded(carried_over(parsed(texts[source.reference_id]), source), *read(manifest.path(row)).pixels.shape)
        if source
        else None
        for row, source in zip(manifest, outlined, strict=True)
    ]


def _sources(manifest: Manifest, reference: Reference, cache: Path) -> list[Match | None]:
    """Return the source slice of each image, None where there is none."""
    thumbnails, _ = make_thumbnails(manifest, cache)
    shipped = known_images(manifest, thumbnails)
    # one image that is not recognised needs the search, which then finds the others again, from the same slices
    if all(shipped):
        return [_source_in(image.row) if image else None for image in shipped]
    reference_thumbnails, _ = make_thumbnails(reference.manifest, cache)
    return match(thumbnails, reference, reference_thumbnails)


def _source_in(line: GroupRow) -> Match | None:
    """Return the source slice that a line of groups.csv names, None if it names none."""
    if not line.reference_id:
        return None
    window = (float(line.x0), float(line.y0), float(line.x1), float(line.y1))
    return Match(
        reference_id=line.reference_id,
        patient=line.patient,
        label="",
        mirrored=line.mirrored == "1",
        rotation=int(line.rotation),
        window=window,
        score=float(line.score),
    )


def _itself(path: Path) -> Match | None:
    """Return a slice of the reference folder as its own source."""
    with Image.open(path) as image:
        window = (0.0, 0.0, float(image.width), float(image.height))
    return Match(reference_id=path.stem, patient="", label="", mirrored=False, rotation=0, window=window, score=1.0)


def carried_over(outline: Polygon, source: Match) -> Polygon:
    """Return an outline in pixels of the source slice as shares of the image's width and height."""
    left, top, right, bottom = source.window
    x, y = ((outline - (left, top)) / (right - left, bottom - top)).T
    for _ in range(source.rotation // 90):  # clockwise: back from how the image was turned
        x, y = 1 - y, x
    return np.stack([1 - x if source.mirrored else x, y], axis=1)


def parsed(text: str) -> Polygon:
    """Return the (P, 2) points of `x y;x y;…`.

    Raises:
        DataError: something else is written there.
    """
    try:
        points = np.array([[float(number) for number in point.split()] for point in text.split(";") if point.strip()])
        if points.ndim == 2 and points.shape[1] == 2 and len(points) > 2:
            return points
    except ValueError:
        pass
    raise DataError(f"expected a tumor outline as 'x y;x y;…' of at least three points, got {text[:40]!r}")


def padded(polygon: Polygon, height: int, width: int) -> Polygon:
    """Return an outline in shares of the square to which `Preprocess` pads an image of this size."""
    return (polygon - 0.5) * (width, height) / max(height, width) + 0.5


def mask(polygon: Polygon, side: int) -> NDArray[np.uint8]:
    """Return which share of each pixel lies inside an outline, (side, side) from 0 to 255.

    Args:
        polygon: (P, 2) x and y as shares of the square.
        side: of the square in pixels.
    """
    fine = Image.new("L", (side * FINENESS, side * FINENESS))
    # Pillow counts from the middle of the first pixel, shares from the edge of the square: half a pixel between them
    corners = [(float(x), float(y)) for x, y in polygon * side * FINENESS - 0.5]
    ImageDraw.Draw(fine).polygon(corners, fill=255)
    return np.asarray(fine.reduce(FINENESS))
