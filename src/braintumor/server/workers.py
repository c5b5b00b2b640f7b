"""Who works on the slices: a few threads that take what waits, decode it in the sandbox and ask the networks."""

import base64
import io
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.errors import ImageError, Refusal
from braintumor.io.read import may_hold_several
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import ALL_SLICES, Scan, SliceSelection
from braintumor.models.session import Model
from braintumor.predictor import Prediction, Predictor, PreparedSlice

SHOWN_SIDE: Final = 2048
PICTURES_BYTES: Final = 128 << 20  # of the slices of one file; more than 500 of 512 x 512 pixels
TOO_MANY_PICTURES: Final = f"pictures of more than {PICTURES_BYTES >> 20} MiB; ask for fewer slices, or without pixels"
DECIMALS: Final = 4
Write = Callable[[Scan, Prediction, Model], None]


@dataclass(frozen=True, eq=False)
class Job:
    """A file to judge.

    Attributes:
        wanted: which models are to answer, in the order of the service.
        shown: whether the slices are wanted back as pictures.
        until: when nobody waits for the answer any more, by the monotonic clock.
        choice: which slices of a volume are wanted.
        write: writes DICOM results about a slice, if they are wanted.
        done: becomes the answers for the file's slices, or the `ImageError` of a file that cannot be read.
    """

    content: bytes
    name: str
    wanted: tuple[int, ...]
    shown: bool
    until: float
    choice: SliceSelection = ALL_SLICES
    write: Write | None = None
    done: "Future[list[SliceResult]]" = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class SliceResult:
    """What each of the wanted models says about a slice.

    Attributes:
        shape: height and width in pixels.
        picture: base64 of a grey 8-bit PNG, where it was wanted.
        predictions: of each model, in the order of the service.
    """

    shape: tuple[int, int]
    picture: str | None
    predictions: tuple[Prediction, ...]


