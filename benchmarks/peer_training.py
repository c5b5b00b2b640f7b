"""Our training against the usual script of the field: the same images, split and starting weights, the same machine.

`ratio_time`: minutes until an epoch first reaches a validation accuracy of 0.964. The peer (`peers/training.py`, every
layer trained) runs at the fastest of three ways of spreading its work, ours is the recipe `fast`. Both clocks start
with the program running and its libraries imported; they include listing, reading and decoding the files, building
the network, all training steps and the validation after each epoch. Ours includes finding duplicates for the split,
decoding into an empty cache and its checkpoints too; the peer is given folders that are split already and its
checkpoints for nothing. Both start from the offline ImageNet weights, the peer with their folded batch norms unfolded
in every layer, so that training all of them is not disturbed.

`ratio_images`: images/s at 224 px with the same layers frozen in both (stem, layer1, layer2), ours the loop of
`reference`, in alternating turns.

What is done is kept in runs/peer-training/ (the peer's training epoch by epoch) and not done
again when the script is started again. That folder is removed when the result is written; remove it by hand where the
code has changed in between.

Command: python benchmarks/peer_training.py
Takes: long, an hour.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peers.training import Script, Workers
from record import ROOT, WEIGHTS, data_folder, number, record, spread
from training_efficiency import short_run

from braintumor.cli.output import TrainingProgress
from braintumor.data.manifest import Manifest
from braintumor.files import cache_folder, write_text
from braintumor.training import pretrained
from braintumor.training.checkpoint import Epoch, read_tensors, under, write_tensors
from braintumor.training.config import TrainConfig, recipe
from braintumor.training.data import decoded, prepare
from braintumor.training.networks import build_network
from braintumor.training.train import measure_folded_norms, one_epoch, train

TARGET, MOST_EPOCHS, STEPS, PAIRS = 0.964, 12, 25, 3
CONFIGURATIONS = {workers.name: workers for workers in (Workers(0, 2), Workers(1, 1), Workers(2, 1))}
KEPT = ROOT / "runs" / "peer-training"
History = list[dict[str, float]]
"""Per epoch: minutes since the start and validation accuracy."""


def main() -> None:
    """Produce `peer-training.json`."""
    data, threads = data_folder(), torch.get_num_threads()
    offline: dict[str, Any] = {"weights": str(data / WEIGHTS), "allow_partial_weights": True}
    reference, fast = (replace(recipe(name, "resnet"), **offline) for name in ("reference", "fast"))
    manifest, _ = prepare(
        data / "brain-tumor-mri",
        cache_folder(),
        fraction=fast.validation_fraction,
        seed=fast.seed,
        skip_unreadable=False,
    )
    images, start = link(manifest, KEPT / "images"), KEPT / "start.safetensors"
    if not start.exists():
        export_start(reference, manifest, start)
    whole = remembered("rates", lambda: rates(images, start, frozen=False))
    frozen = remembered("rates-frozen", lambda: rates(images, start, frozen=True))
    turns = remembered("turns", lambda: alternating(reference, manifest, images, start, fastest(frozen), threads))
    ours = remembered("ours", lambda: our_training(fast, data / "brain-tumor-mri", threads))
    peer = peer_training(images, start, fastest(whole), KEPT)
    ratios = [one / other for one, other in zip(turns["ours"], turns["peer"], strict=True)]
    numbers = numbers_of(ours, peer) | {
        "ratio_images": spread(ratios, "ratio"),
        "ours.images_per_second": spread(turns["ours"], "images/s"),
        "peer.frozen.images_per_second": spread(turns["peer"], "images/s"),
        "peer.workers": number(fastest(whole).processes, "processes"),
        "peer.threads": number(fastest(whole).threads, "threads"),
    }
    numbers |= {f"peer.images_per_second.{name}": number(rate, "images/s") for name, rate in whole.items()}
    numbers |= {f"peer.frozen.images_per_second.{name}": number(rate, "images/s") for name, rate in frozen.items()}
    record("peer-training", "python benchmarks/peer_training.py", numbers)
    shutil.rmtree(KEPT)


def remembered(name: str, measure: Callable[[], Any]) -> Any:
    """Return what `measure` gave when it was first called, in this or an earlier call of the script."""
    file = KEPT / f"{name}.json"
    if not file.exists():
        write_text(file, json.dumps(measure(), indent=2))
        print(f"{name}: {file.read_text()}", flush=True)
    return json.loads(file.read_text())


def link(manifest: Manifest, folder: Path) -> Path:
    """Return a folder with train/ and val/, in them one folder of links per class, as `ImageFolder` wants it."""
    shutil.rmtree(folder, ignore_errors=True)
    for row in manifest.part("train", "val"):
        place = folder / row.split / row.label / Path(row.image).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(manifest.path(row).resolve())
    return folder


def export_start(config: TrainConfig, manifest: Manifest, file: Path) -> None:
    """Write the network that our run starts from under torchvision's names, every folded batch norm unfolded."""
    config = replace(config, frozen=())
    torch.manual_seed(config.seed)
    network = build_network(config.model, dropout=config.dropout)
    pretrained.start(network, config.model, config.weights, allow_partial=config.allow_partial_weights)
    images = decoded(manifest.part("train"), config.source_size, cache_folder(), print)
    measure_folded_norms(config, network, images, torch.device("cpu"))
    named = {
        name.replace("head.", "fc.").removeprefix("backbone."): value for name, value in network.state_dict().items()
    }
    write_tensors(file, named)


