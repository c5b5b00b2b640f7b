"""Draw synthetic brain slices of the four classes by formula: for the demo and for tests, from no patient."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braintumor.classes import CLASSES

Field = NDArray[np.float64]
FOLDERS: Final = {"glioma": "glioma", "meningioma": "meningioma", "pituitary": "pituitary", "no_tumor": "notumor"}
TEST_SHARE: Final = 0.2
BRAIN_EDGE: Final = 0.86


def phantom(label: str, seed: int, size: int = 224) -> NDArray[np.float32]:
    """Return a synthetic slice of a class, (size, size) float32 in [0, 1]; the same seed gives the same slice.

    Glioma: an irregular ring with a dark core and grey oedema inside one hemisphere. Meningioma: a bright, even,
    round mass on the inner side of the skull. Pituitary: a small bright blob on the midline in the lower part.
    No tumor: the head alone. Size, proportions, tilt, contrast and noise of the head vary.

    Raises:
        ValueError: no such class.
    """
    if label not in CLASSES:
        raise ValueError(f"expected one of {', '.join(CLASSES)}, got {label!r}")
    # the class is part of the seed, or the four classes would share their heads and a model could compare them
    random = np.random.default_rng([seed, CLASSES.index(label)])
    head = _draw_head(random, size)
    image = TUMORS[label](head, random)
    # a receive coil nearer to one side makes that side brighter
    shading = 1 + random.uniform(-0.2, 0.2) * head.x + random.uniform(-0.2, 0.2) * head.y
    noise = random.normal(0, random.uniform(0.005, 0.02), image.shape)
    return (image * shading * random.uniform(0.8, 1.0) + noise * (image > 0)).clip(0, 1).astype(np.float32)


def write_phantoms(folder: Path, per_class: int, seed: int = 0, size: int = 224) -> None:
    """Write `per_class` slices of each class as 8-bit PNG in the layout of the public set.

    One fifth of them, at least one, goes to `Testing/CLASS/`, the others go to `Training/CLASS/`. Every slice is
    another head.

    Raises:
        ValueError: fewer than two slices per class.
    """
    if per_class < 2:
        raise ValueError(f"expected at least two slices per class, got {per_class}")
    tests = max(1, round(per_class * TEST_SHARE))
    for label, name in FOLDERS.items():
        for index in range(per_class):
            target = folder / ("Testing" if index < tests else "Training") / name
            target.mkdir(parents=True, exist_ok=True)
            # a large prime keeps the slices of neighbouring seeds apart
            pixels = np.rint(phantom(label, seed * 1_000_003 + index, size) * 255).astype(np.uint8)
            Image.fromarray(pixels).save(target / f"{name}-{index:04d}.png")


@dataclass(frozen=True, eq=False)
class Head:
    """A head without tumor, in coordinates of the head: x to the right, y down, the skull's outside at radius 1.

    Attributes:
        image: (H, W) grey values, 0 outside the head.
        x: (H, W) horizontal head coordinate of every pixel.
        y: (H, W) vertical head coordinate of every pixel.
        brain: (H, W) 1 inside the brain, 0 outside, soft at the edge.
        grey: brightness of the grey matter.
    """

    image: Field
    x: Field
    y: Field
    brain: Field
    grey: float


def _draw_head(random: np.random.Generator, size: int) -> Head:
    """Return an axial slice: scalp, dark skull, folded cortex, white matter, ventricles, midline."""
    x, y = head_coordinates(random, size)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    grey, white = random.uniform(0.3, 0.42), random.uniform(0.45, 0.56)
    brain = inside(radius, BRAIN_EDGE + 0.01 * _waves(angle, random, 9), 0.015)
    folds = _waves(angle, random, 24) * 0.05 + 0.05 * smooth_noise(random, size, 14)
    white_matter = inside(radius, 0.66 + folds + 0.03 * np.cos(4 * angle), 0.03)
    image = brain * (grey + (white - grey) * white_matter)
    texture = smooth_noise(random, size, 30) + 2 * smooth_noise(random, size, 20) + 2 * smooth_noise(random, size, 12)
    image *= 1 + 0.21 * texture.clip(-4, 0.2)
    sulci = inside(np.abs(np.sin(9 * angle + 2 * _waves(angle, random, 16))), 0.12, 0.05) * inside(-radius, -0.72, 0.04)
    image *= 1 - 0.45 * sulci
    midline = inside(np.abs(x + 0.012 * np.sin(4 * y)), 0.008, 0.008) * inside(-np.abs(y), -0.3, 0.05)
    image *= 1 - 0.6 * midline
    image = _draw_ventricles(image, x, y, random)
    scalp = inside(radius, 0.99, 0.012) * inside(-radius, -0.935, 0.012)
    skull = inside(radius, 0.935, 0.01) * inside(-radius, -BRAIN_EDGE - 0.01, 0.01)
    uneven = 1 + 0.35 * smooth_noise(random, size, 16)
    image = image + random.uniform(0.5, 0.75) * scalp * uneven + 0.06 * skull
    return Head(image, x, y, brain, grey)


def head_coordinates(random: np.random.Generator, size: int) -> tuple[Field, Field]:
    """Return x and y of every pixel, (size, size) each, for a head of random place, tilt and proportions."""
    rows, columns = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    dx = columns - random.uniform(-0.04, 0.04)
    dy = rows - random.uniform(-0.04, 0.04)
    tilt = np.radians(random.uniform(-12, 12))
    length = random.uniform(0.84, 0.94)
    width = length * random.uniform(0.76, 0.88)
    x = (np.cos(tilt) * dx + np.sin(tilt) * dy) / width
    y = (np.cos(tilt) * dy - np.sin(tilt) * dx) / length
    return x, y


def _draw_ventricles(image: Field, x: Field, y: Field, random: np.random.Generator) -> Field:
    """Return the image with two dark, bent lateral ventricles and the third one between them."""
    size = random.uniform(0.7, 1.3)
    # the horns bend outwards with their distance from the middle
    offset = random.uniform(0.09, 0.12) + 0.35 * (y + 0.05) ** 2
    horns = inside(np.hypot((np.abs(x) - offset) / (0.055 * size), (y + 0.03) / (0.3 * size)), 1.0, 0.15)
    third = inside(np.hypot(x / 0.016, (y - 0.12) / 0.1), 1.0, 0.2)
    dark = random.uniform(0.08, 0.14)
    fluid: Field = np.maximum(horns, third)
    return image * (1 - fluid) + dark * fluid


def _draw_glioma(head: Head, random: np.random.Generator) -> Field:
    """Return the head with a ring-enhancing irregular mass and oedema inside one hemisphere."""
    side = random.choice([-1.0, 1.0])
    radius, angle = _polar(head, side * random.uniform(0.36, 0.46), random.uniform(-0.4, 0.4))
    extent = random.uniform(0.17, 0.27) * (1 + 0.25 * _waves(angle, random, 6))
    oedema = head.brain * inside(radius, extent * random.uniform(1.5, 1.8) + 0.05 * _waves(angle, random, 9), 0.06)
    mass = head.brain * inside(radius, extent, 0.02)
    core = inside(radius, extent * random.uniform(0.55, 0.75) + 0.02 * _waves(angle, random, 8), 0.03)
    image = _blend(head.image, oedema, head.grey * random.uniform(0.6, 0.75))
    image = _blend(image, mass, random.uniform(0.75, 0.95))
    return _blend(image, mass * core, random.uniform(0.15, 0.28))


def _draw_meningioma(head: Head, random: np.random.Generator) -> Field:
    """Return the head with a round, even, bright mass whose base lies on the inside of the skull."""
    extent = random.uniform(0.15, 0.27)
    direction = random.uniform(0, 2 * np.pi)
    centre = BRAIN_EDGE - extent * random.uniform(0.55, 0.8)
    radius, angle = _polar(head, centre * np.cos(direction), centre * np.sin(direction))
    mass = head.brain * inside(radius, extent * (1 + 0.05 * _waves(angle, random, 4)), 0.015)
    rim = head.brain * inside(radius, extent * 1.12, 0.03)
    return _blend(_blend(head.image, rim, head.grey * 0.6), mass, random.uniform(0.75, 0.92))


def _draw_pituitary(head: Head, random: np.random.Generator) -> Field:
    """Return the head with a small bright blob on the midline, in the dark basal cistern."""
    x, y = random.uniform(-0.03, 0.03), random.uniform(0.42, 0.52)
    radius, angle = _polar(head, x, y)
    extent = random.uniform(0.075, 0.13)
    cistern = inside(radius, extent * 1.5 * (1 + 0.15 * np.cos(5 * angle)), 0.04)
    mass = inside(radius, extent * (1 + 0.08 * _waves(angle, random, 4)), 0.015)
    return _blend(_blend(head.image, cistern, 0.12), mass, random.uniform(0.75, 0.95))


def _draw_nothing(head: Head, random: np.random.Generator) -> Field:
    return head.image


TUMORS: Final = {
    "glioma": _draw_glioma,
    "meningioma": _draw_meningioma,
    "pituitary": _draw_pituitary,
    "no_tumor": _draw_nothing,
}


def _polar(head: Head, x: float, y: float) -> tuple[Field, Field]:
    """Return distance and angle of every pixel from a point of the head, (H, W) each."""
    return np.hypot(head.x - x, head.y - y), np.arctan2(head.y - y, head.x - x)


def inside(values: Field, edge: float | Field, softness: float) -> Field:
    """Return 1 where the values lie below the edge, 0 above it, and a slope of this softness between."""
    return np.clip((edge - values) / softness + 0.5, 0, 1)


def _blend(image: Field, share: Field, brightness: float) -> Field:
    """Return the image mixed with an even brightness, by a share of 0 to 1 per pixel."""
    return image * (1 - share) + brightness * share


def _waves(angle: Field, random: np.random.Generator, count: int) -> Field:
    """Return a closed random curve over the angle, with values of about -1 to 1 and up to `count` bumps."""
    # order 1 would only move the centre; falling heights make broad bumps larger than narrow ones
    orders = np.arange(2, count + 1)[:, None]
    phases, heights = random.uniform(0, 2 * np.pi, orders.shape), random.uniform(0.3, 1, orders.shape) / np.sqrt(orders)
    # from -pi to pi with both ends, so that the curve closes without a step
    knots = np.linspace(-np.pi, np.pi, 721)
    curve = (heights * np.sin(orders * knots + phases)).sum(axis=0) / np.sqrt((heights**2).sum()) / 1.5
    return np.asarray(np.interp(angle, knots, curve))


def smooth_noise(random: np.random.Generator, size: int, cells: int) -> Field:
    """Return (size, size) random values of about -1 to 1 that change over the width of a cell."""
    coarse = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float64)
