"""How results reach an archive: several in a request, in a thread of their own, each image until it has all of them."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Self

from braintumor.errors import ArchiveError, ArchiveStoppedError, InstanceError
from braintumor.pacs.client import Archive, InstanceReference
from braintumor.pacs.retry import Retry
from braintumor.pacs.state import WatchState
from braintumor.pacs.stow import SUCCESS, failure_text

PARCEL_BYTES: Final = 4 << 20
PARCEL_OBJECTS: Final = 12
UNDER_WAY: Final = 2  # requests that wait or are being sent
NOT_TAKEN: Final = "the archive does not take the results"


@dataclass(eq=False)
class WorkItem(Retry):
    """An image that is not settled.

    Attributes:
        image: where it is.
        blamed: how many of its failures followed a success with another image, so that it is not the archive's state.
        doubts: how often it could not be decoded for a reason that may be the machine's.
    """

    image: InstanceReference
    blamed: int = 0
    doubts: int = 0
    _successes: int = 0

    def fail(self, trouble: str, successes: int) -> None:
        """Note a failure, and how many images had been answered by then."""
        self.blamed += successes > self._successes
        self._successes = successes
        self.wait(trouble)


@dataclass(eq=False)
class StoreBatch:
    """The content of one request, by SOP Instance UID, and which image each result belongs to."""

    contents: dict[str, bytes] = field(default_factory=dict)
    owners: dict[str, WorkItem] = field(default_factory=dict)
    size: int = 0


class ResultStore:
    """The results that are on their way.

    An image is finished once all of its results are in the archive. An image that has failed before travels alone.
    """

    def __init__(self, archive: Archive, journal: WatchState, model: str) -> None:
        self._archive, self._journal, self._model = archive, journal, model
        self._pool = ThreadPoolExecutor(1)
        self._sent: deque[tuple[StoreBatch, Future[dict[str, int]]]] = deque()
        self._parcel = StoreBatch()
        self._missing: dict[WorkItem, set[str]] = {}  # results that are not known to be there
        self._complete: dict[WorkItem, str] = {}  # images of which no more results come, and why they are refused
        self._successes = 0

    def __enter__(self) -> Self:
        """Return this, whose thread ends with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, after what is being sent."""
        self._pool.shutdown(cancel_futures=True)

    def add(self, owner: WorkItem, uid: str, content: bytes) -> None:
        """Take a result of an image; it is sent now or with the next ones.

        Raises:
            ArchiveError: the archive cannot be used now.
        """
        full = len(self._parcel.contents) >= PARCEL_OBJECTS or self._parcel.size + len(content) > PARCEL_BYTES
        if full or (owner.failures and owner not in self._missing):
            self.flush()
        self._missing.setdefault(owner, set()).add(uid)
        self._parcel.contents[uid], self._parcel.owners[uid] = content, owner
        self._parcel.size += len(content)

    def complete(self, owner: WorkItem, reason: str) -> None:
        """Note that all results of an image are given, and why it is refused, if it is; raises as `add`."""
        self._missing.setdefault(owner, set())
        self._complete[owner] = reason
        if owner.failures:
            self.flush()

    def flush(self) -> None:
        """Send what has been gathered, as soon as the requests before it have gone; raises as `add`."""
        parcel, self._parcel = self._parcel, StoreBatch()
        if not parcel.contents:
            return
        self._take(UNDER_WAY - 1)
        self._journal.begin({owner.image.key for owner in parcel.owners.values()}, self._model)
        self._sent.append((parcel, self._pool.submit(self._archive.store, parcel.contents)))

    def wait(self) -> None:
        """Wait until everything sent has been answered; raises as `add`."""
        self._take(0)

    def finished(self) -> list[tuple[WorkItem, str]]:
        """Return the images all of whose results are in the archive, and why they are refused; each image once."""
        done = [(owner, reason) for owner, reason in self._complete.items() if not self._missing[owner]]
        for owner, _ in done:
            self._drop(owner)
        self._successes += len(done)
        return done

    def clear(self) -> None:
        """Forget the images that are not finished: they are made again."""
        self._parcel = StoreBatch()
        self._missing.clear()
        self._complete.clear()

    def _take(self, left: int) -> None:
        """Take the answers until so many requests are left, then raise what was wrong with the archive, if anything."""
        unusable: ArchiveError | None = None
        while len(self._sent) > left or (self._sent and self._sent[0][1].done()):
            parcel, future = self._sent.popleft()
            statuses: dict[str, int] = {}
            reason = NOT_TAKEN
            try:
                statuses = future.result()
            except ArchiveError as error:
                if not self._is_usable(error):
                    unusable = error
                    continue  # their images keep missing them
                for owner in set(parcel.owners.values()):
                    owner.wait(str(error))
                continue
            except InstanceError as error:
                reason = str(error)
            self._settle(parcel, statuses, reason)
        if unusable:
            raise unusable

    def _settle(self, parcel: StoreBatch, statuses: dict[str, int], reason: str) -> None:
        """Note what the archive has of a parcel, and a failure of each image of which it lacks some.

        Args:
            parcel: that was sent.
            statuses: 0 for what is stored, by SOP Instance UID.
            reason: why something is missing that has no status.
        """
        failed: dict[WorkItem, str] = {}
        for uid, owner in parcel.owners.items():
            status = statuses.get(uid)
            if status is None:
                failed.setdefault(owner, reason)
            elif status != SUCCESS:
                failed.setdefault(owner, f"{NOT_TAKEN} ({failure_text(status)})")
            elif owner in self._missing:
                self._missing[owner].discard(uid)
        for owner, trouble in failed.items():
            owner.fail(trouble, self._successes)

    def _is_usable(self, error: ArchiveError) -> bool:
        """Tell whether an archive that has failed over a request answers others."""
        if isinstance(error, ArchiveStoppedError):
            return False
        try:
            self._archive.check_usable()
        except ArchiveError:
            return False
        return True

    def _drop(self, owner: WorkItem) -> None:
        del self._complete[owner], self._missing[owner]
