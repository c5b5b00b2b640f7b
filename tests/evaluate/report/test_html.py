import csv
from pathlib import Path

import pytest

from braintumor.evaluate.report import html
from braintumor.intervals import Estimate


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.9641, "96.4 %"), (1.0, "100.0 %"), (0.9999, "> 99.9 %"), (0.0, "0.0 %"), (0.0001, "< 0.1 %"), (None, "–")],
)
def test_a_rate_is_rounded_to_certainty_only_if_it_is_certain(fraction: float | None, text: str) -> None:
    assert html.percent(fraction).replace("\u00a0", " ") == text


def test_an_interval_is_given_in_the_unit_of_its_value() -> None:
    estimate = Estimate(0.96, 0.9512, 0.974, 10)
    assert html.span(estimate).replace("\u00a0", " ") == "95.1 to 97.4 %"
    assert html.span(estimate, 3) == "0.951 to 0.974"
    assert html.span(Estimate(0.5, None, None, 10)) == "interval unknown"


def test_numbers_from_few_images_are_marked() -> None:
    few, many = Estimate(1.0, 0.631, 1.0, 8), Estimate(1.0, 0.988, 1.0, 300)
    assert html.plain(few) == "100.0 % (63.1 to 100.0 %; only 8 images)"
    assert html.plain(Estimate(1.0, 0.025, 1.0, 1)).endswith("; only 1 image)")
    assert html.plain(many) == "100.0 % (98.8 to 100.0 %)"
    assert html.marked_span(few) == "63.1 to 100.0\u00a0%\u00a0†"
    assert html.marked_span(many, 3) == "0.988 to 1.000"


def test_json_does_not_take_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        html.write_json(tmp_path / "a.json", {"accuracy": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_tables_keep_commas_quotes_and_broken_file_names(tmp_path: Path) -> None:
    html.write_csv(tmp_path / "a.csv", ("image", "n"), [('a,"b".png', 1), ("\udcff.png", 2)])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["image", "n"], ['a,"b".png', "1"], ["\\udcff.png", "2"]]
