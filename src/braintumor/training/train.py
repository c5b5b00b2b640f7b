"""Train a model: one loop over the epochs, readable top to bottom."""

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
from torch.optim.swa_utils import get_ema_multi_avg_fn

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
    """Receiver of what training reports; the command line draws it."""

    def say(self, message: str) -> None:
        """Take one line of text."""

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """Take one finished step: epoch from 1, images done of all in the epoch, the batch's loss."""

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Take one finished epoch."""


class SilentProgress:
    """Progress that reports nothing, of all processes but the first."""

    def say(self, message: str) -> None:
        """Drop it."""

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """Drop it."""

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Drop it."""


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that one training run works with.

    Attributes:
        network: the network that is trained.
        parallel: the same one with its attention, averaging its gradients over the processes.
        averaged: what is validated and kept: a moving average of the network, or the network itself.
        dtype: the precision of convolutions and matrix products.
        class_weights: (4,) of the loss.
    """

    config: TrainConfig
    network: Network
    parallel: nn.Module
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
            logits, log_attention = self.parallel(batch)
        return logits.float(), log_attention.float()


@dataclass(frozen=True, eq=False)
class Batch:
    """Augmented training images: grey (B, 1, S, S) in [0, 1], labels (B,), masks (B, 1, S / 2, S / 2) or None."""

    grey: Tensor
    labels: Tensor
    masks: Tensor | None


@dataclass(frozen=True, eq=False)
class _Data:
    """Data of a run.

    Attributes:
        manifest: with the parts `train` and `val`.
        skipped: reasons by the names of the files that were left out.
        images: of the training part, as large as crops are taken from.
        validation: images of the validation part, as large as the network's input.
        gate_images: some training images of that size, to which the OOD scores are fitted.
    """

    manifest: Manifest
    skipped: dict[str, str]
    images: Images
    validation: Images
    gate_images: Images


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
        progress: receives what happens.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        resume: continue after the last finished epoch in `out`.
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
    torch_device = chosen_device(device)
    with processes(torch_device) as process_group:
        progress = progress if process_group.leads else SilentProgress()
        check_share(config, process_group)
        # One after the other: two downloads of the starting weights would write to the same file.
        with process_group.first_on_each_machine():
            start = look_up(config, out, torch_device, resume=resume)
        process_group.wait()  # all have looked at `out` before the first one writes to it
        with process_group.first_on_each_machine():  # one process fills the cache, the others read it
            data = _load(config, data_dir, manifest, progress, device=torch_device, skip_unreadable=skip_unreadable)
        for image, reason in data.skipped.items():
            progress.say(f"left out {image}: {reason}")
        check_number_of_images(len(data.images.labels), process_group)
        run, state = _begin(start, config, out, data, progress, device=torch_device, process_group=process_group)
        earlier_seconds, curves = state.seconds, CurveWriter(out / "tensorboard")  # of the time before this resume

        while not is_over(state, config):
            epoch = one_epoch(run, len(state.history))
            seconds = earlier_seconds + time.perf_counter() - began
            state = replace(state, history=[*state.history, epoch], seconds=seconds)
            if process_group.leads:
                checkpoint.save_checkpoint(out / "checkpoint", state, run.network, run.averaged, run.optimizer)
                curves.epoch(epoch)
            progress.epoch(epoch, config.epochs)

        if not process_group.leads:
            return None  # leaving `processes` waits for the first process, which exports the model
        checkpoint.restore_kept(out / "checkpoint", state, run.averaged)
        progress.say(f"epoch {state.kept.epoch} is kept; exporting and checking the model")
        state = replace(state, seconds=earlier_seconds + time.perf_counter() - began)
        threads, world_size = torch.get_num_threads(), process_group.world_size
        card = write_artefact(
            out,
            run.averaged,
            config,
            state,
            manifest=data.manifest,
            skipped=data.skipped,
            gate_images=data.gate_images,
            validation=data.validation,
            machine={"device": torch_device.type, "threads": threads, "processes": world_size},
        )
        checkpoint.clear(out / "checkpoint")
        return card


def check_share(config: TrainConfig, process_group: Processes) -> None:
    """Raise where a batch is too small to be divided: batch norm needs two images in every process."""
    if config.batch_size < 2 * process_group.world_size:
        raise TrainingError(
            f"batch_size: expected at least 2 images for each of the {process_group.world_size} processes, "
            f"got {config.batch_size}"
        )


def check_number_of_images(images: int, process_group: Processes) -> None:
    """Raise where there are fewer training images than two for every process."""
    if images < 2 * process_group.world_size:
        raise DataError(f"expected at least {2 * process_group.world_size} training images, got {images}; add images")


def _load(
    config: TrainConfig,
    data_dir: Path,
    manifest: Manifest | None,
    progress: Progress,
    *,
    device: torch.device,
    skip_unreadable: bool,
) -> _Data:
    cache = cache_folder()
    skipped: dict[str, str] = {}
    if manifest is None:
        fraction, seed = config.validation_fraction, config.seed
        manifest, skipped = prepare(data_dir, cache, fraction=fraction, seed=seed, skip_unreadable=skip_unreadable)
    images = decoded(manifest.part("train"), config.source_size, cache, progress.say)
    if config.masks:
        images = outlined(images, manifest.part("train"), Path(config.masks), cache)
    return _Data(
        manifest=manifest,
        skipped=skipped,
        images=images.on(device),
        validation=decoded(manifest.part("val"), config.size, cache, progress.say).on(device),
        # Not moved to a GPU: the OOD scorer is fitted on the CPU, after the last epoch.
        gate_images=decoded(manifest.part("train").some(GATE_IMAGES), config.size, cache, progress.say),
    )


def _begin(
    start: TrainingStart,
    config: TrainConfig,
    out: Path,
    data: _Data,
    progress: Progress,
    *,
    device: torch.device,
    process_group: Processes,
) -> tuple[Run, State]:
    """Return the run with its network and optimizer at the start, or as they were after the last finished epoch."""
    network = start.network
    identity = {"settings": settings_of(config), "data": data.manifest.fingerprint()}
    if start.state:
        check_same_run(start.state, identity, out)
        state = replace(start.state, identity=identity)  # with the settings that are younger than the run
    else:
        # Measured, so it may come out differently from process to process; all must compute alike.
        is_bfloat16 = process_group.same(float(compute_dtype(device) == torch.bfloat16))
        state = State(identity, "bfloat16" if is_bfloat16 else "float32", start.origin)
    freeze(network, config.frozen)
    # Before `assemble`, which copies the network for the moving average. A checkpoint holds the result already.
    if not start.state:
        measure_folded_norms(config, network, data.images, device)
    run = assemble(
        config,
        network,
        data.images,
        data.validation,
        progress=progress,
        dtype=getattr(torch, state.precision),
        device=device,
        process_group=process_group,
    )
    if start.state:
        checkpoint.restore_checkpoint(out / "checkpoint", state, run.network, run.averaged, run.optimizer)
        progress.say(f"resumed after epoch {state.history[-1].epoch}")
    total = sum(parameter.numel() for parameter in network.parameters())
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    progress.say(
        f"{config.model}: {total:,} parameters, {trained:,} trained; "
        f"{process_group.world_size} process(es) on {device.type}, {state.precision}; "
        f"{len(data.images.labels)} training and {len(data.validation.labels)} validation images"
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
    process_group: Processes,
) -> Run:
    """Return the run of a network whose frozen parts are frozen, with a fresh optimizer."""
    # From here on all processes have the weights of process 0; so the average is copied after it.
    parallel = process_group.parallel(WithAttention(network))
    averaged = copy.deepcopy(network).eval().requires_grad_(False) if config.averaging else network
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate = torch.tensor(config.learning_rate)  # a tensor, so that `one_epoch` can set it in place before every step
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=config.weight_decay, fused=True)
    return Run(
        config=config,
        network=network,
        parallel=parallel,
        averaged=averaged,
        optimizer=optimizer,
        device=device,
        dtype=dtype,
        class_weights=inverse_frequency(images.labels).to(device),
        train=images,
        validation=validation,
        progress=progress,
        processes=process_group,
    )


def inverse_frequency(labels: Tensor) -> Tensor:
    """Return the (4,) float32 class weights n / (4 * n_class): 1 on average over the images.

    A class without images has the weight 0.
    """
    counts = torch.bincount(labels, minlength=len(CLASSES)).float()
    return torch.where(counts > 0, len(labels) / (len(CLASSES) * counts.clamp(min=1)), 0.0)


def measure_folded_norms(config: TrainConfig, network: Network, images: Images, device: torch.device) -> None:
    """Give batch norms that came folded into their convolutions real statistics, of augmented training images."""
    norms = pretrained.folded_norms(network, config.frozen)
    if norms:
        order = epoch_order(config, 0, len(images.labels))[:UNFOLDING_BATCHES]
        pretrained.unfold_norms(
            network, norms, lambda: (_augmented_batch(config, images, 0, indices, device).grey for indices in order)
        )


def is_over(state: State, config: TrainConfig) -> bool:
    """Tell whether all epochs are done or `patience` epochs brought nothing better, where the best one is kept."""
    epochs = len(state.history)
    has_stalled = not config.keep_last and epochs > 0 and epochs - state.best.epoch >= config.patience
    return epochs >= config.epochs or has_stalled


def one_epoch(run: Run, number: int) -> Epoch:
    """Train for one epoch, counted from 0, then score the validation part."""
    config, process_group = run.config, run.processes
    began, total_loss, images_done = time.perf_counter(), 0.0, 0
    order = epoch_order(config, number, len(run.train.labels), smallest=2 * process_group.world_size)
    torch.manual_seed(epoch_seed(config, number) + process_group.rank)  # dropout; the same after a resume
    train_mode(run.network, config.frozen)
    for step, indices in enumerate(order):
        rate = learning_rate(config, number + step / len(order))
        for parameter_group in run.optimizer.param_groups:
            parameter_group["lr"].fill_(rate)
        loss = backward(run, _augmented_batch(config, run.train, number, process_group.share(indices), run.device))
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        # One update stands for several steps, so the decay of a step is raised to their number.
        if (step + 1) % AVERAGING_STRIDE == 0:
            average(run, averaging_decay(config, number * len(order) + step) ** AVERAGING_STRIDE)
        # The weights in memory are spoilt by now; the checkpoint of the last finished epoch is not.
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {number + 1}, step {step + 1}; the last finished epoch is kept. "
                "Lower the learning rate or look for damaged images"
            )
        total_loss += loss * len(indices)
        images_done += len(indices)
        run.progress.step(number + 1, images_done, len(run.train.labels), loss, rate)
    speed = images_done / (time.perf_counter() - began)  # of training alone, without the validation that follows
    measure_norms(run, order[: config.norm_batches])
    # Batch norms whose statistics are not measured anew differ between the processes, so that scores may: all take the
    # first one's, or they would not stop after the same epoch and wait for each other for ever.
    val_loss, accuracy, macro_f1 = map(run.processes.same, _score(run))
    elapsed = time.perf_counter() - began
    return Epoch(
        epoch=number + 1,
        learning_rate=rate,
        train_loss=total_loss / images_done,
        val_loss=val_loss,
        val_accuracy=accuracy,
        val_macro_f1=macro_f1,
        images_per_second=speed,
        seconds=elapsed,
    )


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
        divergence, outlined = distraction(log_attention, batch.masks)
        loss = loss + run.config.guidance * divergence / run.processes.total(outlined).clamp(min=1)
    (loss * run.processes.world_size).backward()
    return float(run.processes.total(loss.detach()))


def distraction(log_attention: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence of the attention from an even one on the tumor, and the number of images with a tumor.

    Args:
        log_attention: (B, 1, h, w), normalised.
        masks: (B, 1, H, W) share of each field inside the outline; images without any do not count.

    Returns:
        The Kullback-Leibler divergences in nats, summed over the batch, and the number of images that count.
    """
    height, width = log_attention.shape[2:]
    areas = functional.adaptive_avg_pool2d(masks, (height, width)).flatten(1)  # (B, h * w)
    total = areas.sum(dim=1, keepdim=True)
    # Without an outline the total is 0: kept from dividing by it here, since NaN would reach the gradients even of
    # what is left out below.
    target = areas / total.clamp(min=torch.finfo(total.dtype).tiny)
    divergence = functional.kl_div(log_attention.flatten(1), target, reduction="none").sum(dim=1)
    return divergence[total[:, 0] > 0].sum(), (total > 0).sum().float()


