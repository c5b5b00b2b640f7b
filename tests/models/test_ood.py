"""OOD scores and their threshold."""

import numpy as np
import pytest

from braintumor.errors import DataError
from braintumor.models.ood import fit_ood_scorer, threshold


def test_the_distance_is_that_of_mahalanobis_and_about_1_for_usual_images() -> None:
    random = np.random.default_rng(0)
    mix = random.normal(size=(5, 5))
    features = random.normal(size=(4000, 5)) @ mix + 3
    gate = fit_ood_scorer(features)
    ood_score = (((features - gate.centre) @ gate.whitening) ** 2).mean(axis=1)
    assert ood_score.mean() == pytest.approx(1, abs=0.03)
    exact = np.linalg.inv(np.cov(features.T, bias=True))
    apart = features[:10] - features.mean(axis=0)
    np.testing.assert_allclose(ood_score[:10], (apart @ exact * apart).sum(axis=1) / 5, rtol=0.05)


def test_features_that_never_vary_do_not_divide_by_zero() -> None:
    features = np.zeros((50, 3))
    features[:, 0] = np.arange(50)
    gate = fit_ood_scorer(features)
    assert np.isfinite(gate.whitening).all()
    with pytest.raises(DataError, match=r"at least two training images .* got 1"):
        fit_ood_scorer(features[:1])


@pytest.mark.slow
def test_the_threshold_refuses_about_one_in_a_hundred_and_more_margin_where_groups_are_few() -> None:
    ood_score = np.random.default_rng(1).random(10_000)
    alone = threshold(ood_score, np.arange(10_000))
    assert 0.99 <= alone <= 0.995
    few = np.repeat(np.arange(20), 500)
    shifted = ood_score + few / 20  # the groups differ
    assert np.quantile(shifted, 0.99) < threshold(shifted, few) <= shifted.max()
    assert threshold(ood_score, np.arange(10_000)) == alone  # the same every time
    with pytest.raises(DataError, match="no validation images"):
        threshold(np.empty(0), np.empty(0, np.int64))
