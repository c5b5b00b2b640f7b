"""How a model is trained: one loop over the epochs, readable top to bottom."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest
from braintumor.errors import DataError, TrainingError
from braintumor.evaluate.metrics import mean_of_known, rates
from braintumor.files import cache_folder
from braintumor.models.session import Card
from braintumor.training import augment, checkpoint, pretrained
from braintumor.training.checkpoint import Epoch, State
from braintumor.training.config import TrainConfig
from braintumor.training.data import Images, decoded, outlined, prepare
from braintumor.training.distributed import Processes, chosen_device, compute_dtype, processes
from braintumor.training.model_folder import write_artefact
from braintumor.training.networks import Network, WithAttention, freeze, train_mode
from braintumor.training.prerequisites import TrainingStart, check_same_run, look_up, settings_of
from braintumor.training.schedule import averaging_decay, epoch_order, epoch_seed, learning_rate, train_size
from braintumor.training.tensorboard import CurveWriter

UNFOLDING_BATCHES = 16
GATE_IMAGES = 2048  # of training, unaugmented, to which OOD scores are fitted
AVERAGING_STRIDE = 4  # steps from one update of the averaged weights to the next: it reads and writes all weights


class Progress(Protocol):
    """Where training reports to; the command line draws it."""

    def say(self, message: str) -> None:
        """Take one line of text."""

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """Take one finished step: epoch from 1, images done of all in the epoch, the batch's loss."""

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Take one finished epoch."""


class SilentProgress:
    """Reports nothing: the progress of the processes beside the first."""

    def say(self, message: str) -> None:
        """Drop it."""

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """Drop it."""

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Drop it."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one run works with.

    Attributes:
        network: the network that is trained.
        joined: the same one with its attention, averaging its gradients over the processes.
        averaged: what is validated and kept: a moving average of the network, or the network itself.
        dtype: the precision of convolutions and matrix products.
        class_weights: (4,) of the loss.
    """

    config: TrainConfig
    network: Network
    joined: nn.Module
    averaged: Network
    optimizer: torch.optim.Optimizer
    device: torch.device
    dtype: torch.dtype
    class_weights: Tensor
    train: Images
    validation: Images
    progress: Progress
    processes: Processes

    def logits(self, network: nn.Module, batch: Tensor) -> Tensor:
        """Return a network's (B, 4) float32 logits of a (B, 1, H, W) batch, computed in the run's precision."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = network(batch)
        return logits.float()

    def with_attention(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the network that is trained, likewise, and its (B, 1, h, w) float32 log attention."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits, log_attention = self.joined(batch)
        return logits.float(), log_attention.float()


@dataclass(frozen=True, eq=False)
class Batch:
    """Augmented training images: grey (B, 1, S, S) in [0, 1], labels (B,), masks (B, 1, S / 2, S / 2) or None."""

    grey: Tensor
    labels: Tensor
    masks: Tensor | None


def train(
    config: TrainConfig,
    data_dir: Path,
    out: Path,
    progress: Progress,
    *,
    device: str = "auto",
    resume: bool = False,
    skip_unreadable: bool = False,
    manifest: Manifest | None = None,
) -> Card | None:
    """Train a model and write its folder; return its card, or None in the processes that torchrun started beside it.

    Settings, network, starting weights and folders are checked before the data is opened; its test part never is. With
    the same seed, device, thread and process count on a CPU the result is the same bit for bit, however often the run
    was interrupted and resumed.

    Args:
        config: all settings.
        data_dir: see `data.layout`.
        out: the model folder to write; `checkpoint/` in it holds the last finished epoch meanwhile.
        progress: is told what happens.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        resume: go on after the last finished epoch in `out`.
        skip_unreadable: leave out files that cannot be read instead of refusing the folder.
        manifest: which images of the folder to train and validate on, with their splits; by default all of them,
            with a validation part cut off.

    Raises:
        DataError: the network or the data cannot be used.
        WeightsError: the starting weights cannot be used.
        TrainingError: `out` is occupied, the settings changed since the interruption, or the loss is not finite.
        StorageError: the disk is full or a folder cannot be written to.
    """
    began = time.perf_counter()
    place = chosen_device(device)
    with processes(place) as group:
        progress = progress if group.leads else SilentProgress()
        check_share(config, group)
        start = look_up(config, out, place, resume=resume)
        group.wait()  # before the first one writes to it
        cache = cache_folder()
        with group.first_on_each_machine():
            skipped: dict[str, str] = {}
            if manifest is None:
                fraction, seed = config.validation_fraction, config.seed
                manifest, skipped = prepare(
                    data_dir, cache, fraction=fraction, seed=seed, skip_unreadable=skip_unreadable
                )
            images = decoded(manifest.part("train"), config.source_size, cache, progress.say)
            if config.masks:
                images = outlined(images, manifest.part("train"), Path(config.masks), cache)
            images = images.on(place)
            validation = decoded(manifest.part("val"), config.size, cache, progress.say).on(place)
            gate_images = decoded(manifest.part("train").some(GATE_IMAGES), config.size, cache, progress.say)
        for image, reason in skipped.items():
            progress.say(f"left out {image}: {reason}")
        check_number_of_images(len(images.labels), group)
        run, state = _begin(start, config, manifest, images, validation, progress, place, group, out)
        before, board = state.seconds, CurveWriter(out / "tensorboard")

        while not is_over(state, config):
            row = one_epoch(run, len(state.history))
            seconds = before + time.perf_counter() - began
            state = replace(state, history=[*state.history, row], seconds=seconds)
            if group.leads:
                checkpoint.save_checkpoint(out / "checkpoint", state, run.network, run.averaged, run.optimizer)
                board.epoch(row)
            progress.epoch(row, config.epochs)

        if not group.leads:
            return None
        checkpoint.restore_kept(out / "checkpoint", state, run.averaged)
        progress.say(f"epoch {state.kept.epoch} is kept; exporting and checking the model")
        state = replace(state, seconds=before + time.perf_counter() - began)
        machine = {"device": place.type, "threads": torch.get_num_threads(), "processes": group.size}
        card = write_artefact(out, run.averaged, config, state, manifest, skipped, gate_images, validation, machine)
        checkpoint.clear(out / "checkpoint")
        return card


def check_share(config: TrainConfig, group: Processes) -> None:
    """Raise where a batch is too small to be divided: batch norm needs two images in every process."""
    if config.batch_size < 2 * group.size:
        raise TrainingError(
            f"batch_size: expected at least 2 images for each of the {group.size} processes, got {config.batch_size}"
        )


def check_number_of_images(images: int, group: Processes) -> None:
    """Raise where there are fewer training images than two for every process."""
    if images < 2 * group.size:
        raise DataError(f"expected at least {2 * group.size} training images, got {images}; add images")


def _begin(
    start: TrainingStart,
    config: TrainConfig,
    manifest: Manifest,
    images: Images,
    validation: Images,
    progress: Progress,
    device: torch.device,
    group: Processes,
    out: Path,
) -> tuple[Run, State]:
    """Return the run with its network and optimizer at the start, or as they were after the last finished epoch."""
    network = start.network
    identity = {"settings": settings_of(config), "data": manifest.fingerprint()}
    if start.state:
        check_same_run(start.state, identity, out)
        state = replace(start.state, identity=identity)
    else:
        fast = group.same(float(compute_dtype(device) == torch.bfloat16))
        state = State(identity, "bfloat16" if fast else "float32", start.origin)
    freeze(network, config.frozen)
    if not start.state:
        measure_folded_norms(config, network, images, device)
    run = assemble(config, network, images, validation, progress, getattr(torch, state.precision), device, group)
    if start.state:
        checkpoint.restore_checkpoint(out / "checkpoint", state, run.network, run.averaged, run.optimizer)
        progress.say(f"resumed after epoch {state.history[-1].epoch}")
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    progress.say(
        f"{config.model}: {sum(p.numel() for p in network.parameters()):,} parameters, {trained:,} trained; "
        f"{group.size} process(es) on {device.type}, {state.precision}; "
        f"{len(images.labels)} training and {len(validation.labels)} validation images"
    )
    return run, state


def assemble(
    config: TrainConfig,
    network: Network,
    images: Images,
    validation: Images,
    progress: Progress,
    dtype: torch.dtype,
    device: torch.device,
    group: Processes,
) -> Run:
    """Return the run of a network whose frozen parts are frozen, with a fresh optimizer."""
    joined = group.joined(WithAttention(network))  # from here on all processes have the weights of process 0
    averaged = copy.deepcopy(network).eval().requires_grad_(False) if config.averaging else network
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate = torch.tensor(config.learning_rate)
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=config.weight_decay, fused=True)
    weight = inverse_frequency(images.labels).to(device)
    return Run(config, network, joined, averaged, optimizer, device, dtype, weight, images, validation, progress, group)


def inverse_frequency(labels: Tensor) -> Tensor:
    """Return the (4,) float32 class weights n / (4 * n_class): 1 on average over the images."""
    counts = torch.bincount(labels, minlength=len(CLASSES)).float()
    return torch.where(counts > 0, len(labels) / (len(CLASSES) * counts.clamp(min=1)), 0.0)


def measure_folded_norms(config: TrainConfig, network: Network, images: Images, device: torch.device) -> None:
    """Give batch norms that came folded into their convolutions real statistics, measured on varied training images."""
    norms = pretrained.folded_norms(network, config.frozen)
    if norms:
        order = epoch_order(config, 0, len(images.labels))[:UNFOLDING_BATCHES]
        pretrained.unfold_norms(
            network, norms, lambda: (_varied(config, images, 0, indices, device).grey for indices in order)
        )


def is_over(state: State, config: TrainConfig) -> bool:
    """Tell whether all epochs are done or `patience` epochs brought nothing better, where the best one is kept."""
    done = len(state.history)
    stalled = not config.keep_last and done > 0 and done - state.best.epoch >= config.patience
    return done >= config.epochs or stalled


def one_epoch(run: Run, number: int) -> Epoch:
    """Train for one epoch, counted from 0, then score the validation part."""
    config, group, began, total = run.config, run.processes, time.perf_counter(), 0.0
    order = epoch_order(config, number, len(run.train.labels), smallest=2 * group.size)
    torch.manual_seed(epoch_seed(config, number) + group.rank)  # dropout; the same after a resume
    train_mode(run.network, config.frozen)
    done = 0
    for step, indices in enumerate(order):
        rate = learning_rate(config, number + step / len(order))
        for settings in run.optimizer.param_groups:
            settings["lr"].fill_(rate)
        value = backward(run, _varied(config, run.train, number, group.share(indices), run.device))
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        if (step + 1) % AVERAGING_STRIDE == 0:
            average(run, averaging_decay(config, number * len(order) + step) ** AVERAGING_STRIDE)
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
    val_loss, accuracy, macro_f1 = _score(run)
    elapsed = time.perf_counter() - began
    return Epoch(number + 1, rate, total / done, val_loss, accuracy, macro_f1, speed, elapsed)


def backward(run: Run, batch: Batch) -> float:
    """Put the gradients of one step in place, the same for any number of processes; return the whole batch's loss.

    The loss is the weighted mean over the batch of all processes: each divides its sum by the weights of all. The
    gradients are then averaged over the processes, so each multiplies its part by their number.
    """
    weight, smoothing = run.class_weights, run.config.label_smoothing
    logits, log_attention = run.with_attention(batch.grey)
    summed = functional.cross_entropy(logits, batch.labels, weight=weight, label_smoothing=smoothing, reduction="sum")
    loss = summed / run.processes.total(weight[batch.labels].sum())
    if batch.masks is not None:
        astray, outlined = distraction(log_attention, batch.masks)
        loss = loss + run.config.guidance * astray / run.processes.total(outlined).clamp(min=1)
    (loss * run.processes.size).backward()
    return float(run.processes.total(loss.detach()))


def distraction(log_attention: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the attention is from resting evenly on the tumor, summed over a batch, and how many have one.

    Args:
        log_attention: (B, 1, h, w), normalised.
        masks: (B, 1, H, W) share of each field inside the outline; images without any do not count.

    Returns:
        The Kullback-Leibler divergences in nats, and the number of images that count.
    """
    height, width = log_attention.shape[2:]
    wanted = functional.adaptive_avg_pool2d(masks, (height, width)).flatten(1)
    total = wanted.sum(dim=1, keepdim=True)
    wanted = wanted / total.clamp(min=torch.finfo(total.dtype).tiny)
    divergence = functional.kl_div(log_attention.flatten(1), wanted, reduction="none").sum(dim=1)
    return divergence[total[:, 0] > 0].sum(), (total > 0).sum().float()


