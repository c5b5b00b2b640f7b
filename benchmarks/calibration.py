"""Whether probabilities mean what they say on patients the models have not seen, and what is gained by referring.

The pooled answers of the folds' models, with temperatures, operating points and prediction sets from each fold's own
validation slices. Unprefixed numbers are those of the ResNet18, `cnn.` those of the CNN. `uncalibrated` is without the
temperature. `int8` compares what the 8-bit variants decide with what the models decide, both with their own
thresholds; it is written here where it is missing.

Takes: long, ten minutes with the models of `folds.py`.
Command: python benchmarks/calibration.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from record import ROOT, data_folder, number, record

from braintumor.data.manifest import read_manifest
from braintumor.evaluate.selective import KINDS
from braintumor.intervals import mean
from braintumor.models.session import load_folder
from braintumor.predictor import Prediction, predict
from braintumor.training.quantization import quantize

FOLDS: Final = 5
METRICS: Final = ("ece", "brier", "nll", "aurc", "accuracy_at_95_coverage", "accuracy_at_90_coverage")
Numbers = dict[str, dict[str, Any]]


def main() -> None:
    """Produce `calibration.json`."""
    numbers: Numbers = {}
    for prefix, name in (("", "resnet-best"), ("cnn.", "cnn-best")):
        folder = ROOT / "runs" / "folds" / name
        numbers |= {prefix + key: entry for key, entry in [*reported(folder), *compared(folder)]}
    record("calibration", "python benchmarks/calibration.py", numbers)


def reported(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the numbers in the pooled report of folds."""
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    for name in METRICS:
        unit = "nats" if name == "nll" else "fraction"
        yield name, report["metrics"][name] | {"unit": unit}
        if name in report["uncalibrated"]:
            yield f"uncalibrated.{name}", report["uncalibrated"][name] | {"unit": unit}
    for label, part in report["subgroups"]["class"].items():
        yield f"ece.{label}", part["ece"] | {"unit": "fraction"}
    found = report["decisions"]
    for name in ("answered", "accuracy", "refused", "uncertain", "quality"):
        yield f"decisions.{name}", found[name] | {"unit": "fraction"}
    for error, sets in found["sets"].items():
        yield f"sets.{error}.coverage", sets["coverage"] | {"unit": "fraction"}
        yield f"sets.{error}.size", sets["size"] | {"unit": "classes"}
        for label, share in sets["per_class"].items():
            yield f"sets.{error}.coverage.{label}", share | {"unit": "fraction"}
    cards = [json.loads((folder / str(fold) / "card.json").read_text()) for fold in range(FOLDS)]
    heat = [card["temperature"] for card in cards]
    yield "temperature", number(sum(heat) / FOLDS, "", low=min(heat), high=max(heat), n=FOLDS)


def compared(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield how far the 8-bit variants of the folds' models agree with these."""
    data = data_folder() / "brain-tumor-mri"
    same, kinds, right, groups = [], [], [], []
    for fold in range(FOLDS):
        one = folder / str(fold)
        if "int8" not in load_folder(one).card.rejection:
            quantize(one, data)
        test = read_manifest(one / "manifest.csv", data).part("test")
        paths = [test.path(row) for row in test]
        whole, small = (predict(paths, load_folder(one, precision=precision)) for precision in ("float32", "int8"))
        same += [first.decision == second.decision for first, second in zip(whole, small, strict=True)]
        kinds += [refused(first) == refused(second) for first, second in zip(whole, small, strict=True)]
        right += [answer.predicted == row.label for answer, row in zip(small, test, strict=True)]
        groups += [fold * 100_000 + group for group in test.group_numbers()]
    members = np.array(groups)
    for name, flags in (("decision_agreement", same), ("refusal_agreement", kinds), ("accuracy", right)):
        found = mean(np.array(flags, float), members)
        yield f"int8.{name}", number(float(found.value or 0), "fraction", low=found.low, high=found.high, n=found.n)


def refused(answer: Prediction) -> bool:
    """Tell whether a slice was referred as out of distribution."""
    return any(reason.code in KINDS["refused"] for reason in answer.reasons)


if __name__ == "__main__":
    main()
