"""The operating points at which answers are withheld, and the reasons."""

import math
from typing import Any

import numpy as np
import pytest

from braintumor.errors import ModelError
from braintumor.models.policy import Policy
from braintumor.models.referral import Referral
from tests.referrals import NOT_BRAIN_MRI, OUT_OF_DISTRIBUTION, uncertain

REJECTION: dict[str, Any] = {
    "ood_threshold": 2.0,
    "far_ood_threshold": 4.0,
    "points": [
        {"coverage": 1.0, "confidence": 0.0, "error": 0.06},
        {"coverage": 0.95, "confidence": 0.6, "error": 0.04},
        {"coverage": 0.9, "confidence": 0.8, "error": 0.02},
    ],
    "sets": {"0.05": [0.9, 0.5, 0.1, 0.1], "0.1": [0.7, 0.3, 0.05, 0.05]},
}
SURE = np.array([0.05, 0.9, 0.03, 0.02], np.float32)
UNSURE = np.array([0.1, 0.35, 0.05, 0.5], np.float32)


@pytest.mark.parametrize(
    ("wish", "confidence"),
    [
        ({}, 0.6),
        ({"coverage": 1.0}, 0.0),
        ({"coverage": 0.92}, 0.6),
        ({"coverage": 0.9}, 0.8),
        ({"coverage": 0.5}, 0.8),
        ({"max_error": 0.1}, 0.0),
        ({"max_error": 0.05}, 0.6),
        ({"max_error": 0.02}, 0.8),
    ],
)
def test_an_operating_point_answers_at_least_the_coverage_or_errs_at_most_so_often(
    wish: dict[str, float], confidence: float
) -> None:
    assert Policy.of(REJECTION, **wish).confidence == confidence


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"coverage": 1.1}, r"no operating point answers 1\.1 of the images; choose from 0\.9 to 1"),
        ({"coverage": 0.0}, r"no operating point answers 0 of the images; choose from 0\.9 to 1"),
        ({"max_error": 0.001}, r"errs on at most 0\.001 of the answers; the least is 0\.0200"),
        ({"coverage": 0.9, "max_error": 0.02}, "not both"),
        ({"set_error": 0.3}, r"no prediction sets for an error of 0\.3; choose one of 0\.05, 0\.1"),
    ],
)
def test_what_the_card_does_not_hold_is_refused(wish: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Policy.of(REJECTION, **wish)


def test_a_model_without_operating_points_withholds_nothing_and_takes_no_wishes() -> None:
    assert Policy.of({}) == Policy()
    assert Policy().reasons(UNSURE, 1e9) == ()
    with pytest.raises(ModelError, match="no operating points; train it again"):
        Policy.of({}, coverage=0.9)


@pytest.mark.parametrize(
    ("shares", "ood_score", "reasons"),
    [
        (SURE, 2.0, ()),
        (SURE, 2.001, (OUT_OF_DISTRIBUTION,)),
        (SURE, 4.0, (OUT_OF_DISTRIBUTION,)),
        (SURE, 4.001, (NOT_BRAIN_MRI,)),
        (SURE, math.nan, (NOT_BRAIN_MRI,)),
        (UNSURE, 1.0, (uncertain("no_tumor", "meningioma"),)),
        (UNSURE, 3.0, (OUT_OF_DISTRIBUTION,)),
    ],
)
def test_an_answer_is_withheld_for_one_reason(
    shares: np.ndarray[Any, Any], ood_score: float, reasons: tuple[Referral, ...]
) -> None:
    assert Policy.of(REJECTION).reasons(shares, ood_score) == reasons


def test_a_prediction_set_holds_what_is_likely_enough_for_its_class_and_the_best_class_always() -> None:
    assert Policy.of(REJECTION).prediction_set(SURE) == ()
    # glioma from 0.1, meningioma from 0.5, pituitary and no tumor from 0.9
    assert Policy.of(REJECTION, set_error=0.05).prediction_set(UNSURE) == ("glioma", "no_tumor")
    assert Policy.of(REJECTION, set_error=0.1).prediction_set(SURE) == ("meningioma",)
