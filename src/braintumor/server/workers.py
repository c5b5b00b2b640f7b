"""Classify the files of all requests: threads that take jobs from queues, decode in the sandbox and run the networks.

    event loop  --judge-->  queue of single slices  -->  `threads` threads, up to `batch` jobs at a time
                            queue of volumes        -->  one thread, one job at a time

The event loop only ever sees the `Future` of a job. Until its deadline has passed, a job must resolve it whatever
happens: a request would otherwise wait until then for nothing.
"""

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
from braintumor.models.image_quality import defects
from braintumor.models.session import Model
from braintumor.predictor import Prediction, Predictor, PreparedSlice

SHOWN_SIDE: Final = 2048  # pixels; larger slices are returned smaller
PICTURES_BYTES: Final = 128 << 20  # of the slices of one file; enough for more than 500 of 512 x 512 pixels
TOO_MANY_PICTURES: Final = f"pictures of more than {PICTURES_BYTES >> 20} MiB; ask for fewer slices, or without pixels"
DECIMALS: Final = 4  # of class maps in JSON
Write = Callable[[Scan, Prediction, Model], None]


@dataclass(frozen=True, eq=False)
class Job:
    """A file to classify.

    Attributes:
        content: bytes of the file.
        name: what to call it in errors; never the client's name.
        model_indices: the models that are to answer, as positions in the service's list, ascending.
        return_pixels: whether the slices are wanted back as pictures.
        deadline: when nobody waits for the answer any more, on the clock of `time.monotonic`.
        choice: which slices of a volume are wanted.
        write: writes DICOM results about a slice; None where none are wanted.
        done: resolves to the results for the file's slices, or to the `ImageError` of a file that cannot be read.
    """

    content: bytes
    name: str
    model_indices: tuple[int, ...]
    return_pixels: bool
    deadline: float
    choice: SliceSelection = ALL_SLICES
    write: Write | None = None
    done: "Future[list[SliceResult]]" = field(default_factory=Future)

    @property
    def is_expired(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.deadline <= time.monotonic()


@dataclass(frozen=True, eq=False)
class SliceResult:
    """The predictions of the requested models for one slice.

    Attributes:
        shape: height and width in pixels.
        picture: base64 of a grey 8-bit PNG, if it was requested.
        predictions: of each model, in the order of the service.
    """

    shape: tuple[int, int]
    picture: str | None
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, eq=False)
class DecodedSlice:
    """A decoded slice that waits for the networks.

    Attributes:
        job: the file that it comes from.
        slices: the input of each requested model, by its position in the service.
        shape: height and width in pixels.
        picture: see `SliceResult`.
        scan: the slice itself, kept only if DICOM results are wanted.
    """

    job: Job
    slices: dict[int, PreparedSlice]
    shape: tuple[int, int]
    picture: str | None
    scan: Scan | None


