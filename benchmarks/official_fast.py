"""Both models with the recipe `fast` on the official split: a quick run and the best one in the time of `reference`.

Every run is the only one of its kind: epochs fixed beforehand, first seed. The minutes of a quick run are those of the
whole command, from the start of the process with an empty cache to the finished model folder. The best runs may be
interrupted and go on; their minutes are those of the card.

Takes: long, about an hour and a half of training.
Command: python benchmarks/official_fast.py
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from official_reference import numbers_of
from record import RESULTS, ROOT, WEIGHTS, data_folder, record

from braintumor.files import write_text

EPOCHS = {"cnn": {"quick": 24, "best": 130}, "resnet": {"quick": 12, "best": 44}}


def main() -> None:
    """Produce `official-fast.json` and the four reports beside it."""
    data = data_folder()
    numbers: dict[str, dict[str, Any]] = {}
    for kind in ("quick", "best"):
        for model, epochs in EPOCHS.items():
            folder = ROOT / "runs" / (f"{model}-fast" if kind == "best" else f"{model}-fast-quick")
            command = training(model, epochs[kind], data, folder)
            if not (folder / "card.json").exists():
                quick(command, folder) if kind == "quick" else best(command, folder)
            evaluate = [sys.executable, "-m", "braintumor", "evaluate", str(folder), str(data / "brain-tumor-mri")]
            subprocess.run(evaluate, cwd=ROOT, check=True)
            shutil.copyfile(
                folder / "evaluation" / "report.json", RESULTS / f"official-fast-{model}-{kind}.report.json"
            )
            found = numbers_of(model, folder)
            if kind == "quick":
                found[f"{model}.minutes"]["value"] = json.loads((folder / "whole-command.json").read_text())["minutes"]
            numbers |= {key.replace(model, f"{model}.{kind}", 1): value for key, value in found.items()}
    record("official-fast", "python benchmarks/official_fast.py", numbers)


def training(model: str, epochs: int, data: Path, folder: Path) -> list[str]:
    """Return the command that trains a model with the recipe."""
    command = [sys.executable, "train.py", "--model", model, "--recipe", "fast", "--epochs", str(epochs)]
    command += ["--data_dir", str(data / "brain-tumor-mri"), "--out", str(folder)]
    if model == "resnet":
        command += ["--weights", str(data / WEIGHTS), "--allow_partial_weights"]
    return command


def quick(command: list[str], folder: Path) -> None:
    """Train in one go with an empty cache and note the minutes of the whole command; what is unfinished goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=os.environ | {"BRAINTUMOR_CACHE": cache}, check=True)
        minutes = (time.perf_counter() - began) / 60
    write_text(folder / "whole-command.json", json.dumps({"minutes": round(minutes, 2)}))


def best(command: list[str], folder: Path) -> None:
    """Train, going on where an earlier sitting stopped."""
    unfinished = (folder / "checkpoint" / "state.json").exists()
    subprocess.run([*command, "--resume"] if unfinished else command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
