"""Which images count as the same slice."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.data.duplicates import components, group, similar_pairs, thumbnail, thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, Row
from braintumor.data.phantom import phantom
from braintumor.data.split import leaks, split
from braintumor.errors import UnreadableDataError
from braintumor.scan import Scan

HEADS = [phantom("glioma", seed, size=96) for seed in range(3)]


def miniatures(*images: np.ndarray) -> np.ndarray:
    """Return the stacked thumbnails of grey images."""
    return np.stack([thumbnail(Scan(np.ascontiguousarray(image, np.float32))) for image in images])


def test_thumbnails_have_mean_0_and_norm_1() -> None:
    small = thumbnail(Scan(HEADS[0]))
    assert (small.shape, small.dtype) == ((32, 32), np.float32)
    assert small.mean() == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(small) == pytest.approx(1, abs=1e-6)


def test_thumbnails_do_not_depend_on_the_black_around_the_head() -> None:
    padded = np.pad(HEADS[0], ((40, 7), (3, 60)))
    plain, moved = miniatures(HEADS[0], padded)
    assert (plain * moved).sum() > 0.999


def test_a_block_image_averages_to_known_values() -> None:
    image = np.repeat(np.repeat(np.array([[0.2, 0.4], [0.6, 0.8]], np.float32), 64, axis=0), 64, axis=1)
    small = thumbnail(Scan(image))
    assert small[0, 0] / small[-1, -1] == pytest.approx(-1)  # 0.2 and 0.8 lie 0.3 around the mean
    assert small[0, -1] / small[-1, -1] == pytest.approx(-1 / 3)


@pytest.mark.parametrize("grey", [0.0, 0.05, 0.7])
def test_blank_slices_resemble_nothing(grey: float) -> None:
    blank = miniatures(*[np.full((64, 64), grey)] * 2)
    assert not blank.any()
    assert group(blank, ["", ""]).tolist() == [0, 1]


def test_copies_resized_brightened_and_mirrored_ones_are_one_group() -> None:
    larger = np.asarray(Image.fromarray(HEADS[0]).resize((200, 200), Image.Resampling.BICUBIC)).clip(0, 1)
    images = miniatures(HEADS[0], HEADS[1], HEADS[0] * 0.8, HEADS[0][:, ::-1], larger, HEADS[2])
    assert group(images, [""] * 6).tolist() == [0, 1, 0, 0, 0, 2]


def test_equal_bytes_are_one_group_whatever_the_picture() -> None:
    assert group(miniatures(*HEADS), ["a", "b", "a"]).tolist() == [0, 1, 0]


def test_similar_pairs_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(count, 32, 32)).astype(np.float32) for count in (1100, 5))
    a[1050], a[7] = b[2], b[4][:, ::-1]
    a, b = (stack / np.linalg.norm(stack, axis=(1, 2), keepdims=True) for stack in (a, b))
    i, j = similar_pairs(a, b)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(7, 4), (1050, 2)]


def test_components_of_a_chain_a_pair_and_a_loner() -> None:
    links = np.array([[5, 3], [3, 0], [0, 6], [1, 4]])
    assert components(7, np.concatenate([links, links[:, ::-1]])).tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert components(0, np.empty((0, 2), np.int64)).tolist() == []


def test_long_chains_are_one_component() -> None:
    order = np.random.default_rng(0).permutation(500)
    links = np.stack([order[:-1], order[1:]], axis=1)
    assert components(500, np.concatenate([links, links[:, ::-1]])).max() == 0


def test_unreadable_images_are_all_named_or_get_zeros(tmp_path: Path) -> None:
    Image.fromarray((HEADS[0] * 255).astype(np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    manifest = Manifest(tmp_path, tuple(Row(name, "glioma") for name in ("bad.png", "good.png", "gone.png")))
    problems = {"bad.png": "not a readable PNG, JPEG, TIFF or BMP image", "gone.png": "no such file or directory"}
    with pytest.raises(UnreadableDataError) as caught:
        thumbnails(manifest)
    assert caught.value.problems == problems
    stack, skipped = thumbnails(manifest, skip_unreadable=True)
    assert skipped == problems
    assert stack.any(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.data
def test_the_public_set_falls_into_groups_that_can_be_split() -> None:
    if "BRAINTUMOR_DATA" not in os.environ:
        pytest.skip("BRAINTUMOR_DATA does not name the folder with the real data")
    manifest = list_images(Path(os.environ["BRAINTUMOR_DATA"]) / "brain-tumor-mri").manifest
    assert len(manifest) == 7019
    stack, _ = thumbnails(manifest)
    numbers = group(stack, [row.sha256 for row in manifest])
    assert 3700 < numbers.max() + 1 < 4100
    rows = tuple(replace(row, group=str(number)) for row, number in zip(manifest, numbers, strict=True))
    known = {row.group for row in rows if row.split == "train"}
    assert sum(row.group in known for row in rows if row.split == "test") > 216  # the byte-identical ones alone
    done = split(Manifest(manifest.root, rows).part("train"))
    assert leaks(done) == []
    counts = done.counts()
    for label in CLASSES:
        share = counts["val"][label] / (counts["val"][label] + counts["train"][label])
        assert share == pytest.approx(0.15, abs=0.01)
