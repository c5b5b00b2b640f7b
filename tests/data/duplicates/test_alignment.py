"""Which similar slices are the same slice."""

import io

import numpy as np
import pytest
from PIL import Image

from braintumor.data.duplicates.alignment import (
    CANDIDATE,
    DUPLICATE,
    aligned,
    cut,
    detail_similarity,
    same_slice,
    turned,
)
from braintumor.data.duplicates.pairs import Pairs, similar_pairs
from braintumor.data.duplicates.symmetries import ORIENTATIONS, oriented
from braintumor.data.duplicates.thumbnails import NO_BOX, NOTHING, Thumbnails, make_thumbnail
from braintumor.data.phantom import smooth_noise
from braintumor.io.scan import Scan

SIDE = 120


def picture(seed: int, share: float = 0.0) -> np.ndarray:
    """Return random blobs, (120, 120) in [0, 1]; a share of 0 to 1 of the small ones is replaced by others."""
    large, small, other = np.random.default_rng(seed).spawn(3)
    fine = np.sqrt(1 - share) * smooth_noise(small, SIDE, 40) + np.sqrt(share) * smooth_noise(other, SIDE, 40)
    blobs = smooth_noise(large, SIDE, 6) + smooth_noise(large, SIDE, 14) + 0.8 * fine
    result: np.ndarray = (0.5 + 0.15 * blobs).clip(0, 1).astype(np.float32)
    return result


def small(*pictures: np.ndarray) -> Thumbnails:
    """Return the miniatures of pictures."""
    return Thumbnails.stacked([make_thumbnail(Scan(np.ascontiguousarray(each, np.float32))) for each in pictures])


def judged(first: np.ndarray, second: np.ndarray) -> list[bool]:
    """Return the answer for a pair of pictures, empty where it is not even a candidate."""
    a, b = small(first), small(second)
    return [bool(answer) for answer in same_slice(similar_pairs(a, b, CANDIDATE), a, b)]


def compressed(image: np.ndarray) -> np.ndarray:
    """Return what JPEG of quality 50 keeps."""
    content = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(content, "JPEG", quality=50)
    return np.asarray(Image.open(content), np.float32) / 255


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image[:, ::-1],
        lambda image: np.rot90(image, 1),
        lambda image: np.rot90(image[:, ::-1], 3),
        lambda image: image[5:-1, 2:-4],
        lambda image: np.rot90(image[:, ::-1], 1)[1:-5, 4:-2],
        lambda image: image**0.7 * 0.8,
        compressed,
    ],
)
def test_copies_are_the_same_slice(change: "type[np.ndarray]") -> None:
    for seed in range(3):
        assert judged(picture(seed), change(picture(seed))) == [True]
        assert judged(change(picture(seed)), picture(seed)) == [True]


def test_a_slice_alike_in_the_large_is_not_the_same() -> None:
    for seed in range(3):
        assert judged(picture(seed), picture(seed, share=0.9)) == [False]


def test_pairs_below_the_candidates_are_not_looked_at() -> None:
    a = small(picture(0))
    pairs = similar_pairs(a, a, CANDIDATE)
    low = Pairs(pairs.first, pairs.second, np.array([CANDIDATE], np.float32), pairs.orientation, pairs.window)
    assert same_slice(pairs, a, a).tolist() == [True]
    assert same_slice(low, a, a).tolist() == [False]


def test_slices_without_contrast_are_never_the_same() -> None:
    two = Thumbnails.stacked([NOTHING, NOTHING])
    window = np.repeat(NO_BOX[None], 2, axis=1)
    pair = Pairs(np.array([0]), np.array([1]), np.array([0.99], np.float32), np.array([0]), window)
    assert detail_similarity(pair, two, two).tolist() == [0]
    assert same_slice(pair, two, two).tolist() == [False]
    assert same_slice(pair[np.array([], np.int64)], two, two).tolist() == []


@pytest.mark.parametrize("number", range(len(ORIENTATIONS)))
def test_a_window_turns_with_its_picture(number: int) -> None:
    picture, marked = np.zeros((2, 1, 64, 64), np.float32)
    marked[0, 8:24, 16:56] = 1
    pictures, windows = turned(marked + picture, np.array([[8, 24, 16, 56]], np.float32) / 64, np.array([number]))
    assert np.array_equal(pictures, oriented(marked, number))
    top, bottom, left, right = np.rint(windows[0] * 64).astype(int)
    assert pictures[0, top:bottom, left:right].sum() == marked.sum() == (bottom - top) * (right - left)


def test_a_window_is_shown_by_linear_interpolation() -> None:
    rows = np.arange(64, dtype=np.float32)
    slope = (rows[:, None] + 10 * rows)[None]
    shown = cut(slope, np.array([[0, 0.5, 0.25, 0.75]], np.float32))[0]
    assert shown[3, 5] == pytest.approx((3.5 / 2 - 0.5) + 10 * (16 + 5.5 / 2 - 0.5), abs=1e-3)


def test_shift_and_stretch_are_found() -> None:
    smooth = np.random.default_rng(0).normal(size=(1, 12, 12))
    large = np.asarray(Image.fromarray(smooth[0].astype(np.float32)).resize((64, 64), Image.Resampling.BICUBIC))[None]
    target = cut(large, np.array([[0.06, 0.97, 0.02, 0.95]], np.float32))
    start = np.array([[0.03, 0.98, 0.04, 0.93]], np.float32)
    assert aligned(large, start, target, 1.0)[0] > 0.999
    assert aligned(large, start, target, -1.0)[0] < 0.99  # enough from the beginning: left as it is


def test_a_pair_that_is_similar_enough_is_not_aligned_further() -> None:
    a, b = small(picture(0)), small(picture(0)[5:-1, 2:-4])
    pairs = similar_pairs(a, b, CANDIDATE)
    best = detail_similarity(pairs, a, b)
    assert detail_similarity(pairs, a, b, DUPLICATE)[0] <= best[0]
    assert best[0] > DUPLICATE
