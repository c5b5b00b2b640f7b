"""How an archive gets answers by itself: new MR images are fetched, judged, and their results stored beside them."""

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
MOST_WAITING: Final = 2_000  # that have not failed
MOST_FAILING: Final = 50_000
RETRIED_TOGETHER: Final = 100  # of those that have failed, so that new ones need not wait for all of them
DOUBTS: Final = 2
DOUBTFUL: Final = (Refusal.TIMEOUT,)
"""What a processor that others share may give for a good file, too: it gets more tries."""
MOST_SLICES: Final = 5_000  # of one image
MORE: Final = f"more than {MOST_SLICES:,} slices; split it"


@dataclass
class WatchStats:
    """What a watcher has done.

    Attributes:
        answered: images whose results are in the archive.
        refused: images that cannot be answered, or not all of whose frames can.
        passed: instances that are no MR images, or our own results.
        gone: images that were deleted before they were answered.
        waiting: images that are not settled, and studies or changes of which it is not known what they hold.
        stopped: whether it was told to end.
    """

    answered: int = 0
    refused: int = 0
    passed: int = 0
    gone: int = 0
    waiting: int = 0
    stopped: bool = False

    def __str__(self) -> str:
        """Return the counts in a line."""
        return ", ".join(f"{count} {name}" for name, count in asdict(self).items() if name != "stopped")


def watch(
    url: str, model: Model, state: Path, *, poll_seconds: float = 1.0, once: bool = False, say: Callable[[str], None]
) -> WatchStats:
    """Answer every MR image of an archive exactly once, the ones that come too, and return what was done.

    Follows Orthanc's list of changes, or searches another DICOMweb archive for studies with new images, 30 times less
    often. An image is fetched by WADO-RS, decoded in a process of its own and answered by STOW-RS. Runs until SIGTERM
    or SIGINT, and then finishes what is being stored. The same `state` goes on where it was, however it ended. While
    the archive cannot be used all waits and is tried again, after 1 to 60 seconds. Results have the same UIDs whenever
    they are made, so that storing them again changes nothing. No patient data is said, logged or kept in `state`.

    Args:
        url: address of Orthanc, http://host:8042, or the root of another archive's DICOMweb service. User and password
            come from the environment, see `client.Archive`.
        model: a loaded model.
        state: folder for the journal; only one watcher can use it.
        poll_seconds: pause between two questions for new images.
        once: stop when there is nothing new and everything is settled, or cannot be settled now.
        say: told about progress and trouble, a line each.

    Raises:
        ArchiveError: the address is not usable, or, with `once`, the archive failed five times in a row.
        ModelError: images were being answered by another model, or version of it or of this package, when the last
            watcher was killed.
        StorageError: `state` is in use or cannot be written to.
    """
    archive = Archive(url)
    with quiet(), WatchState(state) as journal, Sandbox(FETCHERS) as sandbox, stopping() as stop:
        archive.stop_when(stop.wait)
        others = sum(count for name, count in journal.under_way().items() if name != provenance_hash(model))
        if others:
            raise ModelError(
                f"{others} image(s) may have a part of the results of another model, setting or version of braintumor, "
                "with which the last watcher was killed; let that one finish them (--once), then change"
            )
        with (
            InstanceFetcher(archive, sandbox) as incoming,
            ResultStore(archive, journal, provenance_hash(model)) as outgoing,
        ):
            predictor = Predictor(model, sandbox=sandbox)
            watcher = Watcher(archive, model, journal, predictor, incoming, outgoing, stop, say)
            try:
                watcher.run(poll_seconds, once)
            finally:
                watcher.end()
                sandbox.close()  # what is being decoded would keep us
                archive.close()
    return watcher.tally


