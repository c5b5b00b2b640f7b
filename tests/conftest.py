"""What all tests share: a cache of their own, phantom slices, a small real model, and the real data where it is."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from braintumor.data.phantom import write_phantoms
from braintumor.model import Card, Model, load
from braintumor.preprocess import Preprocess
from braintumor.read import read

if TYPE_CHECKING:
    from braintumor.training.networks import Network

SIZE = 64


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep downloads and decoded images of tests apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINTUMOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of the real data."""
    if "BRAINTUMOR_DATA" not in os.environ:
        pytest.skip("BRAINTUMOR_DATA does not name the folder of the real data")
    return Path(os.environ["BRAINTUMOR_DATA"])


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with one test and three training slices of 96 x 96 pixels per class."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 4, size=96)
    return folder


@pytest.fixture(scope="session")
def slices(phantoms: Path) -> list[Path]:
    """Return the 16 files of the phantoms."""
    return sorted(phantoms.rglob("*.png"))


@pytest.fixture(scope="session")
def network() -> "Network":
    """Return the custom CNN with seeded random weights, whose answers differ clearly between slices.

    The batch norm of its head has rising and falling units.
    """
    torch = pytest.importorskip("torch")
    from braintumor.training.networks import build

    torch.manual_seed(0)
    network = build("cnn").eval()
    norm = network.head[1]
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(-1, 2)
        norm.bias.normal_()
        network.head[0].weight.mul_(100)
    return network


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, network: "Network", slices: list[Path]) -> Path:
    """Return a model folder for 64 x 64 pixels with this network; tests that change it copy it."""
    from braintumor.training.export import export

    folder = tmp_path_factory.mktemp("model")
    export(network, SIZE, folder / "model.onnx")
    fields = {"name": "tiny", "version": "1.2", "architecture": "cnn", "package_version": "0"}
    card = Card(**fields, preprocess=Preprocess(SIZE), class_map_scale=1.0)
    (folder / "card.json").write_text(card.to_json())
    images = np.stack([card.preprocess(read(file)) for file in slices])
    scale = float(load(folder)(images)[1].max())
    (folder / "card.json").write_text(Card(**fields, preprocess=Preprocess(SIZE), class_map_scale=scale).to_json())
    return folder


@pytest.fixture
def model(model_folder: Path) -> Model:
    """Return the small model."""
    return load(model_folder)
