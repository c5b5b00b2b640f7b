"""Convert images of more than 8 bits to grey values; of colour with 16 bits Pillow by itself keeps only 8."""

import sys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braintumor.errors import ImageError, Refusal
from braintumor.io.grey import BY_PERCENTILES, LUMA, between, deep_limits

LARGEST: Final = 65_535
DEEP: Final = f"16-bit values: {BY_PERCENTILES}"
PHOTOMETRIC, BITS, PLANES = 262, 258, 284  # tags of TIFF
WHITE_IS_ZERO: Final = 0
SEPARATE: Final = 2
GREY: Final = ("L", "I", "I;16", "I;16B", "I;16L", "I;16N")
UNFIT: Final = ("RGBa;16", "CMYK;16")
OTHER_ORDER: Final = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def check_deep(image: Image.Image, name: str) -> None:
    """Raise if Pillow cannot decode an image of more than 8 bits, or would decode it as something else.

    Args:
        image: opened, not decoded.
        name: what to call it.

    Raises:
        ImageError: floating-point pixels, white stored as 0, separate colour planes, or 16-bit colour other than RGB.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise ImageError(
            name,
            "floating-point pixels have no fixed black and white; save as 8-bit or 16-bit grey",
            Refusal.UNSUPPORTED,
        )
    # Pillow inverts white-is-zero for 8 bits only: at 16 bits it returns a negative without saying so.
    if image.mode.startswith("I") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise ImageError(name, "16-bit TIFF with white as zero; save it with black as zero", Refusal.UNSUPPORTED)
    if max(tags.get(BITS) or (8,)) > 8 and tags.get(PLANES) == SEPARATE and image.mode not in GREY:
        raise ImageError(name, "16-bit TIFF with separate colour planes; save it as grey", Refusal.UNSUPPORTED)
    if any(raw.startswith(UNFIT) for raw in raw_modes(image)):
        raise ImageError(name, "16-bit colour other than RGB; save it as grey", Refusal.UNSUPPORTED)


def raw_modes(image: Image.Image) -> list[str]:
    """Return how each part of an image that is not decoded yet stores its pixels, as Pillow's raw modes."""
    modes = (part.args[0] if isinstance(part.args, tuple) else part.args for part in getattr(image, "tile", ()))
    return [mode for mode in modes if isinstance(mode, str)]


def is_deep_colour(image: Image.Image) -> bool:
    """Tell whether an image that is not decoded has channels of 16 bits, of which Pillow will keep the upper 8."""
    return any(";16" in raw for raw in raw_modes(image)) and image.mode in ("RGB", "RGBA")


def take_low_bytes(image: Any) -> None:
    """Make Pillow decode the lower 8 bits of each 16-bit channel instead of the upper; the image is not decoded yet.

    Pillow keeps the byte that the byte order makes the upper one, so naming the other order yields the lower. Grey
    with transparency becomes four channels: the upper and lower bytes of the grey, then those of the transparency.
    """
    image.tile = [part._replace(args=_swapped(part.args)) for part in image.tile]


def _swapped(args: Any) -> Any:
    """Return the arguments of a Pillow decoder with the opposite byte order."""
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    # Grey and opacity of 16 bits are four bytes a pixel, which RGBA passes through unchanged.
    return "RGBA" if args.startswith("LA;16") else args[:-1] + OTHER_ORDER[args[-1]]


def deep_colour(upper: Image.Image, lower: Image.Image, raw: str) -> NDArray[np.float32]:
    """Return the (H, W) luma, 0 to 65,535, of an image with channels of 16 bits; what is transparent lies on black.

    Args:
        upper: the image as Pillow decodes it.
        lower: the same, decoded after `take_low_bytes`.
        raw: how the pixels are stored, see `raw_modes`.
    """
    high, low = (np.asarray(image).astype(np.uint16) for image in (upper, lower))
    if raw.startswith("LA;16"):
        grey, opacity = (low[..., 0] << 8 | low[..., 1]).astype(np.float32), low[..., 2] << 8 | low[..., 3]
        return grey * (opacity.astype(np.float32) / np.float32(LARGEST))
    values = high << 8 | low
    # Channel by channel: a float copy of all channels at once would take three times the memory.
    luma = np.zeros(values.shape[:2], np.float32)
    for channel, weight in enumerate(LUMA):
        luma += values[..., channel] * np.float32(weight / 2**16)
    np.rint(luma, out=luma)  # whole values, as Pillow gives them for 8 bits
    opaque = luma if values.shape[2] == 3 else luma * (values[..., 3] / np.float32(LARGEST))
    return opaque.astype(np.float32, copy=False)


def deep_grey(values: NDArray[Any], name: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return (H, W) values of up to 16 bits as float32 in [0, 1], see `grey.deep_limits`, and notes on it.

    Raises:
        ImageError: a value lies outside 0 to 65535.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > LARGEST:
        raise ImageError(name, f"grey values from {low} to {high}; save as 8-bit or 16-bit grey", Refusal.UNSUPPORTED)
    black, white, full = deep_limits(values)
    notes = () if full == 1 else (DEEP,)
    return between(values.astype(np.float32), black, white), notes
