"""Networks that can be trained: the custom CNN, ResNet18 or a timm backbone with spatial features, and one head."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from braintumor.classes import CLASSES
from braintumor.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TIMM_NAMES = {"resnet": "resnet18"}
OOD_STAGES = 2  # the last ones of the backbone, whose channel means give the OOD score
FINER_WIDTH = {"cnn": 64}  # channels of the features that join several stages
DEFAULT_FINER_WIDTH = 128
FAILURES = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What timm networks raise that cannot take another image size, or cannot go without their pooling."""
STAGE_ENDS = (0, 2, 5, 8, 11)  # positions of the last layer of each stage of `CustomCNN`


class Network(nn.Module):
    """Backbone with spatial features, finer or not, their pooling and the head.

    Attributes:
        ood_stages: positions of the backbone's stages whose channel means give the OOD score.
        finer: joins several stages to finer features; None for the backbone's last features.
        attention: scores of the positions for the pooling; None to pool evenly.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, channels: int, dropout: float, ood_stages: Sequence[int]) -> None:
        super().__init__()
        self.ood_stages = list(ood_stages)
        # Constants, so not among the saved weights.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.backbone = backbone
        self.finer: FeaturePyramid | None = None
        self.attention: nn.Conv2d | None = None
        self.head = _head(channels, dropout)

    def features(self, image: Tensor) -> Tensor:
        """Return the (N, K, h, w) features of (N, 1, H, W) grey values in [0, 1].

        The backbone sees three equal channels, normalised by the ImageNet mean and deviation.
        """
        if self.finer is None:
            return cast(Tensor, self.backbone(self.normalised(image)))
        return cast(Tensor, self.finer(stages_of(self.backbone, self.normalised(image), self.finer.stages)[1]))

    def features_and_gate(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same features, and the (N, C) features that the OOD score is computed from.

        These are the square roots of the channel means of the last stages. Means of rectified values spread the more,
        the larger they are; their roots spread evenly.
        """
        stages = sorted({*self.ood_stages, *(self.finer.stages if self.finer else ())})
        last, selected = stages_of(self.backbone, self.normalised(image), stages)
        outputs = dict(zip(stages, selected, strict=True))
        features = self.finer([outputs[stage] for stage in self.finer.stages]) if self.finer else last
        # relu, since the stages of some timm networks are not rectified, and a root of less than 0 would be NaN.
        return features, torch.cat([outputs[stage].mean(dim=(2, 3)).relu().sqrt() for stage in self.ood_stages], dim=1)

    def normalised(self, image: Tensor) -> Tensor:
        """Return (N, 3, H, W), the input of the backbone, for grey values (N, 1, H, W) in [0, 1]."""
        return ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def log_attention(self, features: Tensor) -> Tensor:
        """Return the (N, 1, h, w) logarithms of the weights that pool features (N, K, h, w); they sum to 1."""
        if self.attention is None:
            height, width = features.shape[2:]
            return features.new_full((features.shape[0], 1, height, width), -math.log(height * width))
        scores = self.attention(features)
        # In float32 also under autocast: bfloat16 is too coarse for a softmax over hundreds of positions.
        return functional.log_softmax(scores.flatten(2).float(), dim=2).view(scores.shape)

    def pool(self, features: Tensor, log_attention: Tensor) -> Tensor:
        """Return the (N, K) features, averaged over their positions under the weights of `log_attention`."""
        if self.attention is None:
            return features.mean(dim=(2, 3))
        return (features * log_attention.exp().to(features.dtype)).sum(dim=(2, 3))

    def with_attention(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (N, 4) logits and `log_attention` (N, 1, h, w) of (N, 1, H, W) grey values in [0, 1]."""
        features = self.features(image)
        log_attention = self.log_attention(features)
        return self.head(self.pool(features, log_attention)), log_attention

    def forward(self, image: Tensor) -> Tensor:
        """Return the (N, 4) logits of (N, 1, H, W) grey values in [0, 1]."""
        return self.with_attention(image)[0]


class WithAttention(nn.Module):
    """Network that returns its attention beside the logits.

    A module of its own, since DistributedDataParallel averages gradients for calls of `forward` only.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and log attention, see `Network.with_attention`."""
        return self.network.with_attention(image)


def stages_of(backbone: nn.Module, image: Tensor, stages: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
    """Return a backbone's last features of (N, 3, H, W), and those after the given stages, by default all."""
    features: tuple[Tensor, list[Tensor]] = cast(Any, backbone).forward_intermediates(image, indices=stages)
    return features


class FeaturePyramid(nn.Module):
    """Layers that join a backbone's stages, from coarse to fine, to features of the size of an early stage.

    Each stage is projected to the same number of channels and added to the enlarged sum of the coarser ones; a
    convolution smooths the result.

    Attributes:
        stages: positions of the stages among those of the backbone, from fine to coarse.

    Source: arXiv:1612.03144.
    """

    def __init__(self, stages: Sequence[int], channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.stages = list(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1, bias=False) for inputs in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in channels)
        self.smooth = block(width, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_normal(module.weight)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Return (N, width, h, w) of the first stage's size from the features of all stages, from fine to coarse."""
        parts = [norm(lateral(stage)) for lateral, norm, stage in zip(self.lateral, self.norms, stages, strict=True)]
        total = parts.pop()
        for part in reversed(parts):
            total = part + functional.interpolate(total, size=part.shape[2:], mode="nearest")
        return cast(Tensor, self.smooth(torch.relu(total)))


def build_network(model: str, *, dropout: float = 0.6, map_stride: int = 0, attention: bool = False) -> Network:
    """Return an untrained network: `cnn`, `resnet` (ResNet18) or a timm name whose features are (N, K, h, w).

    Convolutions start He-normal. The memory format is channels_last.

    Args:
        model: name of the backbone.
        dropout: in the head.
        map_stride: input pixels to one position of the pooled features; 0 takes the backbone's last features.
        attention: pool under learnt weights instead of evenly.

    Raises:
        DataError: timm does not know the name, its features are not (N, K, h, w), as class maps need them, or it has
            no stage of this stride.
    """
    backbone, channels, (strides, widths) = _backbone_of(model)
    finer = None
    if map_stride:
        channels = FINER_WIDTH.get(model, DEFAULT_FINER_WIDTH)
        finer = _finer_features(model, strides, widths, map_stride, channels)
    network = Network(backbone, channels, dropout, range(len(strides))[-OOD_STAGES:])
    network.finer = finer
    if attention:
        network.attention = nn.Conv2d(channels, 1, 1, bias=False)
        nn.init.zeros_(network.attention.weight)  # training begins with even pooling
    return network.to(memory_format=torch.channels_last)


def _backbone_of(model: str) -> tuple[nn.Module, int, tuple[list[int], list[int]]]:
    """Return an untrained backbone, the number of its feature channels, and its stages' strides and channels.

    Raises:
        DataError: timm does not know the name, or the network is of another kind.
    """
    if model == "cnn":
        cnn = CustomCNN()
        return cnn, cnn.channels, _shape_of(cnn)
    name = TIMM_NAMES.get(model, model)
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "see timm.list_models()"
        raise DataError(f"no model is called {name!r}; choose cnn, resnet or a timm name ({near})")
    try:
        backbone, channels = _timm_backbone(name)
        return backbone, channels, _shape_of(backbone)
    except FAILURES as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{name} cannot be used with slices of any size and without its classifier ({reason}); choose a "
            "convolutional network"
        ) from error


@torch.no_grad()
def _shape_of(backbone: nn.Module) -> tuple[list[int], list[int]]:
    """Return the stride in input pixels and the number of channels of each stage of a backbone."""
    # Measured on an image, which works alike for `CustomCNN` and for every network of timm.
    stages = stages_of(backbone.eval(), torch.zeros(2, 3, 256, 256))[1]
    return [256 // stage.shape[2] for stage in stages], [stage.shape[1] for stage in stages]


def _finer_features(
    model: str, strides: Sequence[int], widths: Sequence[int], stride: int, width: int
) -> FeaturePyramid:
    """Return the untrained layers that join the stages of a backbone from this stride on.

    Raises:
        DataError: it has no stage of this stride.
    """
    if stride not in strides:
        raise DataError(f"{model} has no features of stride {stride}; choose one of {', '.join(map(str, strides))}")
    chosen = [index for index, stage_stride in enumerate(strides) if stage_stride >= stride]
    return FeaturePyramid(chosen, [widths[index] for index in chosen], width)


def _timm_backbone(name: str) -> tuple[nn.Module, int]:
    """Return a timm backbone without its classifier, randomly initialised, and the number of its feature channels.

    Raises:
        DataError: its features are not (N, K, h, w).
    """
    backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    with torch.no_grad():
        shape = tuple(backbone.eval()(torch.zeros(2, 3, 224, 224)).shape)
    if len(shape) != 4 or shape[2] != shape[3] or not hasattr(backbone, "forward_intermediates"):
        raise DataError(
            f"{name} cannot be used: its features have the shape {shape}, expected (N, K, h, w) after stages that can "
            "be told apart; choose a convolutional network, whose class maps can be read off in closed form"
        )
    return backbone, shape[1]


def _head(channels: int, dropout: float) -> nn.Sequential:
    """Return Linear(512), BatchNorm, ReLU, Dropout, Linear(4) for pooled features (N, channels).

    `export.WithClassMaps` differentiates these layers in closed form: a change here needs one there.
    """
    return nn.Sequential(
        nn.Linear(channels, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, len(CLASSES)),
    )


class CustomCNN(nn.Sequential):
    """Convolutions from (N, 3, H, W) to (N, 256, H/32, W/32); with the head 2.6 million parameters and 0.55 GMAC.

    Each stage halves the side, then residual blocks follow. A last position sees 247 pixels, more than a slice has.
    """

    channels = 256

    def __init__(self) -> None:
        super().__init__(
            block(3, 32, stride=2),
            block(32, 64, stride=2),
            Residual(64),
            block(64, 128, stride=2),
            Residual(128),
            nn.Dropout2d(0.05),
            block(128, 192, stride=2),
            Residual(192),
            nn.Dropout2d(0.05),
            block(192, 256, stride=2),
            Residual(256),
            Residual(256),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_normal(module.weight)

    def forward_intermediates(self, image: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the last features, and those after all stages (strides 2, 4, 8, 16 and 32) or some of them."""
        features, stages = image, []
        for index, layer in enumerate(self):
            features = layer(features)
            if index in STAGE_ENDS:
                stages.append(features)
        return features, stages if indices is None else [stages[index] for index in indices]


class Residual(nn.Module):
    """3x3 convolution with batch normalisation, added to its input (N, K, h, w) before the ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return torch.relu(features + self.norm(self.convolution(features)))


def he_normal(weight: Tensor) -> None:
    """Draw the weights (O, I, k, k) of a convolution: normal, variance 2 / (O * k * k). Source: arXiv:1502.01852."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution, batch normalisation and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def freeze(network: Network, prefixes: Iterable[str]) -> None:
    """Stop gradients for the named parts of the backbone; `train_mode` keeps their batch norms in evaluation mode."""
    for prefix in prefixes:
        network.backbone.get_submodule(prefix).requires_grad_(False)


def train_mode(network: Network, frozen: Iterable[str]) -> None:
    """Put the network in training mode, its frozen parts in evaluation mode."""
    network.train()
    for prefix in frozen:
        network.backbone.get_submodule(prefix).eval()


@torch.no_grad()
def multiply_adds(network: nn.Module, size: int) -> int:
    """Return the multiply-adds of the convolutions and linear layers for one image of size x size pixels."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        positions = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        total += positions * cast(Tensor, layer.weight).numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    network.eval()(torch.zeros(1, 1, size, size))
    for hook in hooks:
        hook.remove()
    return total
