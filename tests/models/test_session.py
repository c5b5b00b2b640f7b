"""Model folders: what they must hold, and the errors of those that do not."""

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
from braintumor.models.preprocess import Preprocess
from braintumor.models.session import Card, Model, integer_sums_saturate, load_folder

CARD = Card(
    "cnn-reference", "0.1.0", "cnn", Preprocess(64), 2.5, "0.1.0", temperature=1.3, train={"seed": 1}, metrics={"n": 4}
)
REJECTION = {
    "ood_threshold": 4.0,
    "far_ood_threshold": 8.0,
    "points": [{"coverage": 1.0, "confidence": 0.0, "error": 0.04}],
    "sets": {"0.1": [0.5, 0.5, 0.5, 0.5]},
}


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    """Return a copy of the model folder to damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def changed(**fields: Any) -> str:
    """Return the text of a card with these fields."""
    return json.dumps(json.loads(CARD.to_json()) | fields)


def test_thresholds_read_back() -> None:
    card = replace(CARD, rejection={"float32": REJECTION, "int8": {}})
    assert Card.from_json(card.to_json()) == card


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
        (changed(temperature=True), "expected a number as temperature, got True"),
        (changed(temperature=-1), "the card has 2.5 and -1"),
        (changed(temperature=1e-300), "the card has 2.5 and 1e-300"),  # 0 in float32
        (changed(temperature=10**400), "the card has 2.5 and 1000"),
        (changed(class_map_scale=1e-300), "the card has 1e-300 and 1.3"),
        (changed(preprocess={"size": 10**9}), "expected an input side of 32 to 1024 pixels"),
        (changed(preprocess={"size": 64.5}), "expected a whole number of pixels as side of the input, got 64.5"),
        (changed(preprocess={"size": True}), "expected an input side"),
        (changed(preprocess=[64]), "card.json cannot be used"),
        (changed(name="a\x1b[2J"), r"expected at most 100 visible characters as name, got 'a\\x1b"),
        (changed(name="cnn 0.1.0\napproved"), "expected at most 100 visible characters as name"),
        (changed(name="a" * 101), "at most 100 visible characters as name, got 'a+…"),
        (changed(name=["cnn"]), "visible characters as name"),
        (changed(version="1\u202e"), "visible characters as version"),
        (changed(version=1), "visible characters as version, got 1"),
        (changed(architecture=None), "visible characters as architecture"),
        (changed(licence="\x9b31m"), "visible characters as licence"),
        (changed(classes="glioma"), "expected the classes"),
        (changed(classes=[*CLASSES, "sarcoma"]), "expected the classes"),
        (changed(classes=None), "card.json cannot be used"),
        (changed(metrics=[]), "expected a JSON object as metrics"),
        (changed(metrics={"accuracy": float("nan")}), "card.json cannot be used .*JSON compliant"),
        (changed(rejection=[]), "expected a JSON object as rejection"),
        (changed(rejection={"int8": 3}), "card.json cannot be used"),
        (
            changed(rejection={"int8": REJECTION | {"ood_threshold": "much"}}),
            "expected positive thresholds under rejection",
        ),
        (changed(rejection={"int8": REJECTION | {"far_ood_threshold": float("nan")}}), "expected positive thresholds"),
        (changed(rejection={"int8": REJECTION | {"ood_threshold": float("inf")}}), "expected positive thresholds"),
        (changed(rejection={"int8": REJECTION | {"points": []}}), "operating points and sets from 0 to 1"),
        (changed(rejection={"int8": REJECTION | {"points": [{"coverage": 1}]}}), "card.json cannot be used"),
        (changed(rejection={"int8": REJECTION | {"sets": {"0.1": [0.5, 0.5]}}}), "sets of one number for each class"),
        (changed(rejection={"int8": REJECTION | {"sets": {"few": [0.5] * 4}}}), "card.json cannot be used"),
        (CARD.to_json().replace('"version"', '"name": "other", "version"'), "name appears more than once"),
        ("[" * 100_000, "card.json cannot be used"),
        ('{"a":' * 100_000, "card.json cannot be used"),
        ("9" * 10_000, "card.json cannot be used"),
        ("null", "card.json cannot be used"),
    ],
)
def test_unusable_cards_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Card.from_json(text)


def test_a_model_answers_with_logits_and_class_maps_of_every_image(model: Model) -> None:
    images = np.random.default_rng(0).random((3, 1, 64, 64), np.float32)
    logits, class_maps, ood_score = model(images)
    assert (logits.shape, class_maps.shape, ood_score.shape) == ((3, 4), (3, 4, 2, 2), (3,))
    assert (logits.dtype, class_maps.dtype, ood_score.dtype) == (np.float32, np.float32, np.float32)
    assert class_maps.min() >= 0
    assert ood_score.min() > 0


@pytest.mark.parametrize("file", ["card.json", "model.onnx"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"no model in {folder}: {file} is missing; name a folder written by"):
        load_folder(folder)


def test_what_is_no_model_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"card\.json is missing"):
        load_folder(folder / "nowhere")
    with pytest.raises(ModelError, match=r"card\.json cannot be read .Not a directory"):
        load_folder(folder / "card.json")
    with pytest.raises(ModelError, match="no precision is called 'int3'; choose one of float32, int8"):
        load_folder(folder, precision="int3")


def test_a_missing_precision_says_how_to_write_it(folder: Path) -> None:
    message = (
        rf"no int8 model in {folder}: model\.int8\.onnx is missing; write it with: braintumor quantize {folder} DATA"
    )
    with pytest.raises(ModelError, match=message):
        load_folder(folder, precision="int8")


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
    monkeypatch.setattr("braintumor.models.session.CPU_FACTS", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert integer_sums_saturate() == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not confine processes to cores")
def test_a_process_confined_to_one_core_uses_one_thread() -> None:
    program = (
        "import os\n"
        "from braintumor.models.session import usable_cores\n"
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
        load_folder(folder)


def test_a_truncated_network_is_refused(folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="is not a usable ONNX file"):
        load_folder(folder)


def test_weights_in_a_second_file_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    file = folder / "model.onnx"
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin")
    assert (folder / "weights.bin").stat().st_size > 100_000
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match="is not a usable ONNX file with all its weights inside"):
        load_folder(folder)


def test_a_network_of_another_size_than_the_card_is_refused(folder: Path) -> None:
    card = Card.from_json((folder / "card.json").read_text())
    (folder / "card.json").write_text(replace(card, preprocess=Preprocess(96)).to_json())
    with pytest.raises(ModelError, match=r"'image': \[1, 64, 64\].*expected image \(N, 1, 96, 96\)"):
        load_folder(folder)


def test_a_network_that_answers_nan_is_refused_when_it_does(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network = onnx.load(folder / "model.onnx")
    bias = next(tensor for tensor in network.graph.initializer if list(tensor.dims) == [4])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, np.float32), bias.name))
    onnx.save(network, folder / "model.onnx")
    with pytest.raises(ModelError, match="returns NaN or infinity"):
        load_folder(folder)(np.zeros((1, 1, 64, 64), np.float32))


def rebuilt(folder: Path, outputs: dict[str, tuple[int, list[int], Any]]) -> None:
    """Write a network whose answers are constants of these types, shapes and values, whatever it is shown."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, values))
        for name, (kind, shape, values) in outputs.items()
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 1, 64, 64])
    infos = [helper.make_tensor_value_info(name, kind, None) for name, (kind, _, _) in outputs.items()]
    graph = helper.make_graph(nodes, "odd", [image], infos)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(network.SerializeToString())


