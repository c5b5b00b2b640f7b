"""How a model is trained: one loop over the epochs, readable top to bottom."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest
from braintumor.errors import TrainingError
from braintumor.evaluate.metrics import mean_of_known, rates
from braintumor.model import Card
from braintumor.training import augment, checkpoint, weights
from braintumor.training.artefact import write_artefact
from braintumor.training.checkpoint import Epoch, State
from braintumor.training.loader import Images, decoded, prepare
from braintumor.training.networks import Network, build, freeze, train_mode
from braintumor.training.recipe import TrainConfig

UNFOLDING_BATCHES = 16
TIMING_ROUNDS = 12


class Progress(Protocol):
    """Where training reports to; the command line draws it."""

    def say(self, message: str) -> None:
        """Take one line of text."""

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """Take one finished step: epoch from 1, images done of all in the epoch, the batch's loss."""

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Take one finished epoch."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one run works with."""

    config: TrainConfig
    network: Network
    optimizer: torch.optim.Optimizer
    device: torch.device
    dtype: torch.dtype
    class_weights: Tensor
    train: Images
    validation: Images
    progress: Progress

    def logits(self, batch: Tensor) -> Tensor:
        """Return the network's (B, 4) float32 logits of a (B, 1, H, W) batch, computed in the run's precision."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = self.network(batch)
        return logits.float()


def train(
    config: TrainConfig,
    data_dir: Path,
    out: Path,
    progress: Progress,
    *,
    device: str = "auto",
    resume: bool = False,
    skip_unreadable: bool = False,
) -> Card:
    """Train a model and write its folder; return its card.

    The test part of the data is not opened. With the same seed, device and thread count on a CPU the result is the
    same bit for bit, however often the run was interrupted and resumed.

    Args:
        config: all settings.
        data_dir: see `data.layout`.
        out: the model folder to write; `checkpoint/` in it holds the last finished epoch meanwhile.
        progress: is told what happens.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        resume: go on after the last finished epoch in `out`.
        skip_unreadable: leave out files that cannot be read instead of refusing the folder.

    Raises:
        DataError: the data cannot be used.
        WeightsError: the starting weights cannot be used.
        TrainingError: `out` is occupied, the settings changed since the interruption, or the loss is not finite.
        StorageError: the disk is full or a folder cannot be written to.
    """
    began = time.perf_counter()
    check_folder(out, resume)
    cache = weights.cache_folder()
    manifest, skipped = prepare(
        data_dir, cache, fraction=config.validation_fraction, seed=config.seed, skip_unreadable=skip_unreadable
    )
    for image, reason in skipped.items():
        progress.say(f"left out {image}: {reason}")
    images = decoded(manifest.part("train"), config.source_size, cache, progress.say)
    validation = decoded(manifest.part("val"), config.size, cache, progress.say)
    run, state = begin(config, manifest, images, validation, progress, chosen_device(device), out, resume)
    before = state.seconds

    while not is_over(state, config):
        row = one_epoch(run, len(state.history))
        seconds = before + time.perf_counter() - began
        state = replace(state, history=[*state.history, row], seconds=seconds)
        checkpoint.save(out / "checkpoint", state, run.network, run.optimizer)
        progress.epoch(row, config.epochs)

    checkpoint.restore_best(out / "checkpoint", state, run.network)
    progress.say(f"best epoch {state.best.epoch}; exporting and checking the model")
    state = replace(state, seconds=before + time.perf_counter() - began)
    card = write_artefact(out, run.network, config, state, manifest, skipped, validation, run.device.type)
    checkpoint.clear(out / "checkpoint")
    return card


def begin(
    config: TrainConfig,
    manifest: Manifest,
    images: Images,
    validation: Images,
    progress: Progress,
    device: torch.device,
    out: Path,
    resume: bool,
) -> tuple[Run, State]:
    """Return the run with its network and optimizer at the start, or as they were after the last finished epoch."""
    torch.manual_seed(config.seed)
    network = build(config.model, dropout=config.dropout).to(device)
    identity = json.loads(json.dumps({"settings": asdict(config), "data": manifest.fingerprint()}))
    if resume:
        state = checkpoint.load(out / "checkpoint")
        check_identity(state, identity, out)
        state = replace(state, identity=identity)
    else:
        origin = weights.start(network, config.model, config.weights, allow_partial=config.allow_partial_weights)
        state = State(identity, str(compute_dtype(device)).removeprefix("torch."), origin)
    freeze(network, config.frozen)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate = torch.tensor(config.learning_rate)
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=config.weight_decay, fused=True)
    dtype, class_weights = getattr(torch, state.precision), inverse_frequency(images.labels).to(device)
    run = Run(config, network, optimizer, device, dtype, class_weights, images, validation, progress)
    if resume:
        checkpoint.restore(out / "checkpoint", state, network, optimizer)
        progress.say(f"resumed after epoch {state.history[-1].epoch}")
    else:
        unfold(run)
    progress.say(
        f"{config.model}: {sum(p.numel() for p in network.parameters()):,} parameters, "
        f"{sum(p.numel() for p in trainable):,} trained; {device.type}, {state.precision}; "
        f"{len(images.labels)} training and {len(validation.labels)} validation images"
    )
    return run, state


def chosen_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: this machine has no usable GPU; use --device auto or cpu")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def check_folder(out: Path, resume: bool) -> None:
    """Raise where writing to `out` would overwrite a model or an unfinished run."""
    if (out / "card.json").exists():
        raise TrainingError(f"{out} already holds a finished model; choose another folder with --out, or delete it")
    if not resume and (out / "checkpoint" / "state.json").exists():
        raise TrainingError(f"{out} holds an unfinished run; go on with --resume, or choose another folder with --out")


def check_identity(state: State, identity: dict[str, Any], out: Path) -> None:
    """Raise where settings or data differ from those the run began with; settings younger than the run were default."""
    default = json.loads(json.dumps(asdict(TrainConfig(model=""))))
    before, now = default | flat(state.identity), flat(identity)
    changed = [f"{key}: was {before.get(key)}, is {now[key]}" for key in sorted(now) if before.get(key) != now[key]]
    if changed:
        raise TrainingError(
            f"the run in {out} began differently ({'; '.join(changed)}); resume with the same settings and data"
        )


def flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and the data's fingerprint in one level."""
    return {**identity["settings"], "data": identity["data"]}


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes a typical convolution in it in under 0.8 of float32's time."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    image = torch.rand(4, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    fastest = {torch.float32: math.inf, torch.bfloat16: math.inf}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what other programs do on the other cores must not decide
    for dtype in (torch.float32, torch.bfloat16) * TIMING_ROUNDS:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            began = time.perf_counter()
            convolution(image).sum().backward()
        fastest[dtype] = min(fastest[dtype], time.perf_counter() - began)
    torch.set_num_threads(threads)
    return torch.bfloat16 if fastest[torch.bfloat16] < 0.8 * fastest[torch.float32] else torch.float32


