"""Where three kinds of ResNet18 look: their class maps against experts' outlines, on patients they have not seen.

`plain` averages 7 x 7 features; `finer` averages 28 x 28 features that join several stages; `guided` pools these under
weights that outlines of the training images teach, and is the model of `folds.py`. All else is the same: recipe
`best`, five patient-disjoint folds of the four-class set, pooled. Outlines of test images are used to judge alone. An
interrupted run goes on where it stopped. With names of kinds as arguments only these are measured, and the numbers
recorded before stay for the others.

Takes: long, about three hours of training.
Command: python benchmarks/localisation.py
"""

import csv
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folds import evaluated
from record import RESULTS, ROOT, WEIGHTS, data_folder, number, record

from braintumor.intervals import mean
from braintumor.models.session import OUTPUTS, open_session, usable_cores
from braintumor.training.config import TrainConfig, recipe
from braintumor.training.cross_validation import FOLDS, folds
from braintumor.training.export import export, gate_of
from braintumor.training.networks import build_network

UNGUIDED: dict[str, Any] = {"attention": False, "guidance": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {"plain": {"map_stride": 0, **UNGUIDED}, "finer": UNGUIDED, "guided": {}}
JOBS = 2
BATCH, REPEATS = 8, 20
Numbers = dict[str, dict[str, Any]]


def main() -> None:
    """Produce `localisation.json`, and the pooled reports and predictions beside it."""
    asked = sys.argv[1:] or list(VARIANTS)
    file = RESULTS / "localisation.json"
    before: Numbers = json.loads(file.read_text())["numbers"] if file.exists() else {}
    renewed = {*asked, "baseline"} if "guided" in asked else set(asked)
    numbers = {key: entry for key, entry in before.items() if key.split(".")[0] not in renewed}
    data = data_folder()
    for name in asked:
        public, reference = data / "brain-tumor-mri", data / "figshare"
        if not evaluated(folder(name)):
            folds(config(VARIANTS[name]), public, folder(name), say, jobs=JOBS, masks=reference)
        for kind in ("report.json", "predictions.csv"):
            shutil.copyfile(folder(name) / "evaluation" / kind, RESULTS / f"localisation-{name}.{kind}")
        numbers |= numbers_of(name)
    for name in ("finer", "guided"):
        if all((RESULTS / f"localisation-{each}.report.json").exists() for each in (name, "plain")):
            numbers[f"{name}_minus_plain.accuracy"] = gain(name)
    record("localisation", "python benchmarks/localisation.py", numbers | time_ratios())


def time_ratios() -> Numbers:
    """Return how long the finer networks take for a batch, logits and class maps, over the time of the plain one."""
    batch = np.random.default_rng(0).random((BATCH, 1, 224, 224), np.float32)
    with tempfile.TemporaryDirectory() as place:
        sessions = []
        for name, changes in VARIANTS.items():
            settings, file = config(changes), Path(place) / f"{name}.onnx"
            network = build_network("resnet", map_stride=settings.map_stride, attention=settings.attention).eval()
            export(network, gate_of(network, [torch.from_numpy(batch)]), 224, file)
            sessions.append(open_session(file, usable_cores()))
        times = []
        for _ in range(REPEATS + 1):
            row = []
            for session in sessions:
                began = time.perf_counter()
                session.run(OUTPUTS, {"image": batch})
                row.append(time.perf_counter() - began)
            times.append(row)
    plain, *others = np.array(times[1:]).T
    found = {}
    for name, taken in zip(list(VARIANTS)[1:], others, strict=True):
        ratios = (taken / plain).tolist()
        found[f"{name}.time_ratio"] = number(
            float(np.median(ratios)), "", low=min(ratios), high=max(ratios), n=len(ratios)
        )
    return found


def gain(name: str) -> dict[str, Any]:
    """Return by how much one kind is more accurate than `plain` on the same images, with its interval over groups."""
    right = {}
    for each in (name, "plain"):
        with (RESULTS / f"localisation-{each}.predictions.csv").open() as stream:
            right[each] = {row["image"]: row["label"] == row["predicted"] for row in csv.DictReader(stream)}
    groups = json.loads((RESULTS / f"localisation-{name}.report.json").read_text())["groups"]
    images = zip(right[name], groups, strict=True)
    pairs = [(right[name][image] - right["plain"][image], group) for image, group in images if image in right["plain"]]
    return asdict(mean(*map(np.array, zip(*pairs, strict=True)))) | {"unit": "fraction"}


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
    for ranking, rates in maps["faithfulness"].items():
        for rate, entry in rates.items():
            found[f"{name}.{rate}{'' if ranking == 'map' else '.random'}"] = entry | {"unit": "probability"}
    cards = [json.loads((folder(name) / str(fold) / "card.json").read_text()) for fold in range(FOLDS)]
    shuffled = [list(card["metrics"].get("shuffled_maps", {}).values()) for card in cards]
    if all(shuffled):
        left = [values[-1] for values in shuffled]
        found[f"{name}.shuffled_maps"] = number(sum(left) / len(left), "", low=min(left), high=max(left), n=len(left))
    minutes = [card["metrics"]["train_minutes"] for card in cards]
    found[f"{name}.minutes_per_fold"] = number(
        sum(minutes) / len(minutes), "minutes", low=min(minutes), high=max(minutes), n=len(minutes)
    )
    return found


if __name__ == "__main__":
    main()
