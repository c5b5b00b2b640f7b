import time

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from braintumor.classes import CLASSES
from braintumor.evaluate.metrics import confusion, curves, measure, risk_coverage, selective, statistics
from braintumor.intervals import accuracy, interval


def answers(n: int = 400, seed: int = 0, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and probabilities (n, 4) with many ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, n)
    logits = random.normal(size=(n, 4))
    logits[np.arange(n), labels] += skill
    probabilities = np.exp(logits).round(1) + 0.01
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def certain(predicted: list[int]) -> np.ndarray:
    """Return probabilities (N, 4) that are sure of these classes."""
    return np.eye(4)[predicted]


def alone(n: int) -> np.ndarray:
    return np.arange(n)


def test_weighted_statistics_equal_those_of_scikit_learn() -> None:
    labels, probabilities = answers()
    weights = np.random.default_rng(1).integers(0, 4, (3, 400)).astype(float)
    result = statistics(labels, probabilities, weights)
    for r, weight in enumerate(weights):
        predicted = probabilities.argmax(axis=1)
        given = {"sample_weight": weight}
        rates = precision_recall_fscore_support(labels, predicted, average=None, zero_division=0, **given)[:3]
        for name, expected in zip(("precision", "recall", "f1"), rates, strict=True):
            np.testing.assert_allclose(result[f"{name}_by_class"][r], expected)
            np.testing.assert_allclose(result[name][r], expected.mean())
        roc = [roc_auc_score(labels == c, probabilities[:, c], **given) for c in range(4)]
        pr = [average_precision_score(labels == c, probabilities[:, c], **given) for c in range(4)]
        np.testing.assert_allclose(result["auc_roc_by_class"][r], roc)
        np.testing.assert_allclose(result["auc_pr_by_class"][r], pr)
        np.testing.assert_allclose(result["auc_pr"][r], np.mean(pr))
        np.testing.assert_allclose(result["accuracy"][r], accuracy_score(labels, predicted, **given))
        np.testing.assert_allclose(result["nll"][r], log_loss(labels, probabilities, **given))


def test_a_weight_is_the_same_as_a_repeated_image() -> None:
    labels, probabilities = answers(200)
    weights = np.random.default_rng(2).integers(0, 4, 200)
    weighted = statistics(labels, probabilities, weights[None].astype(float))
    rows = np.random.default_rng(3).permutation(np.repeat(np.arange(200), weights))
    repeated = statistics(labels[rows], probabilities[rows], np.ones((1, len(rows))))
    for name, values in repeated.items():
        np.testing.assert_allclose(weighted[name], values, err_msg=name)


def test_rates_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    predicted = [0, 0, 1, 1, 1, 0, 3, 3]  # pituitary is never predicted
    result = measure(labels, certain(predicted), alone(8), resamples=20)
    assert result.overall["accuracy"].value == 6 / 8
    assert result.per_class["glioma"]["precision"].value == pytest.approx(2 / 3)
    assert result.per_class["glioma"]["recall"].value == pytest.approx(2 / 3)
    assert result.per_class["meningioma"]["precision"].value == pytest.approx(2 / 3)
    assert result.per_class["meningioma"]["f1"].value == pytest.approx(2 * (2 / 3) / (5 / 3))
    assert result.per_class["pituitary"]["precision"].value == 0
    assert result.per_class["pituitary"]["f1"].value == 0
    assert result.overall["precision"].value == pytest.approx((2 / 3 + 2 / 3 + 0 + 1) / 4)
    assert result.overall["brier"].value == pytest.approx(2 * 2 / 8)
    assert result.overall["nll"].value == pytest.approx(-np.log(np.finfo(np.float32).eps) * 2 / 8)
    assert result.per_class["glioma"]["recall"].n == 3
    assert result.overall["recall"].n == 8


def test_a_class_without_images_is_left_out_of_the_means() -> None:
    result = measure(np.array([0, 0, 1, 1]), certain([0, 3, 1, 1]), alone(4), resamples=50)
    absent = result.per_class["no_tumor"]["precision"]
    assert (absent.value, absent.low, absent.high, absent.n) == (None, None, None, 0)
    assert result.overall["recall"].value == pytest.approx((1 / 2 + 1) / 2)
    assert result.overall["precision"].value == 1


