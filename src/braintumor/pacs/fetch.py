"""Fetch images from an archive, several at a time, and decode them in processes of their own."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Final, Self

from braintumor.errors import ArchiveError, ImageError, InstanceError, InstanceTooLargeError, Refusal
from braintumor.io.read import may_hold_several
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import Scan
from braintumor.pacs.client import Archive, InstanceReference
from braintumor.pacs.qido import INSTANCE, SERIES, STUDY, first_values
from braintumor.pacs.store import WorkItem

FETCHERS: Final = 2  # threads, and decoding processes
AHEAD: Final = 6  # images that are fetched while others are classified; bounds the memory
TOGETHER: Final = 8  # images that are handed over at once, most


@dataclass(frozen=True, eq=False)
class FetchedInstance:
    """The outcome of fetching an image.

    Attributes:
        slices: of the image.
        reason: why there are no more of them, for people.
        code: the same for programs; None if the reason does not lie in the file.
        here: whether the archive still has it.
        several: the file itself instead of its slices, where it may have more than one: it is decoded when its turn
            comes, so that they need not be in memory together. That it is the image asked for has not been checked
            then.
    """

    slices: tuple[Scan, ...] = ()
    reason: str = ""
    code: Refusal | None = None
    here: bool = True
    several: bytes = b""


class InstanceFetcher:
    """Threads that fetch and decode images ahead of the classifier."""

    def __init__(self, archive: Archive, sandbox: Sandbox) -> None:
        self._archive, self._sandbox = archive, sandbox
        self._pool = ThreadPoolExecutor(FETCHERS)

    def __enter__(self) -> Self:
        """Return the fetcher itself; its threads end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads after what is being fetched."""
        self._pool.shutdown(cancel_futures=True)

    def fetched(self, due: Sequence[WorkItem], successes: int) -> Iterator[list[tuple[WorkItem, FetchedInstance]]]:
        """Yield images with their slices in batches of those that are ready, while the next ones are fetched.

        An image that the archive does not give is recorded as failed and left out.

        Args:
            due: the images, in the order of fetching.
            successes: how many images had been answered before.

        Raises:
            ArchiveError: the archive cannot be used now.
        """
        remaining = iter(due)
        ahead: deque[tuple[WorkItem, Future[FetchedInstance]]] = deque()
        try:
            while True:
                for item in remaining:
                    ahead.append((item, self._pool.submit(self._fetch, item.image)))
                    if len(ahead) >= AHEAD:
                        break
                if not ahead:
                    return
                if batch := self._ready(ahead, successes):
                    yield batch
        finally:  # also where the caller ends the iteration early
            for _, future in ahead:
                future.cancel()

    def _ready(
        self, ahead: deque[tuple[WorkItem, Future[FetchedInstance]]], successes: int
    ) -> list[tuple[WorkItem, FetchedInstance]]:
        """Return the next image, once it is fetched, with those after it that are ready too.

        If the archive fails over one image and answers other requests, only that image waits.

        Raises:
            ArchiveError: the archive cannot be used now; raised only when no image before it is left to return.
        """
        batch: list[tuple[WorkItem, FetchedInstance]] = []
        while ahead and len(batch) < TOGETHER and (not batch or ahead[0][1].done()):
            item, future = ahead[0]
            try:
                batch.append((item, future.result()))
            except InstanceError as error:
                item.fail(str(error), successes)
            except ArchiveError as error:
                if batch:
                    # What was fetched before the failure is answered first. The future stays at the head of the queue
                    # and raises again in the next call, then with an empty batch.
                    break
                self._archive.check_usable()
                item.wait(str(error))
            ahead.popleft()
        return batch

    def _fetch(self, image: InstanceReference) -> FetchedInstance:
        """Return the slices of an image; called in several threads.

        Raises:
            ArchiveError: the archive cannot be used now.
            InstanceError: it does not give this image.
        """
        try:
            content = self._archive.pull(image)
        except InstanceTooLargeError as error:
            return FetchedInstance(reason=str(error))
        if content is None:
            return FetchedInstance(here=False)
        if may_hold_several(content):
            return FetchedInstance(several=content)
        slices: list[Scan] = []
        try:
            # two slices are enough to see that there are several; closing ends the decoding of the others
            with closing(self._sandbox.read_all(content, image.key)) as scans:
                for scan in islice(scans, 2):
                    check_instance_identity(scan, image)
                    slices.append(scan)
        except ImageError as error:
            return FetchedInstance(tuple(slices), error.reason, error.code)
        return FetchedInstance(several=content) if len(slices) > 1 else FetchedInstance(tuple(slices))


def check_instance_identity(scan: Scan, image: InstanceReference) -> None:
    """Check that an archive gave the image that it was asked for; a slice without DICOM identifiers passes.

    Answering another image would put a result about one patient beside the images of another.

    Raises:
        InstanceError: it gave another one.
    """
    if scan.origin is not None:
        try:
            values = first_values(scan.origin)
        except ArchiveError:
            values = {}
        if tuple(values.get(tag) for tag in (STUDY, SERIES, INSTANCE)) != (image.study, image.series, image.instance):
            raise InstanceError("the archive gives another image")
