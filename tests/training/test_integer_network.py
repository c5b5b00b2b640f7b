"""A quantized network computes with 8-bit integers where it should, and loses little by it."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from braintumor.data.phantom import phantom
from braintumor.errors import ModelError
from braintumor.training import integer_network
from braintumor.training.export import export, gate_of
from braintumor.training.integer_network import (
    best_part,
    correct_biases,
    fold_normalisation,
    initializers,
    rounded,
    write_integers,
)
from braintumor.training.networks import build_network

pytestmark = pytest.mark.slow

LEVELS = np.rint(np.stack([[phantom("glioma", seed, 64)] for seed in range(6)]) * 255)
IMAGES = (LEVELS / 255).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return the float32 file and the 8-bit file of both documented networks."""
    folder = tmp_path_factory.mktemp("integers")
    resnet = build_network("resnet")
    export(resnet, gate_of(resnet, [torch.from_numpy(IMAGES)]), 64, folder / "resnet.onnx")
    sources = {"cnn": model_folder / "model.onnx", "resnet": folder / "resnet.onnx"}
    for name, source in sources.items():
        write_integers(source, folder / f"{name}.int8.onnx", IMAGES)
    return {name: (source, folder / f"{name}.int8.onnx") for name, source in sources.items()}


def answers(network: Path | ModelProto, images: NDArray[np.float32] = IMAGES) -> list[NDArray[np.float32]]:
    """Return logits and class maps."""
    content = network.read_bytes() if isinstance(network, Path) else network.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(["logits", "class_maps"], {"image": images})
    return outputs


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_what_runs_between_image_and_head_takes_integers(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, name: str
) -> None:
    source, target = files[name]
    written = Counter(node.op_type for node in onnx.load(source).graph.node)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    run = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert run["QLinearConv"] == written["Conv"] > 0
    assert run["QLinearAdd"] == written["Add"] > 0
    assert run["Conv"] == run["FusedConv"] == run["Add"] == 0
    assert run["QuantizeLinear"] == 1  # the pixels
    assert 1 <= run["DequantizeLinear"] <= 3  # the features, for the means and for the maps
    assert run["Gemm"] == 2  # the head


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_head_and_names_stay_as_they_are(files: dict[str, tuple[Path, Path]], name: str) -> None:
    before, after = (onnx.load(file) for file in files[name])
    for part in ("0.weight", "0.bias", "4.weight", "4.bias"):
        tensors = [initializers(model)[f"network.head.{part}"] for model in (before, after)]
        np.testing.assert_array_equal(*map(numpy_helper.to_array, tensors))
    assert [value.name for value in after.graph.input] == ["image"]
    assert [value.name for value in after.graph.output] == ["logits", "class_maps", "ood_score"]


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_the_answers_are_near_those_of_float32(files: dict[str, tuple[Path, Path]], name: str) -> None:
    for expected, quantized in zip(*map(answers, files[name]), strict=True):
        assert np.corrcoef(expected.ravel(), quantized.ravel())[0, 1] > 0.98
        assert np.abs(quantized - expected).max() > 0  # it does round


def test_images_of_a_batch_do_not_influence_each_other(files: dict[str, tuple[Path, Path]]) -> None:
    logits, maps = answers(files["resnet"][1])
    for index in range(len(IMAGES)):
        alone = answers(files["resnet"][1], IMAGES[index : index + 1])
        np.testing.assert_allclose(alone[0][0], logits[index], rtol=0, atol=1e-5 * np.abs(logits).max())
        np.testing.assert_allclose(alone[1][0], maps[index], rtol=0, atol=1e-5 * np.abs(maps).max())


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_grey_values_and_ones_give_what_three_normalised_channels_gave(
    files: dict[str, tuple[Path, Path]], name: str
) -> None:
    model = onnx.load(files[name][0])
    before = answers(model)
    fold_normalisation(model)
    assert "Div" not in {node.op_type for node in model.graph.node if "image" in node.input}
    for expected, folded in zip(before, answers(model), strict=True):
        np.testing.assert_allclose(folded, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_256_grey_levels_are_the_integers(files: dict[str, tuple[Path, Path]]) -> None:
    stored = initializers(onnx.load(files["resnet"][1]))
    scale, zero = (numpy_helper.to_array(stored[f"div_{part}"]) for part in ("scale", "zero_point"))
    assert scale == pytest.approx(1 / 255)
    assert zero == 0


def test_a_network_whose_image_goes_elsewhere_too_keeps_its_normalisation() -> None:
    constants = [
        numpy_helper.from_array(np.full((1, 3, 1, 1), value, np.float32), name)
        for name, value in (("network.mean", 0.5), ("network.std", 0.25))
    ]
    nodes = [
        helper.make_node("Sub", ["image", "network.mean"], ["a"]),
        helper.make_node("Div", ["a", "network.std"], ["b"]),
        helper.make_node("Conv", ["b", "kernel"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["out"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "shortcut", [], [], constants))
    before = model.SerializeToString()
    fold_normalisation(model)
    assert model.SerializeToString() == before


def test_a_file_from_elsewhere_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["logits"])],
        "other",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"model\.onnx was not written by `braintumor train`; train the model again"):
        write_integers(tmp_path / "model.onnx", tmp_path / "out.onnx", IMAGES)
    assert not (tmp_path / "out.onnx").exists()


