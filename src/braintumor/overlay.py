"""What a class map looks like on its slice: one fixed scale and colour table, and a state for "no evidence"."""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.inference import Prediction
from braintumor.scan import Scan

EVIDENCE: Final = 0.05  # of the scale; a map below it everywhere is shown as "no evidence"
OPACITY: Final = 0.65
COLOURS: Final = ((0.0, (94, 16, 92)), (0.35, (203, 43, 62)), (0.7, (245, 130, 32)), (1.0, (255, 236, 120)))
MARGIN, SIDE, BAR = 24, 448, 18


def shown(class_map: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Return a class map (h, w) on the fixed scale: min(map / scale, 1)."""
    return np.minimum(class_map / np.float32(scale), np.float32(1))


def has_evidence(class_map: NDArray[np.float32], scale: float) -> bool:
    """Tell whether a class map reaches 5 % of the scale anywhere."""
    return bool(class_map.max() >= EVIDENCE * scale)


def overlay(pixels: NDArray[np.float32], class_map: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """Return the slice (H, W), float32 in [0, 1], with its class map (h, w) in colour: (H, W, 3) uint8.

    The map covers the slice's centred square, as `Preprocess` pads it. It is enlarged bilinearly and never stretched.
    """
    strength = enlarge(shown(class_map, scale), pixels.shape)[:, :, None]
    grey = np.repeat(pixels[:, :, None] * 255, 3, axis=2)
    opacity = OPACITY * np.clip((strength - EVIDENCE) / (1 - EVIDENCE), 0, 1) ** 0.5
    return np.rint(grey * (1 - opacity) + colour(strength[:, :, 0]) * opacity).astype(np.uint8)


def enlarge(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the part of a square map (h, w) that lies on a slice of this (H, W) shape, bilinear."""
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


def figure(scan: Scan, prediction: Prediction, shown_class: str, scale: float) -> Image.Image:
    """Return the slice beside its overlay with the answer, the legend of the scale and the disclaimer.

    Args:
        scan: the slice.
        prediction: its answer.
        shown_class: the class whose map is shown.
        scale: the card's `class_map_scale`.
    """
    class_map = prediction.class_maps[CLASSES.index(shown_class)]
    page = Image.new("RGB", (2 * SIDE + 3 * MARGIN, SIDE + 5 * MARGIN + 3 * BAR), (18, 20, 24))
    draw = ImageDraw.Draw(page)
    probability = prediction.probabilities[CLASSES.index(prediction.predicted)]
    answer = TITLES[prediction.predicted] if prediction.decision != "refer" else "Refer"
    draw.text((MARGIN, MARGIN - 8), f"{answer}, probability {probability:.3f}", (240, 240, 240), font(22))
    evidence = has_evidence(class_map, scale)
    label = f"Evidence for: {TITLES[shown_class]}" if evidence else f"No evidence for: {TITLES[shown_class]}"
    draw.text((SIDE + 2 * MARGIN, MARGIN - 8), label, (240, 240, 240), font(22))
    grey = np.rint(np.repeat(scan.pixels[:, :, None], 3, axis=2) * 255).astype(np.uint8)
    for column, rgb in enumerate((grey, overlay(scan.pixels, class_map, scale))):
        page.paste(fitted(rgb), (MARGIN + column * (SIDE + MARGIN), 2 * MARGIN + 4))
    legend(page, draw, 3 * MARGIN + SIDE)
    draw.text((MARGIN, page.height - MARGIN - 2), DISCLAIMER, (200, 200, 200), font(15))
    return page


def fitted(rgb: NDArray[np.uint8]) -> Image.Image:
    """Return an image (H, W, 3) inside a black square of `SIDE` pixels, its proportions kept."""
    square = Image.new("RGB", (SIDE, SIDE))
    factor = SIDE / max(rgb.shape[:2])
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    square.paste(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def legend(page: Image.Image, draw: ImageDraw.ImageDraw, top: int) -> None:
    """Draw the colour bar of the fixed scale under the overlay."""
    left = SIDE + 2 * MARGIN
    bar = np.repeat(colour(np.linspace(0, 1, SIDE, dtype=np.float32))[None], BAR, axis=0)
    page.paste(Image.fromarray(bar.astype(np.uint8)), (left, top - 8))
    for share, text, anchor in ((0.0, "0", "la"), (0.5, "half", "ma"), (1.0, "scale of this model or above", "ra")):
        draw.text((left + share * SIDE, top + BAR - 4), text, (220, 220, 220), font(14), anchor=anchor)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font in a size in pixels."""
    return ImageFont.load_default(size)
