"""`ResultStore` without an archive, threads or a clock: requests are replied to when the store waits for them."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from braintumor.errors import ArchiveError, ArchiveStoppedError, InstanceError
from braintumor.pacs import store
from braintumor.pacs.client import InstanceReference
from braintumor.pacs.store import PARCEL_BYTES, PARCEL_OBJECTS, ResultStore, WorkItem

Reply = dict[str, int] | Exception


class FakeArchive:
    """An archive, and the state that belongs to it, that write down what is asked of them.

    Attributes:
        events: what was called, in order.
        replies: to the next requests that store results; all results are taken where there is none.
        is_usable: whether it answers other requests.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, list[str]]] = []
        self.replies: list[Reply] = []
        self.is_usable = True

    def begin(self, images: set[str], model: str) -> None:
        self.events.append((f"begin {model}", sorted(images)))

    def store(self, contents: Mapping[str, bytes]) -> dict[str, int]:
        self.events.append(("store", list(contents)))
        reply = self.replies.pop(0) if self.replies else dict.fromkeys(contents, 0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def check_usable(self) -> None:
        self.events.append(("check", []))
        if not self.is_usable:
            raise ArchiveError("the archive cannot be reached")

    @property
    def requests(self) -> list[list[str]]:
        """The SOP Instance UIDs in each request."""
        return [uids for event, uids in self.events if event == "store"]


class LateReply(Future[Any]):
    """A call that is made when its result is asked for, as if the reply came at that moment."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call

    def result(self, timeout: float | None = None) -> Any:
        return self._call()


class LatePool:
    def __init__(self, threads: int) -> None:
        assert threads == 1

    def submit(self, call: Callable[..., object], *arguments: object) -> LateReply:
        return LateReply(lambda: call(*arguments))

    def shutdown(self, **_: object) -> None:
        pass


@pytest.fixture
def archive() -> FakeArchive:
    return FakeArchive()


@pytest.fixture
def results(archive: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResultStore]:
    monkeypatch.setattr(store, "ThreadPoolExecutor", LatePool)
    with ResultStore(archive, archive, "model") as results:  # type: ignore[arg-type]
        yield results


def item(number: int) -> WorkItem:
    return WorkItem(InstanceReference("1", "2", str(number)))


def give(results: ResultStore, owner: WorkItem, *uids: str) -> None:
    """Give all results of an image, of one byte each."""
    for uid in uids:
        results.add(owner, uid, b"x")
    results.complete(owner, "")


def send(results: ResultStore) -> list[tuple[WorkItem, str]]:
    """Send what is left, and return the finished images."""
    results.flush()
    results.wait()
    return results.finished()


def test_an_image_is_finished_once_when_all_its_results_are_confirmed(results: ResultStore) -> None:
    image = item(1)
    give(results, image, "a", "b")
    results.flush()
    assert results.finished() == []  # sent, not confirmed
    results.wait()
    assert results.finished() == [(image, "")]
    assert results.finished() == []


def test_an_image_is_not_finished_before_its_last_result_is_given(results: ResultStore) -> None:
    image = item(1)
    results.add(image, "a", b"x")
    assert send(results) == []
    results.complete(image, "")
    assert results.finished() == [(image, "")]


def test_a_refused_image_without_results_is_finished_at_once_and_nothing_sent(
    archive: FakeArchive, results: ResultStore
) -> None:
    image = item(1)
    results.complete(image, "truncated")
    assert send(results) == [(image, "truncated")]
    assert archive.events == []


def test_results_of_several_images_share_a_request_up_to_a_number(archive: FakeArchive, results: ResultStore) -> None:
    uids = [f"{number}" for number in range(PARCEL_OBJECTS + 1)]
    for number, uid in enumerate(uids):
        give(results, item(number), uid)
    send(results)
    assert archive.requests == [uids[:-1], uids[-1:]]


def test_results_of_several_images_share_a_request_up_to_a_size(archive: FakeArchive, results: ResultStore) -> None:
    half = bytes(PARCEL_BYTES // 2)
    for number, content in enumerate([half, half, b"x", bytes(PARCEL_BYTES + 1)]):
        results.add(item(number), str(number), content)
    send(results)
    assert archive.requests == [["0", "1"], ["2"], ["3"]]  # one result alone may be larger


def test_an_image_that_has_failed_before_travels_alone(archive: FakeArchive, results: ResultStore) -> None:
    failed = item(2)
    failed.wait("busy")
    for owner, uids in ((item(1), "ab"), (failed, "cd"), (item(3), "e")):
        give(results, owner, *uids)
    send(results)
    assert archive.requests == [["a", "b"], ["c", "d"], ["e"]]


def test_the_model_is_on_record_before_anything_is_sent(archive: FakeArchive, results: ResultStore) -> None:
    image = item(1)
    give(results, image, "a")
    send(results)
    assert archive.events == [("begin model", [image.image.key]), ("store", ["a"])]


def test_no_more_than_two_requests_are_without_a_reply(archive: FakeArchive, results: ResultStore) -> None:
    replies = []
    for number in range(4):
        results.add(item(number), str(number), b"x")
        results.flush()
        replies.append(len(archive.requests))
    assert replies == [0, 0, 1, 2]


def test_an_image_of_which_a_result_is_not_taken_fails_and_the_others_are_finished(
    archive: FakeArchive, results: ResultStore
) -> None:
    unnamed, rejected, good = item(1), item(2), item(3)
    for owner, uids in ((unnamed, "ab"), (rejected, "cd"), (good, "e")):
        give(results, owner, *uids)
    archive.replies = [{"a": 0, "c": 0xA700, "d": 0xA700, "e": 0}]
    assert send(results) == [(good, "")]
    assert (unnamed.attempts, unnamed.last_error) == (1, "the archive does not take the results")
    assert (rejected.attempts, rejected.last_error) == (
        1,  # one failure, though two results were not taken
        "the archive does not take the results (failure reason 0xA700: out of resources)",
    )


def test_a_request_that_the_archive_rejects_gives_its_images_the_reason(
    archive: FakeArchive, results: ResultStore
) -> None:
    image = item(1)
    give(results, image, "a")
    archive.replies = [InstanceError("status 500")]
    assert send(results) == []
    assert (image.attempts, image.last_error) == (1, "status 500")


def test_images_wait_unblamed_for_a_request_over_which_a_working_archive_fails(
    archive: FakeArchive, results: ResultStore
) -> None:
    image = item(1)
    give(results, item(0), "0")
    send(results)  # another image has succeeded
    give(results, image, "a", "b")
    archive.replies = [ArchiveError("the connection broke")]
    assert send(results) == []
    assert (image.attempts, image.failures_while_others_succeeded) == (1, 0)
    assert image.last_error == "the connection broke"


def test_an_archive_that_cannot_be_used_is_raised_after_all_replies_and_charged_to_no_image(
    archive: FakeArchive, results: ResultStore
) -> None:
    lost, good = item(1), item(2)
    for owner, uid in ((lost, "a"), (good, "b")):
        give(results, owner, uid)
        results.flush()
    archive.replies, archive.is_usable = [ArchiveError("no connection")], False
    with pytest.raises(ArchiveError, match="no connection"):
        results.wait()
    assert results.finished() == [(good, "")]
    assert lost.attempts == 0


def test_a_stop_is_raised_and_the_archive_not_asked_again(archive: FakeArchive, results: ResultStore) -> None:
    give(results, item(1), "a")
    archive.replies = [ArchiveStoppedError("stopped")]
    with pytest.raises(ArchiveStoppedError):
        send(results)
    assert ("check", []) not in archive.events


def test_a_failure_counts_against_an_image_only_if_others_were_finished_since_the_last(
    archive: FakeArchive, results: ResultStore
) -> None:
    bad, counts = item(0), []
    for number in (1, 2, None, 3):  # finished between the failures
        if number is not None:
            give(results, item(number), str(number))
            send(results)
        give(results, bad, "bad")
        archive.replies = [{}]
        send(results)
        results.clear()
        counts.append(bad.failures_while_others_succeeded)
    assert counts == [1, 2, 2, 3]


def test_images_that_are_refused_put_no_blame_on_others_while_the_archive_takes_nothing(
    archive: FakeArchive, results: ResultStore
) -> None:
    good = item(0)
    for number in range(1, 8):
        results.complete(item(number), "undecodable")
        results.finished()
        give(results, good, "good")
        archive.replies = [InstanceError("the archive does not take the results (status 400)")]
        send(results)
        results.clear()
    assert (good.attempts, good.failures_while_others_succeeded) == (7, 0)


def test_a_reply_about_an_image_that_was_cleared_is_passed_over(archive: FakeArchive, results: ResultStore) -> None:
    image = item(1)
    give(results, image, "a")
    results.flush()
    results.clear()
    results.wait()
    assert results.finished() == []
    give(results, image, "a")  # answered again
    assert send(results) == [(image, "")]
    assert archive.requests == [["a"], ["a"]]
