"""Temperature, operating points and prediction sets, worked by hand or against other implementations."""

from collections.abc import Iterable

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from braintumor.classes import CLASSES
from braintumor.errors import DataError
from braintumor.evaluate.calibration import (
    conformal_quantiles,
    nll,
    points,
    temperature,
)
from braintumor.models.policy import Policy


def drawn(n: int, heat: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, 4) that are too large by the factor `heat`, and labels drawn from the true probabilities."""
    random = np.random.default_rng(5)
    logits = random.normal(size=(n, 4)) * 2
    labels = np.array([random.choice(4, p=row) for row in softmax(logits, axis=1)])
    return logits * heat, labels


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(heat: float) -> None:
    logits, labels = drawn(4000, heat)
    result = temperature(logits, labels)
    assert result == pytest.approx(heat, rel=0.08)
    oracle = minimize_scalar(
        lambda t: -log_softmax(logits / t, axis=1)[np.arange(len(labels)), labels].mean(), bounds=(0.1, 10)
    )
    assert result == pytest.approx(oracle.x, rel=1e-3)
    assert nll(logits / result, labels) <= nll(logits, labels)


def test_nothing_to_fit_on_is_said() -> None:
    with pytest.raises(DataError, match="no validation images to fit a temperature on"):
        temperature(np.empty((0, 4)), np.empty(0, np.int64))
    with pytest.raises(DataError, match="no validation images to choose operating points on"):
        points(np.empty(0), np.empty(0, bool))


def test_operating_points_worked_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    result = {point.coverage: point for point in points(confidence, np.array([True, True, False, False]))}
    assert (result[1.0].confidence, result[1.0].error) == (0, 0.5)
    assert (result[0.75].confidence, result[0.75].error) == (0.7, pytest.approx(1 / 3))
    assert (result[0.74].confidence, result[0.51].confidence) == (0.7, 0.7)  # at least so many are answered
    assert (result[0.5].confidence, result[0.5].error) == (0.8, 0)


def test_quantiles_worked_by_hand_give_every_group_the_same_weight() -> None:
    # class 0: one group of three images, two groups of one; a fourth group counts as infinitely unlike
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6], [0.5, 0.5]])
    labels, groups = np.array([0, 0, 0, 0, 0, 1]), np.array([7, 7, 7, 8, 9, 10])
    assert conformal_quantiles(probabilities, labels, groups, 0.75)[0] == pytest.approx(0.3)  # 3 thirds of 1 / 4
    assert conformal_quantiles(probabilities, labels, groups, 0.5)[0] == pytest.approx(0.4)
    assert conformal_quantiles(probabilities, labels, groups, 0.25)[0] == pytest.approx(0.6)
    # beyond the last image, at 3/4 and at 1/2, the quantile rises to 1 at 1
    result = conformal_quantiles(probabilities, labels, groups, 0.2)
    assert result.tolist() == pytest.approx([0.6 + 0.4 * 0.05 / 0.25, 0.5 + 0.5 * 0.3 / 0.5])
    assert conformal_quantiles(probabilities[:5], labels[:5], groups[:5], 0.2)[1] == 1  # without an image
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        conformal_quantiles(probabilities, labels, groups, 1)


def sets(probabilities: np.ndarray, quantiles: Iterable[float]) -> np.ndarray:
    """Return (N, 4) which classes a policy with these quantiles puts into the sets."""
    policy = Policy(sets=tuple(quantiles))
    return np.array([[name in policy.prediction_set(row) for name in CLASSES] for row in probabilities])


def test_sets_hold_the_likely_classes_and_never_nothing() -> None:
    probabilities = np.array([[0.6, 0.25, 0.15, 0], [0.4, 0.35, 0.25, 0]])
    first_two, best = [True, True, False, False], [True, False, False, False]
    assert sets(probabilities, [0.25, 0.8, 0.7, 0.9]).tolist() == [first_two, first_two]
    assert sets(probabilities, [0, 0, 0, 0]).tolist() == [best, best]


def test_sets_cover_each_class_as_often_as_promised() -> None:
    logits, labels = drawn(8000, 1)
    probabilities = softmax(logits, axis=1)
    fitted, tested = slice(0, 4000), slice(4000, 8000)
    quantiles = conformal_quantiles(probabilities[fitted], labels[fitted], np.arange(4000), 0.1)
    covered = sets(probabilities[tested], quantiles)[np.arange(4000), labels[tested]]
    for label in range(4):
        assert covered[labels[tested] == label].mean() == pytest.approx(0.9, abs=0.03)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose inputs are its probabilities."""

    classes_ = np.arange(4)

    def fit(self, probabilities: np.ndarray, labels: np.ndarray) -> "Given":
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=1)


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels")  # on purpose
@pytest.mark.parametrize("error", [0.05, 0.1, 0.2])
def test_sets_of_ungrouped_images_are_those_of_mapie_for_each_class_alone(error: float) -> None:
    random = np.random.default_rng(3)
    labels = random.permutation(np.repeat(np.arange(4), 99))  # whose quantiles need no interpolation
    probabilities = random.dirichlet(np.ones(4), 396)
    probabilities = 0.6 * probabilities + 0.4 * np.eye(4)[labels]
    new = random.dirichlet(np.ones(4), 200)
    quantiles = conformal_quantiles(probabilities, labels, np.arange(396), error)
    best = new.argmax(axis=1)
    result = sets(new, quantiles)
    for label in range(4):
        own = labels == label
        oracle = SplitConformalClassifier(Given(), confidence_level=1 - error, prefit=True, conformity_score="lac")
        oracle.conformalize(probabilities[own], labels[own])
        expected = oracle.predict_set(new)[1][:, label, 0]
        others = best != label  # ours always holds the best class
        np.testing.assert_array_equal(result[others, label], expected[others])
