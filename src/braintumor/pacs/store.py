"""Send results to an archive in batches, in a thread of its own, and keep track of which images have all of theirs."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Self

from braintumor.errors import ArchiveError, ArchiveStoppedError, InstanceError
from braintumor.pacs.client import Archive, InstanceReference
from braintumor.pacs.retry import Retry
from braintumor.pacs.state import WatchState
from braintumor.pacs.stow import SUCCESS, failure_text

PARCEL_BYTES: Final = 4 << 20  # of a batch, unless one result alone is larger
PARCEL_OBJECTS: Final = 12  # results in a batch; an image of one slice has three
UNDER_WAY: Final = 2  # batches that wait or are being sent
NOT_TAKEN: Final = "the archive does not take the results"


@dataclass(eq=False)
class WorkItem(Retry):
    """An image that is neither answered nor refused yet.

    Attributes:
        image: where it is in the archive.
        failures_while_others_succeeded: how many of its failures followed a success with another image since its
            failure before; such a failure is the image's own, not the archive's state.
        decode_retries: how often it was not decoded for a reason that may be the machine's, such as a timeout.
    """

    image: InstanceReference
    failures_while_others_succeeded: int = 0
    decode_retries: int = 0
    _successes: int = 0

    def fail(self, error: str, successes: int) -> None:
        """Record a failure.

        Args:
            error: its text.
            successes: how many images had succeeded by then, as the caller counts them; never less than before.
        """
        if successes > self._successes:
            self.failures_while_others_succeeded += 1
        self._successes = successes
        self.wait(error)


@dataclass(eq=False)
class StoreBatch:
    """The results of one STOW-RS request.

    Attributes:
        contents: DICOM files by SOP Instance UID.
        owners: the image that each result belongs to, by the result's SOP Instance UID.
        size: of all files together, in bytes.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    owners: dict[str, WorkItem] = field(default_factory=dict)
    size: int = 0


