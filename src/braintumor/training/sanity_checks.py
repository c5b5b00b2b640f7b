"""Check that class maps depend on what the network has learnt: they must change when its weights are shuffled."""

import copy
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from braintumor.models.ood import OodScorer
from braintumor.training.export import WithClassMaps
from braintumor.training.networks import Network

SHARES: Final = (0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def cascade(network: Network, ood_scorer: OodScorer, images: Tensor, seed: int = 0) -> dict[str, float]:
    """Return how similar class maps stay while layers are shuffled one after the other, from the output down.

    Shuffling permutes the weights within a convolution or linear layer at random. The similarity is the mean rank
    correlation of the maps of the classes that the untouched network predicts; a constant map counts as uncorrelated.

    Args:
        network: in evaluation mode, on the CPU; it is not changed.
        ood_scorer: of the network.
        images: (N, 1, H, W).
        seed: of the shuffling.

    Returns:
        Similarity by the name of the step: `head` for the last layer, then shares of all layers.

    Source: Adebayo and others, 2018, arXiv:1810.03292, with shuffled instead of drawn weights.
    """
    shuffled = copy.deepcopy(network).eval()
    layers = [layer for layer in shuffled.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][::-1]
    before, classes = _maps_of_classes(network, ood_scorer, images, None)
    steps = {"head": 1, **{f"{share:.0%} of the layers": round(share * len(layers)) for share in SHARES}}
    generator, done, similarity = torch.Generator().manual_seed(seed), 0, {}
    for name, number in steps.items():
        for layer in layers[done:number]:
            weight = layer.weight
            weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view(weight.shape))
        done = max(done, number)  # a quarter of very few layers may be none, and `head` has shuffled one
        after, _ = _maps_of_classes(shuffled, ood_scorer, images, classes)
        similarity[name] = float(np.mean([alike(*pair) for pair in zip(before, after, strict=True)]))
    return similarity


def _maps_of_classes(
    network: Network, ood_scorer: OodScorer, images: Tensor, classes: Sequence[int] | None
) -> tuple[NDArray[np.float32], list[int]]:
    """Return the (N, h, w) maps of one class per image, by default the predicted one, and these classes."""
    logits, maps, _ = WithClassMaps(network, ood_scorer)(images)
    selected = logits.argmax(dim=1).tolist() if classes is None else list(classes)
    return maps[torch.arange(len(images)), selected].numpy(), selected


def alike(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return Spearman's rank correlation of two maps, 0 where one is constant or the second is not finite."""
    if not np.ptp(first) or not np.ptp(second) or not np.isfinite(second).all():
        return 0.0
    return float(spearmanr(first.ravel(), second.ravel()).statistic)
