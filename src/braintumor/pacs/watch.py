"""Watch an archive: fetch new MR images, classify them and store the results beside them.

An image is in one of three states: unknown; waiting, in `Watcher.waiting`, with at most a part of its results stored;
or done, in `WatchState`. It becomes waiting when the feed reports it, and done when all its results are confirmed, when
it is refused for good, or when it has failed too often while others succeeded. Nothing else is kept over a restart.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final

from braintumor.dicom.logging_guard import quiet
from braintumor.dicom.results.base import provenance_hash
from braintumor.dicom.results.images import result_files
from braintumor.errors import ArchiveError, ArchiveStoppedError, ImageError, InstanceError, ModelError, Refusal
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import Scan
from braintumor.models.session import Model
from braintumor.pacs.client import Archive
from braintumor.pacs.feed import InstanceFeed, OrthancChanges
from braintumor.pacs.fetch import FETCHERS, FetchedInstance, InstanceFetcher, check_instance_identity
from braintumor.pacs.qido import QidoPolling
from braintumor.pacs.retry import Reminder, Retry, backoff
from braintumor.pacs.shutdown import Stop, stopping
from braintumor.pacs.state import WatchState
from braintumor.pacs.store import ResultStore, WorkItem
from braintumor.predictor import Prediction, Predictor

MOST_FAILURES: Final = 5  # of one image while others succeed; in a row for everything, with `once`
MOST_WAITING: Final = 2_000  # images that have not failed; bounds the memory after a large import
MOST_FAILING: Final = 50_000  # images of either kind; bounds it where the archive fails over everything
RETRIED_TOGETHER: Final = 100  # of those that have failed, so that new ones need not wait for all of them
DOUBTS: Final = 2  # further attempts at a file whose decoding failed for a doubtful reason
DOUBTFUL: Final = (Refusal.TIMEOUT,)
"""Reasons that a busy processor may cause for a good file, too: such a file gets more attempts."""
MOST_SLICES: Final = 5_000  # of one image
MORE: Final = f"more than {MOST_SLICES:,} slices; split it"


@dataclass
class WatchStats:
    """Counts of what a watcher has done.

    Attributes:
        answered: images whose results are in the archive.
        refused: images that cannot be answered, or not all of whose frames can.
        passed: instances that are not MR images, or are our own results.
        gone: images that were deleted before they were answered.
        waiting: images that are neither answered nor refused, and studies or changes whose content is not known.
        stopped: whether the watcher was told to end.
    """

    answered: int = 0
    refused: int = 0
    passed: int = 0
    gone: int = 0
    waiting: int = 0
    stopped: bool = False

    def __str__(self) -> str:
        """Return the counts in one line."""
        return ", ".join(f"{count} {name}" for name, count in asdict(self).items() if name != "stopped")


def watch(
    url: str, model: Model, state: Path, *, poll_seconds: float = 1.0, once: bool = False, say: Callable[[str], None]
) -> WatchStats:
    """Answer every MR image of an archive exactly once, including those that arrive later, and return what was done.

    Follows Orthanc's list of changes, or searches another DICOMweb archive for studies with new images, 30 times less
    often. An image is fetched by WADO-RS, decoded in a process of its own and answered by STOW-RS. Runs until SIGTERM
    or SIGINT, and then finishes what is being stored. Started again with the same `state` it continues where it was,
    however it ended. While the archive cannot be used everything waits and is tried again after 1 to 60 seconds.
    Results get the same UIDs whenever they are made, so storing them again changes nothing. No patient data is
    reported, logged or kept in `state`.

    Args:
        url: address of Orthanc, http://host:8042, or the root of another archive's DICOMweb service. User and password
            come from the environment, see `client.Archive`.
        model: a loaded model.
        state: folder for the journal; only one watcher can use it.
        poll_seconds: pause before the archive is asked again for new images.
        once: stop when there is nothing new and every image is done or cannot be finished now.
        say: called with one line about progress or an error.

    Raises:
        ArchiveError: the address is not usable, or, with `once`, the archive failed five times in a row.
        ModelError: when the last watcher was killed, it was answering images with another model, or another version of
            the model or of this package.
        StorageError: `state` is in use or cannot be written to.
    """
    archive = Archive(url)
    provenance = provenance_hash(model)
    with quiet(), WatchState(state) as journal, Sandbox(FETCHERS) as sandbox, stopping() as stop:
        archive.stop_when(stop.wait)
        # An image with a part of its results from another model would end up with a mixed set: UIDs, and with them
        # what counts as "already stored", depend on the model.
        others = sum(count for name, count in journal.under_way().items() if name != provenance)
        if others:
            raise ModelError(
                f"{others} image(s) may have only a part of their results, from another model, setting or version of "
                "braintumor, with which the last watcher was killed; let that one finish them (--once), then change"
            )
        with InstanceFetcher(archive, sandbox) as fetcher, ResultStore(archive, journal, provenance) as results:
            watcher = Watcher(
                archive=archive,
                model=model,
                journal=journal,
                predictor=Predictor(model, sandbox=sandbox),
                fetcher=fetcher,
                results=results,
                stop=stop,
                say=say,
            )
            try:
                watcher.run(poll_seconds, once)
            finally:
                watcher.end()
                # before the fetcher's threads are joined: one that waits for a decoder would keep us until its timeout
                sandbox.close()
                archive.close()
    return watcher.stats


@dataclass(eq=False)
class Watcher:
    """The watcher's loop, and the images that it has heard of and not finished.

    Attributes:
        waiting: those images by key, in the order of their arrival.
        left_out: studies or changes whose content the archive does not tell.
        stats: what was done so far.
    """

    archive: Archive
    model: Model
    journal: WatchState
    predictor: Predictor
    fetcher: InstanceFetcher
    results: ResultStore
    stop: Stop
    say: Callable[[str], None]
    waiting: dict[str, WorkItem] = field(default_factory=dict)
    stats: WatchStats = field(default_factory=WatchStats)
    left_out: Sequence[Retry] = ()

    def __post_init__(self) -> None:
        """Create the reminder, which reports through `say`."""
        self._reminder = Reminder(self.say)

    def run(self, poll_seconds: float, once: bool) -> None:
        """Run until stopped; see `watch`."""
        feed: InstanceFeed | None = None
        failures = 0  # of the archive, in a row
        is_verified = False  # nothing has failed since we saw that this is the archive we know
        while not self.stop.wait():
            answered_before = self.stats.answered
            try:
                feed = feed or self._open_feed()
                if not is_verified:
                    # behind the address may be another archive, or an empty database, since the connection broke
                    feed.revalidate()
                is_finished = self._round(feed)
                failures, is_verified = 0, True
            except ArchiveStoppedError:
                break
            except ArchiveError as error:
                # A round that answered something before it failed shows an archive that works in between. Only rounds
                # without any success lengthen the pause, and count towards giving up.
                failures = failures + 1 if self.stats.answered == answered_before else 1
                is_verified = False
                if once and failures == MOST_FAILURES:
                    raise
                pause = backoff(failures)
                self.say(f"{error}; trying again in {pause:.0f} s")
                self.stop.wait(pause)
                continue
            unfinished = [*self.waiting.values(), *self.left_out]
            self._reminder.tell(unfinished)
            if not is_finished or self._due():
                continue  # no pause while there is work
            if not unfinished:
                # every image that the archive still has is done, so nobody waits for the results of another model
                self.journal.clear_in_progress()
            # a single run tries everything that is left five times, and ends at once if nothing is left
            if once and all(item.attempts >= MOST_FAILURES for item in unfinished):
                return
            soonest = min((item.due for item in unfinished), default=float("inf"))
            self.stop.wait(max(0.0, min(poll_seconds * feed.poll_factor, soonest - monotonic())))

    def end(self) -> None:
        """Report and count what is left."""
        unfinished = [*self.waiting.values(), *self.left_out]
        self._reminder.tell_last(unfinished)
        self.stats.waiting = len(unfinished)
        self.stats.stopped = self.stop.wait()

    def _open_feed(self) -> InstanceFeed:
        """Return the best source of new images that the archive offers."""
        if self.archive.find():
            self.say("following the list of changes of an Orthanc")
            return OrthancChanges(self.archive, self.journal)
        self.say("the archive has no list of changes: searching it for studies with new images")
        return QidoPolling(self.archive)

    def _round(self, feed: InstanceFeed) -> bool:
        """Read a page of the feed, work on what is due and keep the cursor.

        Returns:
            Whether the feed is at its end and no image was finished, so that the caller may pause. After any progress
            the feed is asked again first: images arrive while others are worked on.
        """
        at_end, finished_before = True, self._finished
        if not self._is_full():
            images, passed, at_end = feed.more()
            self.left_out = feed.left_out
            self.stats.passed += passed
            done = self.journal.settled([image.key for image in images])
            for image in images:
                if image.key not in done:
                    # An image that waits may be reported again, by another change: sent once more, or after the list
                    # was started over. Its counters stay; the new change is the one that holds the cursor back.
                    self.waiting.setdefault(image.key, WorkItem(image)).image = image
        try:
            self._work()
        finally:
            # even if the archive failed in the middle: what was finished before need not be read again
            feed.done([item.image for item in self.waiting.values()])
        return at_end and self._finished == finished_before

    @property
    def _finished(self) -> int:
        return self.stats.answered + self.stats.refused

    def _is_full(self) -> bool:
        """Tell whether enough images wait; those that have failed do not keep others away."""
        fresh = sum(not item.attempts for item in self.waiting.values())
        return fresh >= MOST_WAITING or len(self.waiting) >= MOST_FAILING

    def _due(self) -> list[WorkItem]:
        """Return the images to try now, those that have failed last."""
        due = [item for item in self.waiting.values() if item.is_due]
        fresh = [item for item in due if not item.attempts]
        failed = [item for item in due if item.attempts]
        return fresh + failed[:RETRIED_TOGETHER]

    def _work(self) -> None:
        """Answer the images that are due and report the outcome."""
        answered_before, refusals = self.stats.answered, Counter[str]()
        try:
            for batch in self.fetcher.fetched(self._due(), answered_before):
                self._answer(batch)
                self._mark_done(refusals)  # also between batches, so that a kill loses little
                if self.stop.wait():
                    break
        finally:
            # In any case, an error or a stop too: what was classified is sent, what the archive has confirmed is
            # recorded, and the rest is forgotten here and starts over from the archive.
            try:
                self.results.flush()
                self.results.wait()
            finally:
                self._mark_done(refusals)
                self.results.clear()
                for reason, count in refusals.items():
                    self.say(f"refused {count}: {reason}")
                if self.stats.answered > answered_before:
                    self.say(f"answered {self.stats.answered - answered_before}; {len(self.waiting)} waiting")

    def _answer(self, batch: list[tuple[WorkItem, FetchedInstance]]) -> None:
        """Classify the slices of fetched images and hand over their results."""
        ready = [(item, fetched) for item, fetched in batch if not self._is_put_off(item, fetched)]
        # One lazy stream over the slices of all images, so that the network gets full batches. It yields exactly one
        # answer per slice, in order: `islice` below takes as many as the image has.
        answers = self.predictor.run_with_scans(scan for _, fetched in ready for scan in fetched.slices)
        for item, fetched in ready:
            if fetched.several:
                self._answer_several(item, fetched.several)
            else:
                reasons = [self._hand_over(item, answer) for answer in islice(answers, len(fetched.slices))]
                self.results.complete(item, fetched.reason or max(reasons, default=""))

    def _answer_several(self, item: WorkItem, content: bytes) -> None:
        """Classify the slices of a large image one after another, and hand over their results.

        If we stop before the end the image is not completed: it stays waiting, and the next watcher starts it over.
        """
        reason, code = "", None
        with closing(self.predictor.run_with_scans([(content, item.image.key)])) as answers:
            for number, answer in enumerate(answers, start=1):
                if self.stop.wait():
                    return
                # The fetcher could not check whose image it is without decoding it; one slice tells, and before it
                # nothing has been handed over.
                if number == 1 and not isinstance(answer, ImageError):
                    try:
                        check_instance_identity(answer[0], item.image)
                    except InstanceError as error:
                        item.fail(str(error), self.stats.answered)
                        return
                if number > MOST_SLICES:
                    reason = MORE
                    break
                reason = self._hand_over(item, answer) or reason
                code = answer.code if isinstance(answer, ImageError) else code
        if not self._is_doubted(item, reason, code):
            self.results.complete(item, reason)

    def _hand_over(self, item: WorkItem, answer: tuple[Scan, Prediction] | ImageError) -> str:
        """Hand over the results for a slice; return why it has none, or an empty text."""
        if isinstance(answer, ImageError):
            return answer.reason
        try:
            for dataset, content in result_files(*answer, self.model):
                self.results.add(item, str(dataset.SOPInstanceUID), content)
        except ImageError as error:
            return error.reason
        return ""

    def _is_put_off(self, item: WorkItem, fetched: FetchedInstance) -> bool:
        """Tell whether an image has nothing to classify now: it was deleted, or is to be tried again."""
        if not fetched.here:
            # deleted: not recorded as done, since it may be sent again
            self.waiting.pop(item.image.key, None)
            self.stats.gone += 1
            return True
        return self._is_doubted(item, fetched.reason, fetched.code)

    def _is_doubted(self, item: WorkItem, reason: str, code: Refusal | None) -> bool:
        """Tell whether an image is to be tried again, since the reason against it may be the machine's."""
        if code == Refusal.BUSY:
            item.wait(reason)
            return True
        if code in DOUBTFUL and item.decode_retries < DOUBTS:
            # not `wait`: `attempts` stays, so that the image is neither sent alone nor counted as failing
            item.decode_retries += 1
            item.last_error, item.due = reason, monotonic() + backoff(item.decode_retries)
            return True
        return False

    def _mark_done(self, refusals: Counter[str]) -> None:
        """Record the images that are finished, and give up on those that fail while others do not."""
        done = self.results.finished()
        for item in self.waiting.values():
            if item.failures_while_others_succeeded >= MOST_FAILURES:
                done.append((item, item.last_error))
        # on the disk first: if this raises, the images still wait and are answered again with the same results
        self.journal.mark_done([(item.image.key, item.image.entry, reason) for item, reason in done])
        for item, reason in done:
            self.waiting.pop(item.image.key, None)
            if reason:
                refusals[reason] += 1
                self.stats.refused += 1
            else:
                self.stats.answered += 1
