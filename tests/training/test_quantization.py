"""`quantize`: the files that it writes, the numbers that it measures, and its refusals."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, read_manifest, validation_images, write_manifest
from braintumor.errors import DataError, ImageError, ModelError
from braintumor.files import file_sha256
from braintumor.models.session import load_folder
from braintumor.predictor import Prediction, predict
from braintumor.training import integer_network
from braintumor.training import quantization as quantizing
from braintumor.training.quantization import compare_precisions, quantize

VALIDATION = 8


@pytest.fixture
def data_dir(tmp_path: Path, phantoms: Path) -> Path:
    """Return a copy of the phantoms to change."""
    return Path(shutil.copytree(phantoms, tmp_path / "data"))


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path, data_dir: Path) -> Path:
    """Return a copy of the small model; two of the three training slices per class are its validation part."""
    copy = Path(shutil.copytree(model_folder, tmp_path / "model"))
    rows = list_images(data_dir, parts=("train",)).manifest.rows
    parts = [dataclasses.replace(row, split="train" if index % 3 else "val") for index, row in enumerate(rows)]
    others = [dataclasses.replace(row, split="val" if index % 3 == 1 else row.split) for index, row in enumerate(parts)]
    write_manifest(Manifest(data_dir, tuple(others)), copy / "manifest.csv")
    return copy


def validation_files(folder: Path, data_dir: Path) -> list[Path]:
    """Return the files of the validation part, read from the manifest's text."""
    lines = [line.split(",") for line in (folder / "manifest.csv").read_text().splitlines()]
    return [data_dir / line[0] for line in lines if line[-1] == "val"]


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_variant_answers_nearly_as_the_model(folder: Path, data_dir: Path, slices: list[Path]) -> None:
    quantize(folder, data_dir)
    variant = load_folder(folder, precision="int8")
    for expected, prediction in zip(predict(slices, load_folder(folder)), predict(slices, variant), strict=True):
        assert prediction.model == "tiny 1.2 int8"
        assert 0 < np.abs(prediction.probabilities - expected.probabilities).max() < 0.15
    assert (folder / "model.int8.onnx").stat().st_size < 0.35 * (folder / "model.onnx").stat().st_size


def test_slices_of_a_batch_are_answered_as_alone(folder: Path, data_dir: Path, slices: list[Path]) -> None:
    quantize(folder, data_dir)
    variant = load_folder(folder, precision="int8")
    for together, file in zip(predict(slices, variant), slices, strict=True):
        [alone] = predict(file, variant)
        np.testing.assert_allclose(alone.probabilities, together.probabilities, rtol=0, atol=1e-5)
        np.testing.assert_allclose(alone.class_maps, together.class_maps, rtol=0, atol=1e-5 * together.class_maps.max())


