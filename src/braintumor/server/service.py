"""Where requests wait for their answers, and how these are put together."""

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

RETRY: Final = {"retry-after": "1"}
AHEAD: Final = 4  # files of one request that wait or are worked on at a time
AHEAD_BYTES: Final = 16 << 20  # these together, but for one
GIVEN_UP: Final = UploadError(
    422, Refusal.ABANDONED, "not looked at: a file before it took too long to decode; send it without that one"
)
TOO_MUCH: Final = UploadError(
    413, Refusal.ABANDONED, "the answer is full; send fewer files in a request, or ask for no pixels"
)
LARGE_REQUESTS: Final = 2  # of several slices, answered at a time
STATUS: Final = {Refusal.BUSY: 503, Refusal.UNKNOWN_FORMAT: 415}  # of a file that is refused; of all others 422


@dataclass(frozen=True)
class RequestOptions:
    """What a request asks for: positions of models, slices of volumes, class maps, pixels."""

    models: tuple[int, ...]
    choice: SliceSelection = ALL_SLICES
    maps: bool = False
    pixels: bool = False


@dataclass(frozen=True, eq=False)
class PendingFile:
    """A file that somebody is asked about, its size in bytes and what will be said."""

    part: UploadedFile
    size: int
    judged: "Future[list[SliceResult]]"


class ResponseBuilder:
    """What is known so far of the answer to one request.

    Attributes:
        given_up: why the rest of the request is not looked at, once there is a reason.
    """

    given_up: UploadError | None = None

    def __init__(self, wishes: RequestOptions, numbers: ServiceMetrics, share: RequestMemory) -> None:
        self._wishes = wishes
        self._numbers = numbers
        self._share = share
        self._slices: list[bytes] = []
        self._refused: list[dict[str, object]] = []
        self._statuses: set[int] = set()

    def refuse(self, part: UploadedFile, status: int, error: UploadError | ImageError) -> None:
        """Note that a file cannot be used."""
        self._statuses.add(status)
        self._refused.append({"file": part.file, "member": part.member, "code": error.code, "text": error.reason})

    async def take(self, waiting: PendingFile) -> None:
        """Wait for what is said about a file, and note it.

        Raises:
            ProblemError: it could not be decoded now, for which the file is not to blame, or there is no room for what
                is said about it.
        """
        try:
            found = await asyncio.wrap_future(waiting.judged)
        except ImageError as error:
            self.refuse(waiting.part, STATUS.get(error.code, 422), error)
            if error.code == Refusal.BUSY:
                raise ProblemError(503, error.reason, self._refused[-1:], RETRY) from error
            if error.code == Refusal.TIMEOUT:
                self.given_up = GIVEN_UP
            return
        texts = [await run_in_threadpool(_slice_text, waiting.part, judged, self._wishes) for judged in found]
        size = sum(map(len, texts))
        if size > self._share.room:
            self.given_up = TOO_MUCH
            self.refuse(waiting.part, TOO_MUCH.status, TOO_MUCH)
            return
        self._share.take(size)
        self._slices += texts
        for judged in found:
            for prediction in judged.predictions:
                self._numbers.decided(prediction)

    def check(self, *, all_used: bool) -> None:
        """Raise where nothing could be used, or not everything that had to be.

        Raises:
            ProblemError: with the files that were refused.
        """
        self._numbers.refused(str(refused["code"]) for refused in self._refused)
        if not self._slices or (all_used and self._refused):
            raise ProblemError(_nothing_usable(self._statuses), str(self._refused[0]["text"]), self._refused)

    def text(self) -> list[bytes]:
        """Return the JSON text of `Predictions`, in pieces: joined they would take as much memory again."""
        head = json.dumps({"disclaimer": DISCLAIMER, "refused": self._refused}).removesuffix("}")
        first, *others = self._slices
        return [head.encode() + b', "slices": [' + first, *(b",\n" + other for other in others), b"]}"]


