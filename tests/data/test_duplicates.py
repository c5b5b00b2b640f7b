"""Which images count as the same slice."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.data import duplicates
from braintumor.data.duplicates import CACHE_VERSION, components, group, similar_pairs, thumbnail, thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, Row
from braintumor.data.phantom import phantom
from braintumor.data.split import leaks, split
from braintumor.files import file_sha256
from braintumor.read import read
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


def test_pairs_within_one_stack_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(1)
    stack = random.normal(size=(1100, 32, 32)).astype(np.float32)
    stack[1080], stack[9], stack[1030] = stack[3], stack[1040][:, ::-1], stack[1029]
    stack /= np.linalg.norm(stack, axis=(1, 2), keepdims=True)
    i, j = similar_pairs(stack)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(3, 1080), (9, 1040), (1029, 1030)]


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.05])
def test_a_pair_counts_by_the_larger_of_both_correlations(threshold: float) -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 40, 32, 32)).astype(np.float32)
    a, b = (stack / np.linalg.norm(stack, axis=(1, 2), keepdims=True) for stack in (a, b))
    expected = [
        (i, j)
        for i in range(40)
        for j in range(40)
        if max((a[i] * b[j]).sum(), (a[i] * b[j][:, ::-1]).sum()) > threshold
    ]
    found = similar_pairs(a, b, threshold)
    assert 0 < len(expected) < 1600
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected


def test_components_of_a_chain_a_pair_and_a_loner() -> None:
    links = np.array([[5, 3], [3, 0], [0, 6], [1, 4]])
    assert components(7, np.concatenate([links, links[:, ::-1]])).tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert components(0, np.empty((0, 2), np.int64)).tolist() == []


def test_long_chains_are_one_component() -> None:
    order = np.random.default_rng(0).permutation(500)
    links = np.stack([order[:-1], order[1:]], axis=1)
    assert components(500, np.concatenate([links, links[:, ::-1]])).max() == 0


@pytest.fixture
def heads(tmp_path: Path) -> Manifest:
    """Return two files of different heads, listed with their SHA-256."""
    for name, head in zip(("a.png", "b.png"), HEADS, strict=False):
        Image.fromarray((head * 255).astype(np.uint8)).save(tmp_path / name)
    return listed(tmp_path, "a.png", "b.png")


def listed(root: Path, *names: str) -> Manifest:
    """Return the manifest of these files as they are now."""
    return Manifest(root, tuple(Row(name, "glioma", sha256=file_sha256(root / name)) for name in names))


def test_unreadable_images_are_all_named_and_get_zeros(heads: Manifest) -> None:
    (heads.root / "bad.png").write_bytes(b"no image")
    rows = [*listed(heads.root, "bad.png", "a.png").rows, Row("gone.png", "glioma", sha256="0")]
    stack, problems = thumbnails(Manifest(heads.root, tuple(rows)), heads.root / "cache")
    assert problems == {
        "bad.png": "not a readable PNG, JPEG, TIFF or BMP image",
        "gone.png": "no such file or directory",
    }
    assert stack.any(axis=(1, 2)).tolist() == [False, True, False]
    assert not (heads.root / "cache").exists()


def test_no_file_is_decoded_for_its_miniature_twice(heads: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = thumbnails(heads, heads.root / "cache")
    np.testing.assert_array_equal(first, [thumbnail(read(heads.path(row))) for row in heads])
    monkeypatch.setattr(duplicates, "read", None)
    again, problems = thumbnails(heads, heads.root / "cache")
    np.testing.assert_array_equal(again, first)
    assert problems == {}


def test_a_changed_file_has_a_new_miniature(heads: Manifest) -> None:
    before, _ = thumbnails(heads, heads.root / "cache")
    heads.path(heads.rows[0]).write_bytes(heads.path(heads.rows[1]).read_bytes())
    after, _ = thumbnails(listed(heads.root, "a.png", "b.png"), heads.root / "cache")
    np.testing.assert_array_equal(after, before[[1, 1]])


def test_the_miniature_of_a_file_that_changed_after_listing_is_not_kept(heads: Manifest) -> None:
    file = heads.path(heads.rows[0])
    listed_content = file.read_bytes()
    file.write_bytes(heads.path(heads.rows[1]).read_bytes())
    thumbnails(heads, heads.root / "cache")
    file.write_bytes(listed_content)
    stack, _ = thumbnails(heads, heads.root / "cache")
    np.testing.assert_array_equal(stack[0], thumbnail(read(file)))


def test_images_without_a_hash_are_not_mistaken_for_others(heads: Manifest) -> None:
    rows = [replace(row, sha256="") for row in heads]
    first, second = (thumbnails(Manifest(heads.root, (row,)), heads.root / "cache")[0] for row in rows)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("damage", [slice(-1, None), slice(0, 1), slice(0, None)])
def test_damaged_miniatures_are_made_again(heads: Manifest, damage: slice) -> None:
    first, _ = thumbnails(heads, heads.root / "cache")
    (file,) = (heads.root / "cache" / "thumbnails").iterdir()
    content = bytearray(file.read_bytes())
    content[damage] = b"?"
    file.write_bytes(content)
    np.testing.assert_array_equal(thumbnails(heads, heads.root / "cache")[0], first)
    assert file.read_bytes() != content


def test_a_cache_that_cannot_be_written_is_done_without(heads: Manifest) -> None:
    (heads.root / "cache").write_text("a file, not a folder")
    stack, problems = thumbnails(heads, heads.root / "cache")
    assert (len(stack), problems) == (2, {})


def test_the_miniature_measures_what_it_did_when_the_cache_version_was_given() -> None:
    image = np.outer(np.linspace(0.1, 1, 60), np.linspace(0.2, 1, 50)).astype(np.float32)
    corners = thumbnail(Scan(image))[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert CACHE_VERSION == 1
    assert corners.tolist() == pytest.approx([-0.0451, -0.0328, -0.0182, 0.0956], abs=1e-4), (
        "another measure: raise CACHE_VERSION"
    )


@pytest.mark.data
def test_the_public_set_falls_into_groups_that_can_be_split(tmp_path: Path) -> None:
    if "BRAINTUMOR_DATA" not in os.environ:
        pytest.skip("BRAINTUMOR_DATA does not name the folder with the real data")
    manifest = list_images(Path(os.environ["BRAINTUMOR_DATA"]) / "brain-tumor-mri").manifest
    assert len(manifest) == 7019
    stack, _ = thumbnails(manifest, tmp_path)
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
