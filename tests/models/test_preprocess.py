"""The preparation of slices for the network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braintumor.io.scan import Scan
from braintumor.models.preprocess import Preprocess, network_input, pad_to_square

LEVELS = np.arange(224 * 224, dtype=np.uint32).reshape(224, 224).astype(np.uint8)


def white(height: int, width: int) -> Scan:
    """Return a white slice."""
    return Scan(np.ones((height, width), np.float32))


def levels(size: int, scan: Scan) -> NDArray[np.int64]:
    """Return the grey levels a network of this size gets."""
    return Preprocess(size).grey_levels(scan).astype(np.int64)


def test_an_even_difference_is_padded_equally_on_both_sides() -> None:
    square = pad_to_square(np.full((2, 4), 0.5, np.float32))
    np.testing.assert_array_equal(square, [[0] * 4, [0.5] * 4, [0.5] * 4, [0] * 4])


def test_an_odd_pixel_of_padding_goes_to_the_end() -> None:
    np.testing.assert_array_equal(pad_to_square(np.ones((2, 5), np.float32)).any(axis=1), [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(pad_to_square(np.ones((5, 4), np.float32)).any(axis=0), [1, 1, 1, 1, 0])


def test_8_bit_slices_of_the_networks_size_pass_unchanged() -> None:
    scan = Scan(LEVELS.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(Preprocess().grey_levels(scan), LEVELS)


def test_halving_weights_four_neighbours_1_3_3_1() -> None:
    pixels = np.zeros((64, 64), np.float32)
    pixels[20, 20] = 1
    actual = levels(32, Scan(pixels))
    # 255/64 times 9, 3 and 1
    np.testing.assert_array_equal(actual[9:11, 9:11], [[4, 12], [12, 36]])
    assert actual.sum() == 4 + 12 + 12 + 36


def test_a_wide_slice_is_not_squeezed() -> None:
    actual = levels(64, white(64, 128))
    # rows 32 to 95 of 128 are white: 1/8 and 7/8 of 255 remain at the edge
    expected = [0] * 15 + [32, 223] + [255] * 30 + [223, 32] + [0] * 15
    np.testing.assert_array_equal(actual, np.repeat(np.array(expected)[:, None], 64, axis=1))


def test_a_tall_slice_is_the_wide_one_turned() -> None:
    np.testing.assert_array_equal(levels(64, white(128, 64)), levels(64, white(64, 128)).T)


def test_grey_values_are_rounded_to_256_levels() -> None:
    pixels = np.zeros((32, 32), np.float32)
    pixels[0, :4] = 0.0019, 0.002, 0.5, 1  # 0.48, 0.51, 127.5 and 255
    assert levels(32, Scan(pixels))[0, :4].tolist() == [0, 1, 128, 255]


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(32, 80))
def test_training_and_prediction_get_the_same_values(height: int, width: int, size: int) -> None:
    scan = Scan(np.random.default_rng(0).random((height, width), np.float32))
    image = Preprocess(size)(scan)
    assert (image.shape, image.dtype) == ((1, size, size), np.float32)
    np.testing.assert_array_equal(image[0], Preprocess(size).grey_levels(scan).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("size", [0, 31, 1025])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"expected an input side of 32 to 1024 pixels, got {size}"):
        Preprocess(size)


def test_a_batch_of_grey_levels_becomes_what_each_slice_becomes_alone() -> None:
    scans = [Scan(np.roll(LEVELS, shift).astype(np.float32) / np.float32(255)) for shift in range(3)]
    together = network_input(np.stack([Preprocess().grey_levels(scan) for scan in scans]))
    assert (together.shape, together.dtype) == ((3, 1, 224, 224), np.float32)
    np.testing.assert_array_equal(together, [Preprocess()(scan) for scan in scans])
    assert set(np.unique(together * 255).tolist()) == set(range(256))
