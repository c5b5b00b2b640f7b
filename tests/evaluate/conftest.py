"""A tiny real network, and a data folder on which its every answer is known beforehand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.data.layout import list_images
from braintumor.data.manifest import write_manifest
from braintumor.models.preprocess import Preprocess
from braintumor.models.session import Card, Model, load_folder

FOLDERS = dict(zip(CLASSES, ("glioma", "meningioma", "pituitary", "notumor"), strict=True))


def slice_showing(name: str, seed: int) -> NDArray[np.uint8]:
    """Return a (32, 32) slice with texture in one quarter only; `make_model` takes it for that class."""
    image = np.zeros((32, 32), np.uint8)
    row, column = divmod(CLASSES.index(name), 2)
    texture = np.random.default_rng(seed).integers(80, 250, (16, 16))
    image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = texture
    return image


def save(root: Path, part: str, label: str, file: str, pixels: NDArray[np.uint8]) -> Path:
    """Write a slice into a part of a data folder."""
    path = root / part / FOLDERS[label] / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_model(folder: Path, confuse: tuple[str, str] | None = None, **card: object) -> Model:
    """Return a model whose class has the quarter of the image with most light; `confuse` exchanges two classes.

    The OOD score of an image is its mean.
    """
    names = list(CLASSES)
    if confuse:
        i, j = (CLASSES.index(name) for name in confuse)
        names[i], names[j] = names[j], names[i]
    weights = np.stack([(slice_of_ones(name) * 2.0) for name in names]).astype(np.float32)  # (4, 4, 4)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["features"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["features"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights"], ["logits"], transB=1),
        helper.make_node("Mul", ["features", "weight_maps"], ["evidence"]),
        helper.make_node("Relu", ["evidence"], ["class_maps"]),
        helper.make_node("ReduceMean", ["image"], ["ood_score"], axes=[1, 2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 32, 32])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("class_maps", TensorProto.FLOAT, ["N", 4, 4, 4]),
            helper.make_tensor_value_info("ood_score", TensorProto.FLOAT, ["N"]),
        ],
        [
            numpy_helper.from_array(weights.reshape(4, 16), "weights"),
            numpy_helper.from_array(weights[None], "weight_maps"),
        ],
    )
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    fields = {"name": "tiny", "version": "1", "architecture": "quarters", "preprocess": Preprocess(size=32)}
    (folder / "card.json").write_text(
        Card(**(fields | {"class_map_scale": 1.0, "package_version": "0"} | card)).to_json()
    )
    return load_folder(folder, threads=1)


def slice_of_ones(name: str) -> NDArray[np.float64]:
    """Return the (4, 4) cells of the quarter that stands for a class."""
    row, column = divmod(CLASSES.index(name), 2)
    cells = np.zeros((4, 4))
    cells[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
    return cells


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return the data folder that `make_data` makes."""
    return make_data(tmp_path / "data")


def make_data(root: Path) -> Path:
    """Return 8 training and 12 test images, of which 2 repeat training images and 2 show another class than the label.

    Testing/glioma: 3 images, the third shows a meningioma and is called like HTML.
    Testing/pituitary: 0 is byte-identical to, 1 nearly the same as a training image.
    Testing/notumor: 0 and 1 show the same slice, 2 shows a glioma.
    """
    for c, label in enumerate(CLASSES):
        for i in range(2):
            save(root, "Training", label, f"{i}.png", slice_showing(label, 100 * c + i))
        for i in range(3):
            save(root, "Testing", label, f"{i}.png", slice_showing(label, 1000 * c + 50 + i))
    (root / "Testing/glioma/2.png").unlink()
    save(root, "Testing", "glioma", EVIL, slice_showing("meningioma", 7))
    for i in range(2):
        again = slice_showing("pituitary", 200 + i)
        save(root, "Testing", "pituitary", f"{i}.png", again + (again > 0).astype(np.uint8) * i)
    save(root, "Testing", "no_tumor", "1.png", slice_showing("no_tumor", 3050) + np.uint8(1))
    save(root, "Testing", "no_tumor", "2.png", slice_showing("glioma", 8))
    return root


EVIL = "<script>alert(1)<script> & ' \".png"


@pytest.fixture
def model(tmp_path: Path, data_dir: Path) -> Model:
    """Return a model that was trained on the training part."""
    return make_trained(tmp_path / "tiny", data_dir)


def make_trained(folder: Path, data_dir: Path) -> Model:
    """Return a model that was trained on the training part of a data folder."""
    trained = make_model(folder)
    write_manifest(list_images(data_dir).manifest, folder / "manifest.csv")
    return trained
