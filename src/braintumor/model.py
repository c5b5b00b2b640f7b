"""What a trained model is on disk, and how to call it: a folder with card.json and model.onnx."""

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.errors import ModelError
from braintumor.preprocess import Preprocess

if TYPE_CHECKING:
    import onnxruntime

ONNX_FILES = {"float32": "model.onnx"}


@dataclass(frozen=True)
class Card:
    """All it takes to judge and rebuild a model; `card.json` holds the same fields.

    Attributes:
        class_map_scale: value of a class map that is shown as full colour (see `overlay`).
        temperature: the logits are divided by it before the softmax; 1 changes nothing.
        data: fingerprint of the manifest, counts per split and class, split fractions, files left out.
        train: every setting of the run, so that it can be repeated.
        precisions: one entry per ONNX file, with its measured parity to the trained network.
    """

    name: str
    version: str
    architecture: str
    preprocess: Preprocess
    class_map_scale: float
    package_version: str
    classes: tuple[str, ...] = CLASSES
    recipe: str = "reference"
    train: dict[str, Any] = field(default_factory=dict)
    weights_origin: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    rejection: dict[str, Any] = field(default_factory=dict)
    precisions: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = "MIT"
    intended_use: str = "Research on brain MRI slices. Not a medical device, not for diagnosis."

    def __post_init__(self) -> None:
        if self.classes != CLASSES:
            raise ModelError(f"expected the classes {CLASSES} in this order, the card has {self.classes}")
        if not (0 < self.class_map_scale < math.inf and 0 < self.temperature < math.inf):
            raise ModelError(
                "expected a positive, finite class_map_scale and temperature, "
                f"the card has {self.class_map_scale} and {self.temperature}"
            )

    def to_json(self) -> str:
        """Return the text of `card.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the card in the text of a `card.json`.

        Raises:
            ModelError: not JSON, or a field is missing, unknown or out of range.
        """
        try:
            fields = json.loads(text)
            fields["preprocess"] = Preprocess(**fields["preprocess"])
            fields["classes"] = tuple(fields["classes"])
            return cls(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"card.json cannot be used ({error}); export the model again with this version") from error


class Model:
    """A loaded model: its card and an ONNX Runtime session on the CPU. Calls from several threads are safe."""

    def __init__(self, folder: Path, card: Card, session: "onnxruntime.InferenceSession") -> None:
        self.folder = folder
        self.card = card
        self._session = session

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the logits (N, 4) and the unscaled, non-negative class maps (N, 4, h, w) of (N, 1, H, W) inputs.

        Raises:
            ModelError: a logit is not finite.
        """
        logits, class_maps = self._session.run(["logits", "class_maps"], {"image": images})
        if not np.isfinite(logits).all():
            raise ModelError(f"the network in {self.folder} answers NaN or infinity; copy or export the model again")
        return logits, class_maps


def load(folder: str | Path, *, precision: str = "float32", threads: int | None = None) -> Model:
    """Return the model in a model folder.

    Args:
        folder: a folder with `card.json` and the ONNX file of the precision.
        precision: `float32`.
        threads: CPU threads to use; all cores by default.

    Raises:
        ModelError: the folder or one of its files is missing, damaged or of another kind.
    """
    if precision not in ONNX_FILES:
        raise ModelError(f"no precision is called {precision!r}; choose one of {', '.join(ONNX_FILES)}")
    folder = Path(folder)
    network_file = folder / ONNX_FILES[precision]
    card = Card.from_json(content(folder / "card.json").decode(errors="replace"))
    session = open_session(network_file, threads or os.cpu_count() or 1)
    check_signature(session, card, network_file)
    return Model(folder, card, session)


def content(file: Path) -> bytes:
    """Return the content of a file of the model folder.

    Raises:
        ModelError: there is no such file, or it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ModelError(
            f"no model in {file.parent}: {file.name} {problem}; name a folder written by `braintumor train`"
        ) from error


def open_session(file: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Return a session of an ONNX file that holds all its weights; files beside it are not opened.

    Raises:
        ModelError: the file is missing or damaged, or its weights lie in other files.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    network = content(file)
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own per failure, all direct children of Exception
        raise ModelError(
            f"{file} is not a usable ONNX file with all its weights inside; copy or export the model again"
        ) from error


def check_signature(session: "onnxruntime.InferenceSession", card: Card, file: Path) -> None:
    """Raise where inputs and outputs of the network are not those that the card promises."""
    size = card.preprocess.size
    inputs = {node.name: list(node.shape[1:]) for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs != {"image": [1, size, size]} or not {"logits", "class_maps"} <= outputs:
        raise ModelError(
            f"{file} has the inputs {inputs} and the outputs {sorted(outputs)}, "
            f"expected image (N, 1, {size}, {size}), logits and class_maps"
        )
