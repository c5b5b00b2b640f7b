"""Evaluate a recipe on patients its models have not seen: the predictions of all folds pooled into one report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from braintumor.data.duplicates.groups import group_numbers, name_of
from braintumor.data.duplicates.thumbnails import make_thumbnails
from braintumor.data.manifest import Manifest, Row, read_manifest
from braintumor.errors import DataError, UnreadableDataError
from braintumor.evaluate.leakage import unseen
from braintumor.evaluate.localization import LocalizedModel
from braintumor.evaluate.report.gallery import MISTAKES, Mistake, Survivor, worst_mistakes
from braintumor.evaluate.report.report import (
    Progress,
    Report,
    compare_maps,
    predict_images,
    summarize_predictions,
    write_report,
)
from braintumor.files import cache_folder
from braintumor.models.session import Model, load_folder
from braintumor.predictor import Prediction


def evaluate_folds(
    folders: Sequence[Path],
    data_dir: Path,
    out: Path,
    progress: Progress | None = None,
    *,
    masks: Path | None = None,
) -> Report:
    """Return the report on the pooled test parts of folds, each answered by the model that has not seen it.

    Args:
        folders: model folder of each fold; its `manifest.csv` says what was trained, validated and tested on.
        data_dir: the data folder of all.
        out: where to write `report.json`, `report.html` and `predictions.csv`.
        progress: called with the images done and in all.
        masks: a reference folder with outlines of tumors, with which the class maps are compared.

    Raises:
        DataError: an image is tested twice, a group is in several test parts, or images cannot be read.
        StorageError: the files cannot be written.
    """
    models = [load_folder(folder) for folder in folders]
    manifests = [read_manifest(folder / "manifest.csv", data_dir) for folder in folders]
    check_disjoint(manifests)
    listed_images = sum(len(manifest.part("test")) for manifest in manifests)
    # the manifests may be older than the way copies are found: what is linked now must not be tested
    manifests = _regrouped(manifests, data_dir)
    answers: list[tuple[Row, Prediction]] = []
    mistakes: list[Mistake] = []
    answering: list[Model] = []
    total, seconds = sum(len(manifest.part("test")) for manifest in manifests), 0.0
    for model, manifest in zip(models, manifests, strict=True):
        done = len(answers)
        # `done` as a default binds the value of this fold
        report_progress = (lambda n, _, done=done: progress(done + n, total)) if progress else None
        predictions, unreadable, fold_seconds = predict_images(manifest.part("test"), model, report_progress)
        if unreadable:
            raise UnreadableDataError(data_dir, unreadable)
        answers, seconds = [*answers, *predictions], seconds + fold_seconds
        answering += [model] * len(predictions)
        mistakes += worst_mistakes(predictions, data_dir, model)
    # each fold gave its worst 24; the worst 24 of all are among them
    mistakes = sorted(mistakes, key=lambda mistake: mistake.probabilities[mistake.label])[:MISTAKES]
    relation = unseen(Manifest(data_dir, tuple(row for row, _ in answers)))
    maps, surviving = None, list[Survivor]()
    if masks:
        parts = [
            LocalizedModel(model, manifest.part("test"), manifest.part("val"))
            for model, manifest in zip(models, manifests, strict=True)
        ]
        maps, surviving = compare_maps(parts, relation.groups, masks, progress)
    report = summarize_predictions(answering, "folds", answers, relation, maps, data_dir)
    report = dataclasses.replace(report, excluded=listed_images - total, images_per_second=total / seconds)
    write_report(report, answers, mistakes, surviving, models[0], out)
    return report


def _regrouped(manifests: Sequence[Manifest], data_dir: Path) -> list[Manifest]:
    """Return the test and training images of each fold in groups as they are found now, whatever they were called.

    Test images whose group turns out to be in the fold's training or validation part are left out.
    """
    rows = {row.image: row for manifest in manifests for row in manifest.part("test")}
    # without their old groups, which would keep what is no longer found to be linked
    everything = Manifest(data_dir, tuple(dataclasses.replace(row, group="") for row in rows.values()))
    numbers = group_numbers(everything, make_thumbnails(everything, cache_folder())[0])
    group_of = dict(zip(rows, map(name_of, numbers.tolist()), strict=True))
    renewed = []
    for manifest in manifests:
        named = [dataclasses.replace(row, group=group_of.get(row.image, row.group)) for row in manifest]
        seen = {row.group for row in named if row.split != "test"}
        kept = (row for row in named if row.split != "test" or row.group not in seen)
        renewed.append(Manifest(data_dir, tuple(kept)))
    return renewed


def check_disjoint(manifests: Sequence[Manifest]) -> None:
    """Refuse folds that test an image twice or have a group in several test parts.

    That no group is both tested and trained on within a fold is checked where its manifest is read.

    Raises:
        DataError: naming the group.
    """
    images: set[str] = set()
    fold_of: dict[str, int] = {}
    for fold, manifest in enumerate(manifests):
        for row in manifest.part("test"):
            # setdefault: the first fold that tests a group owns it
            if row.image in images or fold_of.setdefault(row.group or row.image, fold) != fold:
                raise DataError(
                    f"{row.image} or its group {row.group} is tested in several folds; train all folds with one command"
                )
            images.add(row.image)