def inverse_frequency(labels: Tensor) -> Tensor:
    """Return the (4,) float32 class weights n / (4 * n_class): 1 on average over the images."""
    counts = torch.bincount(labels, minlength=len(CLASSES)).float()
    return torch.where(counts > 0, len(labels) / (len(CLASSES) * counts.clamp(min=1)), 0.0)


def unfold(run: Run) -> None:
    """Give batch norms that came folded into their convolutions real statistics, measured on varied training images."""
    norms = weights.folded_norms(run.network, run.config.frozen)
    if norms:
        order = epoch_order(run.config, 0, len(run.train.labels))[:UNFOLDING_BATCHES]
        weights.unfold(run.network, norms, lambda: (varied(run, 0, indices)[0] for indices in order))


def is_over(state: State, config: TrainConfig) -> bool:
    """Tell whether all epochs are done or `patience` epochs brought nothing better."""
    done = len(state.history)
    return done >= config.epochs or (done > 0 and done - state.best.epoch >= config.patience)


def one_epoch(run: Run, number: int) -> Epoch:
    """Train for one epoch, counted from 0, then score the validation part."""
    config, network, began, total = run.config, run.network, time.perf_counter(), 0.0
    order = epoch_order(config, number, len(run.train.labels))
    torch.manual_seed(epoch_seed(config, number))  # dropout; the same after a resume
    train_mode(network, config.frozen)
    done = 0
    for step, indices in enumerate(order):
        rate = learning_rate(config, number + step / len(order))
        for group in run.optimizer.param_groups:
            group["lr"].fill_(rate)
        batch, labels = varied(run, number, indices)
        loss = functional.cross_entropy(run.logits(batch), labels, weight=run.class_weights)
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in epoch {number + 1}, step {step + 1}; the last finished epoch is kept. "
                "Lower the learning rate or look for damaged images"
            )
        total += value * len(indices)
        done += len(indices)
        run.progress.step(number + 1, done, len(run.train.labels), value, rate)
    speed = done / (time.perf_counter() - began)
    measure_norms(run, order[: config.norm_batches])
    val_loss, accuracy, macro_f1 = score(run)
    elapsed = time.perf_counter() - began
    return Epoch(number + 1, rate, total / done, val_loss, accuracy, macro_f1, speed, elapsed)


