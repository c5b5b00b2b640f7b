"""Class maps drawn on slices."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from braintumor.models.preprocess import pad_to_square
from braintumor.overlay import MARGIN, SIDE, TOP, colour, enlarge, figure, has_evidence, overlay, png, scaled_map

GREY = np.full((112, 112), 0.4, np.float32)


def even(value: float) -> NDArray[np.float32]:
    """Return a map with one value."""
    return np.full((14, 14), value, np.float32)


def test_a_map_is_divided_by_the_scale_and_cut_at_1() -> None:
    values = np.array([[0, 0.5], [1, 4]], np.float32)
    np.testing.assert_array_equal(scaled_map(values, 2.0), [[0, 0.25], [0.5, 1]])


def test_half_the_scale_looks_the_same_whatever_else_the_map_holds() -> None:
    high = even(1.0)
    high[0, 0] = 50.0
    low = even(1.0)
    low[0, 0] = 0.0
    pictures = [overlay(GREY, values, scale=2.0) for values in (even(1.0), high, low)]
    # colour (221, 80.3, 49.1), 3/7 of the way from the second stop to the third, over 102; opacity 0.65 sqrt(0.45/0.95)
    for picture in pictures:
        assert picture[80, 80].tolist() == [155, 92, 78]
    assert pictures[1][0, 0].tolist() != pictures[2][0, 0].tolist()


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.049])
def test_a_map_without_evidence_leaves_the_slice_grey(value: float) -> None:
    assert not has_evidence(even(value), 1.0)
    np.testing.assert_array_equal(overlay(GREY, even(value), 1.0), 102)


def test_one_place_with_5_percent_of_the_scale_is_evidence() -> None:
    values = even(0.0)
    values[3, 3] = 0.1
    assert has_evidence(values, 2.0)
    assert not has_evidence(values, 2.1)


def test_the_full_scale_has_the_last_colour() -> None:
    assert colour(np.array([0.0, 0.35, 1.0], np.float32)).tolist() == [[94, 16, 92], [203, 43, 62], [255, 236, 120]]
    picture = overlay(GREY, even(7.0), 1.0)
    assert picture[5, 5].tolist() == [201, 189, 114]  # 0.35 of 102 and 0.65 of (255, 236, 120)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 4), [[1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5]]),
        ((4, 3), [[1, 1.25, 1.75], [1.5, 1.75, 2.25], [2.5, 2.75, 3.25], [3, 3.25, 3.75]]),
    ],
)
def test_a_map_covers_the_padded_square(shape: tuple[int, int], expected: list[list[float]]) -> None:
    values = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_allclose(enlarge(values, shape), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(50, 81), (81, 50), (50, 80), (64, 64)])
def test_a_map_lies_where_preprocess_put_the_slice(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random(shape, np.float32)
    np.testing.assert_array_equal(enlarge(pad_to_square(pixels), shape), pixels)


def test_a_png_reads_back() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)


def panels(page: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the pictures of the slice and of the overlay in a figure."""
    values = np.asarray(page)[TOP : TOP + SIDE]
    return values[:, MARGIN : MARGIN + SIDE], values[:, 2 * MARGIN + SIDE : 2 * MARGIN + 2 * SIDE]


def test_a_figure_without_evidence_shows_the_slice_twice_and_says_so() -> None:
    pages = [
        figure(GREY, even(value), 1.0, answer="Glioma", title="Glioma", model="tiny 1") for value in (0.0, 0.04, 0.06)
    ]
    slice_panel, map_panel = panels(pages[0])
    np.testing.assert_array_equal(slice_panel, 102)
    np.testing.assert_array_equal(map_panel, slice_panel)
    np.testing.assert_array_equal(pages[0], pages[1])
    titles = [np.asarray(page)[:TOP, SIDE + 2 * MARGIN :] for page in pages]
    ends = [int(np.nonzero(title.max(axis=(0, 2)) > 100)[0].max()) for title in titles]
    assert ends[0] > ends[2] + 10  # "No evidence for: Glioma" is longer than "Evidence for: Glioma"


def test_a_figure_shows_the_overlay_beside_the_slice() -> None:
    slice_panel, map_panel = panels(figure(GREY, even(0.5), 1.0, answer="Glioma", title="Glioma", model="tiny 1"))
    np.testing.assert_array_equal(slice_panel, 102)
    assert np.unique(map_panel.reshape(-1, 3), axis=0).tolist() == [[155, 92, 78]]


def test_a_figure_keeps_the_proportions_of_a_slice() -> None:
    tall = np.full((200, 100), 0.4, np.float32)
    slice_panel, _ = panels(figure(tall, even(0.0), 1.0, answer="Glioma", title="Glioma", model="tiny 1"))
    np.testing.assert_array_equal(slice_panel.max(axis=(0, 2)) > 0, [False] * 112 + [True] * 224 + [False] * 112)