def test_values_are_rounded_to_256_steps_that_hold_zero() -> None:
    values = np.array([-9.0, 0.0, 1.2, 254.6, 300.0])
    np.testing.assert_allclose(rounded(values, 0, 255), [0, 0, 1, 255, 255])
    # from -1 to 2 the step is 3 / 255 and zero the integer 85
    np.testing.assert_allclose(rounded(np.array([-5, -1, 0, 0.0052, 2, 3]), -1, 2), [-1, -1, 0, 0, 2, 2])
    np.testing.assert_array_equal(rounded(np.zeros(3), 0, 0), np.zeros(3))


def test_rare_large_values_are_clipped_and_common_ones_are_not() -> None:
    counts = np.zeros(1000)
    counts[:500] = 1e6
    counts[-1] = 1
    low, high = best_part(counts, 0, 10)
    assert low == 0
    assert high == pytest.approx(5, abs=0.2)
    counts[-1] = 1e6
    assert best_part(counts, 0, 10)[1] > 9.5


def test_a_range_shrinks_at_both_ends_alike() -> None:
    counts = np.zeros(1000)
    counts[400:600] = 1e6  # from -1 to 1 of -5 to 5
    counts[[0, -1]] = 1
    low, high = best_part(counts, -5, 5)
    assert low == -high
    assert high == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("groups", [1, 2])
def test_biases_take_back_what_rounding_the_weights_adds_to_the_mean(groups: int) -> None:
    weights = np.array([[127, 3.4], [10.3, 127]], np.float32)  # the step is 1
    if groups == 2:
        weights = np.array([[127, 3.4, 0, 0], [0, 0, 10.3, 127]], np.float32).reshape(2, 2, 2)[[0, 1], [0, 1]]
    kernel = numpy_helper.from_array(weights.reshape(2, 2, 1, 1), "kernel")
    bias = numpy_helper.from_array(np.array([1, 2], np.float32), "bias")
    node = helper.make_node("Conv", ["x", "kernel", "bias"], ["y"], group=groups)
    model = helper.make_model(helper.make_graph([node], "one", [], [], [kernel, bias]))
    correct_biases(model, {"x": np.array([5.0, 10.0] if groups == 1 else [5.0, 10.0, 20.0, 30.0])})
    expected = [1 + 0.4 * 10, 2 + 0.3 * (5 if groups == 1 else 20)]
    np.testing.assert_allclose(numpy_helper.to_array(initializers(model)["bias"]), expected, rtol=1e-5)
    np.testing.assert_array_equal(numpy_helper.to_array(initializers(model)["kernel"]).ravel(), weights.ravel())


def test_calibration_takes_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    model = onnx.load(model_folder / "model.onnx")
    monkeypatch.setattr(integer_network, "BATCH", 4)
    sizes = [len(batch["relu"]) for batch in integer_network.observed(model, ["relu"], IMAGES)]
    assert sizes == [4, 2]
    ranges, means = integer_network.extremes(model, ["relu", "getitem"], IMAGES)
    (whole,) = (batch["getitem"] for batch in all_at_once(model, monkeypatch))
    assert ranges["relu"] == (0, pytest.approx(whole.max()))
    assert ranges["getitem"] == (pytest.approx(whole.min()), pytest.approx(whole.max()))
    np.testing.assert_allclose(means["getitem"], whole.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def all_at_once(model: ModelProto, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, NDArray[np.float32]]]:
    """Return the activation before the first ReLU for all images."""
    monkeypatch.setattr(integer_network, "BATCH", len(IMAGES))
    return list(integer_network.observed(model, ["getitem"], IMAGES))
