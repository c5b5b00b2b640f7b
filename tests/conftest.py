"""What all tests share: their own cache, phantom slices, a small real model, a server, the real data where it is."""

import http.server
import os
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from braintumor.data.phantom import write_phantoms
from braintumor.io.read import read
from braintumor.io.sandbox import Sandbox
from braintumor.models.preprocess import Preprocess
from braintumor.models.registry import load as load_by_name
from braintumor.models.session import Card, Model, load_folder

if TYPE_CHECKING:
    from braintumor.training.networks import Network

SIZE = 64
sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from tests.dicom import make`


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
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder of 24 phantoms, six per class, one of them for testing, with known flaws.

    Testing/glioma: the bytes of Training/glioma/glioma-0001.png; Testing/meningioma: the pixels of meningioma-0001 in a
    BMP file; Testing/pituitary: pituitary-0001 darker, as JPEG; Testing/notumor: notumor-0001 mirrored and notumor-0002
    turned by 90 degrees counter-clockwise; Training/meningioma/conflict.png: the bytes of glioma-0003;
    Training/pituitary/broken.png: cut off; Training/glioma/notes.txt: no image.
    """
    folder = tmp_path_factory.mktemp("flawed")
    write_phantoms(folder, 6, size=96)
    train, test = folder / "Training", folder / "Testing"
    shutil.copy(train / "glioma/glioma-0001.png", test / "glioma/bytes.png")
    Image.open(train / "meningioma/meningioma-0001.png").save(test / "meningioma/pixels.bmp")
    darker = Image.open(train / "pituitary/pituitary-0001.png").point([round(0.8 * grey) for grey in range(256)])
    darker.save(test / "pituitary/darker.jpg", quality=90)
    ImageOps.mirror(Image.open(train / "notumor/notumor-0001.png")).save(test / "notumor/mirrored.png")
    Image.open(train / "notumor/notumor-0002.png").transpose(Image.Transpose.ROTATE_90).save(
        test / "notumor/turned.png"
    )
    shutil.copy(train / "glioma/glioma-0003.png", train / "meningioma/conflict.png")
    whole = (train / "pituitary/pituitary-0002.png").read_bytes()
    (train / "pituitary/broken.png").write_bytes(whole[: len(whole) // 2])
    (train / "glioma/notes.txt").write_text("not an image")
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
    from braintumor.training.networks import build_network

    torch.manual_seed(0)
    network = build_network("cnn").eval()
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
    torch = pytest.importorskip("torch")
    from braintumor.training.export import export, gate_of

    folder = tmp_path_factory.mktemp("model")
    fields = {"name": "tiny", "version": "1.2", "architecture": "cnn", "package_version": "0"}
    card = Card(**fields, preprocess=Preprocess(SIZE), class_map_scale=1.0)
    (folder / "card.json").write_text(card.to_json())
    images = np.stack([card.preprocess(read(file)) for file in slices])
    export(network, gate_of(network, [torch.from_numpy(images)]), SIZE, folder / "model.onnx")
    scale = float(load_folder(folder)(images)[1].max())
    (folder / "card.json").write_text(Card(**fields, preprocess=Preprocess(SIZE), class_map_scale=scale).to_json())
    return folder


@pytest.fixture
def model(model_folder: Path) -> Model:
    """Return the small model."""
    return load_folder(model_folder)


@pytest.fixture(scope="session")
def bundled() -> Model:
    """Return the model that comes with the package."""
    return load_by_name("cnn")


@pytest.fixture(scope="session")
def decoders() -> Iterator[Sandbox]:
    """Yield two decoders that tests share, since their start takes a second; only the end of all tests closes them."""
    with Sandbox() as shared, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "close", lambda: None)
        yield shared


@pytest.fixture
def shared_decoders(decoders: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `predict` and the commands use the shared decoders instead of starting their own."""
    for module in ("predictor", "io.sandbox", "pacs.watch"):
        monkeypatch.setattr(f"braintumor.{module}.Sandbox", lambda children=2: decoders)


@dataclass
class Server:
    """Serves `files`; `cuts` holds after how many bytes each next connection for a file breaks off."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    knows_ranges: bool = True

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, ranged = self.path[1:], self.headers["Range"]
            shared.asked.append((name, ranged))
            if name not in shared.files:
                self.send_error(404)
                return
            start = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged and shared.knows_ranges else 0
            rest = shared.files[name][start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: shared.cuts[name].pop(0)] if shared.cuts[name] else rest)

        def do_HEAD(self) -> None:
            content = shared.files.get(self.path[1:])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        shared = Server(f"http://127.0.0.1:{running.server_port}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield shared
        running.shutdown()
        thread.join()


@pytest.fixture
def no_server() -> str:
    """Return an address of this machine at which nothing listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        return f"http://127.0.0.1:{closed.server_port}"


@pytest.fixture(scope="session")
def decoders_of_services(decoders: Sandbox) -> Iterator[None]:
    """Let services in this process use the shared decoders."""
    pytest.importorskip("uvicorn", reason="the service needs the extra serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("braintumor.server.workers.Sandbox", lambda children=2: decoders)
        yield


@pytest.fixture(scope="session")
def served(decoders_of_services: None) -> Callable[..., AbstractContextManager[tuple[str, int]]]:
    """Return a function that serves models in a thread while its block lasts, and yields host and port."""
    from braintumor.server.app import create_app
    from braintumor.server.run import Server, configuration
    from braintumor.server.settings import Settings

    @contextmanager
    def start(models: Sequence[Model], **settings: Any) -> Iterator[tuple[str, int]]:
        told = threading.Event()
        app = create_app(models, Settings(**settings))
        server = Server(configuration(app, "127.0.0.1", 0), lambda _: told.set())
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert told.wait(30)
            yield server.servers[0].sockets[0].getsockname()
        finally:
            server.should_exit = True
            thread.join()

    return start
