"""Which plane a slice is said to be of."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from braintumor.data.duplicates.thumbnails import make_thumbnail
from braintumor.evaluate.planes import PLANES, WEIGHTS, features, planes, standardised
from braintumor.io.read import read
from braintumor.io.scan import Scan

LABELS = Path(__file__).parents[2] / "benchmarks" / "labels" / "planes.csv"
RIGHT_OF_TEST = 294  # of 300, as recorded


def noise(count: int) -> NDArray[np.uint8]:
    """Return heads of random pixels."""
    return np.random.default_rng(0).integers(0, 256, (count, 48, 48), np.uint8)


def head(kind: str) -> NDArray[np.uint8]:
    """Return the thumbnail of a drawn head: an oval, one on a neck, or a profile with its neck at the back."""
    down, across = np.mgrid[-1:1:128j, -1:1:128j]
    oval = down**2 + across**2 < 1
    if kind == "axial":
        pixels = 0.4 * oval + 0.4 * (oval & (down**2 + across**2 > 0.85))
    else:
        skull = ((down + 0.35) / 0.65) ** 2 + across**2
        pixels = 0.4 * (skull < 1) + 0.4 * ((skull < 1) & (skull > 0.85))
        neck = np.abs(across) < 0.6 if kind == "coronal" else (across > -0.1) & (across < 0.9)
        pixels = np.maximum(pixels, 0.5 * (neck & (down > 0)))
    return make_thumbnail(Scan(pixels.astype(np.float32))).head[0]


@pytest.mark.parametrize("plane", PLANES)
def test_an_oval_is_axial_one_on_a_neck_coronal_and_a_profile_sagittal(plane: str) -> None:
    assert planes(head(plane)[None]) == (plane,)


def test_a_mirrored_slice_has_the_same_features_and_plane() -> None:
    thumbnails = noise(40)
    pixels = standardised(thumbnails)
    assert np.allclose(features(pixels), features(pixels[:, :, ::-1]), atol=1e-6)
    assert planes(thumbnails) == planes(thumbnails[:, :, ::-1])


def test_the_features_are_halves_their_difference_and_edges() -> None:
    thumbnail = np.zeros((1, 32, 32), np.float32)
    thumbnail[0, 4:6, 0:2] = 1 / 32  # a square of grey 1 at the left border: row 2, column 0 of the 16 x 8 maps
    mean, uneven, down, across = features(thumbnail).reshape(4, 16, 8)
    assert mean[2, 0] == uneven[2, 0] == 0.5
    assert np.count_nonzero(mean) == np.count_nonzero(uneven) == 1
    assert down[:, 0].tolist() == [0, 0.125, 0.25, 0.125, *[0] * 12]  # slope 1/2 at both pixels of each edge
    assert across[2].tolist() == [0.125, 0.125, *[0] * 6]  # the border has no edge


def test_a_slice_without_contrast_has_no_plane() -> None:
    thumbnails = np.stack([np.full((48, 48), 90, np.uint8), head("axial")])
    assert planes(thumbnails) == ("", "axial")
    assert planes(thumbnails[:0]) == ()


def test_the_pixels_are_averaged_to_mean_0_and_norm_1() -> None:
    pixels = standardised(np.kron(np.eye(2), np.full((24, 24), 200)).astype(np.uint8)[None])
    assert pixels.shape == (1, 32, 32)
    assert pixels[0, 0, 0] == pytest.approx(1 / 32)
    assert pixels[0, 0, -1] == pytest.approx(-1 / 32)


@pytest.mark.parametrize("shape", [(48, 48), (2, 16, 16), (2, 48, 32), (2, 48, 48, 1)])
def test_thumbnails_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected thumbnails \(N, S, S\) of at least 32 pixels, got \("):
        planes(np.zeros(shape, np.uint8))


def test_the_weights_are_small_and_need_no_pickle() -> None:
    weights = np.load(WEIGHTS, allow_pickle=False)
    assert (weights.shape, weights.dtype) == ((513, len(PLANES)), np.float32)
    assert WEIGHTS.stat().st_size < 50_000


def test_every_label_names_an_image_once_with_a_known_plane_and_role() -> None:
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image"] for row in rows}) == len(rows)
    assert {row["plane"] for row in rows} == set(PLANES)
    assert {row["role"] for row in rows} == {"test", "drawn", "uncertain"}


@pytest.mark.data
def test_the_planes_of_the_test_slices_are_as_right_as_recorded(data_folder: Path) -> None:
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["role"] == "test"]
    result = planes(np.concatenate([make_thumbnail(read(data_folder / row["image"])).head for row in rows]))
    right = sum(row["plane"] == plane for row, plane in zip(rows, result, strict=True))
    assert abs(right - RIGHT_OF_TEST) <= 1  # another decoder may tip one