def test_the_roc_area_of_a_single_class_is_not_determined() -> None:
    result = measure(np.zeros(3, int), certain([0, 0, 1]), alone(3), resamples=10)
    assert result.overall["auc_roc"].value is None
    assert result.overall["auc_pr"].value == 1


def test_confusion_counts_labels_in_rows() -> None:
    labels, probabilities = answers()
    predicted = probabilities.argmax(axis=1)
    assert confusion(labels, predicted).tolist() == confusion_matrix(labels, predicted).tolist()
    assert confusion(np.array([0]), np.array([3])).tolist()[0] == [0, 0, 0, 1]


def test_curves_are_those_of_scikit_learn() -> None:
    labels, probabilities = answers()
    alarms, recall, precision = curves(labels == 2, probabilities[:, 2])
    expected = roc_curve(labels == 2, probabilities[:, 2], drop_intermediate=False)
    np.testing.assert_allclose(alarms, expected[0])
    np.testing.assert_allclose(recall, expected[1])
    assert precision[0] == 1
    assert precision[-1] == pytest.approx((labels == 2).mean())


def with_confidence(confidence: np.ndarray) -> np.ndarray:
    """Return probabilities (N, 4) for glioma with these confidences."""
    return np.stack([confidence, *[(1 - confidence) / 3] * 3], axis=1)


def test_calibration_error_of_fifteen_images_is_the_mean_gap() -> None:
    confidence = np.linspace(0.4, 0.96, 15)
    right = np.arange(15) % 3 > 0
    result = measure(np.where(right, 0, 1), with_confidence(confidence), alone(15), resamples=10)
    assert result.overall["ece"].value == pytest.approx(np.abs(confidence - right).mean())
    assert [b.confidence for b in result.reliability] == pytest.approx(list(confidence))
    assert [b.accuracy.value for b in result.reliability] == pytest.approx(right.astype(float).tolist())


def test_calibration_error_of_thirty_images_averages_pairs() -> None:
    confidence = np.linspace(0.4, 0.98, 30)
    right = np.arange(30) % 3 > 0
    gaps = np.abs((confidence - right).reshape(15, 2).mean(axis=1))
    shuffled = np.random.default_rng(0).permutation(30)
    labels, probabilities = np.where(right, 0, 1)[shuffled], with_confidence(confidence)[shuffled]
    assert measure(labels, probabilities, alone(30), resamples=10).overall["ece"].value == pytest.approx(gaps.mean())


def test_equal_confidences_make_one_bin_whatever_the_order() -> None:
    labels = np.array([0] * 70 + [1] * 30)
    probabilities = with_confidence(np.full(100, 0.7))
    assert measure(labels, probabilities, alone(100), resamples=10).overall["ece"].value == pytest.approx(0, abs=1e-12)


def test_the_interval_is_that_of_resampling_groups_one_by_one() -> None:
    right = np.random.default_rng(0).random(90) < 0.8
    groups = np.repeat(np.arange(30), 3) * 7
    result = interval(lambda w: {"a": w @ right / w.sum(axis=1)}, groups, resamples=300, seed=5)["a"]
    random, values = np.random.default_rng(5), []
    for counts in random.multinomial(30, np.full(30, 1 / 30), size=300):
        rows = np.concatenate([np.flatnonzero(groups == 7 * g) for g in np.repeat(np.arange(30), counts)])
        values.append(right[rows].mean())
    assert result[0] == right.mean()
    np.testing.assert_allclose(result[1:], np.percentile(values, [2.5, 97.5]))


def test_copies_of_an_image_in_its_group_do_not_narrow_the_interval() -> None:
    labels, probabilities = answers(150)
    once = measure(labels, probabilities, alone(150), resamples=200)
    fourfold = measure(
        np.repeat(labels, 4), np.repeat(probabilities, 4, axis=0), np.repeat(alone(150), 4), resamples=200
    )
    for name, estimate in once.overall.items():
        other = fourfold.overall[name]
        assert (other.low, other.high) == pytest.approx((estimate.low, estimate.high)), name


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(11)
    groups = np.repeat(np.arange(80), 3)
    result = [accuracy(np.repeat(random.random(80) < 0.8, 3), groups) for _ in range(300)]
    covered = np.mean([e.low <= 0.8 <= e.high for e in result])
    assert 0.90 <= covered <= 0.985
    per_image = [accuracy(np.repeat(random.random(80) < 0.8, 3), alone(240)) for _ in range(100)]
    assert np.mean([e.low <= 0.8 <= e.high for e in per_image]) < 0.88


