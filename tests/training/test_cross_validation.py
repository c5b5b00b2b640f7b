"""Patient-disjoint folds: who is tested by which model."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row, read_manifest, write_manifest
from braintumor.data.phantom import write_phantoms
from braintumor.errors import DataError
from braintumor.evaluate.cross_validation import check_disjoint, evaluate_folds
from braintumor.training import cross_validation as module
from braintumor.training.config import recipe
from braintumor.training.cross_validation import FOLDS, divided, folds, part_of

pytestmark = pytest.mark.slow

CONFIG = replace(
    recipe("best", "cnn"), epochs=1, size=32, train_sizes=(32,), source_size=32, batch_size=8, norm_batches=1
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with training and test parts, in which a training slice of each class is repeated in the test."""
    folder = tmp_path_factory.mktemp("folds") / "data"
    write_phantoms(folder, 12, size=48)
    for training in sorted((folder / "Training").glob("*/*.png"))[::9]:
        copy = folder / "Testing" / training.parent.name / f"copy-{training.name}"
        copy.write_bytes(training.read_bytes())
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory, quick_export: None) -> Path:
    """Return the folder of five trained folds with their pooled report."""
    out = tmp_path_factory.mktemp("folds") / "out"
    folds(CONFIG, data, out, lambda _: None)
    return out


def test_every_image_is_tested_once_by_a_model_that_has_not_seen_its_group(data: Path, trained: Path) -> None:
    manifests = [read_manifest(trained / str(fold) / "manifest.csv", data) for fold in range(FOLDS)]
    tested = [row.image for manifest in manifests for row in manifest.part("test")]
    assert sorted(tested) == sorted(file.relative_to(data).as_posix() for file in data.rglob("*.png"))
    for manifest in manifests:
        assert {row.split for row in manifest} == {"train", "val", "test"}
        parts = [{row.group for row in manifest.part(split)} for split in ("train", "val", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_the_pooled_report_states_its_protocol_and_groups(data: Path, trained: Path) -> None:
    report = json.loads((trained / "evaluation" / "report.json").read_text())
    with (trained / "evaluation" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = len(list(data.rglob("*.png")))
    assert (report["protocol"], report["n_images"], len(rows)) == ("folds", images, images)
    assert report["n_groups"] == len(set(report["groups"])) < images  # the copies share the group of their originals
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(right)
    assert (report["leakage"]["exact"], report["leakage"]["near"], report["leakage"]["shared"]) == (0, 0, 0)


def test_finished_folds_are_kept_and_missing_ones_are_trained(
    data: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", None)  # would fail if called
    lines: list[str] = []
    folds(CONFIG, data, trained, lines.append)
    assert lines == []


def test_folds_are_the_same_every_time_and_balanced(data: Path) -> None:
    manifest, numbers = divided(data)
    again, repeated = divided(data)
    assert manifest == again
    assert np.array_equal(numbers, repeated)
    for label in CLASSES:
        in_class = np.array([row.label == label for row in manifest])
        assert np.ptp(np.bincount(numbers[in_class], minlength=FOLDS)) <= 2


def test_a_group_tested_in_two_folds_is_refused(tmp_path: Path) -> None:
    def manifest(image: str, group: str) -> Manifest:
        return Manifest(tmp_path, (Row(image, "glioma", group, split="test"),))

    check_disjoint([manifest("a.png", "g1"), manifest("b.png", "g2")])
    with pytest.raises(DataError, match=r"b\.png or its group g1 is tested in several folds"):
        check_disjoint([manifest("a.png", "g1"), manifest("b.png", "g1")])
    with pytest.raises(DataError, match=r"a\.png or its group g2 is tested in several folds"):
        check_disjoint([manifest("a.png", "g1"), manifest("a.png", "g2")])


def test_an_overlap_of_training_and_test_within_a_fold_is_refused(data: Path, trained: Path, tmp_path: Path) -> None:
    folder = trained / "0"
    rows = list(read_manifest(folder / "manifest.csv", data))
    tested = next(row for row in rows if row.split == "test")
    leaking = [replace(row, group=tested.group) if row.split == "train" else row for row in rows]
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    write_manifest(Manifest(data, tuple(leaking)), tmp_path / "manifest.csv")
    with pytest.raises(DataError, match="groups that cross splits"):
        evaluate_folds([tmp_path], data, tmp_path / "out")


def test_a_part_keeps_the_folds_images_for_the_test(data: Path) -> None:
    manifest, numbers = divided(data)
    part = part_of(manifest, numbers, 2, CONFIG)
    assert {row.image for row in part.part("test")} == {
        row.image for row, number in zip(manifest, numbers.tolist(), strict=True) if number == 2
    }


def test_a_reference_folder_is_divided_by_patient(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "phantoms", 24, size=48)
    (tmp_path / "figshare" / "images").mkdir(parents=True)
    lines = ["figshare_id,class,patient,tumor_outline_xy"]
    files = sorted((tmp_path / "phantoms" / "Training").glob("*/*.png"))
    for number, file in enumerate(file for file in files if "notumor" not in str(file)):
        (tmp_path / "figshare" / "images" / f"{number}.png").write_bytes(file.read_bytes())
        lines.append(f"{number},{file.parent.name},P{number // 2},1 1;5 1;5 5")
    (tmp_path / "figshare" / "annotations.csv").write_text("\n".join(lines) + "\n")
    manifest, numbers = divided(tmp_path / "figshare")
    of_patient = {row.patient: set[int]() for row in manifest}
    for row, fold in zip(manifest, numbers.tolist(), strict=True):
        of_patient[row.patient].add(fold)
    assert all(len(folds_of_patient) == 1 for folds_of_patient in of_patient.values())
    assert set(numbers.tolist()) == set(range(FOLDS))


@pytest.mark.slow
def test_test_images_whose_group_was_in_training_after_all_are_left_out(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    """Folds drawn by groups of an older version: a copy of a test image lies in training under another group."""
    folder = tmp_path / "0"
    folder.mkdir()
    for file in ("model.onnx", "card.json"):
        (folder / file).write_bytes((trained / "0" / file).read_bytes())
    rows = {row.image: row for row in read_manifest(trained / "0" / "manifest.csv", data)}
    copies = {Path(image).name.removeprefix("copy-"): image for image in rows if "copy-" in image}
    original, copy = next((image, copies[Path(image).name]) for image in rows if Path(image).name in copies)
    own = (replace(row, group=f"own {number}") for number, row in enumerate(rows.values()))
    split = {original: "train", copy: "test"}
    parted = (replace(row, split=split.get(row.image, row.split)) for row in own)
    write_manifest(Manifest(data, tuple(parted)), folder / "manifest.csv")
    rest = tmp_path / "1"  # the other images are tested somewhere, too
    rest.mkdir()
    for file in ("model.onnx", "card.json"):
        (rest / file).write_bytes((trained / "0" / file).read_bytes())
    tested = {row.image for row in read_manifest(folder / "manifest.csv", data).part("test")}
    others = (replace(row, group="", split="test") for image, row in rows.items() if image not in tested)
    write_manifest(Manifest(data, tuple(others)), rest / "manifest.csv")
    report = evaluate_folds([folder, rest], data, tmp_path / "out")
    assert report.excluded >= 1
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert copy not in [row["image"] for row in csv.DictReader(file)]