class InferenceWorkers:
    """Threads that judge slices for all requests.

    The slices that wait go through a network together, up to `batch` of them; each gets the answer that it would get
    alone. Nothing of one slice is kept for the next. Files that may hold a volume wait in a line of their own, so that
    nobody's single slice waits for them.

    Attributes:
        models: loaded with one thread each, since as many batches are computed at a time as there are threads.
    """

    def __init__(self, models: Sequence[Model], *, threads: int = 2, batch: int = 8, slices: int = 500) -> None:
        self.models = tuple(models)
        self._batch = batch
        self._most = slices
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._volumes: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sandbox = Sandbox(children=threads)
        self._predictors = [Predictor(model, sandbox=self._sandbox) for model in self.models]
        self._threads = [threading.Thread(target=self._work, name=f"desk-{n}", daemon=True) for n in range(threads)]
        self._threads.append(threading.Thread(target=self._work_on_volumes, name="desk-volumes", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Return how many slices nobody has begun with."""
        return self._waiting.qsize() + self._volumes.qsize()

    def judge(
        self,
        content: bytes,
        name: str,
        wanted: tuple[int, ...],
        *,
        shown: bool,
        seconds: float,
        choice: SliceSelection = ALL_SLICES,
        write: Write | None = None,
    ) -> "Future[list[SliceResult]]":
        """Return the answers to a file's content, in time; it is dropped unread if `seconds` are over."""
        job = Job(content, name, wanted, shown, time.monotonic() + seconds, choice, write)
        (self._volumes if may_hold_several(content) else self._waiting).put(job)
        return job.done

    def close(self) -> None:
        """End the threads after what they work on, and the sandbox."""
        *threads, last = self._threads
        for _ in threads:
            self._waiting.put(None)
        for thread in threads:
            thread.join()
        self._volumes.put(None)
        last.join()
        self._sandbox.close()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            jobs = [first]
            over = False
            while len(jobs) < self._batch and not over:
                try:
                    job = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    over = True
                else:
                    jobs.append(job)
            self._answer([job for job in jobs if job.until > time.monotonic()])
            if over:
                return

    def _work_on_volumes(self) -> None:
        """Take jobs whose files may hold several slices until there is a None."""
        while (job := self._volumes.get()) is not None:
            try:
                _settle(job, self._volume(job))
            except Exception as error:  # whoever waits must hear of it; the thread goes on
                _settle(job, error)

    def _volume(self, job: Job) -> "list[SliceResult]":
        """Return the answers to all slices of a file; fewer where nobody waits for them any more.

        Raises:
            ImageError: it cannot be read, or holds too many slices, or too many pixels that are wanted back.
        """
        found: list[SliceResult] = []
        held = 0
        with closing(self._sandbox.read_all(job.content, job.name, job.choice)) as scans:
            while batch := list(islice(scans, self._batch)):
                if len(found) + len(batch) > self._most:
                    raise ImageError(job.name, f"more than {self._most} slices; split the volume")
                if job.done.cancelled() or job.until < time.monotonic():
                    break
                ready = [self._ready(job, scan) for scan in batch]
                judged = self._judged(ready)
                for each, answer in zip(ready, judged, strict=True):
                    self._write(each, answer)
                    held += len(answer.picture or "")
                if held > PICTURES_BYTES:
                    raise ImageError(job.name, TOO_MANY_PICTURES)
                found += judged
        return found

    def _answer(self, jobs: list[Job]) -> None:
        """Decode the jobs' files and put the answers in place."""
        read: list[DecodedSlice] = []
        for job in jobs:
            try:
                read.append(self._ready(job, self._sandbox.read(job.content, job.name, job.choice)))
            except Exception as error:  # whoever waits must hear of it; the threads go on
                if isinstance(error, ImageError) and error.code == Refusal.SEVERAL_SLICES:
                    self._volumes.put(job)
                else:
                    _settle(job, error)
        try:
            answers = self._judged(read)
        except Exception as error:  # as above
            for each in read:
                _settle(each.job, error)
            return
        for each, judged in zip(read, answers, strict=True):
            try:
                self._write(each, judged)
                _settle(each.job, [judged])
            except Exception as error:  # as above
                _settle(each.job, error)

    def _judged(self, read: "Sequence[DecodedSlice]") -> "list[SliceResult]":
        """Return what the wanted models say about slices."""
        answers: list[dict[int, Prediction]] = [{} for _ in read]
        for number, predictor in enumerate(self._predictors):
            asked = [place for place, each in enumerate(read) if number in each.slices]
            predictions = predictor.predict([read[place].slices[number] for place in asked])
            for place, prediction in zip(asked, predictions, strict=True):
                answers[place][number] = prediction
        return [
            SliceResult(each.shape, each.picture, tuple(found.values()))
            for each, found in zip(read, answers, strict=True)
        ]

    def _write(self, ready: "DecodedSlice", judged: SliceResult) -> None:
        """Put DICOM results where they are wanted.

        Raises:
            ImageError: there can be none for this slice.
        """
        if ready.job.write is not None and ready.scan is not None:
            for number, prediction in zip(ready.slices, judged.predictions, strict=True):
                ready.job.write(ready.scan, prediction, self.models[number])

    def _ready(self, job: Job, scan: Scan) -> "DecodedSlice":
        """Return what is kept of a slice: far less than its pixels, unless results are wanted."""
        slices = {number: self._predictors[number].prepare_scan(scan) for number in job.wanted}
        height, width = scan.pixels.shape
        picture = _png_of(scan.pixels) if job.shown else None
        return DecodedSlice(job, slices, (height, width), picture, scan if job.write is not None else None)


@dataclass(frozen=True, eq=False)
class DecodedSlice:
    """A slice that was decoded, as each of the wanted models takes it, with its shape, its picture, its pixels."""

    job: Job
    slices: dict[int, PreparedSlice]
    shape: tuple[int, int]
    picture: str | None
    scan: Scan | None


def _settle(job: Job, answer: list[SliceResult] | Exception) -> None:
    """Give a job its answer, unless nobody waits for it any more."""
    try:
        if isinstance(answer, Exception):
            job.done.set_exception(answer)
        else:
            job.done.set_result(answer)
    except InvalidStateError:
        return


def agree(predictions: Sequence[Prediction]) -> bool | None:
    """Tell whether all models decide alike; None for one model."""
    return None if len(predictions) < 2 else len({each.decision for each in predictions}) == 1


def maps_of(prediction: Prediction) -> list[list[list[float]]]:
    """Return the class maps, 4 x h x w, to 4 places."""
    rounded: list[list[list[float]]] = np.round(prediction.class_maps.astype(np.float64), DECIMALS).tolist()
    assert len(rounded) == len(CLASSES)
    return rounded


def _png_of(pixels: NDArray[np.float32]) -> str:
    """Return the base64 of a grey 8-bit PNG of a slice; made smaller where it has more than 2048 pixels on a side."""
    image = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
