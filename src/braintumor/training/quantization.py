"""Variant of a trained model that computes with 8-bit integers, and its measured agreement with the original."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, validation_images
from braintumor.errors import ModelError
from braintumor.evaluate.calibration import rejection
from braintumor.files import replacing, write_text
from braintumor.io.read import read
from braintumor.models.session import ONNX_FILES, Card, Model, load_folder, open_session, usable_cores
from braintumor.predictor import Prediction, predict_all
from braintumor.training.integer_network import write_integers

CALIBRATION_IMAGES = 128
LEAST_AGREEMENT = 0.98
LEAST_CORRELATION = 0.98
LARGEST_LOSS = 0.01

Floats = NDArray[np.float32]


def quantize(folder: Path, data_dir: Path, *, precision: str = "int8") -> Card:
    """Write the ONNX file of a precision beside that of float32, and return the updated card.

    Ranges are calibrated on validation images, and both files are compared on all of them; the test part is not
    opened. A file of that precision that was there is replaced; if anything fails it stays.

    Args:
        folder: a model folder written by training.
        data_dir: the data folder that it was trained on; images that have changed since or are missing do not count.
        precision: `int8`.

    Raises:
        ModelError: no usable model folder, or the predictions of the new file differ too much.
        DataError: none of the validation images is in the data folder.
        ImageError: one of them cannot be read.
        StorageError: the folder cannot be written to.
    """
    model = load_folder(folder)
    images = validation_images(model.folder, data_dir)
    target = model.folder / ONNX_FILES[precision]
    with replacing(target) as aside:
        write_integers(model.folder / ONNX_FILES["float32"], aside, calibration_inputs(model, images))
        variant = Model(model.folder, model.card, open_session(aside, usable_cores()), precision)
        paths = [images.path(row) for row in images]
        expected, predictions = predict_all(paths, model), predict_all(paths, variant)
        reference, measured = compare_precisions(expected, predictions, [row.label for row in images])
        # Within `replacing`: if it raises, the new file is dropped and an older one stays.
        _refuse_differences(target, reference, measured)
    entries = model.card.precisions
    precisions = {**entries, "float32": entries.get("float32", {}) | reference, precision: measured}
    # Thresholds of its own: OOD scores of the variant are not those of the model.
    rejections = {**model.card.rejection, precision: _rejection_of(predictions, images)}
    card = dataclasses.replace(model.card, precisions=precisions, rejection=rejections)
    write_text(model.folder / "card.json", card.to_json())
    return card


def _rejection_of(predictions: Sequence[Prediction], images: Manifest) -> dict[str, Any]:
    """Return the card's entry about referrals, from a variant's predictions for validation images."""
    labels = np.array([CLASSES.index(row.label) for row in images], np.int64)
    ood_score = np.array([prediction.ood_score for prediction in predictions], np.float64)
    groups = np.array(images.group_numbers(), np.int64)
    return rejection(_probabilities(predictions).astype(np.float64), ood_score, labels, groups)


def calibration_inputs(model: Model, images: Manifest) -> Floats:
    """Return at most 128 network inputs (N, 1, H, W), of images spread evenly over the manifest and so the classes."""
    chosen = np.linspace(0, len(images) - 1, min(CALIBRATION_IMAGES, len(images))).round().astype(int)
    return np.stack([model.card.preprocess(read(images.path(images.rows[index]))) for index in chosen])


def compare_precisions(
    expected: Sequence[Prediction], predictions: Sequence[Prediction], labels: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the card's entries about a model and about its variant, from their predictions for the same images.

    `class_map_correlation` is Pearson's, over all values of the maps of the classes that the model predicts;
    `class_map_correlation_median` is the median of the same per image, images with an even map left out.

    Args:
        expected: the model's predictions.
        predictions: the variant's.
        labels: the images' true classes.
    """
    differences = np.abs(_probabilities(predictions) - _probabilities(expected))
    # The maps of the model's classes in both, even where the variant predicts another class.
    classes = [CLASSES.index(prediction.predicted) for prediction in expected]
    maps, variant_maps = _class_maps(expected, classes), _class_maps(predictions, classes)
    pairs = [pair for pair in zip(maps, variant_maps, strict=True) if all(np.ptp(values) > 0 for values in pair)]
    return {"accuracy": _accuracy(expected, labels)}, {
        "probability_difference": float(differences.max()),
        "probability_difference_mean": float(differences.mean()),
        "agreement": _accuracy(predictions, [prediction.predicted for prediction in expected]),
        "class_map_correlation": _correlation(maps, variant_maps),
        "class_map_correlation_median": float(np.median([_correlation(*pair) for pair in pairs])) if pairs else 0.0,
        "accuracy": _accuracy(predictions, labels),
        "n": len(labels),
    }


def _probabilities(predictions: Sequence[Prediction]) -> Floats:
    """Return the (N, 4) probabilities of predictions."""
    return np.stack([prediction.probabilities for prediction in predictions])


def _class_maps(predictions: Sequence[Prediction], classes: Sequence[int]) -> Floats:
    """Return the (N, h * w) values of one class map per prediction."""
    pairs = zip(predictions, classes, strict=True)
    return np.stack([prediction.class_maps[index].ravel() for prediction, index in pairs])


def _accuracy(predictions: Sequence[Prediction], labels: Sequence[str]) -> float:
    pairs = zip(predictions, labels, strict=True)
    return float(np.mean([prediction.predicted == label for prediction, label in pairs]))


def _correlation(first: Floats, second: Floats) -> float:
    """Return Pearson's correlation of two arrays of the same shape, 0 where one of them is constant."""
    if not np.ptp(first) or not np.ptp(second):
        return 0.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _refuse_differences(target: Path, reference: Mapping[str, float], measured: Mapping[str, float]) -> None:
    """Raise where the variant's predictions differ too much from the model's.

    Raises:
        ModelError: it agrees on too few classes, its maps correlate too little, or it is right less often.
    """
    loss = reference["accuracy"] - measured["accuracy"]
    bounds = (
        ("agreement of the classes", measured["agreement"], LEAST_AGREEMENT),
        ("correlation of the class maps", measured["class_map_correlation"], LEAST_CORRELATION),
        ("share of the accuracy kept", 1 - loss, 1 - LARGEST_LOSS),
    )
    problems = [f"{name} {value:.4f}, at least {least} is needed" for name, value, least in bounds if value < least]
    if problems:
        raise ModelError(
            f"{target.name} was not written, since it agrees too little with the model on {measured['n']} validation "
            f"images: {'; '.join(problems)}; use float32"
        )