class PredictionService:
    """Where requests wait for their answers: a bounded number of them, those of many slices after one another."""

    def __init__(self, desk: InferenceWorkers, settings: Settings, numbers: ServiceMetrics) -> None:
        self.desk = desk
        self._settings = settings
        self._numbers = numbers
        self._present = 0
        self._large = asyncio.Semaphore(LARGE_REQUESTS)

    @property
    def full(self) -> bool:
        """Tell whether the next request would be sent away."""
        return self._present >= self._settings.requests

    async def warm_up(self) -> None:
        """Start what starts slowly: the children of the sandbox and the first run of each network."""
        everyone = tuple(range(len(self.desk.models)))
        content = png(np.full((64, 64), 64, np.uint8))
        seconds = self._settings.answer_seconds
        first = [self.desk.judge(content, "warm-up", everyone, shown=True, seconds=seconds) for _ in range(2)]
        try:
            await asyncio.gather(*map(asyncio.wrap_future, first))
        except ImageError as error:
            raise BrainTumorError(f"cannot decode any file on this machine: {error.reason}") from error

    async def answer(self, files: list[bytes], wishes: RequestOptions, share: RequestMemory) -> list[bytes]:
        """Return the JSON text of `Predictions` for the contents of files, in pieces.

        Raises:
            ProblemError: there are too many requests, nothing could be used, it took too long, or there is no room for
                the answer.
        """
        return await self._in_time(self._judged(files, wishes, share))

    async def results(self, files: list[bytes], wishes: RequestOptions, share: RequestMemory) -> list[bytes]:
        """Return a ZIP archive of the DICOM results for the contents of DICOM files, all of them.

        Raises:
            ProblemError: as `answer`, or one of the files could not be used.
        """
        with closing(DicomResultsArchive(len(wishes.models))) as results:
            return await self._in_time(self._judged(files, wishes, share, results))

    async def _in_time(self, work: Coroutine[None, None, list[bytes]]) -> list[bytes]:
        """Return what the work gives, if there is room and it takes not too long.

        Raises:
            ProblemError: otherwise.
        """
        if self.full:
            work.close()
            raise ProblemError(503, "too much to do at the moment; try again", headers=RETRY)
        self._present += 1
        try:
            async with asyncio.timeout(self._settings.answer_seconds):
                return await work
        except TimeoutError:
            raise ProblemError(
                504, f"not answered within {self._settings.answer_seconds:g} seconds; send less"
            ) from None
        finally:
            self._present -= 1

    async def _judged(
        self,
        files: list[bytes],
        wishes: RequestOptions,
        share: RequestMemory,
        results: DicomResultsArchive | None = None,
    ) -> list[bytes]:
        """Return the JSON text of `Predictions`, or where results are wanted their archive."""
        answer = ResponseBuilder(wishes, self._numbers, share)
        waiting: deque[PendingFile] = deque()
        async with self._room(files):
            try:
                remaining = uploaded_files(files, self._settings)
                for number in count(1):
                    part = await run_in_threadpool(_following, remaining)
                    if part is None:
                        break
                    content = await run_in_threadpool(part.content) if answer.given_up is None else answer.given_up
                    if isinstance(content, UploadError):
                        answer.refuse(part, content.status, content)
                        continue
                    judged = self.desk.judge(
                        content,
                        part.name,
                        wishes.models,
                        shown=wishes.pixels,
                        seconds=self._settings.answer_seconds,
                        choice=wishes.choice,
                        write=None if results is None else partial(results.add, number),
                    )
                    waiting.append(PendingFile(part, len(content), judged))
                    while len(waiting) == AHEAD or sum(each.size for each in waiting) > AHEAD_BYTES:
                        await answer.take(waiting.popleft())
                while waiting:
                    await answer.take(waiting.popleft())
            except UploadError as error:
                raise ProblemError(error.status, error.reason) from error
            finally:
                for each in waiting:
                    each.judged.cancel()
            answer.check(all_used=results is not None)
            if results is None:
                return await run_in_threadpool(answer.text)
            content = await run_in_threadpool(results.content)
            share.take(len(content))
            return [content]

    @asynccontextmanager
    async def _room(self, files: list[bytes]) -> AsyncIterator[None]:
        """Wait until a request may be worked on: at once for one file that is no archive."""
        if len(files) == 1 and not is_archive(files[0]):
            yield
            return
        async with self._large:
            yield


def _following(remaining: Iterator[UploadedFile]) -> UploadedFile | None:
    """Return the next part, None at the end."""
    return next(remaining, None)


def _slice_text(part: UploadedFile, found: SliceResult, wishes: RequestOptions) -> bytes:
    """Return the JSON text of `SliceAnswer`."""
    height, width = found.shape
    place = found.predictions[0].place
    predictions = [
        {**prediction.record(), "class_maps": maps_of(prediction) if wishes.maps else None}
        for prediction in found.predictions
    ]
    answer = {
        "file": part.file,
        "member": part.member,
        "volume": place and place.volume,
        "number": place and place.number,
        "position": place and place.position,
        "notes": found.predictions[0].notes,
        "width": width,
        "height": height,
        "pixels": found.picture,
        "agree": agree(found.predictions),
        "predictions": predictions,
    }
    return json.dumps(answer).encode()


def _nothing_usable(statuses: set[int]) -> int:
    """Return the status of a request of which every file was refused with one of these."""
    return 415 if statuses == {415} else 413 if statuses == {413} else 422
