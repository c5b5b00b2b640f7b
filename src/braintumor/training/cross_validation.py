"""Patient-disjoint cross-validation of a recipe, one model folder per fold."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from braintumor.classes import CLASSES
from braintumor.data.duplicates.groups import group_numbers, known_images, name_of
from braintumor.data.duplicates.thumbnails import Thumbnails, make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest
from braintumor.data.reference import check_reference, is_reference, known_folds, read_reference
from braintumor.data.split import Integers, fold_numbers, split
from braintumor.errors import TrainingError, UnreadableDataError
from braintumor.evaluate.cross_validation import evaluate_folds
from braintumor.evaluate.report.report import Progress, Report
from braintumor.files import cache_folder, check_writable
from braintumor.text import visible
from braintumor.training.checkpoint import Epoch
from braintumor.training.config import TrainConfig
from braintumor.training.prerequisites import look_up
from braintumor.training.settings import check_whole
from braintumor.training.train import train

FOLDS = 5


def folds(
    config: TrainConfig,
    data_dir: Path,
    out: Path,
    say: Callable[[str], None],
    *,
    jobs: int = 1,
    resume: bool = True,
    progress: Progress | None = None,
    masks: Path | None = None,
) -> Report:
    """Train a model per fold, each without the patients it is tested on, and return the report on all of them.

    Settings, network, starting weights and folders are checked before the data is opened. Folds that are finished are
    kept, interrupted ones are resumed, so that the same command continues after an interruption. Every image
    is tested once.
    The folds of the public sets are fixed and shipped with the package.

    Args:
        config: all settings; the same for every fold.
        data_dir: a data folder in one of the known layouts, whose parts are pooled, or a reference folder.
        out: the folders of the folds, 0 to 4, and the pooled report in `evaluation`.
        say: receives what happens, a line at a time.
        jobs: folds that are trained at the same time, each on its share of the processor's cores.
        resume: continue interrupted folds; without it they are refused.
        progress: called while the folds are evaluated.
        masks: a reference folder with outlines of tumors, with which the class maps are compared; what teaches the
            network is in `config`.

    Raises:
        DataError: the network or the data cannot be used, the data cannot be divided, or there is no such reference.
        WeightsError: the starting weights cannot be used.
        TrainingError: a setting is out of range, settings or data are not those that a fold began with, or the
            processes of torchrun are to train folds.
        StorageError: a folder cannot be written to.
    """
    check_whole("jobs", jobs, 1)
    unfinished = [out / str(fold) for fold in range(FOLDS) if not (out / str(fold) / "card.json").exists()]
    _look_up_all(config, unfinished, resume)
    check_writable(out / "evaluation")
    if masks:
        check_reference(masks)
    manifest, numbers = divided(data_dir)
    threads = max(1, torch.get_num_threads() // jobs)
    manifests = [part_of(manifest, numbers, int(folder.name), config) for folder in unfinished]
    train_fold = partial(_train_fold, config, data_dir, threads=threads, resume=resume)
    if jobs == 1:
        for line in map(train_fold, unfinished, manifests):
            say(line)
    elif unfinished:
        with side_by_side(jobs, threads) as pool:
            for line in pool.map(train_fold, unfinished, manifests):
                say(line)
    finished = [out / str(fold) for fold in range(FOLDS)]
    return evaluate_folds(finished, data_dir, out / "evaluation", progress, masks=masks)


def _look_up_all(config: TrainConfig, folders: Sequence[Path], resume: bool) -> None:
    """Raise where one of the folds in these folders could not begin or be resumed; see `prerequisites.look_up`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("folds cannot be trained under torchrun; use --jobs to train several at the same time")
    interrupted = [folder for folder in folders if (folder / "checkpoint" / "state.json").exists()]
    new = [folder for folder in folders if folder not in interrupted]
    # One new fold stands for all of them: its starting weights are downloaded here, before processes race for them.
    for folder in (*interrupted, *new[:1]):
        look_up(config, folder, torch.device("cpu"), resume=resume and folder in interrupted)


