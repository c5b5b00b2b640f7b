"""Fit temperature, operating points and prediction sets, all on validation images."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from braintumor.errors import DataError
from braintumor.models.ood import FOREIGN, threshold

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

COVERAGES: Final = tuple(round(1 - step / 100, 2) for step in range(51))
SET_ERRORS: Final = (0.01, 0.02, 0.05, 0.1)
LOWEST, HIGHEST, STEPS = 0.05, 20.0, 60  # of the temperature; 60 golden sections leave 1e-12 of the range


def rejection(probabilities: Floats, ood_score: Floats, labels: Integers, groups: Integers) -> dict[str, Any]:
    """Return the card's entry for a precision: the thresholds for withholding answers, see `session.Card.rejection`.

    Args:
        probabilities: (N, C) of validation images, in that precision.
        ood_score: (N,) their OOD scores, in that precision.
        labels: (N,) true classes.
        groups: (N,) any numbers.

    Raises:
        DataError: no images.
    """
    most = threshold(ood_score, groups)
    right = probabilities.argmax(axis=1) == labels
    sets = {str(error): conformal_quantiles(probabilities, labels, groups, error).tolist() for error in SET_ERRORS}
    return {
        "ood_threshold": most,
        "far_ood_threshold": FOREIGN * most,
        "points": [asdict(point) for point in points(probabilities.max(axis=1), right)],
        "sets": sets,
    }


def temperature(logits: NDArray[np.floating], labels: Integers) -> float:
    """Return the number to divide logits by so that the probabilities fit the labels best: least NLL.

    The NLL is convex in the inverse of the temperature, so a golden-section search finds its minimum. Where the NLL is
    0 over a whole range, because every label is the most likely class by far, the largest such temperature is returned.

    Args:
        logits: (N, C) of validation images.
        labels: (N,) true classes.

    Raises:
        DataError: no images.

    Source: Guo and others, 2017, arXiv:1706.04599.
    """
    if not len(labels):
        raise DataError("no validation images to fit a temperature on")
    scores = logits.astype(np.float64)
    low, high, ratio = 1 / HIGHEST, 1 / LOWEST, (np.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        # "<=" keeps the mildest of equally good temperatures; scipy's bounded search would run to the other end
        if nll(scores * first, labels) <= nll(scores * second, labels):
            high = second
        else:
            low = first
    return float(2 / (low + high))


def nll(logits: Floats, labels: Integers) -> float:
    """Return the mean negative log-likelihood of the labels (N,) under logits (N, C), in nats."""
    # the largest logit becomes 0, so that exp cannot overflow
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean())


@dataclass(frozen=True)
class Point:
    """An operating point: answers at least this confident are given, the others referred.

    Attributes:
        coverage: share of the validation images that are answered, at least.
        confidence: least probability of the predicted class.
        error: share of the answered validation images whose answer is wrong.
    """

    coverage: float
    confidence: float
    error: float


def points(confidence: Floats, right: Bools) -> tuple[Point, ...]:
    """Return the operating points for coverages from 100 % to 50 %, one per percent.

    Args:
        confidence: (N,) probability of the predicted class of validation images.
        right: (N,) whether that class is the true one.

    Raises:
        DataError: no images.
    """
    if not len(right):
        raise DataError("no validation images to choose operating points on")
    order = np.sort(confidence)[::-1]
    result = []
    for coverage in COVERAGES:
        # 1e-9: 0.55 * 100 is a little more than 55 in floating point, and must not ask for a 56th image
        least = 0.0 if coverage == 1 else float(order[int(np.ceil(coverage * len(order) - 1e-9)) - 1])
        answered = confidence >= least
        result.append(Point(coverage, least, float(1 - right[answered].mean())))
    return tuple(result)


def conformal_quantiles(probabilities: Floats, labels: Integers, groups: Integers, error: float) -> Floats:
    """Return (C,) the largest 1 - probability at which a class belongs to the prediction set.

    For each class on its own the set leaves out the true class on about a share of `error` of a new group's images: the
    quantile is that of validation images of the class, in which every group weighs the same and one more group counts
    as unlike as can be. Between two images it is interpolated, since with few groups the next larger image would
    promise far more than was asked for. A class without validation images is in every set.

    Args:
        probabilities: (N, C) of validation images.
        labels: (N,) true classes.
        groups: (N,) any numbers.
        error: share of images whose true class may be missing, between 0 and 1.

    Raises:
        ValueError: another error.

    Source: Vovk, 2012, arXiv:1209.2673 (class-conditional); Dunn and others, 2018, arXiv:1809.07441 (groups).
    """
    if not 0 < error < 1:
        raise ValueError(f"expected an error between 0 and 1, got {error}")
    quantiles = np.ones(probabilities.shape[1])
    for label in range(probabilities.shape[1]):
        chosen = labels == label
        names, members, sizes = np.unique(groups[chosen], return_inverse=True, return_counts=True)
        if not len(names):
            continue
        scores = 1 - probabilities[chosen, label]
        order = np.argsort(scores, kind="stable")
        # every group has weight 1, and the new group of the promise makes it one more than there are
        share = (1 / sizes[members])[order].cumsum() / (len(names) + 1)
        quantiles[label] = np.interp(1 - error, [*share, 1.0], [*scores[order], 1.0])
    return quantiles
