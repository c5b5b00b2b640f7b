"""Augment training images: parameters are drawn per image in one place and applied to whole batches in another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from braintumor.training.settings import check_number, check_range

MOST_ASPECT, MOST_SIGMA = 10.0, 10.0
CPU_CHUNK = 4  # images whose intermediate tensors stay in a core's cache: twice as fast as the whole batch


@dataclass(frozen=True)
class Augment:
    """Settings of the augmentation. Values are drawn uniformly from their ranges, once per image.

    Attributes:
        crop_scale: share of the image's area that is kept.
        crop_aspect: width over height of the crop, log-uniform.
        rotation: largest turn in degrees, both ways.
        brightness: the factor is drawn from 1 - brightness to 1 + brightness.
        contrast: likewise, around the image's mean.
        blur_sigma: of the 3x3 Gaussian, in output pixels.
    """

    crop_scale: tuple[float, float] = (0.7, 1.0)
    crop_aspect: tuple[float, float] = (0.9, 1.1)
    flip_horizontal: float = 0.5
    flip_vertical: float = 0.3
    rotation: float = 30.0
    brightness: float = 0.2
    contrast: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            TrainingError: a setting is of another kind or out of range.
        """
        check_range("augment.crop_scale", self.crop_scale, 0, 1, open_low=True)
        check_range("augment.crop_aspect", self.crop_aspect, 0, MOST_ASPECT, open_low=True)
        check_range("augment.blur_sigma", self.blur_sigma, 0, MOST_SIGMA)
        for name in ("flip_horizontal", "flip_vertical", "brightness", "contrast", "blur"):
            check_number(f"augment.{name}", getattr(self, name), 0, 1)
        check_number("augment.rotation", self.rotation, 0, 180)


@dataclass(frozen=True, eq=False)
class Variation:
    """Parameters of the augmentation of each image of a batch; float32 tensors, drawn on the CPU.

    Attributes:
        centre: (N, 2) x, y of the crop's centre, in [-1, 1] over the source image.
        half: (N, 2) half width and half height of the crop in the same units; 1 is the whole image.
        flip: (N, 2) -1 where mirrored in x or y, else 1.
        angle: (N,) counter-clockwise turn in radians.
        brightness: (N,) factor.
        contrast: (N,) factor.
        sigma: (N,) of the blur in pixels, 0 for none.
    """

    centre: Tensor
    half: Tensor
    flip: Tensor
    angle: Tensor
    brightness: Tensor
    contrast: Tensor
    sigma: Tensor

    def part(self, images: slice) -> "Variation":
        """Return the variations of some of the images."""
        return Variation(*(getattr(self, field.name)[images] for field in fields(self)))

    def to(self, device: torch.device) -> "Variation":
        """Return the variations with their tensors on a device."""
        return Variation(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


def draw(settings: Augment, seed: int, epoch: int, images: Sequence[int]) -> Variation:
    """Return the variations of the images: they depend on (seed, epoch, image) alone, not on the batch."""
    # A generator per image: so the result is the same for any batch size, number of processes and after a resume.
    uniform = np.stack([np.random.default_rng((seed, epoch, int(image))).random(11) for image in images])
    scale, aspect, x, y, horizontal, vertical, turn, brightness, contrast, blurred, sigma = uniform.T

    def between(low: float, high: float, share: np.ndarray) -> np.ndarray:
        return low + (high - low) * share

    area = between(*settings.crop_scale, scale)
    # Log-uniform, so that a crop of ratio r is as likely as one of 1 / r.
    ratio = np.exp(between(math.log(settings.crop_aspect[0]), math.log(settings.crop_aspect[1]), aspect))
    half = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=1).clip(max=1)
    centre = between(-1, 1, np.stack([x, y], axis=1)) * (1 - half)
    flip = np.stack([horizontal < settings.flip_horizontal, vertical < settings.flip_vertical], axis=1)
    values = {
        "centre": centre,
        "half": half,
        "flip": np.where(flip, -1.0, 1.0),
        "angle": np.deg2rad(between(-settings.rotation, settings.rotation, turn)),
        "brightness": between(1 - settings.brightness, 1 + settings.brightness, brightness),
        "contrast": between(1 - settings.contrast, 1 + settings.contrast, contrast),
        "sigma": np.where(blurred < settings.blur, between(*settings.blur_sigma, sigma), 0.0),
    }
    return Variation(**{name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()})