class InferenceWorkers:
    """Threads that classify slices for all requests.

    Waiting slices go through a network together, up to `batch` of them; each gets the answer that it would get alone.
    Nothing of one slice is kept for the next. Files that may hold a volume wait in a queue of their own, so that no
    single slice waits for hundreds of others.

    Attributes:
        models: loaded with one thread each, since as many batches are computed at a time as there are threads.
    """

    def __init__(self, models: Sequence[Model], *, threads: int = 2, batch: int = 8, slices: int = 500) -> None:
        self.models = tuple(models)
        self._batch = batch
        self._most_slices = slices
        # None ends one thread. Neither queue is bounded: `PredictionService` bounds the requests and the files of each.
        self._single: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._volumes: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sandbox = Sandbox(children=threads)
        self._predictors = [Predictor(model, sandbox=self._sandbox) for model in self.models]
        self._threads = [threading.Thread(target=self._work, name=f"workers-{n}", daemon=True) for n in range(threads)]
        self._threads.append(threading.Thread(target=self._work_on_volumes, name="workers-volumes", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """The number of files in the queues."""
        return self._single.qsize() + self._volumes.qsize()

    def judge(
        self,
        content: bytes,
        name: str,
        model_indices: tuple[int, ...],
        *,
        return_pixels: bool,
        seconds: float,
        choice: SliceSelection = ALL_SLICES,
        write: Write | None = None,
    ) -> "Future[list[SliceResult]]":
        """Queue a file, and return the future of its results; it is dropped unread once `seconds` are over."""
        job = Job(
            content=content,
            name=name,
            model_indices=model_indices,
            return_pixels=return_pixels,
            deadline=time.monotonic() + seconds,
            choice=choice,
            write=write,
        )
        (self._volumes if may_hold_several(content) else self._single).put(job)
        return job.done

    def close(self) -> None:
        """End the threads after the jobs in their queues, and the sandbox."""
        # The volumes' thread ends last: the others may still find a volume among single slices and put it there.
        *threads, volumes_thread = self._threads
        for _ in threads:
            self._single.put(None)
        for thread in threads:
            thread.join()
        self._volumes.put(None)
        volumes_thread.join()
        self._sandbox.close()

    def _work(self) -> None:
        """Answer jobs of single slices, as many together as wait, until there is a None."""
        while (first := self._single.get()) is not None:
            # Take what is there, and never wait for more: an idle service answers a slice at once, and batches grow by
            # themselves under load.
            jobs = [first]
            is_last = False
            while len(jobs) < self._batch and not is_last:
                try:
                    job = self._single.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    is_last = True  # taken from the queue, so it must end this thread, after the jobs before it
                else:
                    jobs.append(job)
            # Expired jobs are dropped here without a result: their request has been answered with 504.
            self._answer([job for job in jobs if not job.is_expired])
            if is_last:
                return

    def _work_on_volumes(self) -> None:
        """Answer jobs whose files may hold several slices until there is a None."""
        while (job := self._volumes.get()) is not None:
            try:
                _resolve(job, self._classify_volume(job))
            except Exception as error:  # whoever waits must hear of it; the thread goes on
                _resolve(job, error)

    def _classify_volume(self, job: Job) -> "list[SliceResult]":
        """Return the results for all slices of a file; fewer if nobody waits for them any more.

        Raises:
            ImageError: it cannot be read, or holds too many slices, or too many pixels that are wanted back.
        """
        results: list[SliceResult] = []
        picture_bytes = 0
        # A batch is decoded, classified and let go before the next one is decoded: a volume of 500 slices is never in
        # memory as a whole. Leaving the block early ends the decoder's work on it.
        with closing(self._sandbox.read_all(job.content, job.name, job.choice)) as scans:
            while batch := list(islice(scans, self._batch)):
                if len(results) + len(batch) > self._most_slices:
                    raise ImageError(job.name, f"more than {self._most_slices} slices; split the volume")
                # between batches, since a client that has left must not occupy the only thread for volumes
                if job.done.cancelled() or job.is_expired:
                    break
                decoded = [self._prepare(job, scan) for scan in batch]
                batch_results = self._classify(decoded)
                for slice_, result in zip(decoded, batch_results, strict=True):
                    self._write(slice_, result)
                    picture_bytes += len(result.picture or "")
                if picture_bytes > PICTURES_BYTES:
                    raise ImageError(job.name, TOO_MANY_PICTURES)
                results += batch_results
        return results

    def _answer(self, jobs: list[Job]) -> None:
        """Decode the files of jobs, classify their slices together and resolve the jobs."""
        decoded: list[DecodedSlice] = []
        for job in jobs:
            try:
                decoded.append(self._prepare(job, self._sandbox.read(job.content, job.name, job.choice)))
            except Exception as error:  # whoever waits must hear of it; the threads go on
                if isinstance(error, ImageError) and error.code == Refusal.SEVERAL_SLICES:
                    # Only decoding showed that there are several: `may_hold_several` looks at the first bytes alone.
                    self._volumes.put(job)
                else:
                    _resolve(job, error)
        try:
            results = self._classify(decoded)
        except Exception as error:  # as above; a network that fails over a batch fails for all of its jobs
            for slice_ in decoded:
                _resolve(slice_.job, error)
            return
        for slice_, result in zip(decoded, results, strict=True):
            try:
                self._write(slice_, result)
                _resolve(slice_.job, [result])
            except Exception as error:  # as above; results that cannot be written are this job's alone
                _resolve(slice_.job, error)

    def _classify(self, decoded: Sequence[DecodedSlice]) -> list[SliceResult]:
        """Return the results for slices, whose jobs may request different models."""
        predictions: list[dict[int, Prediction]] = [{} for _ in decoded]
        for model_index, predictor in enumerate(self._predictors):
            # each model gets one batch of the slices that request it, and its predictions go back to their positions
            positions = [position for position, slice_ in enumerate(decoded) if model_index in slice_.slices]
            batch = predictor.predict([decoded[position].slices[model_index] for position in positions])
            for position, prediction in zip(positions, batch, strict=True):
                predictions[position][model_index] = prediction
        return [
            SliceResult(slice_.shape, slice_.picture, tuple(by_model.values()))
            for slice_, by_model in zip(decoded, predictions, strict=True)
        ]

    def _write(self, slice_: DecodedSlice, result: SliceResult) -> None:
        """Write DICOM results about a slice, if they are wanted.

        Raises:
            ImageError: there can be none for this slice.
        """
        if slice_.job.write is not None and slice_.scan is not None:
            for model_index, prediction in zip(slice_.slices, result.predictions, strict=True):
                slice_.job.write(slice_.scan, prediction, self.models[model_index])

    def _prepare(self, job: Job, scan: Scan) -> DecodedSlice:
        """Return what is kept of a slice: far less than its pixels, unless DICOM results are wanted."""
        # `predictions` in `_classify` come in the order of the models, so `model_indices` must be ascending, as they
        # are when the application makes them
        scan_defects = defects(scan)  # once, whatever the number of models
        slices = {index: self._predictors[index].prepare_scan(scan, scan_defects) for index in job.model_indices}
        height, width = scan.pixels.shape
        return DecodedSlice(
            job=job,
            slices=slices,
            shape=(height, width),
            picture=_png_of(scan.pixels) if job.return_pixels else None,
            scan=scan if job.write is not None else None,
        )


def _resolve(job: Job, outcome: list[SliceResult] | Exception) -> None:
    """Give a job its results or its error, unless nobody waits for it any more."""
    # Asking `cancelled()` first would be a race: the event loop may cancel the future at any moment.
    try:
        if isinstance(outcome, Exception):
            job.done.set_exception(outcome)
        else:
            job.done.set_result(outcome)
    except InvalidStateError:
        return


def agree(predictions: Sequence[Prediction]) -> bool | None:
    """Return whether all models make the same decision; None for one model."""
    return None if len(predictions) < 2 else len({prediction.decision for prediction in predictions}) == 1


def maps_of(prediction: Prediction) -> list[list[list[float]]]:
    """Return the 4 x h x w class maps, rounded to 4 decimal places."""
    # as float64: rounded float32 values would be written with more digits, as 0.12340000271797180
    rounded: list[list[list[float]]] = np.round(prediction.class_maps.astype(np.float64), DECIMALS).tolist()
    assert len(rounded) == len(CLASSES)
    return rounded


def _png_of(pixels: NDArray[np.float32]) -> str:
    """Return the base64 of a grey 8-bit PNG of a slice; scaled down if it has more than 2048 pixels on a side."""
    image = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # the fastest: it is read once and thrown away
    return base64.b64encode(buffer.getvalue()).decode()
