import re

import numpy as np
import pytest

from braintumor.evaluate.metrics import measure
from braintumor.evaluate.report import plots


@pytest.fixture
def drawn() -> list[str]:
    """Return the three charts of answers without an image of class no_tumor."""
    return draw()


def draw() -> list[str]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    probabilities = random.dirichlet(np.ones(4), 60)
    result = measure(labels, probabilities, np.arange(60), resamples=20)
    return [
        plots.receiver_operating(labels, probabilities, result),
        plots.precision_recall(labels, probabilities, result),
        plots.reliability_diagram(result.reliability),
    ]


def test_charts_take_their_colours_from_the_page(drawn: list[str]) -> None:
    for chart in drawn:
        assert "var(--ink)" in chart
        assert not re.search(r"#0[0-9a-f]{5};", chart)
    assert "var(--no-tumor)" in drawn[0]
    assert "var(--accent)" in drawn[2]


def test_charts_name_no_address_and_no_style_of_their_own(drawn: list[str]) -> None:
    for chart in drawn:
        assert "http" not in chart
        assert "<style" not in chart
        assert "font-family" not in chart
        assert chart.startswith('<svg role="img" aria-label="')


def test_charts_share_no_id(drawn: list[str]) -> None:
    names = [name for chart in drawn for name in set(re.findall(r' id="([^"]+)"', chart))]
    assert names
    assert len(names) == len(set(names))


def test_a_class_without_images_is_named_without_an_area(drawn: list[str]) -> None:
    assert "No tumor –" in drawn[0]
    assert re.search(r"Glioma 0\.\d{3}<", drawn[0])


def test_the_same_answers_give_the_same_charts(drawn: list[str]) -> None:
    assert draw() == drawn
