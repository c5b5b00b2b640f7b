"""Answer requests: bound how many are worked on, feed their files to the workers and build the responses.

Everything in this module runs in the event loop, so its counters need no locks. Whatever takes long runs in a thread:
unpacking archives and writing JSON in the pool of anyio, decoding and networks in `InferenceWorkers`.

Limits from the outside in: `Settings.requests` requests are present, `LARGE_REQUESTS` of those with several files are
worked on, each with at most `AHEAD` files or `AHEAD_BYTES` bytes in the workers' queues.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final

import numpy as np
from fastapi.concurrency import run_in_threadpool

from braintumor.classes import DISCLAIMER
from braintumor.errors import BrainTumorError, ImageError, ProblemError, Refusal, UploadError
from braintumor.io.scan import ALL_SLICES, SliceSelection
from braintumor.overlay import png
from braintumor.server.dicom_results import DicomResultsArchive
from braintumor.server.memory import RequestMemory
from braintumor.server.metrics import ServiceMetrics
from braintumor.server.settings import Settings
from braintumor.server.uploads import UploadedFile, is_archive, uploaded_files
from braintumor.server.workers import InferenceWorkers, SliceResult, agree, maps_of

RETRY: Final = {"retry-after": "1"}  # seconds
AHEAD: Final = 4  # files of one request in the workers' queues, so that no request fills them
AHEAD_BYTES: Final = 16 << 20  # of these files together; one alone may be larger
GIVEN_UP: Final = UploadError(
    422, Refusal.ABANDONED, "not looked at: a file before it took too long to decode; send it without that one"
)
TOO_MUCH: Final = UploadError(
    413, Refusal.ABANDONED, "the answer is full; send fewer files in a request, or ask for no pixels"
)
LARGE_REQUESTS: Final = 2  # of several files, worked on at a time; those of one file pass them
STATUS: Final = {Refusal.BUSY: 503, Refusal.UNKNOWN_FORMAT: 415}  # of a file that is refused; of all others 422


@dataclass(frozen=True)
class RequestOptions:
    """The options of a request.

    Attributes:
        models: positions of the models that are to answer, ascending.
        choice: which slices of volumes are wanted.
        maps: whether class maps are wanted.
        pixels: whether the slices are wanted back as pictures.
    """

    models: tuple[int, ...]
    choice: SliceSelection = ALL_SLICES
    maps: bool = False
    pixels: bool = False


@dataclass(frozen=True, eq=False)
class PendingFile:
    """A file that the workers have, its size in bytes and the future of its results."""

    part: UploadedFile
    size: int
    results: "Future[list[SliceResult]]"


class ResponseBuilder:
    """The response to one request as far as it is known.

    Attributes:
        given_up: why the rest of the request is not looked at, once there is a reason.
    """

    given_up: UploadError | None = None

    def __init__(self, options: RequestOptions, metrics: ServiceMetrics, memory: RequestMemory) -> None:
        self._options = options
        self._metrics = metrics
        self._memory = memory
        self._slices: list[bytes] = []  # JSON text of each `SliceAnswer`: smaller than its objects, and counted exactly
        self._refused: list[dict[str, object]] = []
        self._statuses: set[int] = set()

    def refuse(self, part: UploadedFile, status: int, error: UploadError | ImageError) -> None:
        """Record that a file cannot be used."""
        self._statuses.add(status)
        self._refused.append({"file": part.file, "member": part.member, "code": error.code, "text": error.reason})

    async def take(self, pending: PendingFile) -> None:
        """Wait for the results of a file and add them to the response.

        Raises:
            ProblemError: the file could not be decoded now, for which it is not to blame, or there is no memory for
                its results.
        """
        try:
            results = await asyncio.wrap_future(pending.results)
        except ImageError as error:
            self.refuse(pending.part, STATUS.get(error.code, 422), error)
            # The whole request fails, so that the client sends it again: a response without this file would be final.
            if error.code == Refusal.BUSY:
                raise ProblemError(503, error.reason, self._refused[-1:], RETRY) from error
            # One file has cost a decoder all the time that it may take; a request of 500 such files is not served.
            if error.code == Refusal.TIMEOUT:
                self.given_up = GIVEN_UP
            return
        texts = [await run_in_threadpool(_slice_text, pending.part, result, self._options) for result in results]
        size = sum(map(len, texts))
        if size > self._memory.room:
            # the slices before it are still sent: the client asks again for the rest, in smaller requests
            self.given_up = TOO_MUCH
            self.refuse(pending.part, TOO_MUCH.status, TOO_MUCH)
            return
        self._memory.take(size)
        self._slices += texts
        for result in results:
            for prediction in result.predictions:
                self._metrics.decided(prediction)

    def check(self, *, all_used: bool) -> None:
        """Raise an error if no file could be used, or, with `all_used`, if any could not.

        Raises:
            ProblemError: with the files that were refused.
        """
        self._metrics.refused(str(refused["code"]) for refused in self._refused)
        if not self._slices or (all_used and self._refused):
            raise ProblemError(_nothing_usable(self._statuses), str(self._refused[0]["text"]), self._refused)

    def text(self) -> list[bytes]:
        """Return the JSON text of `Predictions`, in pieces: joined they would take as much memory again."""
        head = json.dumps({"disclaimer": DISCLAIMER, "refused": self._refused}).removesuffix("}")
        first, *others = self._slices
        return [head.encode() + b', "slices": [' + first, *(b",\n" + other for other in others), b"]}"]


class PredictionService:
    """A bounded number of requests that are being answered, of which few may have several files.

    Attributes:
        workers: what classifies the files.
    """

    def __init__(self, workers: InferenceWorkers, settings: Settings, metrics: ServiceMetrics) -> None:
        self.workers = workers
        self._settings = settings
        self._metrics = metrics
        self._present = 0
        self._large = asyncio.Semaphore(LARGE_REQUESTS)

    @property
    def full(self) -> bool:
        """Whether the next request would be sent away."""
        return self._present >= self._settings.requests

    async def warm_up(self) -> None:
        """Start what starts slowly: the children of the sandbox and the first run of each network."""
        all_models = tuple(range(len(self.workers.models)))
        content = png(np.full((64, 64), 64, np.uint8))
        seconds = self._settings.answer_seconds
        results = [
            self.workers.judge(content, "warm-up", all_models, return_pixels=True, seconds=seconds)
            for _ in range(2)  # one for each child of the sandbox
        ]
        try:
            await asyncio.gather(*map(asyncio.wrap_future, results))
        except ImageError as error:
            raise BrainTumorError(f"cannot decode any file on this machine: {error.reason}") from error

    async def answer(self, files: list[bytes], options: RequestOptions, memory: RequestMemory) -> list[bytes]:
        """Return the JSON text of `Predictions` for the contents of files, in pieces.

        Raises:
            ProblemError: there are too many requests, no file could be used, it took too long, or there is no memory
                for the response.
        """
        return await self._in_time(self._respond(files, options, memory))

    async def results(self, files: list[bytes], options: RequestOptions, memory: RequestMemory) -> list[bytes]:
        """Return a ZIP archive of the DICOM results for the contents of DICOM files, all of them.

        Raises:
            ProblemError: as `answer`, or one of the files could not be used.
        """
        # closed in any case: what a worker adds after a timeout is then dropped
        with closing(DicomResultsArchive(len(options.models))) as results:
            return await self._in_time(self._respond(files, options, memory, results))

    async def _in_time(self, work: Coroutine[None, None, list[bytes]]) -> list[bytes]:
        """Return what the work returns, if there is a place for it and it does not take too long.

        Raises:
            ProblemError: otherwise.
        """
        if self.full:
            work.close()  # Python warns of a coroutine that was never awaited
            raise ProblemError(503, "too many requests at the moment; try again", headers=RETRY)
        self._present += 1
        try:
            # the time in which a request waits for its turn among the large ones counts, too
            async with asyncio.timeout(self._settings.answer_seconds):
                return await work
        except TimeoutError:
            raise ProblemError(
                504, f"not answered within {self._settings.answer_seconds:g} seconds; send less"
            ) from None
        finally:
            self._present -= 1

    async def _respond(
        self,
        files: list[bytes],
        options: RequestOptions,
        memory: RequestMemory,
        dicom: DicomResultsArchive | None = None,
    ) -> list[bytes]:
        """Return the JSON text of `Predictions`, or where DICOM results are wanted their archive."""
        response = ResponseBuilder(options, self._metrics, memory)
        pending: deque[PendingFile] = deque()
        async with self._turn(files):
            try:
                remaining = uploaded_files(files, self._settings)
                for number in count(1):
                    # in a thread, since unpacking takes long; `part.content` is only valid until the next part
                    part = await run_in_threadpool(_following, remaining)
                    if part is None:
                        break
                    if response.given_up is not None:
                        # the rest is reported as refused, so that the response names every file of the request
                        response.refuse(part, response.given_up.status, response.given_up)
                        continue
                    try:
                        content = await run_in_threadpool(part.content)
                    except UploadError as error:
                        response.refuse(part, error.status, error)
                        continue
                    results = self.workers.judge(
                        content,
                        part.name,
                        options.models,
                        return_pixels=options.pixels,
                        seconds=self._settings.answer_seconds,
                        choice=options.choice,
                        write=None if dicom is None else partial(dicom.add, number),
                    )
                    pending.append(PendingFile(part, len(content), results))
                    # Results are taken in the order of the files, whichever is ready first. A file above the limit of
                    # bytes is waited for at once, alone.
                    while len(pending) == AHEAD or sum(file.size for file in pending) > AHEAD_BYTES:
                        await response.take(pending.popleft())
                while pending:
                    await response.take(pending.popleft())
            except UploadError as error:
                raise ProblemError(error.status, error.reason) from error
            finally:
                # After a timeout, an error, or a client that has left, nobody waits for these any more: the workers
                # see it before they begin a volume's next batch.
                for file in pending:
                    file.results.cancel()
            response.check(all_used=dicom is not None)
            if dicom is None:
                return await run_in_threadpool(response.text)
            content = await run_in_threadpool(dicom.content)
            memory.take(len(content))
            return [content]

    @asynccontextmanager
    async def _turn(self, files: list[bytes]) -> AsyncIterator[None]:
        """Wait until a request may be worked on: no time for one file that is not an archive."""
        if len(files) == 1 and not is_archive(files[0]):
            yield
            return
        async with self._large:
            yield


def _following(remaining: Iterator[UploadedFile]) -> UploadedFile | None:
    # `StopIteration` cannot pass through a future, so the end is None
    return next(remaining, None)


def _slice_text(part: UploadedFile, result: SliceResult, options: RequestOptions) -> bytes:
    """Return the JSON text of `SliceAnswer`."""
    height, width = result.shape
    first = result.predictions[0]  # place and notes are the slice's, the same for every model
    position = first.place
    predictions = [
        {**prediction.record(), "class_maps": maps_of(prediction) if options.maps else None}
        for prediction in result.predictions
    ]
    answer = {
        "file": part.file,
        "member": part.member,
        "volume": position and position.volume,
        "number": position and position.number,
        "position": position and position.position,
        "notes": first.notes,
        "width": width,
        "height": height,
        "pixels": result.picture,
        "agree": agree(result.predictions),
        "predictions": predictions,
    }
    return json.dumps(answer).encode()


def _nothing_usable(statuses: set[int]) -> int:
    """Return the HTTP status of a request all of whose files were refused, with these statuses."""
    for status in (413, 415):
        if statuses == {status}:
            return status
    return 422
