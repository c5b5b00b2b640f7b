"""What is counted of withheld answers, and how images are divided."""

from dataclasses import replace

import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.evaluate.selective import selective_result, subgroups, thirds, tumor_shares
from braintumor.models.preprocess import Preprocess
from braintumor.models.referral import Referral
from braintumor.models.session import Card
from braintumor.predictor import Prediction
from tests.referrals import OUT_OF_DISTRIBUTION, SATURATED, uncertain

CARD = Card("a", "1", "cnn", Preprocess(64), 1.0, "1")
POINTS = [{"coverage": coverage, "confidence": 0.0, "error": 0.1} for coverage in (1.0, 0.95)]
SETS = {"0.1": [0.5, 0.5, 0.5, 0.5], "0.2": [0.1, 0.1, 0.1, 0.1]}
GROUPS = np.arange(4)
LABELS = np.array([0, 0, 1, 3])


def answer(best: int, share: float, *reasons: Referral) -> Prediction:
    shares = np.full(4, (1 - share) / 3, np.float32)
    shares[best] = share
    name = CLASSES[best]
    maps = np.empty((4, 0, 0), np.float32)
    return Prediction("x", shares, name, "refer" if reasons else name, tuple(reasons), maps, "a 1", 1.0)


ANSWERS = [
    answer(0, 0.9),
    answer(1, 0.6, uncertain("meningioma", "glioma")),
    answer(1, 0.8, SATURATED, OUT_OF_DISTRIBUTION),
    answer(0, 0.7),
]


def test_shares_worked_by_hand() -> None:
    result = selective_result(ANSWERS, [CARD] * 4, "float32", LABELS, GROUPS)
    assert result.answered.value == 0.5
    assert result.accuracy is not None
    assert (result.accuracy.value, result.accuracy.n) == (0.5, 2)
    shares = (result.refused.value, result.uncertain.value, result.quality.value)
    assert shares == (0.25, 0.25, 0.25)
    assert result.sets == {}
    nothing = selective_result([ANSWERS[1]], [CARD], "float32", LABELS[:1], GROUPS[:1])
    assert (nothing.answered.value, nothing.accuracy) == (0.0, None)


def test_prediction_sets_are_those_of_the_model_that_answered() -> None:
    entry = {"ood_threshold": 2.0, "far_ood_threshold": 4.0, "points": POINTS, "sets": SETS}
    strict = replace(CARD, rejection={"float32": entry})
    loose = replace(CARD, rejection={"float32": {**entry, "sets": {"0.1": [1.0] * 4}}})
    result = selective_result(ANSWERS, [strict, strict, strict, loose], "float32", LABELS, GROUPS).sets
    assert list(result) == ["0.1"]  # the only error that both cards know
    sets = result["0.1"]
    assert sets.coverage.value == 0.75  # the second answer names meningioma alone
    assert {name: share.value for name, share in sets.per_class.items()} == {
        "glioma": 0.5,
        "meningioma": 1.0,
        "no_tumor": 1.0,
    }
    assert sets.size.value == (1 + 1 + 1 + 4) / 4


def test_parts_are_counted_apart() -> None:
    energy = np.array([0.5, np.nan, 0.25, np.nan])
    result = subgroups({"plane": ["axial", "axial", "", "coronal"]}, ANSWERS, LABELS, GROUPS, energy)["plane"]
    assert list(result) == ["axial", "coronal"]
    axial = result["axial"]
    assert (axial.accuracy.value, axial.referred.value, axial.refused.value, axial.ece) == (0.5, 0.5, 0.0, None)
    assert axial.energy is not None
    assert (axial.energy.value, axial.energy.n) == (0.5, 1)
    assert result["coronal"].energy is None


def test_parts_differ_in_their_tumors_by_their_counts() -> None:
    even = dict.fromkeys(CLASSES, 1)
    crossed = {
        "plane": {"axial": even | {"no_tumor": 7}, "coronal": even},  # 3 tumors of 10, 3 of 4
        "source": {"here": even, "there": even},
        "scanner": {},
    }
    assert tumor_shares(crossed) == {"plane": {"axial": pytest.approx(0.3), "coronal": pytest.approx(0.75)}}


def test_no_share_of_four_images_is_certain() -> None:
    result = selective_result(ANSWERS[:1] * 4, [CARD] * 4, "float32", np.zeros(4, np.int64), GROUPS)
    assert (result.answered.value, result.answered.low) == (1, pytest.approx(0.025 ** (1 / 4)))
    assert (result.refused.value, result.refused.high) == (0, pytest.approx(1 - 0.025 ** (1 / 4)))
    assert result.answered.few


def test_thirds_are_equally_large() -> None:
    result = thirds(np.arange(9.0)[::-1])
    assert result == ["bright"] * 3 + ["middle"] * 3 + ["dark"] * 3
    assert set(thirds(np.full(5, 0.3))) <= {"dark", "middle", "bright"}


def test_calibration_needs_enough_images() -> None:
    many = [answer(0, 0.9)] * 30
    result = subgroups({"class": ["glioma"] * 30}, many, np.zeros(30, np.int64), np.arange(30), np.full(30, np.nan))
    ece = result["class"]["glioma"].ece
    assert ece is not None
    assert ece.value == pytest.approx(0.1, abs=1e-6)