@torch.no_grad()
def measure_norms(run: Run, order: Sequence[Tensor]) -> None:
    """Measure the statistics of the trained batch norms on unaugmented training images, as validation and use see them.

    Args:
        run: its network is left in evaluation mode.
        order: batches as positions among the training images; without any the running statistics stay.
    """
    run.network.eval()
    layers = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [norm for norm in run.network.modules() if isinstance(norm, layers) and norm.weight.requires_grad]
    momenta = [norm.momentum for norm in norms]
    if order:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over the batches
            norm.train()
    for indices in order:
        grey, _ = run.train.batch(indices, run.device)
        batch = augment.apply(grey, augment.unvaried(len(indices)), run.config.size)
        run.logits(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def epoch_order(config: TrainConfig, number: int, images: int) -> tuple[Tensor, ...]:
    """Return the batches of an epoch as positions; a last batch of one image is left out (batch norm needs two)."""
    generator = torch.Generator().manual_seed(epoch_seed(config, number))
    batches: tuple[Tensor, ...] = torch.randperm(images, generator=generator).split(config.batch_size)
    return batches if len(batches[-1]) > 1 or len(batches) == 1 else batches[:-1]


def epoch_seed(config: TrainConfig, number: int) -> int:
    """Return the seed of an epoch, so that it does not depend on the ones before."""
    return int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0])


def learning_rate(config: TrainConfig, epochs: float) -> float:
    """Return the learning rate after so many epochs: half a cosine from the first to the last value."""
    share = (1 + math.cos(math.pi * epochs / config.epochs)) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * share


def varied(run: Run, number: int, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return a training batch, augmented for this epoch, (B, 1, H, W) in [0, 1], and its labels."""
    grey, labels = run.train.batch(indices, run.device)
    variation = augment.draw(run.config.augment, run.config.seed, number, indices.tolist())
    return augment.apply(grey, variation, run.config.size), labels


def score(run: Run) -> tuple[float, float, float]:
    """Return loss, accuracy and macro-F1 on the validation part, unaugmented."""
    logits, labels = (torch.cat(parts) for parts in zip(*validation_logits(run), strict=True))
    loss = float(functional.cross_entropy(logits, labels, weight=run.class_weights.cpu()))
    predicted = logits.argmax(dim=1).numpy()
    found = rates(labels.numpy(), predicted, np.ones((1, len(labels))))
    return loss, float((predicted == labels.numpy()).mean()), float(mean_of_known(found["f1"])[0])


@torch.no_grad()
def validation_logits(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (B, 4) float32 and labels (B,) of the validation part, on the CPU."""
    run.network.eval()
    for batch, labels in run.validation.batches(run.config.batch_size, run.device):
        yield run.logits(batch).cpu(), labels.cpu()
