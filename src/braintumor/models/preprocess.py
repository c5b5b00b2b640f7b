"""Prepare a slice as the network's input: the only such code, used by training and by every prediction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braintumor.io.scan import Scan


@dataclass(frozen=True)
class Preprocess:
    """The frozen recipe from grey values to the network's input, recorded in the model card.

    A slice is padded with black to a centred square (never squeezed), resampled bilinearly with antialiasing to
    `size` x `size` and rounded to 256 grey levels, the depth at which the networks were trained. The ImageNet mean
    and deviation are applied inside the network.

    Attributes:
        size: side of the network's input in pixels.
    """

    size: int = 224

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ValueError(f"expected an input side of 32 to 1024 pixels, got {self.size}")

    def __call__(self, scan: Scan) -> NDArray[np.float32]:
        """Return the (1, size, size) float32 input in [0, 1]."""
        image: NDArray[np.float32] = network_input(self.grey_levels(scan)[None])[0]
        return image

    def grey_levels(self, scan: Scan) -> NDArray[np.uint8]:
        """Return the same input as (size, size) uint8 grey levels, the form in which training caches it."""
        # Padded first: resampling first would round the shorter side to whole pixels and so squeeze the slice.
        square = pad_to_square(scan.pixels)
        if square.shape[0] != self.size:
            resized = Image.fromarray(square).resize((self.size, self.size), Image.Resampling.BILINEAR)
            square = np.asarray(resized)
        levels: NDArray[np.uint8] = np.rint(square.clip(0, 1) * 255).astype(np.uint8)
        return levels


def network_input(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return grey levels (N, S, S) as the network takes them: (N, 1, S, S) float32 in [0, 1]."""
    return levels[:, None].astype(np.float32) / np.float32(255)


def pad_to_square(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (S, S) with S = max(H, W): the slice in the middle, black around; an odd pixel goes to the end."""
    height, width = pixels.shape
    if height == width:
        return pixels
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), np.float32)
    square[top : top + height, left : left + width] = pixels
    return square
