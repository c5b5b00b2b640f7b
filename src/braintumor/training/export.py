"""Export of a trained network to ONNX: logits, class maps and OOD score in one graph, checked against the network."""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braintumor.classes import CLASSES
from braintumor.errors import TrainingError
from braintumor.files import replacing
from braintumor.models.ood import OodScorer, fit_ood_scorer
from braintumor.models.session import OUTPUTS, ModelOutput
from braintumor.training.networks import Network

PROBABILITY_TOLERANCE = 1e-4
CLASS_MAP_TOLERANCE = 1e-3  # of the largest map value
OOD_SCORE_TOLERANCE = 1e-3  # of the value
KINK = 1e-5  # a hidden unit nearer to zero than this may fall on either side by rounding; they are of order 1


class WithClassMaps(nn.Module):
    """Network in evaluation mode that returns the maps of all classes and the OOD score beside the logits.

    Between the last features A (K, h, w) and a logit lie only the mean over positions and the head, whose only
    nonlinearity is the ReLU. The gradient of a logit by the pooled features is therefore a product of the two linear
    layers, the batch norm's slope and the mask of active units.

    Source: arXiv:1610.02391, equations 1 and 2.
    """

    centre: Tensor
    whitening: Tensor

    def __init__(self, network: Network, ood_scorer: OodScorer) -> None:
        super().__init__()
        self.network = network.eval()
        self.register_buffer("centre", torch.from_numpy(ood_scorer.centre.astype(np.float32)))
        self.register_buffer("whitening", torch.from_numpy(ood_scorer.whitening.astype(np.float32)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the network's outputs for (N, 1, H, W) grey values in [0, 1].

        Returns:
            logits (N, 4); class maps (N, 4, h, w), non-negative, unscaled; OOD scores (N,), see `ood.OodScorer`.
        """
        first, norm, rectify, _, last = self.network.head
        assert isinstance(first, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_var is not None
        assert isinstance(last, nn.Linear)
        features, ood_features = self.network.features_and_gate(image)  # (N, K, h, w), (N, C)
        log_attention = self.network.log_attention(features)
        hidden = self.hidden(features, log_attention)
        logits = last(rectify(hidden))
        # The gradient in closed form, since a graph of ONNX has no backward pass. Dropout is the identity here.
        slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (512,)
        active = (hidden > 0).to(hidden.dtype) * slope
        gradient = (active[:, None, :] * last.weight[None]) @ first.weight  # (N, 4, K)
        ood_score = torch.matmul(ood_features - self.centre, self.whitening).square().mean(dim=1)
        return logits, _class_maps(features, gradient, log_attention), ood_score

    def margin(self, image: Tensor) -> Tensor:
        """Return the (N,) distance of the head's hidden unit that is nearest to zero."""
        features = self.network.features(image)
        return self.hidden(features, self.network.log_attention(features)).abs().amin(dim=1)

    def hidden(self, features: Tensor, log_attention: Tensor) -> Tensor:
        """Return the (N, 512) inputs of the head's ReLU for features (N, K, h, w) and `log_attention`."""
        first, norm, *_ = self.network.head
        return cast(Tensor, norm(first(self.network.pool(features, log_attention))))


def _class_maps(features: Tensor, gradient: Tensor, log_attention: Tensor) -> Tensor:
    """Return the (N, C, h, w) maps: what each position adds to a logit, negative parts cut off.

    Args:
        features: (N, K, h, w).
        gradient: (N, C, K) of each logit by the pooled features.
        log_attention: (N, 1, h, w) logarithms of the weights under which they are pooled.
    """
    evidence = (gradient @ features.flatten(2)).view(*gradient.shape[:2], *features.shape[2:])
    return torch.relu(evidence * log_attention.exp())


@torch.no_grad()
def gate_of(network: Network, batches: Iterable[Tensor]) -> OodScorer:
    """Return the OOD scorer of a network on the CPU, fitted to (B, 1, H, W) batches of training images.

    Raises:
        DataError: no images.
    """
    network.eval()
    features = [network.features_and_gate(batch)[1].double().numpy() for batch in batches]
    return fit_ood_scorer(np.concatenate(features) if features else np.empty((0, 1)))


def export(network: Network, ood_scorer: OodScorer, size: int, target: Path) -> None:
    """Write the network as an ONNX file with the input `image` and the outputs `OUTPUTS`, for any batch size."""
    module = WithClassMaps(network.cpu(), ood_scorer)
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # The exporter prints its progress, and standard output belongs to the command's own.
    quiet = contextlib.redirect_stdout(io.StringIO())
    with replacing(target) as aside, torch.no_grad(), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            module,
            (torch.zeros(2, 1, size, size),),  # a batch of 1 would be taken for a constant
            str(aside),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"image": {0: batch}},
            dynamo=True,
            external_data=False,
        )
        _remove_stack_traces(aside)