@dataclass(eq=False)
class Watcher:
    """The loop, and the images that it has heard of and not settled.

    Attributes:
        waiting: by key, in the order of their coming.
        left_out: studies or changes of which the archive does not say what they hold.
        tally: what was done so far.
    """

    archive: Archive
    model: Model
    journal: WatchState
    predictor: Predictor
    incoming: InstanceFetcher
    outgoing: ResultStore
    stop: Stop
    say: Callable[[str], None]
    waiting: dict[str, WorkItem] = field(default_factory=dict)
    tally: WatchStats = field(default_factory=WatchStats)
    left_out: Sequence[Retry] = ()

    def __post_init__(self) -> None:
        """Take what speaks for us."""
        self._reminder = Reminder(self.say)

    def run(self, poll_seconds: float, once: bool) -> None:
        """Go on until stopped; see `watch`."""
        news: InstanceFeed | None = None
        failures, sure = 0, False  # sure: nothing has broken since we saw that it is the same archive
        while not self.stop.wait():
            before = self.tally.answered
            try:
                news = news or self._news()
                if not sure:
                    news.again()
                done = self._round(news)
                failures, sure = 0, True
            except ArchiveStoppedError:
                break
            except ArchiveError as error:
                failures, sure = 1 + failures * (self.tally.answered == before), False
                if once and failures == MOST_FAILURES:
                    raise
                pause = backoff(failures)
                self.say(f"{error}; trying again in {pause:.0f} s")
                self.stop.wait(pause)
                continue
            unsettled = [*self.waiting.values(), *self.left_out]
            self._reminder.tell(unsettled)
            if not done or self._due():
                continue
            if not unsettled:
                self.journal.nothing_waits()
            if once and all(each.failures >= MOST_FAILURES for each in unsettled):
                return
            soonest = min((each.due for each in unsettled), default=float("inf"))
            self.stop.wait(max(0.0, min(poll_seconds * news.pace, soonest - monotonic())))

    def end(self) -> None:
        """Say and count what is left."""
        unsettled = [*self.waiting.values(), *self.left_out]
        self._reminder.tell_last(unsettled)
        self.tally.waiting = len(unsettled)
        self.tally.stopped = self.stop.wait()

    def _news(self) -> InstanceFeed:
        """Return the way to hear of new images that the archive offers."""
        if self.archive.find():
            self.say("following the list of changes of an Orthanc")
            return OrthancChanges(self.archive, self.journal)
        self.say("no list of changes there: searching the archive for studies with new images")
        return QidoPolling(self.archive)

    def _round(self, news: InstanceFeed) -> bool:
        """Read a page of news, work on what is due, keep the place; return whether nothing was new and nothing done."""
        done, before = True, self._settled
        if not self._is_full():
            images, passed, done = news.more()
            self.left_out = news.left_out
            self.tally.passed += passed
            settled = self.journal.settled([image.key for image in images])
            for image in images:
                if image.key not in settled:
                    self.waiting.setdefault(image.key, WorkItem(image)).image = image
        try:
            self._work()
        finally:
            news.done([each.image for each in self.waiting.values()])
        return done and self._settled == before

    @property
    def _settled(self) -> int:
        return self.tally.answered + self.tally.refused

    def _is_full(self) -> bool:
        """Tell whether enough images wait; those that fail do not keep others away."""
        fresh = sum(not each.failures for each in self.waiting.values())
        return fresh >= MOST_WAITING or len(self.waiting) >= MOST_FAILING

    def _due(self) -> list[WorkItem]:
        """Return the images to try now, those that have failed last."""
        due = [each for each in self.waiting.values() if each.is_due]
        return [each for each in due if not each.failures] + [each for each in due if each.failures][:RETRIED_TOGETHER]

    def _work(self) -> None:
        """Answer the images that are due; say what has come of them."""
        before, refusals = self.tally.answered, Counter[str]()
        try:
            for batch in self.incoming.fetched(self._due(), before):
                self._answer(batch)
                self._settle(refusals)
                if self.stop.wait():
                    break
        finally:
            try:
                self.outgoing.flush()
                self.outgoing.wait()
            finally:
                self._settle(refusals)
                self.outgoing.clear()
                for reason, count in refusals.items():
                    self.say(f"refused {count}: {reason}")
                if self.tally.answered > before:
                    self.say(f"answered {self.tally.answered - before}; {len(self.waiting)} waiting")

    def _answer(self, batch: list[tuple[WorkItem, FetchedInstance]]) -> None:
        """Judge the slices of images and hand over their results."""
        ready = [(each, fetched) for each, fetched in batch if not self._put_off(each, fetched)]
        judged = self.predictor.run_with_scans(scan for _, fetched in ready for scan in fetched.slices)
        for each, fetched in ready:
            if fetched.several:
                self._answer_several(each, fetched.several)
            else:
                reasons = [self._hand_over(each, answer) for answer in islice(judged, len(fetched.slices))]
                self.outgoing.complete(each, fetched.reason or max(reasons, default=""))

    def _answer_several(self, each: WorkItem, content: bytes) -> None:
        """Judge the slices of an image one after another and hand over their results, unless we stop before the end."""
        reason, code = "", None
        with closing(self.predictor.run_with_scans([(content, each.image.key)])) as judged:
            for number, answer in enumerate(judged, start=1):
                if self.stop.wait():
                    return
                if number == 1 and not isinstance(answer, ImageError):
                    try:
                        check_instance_identity(answer[0], each.image)
                    except InstanceError as error:
                        each.fail(str(error), self.tally.answered)
                        return
                if number > MOST_SLICES:
                    reason = MORE
                    break
                reason = self._hand_over(each, answer) or reason
                code = answer.code if isinstance(answer, ImageError) else code
        if not self._is_doubted(each, reason, code):
            self.outgoing.complete(each, reason)

    def _hand_over(self, each: WorkItem, answer: tuple[Scan, Prediction] | ImageError) -> str:
        """Hand over the results about a slice; return why there are none, if so."""
        if isinstance(answer, ImageError):
            return answer.reason
        try:
            for made, content in result_files(*answer, self.model):
                self.outgoing.add(each, str(made.SOPInstanceUID), content)
        except ImageError as error:
            return error.reason
        return ""

    def _put_off(self, each: WorkItem, fetched: FetchedInstance) -> bool:
        """Return whether there is nothing to judge of an image now: it has gone, or is to be tried again."""
        if not fetched.here:
            self.waiting.pop(each.image.key, None)
            self.tally.gone += 1
            return True
        return self._is_doubted(each, fetched.reason, fetched.code)

    def _is_doubted(self, each: WorkItem, reason: str, code: Refusal | None) -> bool:
        """Return whether an image is to be tried again, since the reason against it may be that of the machine."""
        if code == Refusal.BUSY:
            each.wait(reason)
            return True
        if code in DOUBTFUL and each.doubts < DOUBTS:
            each.doubts += 1
            each.trouble, each.due = reason, monotonic() + backoff(each.doubts)
            return True
        return False

    def _settle(self, refusals: Counter[str]) -> None:
        """Write down what is done with, and give up on images that fail while others do not."""
        done = self.outgoing.finished()
        for each in self.waiting.values():
            if each.blamed >= MOST_FAILURES:
                done.append((each, each.trouble))
        self.journal.settle([(each.image.key, each.image.entry, reason) for each, reason in done])
        for each, reason in done:
            self.waiting.pop(each.image.key, None)
            if reason:
                refusals[reason] += 1
        self.tally.refused += sum(bool(reason) for _, reason in done)
        self.tally.answered += sum(not reason for _, reason in done)