@torch.no_grad()
def average(run: Run, decay: float) -> None:
    """Move the averaged network towards the trained one; nothing where they are the same."""
    if run.averaged is run.network:
        return
    averaged, current = tensors_that_change(run.averaged, run.config), tensors_that_change(run.network, run.config)
    get_ema_multi_avg_fn(decay)(averaged, current, None)  # the last argument, a number of updates, is not used


def tensors_that_change(network: Network, config: TrainConfig) -> list[Tensor]:
    """Return the weights and running statistics outside the frozen parts; not the whole numbers of batches seen."""
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
    frozen = {id(module) for prefix in run.config.frozen for module in network.backbone.get_submodule(prefix).modules()}
    norms = [module for module in network.modules() if isinstance(module, layers) and id(module) not in frozen]
    momenta = [norm.momentum for norm in norms]
    # Only the norms train, so dropout stays off while their statistics are measured.
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


def _augmented_batch(config: TrainConfig, images: Images, number: int, indices: Tensor, device: torch.device) -> Batch:
    """Return the images at these positions, augmented for this epoch."""
    grey, labels = images.batch(indices, device)
    variation = augment.draw(config.augment, config.seed, number, indices.tolist())
    size = train_size(config, number)
    masks = images.outlined(indices, device)
    # The masks go through the same geometry as their images, at half the size, which is enough for class maps.
    if masks is not None:
        masks = augment.resample(masks.float() / 255, variation.to(device), size // 2)
    return Batch(augment.apply(grey, variation, size), labels, masks)


def _score(run: Run) -> tuple[float, float, float]:
    """Return loss, accuracy and macro-F1 on the validation part, unaugmented."""
    logits, labels = (torch.cat(parts) for parts in zip(*_validation_logits(run), strict=True))
    loss = float(functional.cross_entropy(logits, labels, weight=run.class_weights.cpu()))
    predicted = logits.argmax(dim=1).numpy()
    scores = rates(labels.numpy(), predicted, np.ones((1, len(labels))))
    return loss, float((predicted == labels.numpy()).mean()), float(mean_of_known(scores["f1"])[0])


@torch.no_grad()
def _validation_logits(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (B, 4) float32 and labels (B,) of the validation part, on the CPU."""
    network = run.averaged.eval()
    for batch, labels in run.validation.batches(run.config.batch_size, run.device):
        yield run.logits(network, batch).cpu(), labels.cpu()
