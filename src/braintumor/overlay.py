"""Draw class maps on their slices: one fixed scale and colour table, and a state for "no evidence"."""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from braintumor.classes import DISCLAIMER

EVIDENCE: Final = 0.05  # of the scale; a map below it everywhere is shown as "no evidence"
OPACITY: Final = 0.65
# By share of the scale; brighter for more, so that the order is kept in greyscale prints and for the colour-blind.
COLOURS: Final = ((0.0, (94, 16, 92)), (0.35, (203, 43, 62)), (0.7, (245, 130, 32)), (1.0, (255, 236, 120)))
SIDE, MARGIN, TOP, BAR = 448, 24, 56, 16  # of the figure, in pixels
PAPER, INK, FAINT_INK = (18, 20, 24), (240, 240, 240), (190, 194, 200)


def scaled_map(class_map: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Return a class map (h, w) on the fixed scale: min(map / scale, 1)."""
    strength: NDArray[np.float32] = np.minimum(class_map / np.float32(scale), np.float32(1))
    return strength


def has_evidence(class_map: NDArray[np.float32], scale: float) -> bool:
    """Tell whether a class map reaches 5 % of the scale anywhere."""
    return bool(class_map.max() >= EVIDENCE * scale)


def overlay(pixels: NDArray[np.float32], class_map: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """Return the slice (H, W), float32 in [0, 1], with its class map (h, w) in colour: (H, W, 3) uint8.

    The map covers the slice's centred square, as `Preprocess` pads it. It is enlarged bilinearly and never stretched.
    """
    return _blend(pixels, enlarge(scaled_map(class_map, scale), pixels.shape))


def _blend(pixels: NDArray[np.float32], strength: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return grey values (H, W) with colour over them, by the strength (H, W) in [0, 1]: (H, W, 3) uint8."""
    # Nothing below the threshold of evidence; the square root makes what is just above it visible.
    opacity = OPACITY * np.clip((strength - EVIDENCE) / (1 - EVIDENCE), 0, 1)[:, :, None] ** 0.5
    mixed = 255 * pixels[:, :, None] * (1 - opacity) + colour(strength) * opacity
    rgb: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return rgb


def enlarge(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the part of a square map (h, w) that lies on a slice of this (H, W) shape, enlarged bilinearly."""
    # The inverse of `preprocess.pad_to_square`: the same centred square, cut back to the slice.
    height, width = shape
    side = max(height, width)
    square = np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BILINEAR))
    top, left = (side - height) // 2, (side - width) // 2
    return square[top : top + height, left : left + width]


def colour(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the colours (..., 3), 0 to 255, of strengths (...) in [0, 1]."""
    stops = [stop for stop, _ in COLOURS]
    channels = [np.interp(strength, stops, [rgb[channel] for _, rgb in COLOURS]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def png(rgb: NDArray[np.uint8]) -> bytes:
    """Return an image (H, W, 3) or (H, W) uint8 as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def figure(
    pixels: NDArray[np.float32], class_map: NDArray[np.float32], scale: float, *, answer: str, title: str, model: str
) -> Image.Image:
    """Return the slice beside its overlay, with the answer, the legend of the fixed scale and the disclaimer.

    Args:
        pixels: (H, W) grey values of the slice in [0, 1].
        class_map: (h, w) map of one class.
        scale: the card's `class_map_scale`.
        answer: the prediction in words, written above the slice.
        title: the class whose map is shown, written above the overlay after "Evidence for" or "No evidence for".
        model: name and version of the model, written below.
    """
    page = Image.new("RGB", (2 * SIDE + 3 * MARGIN, TOP + SIDE + 4 * MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    left, right = MARGIN, SIDE + 2 * MARGIN
    state = "Evidence for" if has_evidence(class_map, scale) else "No evidence for"
    for x, text in ((left, answer), (right, f"{state}: {title}")):
        draw.text((x, TOP / 2), text, INK, font(20), anchor="lm")
    grey = np.rint(np.repeat(pixels[:, :, None], 3, axis=2) * 255).astype(np.uint8)
    page.paste(_fitted(grey), (left, TOP))
    page.paste(_fitted(overlay(pixels, class_map, scale)), (right, TOP))
    _legend(page, draw, right, TOP + SIDE + MARGIN // 2)
    draw.text((left, page.height - MARGIN), f"{model}. {DISCLAIMER}", FAINT_INK, font(14), anchor="lm")
    return page


def _fitted(rgb: NDArray[np.uint8]) -> Image.Image:
    """Return an image (H, W, 3) inside a black square of `SIDE` pixels, its proportions kept."""
    square = Image.new("RGB", (SIDE, SIDE))
    factor = SIDE / max(rgb.shape[:2])
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    resized = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)
    square.paste(resized, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def _legend(page: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    """Draw the colours of the fixed scale and their meaning, as they look on a slice of middle grey."""
    strength = np.linspace(0, 1, SIDE, dtype=np.float32)[None].repeat(BAR, axis=0)
    page.paste(Image.fromarray(_blend(np.full_like(strength, 0.35), strength)), (left, top))
    marks = ((0.0, "none", "ls"), (0.5, "half", "ms"), (1.0, "full scale or above", "rs"))
    for share, text, anchor in marks:
        draw.text((left + share * SIDE, top + BAR + 18), text, FAINT_INK, font(14), anchor=anchor)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's built-in font in a size in pixels."""
    return ImageFont.load_default(size)