def unvaried(images: int) -> Variation:
    """Return variations that leave this number of images as they are, whole and upright."""
    return Variation(
        centre=torch.zeros(images, 2),
        half=torch.ones(images, 2),
        flip=torch.ones(images, 2),
        angle=torch.zeros(images),
        brightness=torch.ones(images),
        contrast=torch.ones(images),
        sigma=torch.zeros(images),
    )


def apply(images: Tensor, variation: Variation, size: int) -> Tensor:
    """Return the augmented images, (N, 1, size, size) float32 in [0, 1], of (N, 1, S, S) grey levels 0-255.

    The order is crop, flip, rotation, brightness, contrast, blur; the geometry is one bilinear resampling. A GPU takes
    the whole batch at once and blurs all images, those without blur by a sigma of 0, which changes nothing.
    """
    if images.device.type != "cpu":
        variation = variation.to(images.device)
        return blur(unblurred(images, variation, size), variation.sigma)
    augmented = torch.empty((len(images), 1, size, size))
    for start in range(0, len(images), CPU_CHUNK):
        part = slice(start, start + CPU_CHUNK)
        chunk = variation.part(part)
        blurred = chunk.sigma.nonzero().flatten()
        output = unblurred(images[part], chunk, size)
        output[blurred] = blur(output[blurred], chunk.sigma[blurred])
        augmented[part] = output
    return augmented


def unblurred(images: Tensor, variation: Variation, size: int) -> Tensor:
    """Return the images as `apply` has them before the blur, for images and variations on the same device."""
    resampled = resample(images.float() / 255, variation, size)
    return jitter(resampled, variation.brightness, variation.contrast)


def resample(images: Tensor, variation: Variation, size: int) -> Tensor:
    """Return the cropped, flipped and rotated (N, 1, size, size) images; black where the turn leaves the crop."""
    cosine, sine = variation.angle.cos(), variation.angle.sin()
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)  # (N, 2, 2)
    # From output to source, as grid_sample wants it: an output position is turned, then mirrored, scaled and moved.
    matrix = variation.flip[:, :, None] * turn
    pixel = (torch.arange(size, device=images.device) * 2 + 1) / size - 1  # (S,) centres of pixels, in [-1, 1]
    crop = _positions(matrix, pixel)
    grid = _positions(matrix * variation.half[:, :, None], pixel).add_(variation.centre[:, :, None, None])
    sampled = functional.grid_sample(images, grid.permute(0, 2, 3, 1), mode="bilinear", align_corners=False)
    # The crop's edge, not the image's: what lies beyond it was cut away before the rotation, so it is black.
    within = torch.maximum(*crop.abs_().unbind(dim=1)).le_(1)  # 1.0 or 0.0
    return sampled.mul_(within[:, None])


def _positions(matrix: Tensor, pixel: Tensor) -> Tensor:
    """Return (N, 2, S, S): each (N, 2, 2) matrix times every output position x, y, both running over `pixel` (S,).

    The coordinates are planes: pairs side by side would be added several times more slowly.
    """
    return matrix[:, :, 0, None, None] * pixel + matrix[:, :, 1, None, None] * pixel[:, None]


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Return the (N, 1, H, W) images with brightness, then contrast around each image's mean, changed; in [0, 1]."""
    bright = (images * brightness.view(-1, 1, 1, 1)).clamp_(0, 1)
    mean = bright.mean(dim=(1, 2, 3), keepdim=True)
    factor = contrast.view(-1, 1, 1, 1)
    return bright.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Return the (N, 1, H, W) images under a 3x3 Gaussian of the given sigma in pixels; unchanged where it is 0."""
    # The weight beside the middle, relative to the middle's. A sigma of 0 gives exp(-inf), which is exactly 0.
    side = torch.exp(-0.5 / sigma**2).view(-1, 1, 1, 1)
    padded = functional.pad(images, (1, 1, 1, 1), mode="reflect")
    rows = (padded[:, :, :-2] + padded[:, :, 2:]).mul_(side).add_(padded[:, :, 1:-1])
    columns = (rows[..., :-2] + rows[..., 2:]).mul_(side).add_(rows[..., 1:-1])
    return columns.mul_((1 + 2 * side) ** -2)  # the weights of each of the two passes sum to 1 + 2 * side
