"""Where three kinds of ResNet18 look: their class maps against experts' outlines, on patients they have not seen.

`plain` averages 7 x 7 features; `finer` averages 28 x 28 features that join several stages; `guided` pools these under
weights that outlines of the training images teach, and is the model of `folds.py`. All else is the same: recipe
`best`, five patient-disjoint folds of the four-class set, pooled. Outlines of test images are used to judge alone. An
interrupted run goes on where it stopped.

Takes: long, about three hours of training.
Command: python benchmarks/localisation.py
"""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, WEIGHTS, data_folder, number, record

from braintumor.evaluate.compare import compare
from braintumor.training.folds import FOLDS, folds
from braintumor.training.recipe import TrainConfig, recipe

UNGUIDED: dict[str, Any] = {"attention": False, "guidance": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {"plain": {"map_stride": 0, **UNGUIDED}, "finer": UNGUIDED, "guided": {}}
JOBS = 2
Numbers = dict[str, dict[str, Any]]


def main() -> None:
    """Produce `localisation.json`, and the pooled reports beside it."""
    data = data_folder()
    numbers: Numbers = {}
    for name, changes in VARIANTS.items():
        public, reference = data / "brain-tumor-mri", data / "figshare"
        folds(config(changes), public, folder(name), say, jobs=JOBS, masks=reference)
        shutil.copyfile(folder(name) / "evaluation" / "report.json", RESULTS / f"localisation-{name}.report.json")
        numbers |= numbers_of(name)
    for name in ("finer", "guided"):
        gain = compare(folder(name), folder("plain"), folder(name) / "comparison").accuracy_difference
        numbers[f"{name}_minus_plain.accuracy"] = asdict(gain) | {"unit": "fraction"}
    record("localisation", "python benchmarks/localisation.py", numbers)


def config(changes: dict[str, Any]) -> TrainConfig:
    """Return the settings of a variant."""
    data = data_folder()
    best = replace(recipe("best", "resnet"), weights=str(data / WEIGHTS), allow_partial_weights=True)
    return replace(best, **changes) if changes else replace(best, masks=str(data / "figshare"))


def folder(name: str) -> Path:
    """Return the folder of a variant's folds; those of `guided` are the ones that `folds.py` trains."""
    return ROOT / "runs" / "folds" / ("resnet-best" if name == "guided" else f"resnet-{name}")


def say(line: str) -> None:
    """Write a line to the standard error."""
    print(line, file=sys.stderr, flush=True)


def numbers_of(name: str) -> Numbers:
    """Return the numbers of one variant: accuracy, rates of its maps by class and tumor size, baselines, minutes."""
    report = json.loads((folder(name) / "evaluation" / "report.json").read_text())
    found = {f"{name}.accuracy": report["metrics"]["accuracy"] | {"unit": "fraction"}}
    maps = report["localisation"]
    parts = {"": maps["overall"], **maps["per_class"], **maps["per_size"]}
    for part, rates in parts.items():
        for rate, entry in rates.items():
            found[".".join(filter(None, (name, part, rate)))] = entry | {"unit": "fraction"}
    flips = maps["overall"]["flip"]["value"] - maps["overall"]["flip_control"]["value"]
    found[f"{name}.flip_minus_control"] = number(flips, "fraction", n=maps["overall"]["flip"]["n"])
    found[f"{name}.iou_threshold"] = number(maps["threshold"], "fraction")
    if name == "guided":
        for baseline, rates in maps["baselines"].items():
            for rate, entry in rates.items():
                found[f"baseline.{baseline}.{rate}"] = entry | {"unit": "fraction"}
    cards = [json.loads((folder(name) / str(fold) / "card.json").read_text()) for fold in range(FOLDS)]
    minutes = [card["metrics"]["train_minutes"] for card in cards]
    found[f"{name}.minutes_per_fold"] = number(
        sum(minutes) / len(minutes), "minutes", low=min(minutes), high=max(minutes), n=len(minutes)
    )
    return found


if __name__ == "__main__":
    main()