@contextmanager
def side_by_side(jobs: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of this many processes with this many threads each.

    Without PYTHONSAFEPATH they would look for modules in the working folder first, which may be a stranger's data.
    """
    variables = {"OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)  # a spawned process reads both while it starts: too early for an initializer
    try:
        # Spawned, since a fork of a process with torch's threads can hang.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def divided(data_dir: Path) -> tuple[Manifest, Integers]:
    """Return all images of a folder with their groups, and the fold (N,) of each.

    Raises:
        DataError: the data cannot be used or divided.
        UnreadableDataError: images cannot be read.
    """
    if is_reference(data_dir):
        reference = read_reference(data_dir).manifest
        rows = (replace(row, image=f"images/{row.image}") for row in reference)
        manifest, skipped = Manifest(data_dir, tuple(rows)), dict[str, str]()
    else:
        listing = list_images(data_dir)
        manifest, skipped = listing.manifest, listing.skipped
    thumbnails, problems = make_thumbnails(manifest, cache_folder())
    if skipped or problems:
        raise UnreadableDataError(data_dir, skipped | problems)
    groups = group_numbers(manifest, thumbnails)
    labels = np.array([CLASSES.index(row.label) for row in manifest], np.int64)
    numbers = fold_numbers(groups, labels, _published_folds(manifest, thumbnails), folds=FOLDS)
    rows = (replace(row, group=name_of(number)) for row, number in zip(manifest, groups.tolist(), strict=True))
    return Manifest(data_dir, tuple(rows)), numbers


def _published_folds(manifest: Manifest, thumbnails: Thumbnails) -> Integers:
    """Return (N,) the published fold of each image of the public sets, -1 for other images.

    Images of the Kaggle set are recognised by name and pixels, those of the Figshare set by id and patient.
    """
    published = known_folds()
    return np.array(
        [
            image.fold if image else published.get((Path(row.image).stem, row.patient), -1)
            for row, image in zip(manifest, known_images(manifest, thumbnails), strict=True)
        ],
        np.int64,
    )


def part_of(manifest: Manifest, numbers: Integers, fold: int, config: TrainConfig) -> Manifest:
    """Return the manifest of one fold: its images are test, of the others some whole groups are val."""
    rows = (
        replace(row, split="test" if number == fold else "train")
        for row, number in zip(manifest, numbers.tolist(), strict=True)
    )
    return split(Manifest(manifest.root, tuple(rows)), config.validation_fraction, config.seed, "val")


def _train_fold(
    config: TrainConfig, data_dir: Path, out: Path, manifest: Manifest, *, threads: int, resume: bool
) -> str:
    """Train one fold, in its own process where there are several; return the line that says how it ended."""
    torch.set_num_threads(threads)
    was_interrupted = (out / "checkpoint" / "state.json").exists()
    card = train(config, data_dir, out, Log(out), manifest=manifest, resume=resume and was_interrupted, device="auto")
    assert card, "only the other processes of torchrun have none"
    validation = card.metrics["validation"]
    return (
        f"fold {out.name}: {card.metrics['train_minutes']} minutes, "
        f"epoch {card.metrics['kept_epoch']} of {card.metrics['epochs']} is kept, "
        f"validation accuracy {validation['accuracy']:.4f} on {validation['n']} images"
    )


class Log:
    """Progress of a fold, appended line by line to `training.log` beside its model."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "training.log"

    def say(self, message: str) -> None:
        """Append a line."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(f"{visible(message)}\n")

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """Say nothing: an epoch is a line."""

    def epoch(self, row: Epoch, epochs: int) -> None:
        """Append the epoch's numbers."""
        self.say(
            f"epoch {row.epoch}/{epochs}  loss {row.train_loss:.4f}  validation loss {row.val_loss:.4f}  "
            f"accuracy {row.val_accuracy:.4f}  {row.images_per_second:.0f} images/s"
        )
