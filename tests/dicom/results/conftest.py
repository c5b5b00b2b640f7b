"""A model and a prediction, from which all kinds of results are written."""

import numpy as np
import pytest

import braintumor
from braintumor.models.session import Model
from braintumor.predictor import Prediction


@pytest.fixture(scope="session")
def model() -> Model:
    """Return the bundled model, asked by one thread."""
    return braintumor.load(threads=1)


@pytest.fixture
def prediction(model: Model) -> Prediction:
    """Return a prediction of a glioma whose class maps are noise of at most the scale."""
    maps = np.random.default_rng(0).random((4, 14, 14)).astype(np.float32) * np.float32(model.card.class_map_scale)
    shares = np.array([0.8125, 0.125, 0.0375, 0.025], np.float32)
    return Prediction(
        image="slice",
        probabilities=shares,
        predicted="glioma",
        decision="glioma",
        reasons=(),
        class_maps=maps,
        model=model.identity,
        ood_score=1.25,
    )
