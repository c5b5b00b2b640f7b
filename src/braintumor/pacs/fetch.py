"""How images come from an archive: several at a time, decoded in processes of their own, while others are judged."""

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

FETCHERS: Final = 2
AHEAD: Final = 6  # images fetched ahead
TOGETHER: Final = 8  # images handed over at once


@dataclass(frozen=True, eq=False)
class FetchedInstance:
    """What came of an image.

    Attributes:
        slices: of it.
        reason: why there are no more of them, for people.
        code: the same for programs; None where the reason is not of the file.
        here: false where it has gone.
        several: the file instead of its slices where it may have more than one: it is decoded when its turn comes, so
            that they need not be held together. Whose image it is has not been checked then.
    """

    slices: tuple[Scan, ...] = ()
    reason: str = ""
    code: Refusal | None = None
    here: bool = True
    several: bytes = b""


class InstanceFetcher:
    """The images that are on their way to us."""

    def __init__(self, archive: Archive, sandbox: Sandbox) -> None:
        self._archive, self._sandbox = archive, sandbox
        self._pool = ThreadPoolExecutor(FETCHERS)

    def __enter__(self) -> Self:
        """Return this, whose threads end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads, after what is being fetched."""
        self._pool.shutdown(cancel_futures=True)

    def fetched(self, due: Sequence[WorkItem], successes: int) -> Iterator[list[tuple[WorkItem, FetchedInstance]]]:
        """Yield images with their slices, as many together as are there, while the next ones are fetched.

        One that the archive does not give is noted as failed.

        Args:
            due: the images.
            successes: how many images had been answered before.

        Raises:
            ArchiveError: the archive cannot be used now.
        """
        remaining = iter(due)
        ahead: deque[tuple[WorkItem, Future[FetchedInstance]]] = deque()
        try:
            while True:
                for each in remaining:
                    ahead.append((each, self._pool.submit(self._fetch, each.image)))
                    if len(ahead) >= AHEAD:
                        break
                if not ahead:
                    return
                if batch := self._ready(ahead, successes):
                    yield batch
        finally:
            for _, future in ahead:
                future.cancel()

    def _ready(
        self, ahead: deque[tuple[WorkItem, Future[FetchedInstance]]], successes: int
    ) -> list[tuple[WorkItem, FetchedInstance]]:
        """Return the first image that was fetched, once it is there, with those after it that are there too.

        Where the archive fails over one image and answers other questions, only that image waits.

        Raises:
            ArchiveError: the archive cannot be used now; raised when no image before that is left.
        """
        batch: list[tuple[WorkItem, FetchedInstance]] = []
        while ahead and len(batch) < TOGETHER and (not batch or ahead[0][1].done()):
            each, future = ahead[0]
            try:
                batch.append((each, future.result()))
            except InstanceError as error:
                each.fail(str(error), successes)
            except ArchiveError as error:
                if batch:
                    break
                self._archive.check_usable()
                each.wait(str(error))
            ahead.popleft()
        return batch

    def _fetch(self, image: InstanceReference) -> FetchedInstance:
        """Return an image's slices; called in several threads.

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
            with closing(self._sandbox.read_all(content, image.key)) as scans:
                for scan in islice(scans, 2):
                    check_instance_identity(scan, image)
                    slices.append(scan)
        except ImageError as error:
            return FetchedInstance(tuple(slices), error.reason, error.code)
        return FetchedInstance(several=content) if len(slices) > 1 else FetchedInstance(tuple(slices))


def check_instance_identity(scan: Scan, image: InstanceReference) -> None:
    """Refuse what an archive gives in place of the image that it was asked for; what has no identifiers cannot be told.

    Raises:
        InstanceError: so.
    """
    if scan.origin is not None:
        try:
            found = first_values(scan.origin)
        except ArchiveError:
            found = {}
        if tuple(found.get(tag) for tag in (STUDY, SERIES, INSTANCE)) != (image.study, image.series, image.instance):
            raise InstanceError("the archive gives another image")
