import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from braintumor.errors import DataError, ModelError
from braintumor.evaluate.compare import compare, mcnemar
from braintumor.evaluate.report.report import evaluate
from braintumor.models.session import load_folder

from .conftest import make_data, make_model, make_trained


def paired(only_first: int, only_second: int, both: int = 3, neither: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return whether two models are right, with so many images of each kind."""
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * neither
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * neither
    return np.array(first), np.array(second)


@pytest.mark.parametrize(("b", "c"), [(1, 7), (7, 1), (12, 12), (0, 0), (0, 5), (20, 4)])
def test_few_discordant_images_are_judged_by_the_exact_binomial(b: int, c: int) -> None:
    comparison = mcnemar(*paired(b, c))
    assert (comparison.only_first, comparison.only_second, comparison.both, comparison.neither) == (b, c, 3, 2)
    assert comparison.p == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1.0)
    assert comparison.test == "exact binomial"


def test_the_exact_binomial_worked_out_by_hand() -> None:
    assert mcnemar(*paired(1, 7)).p == 2 * (1 + 8) / 2**8


def test_many_discordant_images_are_judged_by_chi_square() -> None:
    comparison = mcnemar(*paired(10, 30))
    assert comparison.p == pytest.approx(chi2.sf(19**2 / 40, 1))
    assert comparison.test == "chi-square with continuity correction"
    assert mcnemar(*paired(20, 20)).p == 1


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two evaluated models, `tiny` and `other`, which tests copy."""
    folder = tmp_path_factory.mktemp("evaluated")
    data = make_data(folder / "data")
    card = {"name": "<i>other", "metrics": {"train_minutes": 12.5, "parameters": 1_310_000}}
    other = make_model(folder / "other", confuse=("glioma", "pituitary"), **card)
    for model in (make_trained(folder / "tiny", data), other):
        evaluate(model, data, model.folder / "evaluation")
    return folder


@pytest.fixture
def pair(evaluated: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return the model that is right on 10 of 12 and one that takes glioma for pituitary and the other way round."""
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    return tmp_path / "tiny", tmp_path / "other"


def test_two_models_side_by_side(pair: tuple[Path, Path], tmp_path: Path) -> None:
    comparison = compare(*pair, tmp_path / "out")
    assert comparison.n_images == 12
    assert (comparison.first.metrics["accuracy"].value, comparison.second.metrics["accuracy"].value) == pytest.approx(
        (10 / 12, 5 / 12)
    )
    assert (comparison.mcnemar.only_first, comparison.mcnemar.only_second, comparison.mcnemar.neither) == (5, 0, 2)
    assert comparison.mcnemar.p == 2 / 2**5
    assert comparison.accuracy_difference.value == pytest.approx(5 / 12)
    assert comparison.accuracy_difference.low is not None
    assert 0 < comparison.accuracy_difference.low < 5 / 12
    assert (comparison.first.train_minutes, comparison.second.train_minutes) == (None, 12.5)
    assert comparison.second.size == (pair[1] / "model.onnx").stat().st_size
    differing = {(d.image, d.first, d.second) for d in comparison.differences}
    assert len(differing) == 6
    assert ("Testing/notumor/2.png", "glioma", "pituitary") in differing
    assert all(d.p_first > 0.25 and d.p_second > 0.25 for d in comparison.differences)


def test_the_summary_names_both_and_the_test(pair: tuple[Path, Path], tmp_path: Path) -> None:
    lines = compare(*pair, tmp_path / "out").summary().splitlines()
    assert lines[0].startswith("tiny: accuracy 83.3 % (")
    assert lines[1].startswith("other: accuracy 41.7 % (")
    expected = "of 12 images only the first is right on 5, only the second on 0; McNemar p = 0.062 (exact binomial)"
    assert lines[2:] == [expected]


def test_the_comparison_is_saved_as_json_and_page(pair: tuple[Path, Path], tmp_path: Path) -> None:
    compare(*pair, tmp_path / "out")
    saved = json.loads((tmp_path / "out/compare.json").read_text())
    assert saved["second"]["parameters"] == 1_310_000
    assert saved["mcnemar"]["only_first"] == 5
    page = (tmp_path / "out/compare.html").read_text()
    assert "<td>–</td><td>12.5 min</td>" in page
    assert "<td>–</td><td>1,310,000</td>" in page
    assert "&lt;i&gt;other" in page
    assert "<i>other" not in page
    assert "http" not in page.replace('http-equiv="Content', "")


def test_models_of_the_same_name_are_told_apart_by_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(pair[0], tmp_path / "twin")
    compare(pair[0], tmp_path / "twin", tmp_path / "out")
    page = (tmp_path / "out/compare.html").read_text()
    assert "<h1>tiny 1 (tiny) and tiny 1 (twin) compared</h1>" in page
    assert "cannot be told apart" in page


@pytest.mark.slow
def test_models_on_other_images_are_not_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "data/Testing/notumor/0.png").unlink()
    evaluate(load_folder(pair[0]), tmp_path / "data", pair[0] / "evaluation")
    with pytest.raises(
        DataError, match=r"on 11 images .* on 12.*braintumor evaluate .*tiny DATA_DIR && braintumor evaluate"
    ):
        compare(*pair, tmp_path / "out")


def test_a_model_that_was_not_evaluated_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.rmtree(pair[1] / "evaluation")
    with pytest.raises(DataError, match=r"report\.json is missing; run: braintumor evaluate .*other DATA_DIR"):
        compare(*pair, tmp_path / "out")


def test_a_damaged_report_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for content in ("{", "[]", '{"groups": []}', '{"groups": [1, 2]}', "null"):
        (pair[0] / "evaluation/report.json").write_text(content)
        with pytest.raises(DataError, match="run again: braintumor evaluate"):
            compare(*pair, tmp_path / "out")


def test_a_damaged_card_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (pair[0] / "card.json").write_text("{")
    with pytest.raises(ModelError, match=r"card\.json"):
        compare(*pair, tmp_path / "out")


def test_the_models_of_folds_are_compared_by_their_pooled_answers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folds = []
    for number, folder in enumerate(pair):
        folds.append(tmp_path / f"folds-{number}")
        shutil.copytree(folder / "evaluation", folds[-1] / "evaluation")
        shutil.copytree(folder, folds[-1] / "0", ignore=shutil.ignore_patterns("evaluation"))
    comparison, expected = compare(*folds, tmp_path / "out"), compare(*pair, tmp_path / "out")
    assert comparison.mcnemar == expected.mcnemar
    assert comparison.second.parameters == 1_310_000
    assert comparison.first.size == expected.first.size
