"""Write model-cards/ again, from the models of the folds in runs/ (`make models`) and their pooled reports."""

import json
from pathlib import Path

from braintumor.evaluate.model_card import model_card
from braintumor.model import Card

ROOT = Path(__file__).parent.parent
NAMES = {"cnn-best": "Custom CNN, recipe `best`", "resnet-best": "ResNet18, recipe `best`"}


def main() -> None:
    """Write one page per model; `FileNotFoundError` names what is missing."""
    for folder, name in NAMES.items():
        folds = ROOT / "runs" / "folds" / folder
        report = json.loads((folds / "evaluation" / "report.json").read_text())
        card = Card.from_json((folds / "0" / "card.json").read_text())
        page = ROOT / "docs" / "model-cards" / f"{folder}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(model_card(card, report, name))


if __name__ == "__main__":
    main()
