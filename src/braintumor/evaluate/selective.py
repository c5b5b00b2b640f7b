"""Measure which answers are withheld, and on which parts of the images the model is better or worse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.errors import ReferralReason
from braintumor.evaluate.metrics import measure_calibration
from braintumor.intervals import FEW, Estimate, Floats, Integers, accuracy, mean
from braintumor.models.policy import REFER, Policy
from braintumor.models.session import Card
from braintumor.predictor import Prediction

Bools = NDArray[np.bool_]

KINDS: Final = {
    "refused": (ReferralReason.NOT_BRAIN_MRI, ReferralReason.OUT_OF_DISTRIBUTION),
    "uncertain": (ReferralReason.UNCERTAIN,),
    "quality": (ReferralReason.IMAGE_QUALITY,),
}
"""Kinds of reasons to withhold an answer."""
UNLIKE: Final = 0.1
"""Difference of the shares of tumors from which on two parts of the images are said to differ in them."""


@dataclass(frozen=True)
class Sets:
    """Prediction sets of one error: how often they hold the true class, in all and by class, and their mean size."""

    coverage: Estimate
    per_class: dict[str, Estimate]
    size: Estimate


@dataclass(frozen=True)
class SelectiveResult:
    """The outcome of the images when answers may be withheld; all but the sets are shares of them.

    Attributes:
        answered: with a class as the decision.
        accuracy: of the answered ones, those that are right.
        refused: classified as not a brain MRI, or unlike the training images.
        uncertain: below the confidence of the operating point.
        quality: not good enough to be judged.
        sets: prediction sets by their error; empty where a model's card holds none.
    """

    answered: Estimate
    accuracy: Estimate | None
    refused: Estimate
    uncertain: Estimate
    quality: Estimate
    sets: dict[str, Sets]


@dataclass(frozen=True)
class Subgroup:
    """The rates of a model on some of the images.

    Attributes:
        accuracy: without withholding any answer.
        ece: calibration error; None for fewer than 30 images.
        refused: see `SelectiveResult`.
        referred: with any reason.
        energy: share of the class map inside the tumor's outline; None where no outline is known.
    """

    accuracy: Estimate
    ece: Estimate | None
    refused: Estimate
    referred: Estimate
    energy: Estimate | None


def _withheld(answers: Sequence[Prediction], kind: str) -> Bools:
    """Return which of N answers were withheld for a reason of a kind, one of `KINDS`."""
    return np.array([any(reason.code in KINDS[kind] for reason in answer.reasons) for answer in answers], bool)


def selective_result(
    answers: Sequence[Prediction], cards: Sequence[Card], precision: str, labels: Integers, groups: Integers
) -> SelectiveResult:
    """Return what became of N images.

    Args:
        answers: N.
        cards: of the models that answered, N.
        precision: of the models.
        labels: (N,) true classes.
        groups: (N,) any numbers.
    """
    answered = np.array([answer.decision != REFER for answer in answers], bool)
    right = np.array([answer.predicted == CLASSES[label] for answer, label in zip(answers, labels, strict=True)], bool)
    refused, uncertain, quality = (mean(_withheld(answers, kind).astype(float), groups) for kind in KINDS)
    return SelectiveResult(
        answered=mean(answered.astype(float), groups),
        accuracy=accuracy(right[answered], groups[answered]) if answered.any() else None,
        refused=refused,
        uncertain=uncertain,
        quality=quality,
        sets={error: _sets_of(answers, cards, precision, error, labels, groups) for error in _errors(cards, precision)},
    )


def _errors(cards: Sequence[Card], precision: str) -> list[str]:
    # the models of folds share few card objects: by identity each is looked at once
    errors = [list(card.rejection.get(precision, {}).get("sets", {})) for card in {id(c): c for c in cards}.values()]
    return [error for error in errors[0] if all(error in others for others in errors)]


def _sets_of(
    answers: Sequence[Prediction],
    cards: Sequence[Card],
    precision: str,
    error: str,
    labels: Integers,
    groups: Integers,
) -> Sets:
    """Return how the prediction sets of one error do on N images."""
    # each image is judged by the thresholds of the model that answered it
    policies = [Policy.of(card.rejection[precision], set_error=float(error)) for card in cards]
    sets = [policy.prediction_set(answer.probabilities) for policy, answer in zip(policies, answers, strict=True)]
    held = np.array([CLASSES[label] in names for names, label in zip(sets, labels, strict=True)], float)
    size = np.array([len(names) for names in sets], float)
    per_class = {
        name: mean(held[labels == index], groups[labels == index])
        for index, name in enumerate(CLASSES)
        if (labels == index).any()
    }
    return Sets(mean(held, groups), per_class, mean(size, groups))


def tumor_shares(crossed: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, float]]:
    """Return the share of slices with a tumor in each part, of the ways to divide whose parts differ in it visibly.

    Args:
        crossed: images of each class by the name of the part, for each way.
    """
    result: dict[str, dict[str, float]] = {}
    for way, parts in crossed.items():
        shares = {part: 1 - counts["no_tumor"] / sum(counts.values()) for part, counts in parts.items()}
        if shares and max(shares.values()) - min(shares.values()) > UNLIKE:
            result[way] = shares
    return result


def thirds(values: Floats) -> list[str]:
    """Return for each of N values whether it lies in the dark, middle or bright third of all."""
    # thirds of these images, not fixed grey levels: sources differ too much in brightness
    borders = np.quantile(values, (1 / 3, 2 / 3))
    return [("dark", "middle", "bright")[third] for third in np.searchsorted(borders, values, side="right")]


def subgroups(
    parts: Mapping[str, Sequence[str]],
    answers: Sequence[Prediction],
    labels: Integers,
    groups: Integers,
    energy: Floats,
) -> dict[str, dict[str, Subgroup]]:
    """Return how the model does on the images of each name, for each way to divide them.

    Args:
        parts: N names for each way; images of an empty name belong to no part.
        answers: N.
        labels: (N,) true classes.
        groups: (N,) any numbers.
        energy: (N,) share of the class map inside the outline; NaN where none is known.
    """
    probabilities = np.array([answer.probabilities for answer in answers], np.float64)
    right = probabilities.argmax(axis=1) == labels
    refused = _withheld(answers, "refused").astype(float)
    referred = np.array([answer.decision == REFER for answer in answers], float)

    def part(chosen: Bools) -> Subgroup:
        outlined = chosen & ~np.isnan(energy)
        # of few images the calibration error is mostly noise, which only ever raises it
        calibration = measure_calibration(labels[chosen], probabilities[chosen], groups[chosen])
        return Subgroup(
            accuracy=accuracy(right[chosen], groups[chosen]),
            ece=calibration.overall["ece"] if chosen.sum() >= FEW else None,
            refused=mean(refused[chosen], groups[chosen]),
            referred=mean(referred[chosen], groups[chosen]),
            energy=mean(energy[outlined], groups[outlined]) if outlined.any() else None,
        )

    return {
        way: {name: part(np.array(names) == name) for name in sorted(set(names) - {""}, key=_rank)}
        for way, names in parts.items()
    }


def _rank(name: str) -> tuple[int, str]:
    """Return what sorts the names of parts: from little to much, classes as everywhere, others by the alphabet."""
    # names of sizes and brightness have an order that the alphabet does not know
    order = (*CLASSES, "dark", "middle", "bright", "small", "medium", "large")
    return (order.index(name) if name in order else len(order), name)
