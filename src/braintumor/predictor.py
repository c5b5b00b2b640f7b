"""Predict slices: from sources to predictions, in batches, decoding ahead. There is no other way to the network."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from braintumor.classes import CLASSES
from braintumor.errors import ImageError, Refusal
from braintumor.io.read import read, read_volume_file, volume_kind
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import ALL_SLICES, Scan, SlicePosition, SliceSelection
from braintumor.models.image_quality import defects
from braintumor.models.policy import REFER
from braintumor.models.preprocess import network_input
from braintumor.models.referral import Referral, sentence
from braintumor.models.session import Model

Source = str | Path | Scan | bytes | tuple[bytes, str]
"""A path, a slice, the content of a file, or that content and its name."""
COLUMNS = (
    "image",
    "label",
    "predicted",
    "decision",
    "reason_codes",
    "reasons",
    *(f"p_{name}" for name in CLASSES),
    "model",
    "ood_score",
    "prediction_set",
    "notes",
    "volume",
    "slice",
)
"""The columns of predictions.csv; JSON has the same names but `reason_codes`, which its `reasons` hold."""

UNNAMED = "bytes"
"""The name of a file's content that comes without one."""
BATCH = 32
BATCHES_AHEAD = 3  # files that are decoded or wait, as a multiple of a batch
BATCH_WITH_SCANS = 8  # smaller, since the scans are kept in full resolution
DECODERS = 2  # threads, and processes of the sandbox
Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class PreparedSlice:
    """A slice prepared for the network.

    Attributes:
        name: its name in results.
        levels: (S, S) uint8 grey levels.
        defects: why it is not good enough to be classified.
        notes: what had to be assumed in reading it.
        place: its position in its volume; None for an image that stands alone.
    """

    name: str
    levels: NDArray[np.uint8]
    defects: tuple[Referral, ...] = ()
    notes: tuple[str, ...] = ()
    place: SlicePosition | None = None


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
        ood_score: how unlike the training images the slice is, about 1 for those, see `ood.OodScorer`.
        prediction_set: classes that contain the true one as often as requested; empty unless requested.
        notes: what had to be assumed in reading the slice.
        place: its position in its volume; None for an image that stands alone.
    """

    image: str
    probabilities: NDArray[np.float32]
    predicted: str
    decision: str
    reasons: tuple[Referral, ...]
    class_maps: NDArray[np.float32]
    model: str
    ood_score: float
    prediction_set: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    place: SlicePosition | None = None

    def record(self, label: str = "") -> dict[str, Any]:
        """Return the prediction for JSON, probabilities to 6 places; None stands for what is missing.

        Args:
            label: the true class, where it is known.
        """
        probabilities = {
            f"p_{name}": round(float(share), 6) for name, share in zip(CLASSES, self.probabilities, strict=True)
        }
        return {
            "image": self.image,
            "label": label or None,
            "predicted": self.predicted,
            "decision": self.decision,
            "reasons": [reason.record() for reason in self.reasons],
            **probabilities,
            "model": self.model,
            "ood_score": float(f"{self.ood_score:.4g}"),
            "prediction_set": list(self.prediction_set),
            "notes": list(self.notes),
            "volume": self.place.volume if self.place else None,
            "slice": self.place.number if self.place else None,
        }

    def row(self, label: str = "") -> dict[str, str | float]:
        """Return the prediction for CSV, under `COLUMNS`; an empty text stands for what is missing."""
        values = self.record(label) | {
            "reason_codes": "; ".join(reason.code for reason in self.reasons),
            "reasons": sentence(self.reasons),
            "prediction_set": " ".join(self.prediction_set),
            "notes": "; ".join(self.notes),
        }
        return {name: "" if values[name] is None else values[name] for name in COLUMNS}


@dataclass(frozen=True)
class Unreadable:
    """A file that has no prediction, or no further one.

    Attributes:
        name: of the file, as in a prediction.
        code: why, for programs.
        text: why, for people; it names neither the folder nor the content of the file.
    """

    name: str
    code: Refusal
    text: str


class Predictor:
    """The one way to ask a model about slices: for Python, commands, service, watcher and evaluation.

    DICOM and NIfTI files, and the content of any file, are decoded in other processes, which start when first needed.
    Calls of `prepare_scan`, `scans` and `predict` from several threads are safe.

    Args:
        model: a loaded model.
        choice: which slices of volumes to read.
        sandbox: decodes files; by default one of its own, which ends with the block.
    """

    def __init__(self, model: Model, choice: SliceSelection = ALL_SLICES, *, sandbox: Sandbox | None = None) -> None:
        self._model = model
        self._choice = choice
        self._lock = Lock()
        self._sandbox = sandbox
        self._owns_sandbox = sandbox is None

    def __enter__(self) -> Self:
        """Return the predictor, whose own processes end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, unless they belong to a sandbox that was passed in."""
        if self._owns_sandbox and self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def run(self, sources: Iterable[Source]) -> Generator[Prediction | ImageError]:
        """Yield the predictions for each source in order, or why it cannot be read; decode the next files meanwhile.

        A file that turns out to be damaged after some of its slices has the predictions for these, then the reason.
        Holds a few batches at a time, however many sources there are.
        """
        # Threads suffice: Pillow releases the GIL while it decodes, and volumes are decoded in processes. Futures are
        # taken from the left, so predictions keep the order of the sources, whichever file is decoded first.
        remaining = iter(sources)
        decoding: deque[Future[list[PreparedSlice | ImageError]]] = deque()
        ready: list[PreparedSlice | ImageError] = []
        pool = ThreadPoolExecutor(DECODERS)
        try:
            while True:
                # Bounded, so that a million sources do not become a million futures with their slices.
                for source in islice(remaining, BATCHES_AHEAD * BATCH - len(decoding)):
                    decoding.append(pool.submit(self._prepared, source))
                while decoding and len(ready) < BATCH:
                    ready += decoding.popleft().result()
                if not ready:
                    return
                # A volume brings more slices than a batch: the rest stays for the next one.
                batch, ready = ready[:BATCH], ready[BATCH:]
                yield from _in_order(batch, self.predict([item for item in batch if isinstance(item, PreparedSlice)]))
        finally:  # also where the caller takes no more: files that nobody has begun with are left
            pool.shutdown(cancel_futures=True)

    def run_with_scans(self, sources: Iterable[Source]) -> Generator[tuple[Scan, Prediction] | ImageError]:
        """Yield each slice with its prediction, or why there is none; as `run`, but without decoding ahead."""
        remaining = chain.from_iterable(map(self.scans, sources))
        while batch := list(islice(remaining, BATCH_WITH_SCANS)):
            scans = [item for item in batch if isinstance(item, Scan)]
            predictions = self.predict([self.prepare_scan(scan) for scan in scans])
            yield from _in_order(batch, list(zip(scans, predictions, strict=True)))

    def predict(self, slices: Sequence[PreparedSlice]) -> list[Prediction]:
        """Return the predictions for one batch of slices."""
        if not slices:
            return []
        model = self._model
        output = model(network_input(np.stack([prepared.levels for prepared in slices])))
        probabilities = softmax(output.logits / np.float32(model.card.temperature))
        predictions = []
        for number, prepared in enumerate(slices):
            of_slice, score = probabilities[number], float(output.ood_score[number])
            predicted = CLASSES[int(of_slice.argmax())]
            reasons = prepared.defects + model.policy.reasons(of_slice, score)
            predictions.append(
                Prediction(
                    image=prepared.name,
                    probabilities=of_slice,
                    predicted=predicted,
                    decision=REFER if reasons else predicted,
                    reasons=reasons,
                    class_maps=output.class_maps[number],
                    model=model.identity,
                    ood_score=score,
                    prediction_set=model.policy.prediction_set(of_slice),
                    notes=prepared.notes,
                    place=prepared.place,
                )
            )
        return predictions

    def prepare_scan(self, scan: Scan, scan_defects: tuple[Referral, ...] | None = None) -> PreparedSlice:
        """Return a slice prepared for the network.

        Args:
            scan: the slice.
            scan_defects: what `defects` says of it, where the caller prepares it for several models.
        """
        return PreparedSlice(
            name=scan.source,
            levels=self._model.card.preprocess.grey_levels(scan),
            defects=defects(scan) if scan_defects is None else scan_defects,
            notes=scan.notes,
            place=scan.place,
        )

    def scans(self, source: Source) -> Iterator[Scan | ImageError]:
        """Yield the slices of a source, and at the end the error if there is one."""
        # Images that the caller names by a path are decoded in this process, by Pillow; DICOM and NIfTI, whose parsers
        # are larger, and bytes from anywhere are not.
        try:
            if isinstance(source, Scan):
                yield source
            elif isinstance(source, tuple):
                yield from self._decoders().read_all(*source, self._choice)
            elif isinstance(source, bytes):
                yield from self._decoders().read_all(source, UNNAMED, self._choice)
            elif volume_kind(source, str(source)) is None:
                yield read(source)
            else:
                yield from self._decoders().read_all(read_volume_file(source, str(source)), str(source), self._choice)
        except ImageError as error:
            yield error

    def _prepared(self, source: Source) -> list[PreparedSlice | ImageError]:
        return [item if isinstance(item, ImageError) else self.prepare_scan(item) for item in self.scans(source)]

    def _decoders(self) -> Sandbox:
        """Return the sandbox, which is started at the first call."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(DECODERS)
            return self._sandbox


