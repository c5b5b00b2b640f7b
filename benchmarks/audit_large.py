"""How long the duplicate search takes on 200,000 slices, what memory it needs, and how many planted copies it finds.

The slices are synthetic: heads with random textures, 25 neighbours to a patient, which resemble each other but are not
the same slice. 2,000 copies, each turned, cropped, with another gamma and compressed, are planted among them. Search,
check in detail and grouping are timed; making the slices and their miniatures is not. On a busy machine the minutes of
all cores together, `cpu_minutes`, tell more than those of the clock.

Takes: long, half an hour on an idle machine.
Command: python benchmarks/audit_large.py
"""

import io
import resource
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from record import number, record

from braintumor.data.duplicates.alignment import CANDIDATE, same_slice
from braintumor.data.duplicates.pairs import RELATED, components, similar_pairs
from braintumor.data.duplicates.symmetries import ORIENTATIONS, oriented
from braintumor.data.duplicates.thumbnails import FINE_SIDE, SIDE, Thumbnails, make_thumbnail
from braintumor.data.phantom import head_coordinates, inside, smooth_noise
from braintumor.io.scan import Scan

IMAGES = 200_000
PLANTED = 2000
SLICES = 25
PIXELS = 96
OCTAVES = ((5, 0.3), (10, 0.5), (20, 1.0))  # cells per side, and by how much the next slice is turned on
FINEST = 44  # cells of the texture that every slice has for itself
Floats = NDArray[np.float32]


def main() -> None:
    """Measure and write `audit-large.json`."""
    found, original = everything()
    start, worked = time.perf_counter(), time.process_time()
    pairs = similar_pairs(found, threshold=CANDIDATE)
    searched = time.perf_counter()
    same = same_slice(pairs, found, found)
    linked = pairs[same | (pairs.score > RELATED)]
    groups = components(len(found), np.stack([linked.first, linked.second], axis=1))
    minutes = (time.perf_counter() - start) / 60
    used = (time.process_time() - worked) / 60
    copies = np.arange(IMAGES - PLANTED, IMAGES)
    named = set(zip(pairs.first[same].tolist(), pairs.second[same].tolist(), strict=True))
    planted = set(zip(original.tolist(), copies.tolist(), strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    numbers = {
        "minutes": number(minutes, "minutes"),
        "cpu_minutes": number(used, "minutes"),
        "search.minutes": number((searched - start) / 60, "minutes"),
        "images": number(IMAGES, "images"),
        "candidates": number(len(pairs), "pairs"),
        "planted.recall": number(len(planted & named) / PLANTED, "fraction", n=PLANTED),
        "planted.grouped": number(float((groups[original] == groups[copies]).mean()), "fraction", n=PLANTED),
        "not_planted": number(len(named - planted), "pairs"),
        "peak_mib": number(peak, "MiB"),
    }
    record("audit-large", "python benchmarks/audit_large.py", numbers)


def everything() -> tuple[Thumbnails, NDArray[np.int64]]:
    """Return the miniatures of all slices, the copies last, and (2000,) which slices were copied."""
    found = Thumbnails(
        np.empty((IMAGES, SIDE, SIDE), np.uint8),
        np.empty((IMAGES, SIDE, SIDE), np.uint8),
        np.empty((IMAGES, FINE_SIDE, FINE_SIDE), np.uint8),
        np.empty((IMAGES, 4), np.float32),
    )
    random = np.random.default_rng(0)
    original = np.sort(random.choice(IMAGES - PLANTED, PLANTED, replace=False))
    copy_of = dict(zip(original.tolist(), range(IMAGES - PLANTED, IMAGES), strict=True))
    for index, picture in enumerate(pictures(IMAGES - PLANTED)):
        put(found, index, picture)
        if index in copy_of:
            put(found, copy_of[index], changed(picture, random))
    return found, original


def put(found: Thumbnails, index: int, picture: Floats) -> None:
    """Write the miniature of a picture at its place."""
    one = make_thumbnail(Scan(picture))
    found.whole[index], found.head[index], found.fine[index], found.box[index] = (
        part[0] for part in (one.whole, one.head, one.fine, one.box)
    )


def pictures(count: int) -> Iterator[Floats]:
    """Yield so many slices, 25 of each patient one after the other, (96, 96) float32 in [0, 1]."""
    for patient in range(-(-count // SLICES)):
        random = np.random.default_rng([7, patient])
        x, y = head_coordinates(random, PIXELS)
        radius = np.hypot(x, y)
        brain, scalp = inside(radius, 0.86, 0.03), inside(np.abs(radius - 0.95), 0.04, 0.03) * random.uniform(0.4, 0.7)
        textures = [[smooth_noise(random, PIXELS, cells) for _ in range(2)] for cells, _ in OCTAVES]
        for place in range(min(SLICES, count - patient * SLICES)):
            texture = sum(
                np.cos(turn * place) * first + np.sin(turn * place) * second
                for (first, second), (_, turn) in zip(textures, OCTAVES, strict=True)
            )
            texture = texture + 1.5 * smooth_noise(random, PIXELS, FINEST)
            yield (brain * (0.4 + 0.13 * texture) + scalp).clip(0, 1).astype(np.float32)


def changed(picture: Floats, random: np.random.Generator) -> Floats:
    """Return a copy: in a random orientation, cropped by up to 5 %, with a gamma of 0.7 to 1.4, as JPEG."""
    turned = oriented(picture[None], int(random.integers(len(ORIENTATIONS))))[0]
    side = round(PIXELS * random.uniform(0.95, 1))
    top, left = random.integers(0, PIXELS - side + 1, 2)
    part = turned[top : top + side, left : left + side] ** random.uniform(0.7, 1.4)
    content = io.BytesIO()
    Image.fromarray(np.rint(part * 255).astype(np.uint8)).save(content, "JPEG", quality=int(random.integers(50, 96)))
    return np.asarray(Image.open(content), np.float32) / 255


if __name__ == "__main__":
    main()
