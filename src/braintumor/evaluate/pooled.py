"""How good a recipe is on patients its models have not seen: the answers of all folds pooled into one report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from braintumor.data.manifest import Manifest, Row, read_manifest
from braintumor.errors import DataError, UnreadableDataError
from braintumor.evaluate.gallery import MISTAKES, Mistake, worst_mistakes
from braintumor.evaluate.leakage import unseen
from braintumor.evaluate.report import Progress, Report, ask, judge, write
from braintumor.inference import Prediction
from braintumor.model import load


def evaluate_folds(folders: Sequence[Path], data_dir: Path, out: Path, progress: Progress | None = None) -> Report:
    """Return the report on the pooled test parts of folds, each answered by the model that has not seen it.

    Args:
        folders: model folder of each fold; its `manifest.csv` says what was trained, validated and tested on.
        data_dir: the data folder of all.
        out: where to write `report.json`, `report.html` and `predictions.csv`.
        progress: called with the images done and in all.

    Raises:
        DataError: an image is tested twice, a group is in several test parts, or images cannot be read.
        StorageError: the files cannot be written.
    """
    models = [load(folder) for folder in folders]
    manifests = [read_manifest(folder / "manifest.csv", data_dir) for folder in folders]
    check_disjoint(manifests)
    answers: list[tuple[Row, Prediction]] = []
    mistakes: list[Mistake] = []
    total, seconds = sum(len(manifest.part("test")) for manifest in manifests), 0.0
    for model, manifest in zip(models, manifests, strict=True):
        done = len(answers)
        report_progress = (lambda n, _, done=done: progress(done + n, total)) if progress else None
        found, unreadable, spent = ask(manifest.part("test"), model, report_progress)
        if unreadable:
            raise UnreadableDataError(data_dir, unreadable)
        answers, seconds = [*answers, *found], seconds + spent
        mistakes += worst_mistakes(found, data_dir, model)
    mistakes = sorted(mistakes, key=lambda mistake: mistake.probabilities[mistake.label])[:MISTAKES]
    relation = unseen(Manifest(data_dir, tuple(row for row, _ in answers)))
    report = judge(models[0], "folds", answers, relation)
    report = dataclasses.replace(report, images_per_second=total / seconds)
    write(report, answers, mistakes, models[0], out)
    return report


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
            if row.image in images or fold_of.setdefault(row.group or row.image, fold) != fold:
                raise DataError(
                    f"{row.image} or its group {row.group} is tested in several folds; train all folds with one command"
                )
            images.add(row.image)
