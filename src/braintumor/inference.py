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
from braintumor.decision import REFER
from braintumor.defects import defects
from braintumor.errors import ImageError
from braintumor.model import Model
from braintumor.preprocess import network_input
from braintumor.read import read
from braintumor.scan import Scan

Source = str | Path | Scan
COLUMNS = (
    *("image", "label", "predicted", "decision", "reasons"),
    *(f"p_{name}" for name in CLASSES),
    *("model", "unusual", "prediction_set"),
)

BATCH = 32
BATCHES_AHEAD = 3
DECODERS = 2


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice as the network takes it.

    Attributes:
        name: what to call it in results.
        levels: (S, S) grey levels.
        defects: why it is not good enough to be judged.
    """

    name: str
    levels: NDArray[np.uint8]
    defects: tuple[str, ...] = ()


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
    waiting: deque[Future[Slice | ImageError]] = deque()
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


def prepare(source: Source, model: Model) -> Slice | ImageError:
    """Return the source as the network takes it, or why it cannot be read."""
    try:
        scan = source if isinstance(source, Scan) else read(source)
    except ImageError as error:
        return error
    return Slice(scan.source, model.card.preprocess.grey_levels(scan), defects(scan))


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
        answers.append(Prediction(each.name, shares, best, decision, reasons, maps, model.identity, unusual, classes))
    return answers


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities (N, 4) of logits (N, 4)."""
    powers: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
