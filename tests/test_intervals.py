"""Intervals that resampling groups cannot give: exact ones of rates without spread, worked by hand and by scipy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from braintumor.classes import CLASSES
from braintumor.evaluate.metrics import measure, measure_calibration
from braintumor.intervals import (
    Estimate,
    accuracy,
    accuracy_difference,
    clopper_pearson,
    groups_among,
    interval,
    mean,
)


def alone(n: int) -> np.ndarray:
    return np.arange(n)


def confident(predicted: list[int], confidence: float = 0.9) -> np.ndarray:
    """Return probabilities (N, 4) for these classes."""
    rest = (1 - confidence) / 3
    return np.where(np.eye(4)[predicted] > 0, confidence, rest)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 8), (8, 8), (3, 8), (60, 60), (299, 300)])
def test_the_exact_interval_is_that_of_scipy(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, "exact")
    low, high = clopper_pearson(np.array(right / n), np.array(n))
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_eight_of_eight_images_are_no_proof_of_perfection() -> None:
    result = accuracy(np.ones(8, bool), alone(8))
    assert result.value == 1
    assert result.low == pytest.approx(0.025 ** (1 / 8))  # 0.6306
    assert result.high == 1
    nothing = accuracy(np.zeros(8, bool), alone(8))
    assert (nothing.low, nothing.high) == (0, pytest.approx(1 - 0.025 ** (1 / 8)))


def test_it_is_groups_that_count_not_images() -> None:
    result = accuracy(np.ones(60, bool), np.repeat(alone(6), 10))
    assert result.low == pytest.approx(0.025 ** (1 / 6))
    assert result.n == 60


def test_a_single_group_says_next_to_nothing() -> None:
    result = accuracy(np.ones(5, bool), np.zeros(5, int))
    assert (result.low, result.high) == (pytest.approx(0.025), 1)
    mixed = accuracy(np.array([True, False]), np.zeros(2, int))
    assert (mixed.low, mixed.high) == (None, None)  # how groups differ is not known at all


def test_groups_that_are_all_alike_leave_no_interval_of_zero_width() -> None:
    result = accuracy(np.array([True, False] * 4), np.repeat(alone(4), 2))
    expected = binomtest(2, 4).proportion_ci(0.95, "exact")  # as if of the four groups half were right
    assert result.value == 0.5
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_an_interval_with_spread_is_the_one_of_the_drawing() -> None:
    right = np.random.default_rng(0).random(90) < 0.8
    groups = np.repeat(alone(30), 3)
    plain = interval(lambda w: {"mean": w @ right / w.sum(axis=1)}, groups)["mean"]
    result = accuracy(right, groups)
    assert (result.low, result.high) == (float(plain[1]), float(plain[2]))


def test_where_every_answer_is_right_no_rate_has_an_interval_of_zero_width() -> None:
    labels = np.array([0] * 8 + [1] * 6 + [2] * 5 + [3] * 3)
    result = measure(labels, confident(labels.tolist()), alone(22))
    for name, n in zip(CLASSES, (8, 6, 5, 3), strict=True):
        for rate in ("precision", "recall", "f1"):
            assert result.per_class[name][rate].low == pytest.approx(0.025 ** (1 / n))
            assert result.per_class[name][rate].high == 1
        # of the pairs of an image of the class and another one, so many have no image in common
        assert result.per_class[name]["auc_roc"].low == pytest.approx(0.025 ** (1 / n))
        assert result.per_class[name]["auc_pr"].low == pytest.approx(0.025 ** (1 / n))
    ends = [0.025 ** (1 / n) for n in (8, 6, 5, 3)]
    for rate in ("precision", "recall", "f1", "auc_roc", "auc_pr"):
        assert result.overall[rate].low == pytest.approx(np.mean(ends))
    assert result.overall["accuracy"].low == pytest.approx(0.025 ** (1 / 22))
    assert result.overall["aurc"].high == pytest.approx(1 - 0.025 ** (1 / 22))
    assert result.overall["accuracy_at_90_coverage"].low == pytest.approx(0.025 ** (1 / 22))  # all are equally sure


def test_the_surest_images_are_counted_in_the_groups_they_lie_in() -> None:
    labels = np.zeros(20, int)
    probabilities = np.stack([confident([0], 0.5 + c / 50)[0] for c in range(20)])
    probabilities[0] = confident([1], 0.5)[0]  # the least sure answer is wrong
    result = measure(labels, probabilities, alone(20))
    assert result.overall["accuracy_at_90_coverage"].value == 1
    # some drawings hold the wrong image so often that it is among the surest 90 %: the interval is theirs
    assert result.overall["accuracy_at_90_coverage"].low < 1
    assert result.overall["accuracy"].value == 0.95


def test_a_class_that_is_never_answered_has_no_interval_of_precision() -> None:
    labels = np.array([0] * 6 + [1] * 6)
    result = measure(labels, confident([0] * 12), alone(12))
    precision, f1 = result.per_class["meningioma"]["precision"], result.per_class["meningioma"]["f1"]
    assert (precision.value, precision.low, precision.high) == (0, None, None)
    assert (f1.low, f1.high) == (0, pytest.approx(1 - 0.025 ** (1 / 6)))


def test_no_bin_of_the_reliability_diagram_has_an_interval_of_zero_width() -> None:
    labels, probabilities = np.zeros(30, int), np.stack([confident([0], 0.5 + c / 90)[0] for c in range(30)])
    for bins in (measure(labels, probabilities, alone(30)), measure_calibration(labels, probabilities, alone(30))):
        for reliability_bin in bins.reliability:  # two images each
            assert (reliability_bin.accuracy.value, reliability_bin.accuracy.high) == pytest.approx((1, 1))
            assert reliability_bin.accuracy.low == pytest.approx(0.025 ** (1 / 2))


def test_what_is_no_rate_has_no_interval_without_spread() -> None:
    result = measure(np.array([0, 0, 1, 1]), confident([0, 0, 1, 1]), alone(4))
    for name in ("brier", "nll"):
        assert result.overall[name].value is not None
        assert (result.overall[name].low, result.overall[name].high) == (None, None)
    sizes = mean(np.array([2.0, 2.0, 2.0]), alone(3))
    assert (sizes.value, sizes.low, sizes.high) == (2, None, None)


def test_two_models_that_are_right_on_the_same_images_may_still_differ() -> None:
    right = np.array([True] * 9 + [False])
    result = accuracy_difference(right, right, alone(10))
    most = 1 - 0.025 ** (1 / 10)
    assert (result.value, result.low, result.high) == (0, pytest.approx(-most), pytest.approx(most))
    better = accuracy_difference(np.ones(10, bool), np.zeros(10, bool), alone(10))
    assert (better.value, better.low, better.high) == (1, pytest.approx(0.025 ** (1 / 10)), 1)
    worse = accuracy_difference(np.zeros(10, bool), np.ones(10, bool), alone(10))
    assert (worse.low, worse.high) == (-1, pytest.approx(-(0.025 ** (1 / 10))))


def test_groups_are_counted_once_however_many_of_their_images_are_chosen() -> None:
    groups = np.array([7, 7, 7, 3, 3, 9])
    assert groups_among(np.array([True, True, False, False, True, False]), groups) == 2
    chosen = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [1, 0], [1, 1]], bool)
    assert groups_among(chosen, groups).tolist() == [3, 1]


def test_fewer_than_thirty_images_are_few() -> None:
    assert Estimate(1.0, 0.9, 1.0, 29).few
    assert not Estimate(1.0, 0.9, 1.0, 30).few
    assert Estimate.of({"value": 1.0, "low": 0.9, "high": 1.0, "n": 29}) == Estimate(1.0, 0.9, 1.0, 29)  # an old report
    assert not Estimate.of({"value": 1.0, "low": 0.9, "high": 1.0, "n": 30, "few": False}).few