class ResultStore:
    """A queue of results on their way to the archive.

    An image is finished once `complete` was called for it and the archive has confirmed every one of its results. All
    methods are called from one thread; only the requests themselves run in another, so that the next images are
    classified while results are being sent.

    The life of an image: `add` makes its results missing, a confirmed answer makes them no longer missing, `finished`
    hands it out once nothing is missing, and `clear` drops it in any state: it is then fetched and answered again,
    which is safe since its results get the same UIDs.
    """

    def __init__(self, archive: Archive, journal: WatchState, model: str) -> None:
        self._archive, self._journal, self._model = archive, journal, model
        self._pool = ThreadPoolExecutor(1)  # one, so that replies come in the order of sending
        self._sent: deque[tuple[StoreBatch, Future[dict[str, int]]]] = deque()
        self._batch = StoreBatch()
        self._missing: dict[WorkItem, set[str]] = {}  # results that the archive has not confirmed
        self._complete: dict[WorkItem, str] = {}  # images of which no more results come, and why they are refused
        self._successes = 0

    def __enter__(self) -> Self:
        """Return the store itself; its thread ends with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread after the request that is being sent."""
        self._pool.shutdown(cancel_futures=True)

    def add(self, owner: WorkItem, uid: str, content: bytes) -> None:
        """Take a result of an image; it is sent with this batch or starts the next one.

        Raises:
            ArchiveError: the archive cannot be used now.
        """
        is_full = len(self._batch.contents) >= PARCEL_OBJECTS or self._batch.size + len(content) > PARCEL_BYTES
        # An archive may reject a whole request because of one object in it. An image that has failed before therefore
        # travels alone: here the batch before it is closed, in `complete` its own.
        starts_alone = owner.attempts > 0 and owner not in self._missing
        if is_full or starts_alone:
            self.flush()
        self._missing.setdefault(owner, set()).add(uid)
        self._batch.contents[uid], self._batch.owners[uid] = content, owner
        self._batch.size += len(content)

    def complete(self, owner: WorkItem, reason: str) -> None:
        """Record that an image has no more results, and why it is refused, if it is; raises as `add`."""
        self._missing.setdefault(owner, set())  # a refused image may have no result at all
        self._complete[owner] = reason
        if owner.attempts:
            self.flush()

    def flush(self) -> None:
        """Send the current batch, once there is room among the requests before it; raises as `add`."""
        # taken out before anything can raise: a batch that is lost on the way is made again, never sent twice
        batch, self._batch = self._batch, StoreBatch()
        if not batch.contents:
            return
        # With one request being sent and one waiting, the thread never idles, and no more than two batches are held
        # in memory: the classifier waits here for a slow archive.
        self._collect(UNDER_WAY - 1)
        # before the first byte is sent: after a kill it must be known which model may have left a part of its results
        self._journal.begin({owner.image.key for owner in batch.owners.values()}, self._model)
        self._sent.append((batch, self._pool.submit(self._archive.store, batch.contents)))

    def wait(self) -> None:
        """Wait until every request sent has its reply; raises as `add`."""
        self._collect(0)

    def finished(self) -> list[tuple[WorkItem, str]]:
        """Return the images all of whose results are in the archive, and why they are refused; each image once."""
        done = [(owner, reason) for owner, reason in self._complete.items() if not self._missing[owner]]
        for owner, _ in done:
            del self._complete[owner], self._missing[owner]
        # Refused images are no evidence that the archive takes results: with an archive that takes none, they would put
        # the blame on the images that could be answered.
        self._successes += sum(not reason for _, reason in done)
        return done

    def clear(self) -> None:
        """Forget the images that are not finished; they are fetched and answered again."""
        # requests still in `_sent` are left alone: `_record` passes over results whose image is no longer known
        self._batch = StoreBatch()
        self._missing.clear()
        self._complete.clear()

    def _collect(self, pending: int) -> None:
        """Record replies until at most `pending` requests have none; then raise if the archive cannot be used.

        Replies that are there already are recorded in any case. The error is raised last, so that what the archive has
        confirmed in other requests is not lost with it.
        """
        unusable: ArchiveError | None = None
        # replies come in the order of sending, since one thread sends: the first one is always the next to come
        while len(self._sent) > pending or (self._sent and self._sent[0][1].done()):
            batch, future = self._sent.popleft()
            statuses: dict[str, int] = {}
            reason = NOT_TAKEN
            try:
                statuses = future.result()
            except ArchiveError as error:
                if not self._is_usable(error):
                    # the archive's fault: no image is charged with a failure, their results simply stay missing
                    unusable = error
                    continue
                # it fails over this request and answers others: these images wait, alone the next time
                for owner in set(batch.owners.values()):
                    owner.wait(str(error))
                continue
            except InstanceError as error:
                reason = str(error)
            self._record(batch, statuses, reason)
        if unusable:
            raise unusable

    def _record(self, batch: StoreBatch, statuses: dict[str, int], reason: str) -> None:
        """Record which results of a batch the archive has, and one failure for each image of which it lacks any.

        Args:
            batch: that was sent.
            statuses: by SOP Instance UID, 0 for what is stored.
            reason: the error for results without a status.
        """
        errors: dict[WorkItem, str] = {}
        for uid, owner in batch.owners.items():
            status = statuses.get(uid)
            if status is None:
                errors.setdefault(owner, reason)
            elif status != SUCCESS:
                errors.setdefault(owner, f"{NOT_TAKEN} ({failure_text(status)})")
            elif owner in self._missing:
                self._missing[owner].discard(uid)
        for owner, error in errors.items():
            owner.fail(error, self._successes)

    def _is_usable(self, error: ArchiveError) -> bool:
        """Tell whether an archive that failed over one request answers others."""
        if isinstance(error, ArchiveStoppedError):
            return False
        try:
            self._archive.check_usable()
        except ArchiveError:
            return False
        return True
