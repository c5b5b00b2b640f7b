"""Both models with the recipe `best` on the official split, for comparison with what others report on it.

One run each, epochs fixed beforehand, the last one kept, first seed, no choice on the test part. It may be interrupted
and goes on. The split shares patients with training for all but a few images: these numbers say how well the set can be
remembered.
With names of models as arguments only these are measured, and the numbers recorded before stay for the others.

Takes: long, about an hour and a half of one core.
Command: python benchmarks/official_best.py
"""

import json
import shutil
import subprocess
import sys
from typing import Any

from official_reference import numbers_of
from record import RESULTS, ROOT, WEIGHTS, data_folder, record

EPOCHS = {"resnet": 30, "cnn": 80}


def main() -> None:
    """Produce `official-best.json` and the reports beside it."""
    data, asked = data_folder(), sys.argv[1:] or list(EPOCHS)
    file = RESULTS / "official-best.json"
    before = json.loads(file.read_text())["numbers"] if file.exists() else {}
    numbers: dict[str, dict[str, Any]] = {key: entry for key, entry in before.items() if key.split(".")[0] not in asked}
    for model in asked:
        epochs = EPOCHS[model]
        folder = ROOT / "runs" / f"{model}-best"
        if not (folder / "card.json").exists():
            command = [sys.executable, "train.py", "--model", model, "--recipe", "best", "--epochs", str(epochs)]
            command += ["--keep_last"]
            command += ["--data_dir", str(data / "brain-tumor-mri"), "--out", str(folder)]
            command += ["--masks", str(data / "figshare")]
            if model == "resnet":
                command += ["--weights", str(data / WEIGHTS), "--allow_partial_weights"]
            unfinished = (folder / "checkpoint" / "state.json").exists()
            subprocess.run([*command, "--resume"] if unfinished else command, cwd=ROOT, check=True)
        evaluate = [sys.executable, "-m", "braintumor", "evaluate", str(folder), str(data / "brain-tumor-mri")]
        subprocess.run(evaluate, cwd=ROOT, check=True)
        shutil.copyfile(folder / "evaluation" / "report.json", RESULTS / f"official-best-{model}.report.json")
        numbers |= numbers_of(model, folder)
    record("official-best", "python benchmarks/official_best.py", numbers)


if __name__ == "__main__":
    main()
