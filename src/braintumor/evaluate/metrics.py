"""Metrics of predictions: rates, areas under curves and calibration, with 95 % intervals over groups of images.

Every statistic takes weights (R, N): row r says how often each image counts in resample r. One row of ones gives the
plain value, a bootstrap is more rows, so value and interval come from the same code. The intervals are made in
`braintumor.intervals`, which has to know in how many groups the images lie that a rate counts.

A class without a labelled image in a (re)sample has no precision, recall, F1 or area there: it is NaN and left out of
macro means. A class that is there but never predicted has precision 0 and F1 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.intervals import (
    Estimate,
    Floats,
    Integers,
    estimate,
    groups_among,
    interval,
)

BINS = 15  # of the reliability diagram
MACRO = ("precision", "recall", "f1", "auc_roc", "auc_pr")
CALIBRATION = ("ece", "brier", "nll")
COVERAGES = (95, 90)
OVERALL = ("accuracy", *MACRO, *CALIBRATION, "aurc", *(f"accuracy_at_{percent}_coverage" for percent in COVERAGES))


@dataclass(frozen=True)
class Bin:
    """One of the `BINS` equally large shares of the images, by confidence: mean confidence and accuracy there."""

    confidence: float
    accuracy: Estimate


@dataclass(frozen=True)
class Measured:
    """All statistics of one set of answers.

    Attributes:
        overall: accuracy, macro precision, recall, f1, auc_roc and auc_pr, ece, brier, nll, aurc,
            accuracy_at_95_coverage, accuracy_at_90_coverage.
        per_class: class -> precision, recall, f1, auc_roc, auc_pr; `n` is the number of images with that label.
        reliability: from the least to the most confident share.
    """

    overall: dict[str, Estimate]
    per_class: dict[str, dict[str, Estimate]]
    reliability: tuple[Bin, ...]


def measure(
    labels: Integers, probabilities: Floats, groups: Integers, *, resamples: int = 1000, seed: int = 0
) -> Measured:
    """Return every statistic of the answers with its 95 % interval.

    Args:
        labels: (N,) in the order of `CLASSES`.
        probabilities: (N, 4), rows summing to 1.
        groups: (N,) any numbers; images of one group are drawn together.
        resamples: of the groups, with replacement.
        seed: of the resampling.

    Raises:
        ValueError: no images, or the arrays do not fit together.
    """
    if not len(labels) or probabilities.shape != (len(labels), len(CLASSES)) or groups.shape != labels.shape:
        raise ValueError(
            f"expected labels (N,), probabilities (N, {len(CLASSES)}) and groups (N,) with N > 0, "
            f"got {labels.shape}, {probabilities.shape} and {groups.shape}"
        )
    probabilities = probabilities.astype(np.float64)
    counted_groups = _groups_behind(labels, probabilities, groups)
    intervals = interval(
        lambda weights: statistics(labels, probabilities, weights),
        groups,
        rates=counted_groups,
        resamples=resamples,
        seed=seed,
    )
    intervals |= {name: _mean_of_ends(intervals[name], intervals[f"{name}_by_class"]) for name in MACRO}
    support = np.bincount(labels, minlength=len(CLASSES))
    return Measured(
        overall={name: estimate(intervals[name], (), len(labels)) for name in OVERALL},
        per_class={
            title: {name: estimate(intervals[f"{name}_by_class"], (c,), int(support[c])) for name in MACRO}
            for c, title in enumerate(CLASSES)
        },
        reliability=_bins(intervals, len(labels)),
    )


@dataclass(frozen=True)
class Calibration:
    """The agreement of confidence and accuracy: ece, brier, nll, and the reliability from the least confident share."""

    overall: dict[str, Estimate]
    reliability: tuple[Bin, ...]


def measure_calibration(labels: Integers, probabilities: Floats, groups: Integers) -> Calibration:
    """Return the calibration of answers alone, for arrays as `measure` takes them."""
    counted_groups = {"bin_accuracy": _groups_of_bins(probabilities, groups)}
    intervals = interval(lambda weights: _calibration(labels, probabilities, weights), groups, rates=counted_groups)
    overall = {name: estimate(intervals[name], (), len(labels)) for name in CALIBRATION}
    return Calibration(overall, _bins(intervals, len(labels)))


def _bins(intervals: Mapping[str, tuple[Floats, Floats, Floats]], n: int) -> tuple[Bin, ...]:
    """Return the bins in an answer of `interval` on n images."""
    return tuple(
        Bin(float(intervals["bin_confidence"][0][b]), estimate(intervals["bin_accuracy"], (b,), round(n / BINS)))
        for b in range(BINS)
    )


def _groups_behind(labels: Integers, probabilities: Floats, groups: Integers) -> dict[str, Integers]:
    """Return for each statistic that is a rate in how many groups the images lie that it counts: () or by class (4,).

    The areas count pairs of an image of the class and another one. So many pairs have no group in common as there are
    groups on the rarer side. `aurc` is the share of wrong answers where the confidence says nothing.
    """
    predicted = probabilities.argmax(axis=1)
    labelled, answered = (np.arange(len(CLASSES)) == numbers[:, None] for numbers in (labels, predicted))
    # an area says as little as its rarer side: 1,000 positives of other patients do not help one negative
    rarer = np.minimum(groups_among(labelled, groups), groups_among(~labelled, groups))
    everything = groups_among(np.ones(len(labels), np.bool_), groups)
    confidence = probabilities.max(axis=1)
    surest = {
        f"accuracy_at_{percent}_coverage": groups_among(
            confidence >= np.quantile(confidence, 1 - percent / 100), groups
        )
        for percent in COVERAGES
    }
    return {
        "accuracy": everything,
        "precision_by_class": groups_among(answered, groups),
        "recall_by_class": groups_among(labelled, groups),
        "f1_by_class": groups_among(labelled | answered, groups),
        "auc_roc_by_class": rarer,
        "auc_pr_by_class": rarer,
        "aurc": everything,
        **surest,
        "bin_accuracy": _groups_of_bins(probabilities, groups),
    }


def _groups_of_bins(probabilities: Floats, groups: Integers) -> Integers:
    """Return (15,) in how many groups the images of each share in `_reliability` lie."""
    confidence = probabilities.max(axis=1)
    ordered = np.sort(confidence)
    # images of equal confidence belong to all the shares that their run touches
    first, last = (np.searchsorted(ordered, confidence, side=side) for side in ("left", "right"))
    borders = np.linspace(0, len(confidence), BINS + 1)
    return groups_among((last[:, None] > borders[:-1]) & (first[:, None] < borders[1:]), groups)


def _mean_of_ends(
    macro: tuple[Floats, Floats, Floats], by_class: tuple[Floats, Floats, Floats]
) -> tuple[Floats, Floats, Floats]:
    """Return a macro mean (), with the means of the classes' ends where drawing groups gave it no interval."""
    # with all answers right in every resample the macro mean shows no spread, while the classes have exact intervals
    value, low, _ = macro
    if not np.isnan(low) or np.isnan(value):
        return macro
    defined = ~np.isnan(by_class[0])
    return value, np.asarray(by_class[1][defined].mean()), np.asarray(by_class[2][defined].mean())


