"""What the model says about slices: one path for Python, command line, evaluation and everything to come."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.errors import ImageError
from braintumor.model import Model
from braintumor.preprocess import network_input
from braintumor.read import read
from braintumor.scan import Scan

Source = str | Path | Scan
Prepared = tuple[str, NDArray[np.uint8] | ImageError]

COLUMNS = ("image", "label", "predicted", "decision", "reasons", *(f"p_{name}" for name in CLASSES), "model")

BATCH = 32
BATCHES_AHEAD = 3
DECODERS = 2


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
    """

    image: str
    probabilities: NDArray[np.float32]
    predicted: str
    decision: str
    reasons: tuple[str, ...]
    class_maps: NDArray[np.float32]
    model: str

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
        )
        return dict(zip(COLUMNS, values, strict=True))


def predict(scans: Source | Iterable[Source], model: Model) -> list[Prediction]:
    """Return the model's answer for a path, a `Scan`, or several of them, in order.

    Raises:
        ImageError: one of the files cannot be read.
    """
    sources = [scans] if isinstance(scans, str | Path | Scan) else scans
    predictions = []
    for answer in predict_each(sources, model):
        if isinstance(answer, ImageError):
            raise answer
        predictions.append(answer)
    return predictions


def predict_each(sources: Iterable[Source], model: Model) -> Iterator[Prediction | ImageError]:
    """Yield the answer for each source in order, or why it cannot be read; the next files are decoded meanwhile.

    Holds a few batches at a time, however many sources there are.
    """
    remaining = iter(sources)
    waiting: deque[Future[Prepared]] = deque()
    pool = ThreadPoolExecutor(DECODERS)
    try:
        while True:
            for source in islice(remaining, BATCHES_AHEAD * BATCH - len(waiting)):
                waiting.append(pool.submit(prepare, source, model))
            if not waiting:
                return
            yield from answer([waiting.popleft().result() for _ in range(min(BATCH, len(waiting)))], model)
    finally:
        pool.shutdown(cancel_futures=True)


def prepare(source: Source, model: Model) -> Prepared:
    """Return the source's name with its grey levels (S, S), or with why it cannot be read."""
    name = source.source if isinstance(source, Scan) else str(source)
    try:
        scan = source if isinstance(source, Scan) else read(source)
    except ImageError as error:
        return name, error
    return name, model.card.preprocess.grey_levels(scan)


def answer(batch: Sequence[Prepared], model: Model) -> Iterator[Prediction | ImageError]:
    """Yield the answers to a batch in order; what could not be read passes through."""
    slices = [(name, image) for name, image in batch if not isinstance(image, ImageError)]
    answers = iter(decide(slices, model) if slices else ())
    for _, image in batch:
        yield image if isinstance(image, ImageError) else next(answers)


def decide(slices: Sequence[tuple[str, NDArray[np.uint8]]], model: Model) -> list[Prediction]:
    """Return the answers for slices, given with their names as grey levels (S, S)."""
    logits, class_maps = model(network_input(np.stack([levels for _, levels in slices])))
    probabilities = softmax(logits / np.float32(model.card.temperature))
    predicted = [CLASSES[best] for best in probabilities.argmax(axis=1)]
    answers = zip(slices, probabilities, predicted, class_maps, strict=True)
    return [Prediction(name, shares, best, best, (), maps, model.identity) for (name, _), shares, best, maps in answers]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities (N, 4) of logits (N, 4)."""
    powers: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
