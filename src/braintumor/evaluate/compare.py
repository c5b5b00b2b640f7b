"""Compare two evaluated models on the same images, with a test of whether the difference could be chance."""

import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from braintumor.classes import DISCLAIMER
from braintumor.errors import DataError
from braintumor.evaluate.report import html
from braintumor.files import write_text
from braintumor.intervals import Estimate, accuracy_difference
from braintumor.models.session import ONNX_FILES, Card, card_in
from braintumor.text import from_cell, visible

RATES = ("accuracy", "precision", "recall", "f1")
FEW = 25  # discordant pairs, below which chi-square is too rough


@dataclass(frozen=True)
class ComparedModel:
    """One of the two models.

    Attributes:
        folder: last part of the model folder's path.
        metrics: accuracy and macro precision, recall and f1.
        train_minutes: None if the card does not say.
        parameters: of the network; None if the card does not say.
        size: of the ONNX file in bytes; None if it is missing.
        images_per_second: of its evaluation.
    """

    folder: str
    name: str
    version: str
    architecture: str
    metrics: dict[str, Estimate]
    train_minutes: float | None
    parameters: int | None
    size: int | None
    images_per_second: float


@dataclass(frozen=True)
class McNemar:
    """A paired test of two models on the same images.

    Attributes:
        only_first: images on which only the first is right.
        only_second: images on which only the second is right.
        both: images on which both are right.
        neither: images on which both are wrong.
        p: two-sided chance of a difference this large between equally good models.
        test: how p was computed.
    """

    only_first: int
    only_second: int
    both: int
    neither: int
    p: float
    test: str