def statistics(labels: Integers, probabilities: Floats, weights: Floats) -> dict[str, Floats]:
    """Return all statistics of R weighted samples: (R,), `…_by_class` (R, 4), `bin_…` (R, 15).

    `brier` is the sum over the classes of squared errors, 0 to 2. `nll` is the natural logarithm; probabilities below
    1.2e-7, the float32 resolution, count as that. `ece` is the top-label expected calibration error.
    """
    predicted = probabilities.argmax(axis=1)
    by_class = rates(labels, predicted, weights)
    areas = [areas_under_curves(labels == c, probabilities[:, c], weights) for c in range(len(CLASSES))]
    by_class["auc_roc"], by_class["auc_pr"] = (np.stack(a, axis=1) for a in zip(*areas, strict=True))
    return {
        "accuracy": weights @ (predicted == labels) / weights.sum(axis=1),
        **{name: mean_of_known(values) for name, values in by_class.items()},
        **{f"{name}_by_class": values for name, values in by_class.items()},
        **_calibration(labels, probabilities, weights),
        **selective(labels, probabilities, weights),
    }


def _calibration(labels: Integers, probabilities: Floats, weights: Floats) -> dict[str, Floats]:
    """Return ece, brier and nll, each (R,), of R weighted samples, and the bins of the reliability diagram."""
    total = weights.sum(axis=1)
    truth = np.eye(len(CLASSES))[labels]  # (N, 4)
    surprise = -np.log(probabilities[np.arange(len(labels)), labels].clip(np.finfo(np.float32).eps, None))
    confidence, accuracy = _reliability(labels, probabilities, weights)
    return {
        "ece": np.abs(confidence - accuracy).mean(axis=1),
        "brier": weights @ ((probabilities - truth) ** 2).sum(axis=1) / total,
        "nll": weights @ surprise / total,
        "bin_confidence": confidence,
        "bin_accuracy": accuracy,
    }


