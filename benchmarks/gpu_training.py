"""How fast a ResNet18 is trained on one GPU, with the whole data set in its memory.

`resnet.seconds_to_0.964`: from the call of `train` to the end of the first epoch with this validation accuracy, recipe
`fast`; `resnet.best.accuracy`: on the official test part, after as many epochs as the first run says fit into
`BUDGET_S`, fixed before the first step and trained from the start. Both include reading the decoded images from the
cache, moving them to the GPU, building and unfolding the network, validation and checkpoints; process start, imports
and the first decoding of the files into the cache are not included.

`images_per_second`: the loop's steps at 224 px in batches of `BATCH`, augmentation included. `matmul_fraction`: the
operations that a step needs, as `torch.utils.flop_counter` counts them (convolutions and matrix products, forward and
backward, nothing backward where frozen), per second, over the rate that the device reaches in one bfloat16 product of
two 8192 x 8192 matrices.

Command: python benchmarks/gpu_training.py
Takes: 4 minutes on a GPU.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from operations import matmul_rates, step_operations
from peer_training import TARGET, History, Reached, UntilReached
from record import ROOT, WEIGHTS, data_folder, number, record, spread

from braintumor.cli.output import TrainingProgress
from braintumor.files import cache_folder
from braintumor.training.config import TrainConfig, recipe
from braintumor.training.data import decoded, prepare
from braintumor.training.distributed import Processes, compute_dtype
from braintumor.training.networks import build_network, freeze
from braintumor.training.train import assemble, one_epoch, train

BATCH, EPOCHS, BUDGET_S, MATRIX = 256, 5, 55, 8192


def main() -> None:
    """Produce `gpu-training.json`; where there is no GPU stop and record nothing."""
    if not torch.cuda.is_available():
        sys.exit("gpu-training measures a CUDA device and this machine has none; nothing was recorded")
    data = data_folder()
    config = replace(recipe("fast", "resnet"), weights=str(data / WEIGHTS), allow_partial_weights=True)
    images = data / "brain-tumor-mri"
    rates = step_rates(config, images)  # fills the cache
    matmul = matmul_rates("cuda", MATRIX)
    needed = step_operations(config, config.size)
    history = until_reached(config, images)
    numbers: dict[str, dict[str, Any]] = {
        "images_per_second": spread(rates, "images/s"),
        "batch_size": number(BATCH, "images"),
        "step_gflop_per_image": number(needed / 1e9, "GFLOP"),
        "matmul_tflops": spread([rate / 1e12 for rate in matmul], "TFLOP/s"),
        "matmul_fraction": spread([rate * needed / statistics.median(matmul) for rate in rates], "fraction"),
        "resnet.best_validation_accuracy": number(max(row["accuracy"] for row in history), "fraction"),
    }
    if history[-1]["accuracy"] >= TARGET:
        numbers[f"resnet.seconds_to_{TARGET}"] = number(history[-1]["minutes"] * 60, "seconds")
        numbers[f"resnet.epochs_to_{TARGET}"] = number(len(history), "epochs")
    numbers |= best(replace(config, epochs=affordable(history)), images)
    record("gpu-training", "python benchmarks/gpu_training.py", numbers)


def step_rates(config: TrainConfig, data: Path) -> list[float]:
    """Return images/s of the loop over some epochs after one to warm up, all images in the GPU's memory."""
    config = replace(config, batch_size=BATCH, train_sizes=(), epochs=EPOCHS + 1)
    device, cache = torch.device("cuda"), cache_folder()
    manifest, _ = prepare(data, cache, fraction=config.validation_fraction, seed=config.seed, skip_unreadable=False)
    images = decoded(manifest.part("train"), config.source_size, cache, print).on(device)
    validation = decoded(manifest.part("val"), config.size, cache, print).on(device)
    network = build_network(config.model).to(device)
    freeze(network, config.frozen)
    with TrainingProgress() as progress:
        dtype = compute_dtype(device)
        run = assemble(config, network, images, validation, progress, dtype, device, Processes())
        return [one_epoch(run, epoch).images_per_second for epoch in range(EPOCHS + 1)][1:]


def until_reached(config: TrainConfig, data: Path) -> History:
    """Return the epochs of a run up to the first with the accuracy, or all of them."""
    with tempfile.TemporaryDirectory() as folder, UntilReached(TARGET) as progress, suppress(Reached):
        train(config, data, Path(folder) / "run", progress, device="cuda")
    return progress.history


def affordable(history: History) -> int:
    """Return how many epochs fit into the budget, if each but the first takes as long as the longest in a run."""
    seconds = [row["minutes"] * 60 for row in history]
    later = max((one - before for before, one in itertools.pairwise(seconds)), default=seconds[0])
    return max(1, 1 + int((BUDGET_S - seconds[0]) / later))


def best(config: TrainConfig, data: Path) -> dict[str, dict[str, Any]]:
    """Return accuracy on the official test part, epochs and seconds of a whole run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with TrainingProgress() as progress:
            train(config, data, run, progress, device="cuda")
        subprocess.run([sys.executable, "-m", "braintumor", "evaluate", str(run), str(data)], cwd=ROOT, check=True)
        report = json.loads((run / "evaluation" / "report.json").read_text())
        card = json.loads((run / "card.json").read_text())
    return {
        "resnet.best.accuracy": report["metrics"]["accuracy"] | {"unit": "fraction"},
        "resnet.best.seconds": number(card["metrics"]["train_minutes"] * 60, "seconds"),
        "resnet.best.epochs": number(card["metrics"]["epochs"], "epochs"),
    }


if __name__ == "__main__":
    main()
