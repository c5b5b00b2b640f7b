"""Defects of pictures that are not good enough to be classified."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from braintumor.classes import CLASSES
from braintumor.data.phantom import phantom
from braintumor.io.scan import Scan
from braintumor.models.image_quality import defects, drawn, regions
from braintumor.overlay import font
from tests.referrals import EMPTY, SATURATED, TOO_SMALL, WRITING


def head(size: int = 224) -> np.ndarray:
    return phantom("glioma", 0, size).astype(np.float32)


@pytest.mark.parametrize("label", CLASSES)
def test_a_plain_slice_has_none(label: str) -> None:
    assert defects(Scan(phantom(label, 3, 224).astype(np.float32))) == ()


def test_nothing_to_see_is_empty() -> None:
    corner = np.zeros((200, 200), np.float32)
    corner[:28, :28] = 0.8  # 2 % of the pixels, less 0.04 %
    assert defects(Scan(corner)) == (EMPTY,)
    corner[:29, :29] = 0.8
    assert defects(Scan(corner)) == ()
    assert defects(Scan(np.full((200, 200), 0.7, np.float32))) == (EMPTY,)


def test_much_white_is_saturated() -> None:
    pixels = np.zeros((100, 100), np.float32)
    pixels[:50] = 0.5
    pixels[:9] = 1.0  # 18 % of what is lit
    assert defects(Scan(pixels)) == ()
    pixels[:11] = 1.0
    assert defects(Scan(pixels)) == (SATURATED,)


def test_few_pixels_are_too_small() -> None:
    assert defects(Scan(head(64))) == ()
    assert defects(Scan(head()[:63])) == (TOO_SMALL,)


def test_writing_beside_the_head_is_named() -> None:
    image = Image.fromarray(np.rint(head() * 255).astype(np.uint8))
    ImageDraw.Draw(image).text((4, 3), "Se 4", 255, font(14))
    assert defects(Scan(np.asarray(image, np.float32) / 255)) == (WRITING,)


@pytest.mark.parametrize("seed", range(20))
def test_regions_are_those_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    fields = random.random((31, 47)) < random.choice((0.1, 0.3, 0.5, 0.8))
    numbers, count = ndimage.label(fields, structure=np.ones((3, 3)))
    connected = regions(fields)
    assert len(connected) == count
    for runs in connected:
        flags = drawn(runs, fields.shape)
        np.testing.assert_array_equal(flags, numbers == numbers[flags][0])
