"""Conversion of a network's backbone to 8-bit integers; its head and class maps stay in float32."""

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
MEAN, STD, HEAD = "network.mean", "network.std", "network.head.0.weight"  # names of tensors, as `export` writes them
BATCH: Final = 4  # images whose activations are in memory at a time
BINS: Final = 2048
SMALLEST: Final = float(np.finfo(np.float32).tiny)
STRIDE: Final = 5  # every fifth value is counted, enough for a histogram
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
    full_ranges, means = extremes(model, tensors, images)
    ranges = {name: tuple(map(np.float32, ends)) for name, ends in _clipped(model, full_ranges, images).items()}
    correct_biases(model, means)
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel=True,  # one scale per output channel
        reduce_range=False,  # all 8 bits, see `session.integer_sums_saturate`
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target))


def _backbone(model: ModelProto) -> list[str]:
    """Return the names of the nodes between the image and the head that can be computed with integers."""
    producers = {output: node for node in model.graph.node for output in node.output}
    # Backwards from the head's first layer to the image: so the class maps, which branch off, are not among them.
    pending = [node.input[0] for node in model.graph.node if node.op_type == "Gemm" and HEAD in node.input]
    nodes: dict[str, NodeProto] = {}
    while pending:
        node = producers.get(pending.pop())  # None for the image and stored tensors
        if node and node.name not in nodes:
            nodes[node.name] = node
            pending += node.input
    return [name for name, node in nodes.items() if node.op_type in OPERATORS]


def fold_normalisation(model: ModelProto) -> None:
    """Give the first convolution the grey values and a channel of ones instead of three normalised channels.

    Its sums stay the same, at the padded edge too. Nothing is changed where the normalised image does not go into a
    convolution alone.
    """
    # sum_c w_c * (grey - mean_c) / std_c = grey * sum_c (w_c / std_c) - 1 * sum_c (w_c * mean_c / std_c). The second
    # term is no bias: beyond the padded edge the normalised image is 0, and so are grey values and ones.
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
    # Repeated fields of protobuf cannot be assigned to. The new node comes first: nodes stand in the order they run in.
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
    """Return the names of the inputs and outputs of the nodes, without stored tensors."""
    stored = initializers(model)
    names = [name for node in model.graph.node if node.name in nodes for name in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(names) if name not in stored]


def observed(model: ModelProto, names: list[str], images: NDArray[np.float32]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the named activations, (B, K, h, w) each, for a few images at a time."""
    # A copy of the graph whose outputs are the activations.
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal errors only
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


def _clipped(model: ModelProto, ranges: Ranges, images: NDArray[np.float32]) -> Ranges:
    """Return for each activation the part of its range that is best divided into 256 steps."""
    counts = {name: np.zeros(BINS) for name in ranges}
    for batch in observed(model, list(ranges), images):
        for name, values in batch.items():
            counts[name] += np.histogram(values.ravel()[::STRIDE], BINS, ranges[name])[0]
    return {name: best_part(counts[name], low, high) for name, (low, high) in ranges.items()}


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
    # 0 gets an integer of its own, since zero padding and the ReLU produce it all the time.
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
        # The same step as the quantizer takes: symmetric, the largest weight of an output channel is 127.
        step = np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True), SMALLEST) / 127
        lost = (weights - np.rint(weights / step) * step).sum(axis=(2, 3))
        # Each output channel sees the inputs of its group alone.
        groups = means[node.input[0]].size // weights.shape[1]
        inputs = means[node.input[0]].reshape(groups, -1).repeat(len(weights) // groups, axis=0)
        bias = stored[node.input[2]]
        _set_values(bias, numpy_helper.to_array(bias) + (lost * inputs).sum(axis=1))
