"""Both documented models on the official split: train (or go on), evaluate, compare, and record the numbers.

Command: python benchmarks/official_reference.py
Takes: long, an hour; a minute where both models are trained.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, WEIGHTS, data_folder, number, record

RUNS = {"cnn": 50, "resnet": 30}


def main() -> None:
    """Produce `official-reference.json` and the two reports beside it."""
    data = data_folder()
    numbers: dict[str, dict[str, Any]] = {}
    for model, epochs in RUNS.items():
        folder = ROOT / "runs" / f"{model}-reference"
        if not (folder / "card.json").exists():
            subprocess.run(training(model, epochs, data, folder), cwd=ROOT, check=True)
        evaluate = [sys.executable, "-m", "braintumor", "evaluate", str(folder), str(data / "brain-tumor-mri")]
        subprocess.run(evaluate, cwd=ROOT, check=True)
        shutil.copyfile(folder / "evaluation" / "report.json", RESULTS / f"official-reference-{model}.report.json")
        numbers |= numbers_of(model, folder)
    compare = [sys.executable, "-m", "braintumor", "compare", "runs/cnn-reference", "runs/resnet-reference"]
    subprocess.run([*compare, "--out", "runs/comparison"], cwd=ROOT, check=True)
    record("official-reference", "python benchmarks/official_reference.py", numbers)


def training(model: str, epochs: int, data: Path, folder: Path) -> list[str]:
    """Return the documented command, with the offline weights for the ResNet18 and --resume where a run was stopped."""
    command = [sys.executable, "train.py", "--model", model, "--epochs", str(epochs)]
    command += ["--data_dir", str(data / "brain-tumor-mri")]
    if model == "resnet":
        command += ["--weights", str(data / WEIGHTS), "--allow_partial_weights"]
    return [*command, "--resume"] if (folder / "checkpoint" / "state.json").exists() else command


def numbers_of(model: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the numbers of one model: rates with their intervals, per-class recall, training time."""
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    card = json.loads((folder / "card.json").read_text())
    found = {f"{model}.{name}": entry | {"unit": "fraction"} for name, entry in report["metrics"].items()}
    for label, entries in report["per_class"].items():
        found[f"{model}.recall.{label}"] = entries["recall"] | {"unit": "fraction"}
    without = report["leakage"].get("accuracy_without")
    if without:
        found[f"{model}.accuracy_without_duplicates"] = without | {"unit": "fraction"}
    found[f"{model}.minutes"] = number(card["metrics"]["train_minutes"], "minutes")
    found[f"{model}.epochs"] = number(card["metrics"]["epochs"], "epochs")
    found[f"{model}.validation_macro_f1"] = number(card["metrics"]["validation"]["macro_f1"], "fraction")
    return found


if __name__ == "__main__":
    main()
