"""How a network's graph is made to compute with 8-bit integers: its backbone; head and class maps stay in float32."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

from braintumor.errors import ModelError

OPERATORS: Final = ("Conv", "Relu", "Clip", "MaxPool", "Add")
MEAN, STD, HEAD = "network.mean", "network.std", "network.head.0.weight"
BATCH: Final = 4
BINS: Final = 2048
SMALLEST: Final = float(np.finfo(np.float32).tiny)
STRIDE: Final = 5  # this share of the values is counted
SHARES: Final = np.linspace(1, 0.2, 81)
"""Candidates for the part of a range that the 256 steps cover; what lies outside is clipped."""

Ranges = dict[str, tuple[float, float]]
Means = dict[str, NDArray[np.float64]]


def write_integers(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """Write an ONNX file of the same inputs and outputs whose convolutions, sums and pools take 8-bit integers.

    Activations are unsigned with one scale per tensor, weights signed with one scale per output channel. The range of
    an activation minimises the squared error of rounding and clipping its values on the images. What rounding the
    weights adds to the mean of an output is taken from the bias (arXiv:1906.04721, section 4.2, with means measured
    on the images). The pixels are not rounded at all: their 256 grey levels are the integers.

    Args:
        source: a file written by `export`.
        target: the file to write.
        images: (N, 1, H, W) network inputs that represent what the network will see.

    Raises:
        ModelError: the source has no backbone and head as `export` writes them.
    """
    model = onnx.load(source)
    nodes = _backbone(model)
    if not nodes:
        raise ModelError(f"{source} was not written by `braintumor train`; train the model again with this version")
    fold_normalisation(model)
    tensors = _activations(model, nodes)
    spans, means = extremes(model, tensors, images)
    ranges = {name: tuple(map(np.float32, ends)) for name, ends in _clipped(model, spans, images).items()}
    correct_biases(model, means)
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        True,  # one scale per output channel
        False,  # all 8 bits, see `integer_sums_saturate`
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, ranges),
        nodes,
        [],
        list(OPERATORS),
        {},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target))


def _backbone(model: ModelProto) -> list[str]:
    """Return the names of the nodes between the image and the head that can be computed with integers."""
    maker = {output: node for node in model.graph.node for output in node.output}
    waiting = [node.input[0] for node in model.graph.node if node.op_type == "Gemm" and HEAD in node.input]
    found: dict[str, NodeProto] = {}
    while waiting:
        node = maker.get(waiting.pop())
        if node and node.name not in found:
            found[node.name] = node
            waiting += node.input
    return [name for name, node in found.items() if node.op_type in OPERATORS]


def fold_normalisation(model: ModelProto) -> None:
    """Let the first convolution see the grey values and a channel of ones instead of three normalised channels.

    Its sums stay the same, at the padded edge too. Nothing is changed where the normalised image does not go into a
    convolution alone.
    """
    graph = model.graph
    weights = initializers(model)
    subtract, divide = (node for node in graph.node if {MEAN, STD} & set(node.input))
    users = [node for node in graph.node if divide.output[0] in node.input]
    if [node.op_type for node in users] != ["Conv"]:
        return
    kernel = weights[users[0].input[1]]
    mean, std = (numpy_helper.to_array(weights.pop(name)).astype(np.float64) for name in (MEAN, STD))
    scaled = numpy_helper.to_array(kernel) / std  # (O, 3, k, k)
    folded = np.concatenate([scaled.sum(1, keepdims=True), -(scaled * mean).sum(1, keepdims=True)], axis=1)
    _set_values(kernel, folded)
    pads, one = np.array([0, 0, 0, 0, 0, 1, 0, 0]), np.array(1, np.float32)
    extra = [numpy_helper.from_array(pads, "ones.pads"), numpy_helper.from_array(one, "ones.value")]
    widen = helper.make_node("Pad", [subtract.input[0], "ones.pads", "ones.value"], [divide.output[0]], "node_ones")
    kept = [node for node in graph.node if node not in (subtract, divide)]
    for field, values in ((graph.initializer, [*weights.values(), *extra]), (graph.node, [widen, *kept])):
        del field[:]
        field.extend(values)
    del graph.value_info[:]  # shapes that no longer hold


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """Return the stored tensors of a graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _set_values(tensor: TensorProto, values: NDArray[np.float64]) -> None:
    """Replace the values of a stored tensor, as float32."""
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _activations(model: ModelProto, nodes: list[str]) -> list[str]:
    """Return the names of what the nodes take and make, without stored tensors."""
    known = initializers(model)
    names = [name for node in model.graph.node if node.name in nodes for name in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(names) if name not in known]


def observed(model: ModelProto, names: list[str], images: NDArray[np.float32]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the named activations, (B, K, h, w) each, for a few images at a time."""
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for start in range(0, len(images), BATCH):
        yield dict(zip(names, session.run(names, {"image": images[start : start + BATCH]}), strict=True))


def extremes(model: ModelProto, names: list[str], images: NDArray[np.float32]) -> tuple[Ranges, Means]:
    """Return the smallest and largest value of each activation, 0 included, and its channels' means."""
    ranges = dict.fromkeys(names, (0.0, 0.0))
    totals: Means = {}
    for batch in observed(model, names, images):
        for name, values in batch.items():
            low, high = ranges[name]
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
            totals[name] = totals.get(name, 0) + values.mean(axis=(2, 3), dtype=np.float64).sum(axis=0)
    return ranges, {name: total / len(images) for name, total in totals.items()}


def _clipped(model: ModelProto, spans: Ranges, images: NDArray[np.float32]) -> Ranges:
    """Return for each activation the part of its span that is best cut into 256 steps."""
    counts = {name: np.zeros(BINS) for name in spans}
    for batch in observed(model, list(spans), images):
        for name, values in batch.items():
            counts[name] += np.histogram(values.ravel()[::STRIDE], BINS, spans[name])[0]
    return {name: best_part(counts[name], *span) for name, span in spans.items()}


def best_part(counts: NDArray[np.float64], low: float, high: float) -> tuple[float, float]:
    """Return the ends, shrunk by one share, that minimise the squared error of 256 steps for a histogram.

    Args:
        counts: how many values lie in each of equally wide bins from low to high.
        low: at most 0.
        high: at least 0.
    """
    centres = low + (high - low) * (np.arange(len(counts)) + 0.5) / len(counts)
    errors = [float(counts @ (rounded(centres, share * low, share * high) - centres) ** 2) for share in SHARES]
    best = float(SHARES[np.argmin(errors)])
    return best * low, best * high


def rounded(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return values as 8-bit integers of this range represent them, which hold 0 exactly."""
    step = max(high - low, SMALLEST) / 255
    zero = np.rint(-low / step)
    represented: NDArray[np.float64] = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    return represented


def correct_biases(model: ModelProto, means: Means) -> None:
    """Add to the biases of the convolutions what rounding their weights takes from the mean of their outputs."""
    stored = initializers(model)
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        weights = numpy_helper.to_array(stored[node.input[1]]).astype(np.float64)  # (O, I / groups, k, k)
        step = np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True), SMALLEST) / 127
        lost = (weights - np.rint(weights / step) * step).sum(axis=(2, 3))
        groups = means[node.input[0]].size // weights.shape[1]
        inputs = means[node.input[0]].reshape(groups, -1).repeat(len(weights) // groups, axis=0)
        bias = stored[node.input[2]]
        _set_values(bias, numpy_helper.to_array(bias) + (lost * inputs).sum(axis=1))
