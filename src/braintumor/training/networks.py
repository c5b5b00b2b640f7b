"""Which networks can be trained: the custom CNN, ResNet18, any timm backbone with spatial features; one head."""

from collections.abc import Iterable
from typing import cast

import timm
import torch
from torch import Tensor, nn

from braintumor.classes import CLASSES
from braintumor.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TIMM_NAMES = {"resnet": "resnet18"}


class Network(nn.Module):
    """A backbone with spatial features, global average pooling and the head."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, channels: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.backbone = backbone
        self.head = head(channels, dropout)

    def features(self, image: Tensor) -> Tensor:
        """Return the (N, K, h, w) features of (N, 1, H, W) grey values in [0, 1].

        The backbone sees three equal channels, normalised by the ImageNet mean and deviation.
        """
        normalised = (image - self.mean) / self.std  # (N, 3, H, W)
        return cast(Tensor, self.backbone(normalised.contiguous(memory_format=torch.channels_last)))

    def forward(self, image: Tensor) -> Tensor:
        """Return the (N, 4) logits of (N, 1, H, W) grey values in [0, 1]."""
        return cast(Tensor, self.head(self.features(image).mean(dim=(2, 3))))


def build(model: str, *, dropout: float = 0.6) -> Network:
    """Return an untrained network: `cnn`, `resnet` (ResNet18) or a timm name whose features are (N, K, h, w).

    Convolutions start He-normal. The memory format is channels_last.

    Raises:
        DataError: timm does not know the name, or its features are not (N, K, h, w), as class maps need them.
    """
    if model == "cnn":
        network = Network(CustomCNN(), CustomCNN.channels, dropout)
    else:
        backbone, channels = timm_backbone(TIMM_NAMES.get(model, model))
        network = Network(backbone, channels, dropout)
    return network.to(memory_format=torch.channels_last)


def timm_backbone(name: str) -> tuple[nn.Module, int]:
    """Return a timm backbone without its classifier, randomly initialised, and the number of its feature channels."""
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "see timm.list_models()"
        raise DataError(f"no model is called {name!r}; choose cnn, resnet or a timm name ({near})")
    backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    with torch.no_grad():
        shape = tuple(backbone.eval()(torch.zeros(2, 3, 224, 224)).shape)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise DataError(
            f"{name} cannot be used: its features have the shape {shape}, expected (N, K, h, w); "
            "choose a convolutional network, whose class maps can be read off in closed form"
        )
    return backbone, shape[1]


def head(channels: int, dropout: float) -> nn.Sequential:
    """Return Linear(512), BatchNorm, ReLU, Dropout, Linear(4) on pooled features (N, channels)."""
    return nn.Sequential(
        nn.Linear(channels, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, len(CLASSES)),
    )


class CustomCNN(nn.Sequential):
    """Convolution blocks from (N, 3, H, W) to (N, 256, H/32, W/32); with the head 2.6 million parameters, 0.55 GMAC.

    Each stage halves the side and goes on with residual blocks. The last positions see 247 pixels, more than the slice.
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


class Residual(nn.Module):
    """A 3x3 convolution with batch normalisation, added to its input (N, K, h, w) before the ReLU."""

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
