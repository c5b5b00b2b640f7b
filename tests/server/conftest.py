"""The service with the small model, asked without a network."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from braintumor.models.session import Model, load_folder
from braintumor.server.app import create_app
from braintumor.server.settings import Settings

HERE = "http://testserver"
Service = Callable[..., TestClient]
Listening = Callable[..., AbstractContextManager[tuple[str, int]]]


@pytest.fixture(scope="session")
def twins(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """Return the small model, and the same under another name."""
    other = tmp_path_factory.mktemp("twin")
    for file in model_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    card = other / "card.json"
    card.write_text(card.read_text().replace('"name": "tiny"', '"name": "twin"'))
    return load_folder(model_folder, threads=1), load_folder(other, threads=1)


@pytest.fixture(scope="session")
def service(twins: tuple[Model, Model], decoders_of_services: None) -> Iterator[Service]:
    """Return a function that starts the service with settings, on one model unless `models` says 2."""
    with ExitStack() as stack:

        def start(models: int = 1, **settings: Any) -> TestClient:
            return stack.enter_context(TestClient(create_app(twins[:models], Settings(**settings)), base_url=HERE))

        yield start


@pytest.fixture(scope="session")
def client(service: Service) -> TestClient:
    """Return the service with its usual settings."""
    return service()


@pytest.fixture(scope="session")
def both(service: Service) -> TestClient:
    """Return the service with two models."""
    return service(models=2)


@pytest.fixture
def listening(model: Model, served: Listening) -> Listening:
    """Return a function that serves the small model in a thread while its block lasts, and yields host and port."""

    return lambda **settings: served([model], **settings)
