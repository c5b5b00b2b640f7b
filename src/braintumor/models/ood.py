"""Score how unlike the training images an image is (OOD score), and choose the threshold for referral.

The score is compared with other scores in docs/concepts/refusal.md.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from braintumor.errors import DataError

Floats = NDArray[np.float64]

REFUSED: Final = 0.01  # share of in-distribution images that are referred
UPPER: Final = 0.975  # end of the 95 % interval
RESAMPLES: Final = 1000
FOREIGN: Final = 2.0  # times the threshold: farther out than any image like those of training


@dataclass(frozen=True, eq=False)
class OodScorer:
    """A Gaussian around the features of training images.

    The OOD score is the mean of the squares of (features - centre) @ whitening: the squared Mahalanobis
    distance over the number of channels, about 1 for images like those of training.

    Attributes:
        centre: (C,) mean.
        whitening: (C, C) inverse square root of the covariance.

    Source: arXiv:1807.03888, with one Gaussian for all classes.
    """

    centre: Floats
    whitening: Floats


def fit_ood_scorer(features: Floats) -> OodScorer:
    """Return the scorer fitted to features (N, C); the covariance is shrunk as is best for their number.

    Raises:
        DataError: there are fewer than two images.

    Source: Ledoit and Wolf, 2004, doi 10.1016/S0047-259X(03)00096-4.
    """
    if len(features) < 2:
        raise DataError(f"expected at least two training images to fit OOD scores, got {len(features)}")
    gaussian = LedoitWolf().fit(features)
    centre = np.asarray(gaussian.location_, np.float64)
    values, vectors = np.linalg.eigh(np.asarray(gaussian.covariance_, np.float64))
    # Channels that never vary would get an infinite weight: in float32, in which the network computes the score, no
    # eigenvalue below this share of the largest one can be told from zero.
    floor = max(float(values.max()) * float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny))
    return OodScorer(centre, vectors / np.sqrt(np.maximum(values, floor)) @ vectors.T)


def threshold(ood_score: Floats, groups: NDArray[np.int64]) -> float:
    """Return the OOD score above which an image is referred: about one in a hundred of those like the training images.

    It is the upper end of the 95 % interval of the 99th percentile, from resampling whole groups: validation images
    come from few patients, and new ones must not be referred because these happened to be alike.

    Args:
        ood_score: (N,) of validation images.
        groups: (N,) any numbers.

    Raises:
        DataError: no images.
    """
    if not len(ood_score):
        raise DataError("no validation images to choose a threshold on")
    # Each row of `drawn` is one resample, as the number of times that each sorted image counts; its percentile is the
    # first score up to which the counts add up to 99 %.
    order = np.argsort(ood_score)
    names, members = np.unique(groups[order], return_inverse=True)
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)[:, members]
    shares = drawn.cumsum(axis=1) / np.maximum(drawn.sum(axis=1, keepdims=True), 1)
    percentiles = ood_score[order][(shares >= 1 - REFUSED).argmax(axis=1)]
    return float(np.quantile(percentiles, UPPER))
