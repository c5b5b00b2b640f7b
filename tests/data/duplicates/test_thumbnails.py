"""What a slice looks like in small, and that no file is decoded for it twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.data.duplicates import thumbnails as module
from braintumor.data.duplicates.thumbnails import (
    CACHE_VERSION,
    Thumbnails,
    make_thumbnail,
    make_thumbnails,
    sharing_bytes,
)
from braintumor.data.manifest import Manifest, Row
from braintumor.data.phantom import phantom
from braintumor.files import file_sha256
from braintumor.io.read import read
from braintumor.io.scan import Scan

HEADS = [phantom("glioma", seed, size=96) for seed in range(2)]


def equal(thumbnails: Thumbnails, expected: Thumbnails) -> bool:
    return all(np.array_equal(getattr(thumbnails, name), getattr(expected, name)) for name in vars(expected))


def test_the_head_is_the_box_of_what_is_bright() -> None:
    image = np.zeros((100, 200), np.float32)
    image[20:60, 50:150] = 0.6
    thumbnails = make_thumbnail(Scan(image))
    assert thumbnails.box[0].tolist() == pytest.approx([0.2, 0.6, 0.25, 0.75])
    assert (thumbnails.head == 153).all()  # 0.6 of 255
    assert thumbnails.whole.shape == thumbnails.head.shape == (1, 48, 48)
    assert thumbnails.fine.shape == (1, 64, 64)
    assert thumbnails.whole.mean() == pytest.approx(153 * 0.2, abs=3)  # it covers 40 % of the height, half of the width


def test_a_few_bright_pixels_are_no_head() -> None:
    image = np.zeros((100, 100), np.float32)
    image[:, 99] = 1
    image[40:60, 30:70] = 0.6  # 40 % of 20 rows
    image[5, 5] = 1
    box = make_thumbnail(Scan(image)).box[0]
    assert box.tolist() == pytest.approx([0.4, 0.6, 0.3, 1.0])  # rows with one bright pixel of 100 do not count


@pytest.mark.parametrize("grey", [0.0, 0.05])
def test_a_dark_slice_has_no_head(grey: float) -> None:
    thumbnails = make_thumbnail(Scan(np.full((64, 64), grey, np.float32)))
    assert not thumbnails.head.any()
    assert thumbnails.box.tolist() == [[0, 1, 0, 1]]


def test_miniatures_are_taken_apart_and_stacked_again() -> None:
    both = Thumbnails.stacked([make_thumbnail(Scan(head)) for head in HEADS])
    assert equal(Thumbnails.stacked([both[[0]], both[1:]]), both)
    assert len(Thumbnails.stacked([])) == 0


@pytest.fixture
def heads(tmp_path: Path) -> Manifest:
    """Return two files of different heads, listed with their SHA-256."""
    for name, head in zip(("a.png", "b.png"), HEADS, strict=True):
        Image.fromarray((head * 255).astype(np.uint8)).save(tmp_path / name)
    return listed(tmp_path, "a.png", "b.png")


def listed(root: Path, *names: str) -> Manifest:
    """Return the manifest of these files as they are now."""
    return Manifest(root, tuple(Row(name, "glioma", sha256=file_sha256(root / name)) for name in names))


def test_unreadable_images_are_all_named_and_get_zeros(heads: Manifest) -> None:
    (heads.root / "bad.png").write_bytes(b"no image")
    rows = [*listed(heads.root, "bad.png", "a.png").rows, Row("gone.png", "glioma", sha256="0")]
    thumbnails, problems = make_thumbnails(Manifest(heads.root, tuple(rows)), heads.root / "cache")
    assert problems == {
        "bad.png": "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file",
        "gone.png": "no such file or directory",
    }
    for pictures in (thumbnails.whole, thumbnails.head, thumbnails.fine):
        assert pictures.any(axis=(1, 2)).tolist() == [False, True, False]
    assert not (heads.root / "cache").exists()


def test_no_file_is_decoded_for_its_miniature_twice(heads: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = make_thumbnails(heads, heads.root / "cache")
    assert equal(first, Thumbnails.stacked([make_thumbnail(read(heads.path(row))) for row in heads]))
    monkeypatch.setattr(module, "read", None)
    again, problems = make_thumbnails(heads, heads.root / "cache")
    assert equal(again, first)
    assert problems == {}


def test_a_changed_file_has_a_new_miniature(heads: Manifest) -> None:
    before, _ = make_thumbnails(heads, heads.root / "cache")
    heads.path(heads.rows[0]).write_bytes(heads.path(heads.rows[1]).read_bytes())
    after, _ = make_thumbnails(listed(heads.root, "a.png", "b.png"), heads.root / "cache")
    assert equal(after, before[[1, 1]])


def test_the_miniature_of_a_file_that_changed_after_listing_is_not_kept(heads: Manifest) -> None:
    file = heads.path(heads.rows[0])
    listed_content = file.read_bytes()
    file.write_bytes(heads.path(heads.rows[1]).read_bytes())
    make_thumbnails(heads, heads.root / "cache")
    file.write_bytes(listed_content)
    thumbnails, _ = make_thumbnails(heads, heads.root / "cache")
    assert equal(thumbnails[:1], make_thumbnail(read(file)))


def test_images_without_a_hash_are_not_mistaken_for_others(heads: Manifest) -> None:
    rows = [replace(row, sha256="") for row in heads]
    first, second = (make_thumbnails(Manifest(heads.root, (row,)), heads.root / "cache")[0] for row in rows)
    assert not np.array_equal(first.whole, second.whole)


@pytest.mark.parametrize("damage", [slice(-1, None), slice(0, 1), slice(0, None)])
def test_damaged_miniatures_are_made_again(heads: Manifest, damage: slice) -> None:
    first, _ = make_thumbnails(heads, heads.root / "cache")
    (file,) = (heads.root / "cache" / "miniatures").iterdir()
    content = bytearray(file.read_bytes())
    content[damage] = b"!"
    file.write_bytes(content)
    assert equal(make_thumbnails(heads, heads.root / "cache")[0], first)
    assert file.read_bytes() != content


def test_a_cache_that_cannot_be_written_is_done_without(heads: Manifest) -> None:
    (heads.root / "cache").write_text("a file, not a folder")
    thumbnails, problems = make_thumbnails(heads, heads.root / "cache")
    assert (len(thumbnails), problems) == (2, {})


def test_the_miniature_measures_what_it_did_when_the_cache_version_was_given() -> None:
    image = (np.arange(60 * 50) * 37 % 101 / 100).reshape(60, 50).astype(np.float32)
    image[:7] = 0
    thumbnails = make_thumbnail(Scan(image))
    middle = [picture[0, 20, 30:34].tolist() for picture in (thumbnails.whole, thumbnails.head, thumbnails.fine)]
    assert CACHE_VERSION == 3
    assert middle == MIDDLE, "another measure: raise CACHE_VERSION"
    assert thumbnails.box.tolist() == [[np.float32(7 / 60), 1, 0, 1]]


MIDDLE = [[71, 166, 3, 97], [140, 235, 71, 166], [128, 217, 103, 58]]


def test_images_with_the_same_bytes_are_paired_with_the_first() -> None:
    rows = tuple(Row(f"{number}.png", "glioma", sha256=sha) for number, sha in enumerate("abacba"))
    assert list(sharing_bytes(Manifest(Path(), rows))) == [(0, 2), (1, 4), (0, 5)]
    unknown = tuple(replace(row, sha256="") for row in rows)
    assert list(sharing_bytes(Manifest(Path(), unknown))) == []