@torch.no_grad()
def average(run: Run, decay: float) -> None:
    """Move the averaged network towards the trained one; nothing where they are the same."""
    if run.averaged is run.network:
        return
    kept, new = tensors_that_change(run.averaged, run.config), tensors_that_change(run.network, run.config)
    torch._foreach_lerp_(kept, new, 1 - decay)


def tensors_that_change(network: Network, config: TrainConfig) -> list[Tensor]:
    """Return the weights and running statistics outside the frozen parts."""
    frozen = tuple(f"backbone.{prefix}." for prefix in config.frozen)
    state = network.state_dict()
    return [value for name, value in state.items() if value.is_floating_point() and not name.startswith(frozen)]


@torch.no_grad()
def measure_norms(run: Run, order: Sequence[Tensor]) -> None:
    """Measure the statistics of the trained batch norms on unaugmented training images, as validation and use see them.

    Args:
        run: its network is left in evaluation mode.
        order: batches as positions among the training images; without any the running statistics stay.
    """
    network = run.averaged.eval()
    layers = (nn.BatchNorm1d, nn.BatchNorm2d)
    frozen = {id(norm) for prefix in run.config.frozen for norm in network.backbone.get_submodule(prefix).modules()}
    norms = [norm for norm in network.modules() if isinstance(norm, layers) and id(norm) not in frozen]
    momenta = [norm.momentum for norm in norms]
    if order:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over the batches
            norm.train()
    for indices in order:
        grey, _ = run.train.batch(indices, run.device)
        batch = augment.apply(grey, augment.unvaried(len(indices)), run.config.size)
        run.logits(network, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _varied(config: TrainConfig, images: Images, number: int, indices: Tensor, device: torch.device) -> Batch:
    """Return the images at these positions, augmented for this epoch."""
    grey, labels = images.batch(indices, device)
    variation = augment.draw(config.augment, config.seed, number, indices.tolist())
    size = train_size(config, number)
    masks = images.outlined(indices, device)
    if masks is not None:
        masks = augment.resample(masks.float() / 255, variation.to(device), size // 2)
    return Batch(augment.apply(grey, variation, size), labels, masks)


def _score(run: Run) -> tuple[float, float, float]:
    """Return loss, accuracy and macro-F1 on the validation part, unaugmented."""
    logits, labels = (torch.cat(parts) for parts in zip(*_validation_logits(run), strict=True))
    loss = float(functional.cross_entropy(logits, labels, weight=run.class_weights.cpu()))
    predicted = logits.argmax(dim=1).numpy()
    found = rates(labels.numpy(), predicted, np.ones((1, len(labels))))
    return loss, float((predicted == labels.numpy()).mean()), float(mean_of_known(found["f1"])[0])


@torch.no_grad()
def _validation_logits(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (B, 4) float32 and labels (B,) of the validation part, on the CPU."""
    network = run.averaged.eval()
    for batch, labels in run.validation.batches(run.config.batch_size, run.device):
        yield run.logits(network, batch).cpu(), labels.cpu()
