"""How fast training images are varied: our augmentation over the documented pipeline in torchvision v2.

Both take the same decoded slices of 256 px from memory and give float32 images of 224 px, with the same operations in
the same order and ranges, one thread each, in alternating turns. Ours works on batches of 32 and is charged everything:
indexing the batch, drawing the parameters, all pixels; for RGB also the three normalised channels, which the network
makes from its one. torchvision's transforms work on one image at a time, as they do in a `Dataset`. What its
documentation leaves open is measured: uint8 or float32 first (uint8 is advised), antialiasing while cropping or not
(on by default), rows of pixels or of planes in memory (what decoding a file or converting an array gives). The ratio
is over whichever of these is fastest; the rates of all are recorded.

Command: python benchmarks/augmentation.py
Takes: 1 minute.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import data_folder, number, record, spread
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from braintumor.io.read import read
from braintumor.models.preprocess import Preprocess
from braintumor.training import augment
from braintumor.training.networks import IMAGENET_MEAN, IMAGENET_STD

IMAGES, BATCH, ROUNDS, SIZE, SOURCE = 128, 32, 7, 224, 256
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
Turn = Callable[[], object]


def main() -> None:
    """Produce `augmentation.json`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    grey = slices(data_folder() / "brain-tumor-mri" / "Training")
    numbers: dict[str, dict[str, Any]] = {}
    for name, channels in (("", 3), ("_one_channel", 1)):
        turns = {"ours": lambda channels=channels: ours(grey, channels)} | torchvision_turns(grey, channels)
        rates = alternating(turns)
        mine = rates.pop("ours")
        best = max(rates, key=lambda turn: statistics.median(rates[turn]))
        ratios = [one / other for one, other in zip(mine, rates[best], strict=True)]
        numbers[f"ratio{name}"] = spread(ratios, "ratio")
        numbers[f"ours{name}.images_per_second"] = spread(mine, "images/s")
        numbers[f"torchvision{name}.images_per_second"] = spread(rates[best], "images/s")
        numbers |= {f"torchvision{name}.{turn}": spread(rates[turn], "images/s") for turn in rates}
    numbers["images"] = number(IMAGES, "images")
    record("augmentation", "python benchmarks/augmentation.py", numbers)


def slices(folder: Path) -> Tensor:
    """Return (IMAGES, SOURCE, SOURCE) uint8 slices spread over the files of a folder, as the decoded cache has them."""
    files = sorted(folder.rglob("*.jpg"))
    chosen = files[:: len(files) // IMAGES][:IMAGES]
    return torch.from_numpy(np.stack([Preprocess(SOURCE).grey_levels(read(file)) for file in chosen]))


def alternating(turns: dict[str, Turn]) -> dict[str, list[float]]:
    """Return images/s of every turn in `ROUNDS` rounds, after one to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for round_ in range(ROUNDS + 1):
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            if round_:
                rates[name].append(IMAGES / (time.perf_counter() - began))
    return rates


def ours(grey: Tensor, channels: int) -> None:
    """Vary all slices once, as the training loop does; for three channels with the network's normalisation."""
    for indices in torch.arange(len(grey)).split(BATCH):
        variation = augment.draw(augment.Augment(), 0, 0, indices.tolist())
        varied = augment.apply(grey[indices][:, None], variation, SIZE)
        if channels == 3:
            (varied - MEAN) / STD


def torchvision_turns(grey: Tensor, channels: int) -> dict[str, Turn]:
    """Return one turn per combination of what torchvision's documentation leaves open, by name."""
    planes = [image.expand(channels, -1, -1).contiguous() for image in grey]
    pixels = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in planes]
    layouts = {"planes": planes, "pixels": pixels} if channels == 3 else {"planes": planes}
    turns = {}
    for dtype, antialias, layout in itertools.product((torch.uint8, torch.float32), (True, False), layouts):
        name = f"{str(dtype).removeprefix('torch.')}.{'antialias' if antialias else 'plain'}.{layout}"
        turns[name] = one_by_one(pipeline(channels, dtype, antialias=antialias), layouts[layout])
    return turns


def one_by_one(transform: Callable[[Tensor], Tensor], images: list[Tensor]) -> Turn:
    """Return a turn that varies every image."""
    return lambda: [transform(image) for image in images]


def pipeline(channels: int, dtype: torch.dtype, *, antialias: bool) -> Callable[[Tensor], Tensor]:
    """Return the documented pipeline as torchvision's users write it, computing in `dtype` up to the last step."""
    settings = augment.Augment()
    steps = [
        v2.ToDtype(dtype, scale=True),
        v2.RandomResizedCrop(SIZE, scale=settings.crop_scale, ratio=settings.crop_aspect, antialias=antialias),
        v2.RandomHorizontalFlip(settings.flip_horizontal),
        v2.RandomVerticalFlip(settings.flip_vertical),
        v2.RandomRotation(settings.rotation, interpolation=InterpolationMode.BILINEAR),
        v2.ColorJitter(brightness=settings.brightness, contrast=settings.contrast),
        v2.RandomApply([v2.GaussianBlur(3, sigma=settings.blur_sigma)], p=settings.blur),
        v2.ToDtype(torch.float32, scale=True),
    ]
    normalise = [v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)] if channels == 3 else []
    composed: Callable[[Tensor], Tensor] = v2.Compose([*steps, *normalise])
    return composed


if __name__ == "__main__":
    main()
