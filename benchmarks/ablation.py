"""What helps on new patients: short runs that differ in one thing, scored on one fixed validation part.

All train on the first fold's training images and are scored on its validation images: no test part is read. Each run
of a ResNet18 has six epochs on one thread, of the CNN 24. The runs from `plain` on have the folds that are published
now and a fifth of the training images for validation; those before had an earlier draft of the folds. Three further
ideas, stronger intensity augmentation with painted squares (`augmentation`), blended images (`mixing`) and images
weighted by the inverse root of their group's size (`guided_balanced`), did not win against their baselines and were
removed from the code; their runs are read where they are still at hand, as are runs that were stopped because they
fell behind.

Takes: long, about two hours of training on two cores.
Command: python benchmarks/ablation.py
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import ROOT, WEIGHTS, data_folder, number, record

from braintumor.classes import CLASSES
from braintumor.data.manifest import read_manifest
from braintumor.intervals import accuracy
from braintumor.io.read import read
from braintumor.models.preprocess import network_input
from braintumor.models.session import load_folder
from braintumor.predictor import softmax
from braintumor.training.config import RESNET_FROZEN, TrainConfig, recipe
from braintumor.training.cross_validation import Log, divided, part_of
from braintumor.training.train import train

RUNS = ROOT / "runs" / "ablation"
PLAIN: dict[str, Any] = {"map_stride": 0, "attention": False, "guidance": 0.0}
SMALLER: dict[str, Any] = {"size": 192, "train_sizes": (128, 160)}
SHORT = replace(recipe("best", "resnet"), epochs=6, allow_partial_weights=True)
BASE = replace(SHORT, frozen=RESNET_FROZEN, **SMALLER, **PLAIN)
THAWED = replace(BASE, frozen=("conv1", "bn1", "layer1"))
ARMS: dict[str, TrainConfig] = {
    "baseline": BASE,
    "larger": replace(BASE, size=224, train_sizes=(160, 192)),
    "thawed_layer2": THAWED,
    "rate_5e-4": replace(THAWED, learning_rate=5e-4, train_sizes=(112, 128, 160)),
    "rate_1e-4": replace(THAWED, learning_rate=1e-4),
    "thawed_all_rate_1e-4": replace(BASE, frozen=(), learning_rate=1e-4),
}
GUIDED = replace(SHORT, validation_fraction=0.2)
CNN = replace(recipe("best", "cnn"), validation_fraction=0.2)
ARMS |= {
    "plain": replace(GUIDED, **SMALLER, **PLAIN),
    "guided": replace(GUIDED, **SMALLER),
    "guided_larger": GUIDED,
    "cnn_plain": replace(CNN, **PLAIN),
    "cnn_guided": CNN,
}
BATCH = 64


def main() -> None:
    """Train the arms that are missing and produce `ablation.json`."""
    data = data_folder() / "brain-tumor-mri"
    torch.set_num_threads(1)
    missing = [name for name in ARMS if not (RUNS / name).exists()]
    if missing:
        manifest, folds = divided(data)
        for name in missing:
            config = ARMS[name]
            if config.model == "resnet":
                config = replace(config, weights=str(data_folder() / WEIGHTS))
            if config.guidance:
                config = replace(config, masks=str(data_folder() / "figshare"))
            part = part_of(manifest, folds, 0, config)
            train(config, data, RUNS / name, Log(RUNS / name), manifest=part)
    numbers: dict[str, dict[str, Any]] = {}
    for folder in sorted(RUNS.iterdir()):
        numbers |= dict(finished(folder, data) if (folder / "card.json").exists() else stopped(folder))
    record("ablation", "python benchmarks/ablation.py", numbers)


def finished(folder: Path, data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the numbers of a finished arm on its validation part: its best epoch, alone and with test-time flips."""
    model = load_folder(folder)
    validation = read_manifest(folder / "manifest.csv", data).part("val")
    images = network_input(np.stack([model.card.preprocess.grey_levels(read(validation.path(r))) for r in validation]))
    labels = np.array([CLASSES.index(row.label) for row in validation])
    groups = np.unique([row.group for row in validation], return_inverse=True)[1].astype(np.int64)
    logits = [answers(model, np.flip(images, axis) if axis else images) for axis in ((), (-1,), (-2,))]
    for suffix, used in (("", 1), (".with_flip", 2), (".with_flips", 3)):
        mean = np.mean(logits[:used], axis=0)
        estimate = accuracy(mean.argmax(axis=1) == labels, groups)
        yield (
            f"{folder.name}{suffix}.accuracy",
            number(float(estimate.value or 0), "fraction", low=estimate.low, high=estimate.high, n=estimate.n),
        )
        surprise = -np.log(softmax(mean)[np.arange(len(labels)), labels].clip(1e-7))
        yield f"{folder.name}{suffix}.nll", number(float(surprise.mean()), "nats", n=len(labels))
    yield f"{folder.name}.minutes", number(model.card.metrics["train_minutes"], "minutes")
    with (folder / "history.csv").open() as file:
        yield from by_epoch(folder.name, [float(line.split(",")[4]) for line in list(file)[1:]])


def stopped(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the numbers of an arm that was stopped."""
    history = json.loads((folder / "checkpoint" / "state.json").read_text())["history"]
    yield from by_epoch(folder.name, [row["val_accuracy"] for row in history])


def by_epoch(name: str, found: list[float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the validation accuracy after each epoch."""
    yield from ((f"{name}.epoch{epoch}.accuracy", number(value, "fraction")) for epoch, value in enumerate(found, 1))


def answers(model: Any, images: np.ndarray) -> np.ndarray:
    """Return the logits (N, 4) of images (N, 1, S, S)."""
    parts = [model(np.ascontiguousarray(images[start : start + BATCH]))[0] for start in range(0, len(images), BATCH)]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
