"""The model that comes with the package: the CNN of the first published fold in 8-bit integers, tested on that fold.

Its card holds what it scored on the fold's own test part, whose patients it has not seen; no other fold was looked at
to choose it. Needs `runs/folds/cnn-best` (`make models`). Writes `src/braintumor/models/bundled/cnn/`, and the
report beside the results.

Takes: long, 3 minutes with the models of `folds.py`.
Command: python benchmarks/bundle.py
"""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, data_folder, number, record

from braintumor.data.manifest import read_manifest
from braintumor.evaluate.leakage import unseen
from braintumor.evaluate.report.report import predict_images, summarize_predictions
from braintumor.files import write_text
from braintumor.models.registry import BUNDLED, DEFAULT
from braintumor.models.session import ONNX_FILES, Card, Model, load_folder

FOLD = ROOT / "runs" / "folds" / "cnn-best" / "0"
PRECISION = "int8"


def main() -> None:
    """Test the fold's model as it is shipped, then put it into the package with a card that tells the result."""
    card = Card.from_json((FOLD / "card.json").read_text())
    card = replace(
        card,
        name=DEFAULT,
        precisions={PRECISION: card.precisions[PRECISION]},
        rejection={PRECISION: card.rejection[PRECISION]},
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copyfile(FOLD / ONNX_FILES[PRECISION], folder / ONNX_FILES[PRECISION])
        write_text(folder / "card.json", card.to_json())
        report = tested_on(load_folder(folder, precision=PRECISION))
    write_text(RESULTS / "bundled.report.json", json.dumps(report, indent=2) + "\n")
    scores = {name: report["metrics"][name] for name in ("accuracy", "f1", "ece")}
    counts = {"n_images": report["n_images"], "n_groups": report["n_groups"]}
    tested = {"protocol": "one of five patient-disjoint folds", **counts, **scores, "per_class": report["per_class"]}
    target = BUNDLED / DEFAULT
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FOLD / ONNX_FILES[PRECISION], target / ONNX_FILES[PRECISION])
    write_text(target / "card.json", replace(card, metrics={**card.metrics, "tested": tested}).to_json())
    size = sum(file.stat().st_size for file in target.iterdir())
    numbers = {name: score | {"unit": "fraction"} for name, score in scores.items()}
    record("bundled", "python benchmarks/bundle.py", numbers | {"mib": number(size / 2**20, "MiB")})


def tested_on(model: Model) -> dict[str, Any]:
    """Return the report of a model on the test part of its fold, whose groups are those published."""
    data = data_folder() / "brain-tumor-mri"
    part = read_manifest(FOLD / "manifest.csv", data).part("test")
    answers, unreadable, _ = predict_images(part, model, None)
    assert not unreadable, unreadable
    return summarize_predictions([model] * len(answers), "held-out", answers, unseen(part), None, data).to_json()


if __name__ == "__main__":
    main()