FLOAT, DOUBLE = 1, 11  # of onnx.TensorProto
GOOD: dict[str, tuple[int, list[int], Any]] = {
    "logits": (FLOAT, [1, 4], [0.0] * 4),
    "class_maps": (FLOAT, [1, 4, 2, 2], [0.0] * 16),
    "ood_score": (FLOAT, [1], [1.0]),
}


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("logits", (FLOAT, [1, 5], [0.0] * 5), r"returns the shapes \(\(1, 5\)"),
        ("logits", (FLOAT, [4], [0.0] * 4), "returns the shapes"),
        ("logits", (FLOAT, [2, 4], [0.0] * 8), "returns the shapes"),
        ("class_maps", (FLOAT, [1, 3, 2, 2], [0.0] * 12), "returns the shapes"),
        ("class_maps", (FLOAT, [1, 4, 4], [0.0] * 16), "returns the shapes"),
        ("class_maps", (FLOAT, [1, 4, 0, 2], []), "returns the shapes"),
        ("ood_score", (FLOAT, [1, 1], [1.0]), "returns the shapes"),
        ("ood_score", (FLOAT, [1], [float("nan")]), "returns NaN or infinity"),
        ("class_maps", (FLOAT, [1, 4, 1, 1], [float("inf")] * 4), "returns NaN or infinity"),
        ("logits", (DOUBLE, [1, 4], [0.0] * 4), "all float32"),
    ],
)
def test_answers_of_another_shape_or_kind_are_refused(
    folder: Path, name: str, output: tuple[int, list[int], Any], message: str
) -> None:
    images = np.zeros((1, 1, 64, 64), np.float32)
    rebuilt(folder, GOOD)
    assert load_folder(folder)(images).logits.shape == (1, 4)
    rebuilt(folder, GOOD | {name: output})
    with pytest.raises(ModelError, match=message):
        load_folder(folder)(images)


def test_a_network_that_fails_when_it_is_asked_is_refused(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network = onnx.load(folder / "model.onnx")
    graph = network.graph
    logits = next(output for output in graph.output if output.name == "logits")
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 7]), "impossible"))
    for node in graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
        node.input[:] = ["before" if name == "logits" else name for name in node.input]
    graph.node.append(onnx.helper.make_node("Reshape", ["before", "impossible"], [logits.name]))
    (folder / "model.onnx").write_bytes(network.SerializeToString())
    with pytest.raises(ModelError, match="cannot be run"):
        load_folder(folder)(np.zeros((1, 1, 64, 64), np.float32))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another account")
def test_a_model_that_may_not_be_read_is_refused(folder: Path) -> None:
    program = (
        "import os, sys; from braintumor.models.session import load_folder; from braintumor.errors import ModelError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: load_folder(sys.argv[1])\n"
        "except ModelError as error: print(error)"
    )
    folder.chmod(0o700)
    result = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert "cannot be read (Permission denied)" in result.stdout


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
def test_a_path_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_folder(f"./{name}")
