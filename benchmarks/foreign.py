"""Pictures that are no usual brain slice, made or taken from what libraries ship, always the same ones."""

from collections.abc import Callable
from typing import Final

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.transform import rescale, rotate
from sklearn.datasets import load_sample_image

from braintumor.classes import CLASSES
from braintumor.data.phantom import phantom
from braintumor.io.scan import Scan
from braintumor.overlay import font

NUMBER: Final = 100
SIDE: Final = 256
PHOTOGRAPHS: Final = ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon", "rocket")
WORDS: Final = (
    "slice",
    "patient",
    "series",
    "echo",
    "matrix",
    "left",
    "right",
    "field",
    "thickness",
    "contrast",
    "name",
)
Floats = NDArray[np.floating]


def scan(pixels: Floats, name: str) -> Scan:
    """Return (H, W) grey values, cut to [0, 1], as a scan."""
    return Scan(np.ascontiguousarray(pixels, np.float32).clip(0, 1), source=name)


def photographs() -> list[Scan]:
    """Return crops of photographs that scikit-image and scikit-learn ship, as grey values."""
    pictures = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    pictures += [load_sample_image(f"{name}.jpg") for name in ("china", "flower")]
    random = np.random.default_rng(1)
    found = []
    for place in range(NUMBER):
        grey = np.asarray(Image.fromarray(pictures[place % len(pictures)]).convert("L"), np.float32) / 255
        side = int(random.uniform(0.4, 1.0) * min(grey.shape))
        top, left = (int(random.integers(0, length - side + 1)) for length in grey.shape)
        found.append(scan(grey[top : top + side, left : left + side], f"photograph-{place}"))
    return found


def noise() -> list[Scan]:
    """Return noise: even or normal, of grains from one pixel to a sixteenth of the side."""
    random = np.random.default_rng(2)
    found = []
    for place in range(NUMBER):
        grains = random.random((SIDE, SIDE)) if place % 2 else random.normal(0.5, 0.2, (SIDE, SIDE))
        smooth = ndimage.gaussian_filter(grains, (0, 1, 2, 4, 8)[place // 2 % 5])
        spread = (smooth - smooth.mean()) / smooth.std()
        found.append(scan(0.5 + 0.2 * spread, f"noise-{place}"))
    return found


def blank() -> list[Scan]:
    """Return even pictures from black to white, and even slopes."""
    slope = np.linspace(0, 1, SIDE)
    slopes = [
        np.broadcast_to(slope, (SIDE, SIDE)),
        np.broadcast_to(slope[:, None], (SIDE, SIDE)),
        slope + slope[:, None],
    ]
    even = [np.full((SIDE, SIDE), level) for level in np.linspace(0, 1, 60)]
    return [
        scan(pixels, f"blank-{place}") for place, pixels in enumerate([*even, *(part / part.max() for part in slopes)])
    ]


def text() -> list[Scan]:
    """Return pages of words, bright on dark or dark on bright."""
    random = np.random.default_rng(3)
    found = []
    for place in range(NUMBER):
        page = Image.new("L", (SIDE, SIDE), 0)
        pen, size = ImageDraw.Draw(page), int(random.integers(10, 28))
        for line in range(8, SIDE - size, int(size * 1.5)):
            pen.text((8, line), " ".join(random.choice(WORDS, 6)), int(random.integers(150, 256)), font(size))
        pixels = np.asarray(page, np.float32) / 255
        found.append(scan(1 - pixels if place % 2 else pixels, f"text-{place}"))
    return found


def phantoms() -> list[Scan]:
    """Return drawn heads: half of them the Shepp-Logan phantom, turned and scaled, half our own synthetic slices."""
    random = np.random.default_rng(4)
    found = []
    for place in range(NUMBER):
        if place % 2:
            pixels = phantom(CLASSES[place // 2 % 4], 1000 + place, SIDE)
        else:
            drawn = rescale(skimage.data.shepp_logan_phantom(), random.uniform(0.5, 1.0))
            pixels = rotate(drawn, random.uniform(-20, 20)) ** random.uniform(0.5, 1.5)
        found.append(scan(pixels, f"phantom-{place}"))
    return found


def turned(brain: Scan, place: int) -> Scan:
    """Return a slice turned by 60 to 120 degrees to either side, the corners black."""
    random = np.random.default_rng([5, place])
    angle = random.uniform(60, 120) * random.choice((-1, 1))
    return scan(ndimage.rotate(brain.pixels, angle, reshape=False, order=1), f"turned-{place}")


def half(brain: Scan, place: int) -> Scan:
    """Return a slice with one half black: left, right, top or bottom."""
    pixels = brain.pixels.copy()
    height, width = pixels.shape
    parts = ((slice(None), slice(width // 2)), (slice(None), slice(width // 2, None)))
    parts += ((slice(height // 2), slice(None)), (slice(height // 2, None), slice(None)))
    pixels[parts[place % 4]] = 0
    return scan(pixels, f"half-{place}")


def inverted(brain: Scan, place: int) -> Scan:
    """Return a slice with black and white exchanged."""
    return scan(1 - brain.pixels, f"inverted-{place}")


SETS: Final[dict[str, Callable[[], list[Scan]]]] = {
    "photographs": photographs,
    "noise": noise,
    "blank": blank,
    "text": text,
    "phantom": phantoms,
}
TURNED: Final[dict[str, Callable[[Scan, int], Scan]]] = {"turned": turned, "half": half, "inverted": inverted}