def test_the_card_gets_the_measured_agreement_and_nothing_else_changes(folder: Path, data_dir: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["precisions"] = {"float32": {"probability_difference": 1e-6}, "other": {"n": 1}}
    (folder / "card.json").write_text(json.dumps(card))
    before = content(folder)
    returned = quantize(folder, data_dir)
    after = content(folder)
    assert set(after) - set(before) == {"model.int8.onnx"}
    assert {name for name in before if before[name] != after[name]} == {"card.json"}
    written = json.loads(after["card.json"])
    assert written == json.loads(returned.to_json())
    precisions = written.pop("precisions")
    assert precisions.pop("other") == {"n": 1}
    files = validation_files(folder, data_dir)
    labels = ["no_tumor" if file.parent.name == "notumor" else file.parent.name for file in files]
    answers = {precision: predict(files, load_folder(folder, precision=precision)) for precision in ("float32", "int8")}
    right = {
        precision: float(np.mean([answer.predicted == label for answer, label in zip(given, labels, strict=True)]))
        for precision, given in answers.items()
    }
    assert precisions["float32"] == {"probability_difference": 1e-6, "accuracy": right["float32"]}
    parity = precisions["int8"]
    gaps = [np.abs(a.probabilities - b.probabilities) for a, b in zip(*answers.values(), strict=True)]
    assert parity["n"] == len(files) == VALIDATION
    assert parity["accuracy"] == right["int8"]
    assert parity["probability_difference"] == pytest.approx(np.max(gaps), abs=1e-6)
    assert parity["probability_difference_mean"] == pytest.approx(np.mean(gaps), abs=1e-6)
    assert 0.98 <= parity["class_map_correlation"] <= 1
    del card["precisions"], card["rejection"]
    withheld = written.pop("rejection")
    assert list(withheld) == ["int8"]
    assert withheld["int8"]["ood_threshold"] < withheld["int8"]["far_ood_threshold"]
    del written["class_map_scale"], card["class_map_scale"]  # same number, other digits
    assert written == card


def prediction(predicted: str, probabilities: list[float], maps: list[list[float]]) -> Prediction:
    """Return an answer whose class maps have two positions."""
    shares = np.array(probabilities, np.float32)
    return Prediction("x", shares, predicted, predicted, (), np.array(maps, np.float32)[:, None], "tiny", 1.0)


def test_agreement_worked_by_hand() -> None:
    even = [[0.0, 0.0]] * 4
    expected = [
        prediction("glioma", [0.7, 0.1, 0.1, 0.1], [[1, 0], [9, 9], [9, 9], [9, 9]]),
        prediction("pituitary", [0.1, 0.2, 0.5, 0.2], [[9, 9], [9, 9], [0, 3], [9, 9]]),
        prediction("glioma", [0.4, 0.3, 0.2, 0.1], even),
    ]
    predictions = [
        prediction("glioma", [0.6, 0.2, 0.1, 0.1], [[2, 0], [5, 7], [5, 7], [5, 7]]),
        prediction("meningioma", [0.1, 0.5, 0.2, 0.2], [[5, 7], [5, 7], [0, 2], [5, 7]]),
        prediction("glioma", [0.4, 0.3, 0.2, 0.1], even),
    ]
    reference, measured = compare_precisions(expected, predictions, ["glioma", "pituitary", "no_tumor"])
    assert reference == {"accuracy": pytest.approx(2 / 3)}
    # maps of the expected classes: 1 0 0 3 0 0 and 2 0 0 2 0 0
    correlation = np.corrcoef([1, 0, 0, 3, 0, 0], [2, 0, 0, 2, 0, 0])[0, 1]
    assert measured == {
        "probability_difference": pytest.approx(0.3),
        "probability_difference_mean": pytest.approx((0.1 + 0.1 + 0.3 + 0.3) / 12),
        "agreement": pytest.approx(2 / 3),
        "class_map_correlation": pytest.approx(correlation),
        "class_map_correlation_median": pytest.approx(1.0),
        "accuracy": pytest.approx(1 / 3),
        "n": 3,
    }


def test_maps_without_any_evidence_do_not_correlate() -> None:
    blank = [prediction(CLASSES[0], [1, 0, 0, 0], [[0, 0]] * 4)]
    _, measured = compare_precisions(blank, blank, ["glioma"])
    assert measured["class_map_correlation"] == measured["class_map_correlation_median"] == 0


def test_only_validation_images_are_opened(folder: Path, data_dir: Path) -> None:
    quantize(folder, data_dir)
    before = content(folder)
    keep = set(validation_files(folder, data_dir))
    for file in data_dir.rglob("*.png"):
        if file not in keep:
            file.unlink()
    quantize(folder, data_dir)
    assert content(folder) == before


def test_images_that_changed_or_are_missing_do_not_count(folder: Path, data_dir: Path) -> None:
    first, second, *_ = validation_files(folder, data_dir)
    first.unlink()
    Image.new("L", (96, 96), 128).save(second)
    kept = [data_dir / row.image for row in validation_images(folder, data_dir)]
    assert kept == [file for file in validation_files(folder, data_dir) if file not in (first, second)]


def test_without_any_validation_image_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    before = content(folder)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(
        DataError, match=rf"none of the {VALIDATION} validation images in .*manifest\.csv is in .*elsew"
    ):
        quantize(folder, tmp_path / "elsewhere")
    assert content(folder) == before


def test_a_folder_without_a_manifest_is_refused(folder: Path, data_dir: Path) -> None:
    (folder / "manifest.csv").unlink()
    with pytest.raises(DataError, match=r"cannot read the manifest .*manifest\.csv"):
        quantize(folder, data_dir)


def test_a_validation_image_that_cannot_be_read_is_named(folder: Path, data_dir: Path) -> None:
    broken = validation_files(folder, data_dir)[3]
    broken.write_bytes(b"hello")
    rows = read_manifest(folder / "manifest.csv", data_dir).rows
    hashed = [dataclasses.replace(row, sha256=file_sha256(data_dir / row.image)) for row in rows]
    write_manifest(Manifest(data_dir, tuple(hashed)), folder / "manifest.csv")
    before = content(folder)
    with pytest.raises(ImageError, match=f"{broken.name}: not a readable PNG"):
        quantize(folder, data_dir)
    assert content(folder) == before


@pytest.mark.slow
def test_a_variant_that_answers_differently_is_refused_and_the_old_one_stays(
    folder: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(folder, data_dir)
    before = content(folder)
    monkeypatch.setattr(integer_network, "SHARES", np.array([0.02]))  # almost everything is clipped
    with pytest.raises(
        ModelError, match=r"model\.int8\.onnx was not written.*correlation of the class maps -?0\.\d+, at"
    ):
        quantize(folder, data_dir)
    assert content(folder) == before


@pytest.mark.parametrize(
    ("name", "bound", "message"),
    [
        ("LEAST_AGREEMENT", 1.01, "agreement of the classes 1.0000, at least 1.01 is needed; use float32"),
        ("LEAST_CORRELATION", 1.01, r"correlation of the class maps 0.\d+, at least 1.01 is needed; use float32"),
        ("LARGEST_LOSS", -0.01, "share of the accuracy kept 1.0000, at least 1.01 is needed; use float32"),
    ],
)
def test_each_bound_is_kept(
    folder: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, bound: float, message: str
) -> None:
    monkeypatch.setattr(quantizing, name, bound)
    with pytest.raises(ModelError, match=message):
        quantize(folder, data_dir)
    assert not (folder / "model.int8.onnx").exists()
    assert [file.name for file in folder.iterdir() if file.suffix == ".part"] == []


def test_a_second_run_replaces_the_first(folder: Path, data_dir: Path) -> None:
    quantize(folder, data_dir)
    good = (folder / "model.int8.onnx").read_bytes()
    (folder / "model.int8.onnx").write_bytes(b"damaged")
    quantize(folder, data_dir)
    assert (folder / "model.int8.onnx").read_bytes() == good


def test_a_variant_from_before_a_new_training_is_not_used(folder: Path, data_dir: Path) -> None:
    quantize(folder, data_dir)
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"precisions": {"float32": {}}}))
    with pytest.raises(
        ModelError, match=r"card\.json does not know model\.int8\.onnx; write it with: braintumor quant"
    ):
        load_folder(folder, precision="int8")


def test_calibration_takes_images_from_the_whole_manifest(
    folder: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizing, "CALIBRATION_IMAGES", 3)
    model = load_folder(folder)
    images = validation_images(folder, data_dir)
    inputs = quantizing.calibration_inputs(model, images)
    files = validation_files(folder, data_dir)
    expected = [predict(files[index], model)[0].probabilities for index in (0, 4, 7)]
    logits = model(inputs).logits
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-5)
