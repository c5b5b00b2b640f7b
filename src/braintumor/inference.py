"""What the model says about slices: one path for Python, command line, evaluation and everything to come."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.decision import REFER
from braintumor.defects import defects
from braintumor.errors import ImageError, Refusal
from braintumor.model import Model
from braintumor.preprocess import network_input
from braintumor.read import read, volume_kind, whole
from braintumor.sandbox import Sandbox
from braintumor.scan import EVERYTHING, Choice, Place, Scan

Source = str | Path | Scan | bytes | tuple[bytes, str]
"""A path, a slice, the content of a file, or that and what to call it."""
COLUMNS = (
    *("image", "label", "predicted", "decision", "reasons"),
    *(f"p_{name}" for name in CLASSES),
    *("model", "unusual", "prediction_set", "notes", "volume", "slice"),
)

UNNAMED = "bytes"
"""What the content of a file is called that comes without a name."""
BATCH = 32
BATCHES_AHEAD = 3
FEW = 8
DECODERS = 2


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice as the network takes it.

    Attributes:
        name: what to call it in results.
        levels: (S, S) grey levels.
        defects: why it is not good enough to be judged.
        notes: what had to be assumed in reading it.
        place: where it lies in its volume.
    """

    name: str
    levels: NDArray[np.uint8]
    defects: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    place: Place | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """The model's answer for one slice.

    Attributes:
        image: the slice's source, as given.
        probabilities: (4,) float32 in the order of `CLASSES`, summing to 1.
        predicted: the most probable class.
        decision: a class, or `refer` where the answer should not be used.
        reasons: why it is `refer`; empty otherwise.
        class_maps: (4, h, w) float32, non-negative, unscaled; divide by the card's `class_map_scale` to show them.
        model: name and version of the model.
        unusual: how unlike the images of training the slice is, about 1 for those, see `evaluate.reject.Gate`.
        prediction_set: classes one of which is the true one as often as was asked for; empty where nobody asked.
        notes: what had to be assumed in reading the slice.
        place: where the slice lies in its volume; None for an image that stands alone.
    """

    image: str
    probabilities: NDArray[np.float32]
    predicted: str
    decision: str
    reasons: tuple[str, ...]
    class_maps: NDArray[np.float32]
    model: str
    unusual: float
    prediction_set: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    place: Place | None = None

    def record(self, label: str = "") -> dict[str, str | float]:
        """Return the answer under `COLUMNS`, probabilities to 6 places; `label` is the true class where it is known."""
        shares = (round(float(share), 6) for share in self.probabilities)
        values: tuple[str | float, ...] = (
            self.image,
            label,
            self.predicted,
            self.decision,
            "; ".join(self.reasons),
            *shares,
            self.model,
            float(f"{self.unusual:.4g}"),
            " ".join(self.prediction_set),
            "; ".join(self.notes),
            self.place.volume if self.place else "",
            self.place.number if self.place else "",
        )
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class Unreadable:
    """A file that has no answer, or no further one.

    Attributes:
        name: what the file is called, as in an answer.
        code: why, for programs.
        text: why, for people; it names neither the folder nor the content of the file.
    """

    name: str
    code: Refusal
    text: str


def predict(
    sources: Source | Iterable[Source], model: Model, choice: Choice = EVERYTHING
) -> list[Prediction | Unreadable]:
    """Return the model's answers for a path, a `Scan`, the content of a file, or several of them, in their order.

    A volume has an answer for each slice. A file that cannot be read has an `Unreadable` in its place, and all others
    have their answers; one that turns out to be damaged after some of its slices has both.
    """
    alone = isinstance(sources, str | Path | Scan | bytes) or is_named_content(sources)
    answers = predict_each([sources] if alone else sources, model, choice)  # type: ignore[arg-type,list-item]
    return [
        Unreadable(each.source, each.code, each.reason) if isinstance(each, ImageError) else each for each in answers
    ]


def predict_all(sources: Iterable[Source], model: Model) -> list[Prediction]:
    """Return the model's answers for files of which each has to have one, in their order.

    Raises:
        ImageError: one of them cannot be read.
    """
    predictions = []
    for answer in predict_each(sources, model):
        if isinstance(answer, ImageError):
            raise answer
        predictions.append(answer)
    return predictions


def is_named_content(sources: object) -> bool:
    """Tell whether this is the content of one file and what to call it, not two sources."""
    return (
        isinstance(sources, tuple) and len(sources) == 2 and isinstance(sources[0], bytes) and type(sources[1]) is str
    )


