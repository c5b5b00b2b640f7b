import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.classes import DISCLAIMER
from braintumor.data.audit import AuditResult, audit
from braintumor.data.duplicates.kinds import Count, Pair
from braintumor.data.phantom import phantom, write_phantoms
from braintumor.errors import DataError


def ignore(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def result(flawed: Path) -> AuditResult:
    return audit(flawed, None, ignore, ignore)


def test_every_kind_of_copy_is_counted(result: AuditResult) -> None:
    assert result.copies["bytes"] == Count(pairs=2, images=4, across_splits=1, across_classes=1)
    assert result.copies["pixels"] == Count(pairs=1, images=2, across_splits=1, across_classes=0)
    assert result.copies["near"] == Count(pairs=1, images=2, across_splits=1, across_classes=0)
    assert result.copies["turned"] == Count(pairs=2, images=4, across_splits=2, across_classes=0)
    assert result.copies["related"] == Count(pairs=0, images=0, across_splits=0, across_classes=0)


def test_a_listed_pair_says_how_the_first_becomes_the_second(result: AuditResult) -> None:
    mirrored, turned = sorted(result.pairs["turned"], key=lambda pair: pair.rotation)
    assert mirrored.images == ("Testing/notumor/mirrored.png", "Training/notumor/notumor-0001.png")
    assert (mirrored.mirrored, mirrored.rotation, mirrored.splits) == (True, 0, ("test", "train"))
    assert mirrored.score == pytest.approx(1, abs=0.001)
    assert turned.images == ("Testing/notumor/turned.png", "Training/notumor/notumor-0002.png")
    assert (turned.mirrored, turned.rotation) == (False, 270)  # what was turned by 90 degrees is turned further


def test_every_test_image_counts_once_by_its_closest_relation(result: AuditResult) -> None:
    assert result.held_out == "test"
    assert result.relations == {
        "bytes": 1,
        "pixels": 1,
        "near": 1,
        "turned": 2,
        "related": 0,
        "group": 0,
        "none": 4,
    }
    assert (result.sharing, result.n_held_out, result.leaks) == (5, 9, True)


def test_one_slice_under_two_labels_is_a_conflict(result: AuditResult) -> None:
    assert result.n_conflicts == 1
    assert result.conflicts == (
        Pair(
            images=("Training/glioma/glioma-0003.png", "Training/meningioma/conflict.png"),
            labels=("glioma", "meningioma"),
            splits=("train", "train"),
            score=1.0,
            mirrored=False,
            rotation=0,
        ),
    )
    assert result.groups.with_two_labels == 1
    ((name, members),) = result.groups.mixed
    assert members == {"glioma": 1, "meningioma": 1}
    assert {row.image for row in result.rows if row.group == name} == set(result.conflicts[0].images)


def test_groups_and_files_are_counted(result: AuditResult) -> None:
    assert result.images == 24 + 6
    assert (result.groups.number, result.groups.largest, result.groups.across_splits) == (24, 2, 5)
    assert result.unreadable_listed == {
        "Training/glioma/notes.txt": "not an image type (.png, .jpg, .jpeg, .tif, .tiff, .bmp)",
        "Training/pituitary/broken.png": "truncated; copy the file again",
    }
    assert result.unreadable == 2
    assert result.counts["test"] == {"glioma": 2, "meningioma": 2, "pituitary": 2, "no_tumor": 3}
    assert result.looks["pituitary"].formats == {"PNG L": 6, "JPEG L": 1}
    assert result.one_size
    assert result.patients is None


def test_the_json_has_no_paths_of_the_machine_and_no_rows(result: AuditResult, flawed: Path) -> None:
    text = json.dumps(result.to_json(), allow_nan=False)
    fields = json.loads(text)
    assert fields["disclaimer"] == DISCLAIMER
    numbers = fields["summary"]
    assert (numbers["leak"], numbers["images"], numbers["unreadable"], numbers["label_conflicts"]) == (True, 30, 2, 1)
    assert (numbers["held_out_images"], numbers["held_out_images_sharing_a_group"]) == (9, 5)
    assert (numbers["pairs_bytes"], numbers["pairs_turned"], numbers["odd_text"], numbers["patients"]) == (2, 2, 0, 0)
    assert "rows" not in fields
    assert str(flawed) not in text


def test_class_folders_alone_have_nothing_that_crosses_splits(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "parts", 3, size=96)
    (tmp_path / "parts" / "Training").rename(tmp_path / "alone")
    result = audit(tmp_path / "alone", None, ignore, ignore)
    assert (result.held_out, result.relations, result.leaks) == ("", {}, False)
    assert list(result.counts) == [""]


def test_a_set_without_flaws_has_no_findings(tmp_path: Path) -> None:
    write_phantoms(tmp_path, 4, size=96)
    result = audit(tmp_path, None, ignore, ignore)
    assert not result.leaks
    assert sum(count.pairs for count in result.copies.values()) == 0
    assert result.relations["none"] == result.n_held_out == 4
    assert sum(oddity.images for oddity in result.odd.values()) == 0
    assert result.shortcuts is not None
    assert result.shortcuts.alone["format"] == result.shortcuts.chance


def test_pictures_without_structure_are_copies_only_if_identical(tmp_path: Path) -> None:
    write_phantoms(tmp_path, 4, size=96)
    for name, grey in (("a", 0), ("b", 0), ("c", 0), ("d", 9)):
        Image.new("L", (32, 32), grey).save(tmp_path / f"Training/glioma/flat-{name}.png")
    result = audit(tmp_path, None, ignore, ignore)
    assert result.copies["bytes"] == Count(pairs=2, images=3, across_splits=0, across_classes=0)
    assert result.odd["flat"].images == 4


def test_a_set_without_readable_images_is_refused(tmp_path: Path) -> None:
    for name in ("glioma", "notumor"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 2 images in"):
        audit(tmp_path, None, ignore, ignore)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Return a reference folder with two slices of patient A and one of patient B, 192 pixels wide."""
    folder = tmp_path / "reference"
    (folder / "images").mkdir(parents=True)
    lines = [("1", "glioma", "A", 101), ("2", "glioma", "A", 102), ("3", "pituitary", "B", 103)]
    for name, label, _, seed in lines:
        pixels = np.rint(phantom(label, seed, 192) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    with (folder / "annotations.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("figshare_id", "class", "patient", "tumor_outline_xy"))
        writer.writerows((name, label, patient, "1 1;9 1;9 9") for name, label, patient, _ in lines)
    return folder


def test_images_inherit_the_patient_of_their_reference_slice(tmp_path: Path, reference: Path) -> None:
    data = tmp_path / "data"
    write_phantoms(data, 3, size=96)
    first, second = (Image.open(reference / f"images/{name}.png").resize((96, 96)) for name in "12")
    first.save(data / "Testing/glioma/a.png")
    second.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data / "Training/meningioma/b.png")
    messages: list[str] = []
    result = audit(data, reference, ignore, messages.append)
    assert messages == [
        "reading 14 images",
        "comparing 14 images with one another",
        "comparing them with 3 reference slices",
        "measuring shortcuts",
    ]
    rows = {row.image: row for row in result.rows}
    a, b = rows["Testing/glioma/a.png"], rows["Training/meningioma/b.png"]
    assert (a.patient, a.reference_id, a.mirrored, a.rotation) == ("A", "1", "0", "0")
    assert (b.patient, b.reference_id, b.mirrored, b.rotation) == ("A", "2", "1", "0")
    assert [float(edge) for edge in (a.x0, a.y0, a.x1, a.y1)] == pytest.approx([0, 0, 192, 192], abs=4)
    assert a.group == b.group
    assert result.relations["group"] == 1
    assert result.patients is not None
    assert (result.patients.known_by, result.patients.held_out, result.patients.shared) == ("reference", 1, 1)
    assert result.patients.other_labels == (("Training/meningioma/b.png", "meningioma", "2", "glioma"),)


@pytest.mark.data
@pytest.mark.slow
def test_the_public_set_is_recognised(data_folder: Path) -> None:
    result = audit(data_folder / "brain-tumor-mri", None, ignore, ignore)
    assert (result.images, result.unreadable, result.relations["bytes"]) == (7019, 0, 216)
    assert result.patients is not None
    assert (result.patients.known_by, result.patients.held_out, result.patients.shared) == ("shipped", 188, 188)
    assert result.sharing / result.n_held_out > 0.95
