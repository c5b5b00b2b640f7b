"""Shuffled weights destroy class maps; similarity of maps is a rank correlation."""

import copy

import numpy as np
import pytest
import torch

from braintumor.training.export import gate_of
from braintumor.training.networks import Network
from braintumor.training.sanity_checks import alike, cascade

IMAGES = torch.rand(6, 1, 64, 64, generator=torch.Generator().manual_seed(5))


def test_maps_change_from_the_head_down_and_the_network_stays(network: Network) -> None:
    before = copy.deepcopy(network.state_dict())
    similarity = cascade(network, gate_of(network, [IMAGES]), IMAGES)
    assert list(similarity) == [
        "head",
        *(f"{share} % of the layers".replace(" %", "%", 1) for share in (25, 50, 75, 100)),
    ]
    assert all(-1 <= value <= 1 for value in similarity.values())
    assert similarity["100% of the layers"] < 0.9
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert similarity == cascade(network, gate_of(network, [IMAGES]), IMAGES)


def test_alike_is_a_rank_correlation() -> None:
    first = np.array([[0.0, 1.0], [2.0, 5.0]], np.float32)
    assert alike(first, first**3) == pytest.approx(1)
    assert alike(first, -first) == pytest.approx(-1)
    assert alike(first, np.array([[1.0, 0.0], [2.0, 5.0]], np.float32)) == pytest.approx(0.8)
    assert alike(first, np.zeros((2, 2), np.float32)) == 0
    assert alike(first, np.full((2, 2), np.nan, np.float32)) == 0
