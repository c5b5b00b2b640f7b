"""Fixtures of tests that train: a quick way to write the trained network."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from braintumor.models.ood import OodScorer
from braintumor.models.session import OUTPUTS
from braintumor.training.export import WithClassMaps
from braintumor.training.networks import Network


@pytest.fixture(scope="module")
def quick_export() -> Iterator[None]:
    """Write ONNX files with torch's older exporter: the same network in a twentieth of the time."""

    def export(network: Network, ood_scorer: OodScorer, size: int, target: Path) -> None:
        dynamic = {name: {0: "batch"} for name in ("image", *OUTPUTS)}
        names = {"input_names": ["image"], "output_names": list(OUTPUTS), "dynamic_axes": dynamic}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its deprecation
            image = torch.zeros(2, 1, size, size)
            torch.onnx.export(WithClassMaps(network.cpu(), ood_scorer), (image,), str(target), dynamo=False, **names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("braintumor.training.export.export", export)
        yield