def predict_each(
    sources: Iterable[Source], model: Model, choice: Choice = EVERYTHING
) -> Iterator[Prediction | ImageError]:
    """Yield the answers for each source in order, or why it cannot be read; the next files are decoded meanwhile.

    DICOM and NIfTI files, and the content of any file, are decoded in other processes, see `sandbox`. A file that turns
    out to be damaged after some of its slices has the answers for these, then the reason. Holds a few batches at a
    time, however many sources there are.

    Args:
        sources: what to answer.
        model: a loaded model.
        choice: which slices of volumes are wanted.
    """
    remaining = iter(sources)
    waiting: deque[Future[list[Slice | ImageError]]] = deque()
    ready: list[Slice | ImageError] = []
    pool = ThreadPoolExecutor(DECODERS)
    with Decoders(model, choice) as decoders:
        try:
            while True:
                for source in islice(remaining, BATCHES_AHEAD * BATCH - len(waiting)):
                    waiting.append(pool.submit(decoders.prepare, source))
                while waiting and len(ready) < BATCH:
                    ready += waiting.popleft().result()
                if not ready:
                    return
                yield from answer(ready[:BATCH], model)
                del ready[:BATCH]
        finally:
            pool.shutdown(cancel_futures=True)


def judge_each(
    sources: Iterable[Source], model: Model, choice: Choice = EVERYTHING, sandbox: Sandbox | None = None
) -> Generator[tuple[Scan, Prediction] | ImageError]:
    """Yield the slices with their answers, or why there are none; as `predict_each`, with a few slices in memory.

    Files are decoded in a sandbox of the caller's, where one is given.
    """
    with Decoders(model, choice, sandbox) as decoders:
        remaining = chain.from_iterable(map(decoders.scans, sources))
        while batch := list(islice(remaining, FEW)):
            slices = [each if isinstance(each, ImageError) else decoders.ready(each) for each in batch]
            for each, said in zip(batch, answer(slices, model), strict=True):
                if isinstance(each, Scan) and isinstance(said, Prediction):
                    yield each, said
                elif isinstance(each, ImageError):
                    yield each


class Decoders:
    """What turns sources into what the network takes; starts other processes for those that need them."""

    def __init__(self, model: Model, choice: Choice, sandbox: Sandbox | None = None) -> None:
        self._preprocess = model.card.preprocess
        self._choice = choice
        self._lock = Lock()
        self._sandbox = sandbox
        self._is_own = sandbox is None

    def __enter__(self) -> Self:
        """Return this, whose own processes end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        if self._is_own and self._sandbox is not None:
            self._sandbox.close()

    def prepare(self, source: Source) -> list[Slice | ImageError]:
        """Return the slices of a source as the network takes them; last, why there are no more."""
        return [each if isinstance(each, ImageError) else self.ready(each) for each in self.scans(source)]

    def ready(self, scan: Scan) -> Slice:
        """Return a slice as the network takes it."""
        return Slice(scan.source, self._preprocess.grey_levels(scan), defects(scan), scan.notes, scan.place)

    def scans(self, source: Source) -> Iterator[Scan | ImageError]:
        """Yield the slices of a source; last, why there are no more."""
        try:
            if isinstance(source, Scan):
                yield source
            elif isinstance(source, tuple):
                yield from self._children().read_all(*source, self._choice)
            elif isinstance(source, bytes):
                yield from self._children().read_all(source, UNNAMED, self._choice)
            elif volume_kind(source, str(source)) is None:
                yield read(source)
            else:
                yield from self._children().read_all(whole(source, str(source)), str(source), self._choice)
        except ImageError as error:
            yield error

    def _children(self) -> Sandbox:
        """Return the sandbox, started when first asked for."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(DECODERS)
            return self._sandbox


def answer(batch: Sequence[Slice | ImageError], model: Model) -> Iterator[Prediction | ImageError]:
    """Yield the answers to a batch in order; what could not be read passes through."""
    slices = [each for each in batch if not isinstance(each, ImageError)]
    answers = iter(decide(slices, model) if slices else ())
    for each in batch:
        yield each if isinstance(each, ImageError) else next(answers)


def decide(slices: Sequence[Slice], model: Model) -> list[Prediction]:
    """Return the answers for slices."""
    said = model(network_input(np.stack([each.levels for each in slices])))
    probabilities = softmax(said.logits / np.float32(model.card.temperature))
    predicted = [CLASSES[best] for best in probabilities.argmax(axis=1)]
    answers = []
    for each, shares, best, maps, unusual in zip(
        slices, probabilities, predicted, said.class_maps, said.unusual.tolist(), strict=True
    ):
        reasons = each.defects + model.policy.reasons(shares, unusual)
        decision, classes = REFER if reasons else best, model.policy.prediction_set(shares)
        answers.append(
            Prediction(
                *(each.name, shares, best, decision, reasons, maps, model.identity, unusual, classes),
                notes=each.notes,
                place=each.place,
            )
        )
    return answers


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities (N, 4) of logits (N, 4)."""
    powers: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
