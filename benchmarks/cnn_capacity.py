"""How large the custom CNN should be: candidates within the budget, trained alike for a few epochs at 128 px.

Scored on the validation part alone. Command: python benchmarks/cnn_capacity.py
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from record import data_folder, number, record
from torch import nn

from braintumor.cli import TrainingProgress
from braintumor.training import networks
from braintumor.training.networks import block
from braintumor.training.recipe import recipe
from braintumor.training.train import train

EPOCHS, SIZE, LEARNING_RATE = 8, 128, 5e-4


@dataclass(frozen=True)
class Candidate:
    """Widths of the five stages, and whether the second stage has a second convolution."""

    widths: tuple[int, int, int, int, int]
    second_at_quarter: bool


CANDIDATES = {
    "narrow": Candidate((24, 48, 96, 144, 192), True),
    "chosen": Candidate((32, 64, 128, 192, 256), True),
    "late": Candidate((32, 64, 128, 256, 384), False),
}


def network_class(candidate: Candidate) -> type[nn.Sequential]:
    """Return a stand-in for `CustomCNN` with these widths."""
    a, b, c, d, e = candidate.widths

    class Variant(nn.Sequential):
        channels = e

        def __init__(self) -> None:
            quarter = [block(b, b)] if candidate.second_at_quarter else []
            early = [block(3, a, 2), block(a, b, 2), *quarter, block(b, c, 2), block(c, c), nn.Dropout2d(0.05)]
            super().__init__(*early, block(c, d, 2), block(d, d), nn.Dropout2d(0.05), block(d, e))
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    return Variant


def multiply_adds(network: nn.Module) -> int:
    """Return the multiply-adds of convolutions and linear layers for one 224 px image."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module.weight, torch.Tensor)
        total += module.weight.numel() * (output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 1, 224, 224))
    for hook in hooks:
        hook.remove()
    return total


def main() -> None:
    """Produce `cnn-capacity.json`."""
    numbers: dict[str, dict[str, Any]] = {}
    config = replace(recipe("reference", "cnn"), epochs=EPOCHS, size=SIZE, learning_rate=LEARNING_RATE)
    for name, candidate in CANDIDATES.items():
        networks.CustomCNN = network_class(candidate)  # type: ignore[misc,assignment]
        network = networks.build("cnn")
        with tempfile.TemporaryDirectory() as folder, TrainingProgress() as progress:
            card = train(config, data_folder() / "brain-tumor-mri", Path(folder), progress)
        numbers[f"{name}.parameters"] = number(card.metrics["parameters"], "parameters")
        numbers[f"{name}.gmac"] = number(multiply_adds(network) / 1e9, "GMAC")
        numbers[f"{name}.validation_macro_f1"] = number(
            card.metrics["validation"]["macro_f1"], "fraction", n=card.metrics["validation"]["n"]
        )
        numbers[f"{name}.minutes"] = number(card.metrics["train_minutes"], "minutes")
    record("cnn-capacity", "python benchmarks/cnn_capacity.py", numbers)


if __name__ == "__main__":
    main()
