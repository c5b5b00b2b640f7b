"""`Watcher.run` without HTTP, decoders, a network or sleeping: pauses move a clock forward."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from braintumor.errors import ArchiveError, ArchiveStoppedError, ImageError, InstanceError, Refusal
from braintumor.io.scan import Scan
from braintumor.pacs import retry, watch
from braintumor.pacs.fetch import FetchedInstance
from braintumor.pacs.state import WatchState
from braintumor.pacs.store import ResultStore, WorkItem
from braintumor.pacs.watch import DOUBTS, MOST_FAILURES, Watcher, WatchStats

SLICE = Scan(np.zeros((8, 8), np.float32))
DELETED = FetchedInstance(here=False)
TIMEOUT = FetchedInstance(reason="took too long", code=Refusal.TIMEOUT)
BUSY = FetchedInstance(reason="no decoder", code=Refusal.BUSY)
TAGS = {"Instance": "SOPInstanceUID", "Series": "SeriesInstanceUID", "Study": "StudyInstanceUID"}

Outcome = FetchedInstance | Exception


class FakeStop:
    """A clock, and the signal to stop: waiting moves the clock, and is written down.

    Attributes:
        stops_after: how many pauses are waited for before it says to stop; at once if it is negative.
    """

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []
        self.stops_after = 50
        self._calls = 0

    def wait(self, seconds: float = 0.0) -> bool:
        self._calls += 1
        assert self._calls < 10_000, "the loop neither ends nor waits"
        if seconds:
            self.now += seconds
            self.pauses.append(seconds)
        return len(self.pauses) > self.stops_after


class FakeArchive:
    """The client of an Orthanc whose instances are MR images, and the fetcher of their files.

    Attributes:
        entries: Orthanc's identifiers of the instances, in the order of their changes.
        errors: raised by the next questions for changes; None where one is answered.
        outcomes: what comes of the next attempts to fetch an instance; afterwards a slice.
        arrivals: instances that arrive one by one, whenever another is not given.
        fetched_entries: of every attempt, in order.
    """

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.errors: list[ArchiveError | None] = []
        self.outcomes: dict[str, list[Outcome]] = {}
        self.arrivals: list[str] = []
        self.fetched_entries: list[str] = []

    def find(self) -> bool:
        return True

    def check_usable(self) -> None:
        pass

    def get(self, path: str) -> Any:
        error = self.errors.pop(0) if self.errors else None
        if error:
            raise error
        if path == "/changes?last":
            since, limit = len(self.entries) - 1, 1
        else:
            since, limit = map(int, re.findall(r"\d+", path))
        page = list(enumerate(self.entries, start=1))[max(since, 0) :][:limit]
        changes = [{"Seq": seq, "ID": entry, "ChangeType": "NewInstance"} for seq, entry in page]
        return {"Changes": changes, "Last": len(self.entries), "Done": since + limit >= len(self.entries)}

    def post(self, path: str, value: Any) -> Any:
        level = value["Level"]
        parents = {"ParentSeries": "series", "ParentStudy": "study"}
        return [
            {"ID": entry, "MainDicomTags": {TAGS[level]: f"uid {entry}", "Modality": "MR"}, **parents}
            for entry in value["Resources"]
        ]

    def store(self, contents: Mapping[str, bytes]) -> dict[str, int]:
        return dict.fromkeys(contents, 0)

    def fetched(self, due: Sequence[WorkItem], successes: int) -> Iterator[list[tuple[WorkItem, FetchedInstance]]]:
        for item in due:
            entry = item.image.entry
            self.fetched_entries.append(entry)
            outcomes = self.outcomes.get(entry)
            outcome = outcomes.pop(0) if outcomes else FetchedInstance((SLICE,))
            if isinstance(outcome, InstanceError):
                item.fail(str(outcome), successes)
                self.entries += self.arrivals[:1]
                del self.arrivals[:1]
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                yield [(item, outcome)]

    def run_with_scans(self, scans: Iterable[Scan]) -> Iterator[tuple[Scan, None] | ImageError]:
        for scan in scans:
            yield scan, None


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> FakeStop:
    """Return the clock of everything that is under test; pauses are the longest that they may be."""
    stop = FakeStop()
    for module in (retry, watch):
        monkeypatch.setattr(module, "monotonic", lambda: stop.now)
    monkeypatch.setattr(retry, "random", SimpleNamespace(uniform=lambda _low, high: high))
    return stop


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> FakeArchive:
    """Return an archive; every slice gets one result."""
    uids = iter(range(1_000))
    monkeypatch.setattr(
        watch, "result_files", lambda *_: [(SimpleNamespace(SOPInstanceUID=f"result {next(uids)}"), b"x")]
    )
    return FakeArchive()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WatchState]:
    with WatchState(tmp_path) as state:
        yield state


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def watcher(archive: Any, stop: Any, state: WatchState, lines: list[str]) -> Iterator[Watcher]:
    with ResultStore(archive, state, "model") as results:
        yield Watcher(
            archive=archive,
            model=None,  # type: ignore[arg-type]  # only handed on to `result_files`
            journal=state,
            predictor=archive,
            fetcher=archive,
            results=results,
            stop=stop,
            say=lines.append,
        )


def run(watcher: Watcher, *, poll_seconds: float = 1_000.0, once: bool = True) -> WatchStats:
    watcher.run(poll_seconds, once)
    watcher.end()
    return watcher.stats


def test_a_single_run_answers_what_is_there_moves_the_cursor_and_never_waits(
    archive: FakeArchive, watcher: Watcher, state: WatchState, stop: FakeStop
) -> None:
    archive.entries = ["a", "b"]
    assert run(watcher) == WatchStats(answered=2)
    assert state.cursor == (2, "b")
    assert stop.pauses == []


def test_without_news_it_waits_until_the_next_poll(archive: FakeArchive, watcher: Watcher, stop: FakeStop) -> None:
    stop.stops_after = 2
    assert run(watcher, poll_seconds=7.0, once=False) == WatchStats(stopped=True)
    assert stop.pauses == [7.0, 7.0, 7.0]


def test_a_single_run_gives_up_on_an_archive_that_fails_five_times_in_a_row(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop, lines: list[str]
) -> None:
    archive.errors = [ArchiveError("no connection")] * MOST_FAILURES
    with pytest.raises(ArchiveError, match="no connection"):
        run(watcher)
    assert stop.pauses == [1.0, 2.0, 4.0, 8.0]
    assert lines[1:] == [f"no connection; trying again in {seconds} s" for seconds in (1, 2, 4, 8)]


def test_a_lasting_run_waits_for_the_archive_at_most_a_minute_at_a_time_and_goes_on(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop
) -> None:
    archive.entries = ["a"]
    archive.errors = [ArchiveError("no connection")] * 8
    stop.stops_after = 8
    assert run(watcher, poll_seconds=9.0, once=False) == WatchStats(answered=1, stopped=True)
    assert stop.pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 9.0]


def test_a_failure_after_an_answer_in_the_same_round_is_a_first_one(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop
) -> None:
    archive.entries = [f"{number}" for number in range(8)]
    archive.outcomes = {entry: [ArchiveError("busy")] for entry in archive.entries[1:]}
    assert run(watcher) == WatchStats(answered=8)  # more failures in a row than a single run allows
    assert stop.pauses == [1.0] * 7


def test_after_a_broken_connection_a_replaced_list_is_read_from_its_start(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop, state: WatchState
) -> None:
    archive.entries = ["a", "b"]
    run(watcher)
    archive.fetched_entries.clear()
    archive.entries = ["c", "d", "e"]
    archive.errors = [ArchiveError("no connection")]
    assert run(watcher).answered == 2 + 3
    assert archive.fetched_entries == ["c", "d", "e"]
    assert state.cursor == (3, "e")


def test_a_failed_image_holds_the_cursor_back_is_tried_when_due_and_ends_a_single_run_after_five_times(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop, state: WatchState
) -> None:
    archive.entries = ["a", "bad", "c"]
    archive.outcomes = {"bad": [InstanceError("status 500")] * MOST_FAILURES}
    assert run(watcher) == WatchStats(answered=2, waiting=1)
    assert stop.pauses == [1.0, 2.0, 4.0, 8.0]
    assert state.cursor == (1, "a")


def test_an_image_that_fails_five_times_while_others_are_answered_is_refused(
    archive: FakeArchive, watcher: Watcher, state: WatchState, lines: list[str]
) -> None:
    archive.entries = ["bad"]
    archive.outcomes = {"bad": [InstanceError("status 500")] * 99}
    archive.arrivals = [f"{number}" for number in range(20)]
    stats = run(watcher, once=False)
    assert stats.refused == 1
    # every second failure shares its round with the answer to an arrival, which only counts for the next one
    assert archive.fetched_entries.count("bad") == 2 * MOST_FAILURES + 1
    assert stats.answered == 2 * MOST_FAILURES + 1
    assert "refused 1: status 500" in lines
    assert state.cursor[0] == len(archive.entries)


def test_new_images_are_tried_before_those_that_have_failed(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop
) -> None:
    archive.entries = ["bad"]
    archive.outcomes = {"bad": [InstanceError("status 500")]}
    stop.stops_after = 0
    run(watcher, once=False)
    archive.entries.append("new")
    stop.stops_after = 50
    run(watcher)
    assert archive.fetched_entries == ["bad", "new", "bad"]


def test_a_file_that_took_too_long_is_tried_again_twice_and_then_refused(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop, lines: list[str]
) -> None:
    archive.entries = ["slow"]
    archive.outcomes = {"slow": [TIMEOUT] * 9}
    assert run(watcher) == WatchStats(refused=1)
    assert archive.fetched_entries == ["slow"] * (1 + DOUBTS)
    assert stop.pauses == [1.0, 2.0]
    assert "refused 1: took too long" in lines


def test_an_image_for_which_there_was_no_decoder_is_never_refused(archive: FakeArchive, watcher: Watcher) -> None:
    archive.entries = ["a"]
    archive.outcomes = {"a": [BUSY] * (MOST_FAILURES - 1)}
    assert run(watcher) == WatchStats(answered=1)


def test_a_deleted_image_is_counted_and_passed(archive: FakeArchive, watcher: Watcher, state: WatchState) -> None:
    archive.entries = ["a", "b"]
    archive.outcomes = {"b": [DELETED]}
    assert run(watcher) == WatchStats(answered=1, gone=1)
    assert state.cursor == (2, "b")


def test_told_to_stop_it_keeps_what_is_answered_and_leaves_the_rest_for_the_next_run(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop, state: WatchState, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.entries = ["a", "b", "c"]
    answer = Watcher._answer

    def stop_after_one(self: Watcher, batch: list[tuple[WorkItem, FetchedInstance]]) -> None:
        answer(self, batch)
        stop.stops_after = -1

    monkeypatch.setattr(Watcher, "_answer", stop_after_one)
    assert run(watcher, once=False) == WatchStats(answered=1, waiting=2, stopped=True)
    assert state.cursor == (1, "a")


def test_an_exchange_that_ends_because_we_stop_is_no_failure_of_the_archive(
    archive: FakeArchive, watcher: Watcher, stop: FakeStop, lines: list[str]
) -> None:
    archive.errors = [ArchiveStoppedError("stopped")]
    run(watcher, once=False)
    assert stop.pauses == []
    assert len(lines) == 1  # which list is followed