def rates(images: Path, start: Path, *, frozen: bool) -> dict[str, float]:
    """Return the peer's images/s in every configuration."""
    return {name: Script(images, start, workers, frozen=frozen).rate(STEPS) for name, workers in CONFIGURATIONS.items()}


def fastest(found: dict[str, float]) -> Workers:
    """Return the configuration with most images/s."""
    return CONFIGURATIONS[max(found, key=lambda name: found[name])]


def alternating(
    config: TrainConfig, manifest: Manifest, images: Path, start: Path, workers: Workers, threads: int
) -> dict[str, list[float]]:
    """Return images/s of our loop and of the peer with the same layers frozen, in alternating turns after a first."""
    script = Script(images, start, workers, frozen=True)
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    with TrainingProgress() as progress:
        run = short_run(config, manifest, STEPS, progress)
        for turn in range(PAIRS + 1):
            torch.set_num_threads(threads)
            found["ours"].append(one_epoch(run, turn).images_per_second)
            torch.set_num_threads(workers.threads)
            found["peer"].append(script.rate(STEPS))
    return {name: values[1:] for name, values in found.items()}


class Reached(Exception):  # noqa: N818
    """An epoch has the accuracy that is trained for."""


class UntilReached(TrainingProgress):
    """Keeps the epochs of a run and stops it after the first that reaches the accuracy."""

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target, self.began = target, time.perf_counter()
        self.history: History = []

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Keep the epoch; end the run if it is good enough."""
        super().epoch(row, epochs)
        self.history.append({"minutes": (time.perf_counter() - self.began) / 60, "accuracy": row.val_accuracy})
        if row.val_accuracy >= self.target:
            raise Reached


def our_training(config: TrainConfig, data: Path, threads: int, target: float = TARGET) -> History:
    """Return the epochs of our training from an empty cache up to the first that reaches the accuracy."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, BRAINTUMOR_CACHE=f"{folder}/cache"):
        with UntilReached(target) as progress, suppress(Reached):
            train(config, data, Path(folder) / "run", progress, device="cpu")
        return progress.history


def peer_training(
    images: Path, start: Path, workers: Workers, kept: Path, target: float = TARGET, most: int = MOST_EPOCHS
) -> History:
    """Return the epochs of the peer's training up to the first that reaches the accuracy, after what is kept of it."""
    record_file = kept / "peer.json"
    history: History = json.loads(record_file.read_text()) if record_file.exists() else []
    began = time.perf_counter()
    script = Script(images, start, workers)
    if history:
        restore(script, kept / peer_file(history))
        began = time.perf_counter()
    while reached(history, target) is None and len(history) < most:
        script.epoch()
        accuracy = script.accuracy()
        minutes = (history[-1]["minutes"] if history else 0.0) + (time.perf_counter() - began) / 60
        history.append({"minutes": minutes, "accuracy": accuracy})
        print(f"peer: epoch {len(history)} accuracy {accuracy:.4f} after {minutes:.1f} min", flush=True)
        save(script, kept / peer_file(history))
        write_text(record_file, json.dumps(history, indent=2))
        (kept / peer_file(history[:-1])).unlink(missing_ok=True)
        began = time.perf_counter()
    return history


def peer_file(history: History) -> str:
    """Return the name of the file with the peer's state after its last epoch."""
    return f"peer-{len(history):02d}.safetensors"


def save(script: Script, file: Path) -> None:
    """Write network and optimizer of the peer."""
    tensors = {f"network.{name}": value for name, value in script.network.state_dict().items()}
    for index, entry in script.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    write_tensors(file, tensors)


def restore(script: Script, file: Path) -> None:
    """Put network and optimizer of the peer into the state that was saved."""
    tensors = read_tensors(file)
    script.network.load_state_dict(under(tensors, "network."))
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in under(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    script.optimizer.load_state_dict({**script.optimizer.state_dict(), "state": entries})


def reached(history: History, target: float) -> int | None:
    """Return the first epoch, counted from 1, with this accuracy; None if there is none yet."""
    return next((epoch for epoch, row in enumerate(history, start=1) if row["accuracy"] >= target), None)


def numbers_of(ours: History, peer: History, target: float = TARGET) -> dict[str, dict[str, Any]]:
    """Return both histories and the ratio of the times.

    Where the peer did not get there in all its epochs the ratio is a lower bound and called so; where ours did not,
    there is none.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, history in (("ours", ours), ("peer", peer)):
        epoch = reached(history, target)
        if epoch:
            found[f"{name}.minutes_to_{target}"] = number(history[epoch - 1]["minutes"], "minutes")
            found[f"{name}.epochs_to_{target}"] = number(epoch, "epochs")
        for count, row in enumerate(history, start=1):
            found[f"{name}.epoch.{count:02d}.minutes"] = number(row["minutes"], "minutes")
            found[f"{name}.epoch.{count:02d}.accuracy"] = number(row["accuracy"], "fraction")
    if reached(ours, target):
        known = reached(peer, target) is not None
        ratio = peer[-1]["minutes"] / ours[-1]["minutes"]
        found = {"ratio_time" if known else "ratio_time_at_least": number(ratio, "ratio"), **found}
    return found


if __name__ == "__main__":
    main()
