"""Load a trained model from its folder, card.json and model.onnx, and run it."""

import os
import platform
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.errors import ModelError
from braintumor.models.card import Card as Card
from braintumor.models.policy import Policy

if TYPE_CHECKING:
    import onnxruntime

ONNX_FILES = {"float32": "model.onnx", "int8": "model.int8.onnx"}
"""The file of each precision in the model folder; training writes the first one."""
LARGEST_CARD: Final = 16 << 20  # bytes
LARGEST_NETWORK: Final = 1 << 30  # bytes
CPU_FACTS = Path("/proc/cpuinfo")


class ModelOutput(NamedTuple):
    """A network's output for N images.

    Attributes:
        logits: (N, 4).
        class_maps: (N, 4, h, w), non-negative, unscaled.
        ood_score: (N,) how unlike the training images each is, see `ood.OodScorer`.
    """

    logits: NDArray[np.float32]
    class_maps: NDArray[np.float32]
    ood_score: NDArray[np.float32]


OUTPUTS = ModelOutput._fields


class Model:
    """A loaded model: its card and an ONNX Runtime session on the CPU. Calls from several threads are safe.

    Attributes:
        policy: when answers are withheld; by default that of the card, at 95 % coverage.
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
        precision = "" if self.precision == "float32" else self.precision
        return " ".join(filter(None, (self.card.name, self.card.version, precision)))

    def __call__(self, images: NDArray[np.float32]) -> ModelOutput:
        """Return the network's output for (N, 1, H, W) inputs.

        Raises:
            ModelError: the network cannot be run, or an output is not finite or of another shape.
        """
        try:
            # Asked for by name, since a file may list its outputs in any order.
            output = ModelOutput(*self._session.run(OUTPUTS, {"image": images}))
        except Exception as error:  # as in `open_session`
            raise ModelError(f"the network in {self.folder} cannot be run; copy or export it again") from error
        # A model may come from anywhere: an output of another shape, or NaN, must not turn into a prediction.
        n, classes = len(images), len(CLASSES)
        shapes = output.logits.shape, output.class_maps.shape, output.ood_score.shape
        if shapes != ((n, classes), (n, classes, *shapes[1][2:4]), (n,)) or len(shapes[1]) != 4 or 0 in shapes[1]:
            raise ModelError(
                f"the network in {self.folder} returns the shapes {shapes} for a batch of {n}, expected "
                f"({n}, {classes}), ({n}, {classes}, h, w) and ({n},); copy or export the model again"
            )
        if not all(np.isfinite(values).all() for values in output):
            raise ModelError(f"the network in {self.folder} returns NaN or infinity; copy or export the model again")
        return output

    def deciding(
        self, *, coverage: float | None = None, max_error: float | None = None, set_error: float | None = None
    ) -> "Model":
        """Return the same model with another operating point; the arguments are those of `Policy.of`.

        Raises:
            ModelError: the card holds no such operating point.
        """
        rejection = self.card.rejection.get(self.precision, {})
        policy = Policy.of(rejection, coverage=coverage, max_error=max_error, set_error=set_error)
        return Model(self.folder, self.card, self._session, precision=self.precision, policy=policy)


def load_folder(folder: str | Path, *, precision: str | None = None, threads: int | None = None) -> Model:
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
    card = card_in(folder)
    if precision != "float32":
        _check_quantized(network_file, card, precision)
    session = open_session(network_file, threads or usable_cores())
    _check_signature(session, card, network_file)
    return Model(folder, card, session, precision)


def card_in(folder: Path) -> Card:
    """Return the card in a model folder.

    Raises:
        ModelError: it is missing or cannot be used; the folder is named.
    """
    text = read_model_file(folder / "card.json", LARGEST_CARD).decode(errors="replace")
    try:
        return Card.from_json(text)
    except ModelError as error:
        raise ModelError(f"no model in {folder}: {error}") from error


def precisions_in(folder: Path) -> tuple[str, ...]:
    """Return the precisions whose ONNX files are in a folder."""
    return tuple(name for name, file in ONNX_FILES.items() if os.path.isfile(folder / file))  # noqa: PTH113 - no errors


def _check_quantized(file: Path, card: Card, precision: str) -> None:
    """Raise if the file of a further precision is missing or belongs to an earlier training in the same folder."""
    if file.is_file() and precision in card.precisions:
        return
    problem = f"card.json does not know {file.name}" if file.is_file() else f"{file.name} is missing"
    raise ModelError(
        f"no {precision} model in {file.parent}: {problem}; "
        f"write it with: braintumor quantize {file.parent} DATA_DIR --precision {precision}"
    )


def read_model_file(file: Path, most: int = LARGEST_NETWORK) -> bytes:
    """Return the content of a file of the model folder.

    Raises:
        ModelError: there is no such file, it cannot be read, or it is larger than `most` bytes.
    """
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= most:  # reading a pipe would wait for ever
            return file.read_bytes()
        problem = f"is not a file of at most {most >> 20} MiB"
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise ModelError(f"no model in {file.parent}: {file.name} {problem}; name a folder written by `braintumor train`")


def open_session(file: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Return a session of an ONNX file that holds all its weights; files beside it are not opened.

    Raises:
        ModelError: the file is missing or damaged, or its weights lie in other files.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # only what ends the process: errors are raised, and libraries are silent
    # Weights in other files are looked for below the null device, where there are none: a model cannot read this disk.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.add_session_config_entry("session.x64quantprecision", "1" if integer_sums_saturate() else "0")
    network = read_model_file(file)
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own per failure, all direct children of Exception
        raise ModelError(
            f"{file} is not a usable ONNX file with all its weights inside; copy or export the model again"
        ) from error


def integer_sums_saturate() -> bool:
    """Tell whether the fastest 8-bit arithmetic may clip sums: on x86 processors not known to have VNNI instructions.

    There ONNX Runtime adds pairs of 8-bit products in 16 bits, unless told to use a slower method.
    Source: `kOrtSessionOptionsAvx2PrecisionMode` in ONNX Runtime's onnxruntime_session_options_config_keys.h.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        with CPU_FACTS.open() as lines:
            return "vnni" not in next((line for line in lines if line.startswith("flags")), "")
    except OSError:  # not Linux, so unknown: the slower arithmetic is never wrong
        return True


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use, at most those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_signature(session: "onnxruntime.InferenceSession", card: Card, file: Path) -> None:
    """Raise if the inputs and outputs of the network are not those that the card promises."""
    size = card.preprocess.size
    # Without the first axis: the batch has a name there, not a number.
    inputs = {node.name: list(node.shape[1:]) for node in session.get_inputs()}
    nodes = (*session.get_inputs(), *session.get_outputs())
    outputs = {node.name for node in session.get_outputs()}
    wrong_types = {node.type for node in nodes if node.name in ("image", *OUTPUTS)} - {"tensor(float)"}
    if inputs != {"image": [1, size, size]} or not outputs.issuperset(OUTPUTS) or wrong_types:
        raise ModelError(
            f"{file} has the inputs {inputs} and the outputs {sorted(outputs)}{wrong_types or ''}, "
            f"expected image (N, 1, {size}, {size}) and {', '.join(OUTPUTS)}, all float32; "
            "train or export the model again"
        )
