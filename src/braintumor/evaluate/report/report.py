"""Evaluate a model on images it was not trained on: report.json, report.html, predictions.csv."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from braintumor import __version__
from braintumor.classes import CLASSES, DISCLAIMER
from braintumor.data.layout import Listing, has_part, list_images
from braintumor.data.manifest import Manifest, Row, read_manifest, validation_images
from braintumor.data.quality import FileFacts, quality
from braintumor.data.reference import check_reference
from braintumor.data.shortcuts import Shortcuts, shortcuts
from braintumor.errors import DataError, ImageError, UnreadableDataError
from braintumor.evaluate.leakage import NO_RECORD, Leakage, Relation, leakage_of, relate
from braintumor.evaluate.localization import Localization, LocalizedModel, localize, size_class
from braintumor.evaluate.metrics import Calibration, Measured, confusion, measure, measure_calibration
from braintumor.evaluate.report import html, plots
from braintumor.evaluate.report.gallery import SURVIVORS, Mistake, Survivor, legend, survivors, worst_mistakes
from braintumor.evaluate.selective import SelectiveResult, Subgroup, selective_result, subgroups, thirds, tumor_shares
from braintumor.files import cache_folder, check_writable, write_text
from braintumor.intervals import Floats, Integers
from braintumor.models.session import Model
from braintumor.predictor import COLUMNS, Prediction, Predictor

MAIN = ("accuracy", "precision", "recall", "f1")
PROTOCOLS = {
    "official": "the data set's own test part",
    "held-out": "images set aside before training",
    "clean": "test images that share no group with training",
    "folds": "every image by the model of the fold that has not seen its group",
}

Progress = Callable[[int, int], None]
Answers = Sequence[tuple[Row, Prediction]]
NOT_CLEAN = "no test image is known to share nothing with training: {why}; use --protocol official"
LOST = "missing, or no longer the file that was set aside for testing"
NO_MAPS = np.empty((len(CLASSES), 0, 0), np.float32)


@dataclass(frozen=True)
class Report:
    """The result of an evaluation; all rates are fractions.

    Attributes:
        model: name, version, architecture, recipe and precision of the model.
        protocol: `official` for a test part that the data folder brings along, `held-out` for one that we cut off,
            `clean` for the images of either that share no group with training, `folds` for patient-disjoint folds.
        excluded: test images that were left out because they share a group with training: under `clean`, and in folds
            whose groups were drawn before this was known.
        fingerprint: of the manifest of the evaluated images.
        groups: of the images, in the order of predictions.csv; intervals are over groups.
        counts: evaluated images per class.
        uncalibrated: the calibration without the temperature that the card holds.
        confusion: row the label, column the predicted class.
        decisions: what becomes of the images where answers may be withheld.
        subgroups: by class, by plane as told from the pixels, by where the images come from, by brightness of the head
            and, where outlines are known, by the size of the tumor.
        crossed: images of each class by plane and by source.
        shortcuts: how far size, format and brightness give the class of these images away, without any model.
        skipped: reason of every file that was left out.
        localisation: how well class maps agree with outlines of tumors; None without a reference folder.
        images_per_second: reading, preparing and predicting, on the machine of the evaluation.
        date: of the evaluation, ISO 8601, UTC.
    """

    model: dict[str, str]
    protocol: str
    excluded: int
    fingerprint: str
    groups: tuple[int, ...]
    counts: dict[str, int]
    measured: Measured
    uncalibrated: Calibration
    confusion: tuple[tuple[int, ...], ...]
    decisions: SelectiveResult
    subgroups: dict[str, dict[str, Subgroup]]
    crossed: dict[str, dict[str, dict[str, int]]]
    shortcuts: Shortcuts | None
    leakage: Leakage
    skipped: dict[str, str]
    images_per_second: float
    date: str
    package_version: str
    localisation: Localization | None = None
    disclaimer: str = DISCLAIMER

    @property
    def n_images(self) -> int:
        """Return the number of evaluated images."""
        return len(self.groups)

    @property
    def n_groups(self) -> int:
        """Return the number of groups that they fall into."""
        return len(set(self.groups))

    def summary(self) -> str:
        """Return the main rates with their intervals, and a warning if test images were seen in training, as lines."""
        lines = [f"{name:<10} {html.plain(self.measured.overall[name])}" for name in MAIN]
        lines.append(
            f"{PROTOCOLS[self.protocol]}; {self.n_images:,} images of {self.n_groups:,} groups, 95 % intervals"
        )
        if self.excluded:
            lines.append(f"{self.excluded:,} test images were left out: they share a group with training")
        leakage = self.leakage
        if leakage.related:
            lines.append(
                f"warning: {leakage.related:,} of these images share a slice or a patient with training "
                f"({leakage.duplicates:,} have a duplicate there)"
            )
        if leakage.duplicates and leakage.accuracy_without:
            without = leakage.accuracy_without
            lines.append(f"accuracy on the {without.n:,} without a duplicate: {html.plain(without)}")
        if leakage.related and leakage.accuracy_clean:
            clean = leakage.accuracy_clean
            lines.append(f"accuracy on the {clean.n:,} that share nothing: {html.plain(clean)}")
        if not leakage.known:
            lines.append(f"duplicates in training were not fully counted: {leakage.reason}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the content of report.json."""
        fields = dataclasses.asdict(self)
        measured, groups = fields.pop("measured"), fields.pop("groups")
        rates = {name: {"support": self.counts[name], **estimates} for name, estimates in measured["per_class"].items()}
        if self.localisation:
            # its numbers are means elsewhere, and one entry per image would make most of the file
            del fields["localisation"]["per_image"]
        return {
            "protocol": fields.pop("protocol"),
            "n_images": self.n_images,
            "n_groups": self.n_groups,
            "metrics": measured["overall"],
            "per_class": rates,
            "reliability": list(measured["reliability"]),
            "uncalibrated": fields.pop("uncalibrated")["overall"],
            "classes": list(CLASSES),
            **fields,
            "groups": list(groups),
        }


