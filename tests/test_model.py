"""What a model folder must hold."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.errors import ModelError
from braintumor.model import Card, Model, integer_sums_saturate, load
from braintumor.preprocess import Preprocess

CARD = Card(
    "cnn-reference", "0.1.0", "cnn", Preprocess(64), 2.5, "0.1.0", temperature=1.3, train={"seed": 1}, metrics={"n": 4}
)


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    """Return a copy of the model folder to damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def changed(**fields: Any) -> str:
    """Return the text of a card with these fields."""
    return json.dumps(json.loads(CARD.to_json()) | fields)


def test_a_card_reads_back() -> None:
    assert Card.from_json(CARD.to_json()) == CARD
    assert json.loads(CARD.to_json())["classes"] == ["glioma", "meningioma", "pituitary", "no_tumor"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "card.json cannot be used .*; export the model again"),
        ("[]", "card.json cannot be used"),
        ("{}", "card.json cannot be used .'preprocess'"),
        (changed(grade=4), "unexpected keyword argument 'grade'"),
        (changed(preprocess={"size": 16}), "expected an input side of 32 to 1024 pixels, got 16"),
        (changed(preprocess={"sise": 64}), "unexpected keyword argument 'sise'"),
        (
            changed(classes=CLASSES[::-1]),
            r"expected the classes \('glioma', .* in this order, the card has \('no_tumor'",
        ),
        (changed(class_map_scale=0), "positive, finite class_map_scale and temperature, the card has 0 and 1.3"),
        (changed(class_map_scale=float("nan")), "the card has nan and 1.3"),
        (changed(temperature=float("inf")), "the card has 2.5 and inf"),
        (changed(temperature="warm"), "card.json cannot be used"),
    ],
)
def test_unusable_cards_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Card.from_json(text)


def test_a_model_answers_with_logits_and_class_maps_of_every_image(model: Model) -> None:
    images = np.random.default_rng(0).random((3, 1, 64, 64), np.float32)
    logits, class_maps, unusual = model(images)
    assert (logits.shape, class_maps.shape, unusual.shape) == ((3, 4), (3, 4, 2, 2), (3,))
    assert (logits.dtype, class_maps.dtype, unusual.dtype) == (np.float32, np.float32, np.float32)
    assert class_maps.min() >= 0
    assert unusual.min() > 0


@pytest.mark.parametrize("file", ["card.json", "model.onnx"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"no model in {folder}: {file} is missing; name a folder written by"):
        load(folder)


def test_what_is_no_model_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"card\.json is missing"):
        load(folder / "nowhere")
    with pytest.raises(ModelError, match=r"card\.json cannot be read .Not a directory"):
        load(folder / "card.json")
    with pytest.raises(ModelError, match="no precision is called 'int3'; choose one of float32, int8"):
        load(folder, precision="int3")


def test_a_missing_precision_says_how_to_write_it(folder: Path) -> None:
    message = (
        rf"no int8 model in {folder}: model\.int8\.onnx is missing; write it with: braintumor quantize {folder} DATA"
    )
    with pytest.raises(ModelError, match=message):
        load(folder, precision="int8")


def test_a_model_is_called_by_name_version_and_a_precision_that_is_not_the_trained_one(model: Model) -> None:
    assert model.identity == "tiny 1.2"
    assert Model(model.folder, model.card, model._session, "int8").identity == "tiny 1.2 int8"


@pytest.mark.parametrize(
    ("machine", "facts", "expected"),
    [
        ("x86_64", "processor : 0\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n", False),
        ("AMD64", "processor : 0\nflags\t\t: fpu avx2 avx_vnni\n", False),
        ("x86_64", "processor : 0\nflags\t\t: fpu avx2\nbugs : vnni\n", True),
        ("x86_64", "", True),
        ("x86_64", None, True),
        ("aarch64", None, False),
        ("arm64", None, False),
    ],
)
def test_sums_of_bytes_may_saturate_on_x86_without_vnni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, facts: str | None, expected: bool
) -> None:
    if facts is not None:
        (tmp_path / "cpuinfo").write_text(facts)
    monkeypatch.setattr("braintumor.model.CPU_FACTS", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert integer_sums_saturate() == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not confine processes to cores")
def test_a_process_confined_to_one_core_uses_one_thread() -> None:
    program = (
        "import os\n"
        "from braintumor.model import usable_cores\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(usable_cores())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


def test_the_runtime_keeps_and_reports_nothing_about_its_use(tmp_path: Path) -> None:
    """ONNX Runtime 1.29 and later writes a number for the device and events to send, except where CI is set."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", "import braintumor; braintumor.load()"], env=kept | home, check=True)

    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x0a"])
def test_a_damaged_network_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="is not a usable ONNX file"):
        load(folder)


def test_a_truncated_network_is_refused(folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="is not a usable ONNX file"):
        load(folder)


def test_weights_in_a_second_file_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    file = folder / "model.onnx"
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin")
    assert (folder / "weights.bin").stat().st_size > 100_000
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="is not a usable ONNX file with all its weights inside"):
        load(folder)


def test_a_network_of_another_size_than_the_card_is_refused(folder: Path) -> None:
    card = Card.from_json((folder / "card.json").read_text())
    (folder / "card.json").write_text(replace(card, preprocess=Preprocess(96)).to_json())
    with pytest.raises(ModelError, match=r"'image': \[1, 64, 64\].*expected image \(N, 1, 96, 96\)"):
        load(folder)


def test_a_network_that_answers_nan_is_refused_when_it_does(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network = onnx.load(folder / "model.onnx")
    bias = next(tensor for tensor in network.graph.initializer if list(tensor.dims) == [4])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, np.float32), bias.name))
    onnx.save(network, folder / "model.onnx")
    with pytest.raises(ModelError, match="answers NaN or infinity"):
        load(folder)(np.zeros((1, 1, 64, 64), np.float32))
