"""What the custom CNN should look like: candidates trained alike for the first epochs of `reference`.

Scored on the validation part alone.

Command: python benchmarks/cnn_capacity.py
Takes: long, a quarter of an hour.
"""

import tempfile
from pathlib import Path
from typing import Any

from record import data_folder, number, record
from torch import nn

from braintumor.cli.output import TrainingProgress
from braintumor.training import networks
from braintumor.training.checkpoint import Epoch
from braintumor.training.config import recipe
from braintumor.training.networks import CustomCNN, Residual, block
from braintumor.training.train import train

EPOCHS = 6


class Enough(Exception):  # noqa: N818
    """The epochs to compare are done."""


class FirstEpochs(TrainingProgress):
    """Stops a run after `EPOCHS` and keeps the epochs' lines."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Epoch] = []

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Keep the epoch's line; end the run after the last one."""
        super().epoch(row, epochs)
        self.rows.append(row)
        if len(self.rows) == EPOCHS:
            raise Enough


class Plain(nn.Sequential):
    """Blocks without shortcuts, features at a 16th of the side."""

    channels = 256

    def __init__(self) -> None:
        early = [
            block(3, 32, 2),
            block(32, 64, 2),
            block(64, 64),
            block(64, 128, 2),
            block(128, 128),
            nn.Dropout2d(0.05),
        ]
        super().__init__(*early, block(128, 192, 2), block(192, 192), nn.Dropout2d(0.05), block(192, 256))
        draw_weights(self)


class Wide(nn.Sequential):
    """Fewer, wider residual stages, features at a 32nd of the side."""

    channels = 320

    def __init__(self) -> None:
        early = [block(3, 32, 2), block(32, 64, 2), block(64, 128, 2), Residual(128), nn.Dropout2d(0.05)]
        late = [block(128, 256, 2), Residual(256), nn.Dropout2d(0.05), block(256, 320, 2), Residual(320)]
        super().__init__(*early, *late)
        draw_weights(self)


CANDIDATES = {"plain": Plain, "wide": Wide, "chosen": CustomCNN}


def draw_weights(network: nn.Module) -> None:
    """Draw the convolutions' weights as the CNN does."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            networks.he_normal(module.weight)


def main() -> None:
    """Produce `cnn-capacity.json`."""
    numbers: dict[str, dict[str, Any]] = {}
    for name, candidate in CANDIDATES.items():
        networks.CustomCNN = candidate  # type: ignore[misc,assignment]
        network = networks.build_network("cnn")
        with tempfile.TemporaryDirectory() as folder, FirstEpochs() as progress:
            try:
                train(recipe("reference", "cnn"), data_folder() / "brain-tumor-mri", Path(folder), progress)
            except Enough:
                rows = progress.rows
        numbers[f"{name}.parameters"] = number(sum(p.numel() for p in network.parameters()), "parameters")
        numbers[f"{name}.gmac"] = number(networks.multiply_adds(network, 224) / 1e9, "GMAC")
        numbers[f"{name}.train_loss"] = number(rows[-1].train_loss, "nats")
        numbers[f"{name}.best_macro_f1"] = number(max(row.val_macro_f1 for row in rows), "fraction")
        numbers[f"{name}.images_per_second"] = number(max(row.images_per_second for row in rows), "images/s")
    record("cnn-capacity", "python benchmarks/cnn_capacity.py", numbers)


if __name__ == "__main__":
    main()