@dataclass(frozen=True)
class Difference:
    """An image on which the two models answer differently; the probabilities are those of their own answers."""

    image: str
    label: str
    first: str
    second: str
    p_first: float
    p_second: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        accuracy_difference: of the first minus the second, with its interval over groups.
        differences: the images on which they differ.
    """

    n_images: int
    n_groups: int
    first: ComparedModel
    second: ComparedModel
    accuracy_difference: Estimate
    mcnemar: McNemar
    differences: tuple[Difference, ...]
    disclaimer: str = DISCLAIMER

    def summary(self) -> str:
        """Return the accuracies with their intervals and the paired test, as lines."""
        test = self.mcnemar
        lines = [
            f"{side.folder}: accuracy {html.plain(side.metrics['accuracy'])}" for side in (self.first, self.second)
        ]
        only = f"only the first is right on {test.only_first:,}, only the second on {test.only_second:,}"
        last = f"of {self.n_images:,} images {only}; McNemar p = {test.p:.2g} ({test.test})"
        return "\n".join(map(visible, (*lines, last)))


@dataclass(frozen=True)
class Evaluation:
    """The report and predictions that `evaluate` or `folds` wrote into a folder; of folds with the first model."""

    folder: Path
    model: Path
    card: Card
    report: dict[str, Any]
    rows: list[dict[str, str]]

    def right(self) -> NDArray[np.bool_]:
        """Return (N,) whether each answer is right."""
        return np.array([row["predicted"] == row["label"] for row in self.rows])


def compare(first: Path, second: Path, out: Path) -> Comparison:
    """Return the comparison of two model folders that were evaluated on the same images, after writing it.

    Args:
        first: a model folder with an `evaluation` folder in it, as `evaluate` leaves it by default, or one of `folds`.
        second: another.
        out: where to write `compare.json` and `compare.html`.

    Raises:
        DataError: a model has not been evaluated, or on other images.
        ModelError: a card that cannot be used.
        StorageError: the files cannot be written.
    """
    a, b = _read_evaluation(Path(first)), _read_evaluation(Path(second))
    _check_same_images(a, b)
    groups = np.array(a.report["groups"], np.int64)
    comparison = Comparison(
        n_images=len(a.rows),
        n_groups=a.report["n_groups"],
        first=_side(a),
        second=_side(b),
        accuracy_difference=accuracy_difference(a.right(), b.right(), groups),
        mcnemar=mcnemar(a.right(), b.right()),
        differences=tuple(
            Difference(
                image=p["image"],
                label=p["label"],
                first=p["predicted"],
                second=q["predicted"],
                p_first=_probability(p),
                p_second=_probability(q),
            )
            for p, q in zip(a.rows, b.rows, strict=True)
            if p["predicted"] != q["predicted"]
        ),
    )
    html.write_json(out / "compare.json", dataclasses.asdict(comparison))
    write_text(out / "compare.html", html.page("compare.html", comparison=comparison))
    return comparison


def _read_evaluation(folder: Path) -> Evaluation:
    """Return the evaluation in a model folder.

    Raises:
        DataError: it is missing, or was not written by `evaluate`.
        ModelError: the card is not usable.
    """
    evaluation_folder = folder / "evaluation"
    # `folds` writes one model folder per fold, named by its number
    model = folder / "0" if (folder / "0" / "card.json").is_file() else folder
    try:
        card = card_in(model)
        report = json.loads((evaluation_folder / "report.json").read_text(encoding="utf-8"))
        with (evaluation_folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
            rows = [{name: from_cell(cell or "") for name, cell in row.items() if name} for row in csv.DictReader(file)]
        # the two files may come from different runs, one of which was interrupted
        complete = len(rows) == len(report["groups"]) > 0 and {"fingerprint", "metrics"} <= set(report)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; run: {_command(folder)}") from error
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{evaluation_folder} cannot be used ({error}); run again: {_command(folder)}") from error
    if not complete:
        raise DataError(
            f"report.json and predictions.csv in {evaluation_folder} do not fit together; run again: {_command(folder)}"
        )
    return Evaluation(folder=folder, model=model, card=card, report=report, rows=rows)


def _command(*folders: Path) -> str:
    return " && ".join(f"braintumor evaluate {folder} DATA_DIR" for folder in folders)


def _check_same_images(a: Evaluation, b: Evaluation) -> None:
    """Refuse evaluations of other images, labels or groups.

    Raises:
        DataError: with the commands to run.
    """
    # in the same order, too: the answers are compared line by line
    images = [[(row["image"], row["label"]) for row in evaluation.rows] for evaluation in (a, b)]
    if a.report["fingerprint"] != b.report["fingerprint"] or images[0] != images[1]:
        raise DataError(
            f"{a.folder} was evaluated on {len(a.rows)} images and {b.folder} on {len(b.rows)}, not all of them the "
            f"same; evaluate both on one data folder: {_command(a.folder, b.folder)}"
        )


def _side(evaluation: Evaluation) -> ComparedModel:
    """Return what the table says about one model."""
    card, report = evaluation.card, evaluation.report
    # always the float32 file, so that two models compare, whatever precision was evaluated
    network = evaluation.model / ONNX_FILES["float32"]
    return ComparedModel(
        folder=evaluation.folder.name,
        name=card.name,
        version=card.version,
        architecture=card.architecture,
        metrics={name: Estimate.of(report["metrics"][name]) for name in RATES},
        train_minutes=card.metrics.get("train_minutes"),
        parameters=card.metrics.get("parameters"),
        size=network.stat().st_size if network.is_file() else None,
        images_per_second=report["images_per_second"],
    )


def _probability(row: dict[str, str]) -> float:
    """Return the probability of the predicted class in a row of predictions.csv."""
    return float(row[f"p_{row['predicted']}"])


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Return McNemar's test on whether (N,) paired answers are right; images count as independent.

    With fewer than 25 discordant pairs exact binomial, else chi-square with one degree and continuity correction.

    Source: McNemar (1947), doi 10.1007/BF02295996; Edwards (1948), doi 10.1007/BF02289261, for the correction.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    if discordant < FEW:
        # binomtest refuses n = 0: models that never disagree in being right do not differ
        p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
        test = "exact binomial"
    else:
        # the correction must not turn a difference of 0 into one of 1
        statistic = max(0, abs(only_first - only_second) - 1) ** 2 / discordant
        p, test = float(stats.chi2.sf(statistic, df=1)), "chi-square with continuity correction"
    return McNemar(
        only_first=only_first,
        only_second=only_second,
        both=int((first & second).sum()),
        neither=int((~first & ~second).sum()),
        p=p,
        test=test,
    )