def predict(
    sources: Source | Iterable[Source], model: Model, choice: SliceSelection = ALL_SLICES
) -> list[Prediction | Unreadable]:
    """Return the predictions for a path, a `Scan`, the content of a file, or several of them, in their order.

    A volume has a prediction for each slice. A file that cannot be read has an `Unreadable` in its place, and all
    others have their predictions; one that turns out to be damaged after some of its slices has both.

    Args:
        sources: what to classify.
        model: a loaded model.
        choice: which slices of volumes to read.
    """
    is_single = isinstance(sources, str | Path | Scan | bytes) or _is_named_content(sources)
    several: Iterable[Source] = [sources] if is_single else sources  # type: ignore[assignment,list-item]
    with Predictor(model, choice) as predictor:
        return [
            Unreadable(answer.source, answer.code, answer.reason) if isinstance(answer, ImageError) else answer
            for answer in predictor.run(several)
        ]


def predict_all(sources: Iterable[Source], model: Model) -> list[Prediction]:
    """Return the predictions for files that all have to be readable, in their order.

    Raises:
        ImageError: one of them cannot be read.
    """
    predictions = []
    with Predictor(model) as predictor:
        for answer in predictor.run(sources):
            if isinstance(answer, ImageError):
                raise answer
            predictions.append(answer)
    return predictions


def _is_named_content(sources: object) -> bool:
    """Tell whether this is the content of one file with its name, not two sources."""
    return (
        isinstance(sources, tuple) and len(sources) == 2 and isinstance(sources[0], bytes) and type(sources[1]) is str
    )


def _in_order(batch: Sequence[object], answers: Sequence[Answer]) -> Iterator[Answer | ImageError]:
    """Yield the answers to a batch in its order; pass on the errors of what could not be read."""
    remaining = iter(answers)
    for item in batch:
        yield item if isinstance(item, ImageError) else next(remaining)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities (N, 4) of logits (N, 4)."""
    # Less the largest logit, which changes nothing in the ratio, so that no power overflows.
    powers: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