def _remove_stack_traces(file: Path) -> None:
    """Remove the stack traces from an ONNX file: they hold paths of this machine, and often the name of its user."""
    model = onnx.load(file)
    for node in model.graph.node:
        properties = [item for item in node.metadata_props if item.key != "pkg.torch.onnx.stack_trace"]
        del node.metadata_props[:]  # a repeated field of protobuf cannot be assigned to
        node.metadata_props.extend(properties)
    onnx.save(model, file)


def run(file: Path, batches: Iterable[Tensor]) -> ModelOutput:
    """Return the outputs of an ONNX file for (B, 1, H, W) batches."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = [session.run(OUTPUTS, {"image": batch.numpy()}) for batch in batches]
    return ModelOutput(*map(np.concatenate, zip(*outputs, strict=True)))


def check_parity(network: Network, ood_scorer: OodScorer, batches: list[Tensor], file: Path) -> dict[str, float]:
    """Return the largest differences between the ONNX file and the network on real batches.

    A class map jumps where a unit of the head passes zero: there the gradient has no single value, and rounding alone
    decides on which side the unit lies. Images with a unit that close to zero count for the probabilities only; their
    number is returned as `images_at_a_kink`.

    Raises:
        TrainingError: the differences exceed 1e-4 in a probability, 1e-3 of the largest value in a class map, or 1e-3
            of the OOD score.
    """
    logits, maps, ood_score = run(file, batches)
    module = WithClassMaps(network, ood_scorer)
    with torch.no_grad():
        outputs = [module(batch) for batch in batches]
        margin = torch.cat([module.margin(batch) for batch in batches])
    expected, expected_maps, expected_score = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    smooth = margin > KINK
    scale = max(float(expected_maps.max()), 1e-12)
    differences = (expected_maps - torch.from_numpy(maps))[smooth].abs().flatten() / scale
    score_differences = (expected_score - torch.from_numpy(ood_score)).abs() / expected_score.clamp(min=1e-12)
    measured = {
        "probability_difference": float((expected.softmax(1) - torch.from_numpy(logits).softmax(1)).abs().max()),
        "class_map_difference": float(differences.max()) if len(differences) else math.inf,
        "ood_score_difference": float(score_differences.max()),
    }
    allowed = dict(zip(measured, (PROBABILITY_TOLERANCE, CLASS_MAP_TOLERANCE, OOD_SCORE_TOLERANCE), strict=True))
    # Written so that NaN, which compares as false, is refused too.
    if not all(value <= allowed[name] for name, value in measured.items()):
        raise TrainingError(
            f"the exported {file.name} differs from the network: "
            + ", ".join(f"{name} {value:.1e} (allowed {allowed[name]})" for name, value in measured.items())
            + "; the weights are kept. Please report this, with the versions of torch and onnxruntime"
        )
    return {**measured, "images_at_a_kink": float((~smooth).sum())}


def class_map_scale(maps: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the value to show in full colour: the 99th percentile of the maxima of the true classes' maps.

    Args:
        maps: (N, 4, h, w) of the validation part.
        labels: (N,) true classes.
    """
    if maps.shape[1] != len(CLASSES):
        raise ValueError(f"expected maps of {len(CLASSES)} classes, got shape {maps.shape}")
    # Not the largest maximum: one outlier would make all other maps look pale.
    peaks = maps[np.arange(len(labels)), labels].max(axis=(1, 2))
    return max(float(np.percentile(peaks, 99)), 1e-6)
