"""Tests of faithfulness, each worked by hand on a tiny case."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from braintumor.evaluate.faithfulness import area, imputed, measure_faithfulness, ranks

LEVELS = np.full((20, 20), 40, np.uint8)
LEVELS[:10, :10] = 200  # a quarter of the pixels
TRUE, FALSE = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
TRUE[:2, :2] = 1
FALSE[2:, 2:] = 1


def light(slices: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Answer with the share of the bright quarter's light that is left."""
    return np.array([levels[:10, :10].mean() / 200 for levels in slices])


def test_ranks_follow_the_map_and_break_ties_by_chance() -> None:
    result = ranks(TRUE, 20, 0)
    assert sorted(result.ravel().tolist()) == list(range(400))
    assert result[:7, :7].max() < 150  # well inside
    even = ranks(np.zeros((4, 4), np.float32), 20, 0)
    assert even.ravel().tolist() != list(range(400))
    np.testing.assert_array_equal(even, ranks(np.zeros((4, 4), np.float32), 20, 0))
    assert (even != ranks(np.zeros((4, 4), np.float32), 20, 1)).any()


def test_the_area_is_that_of_trapezoids() -> None:
    assert area(np.array([1.0, 0.5, 0.0])) == 0.5
    assert area(np.array([0.0, 1.0, 1.0])) == 0.75


def test_a_map_on_the_bright_quarter_is_more_faithful_than_one_elsewhere() -> None:
    right, wrong = measure_faithfulness(LEVELS, TRUE, light, 0), measure_faithfulness(LEVELS, FALSE, light, 0)
    # the quarter is gone after 25 to 30 % of the pixels: 1 at 0, nothing from 0.3 on
    assert right.deletion == pytest.approx(0.15, abs=0.03)
    assert wrong.deletion > 0.6
    assert right.insertion > wrong.insertion
    assert right.road > 0.2
    assert wrong.road < -0.1


def test_a_hole_is_filled_from_its_neighbours() -> None:
    levels = np.full((8, 8), 100, np.uint8)
    hole = np.zeros((8, 8), bool)
    hole[3, 3] = True
    levels[3, 3] = 0
    levels[3, 2] = 160
    # one straight neighbour of 160: 100 + 60 / 6
    result = imputed(levels, hole, 0).astype(int)
    assert abs(result[3, 3] - 110) <= 8  # noise of two grey levels
    result[3, 3] = 0
    np.testing.assert_array_equal(result, levels)


def test_a_hole_at_the_edge_needs_no_neighbours_beyond_it() -> None:
    levels = np.zeros((6, 6), np.uint8)
    levels[0, 1], levels[1, 0], levels[1, 1] = 60, 120, 240
    hole = np.zeros((6, 6), bool)
    hole[0, 0] = True
    # (60 / 6 + 120 / 6 + 240 / 12) / (1/6 + 1/6 + 1/12) = 50 / (5 / 12)
    assert abs(int(imputed(levels, hole, 0)[0, 0]) - 120) <= 8


def test_nothing_or_everything_cannot_be_filled() -> None:
    for hole in (np.zeros((4, 4), bool), np.ones((4, 4), bool)):
        np.testing.assert_array_equal(imputed(LEVELS[:4, :4], hole, 0), LEVELS[:4, :4])
