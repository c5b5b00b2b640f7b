"""What a model card says of a model and its report."""

import dataclasses
from pathlib import Path

import pytest

from braintumor.evaluate.report.model_card import gaps, model_card, origin, percent_with_range
from braintumor.evaluate.report.report import evaluate
from braintumor.models.session import Model

CROSSED = {
    "plane": {
        "axial": {"glioma": 50, "meningioma": 10, "pituitary": 10, "no_tumor": 99},
        "coronal": {"glioma": 50, "meningioma": 10, "pituitary": 10, "no_tumor": 1},
    },
    "source": {
        "Figshare": {"glioma": 97, "meningioma": 0, "pituitary": 0, "no_tumor": 3},
        "elsewhere": {"glioma": 3, "meningioma": 20, "pituitary": 20, "no_tumor": 97},
    },
}


@pytest.mark.slow
def test_the_card_holds_the_numbers_of_the_report(data_dir: Path, model: Model, tmp_path: Path) -> None:
    report = evaluate(model, data_dir, tmp_path / "out").to_json()
    metrics = {"parameters": 1234, "multiply_adds": 2_500_000_000, "shuffled_maps": {"head": 0.5, "100%": 0.25}}
    card = dataclasses.replace(model.card, metrics=metrics)
    page = model_card(card, report, "Tiny")
    assert page.startswith("# Tiny\n\n**Research use only. Not a medical device. Not for diagnosis.**\n")
    assert f"| accuracy | {percent_with_range(report['metrics']['accuracy'])} |" in page
    assert "| accuracy | 83.3 % (" in page
    assert "correlate 0.25 with those of the same network with shuffled weights" in page
    assert "2.50 billion multiply-adds" in page
    assert "| source: Testing | 12 | 83.3 % (" in page
    assert "| class: Glioma | 3 |" in page


def test_what_the_data_lacks_is_told_from_counts() -> None:
    result = dict(gaps({"crossed": CROSSED}))
    assert "1 of 100 slices of no tumor are of the plane coronal" in result
    assert "0 of 20 slices of meningioma are of the source Figshare" in result
    assert "97.0% of the slices from Figshare show a tumor" in result
    assert not any("glioma are of the plane" in fact for fact in result)


def test_a_rate_that_is_not_known_is_a_dash() -> None:
    assert percent_with_range(None) == percent_with_range({"value": None, "low": None, "high": None, "n": 0}) == "–"
    assert percent_with_range({"value": 0.5, "low": None, "high": None, "n": 30}) == "50.0 %"
    assert percent_with_range({"value": 1.0, "low": 0.631, "high": 1.0, "n": 8}) == "100.0 % (63.1 to 100.0) †"


def test_missing_tensors_are_counted() -> None:
    assert origin("") == "none"
    assert origin("a.safetensors (sha256 12)") == "a.safetensors (sha256 12)"
    assert (
        origin("a.safetensors (sha256 12), He-normal: x, y") == "a.safetensors (sha256 12); 2 tensors start He-normal"
    )
