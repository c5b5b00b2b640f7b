"""Both models on patients they have not seen: five patient-disjoint folds of the four-class and of the reference set.

The settings are those of the recipe `best`, chosen on a validation part (`ablation.py`) before any fold was tested. An
interrupted run goes on where it stopped; the minutes are the sums over the folds' cards, two folds trained at a time.

Takes: long, about two hours of training.
Command: python benchmarks/folds.py
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, WEIGHTS, data_folder, number, record

from braintumor.evaluate.compare import compare
from braintumor.models.session import ONNX_FILES

RUNS = {
    "folds": ("brain-tumor-mri", {"resnet": None, "cnn": None}),
    "figshare-folds": ("figshare", {"resnet": 8}),
}
JOBS = 2
FOLDS = 5


def main() -> None:
    """Produce `cross_validation.json`, `figshare-folds.json`, and the pooled reports and predictions beside them."""
    for name, (source, models) in RUNS.items():
        numbers: dict[str, dict[str, Any]] = {}
        for model, epochs in models.items():
            out = ROOT / "runs" / name / f"{model}-best"
            if not evaluated(out):
                subprocess.run(training(model, epochs, source, out), cwd=ROOT, check=True)
            for file in ("report.json", "predictions.csv"):
                shutil.copyfile(out / "evaluation" / file, RESULTS / f"{name}-{model}.{file}")
            numbers |= numbers_of(model, out)
        if len(models) == 2:
            numbers |= paired(*(ROOT / "runs" / name / f"{model}-best" for model in models))
        record(name, "python benchmarks/folds.py", numbers)


def evaluated(folder: Path) -> bool:
    """Tell whether a folder of folds holds a report with outlines that is younger than its models."""
    report = folder / "evaluation" / "report.json"
    if not report.exists() or not json.loads(report.read_text())["localisation"]:
        return False
    networks = [folder / str(fold) / ONNX_FILES["float32"] for fold in range(FOLDS)]
    return all(network.exists() and network.stat().st_mtime < report.stat().st_mtime for network in networks)


def training(model: str, epochs: int | None, source: str, out: Path) -> list[str]:
    """Return the command that trains and tests the folds of a model, taught by the outlines of the reference set."""
    data = data_folder()
    command = [sys.executable, "-m", "braintumor", "folds", str(data / source), "--model", model, "--recipe", "best"]
    command += ["--masks", str(data / "figshare"), "--out", str(out), "--jobs", str(JOBS)]
    if epochs:
        command += ["--epochs", str(epochs)]
    if model == "resnet":
        command += ["--weights", str(data / WEIGHTS), "--allow_partial_weights"]
    return command


def numbers_of(model: str, out: Path) -> dict[str, dict[str, Any]]:
    """Return the pooled numbers of one model: rates with intervals over groups, by class, plane and source, minutes."""
    report = json.loads((out / "evaluation" / "report.json").read_text())
    cards = [json.loads((out / str(fold) / "card.json").read_text()) for fold in range(FOLDS)]
    found = {f"{model}.{name}": entry | {"unit": "fraction"} for name, entry in report["metrics"].items()}
    for label, entries in report["per_class"].items():
        if entries["support"]:
            found[f"{model}.recall.{label}"] = entries["recall"] | {"unit": "fraction"}
    for way in ("plane", "source"):
        for name, part in report["subgroups"][way].items():
            found[f"{model}.per_{way}.{name.replace(' ', '_')}.accuracy"] = part["accuracy"] | {"unit": "fraction"}
    minutes = [card["metrics"]["train_minutes"] for card in cards]
    found[f"{model}.minutes_per_fold"] = number(
        sum(minutes) / len(minutes), "minutes", low=min(minutes), high=max(minutes), n=len(minutes)
    )
    found[f"{model}.groups"] = number(report["n_groups"], "groups")
    return found


def paired(first: Path, second: Path) -> dict[str, dict[str, Any]]:
    """Return the difference of two models on the same images, with its interval over groups."""
    found = compare(first, second, first.parent / "comparison")
    gain = found.accuracy_difference
    names = f"{first.name.split('-')[0]}_minus_{second.name.split('-')[0]}"
    return {
        f"{names}.accuracy": {"value": gain.value, "low": gain.low, "high": gain.high, "n": gain.n, "unit": "fraction"},
        f"{names}.mcnemar_p": number(found.mcnemar.p, "probability", n=found.n_images),
    }


if __name__ == "__main__":
    main()
