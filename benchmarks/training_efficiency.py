"""How near the training loop comes to the bare network step, how soon a run starts, and how much memory it takes.

Command: python benchmarks/training_efficiency.py
Takes: 4 minutes.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from operations import matmul_rates, step_operations
from record import ROOT, WEIGHTS, data_folder, number, record, spread
from torch.nn import functional

from braintumor.cli.output import TrainingProgress
from braintumor.data.manifest import Manifest
from braintumor.files import cache_folder
from braintumor.training.config import TrainConfig, recipe
from braintumor.training.data import Images, decoded, prepare
from braintumor.training.distributed import Processes, compute_dtype
from braintumor.training.networks import build_network, freeze, train_mode
from braintumor.training.train import Run, assemble, one_epoch, train

MODELS = ("resnet", "cnn")
PAIRS, STEPS, MATRIX = 5, 20, 2048


def main() -> None:
    """Produce `training-efficiency.json`."""
    data = data_folder()
    numbers = {key: entry for model in MODELS for key, entry in efficiency(model, data / "brain-tumor-mri").items()}
    for model, weights in zip(MODELS, (str(data / WEIGHTS), "none"), strict=True):
        numbers[f"{model}.start_seconds"] = number(start_seconds(model, weights, data / "brain-tumor-mri"), "seconds")
    numbers["peak_mib"] = number(peak_mib(data), "MiB")
    record("training-efficiency", "python benchmarks/training_efficiency.py", numbers)


def efficiency(model: str, data: Path) -> dict[str, Any]:
    """Return images/s of our loop and of the bare step, in alternating pairs, and how near they are to the limit."""
    config = recipe("reference", model)
    manifest, _ = prepare(data, cache_folder(), fraction=config.validation_fraction, seed=0, skip_unreadable=False)
    with TrainingProgress() as progress:
        run = short_run(replace(config, epochs=99), manifest, STEPS, progress)
        bare_step_rate(run)  # warms up
        ours, bare = [], []
        for pair in range(PAIRS):
            ours.append(one_epoch(run, pair).images_per_second)
            bare.append(bare_step_rate(run))
    ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
    needed, matmul = step_operations(config, config.size), statistics.median(matmul_rates("cpu", MATRIX, run.dtype))
    return {
        f"{model}.ratio": spread(ratios, "ratio"),
        f"{model}.images_per_second": spread(ours, "images/s"),
        f"{model}.bare_images_per_second": spread(bare, "images/s"),
        f"{model}.step_gflop_per_image": number(needed / 1e9, "GFLOP"),
        f"{model}.matmul_gflops": number(matmul / 1e9, "GFLOP/s"),
        f"{model}.matmul_fraction": spread([rate * needed / matmul for rate in ours], "fraction"),
    }


def short_run(config: TrainConfig, manifest: Manifest, steps: int, progress: TrainingProgress) -> Run:
    """Return a run of our loop on the CPU whose epochs have so many steps and next to no validation."""
    whole = decoded(manifest.part("train"), config.source_size, cache_folder(), print)
    chosen = np.random.default_rng(0).permutation(len(whole.labels))[: steps * config.batch_size]
    images = Images(np.array(whole.grey[chosen]), whole.labels[torch.from_numpy(chosen)])
    validation = Images(images.grey[:2, : config.size, : config.size], images.labels[:2])
    device = torch.device("cpu")
    network = build_network(config.model)
    freeze(network, config.frozen)
    return assemble(config, network, images, validation, progress, compute_dtype(device), device, Processes())


def bare_step_rate(run: Run) -> float:
    """Return images/s of forward, backward and step on one random batch of the same shape."""
    train_mode(run.network, run.config.frozen)
    size = run.config.batch_size
    batch, labels = torch.rand(size, 1, run.config.size, run.config.size), torch.randint(0, 4, (size,))
    began = time.perf_counter()
    for _ in range(STEPS):
        with torch.autocast("cpu", run.dtype, enabled=run.dtype != torch.float32):
            logits = run.network(batch)
        functional.cross_entropy(logits.float(), labels, weight=run.class_weights).backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
    return STEPS * size / (time.perf_counter() - began)


class Started(Exception):  # noqa: N818
    """The first step of a run is done."""


class FirstStep(TrainingProgress):
    """Stops a run after its first step."""

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """End the run."""
        raise Started


def start_seconds(model: str, weights: str, data: Path) -> float:
    """Return the seconds from the call of `train` to the end of the first step, with the images in the cache."""
    config = replace(recipe("reference", model), weights=weights, allow_partial_weights=True)
    with tempfile.TemporaryDirectory() as folder, FirstStep() as progress:
        began = time.perf_counter()
        with contextlib.suppress(Started):
            train(config, data, Path(folder) / "run", progress)
        return time.perf_counter() - began


def peak_mib(data: Path) -> float:
    """Return the largest sum of the PSS of all processes of a training run of one epoch, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--model", "resnet", "--epochs", "1", "--out", f"{folder}/run"]
        command += [
            "--data_dir",
            str(data / "brain-tumor-mri"),
            "--weights",
            str(data / WEIGHTS),
            "--allow_partial_weights",
        ]
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        peak = 0.0
        while running.poll() is None:
            peak = max(peak, sum(pss_mib(process) for process in family(running.pid)))
            time.sleep(0.5)
        if running.returncode:
            sys.exit("the training run failed")
    return peak


def family(root: int) -> list[int]:
    """Return a process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue  # it has ended
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def pss_mib(process: int) -> float:
    """Return the proportional set size of a process in MiB, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
