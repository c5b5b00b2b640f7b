"""Write reference/model-cards/: from the folds in runs/ (`make models`), and from the bundled model."""

import json
from pathlib import Path

from braintumor.evaluate.report.model_card import model_card
from braintumor.models.registry import BUNDLED, DEFAULT
from braintumor.models.session import Card

ROOT = Path(__file__).parent.parent
NAMES = {"cnn-best": "Custom CNN, recipe `best`", "resnet-best": "ResNet18, recipe `best`"}


def main() -> None:
    """Write one page per model; `FileNotFoundError` names what is missing."""
    for folder, name in NAMES.items():
        folds = ROOT / "runs" / "folds" / folder
        write(folder, name, folds / "0" / "card.json", folds / "evaluation" / "report.json")
    report = ROOT / "benchmarks" / "results" / "bundled.report.json"
    write("cnn", "The bundled model", BUNDLED / DEFAULT / "card.json", report)


def write(page: str, name: str, card: Path, report: Path) -> None:
    """Write a page from a card and a report."""
    text = model_card(Card.from_json(card.read_text()), json.loads(report.read_text()), name)
    (ROOT / "docs" / "reference" / "model-cards" / f"{page}.md").write_text(text)


if __name__ == "__main__":
    main()