def selective(labels: Integers, probabilities: Floats, weights: Floats) -> dict[str, Floats]:
    """Return what is gained by answering only the most confident images, each (R,), of R weighted samples.

    `accuracy_at_95_coverage` is the accuracy on the most confident 95 %; `aurc` the mean share of wrong answers over
    all coverages. Images of equal confidence are answered together, in part where a coverage ends among them.

    Source: Geifman and El-Yaniv, 2017, arXiv:1705.08500.
    """
    right = probabilities.argmax(axis=1) == labels
    # right answers are the positives and confidence the score: the same counting serves risk and coverage
    hits, wrong = _counts_above(right, probabilities.max(axis=1), weights)  # (R, T + 1)
    answered = hits + wrong
    total = answered[:, -1]
    risk = _ratio(wrong, answered, otherwise=0)
    result = {"aurc": (np.diff(answered) * risk[:, 1:]).sum(axis=1) / total}
    for percent in COVERAGES:
        answer_count = total * percent / 100
        right_count = np.array([np.interp(a, x, y) for a, x, y in zip(answer_count, answered, hits, strict=True)])
        result[f"accuracy_at_{percent}_coverage"] = right_count / answer_count
    return result


def risk_coverage(labels: Integers, probabilities: Floats) -> tuple[Floats, Floats]:
    """Return coverage and share of wrong answers, each (T,), from the most confident images alone to all of them."""
    right = probabilities.argmax(axis=1) == labels
    counted = _counts_above(right, probabilities.max(axis=1), np.ones((1, len(labels))))
    hits, wrong = (counts[0, 1:] for counts in counted)
    return (hits + wrong) / len(labels), wrong / (hits + wrong)


def confusion(labels: Integers, predicted: Integers) -> Integers:
    """Return the (4, 4) counts: row the label, column the predicted class."""
    cells = np.bincount(labels * len(CLASSES) + predicted, minlength=len(CLASSES) ** 2)
    return cells.reshape(len(CLASSES), len(CLASSES))


def rates(labels: Integers, predicted: Integers, weights: Floats) -> dict[str, Floats]:
    """Return precision, recall and f1, each (R, 4), of R weighted samples."""
    cells = np.eye(len(CLASSES) ** 2)[labels * len(CLASSES) + predicted]  # (N, 16)
    # one product counts all resamples at once: (R, N) @ (N, 16)
    counts = (weights @ cells).reshape(-1, len(CLASSES), len(CLASSES))
    hits = counts.diagonal(axis1=1, axis2=2)
    labelled, answered = counts.sum(axis=2), counts.sum(axis=1)
    # a class that a resample happens to miss has no rate; 0 would pull the macro mean down
    absent = labelled == 0
    return {
        "precision": np.where(absent, np.nan, _ratio(hits, answered, otherwise=0)),
        "recall": _ratio(hits, labelled, otherwise=np.nan),
        "f1": np.where(absent, np.nan, _ratio(2 * hits, labelled + answered, otherwise=0)),
    }


