"""What a trained model is on disk, and how to call it: a folder with card.json and model.onnx."""

import dataclasses
import json
import math
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.decision import Policy
from braintumor.errors import ModelError
from braintumor.preprocess import Preprocess

if TYPE_CHECKING:
    import onnxruntime

ONNX_FILES = {"float32": "model.onnx", "int8": "model.int8.onnx"}
"""File of each precision in the model folder; the first one is written by training."""


@dataclass(frozen=True)
class Card:
    """All it takes to judge and rebuild a model; `card.json` holds the same fields.

    Attributes:
        class_map_scale: value of a class map that is shown as full colour (see `overlay`).
        temperature: the logits are divided by it before the softmax; 1 changes nothing.
        data: fingerprint of the manifest, counts per split and class, split fractions, files left out.
        train: every setting of the run, so that it can be repeated.
        rejection: for each precision, when answers are withheld, from validation images: `unusual` and `foreign`,
            thresholds of how unusual an image may be; `points`, the least probability for a coverage, with the error
            there; `sets`, the quantiles of prediction sets by their error.
        precisions: one entry per ONNX file: how far float32 agrees with the trained network, the others with float32.
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


class Answers(NamedTuple):
    """What a network says about N images.

    Attributes:
        logits: (N, 4).
        class_maps: (N, 4, h, w), non-negative, unscaled.
        unusual: (N,) how unlike the images of training each is, see `evaluate.reject.Gate`.
    """

    logits: NDArray[np.float32]
    class_maps: NDArray[np.float32]
    unusual: NDArray[np.float32]


OUTPUTS = Answers._fields


class Model:
    """A loaded model: its card and an ONNX Runtime session on the CPU. Calls from several threads are safe.

    Attributes:
        policy: when an answer is withheld; by default that of the card, at 95 % coverage.
    """

    def __init__(
        self,
        folder: Path,
        card: Card,
        session: "onnxruntime.InferenceSession",
        precision: str = "float32",
        policy: Policy | None = None,
    ) -> None:
        self.folder = folder
        self.card = card
        self.precision = precision
        self.policy = policy or Policy.of(card.rejection.get(precision, {}))
        self._session = session

    @property
    def identity(self) -> str:
        """Return the model's name and version, and its precision unless it is the trained one."""
        words = (self.card.name, self.card.version, "" if self.precision == "float32" else self.precision)
        return " ".join(filter(None, words))

    def __call__(self, images: NDArray[np.float32]) -> Answers:
        """Return what the network says about (N, 1, H, W) inputs.

        Raises:
            ModelError: a logit is not finite.
        """
        answers = Answers(*self._session.run(OUTPUTS, {"image": images}))
        if not np.isfinite(answers.logits).all():
            raise ModelError(f"the network in {self.folder} answers NaN or infinity; copy or export the model again")
        return answers

    def deciding(
        self, *, coverage: float | None = None, max_error: float | None = None, set_error: float | None = None
    ) -> "Model":
        """Return the same model with another operating point; the arguments are those of `Policy.of`.

        Raises:
            ModelError: the card holds no such operating point.
        """
        rejection = self.card.rejection.get(self.precision, {})
        policy = Policy.of(rejection, coverage=coverage, max_error=max_error, set_error=set_error)
        return Model(self.folder, self.card, self._session, self.precision, policy)


def load(folder: str | Path, *, precision: str | None = None, threads: int | None = None) -> Model:
    """Return the model in a model folder.

    Args:
        folder: a folder with `card.json` and the ONNX file of the precision.
        precision: `float32`, or `int8` where `braintumor quantize` has written it; by default the first that is there.
        threads: CPU threads to use; by default one for each core that the process may use.

    Raises:
        ModelError: the folder or one of its files is missing, damaged or of another kind.
    """
    folder = Path(folder)
    if precision is None:
        precision = next(iter(precisions_in(folder)), "float32")
    if precision not in ONNX_FILES:
        raise ModelError(f"no precision is called {precision!r}; choose one of {', '.join(ONNX_FILES)}")
    network_file = folder / ONNX_FILES[precision]
    card = Card.from_json(content(folder / "card.json").decode(errors="replace"))
    if precision != "float32":
        check_quantized(network_file, card, precision)
    session = open_session(network_file, threads or usable_cores())
    check_signature(session, card, network_file)
    return Model(folder, card, session, precision)


def precisions_in(folder: Path) -> tuple[str, ...]:
    """Return the precisions whose ONNX files are in a folder."""
    return tuple(name for name, file in ONNX_FILES.items() if (folder / file).is_file())


def check_quantized(file: Path, card: Card, precision: str) -> None:
    """Raise where the file of a further precision is missing or belongs to an earlier training in the same folder."""
    if file.is_file() and precision in card.precisions:
        return
    problem = f"card.json does not know {file.name}" if file.is_file() else f"{file.name} is missing"
    raise ModelError(
        f"no {precision} model in {file.parent}: {problem}; "
        f"write it with: braintumor quantize {file.parent} DATA_DIR --precision {precision}"
    )


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
    options.add_session_config_entry("session.x64quantprecision", "1" if integer_sums_saturate() else "0")
    network = content(file)
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own per failure, all direct children of Exception
        raise ModelError(
            f"{file} is not a usable ONNX file with all its weights inside; copy or export the model again"
        ) from error


def integer_sums_saturate() -> bool:
    """Tell whether the fastest 8-bit arithmetic may clip sums: on x86 processors not known to have VNNI instructions.

    There ONNX Runtime adds pairs of 8-bit products in 16 bits, unless told to take a slower way.
    Source: `kOrtSessionOptionsAvx2PrecisionMode` in ONNX Runtime's onnxruntime_session_options_config_keys.h.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        with CPU_FACTS.open() as lines:
            return "vnni" not in next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return True


CPU_FACTS = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Return how many CPU cores this process may use; fewer than the machine has where it is confined to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_signature(session: "onnxruntime.InferenceSession", card: Card, file: Path) -> None:
    """Raise where inputs and outputs of the network are not those that the card promises."""
    size = card.preprocess.size
    inputs = {node.name: list(node.shape[1:]) for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs != {"image": [1, size, size]} or not outputs.issuperset(OUTPUTS):
        raise ModelError(
            f"{file} has the inputs {inputs} and the outputs {sorted(outputs)}, "
            f"expected image (N, 1, {size}, {size}) and {', '.join(OUTPUTS)}; train or export the model again"
        )
