"""Schedule of a run: order, learning rate and image size of every step, known before the first one."""

import math

import numpy as np
import torch
from torch import Tensor

from braintumor.training.config import TrainConfig


def epoch_order(config: TrainConfig, number: int, images: int, *, smallest: int = 2) -> tuple[Tensor, ...]:
    """Return the batches of an epoch, counted from 0, as positions among this number of images.

    A last batch of fewer than `smallest` images is left out: batch norm needs two in every process.
    """
    generator = torch.Generator().manual_seed(epoch_seed(config, number))
    batches: tuple[Tensor, ...] = torch.randperm(images, generator=generator).split(config.batch_size)
    return batches if len(batches[-1]) >= smallest or len(batches) == 1 else batches[:-1]


def epoch_seed(config: TrainConfig, number: int) -> int:
    """Return the seed of an epoch, counted from 0; it does not depend on the epochs before, so a run can be resumed."""
    return int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0])


def learning_rate(config: TrainConfig, epochs: float) -> float:
    """Return the learning rate after this many epochs, fractions too.

    It rises in a straight line during the warm-up, then falls along half a cosine to the final value.
    """
    if epochs < config.warmup_epochs:
        share = epochs / config.warmup_epochs
    else:
        share = (1 + math.cos(math.pi * (epochs - config.warmup_epochs) / (config.epochs - config.warmup_epochs))) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * share


def train_size(config: TrainConfig, number: int) -> int:
    """Return the side in pixels of the training images in an epoch, counted from 0.

    Each of the sizes gets an equal share of the epochs.
    """
    sizes = config.train_sizes or (config.size,)
    return sizes[min(number * len(sizes) // config.epochs, len(sizes) - 1)]


def averaging_decay(config: TrainConfig, steps: int) -> float:
    """Return the decay of the moving average after this many steps of the run: at first less than `averaging`.

    It follows the usual ramp (1 + t) / (10 + t), so that the average forgets the starting weights.
    """
    return min(config.averaging, (1 + steps) / (10 + steps))
