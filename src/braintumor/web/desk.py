"""Who works on the slices: a few threads that take what waits, decode it in the sandbox and ask the networks."""

import base64
import io
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.defects import defects
from braintumor.errors import ImageError
from braintumor.inference import Prediction, Slice, decide
from braintumor.model import Model
from braintumor.sandbox import Sandbox

SHOWN_SIDE: Final = 2048
DECIMALS: Final = 4


@dataclass(frozen=True, eq=False)
class Job:
    """A file to judge.

    Attributes:
        wanted: which models are to answer, in the order of the service.
        shown: whether the slice is wanted back as a picture.
        until: when nobody waits for the answer any more, by the monotonic clock.
        done: becomes the answer, or the `ImageError` of a file that cannot be read.
    """

    content: bytes
    name: str
    wanted: tuple[int, ...]
    shown: bool
    until: float
    done: "Future[Judged]" = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class Judged:
    """What each of the wanted models says about a slice.

    Attributes:
        shape: height and width in pixels.
        picture: base64 of a grey 8-bit PNG, where it was wanted.
    """

    shape: tuple[int, int]
    picture: str | None
    predictions: tuple[Prediction, ...]


class Desk:
    """Threads that judge slices for all requests.

    The slices that wait go through a network together, up to `batch` of them; each gets the answer that it would get
    alone. Nothing of one slice is kept for the next.

    Attributes:
        models: loaded with one thread each, since as many batches are computed at a time as there are threads.
    """

    def __init__(self, models: Sequence[Model], *, threads: int = 2, batch: int = 8) -> None:
        self.models = tuple(models)
        self._batch = batch
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sandbox = Sandbox(children=threads)
        self._threads = [threading.Thread(target=self._work, name=f"desk-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Return how many slices nobody has begun with."""
        return self._waiting.qsize()

    def judge(
        self, content: bytes, name: str, wanted: tuple[int, ...], *, shown: bool, seconds: float
    ) -> "Future[Judged]":
        """Return the answer to a file's content, in time; it is dropped unread if `seconds` are over."""
        job = Job(content, name, wanted, shown, time.monotonic() + seconds)
        self._waiting.put(job)
        return job.done

    def close(self) -> None:
        """End the threads after what they work on, and the sandbox."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._sandbox.close()

    def _work(self) -> None:
        """Take jobs until there is a None."""
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

    def _answer(self, jobs: list[Job]) -> None:
        """Decode the jobs' files and put the answers in place."""
        read: list[Read] = []
        for job in jobs:
            try:
                read.append(self._read(job))
            except ImageError as error:
                settle(job, error)
        try:
            answers: list[dict[int, Prediction]] = [{} for _ in read]
            for number, model in enumerate(self.models):
                asked = [place for place, each in enumerate(read) if number in each.slices]
                said = decide([read[place].slices[number] for place in asked], model) if asked else []
                for place, prediction in zip(asked, said, strict=True):
                    answers[place][number] = prediction
            for each, found in zip(read, answers, strict=True):
                settle(each.job, Judged(each.shape, each.picture, tuple(found.values())))
        except Exception as error:  # whoever waits must hear of it; the threads go on
            for each in read:
                settle(each.job, error)

    def _read(self, job: Job) -> "Read":
        """Return what is kept of a job's file: far less than its pixels.

        Raises:
            ImageError: it cannot be read.
        """
        scan = self._sandbox.read(job.content, job.name)
        why = defects(scan)
        slices = {
            number: Slice(job.name, self.models[number].card.preprocess.grey_levels(scan), why) for number in job.wanted
        }
        height, width = scan.pixels.shape
        return Read(job, slices, (height, width), png_of(scan.pixels) if job.shown else None)


@dataclass(frozen=True, eq=False)
class Read:
    """A file that was decoded: the slice as each of the wanted models takes it, its shape and its picture."""

    job: Job
    slices: dict[int, Slice]
    shape: tuple[int, int]
    picture: str | None


def settle(job: Job, answer: Judged | Exception) -> None:
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


def png_of(pixels: NDArray[np.float32]) -> str:
    """Return the base64 of a grey 8-bit PNG of a slice; made smaller where it has more than 2048 pixels on a side."""
    image = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