def evaluate(
    model: Model,
    data_dir: Path,
    out: Path,
    *,
    protocol: str = "official",
    masks: Path | None = None,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Return the report on the test images of a data folder, after writing its three files.

    Args:
        model: a loaded model folder; its `manifest.csv` says which images it was trained on.
        data_dir: a data folder with a test part, or the class folders that the model's test images were cut from.
        out: where to write `report.json`, `report.html` and `predictions.csv`.
        protocol: `official` for all test images, `clean` for those that share no group with training.
        masks: a reference folder with outlines of tumors, with which the class maps are compared.
        skip_unreadable: leave out images that cannot be read and list them in the report, instead of raising.
        progress: called with the images done and in all.

    Raises:
        DataError: another protocol, no reference folder in `masks`, no test images, or images that cannot be read.
        StorageError: the files cannot be written.
    """
    data_dir = Path(data_dir)
    # everything that can be wrong with the request is found before minutes of predictions
    _check_request(model, out, protocol, masks)
    origin, listing = find_test_images(model, data_dir)
    validation = validation_images(model.folder, data_dir) if masks else Manifest(data_dir, ())
    answers, unreadable, seconds = predict_images(listing.manifest, model, progress)
    # leaving files out changes the test set, so it has to be asked for
    unusable = listing.skipped | unreadable
    if unusable and (not skip_unreadable or not answers):
        raise UnreadableDataError(data_dir, unusable)
    relation = relate(Manifest(data_dir, tuple(row for row, _ in answers)), model)
    excluded = 0
    # after the predictions, since which images are unrelated depends on those that could be read
    if protocol == "clean":
        origin, before = "clean", len(answers)
        answers, relation = _unrelated(answers, relation)
        excluded = before - len(answers)
    maps, surviving = None, list[Survivor]()
    if masks:
        tested = Manifest(data_dir, tuple(row for row, _ in answers))
        parts = [LocalizedModel(model, tested, validation)]
        maps, surviving = compare_maps(parts, relation.groups, masks, progress)
    report = dataclasses.replace(
        summarize_predictions([model] * len(answers), origin, answers, relation, maps, data_dir),
        excluded=excluded,
        skipped=dict(sorted(unusable.items())),
        images_per_second=len(listing.manifest) / seconds,
    )
    write_report(report, answers, worst_mistakes(answers, data_dir, model), surviving, model, out)
    return report


def _check_request(model: Model, out: Path, protocol: str, masks: Path | None) -> None:
    """Raise where an evaluation could not end, before any image is opened.

    Raises:
        DataError: another protocol, `clean` without a record of the training images, or no reference folder in `masks`.
        StorageError: `out` cannot be written to.
    """
    if protocol not in ("official", "clean"):
        raise DataError(f"protocol: expected official or clean, got {protocol!r}")
    if protocol == "clean" and not (model.folder / "manifest.csv").is_file():
        raise DataError(NOT_CLEAN.format(why=NO_RECORD))
    if masks:
        check_reference(masks)
    check_writable(out)


def compare_maps(
    parts: Sequence[LocalizedModel], groups: Integers, masks: Path, progress: Progress | None
) -> tuple[Localization, list[Survivor]]:
    """Return how the class maps for the test images of the parts fit the outlines, and some answers that need no tumor.

    Args:
        parts: models and images.
        groups: (N,) of all test images, in the order of the parts.
        masks: reference folder.
        progress: called with the images done and in all.

    Raises:
        DataError: see `localize`.
    """
    images = [row.image for part in parts for row in part.test]
    maps = localize(parts, dict(zip(images, groups.tolist(), strict=True)), masks, cache_folder(), progress)
    positions = np.linspace(0, len(maps.survivors) - 1, min(SURVIVORS, len(maps.survivors))).astype(int)
    chosen = {maps.survivors[position] for position in positions.tolist()}
    shown: list[Survivor] = []
    for part in parts:
        rows = tuple(row for row in part.test if row.image in chosen)
        if rows:
            shown += survivors(part.model, Manifest(part.test.root, rows), masks, cache_folder())
    return maps, shown


def write_report(
    report: Report,
    answers: Answers,
    mistakes: Sequence[Mistake],
    surviving: Sequence[Survivor],
    model: Model,
    out: Path,
) -> None:
    """Write predictions.csv, report.html and report.json into a folder."""
    html.write_csv(out / "predictions.csv", COLUMNS, map(_line, answers))
    write_text(out / "report.html", _render(report, answers, mistakes, surviving, model))
    html.write_json(out / "report.json", report.to_json())


def _unrelated(answers: Answers, relation: Relation) -> tuple[list[tuple[Row, Prediction]], Relation]:
    """Return the answers on images that share no group with training, and their relation.

    Raises:
        DataError: there are none.
    """
    kept = np.flatnonzero(~relation.shared)
    # without a record of the training images none is known to be unrelated
    if not len(kept) or relation.exact is None:
        why = relation.reason or f"all {len(answers)} share a slice or a patient with training"
        raise DataError(NOT_CLEAN.format(why=why))
    return [answers[index] for index in kept.tolist()], relation.part(kept)


def find_test_images(model: Model, data_dir: Path) -> tuple[str, Listing]:
    """Return the protocol and the test images: the folder's own test part, or the images that training set aside.

    Raises:
        DataError: there are none.
    """
    # a published test part comes first: its numbers can be compared with those of others
    if has_part(data_dir, "test"):
        return "official", list_images(data_dir, parts=("test",))
    record = model.folder / "manifest.csv"
    expected = read_manifest(record, data_dir).part("test") if record.is_file() else Manifest(data_dir, ())
    if not expected:
        raise DataError(
            f"{data_dir} has no test part and {record} lists no test images; "
            "name a folder with a Testing or test folder, or train the model again so that one is cut off"
        )
    listing = list_images(data_dir)
    # by content, too: a file that was replaced since is not the one that was kept from training
    present = {(row.image, row.sha256) for row in listing.manifest}
    kept = tuple(row for row in expected if (row.image, row.sha256) in present)
    lost = {row.image: listing.skipped.get(row.image, LOST) for row in set(expected) - set(kept)}
    if not kept:
        raise DataError(
            f"none of the {len(expected)} test images in {record} is in {data_dir}; name the folder that they come from"
        )
    return "held-out", Listing(Manifest(data_dir, kept), lost)


def predict_images(
    manifest: Manifest, model: Model, progress: Progress | None
) -> tuple[list[tuple[Row, Prediction]], dict[str, str], float]:
    """Return the rows with their predictions (without maps), the reason of each unreadable image, and the seconds."""
    start = time.perf_counter()
    answers, unreadable = [], {}
    with Predictor(model) as predictor:
        results = predictor.run(manifest.path(row) for row in manifest)
        for done, (row, result) in enumerate(zip(manifest, results, strict=True), 1):
            if isinstance(result, ImageError):
                unreadable[row.image] = result.reason
            else:
                # without its maps, which would take gigabytes for a whole test part
                answers.append((row, dataclasses.replace(result, class_maps=NO_MAPS)))
            if progress:
                progress(done, len(manifest))
    return answers, unreadable, time.perf_counter() - start


def summarize_predictions(
    models: Sequence[Model],
    protocol: str,
    answers: Answers,
    relation: Relation,
    maps: Localization | None,
    data_dir: Path,
) -> Report:
    """Return the report on N answers, without skipped files and speed; `models` are those that gave them, N."""
    manifest = Manifest(data_dir, tuple(row for row, _ in answers))
    labels, probabilities = _arrays(answers)
    temperatures = np.array([model.card.temperature for model in models])
    predicted = probabilities.argmax(axis=1)
    counts = Counter(row.label for row, _ in answers)
    card, precision = models[0].card, models[0].precision
    predictions = [answer for _, answer in answers]
    return Report(
        model={
            "name": card.name,
            "version": card.version,
            "architecture": card.architecture,
            "recipe": card.recipe,
            "precision": precision,
        },
        protocol=protocol,
        excluded=0,
        fingerprint=manifest.fingerprint(),
        groups=tuple(relation.groups.tolist()),
        counts={name: counts[name] for name in CLASSES},
        measured=measure(labels, probabilities, relation.groups),
        uncalibrated=measure_calibration(labels, _without_temperature(probabilities, temperatures), relation.groups),
        confusion=tuple(map(tuple, confusion(labels, predicted).tolist())),
        decisions=selective_result(predictions, [model.card for model in models], precision, labels, relation.groups),
        subgroups=_divided(answers, relation, labels, maps),
        crossed={
            "plane": _crossed(relation.planes, [row.label for row, _ in answers]),
            "source": _crossed(relation.origins, [row.label for row, _ in answers]),
        },
        shortcuts=_shortcuts_of(manifest, labels, relation.groups),
        leakage=leakage_of(relation, predicted == labels),
        skipped={},
        images_per_second=0.0,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        package_version=__version__,
        localisation=maps,
    )


def _divided(
    answers: Answers, relation: Relation, labels: Integers, maps: Localization | None
) -> dict[str, dict[str, Subgroup]]:
    """Return how the model does on parts of the images, which are divided in several ways."""
    localized = maps.per_image if maps else {}
    shares = [localized.get(row.image) for row, _ in answers]
    parts: dict[str, Sequence[str]] = {
        "class": [row.label for row, _ in answers],
        "plane": relation.planes,
        "source": relation.origins,
        "brightness": thirds(relation.brightness),
    }
    if maps:
        parts["tumor size"] = ["" if share is None else size_class(share.area) for share in shares]
    energy = np.array([np.nan if share is None else share.energy for share in shares])
    return subgroups(parts, [answer for _, answer in answers], labels, relation.groups, energy)


def _shortcuts_of(manifest: Manifest, labels: Integers, groups: Integers) -> Shortcuts | None:
    """Return how far the files of N images give their class away; None where they are too few or have changed."""
    # the files are decoded once more here; one that changed since would not fit the predictions
    results = [result for _, result in quality(manifest, lambda done, total: None)]
    facts = [result for result in results if isinstance(result, FileFacts)]
    return shortcuts(facts, labels, groups) if len(facts) == len(results) else None


def _crossed(names: Sequence[str], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the number of images of each class for each name that is not empty."""
    counts = Counter(zip(names, labels, strict=True))
    return {name: {label: counts[name, label] for label in CLASSES} for name in sorted(set(names) - {""})}


def _without_temperature(probabilities: Floats, temperatures: Floats) -> Floats:
    """Return the probabilities (N, 4) that the same logits have before they are divided by temperatures (N,)."""
    # softmax(z) = softmax(z / t) ** t, up to a factor: no logits need to be kept; tiny, as 0 has no power to go back to
    powers = probabilities.clip(np.finfo(np.float32).tiny) ** temperatures[:, None]
    before: Floats = powers / powers.sum(axis=1, keepdims=True)
    return before


def _arrays(answers: Answers) -> tuple[Integers, Floats]:
    """Return the labels (N,) and probabilities (N, 4) of answers."""
    labels = np.array([CLASSES.index(row.label) for row, _ in answers], np.int64)
    return labels, np.array([answer.probabilities for _, answer in answers], np.float64)


def _line(answer: tuple[Row, Prediction]) -> tuple[object, ...]:
    row, prediction = answer
    return tuple((prediction.row(row.label) | {"image": row.image}).values())


def _render(
    report: Report, answers: Answers, mistakes: Sequence[Mistake], surviving: Sequence[Survivor], model: Model
) -> str:
    labels, probabilities = _arrays(answers)
    return html.page(
        "report.html",
        report=report,
        card=model.card,
        mistakes=mistakes,
        surviving=surviving,
        n_mistakes=sum(answer.predicted != row.label for row, answer in answers),
        legend=legend(),
        tumor_shares=tumor_shares(report.crossed),
        roc=Markup(plots.receiver_operating(labels, probabilities, report.measured)),
        recall=Markup(plots.precision_recall(labels, probabilities, report.measured)),
        reliability=Markup(
            plots.reliability_diagram(report.measured.reliability, before=report.uncalibrated.reliability)
        ),
        reliability_by_class=Markup(plots.class_reliability(labels, probabilities)),
        selective=Markup(plots.accuracy_coverage(labels, probabilities)),
    )
