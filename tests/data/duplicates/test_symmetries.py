"""The eight ways in which a picture can lie."""

import numpy as np
import pytest

from braintumor.data.duplicates.symmetries import ORIENTATIONS, inverse, oriented

PICTURE = np.arange(4, dtype=np.float32).reshape(1, 2, 2)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [((0, 0), [0, 1, 2, 3]), ((0, 1), [1, 3, 0, 2]), ((1, 0), [1, 0, 3, 2]), ((1, 1), [0, 2, 1, 3])],
)
def test_a_picture_is_mirrored_and_then_turned_counter_clockwise(
    orientation: tuple[int, int], expected: list[int]
) -> None:
    assert oriented(PICTURE, ORIENTATIONS.index(orientation)).ravel().tolist() == expected


def test_all_eight_differ_and_each_is_undone_by_its_inverse() -> None:
    turned = [oriented(PICTURE, number) for number in range(len(ORIENTATIONS))]
    assert len({tuple(picture.ravel().tolist()) for picture in turned}) == 8
    for number, picture in enumerate(turned):
        assert np.array_equal(oriented(picture, inverse(number)), PICTURE)
