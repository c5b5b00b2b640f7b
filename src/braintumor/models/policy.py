"""Decide when an answer is given and when a slice is referred to a person, by thresholds from validation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.errors import ModelError, ReferralReason
from braintumor.models.referral import Referral

REFER: Final = "refer"
COVERAGE: Final = 0.95
"""Share of in-distribution images that are answered by default; the least certain ones are referred."""


@dataclass(frozen=True)
class Policy:
    """The thresholds at which an answer is withheld.

    Attributes:
        confidence: least probability of the predicted class.
        ood_threshold: largest OOD score of an image that is answered, see `ood.OodScorer`.
        far_ood_threshold: largest OOD score of an image that is classified as a brain MRI at all.
        sets: (4,) largest 1 - probability with which a class is in the prediction set; None without sets.
    """

    confidence: float = 0.0
    ood_threshold: float = math.inf
    far_ood_threshold: float = math.inf
    sets: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls,
        rejection: Mapping[str, Any],
        *,
        coverage: float | None = None,
        max_error: float | None = None,
        set_error: float | None = None,
    ) -> Self:
        """Return the policy of a precision from what the card says about it under `rejection`.

        Args:
            rejection: the card's entry; an empty one, of a model that was never validated, withholds nothing.
            coverage: share of in-distribution images to be answered, from 0.5 to 1; 0.95 by default.
            max_error: instead, the largest share of the answers that may be wrong.
            set_error: share of images whose prediction set may miss the true class; no sets by default.

        Raises:
            ModelError: the card holds no such operating point.
        """
        if not rejection:
            if coverage is None and max_error is None and set_error is None:
                return cls()
            raise ModelError("the model's card has no operating points; train it again with this version")
        if coverage is not None and max_error is not None:
            raise ModelError("pass either a coverage or a largest error (--coverage, --max_error), not both")
        return cls(
            confidence=_least_confidence(rejection["points"], COVERAGE if coverage is None else coverage, max_error),
            ood_threshold=rejection["ood_threshold"],
            far_ood_threshold=rejection["far_ood_threshold"],
            sets=None if set_error is None else _quantiles(rejection["sets"], set_error),
        )

    def reasons(self, probabilities: NDArray[np.float32], ood_score: float) -> tuple[Referral, ...]:
        """Return why an answer is withheld; nothing if it is given.

        Args:
            probabilities: (4,).
            ood_score: how unlike the training images the slice is.
        """
        # One reason only: of an image unlike those of training the probabilities mean nothing. `not <=` instead of `>`,
        # so that NaN is referred, too.
        if not ood_score <= self.ood_threshold:
            is_far = not ood_score <= self.far_ood_threshold
            return (Referral(ReferralReason.NOT_BRAIN_MRI if is_far else ReferralReason.OUT_OF_DISTRIBUTION),)
        first, second = np.argsort(-probabilities, kind="stable")[:2].tolist()
        if probabilities[first] < self.confidence:
            return (Referral(ReferralReason.UNCERTAIN, (CLASSES[first], CLASSES[second])),)
        return ()

    def prediction_set(self, probabilities: NDArray[np.float32]) -> tuple[str, ...]:
        """Return the classes in the prediction set, always with the most probable one; nothing without sets."""
        if self.sets is None:
            return ()
        best = int(probabilities.argmax())
        shares = zip(CLASSES, probabilities.tolist(), self.sets, strict=True)
        return tuple(name for index, (name, share, most) in enumerate(shares) if index == best or 1 - share <= most)


def _least_confidence(points: Sequence[Mapping[str, float]], coverage: float, max_error: float | None) -> float:
    """Return the confidence of the operating point for a coverage or, if it is given, for a largest error.

    Raises:
        ModelError: there is no such point.
    """
    if max_error is None:
        # Coverages are fractions of images, such as 0.95 computed as 190 / 200: rounding must not exclude a point.
        fitting = [point for point in points if point["coverage"] >= coverage - 1e-9]
        if not fitting or coverage <= 0:
            least = min(point["coverage"] for point in points)
            raise ModelError(f"no operating point answers {coverage:g} of the images; choose from {least:g} to 1")
        return min(fitting, key=lambda point: point["coverage"])["confidence"]
    fitting = [point for point in points if point["error"] <= max_error]
    if not fitting:
        least = min(point["error"] for point in points)
        raise ModelError(f"no operating point errs on at most {max_error:g} of the answers; the least is {least:.4f}")
    return max(fitting, key=lambda point: point["coverage"])["confidence"]


def _quantiles(sets: Mapping[str, Sequence[float]], error: float) -> tuple[float, ...]:
    """Return the (4,) quantiles of the prediction sets that miss the true class at this rate.

    Raises:
        ModelError: the card does not hold them.
    """
    by_error = {float(name): tuple(values) for name, values in sets.items()}
    if error not in by_error:
        choices = ", ".join(map(str, sorted(by_error)))
        raise ModelError(f"no prediction sets for an error of {error:g}; choose one of {choices}")
    return by_error[error]