def areas_under_curves(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the areas under the ROC and the precision-recall curve, each (R,), of R weighted samples.

    The first is the chance that a positive scores above a negative, ties counting half; the second is the average
    precision, without interpolation. NaN without positives, the first also without negatives.
    """
    hits, alarms = _counts_above(positive, scores, weights)
    positives, negatives = hits[:, -1], alarms[:, -1]
    trapezoids = (np.diff(alarms) * (hits[:, 1:] + hits[:, :-1]) / 2).sum(axis=1)
    precision = _ratio(hits, hits + alarms, otherwise=0)
    steps = (np.diff(hits) * precision[:, 1:]).sum(axis=1)
    return _ratio(trapezoids, positives * negatives, otherwise=np.nan), _ratio(steps, positives, otherwise=np.nan)


def curves(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Return false-positive rate, recall and precision, each (T,), from the strictest threshold down to none.

    Precision starts at 1 where nothing is called positive. A rate without images to count is NaN.
    """
    hits, alarms = (counts[0] for counts in _counts_above(positive, scores, np.ones((1, len(scores)))))
    rate = _ratio(alarms, alarms[-1:], otherwise=np.nan)
    return rate, _ratio(hits, hits[-1:], otherwise=np.nan), _ratio(hits, hits + alarms, otherwise=1)


def _counts_above(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return true and false positives, each (R, T), above nothing and then above each distinct score, falling."""
    order = np.argsort(-scores, kind="stable")
    # equal scores share one threshold: only the last image of each run of ties is a point of the curve
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    ordered, truth = weights[:, order], positive[order]
    return _cumulated(ordered * truth, ends), _cumulated(ordered * ~truth, ends)


def _reliability(labels: Integers, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return mean confidence and accuracy, each (R, 15), of equally large shares of the images, by rising confidence.

    Confidence is the largest probability. An image on the border of two shares, and images of equal confidence, are
    divided between them in proportion, so that the order of the images does not matter.

    Source: Nixon et al., arXiv:1904.01685 (equal-mass bins).
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(confidence, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    ordered, right = weights[:, order], (probabilities.argmax(axis=1) == labels)[order]
    mass = _cumulated(ordered, ends)
    borders = mass[:, -1:] * np.linspace(0, 1, BINS + 1)  # (R, 16)

    def shares(values: Floats) -> Floats:
        sums = _cumulated(ordered * values, ends)
        at_borders = np.array([np.interp(b, m, s) for b, m, s in zip(borders, mass, sums, strict=True)])
        return (np.diff(at_borders) / (mass[:, -1:] / BINS)).clip(0, 1)  # rounding may pass the ends by 1e-16

    return shares(confidence[order]), shares(right.astype(np.float64))


def _cumulated(values: Floats, ends: NDArray[np.intp]) -> Floats:
    """Return (R, T + 1): 0, then the running sums along axis 1 up to each of the T ends."""
    sums = np.cumsum(values, axis=1)[:, ends]
    return np.concatenate([np.zeros((len(values), 1)), sums], axis=1)


def _ratio(numerator: Floats, denominator: Floats, *, otherwise: float) -> Floats:
    """Return numerator / denominator, `otherwise` where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    result: Floats = np.full(shape, otherwise, np.float64)
    # `where` keeps numpy from warning about the divisions whose result is not used
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def mean_of_known(values: Floats) -> Floats:
    """Return the mean (R,) over the classes of (R, 4) that are not NaN; NaN if all are."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1).astype(np.float64), otherwise=np.nan)