def test_large_sets_are_resampled_in_parts_with_the_same_result() -> None:
    right = np.random.default_rng(0).random(30_000) < 0.9
    groups = np.arange(30_000) // 100
    result = accuracy(right, groups)
    draws = np.random.default_rng(0).multinomial(300, np.full(300, 1 / 300), size=1000)
    expected = np.percentile(draws @ right.reshape(300, 100).mean(axis=1) / 300, [2.5, 97.5])
    assert (result.low, result.high) == pytest.approx(tuple(expected))


def test_an_interval_holds_its_value_although_resampling_raises_the_calibration_error() -> None:
    confidence = np.repeat(np.linspace(0.5, 0.9, 5), 20)
    right = np.concatenate([np.arange(20) < 20 * c for c in np.linspace(0.5, 0.9, 5)])  # calibrated: ECE 0
    result = measure(np.where(right, 0, 1), with_confidence(confidence), alone(100)).overall["ece"]
    assert result.value == result.low == pytest.approx(0, abs=0.03)
    assert result.high is not None
    assert result.high > result.value + 0.03


def test_the_seed_decides_the_interval() -> None:
    labels, probabilities = answers(60)
    first, again, other = (measure(labels, probabilities, alone(60), resamples=50, seed=s).overall for s in (0, 0, 1))
    assert first == again
    assert first["nll"].low != other["nll"].low
    assert first["nll"].value == other["nll"].value


def test_one_group_has_no_interval() -> None:
    result = measure(np.array([0, 1]), certain([0, 0]), np.array([4, 4])).overall["accuracy"]
    assert (result.value, result.low, result.high, result.n) == (0.5, None, None, 2)


def test_a_thousand_resamples_of_the_public_test_set_take_seconds() -> None:
    labels, probabilities = answers(1311)
    start = time.perf_counter()
    result = measure(labels, probabilities, alone(1311))
    assert time.perf_counter() - start < 10
    assert set(result.per_class) == set(CLASSES)


@pytest.mark.parametrize(
    ("labels", "probabilities", "groups"),
    [
        (np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int)),
        (np.zeros(2, int), np.zeros((2, 3)), np.zeros(2, int)),
        (np.zeros(2, int), np.zeros((2, 4)), np.zeros(3, int)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="expected labels"):
        measure(labels, probabilities, groups)


def four(confidence: float, right: bool) -> list[float]:
    """Return probabilities of the four classes, the largest for the first class if right, else for the second."""
    rest = (1 - confidence) / 3
    return [confidence, rest, rest, rest] if right else [rest, confidence, rest, rest]


def test_risk_and_coverage_worked_by_hand() -> None:
    probabilities = np.array([four(0.5, False), four(0.9, True), four(0.9, False), four(0.7, True)])
    labels = np.zeros(4, np.int64)
    coverage, risk = risk_coverage(labels, probabilities)
    assert coverage.tolist() == [0.5, 0.75, 1]  # the two of the same confidence come together
    assert risk == pytest.approx([0.5, 1 / 3, 0.5])
    result = {name: value[0] for name, value in selective(labels, probabilities, np.ones((1, 4))).items()}
    assert result["aurc"] == pytest.approx((0.5 * 2 + 1 / 3 + 0.5) / 4)
    assert result["accuracy_at_90_coverage"] == pytest.approx(2 / 3.6)  # 3.6 of 4 images, of which two are right
    assert result["accuracy_at_95_coverage"] == pytest.approx(2 / 3.8)


def test_weights_count_an_image_as_often_in_selective_answers() -> None:
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(4, size=30), random.dirichlet(np.ones(4), size=30)
    weights = random.integers(4, size=30)
    repeated = np.repeat(np.arange(30), weights)
    once = selective(labels[repeated], probabilities[repeated], np.ones((1, len(repeated))))
    for name, value in selective(labels, probabilities, weights[None].astype(float)).items():
        assert value == pytest.approx(once[name]), name
