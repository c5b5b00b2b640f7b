import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from braintumor.data.manifest import Manifest
from braintumor.data.phantom import write_phantoms
from braintumor.data.split import leaks
from braintumor.errors import DataError, StorageError, UnreadableDataError
from braintumor.io.read import read
from braintumor.models.preprocess import Preprocess
from braintumor.training import data as data_module
from braintumor.training.data import decoded, prepare


def prepared(data: Path, cache: Path, *, skip_unreadable: bool = False) -> tuple[Manifest, dict[str, str]]:
    return prepare(data, cache, fraction=0.15, seed=0, skip_unreadable=skip_unreadable)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_phantoms(tmp_path / "data", 20, size=112)
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def silent(_: str) -> None:
    pass


def test_validation_is_cut_in_whole_groups_and_a_mirrored_copy_stays_with_its_original(data: Path, cache: Path) -> None:
    from PIL import Image, ImageOps

    folder = data / "Training" / "glioma"
    for file in sorted(folder.iterdir()):
        ImageOps.mirror(Image.open(file)).save(folder / f"mirrored-{file.name}")
    manifest, _ = prepared(data, cache)
    assert leaks(manifest) == []
    split_of = {row.image: row.split for row in manifest.rows}
    group_of = {row.image: row.group for row in manifest.rows}
    for file in sorted(folder.glob("mirrored-*")):
        original = f"Training/glioma/{file.name.removeprefix('mirrored-')}"
        mirrored = f"Training/glioma/{file.name}"
        assert group_of[mirrored] == group_of[original]
        assert split_of[mirrored] == split_of[original]


def test_the_test_part_is_neither_listed_nor_opened(data: Path, cache: Path) -> None:
    for file in (data / "Testing" / "glioma").iterdir():
        file.write_bytes(b"not an image")
    manifest, _ = prepared(data, cache)
    assert {row.split for row in manifest.rows} == {"train", "val"}
    assert not any("Testing" in row.image for row in manifest.rows)


def test_class_folders_alone_get_a_recorded_test_part(data: Path, cache: Path) -> None:
    manifest, _ = prepared(data / "Training", cache)
    assert set(manifest.counts()) == {"train", "val", "test"}
    assert leaks(manifest) == []


def test_a_given_validation_part_is_used(data: Path, cache: Path) -> None:
    (data / "Training").rename(data / "train")
    (data / "Testing").rename(data / "val")
    manifest, _ = prepared(data, cache)
    assert {row.split for row in manifest.rows if row.image.startswith("val/")} == {"val"}
    assert {row.split for row in manifest.rows if row.image.startswith("train/")} == {"train"}


def test_a_given_validation_part_that_leaks_is_refused_with_the_images(data: Path, cache: Path) -> None:
    (data / "Training").rename(data / "train")
    (data / "Testing").rename(data / "val")
    copied = sorted((data / "train" / "glioma").iterdir())[0]
    (data / "val" / "glioma" / "copy.png").write_bytes(copied.read_bytes())
    with pytest.raises(
        DataError, match=r"1 validation image\(s\) have a duplicate in the training part.*\n  val/glioma/copy"
    ):
        prepared(data, cache)


def test_every_unreadable_file_is_named_at_once(data: Path, cache: Path) -> None:
    (data / "Training" / "glioma" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (data / "Training" / "notumor" / "text.jpg").write_text("not a picture")
    (data / "Training" / "notumor" / "empty.jpg").touch()
    (data / "Training" / "notumor" / "notes.txt").write_text("not even by name")
    with pytest.raises(UnreadableDataError) as caught:
        prepared(data, cache)
    assert set(caught.value.problems) == {
        "Training/glioma/cut.png",
        "Training/notumor/text.jpg",
        "Training/notumor/empty.jpg",
        "Training/notumor/notes.txt",
    }
    manifest, skipped = prepared(data, cache, skip_unreadable=True)
    assert set(skipped) == set(caught.value.problems)
    assert not set(skipped) & {row.image for row in manifest.rows}


def test_a_class_of_which_nothing_can_be_decoded_is_no_small_loss(data: Path, cache: Path) -> None:
    for file in (data / "Training" / "glioma").iterdir():
        file.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"no usable image of glioma in .*:\n  Training/glioma/"):
        prepared(data, cache, skip_unreadable=True)


def test_the_second_time_nothing_is_decoded(data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = prepared(data, cache)
    images = decoded(first.part("train"), 40, cache, silent)
    monkeypatch.setattr(data_module, "read", None)
    monkeypatch.setattr(data_module, "make_thumbnails", None)
    second, _ = prepared(data, cache)
    assert second == first
    assert np.array_equal(decoded(second.part("train"), 40, cache, silent).grey, images.grey)


def test_the_cache_holds_what_preprocess_makes_in_the_order_of_the_labels(data: Path, cache: Path) -> None:
    manifest = prepared(data, cache)[0].part("train")
    images = decoded(manifest, 40, cache, silent)
    for index in (0, 17, len(manifest.rows) - 1):
        row = manifest.rows[index]
        assert np.array_equal(images.grey[index], Preprocess(40).grey_levels(read(manifest.path(row))))
        assert ("glioma", "meningioma", "pituitary", "no_tumor")[int(images.labels[index])] == row.label


def test_a_changed_image_makes_a_new_cache_entry(data: Path, cache: Path) -> None:
    before = decoded(prepared(data, cache)[0].part("train"), 40, cache, silent)
    manifest = prepared(data, cache)[0].part("train")
    manifest.path(manifest.rows[0]).write_bytes(manifest.path(manifest.rows[1]).read_bytes())
    after = decoded(prepared(data, cache)[0].part("train"), 40, cache, silent)
    assert not np.array_equal(before.grey[0], after.grey[0])


@pytest.mark.parametrize("damage", ["flip", "cut", "seal", "manifest"])
def test_a_damaged_cache_is_made_again(data: Path, cache: Path, damage: str) -> None:
    manifest, _ = prepared(data, cache)
    expected = np.array(decoded(manifest.part("val"), 40, cache, silent).grey)
    file = next((cache / "images").glob("*.npy"))
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "seal":
        next((cache / "images").glob("*.json")).write_text(json.dumps({"sha256": "0"}))
    else:
        next((cache / "manifests").glob("*/manifest.csv")).write_text("image\n")
    again, _ = prepared(data, cache)
    assert again == manifest
    assert np.array_equal(decoded(again.part("val"), 40, cache, silent).grey, expected)


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_entry(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    manifest = prepared(data, cache)[0].part("val")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space or choose another folder"):
        decoded(manifest, 40, cache, silent)
    assert list((cache / "images").iterdir()) == []


def test_batches_hold_all_images_in_order(data: Path, cache: Path) -> None:
    images = decoded(prepared(data, cache)[0].part("val"), 40, cache, silent)
    batches = list(images.batches(3, torch.device("cpu")))
    together = torch.cat([batch for batch, _ in batches])
    assert torch.equal((together * 255).round().to(torch.uint8)[:, 0], torch.from_numpy(np.array(images.grey)))
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
