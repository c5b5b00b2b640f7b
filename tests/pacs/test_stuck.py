"""What one study, series, image or page does to the others when the archive always fails over it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from braintumor.models.session import Model
from braintumor.pacs import client, retry
from braintumor.pacs.state import WatchState
from braintumor.pacs.watch import WatchStats
from tests.dicom import make
from tests.pacs.fake import DROP, Archive, images, serving

pytestmark = pytest.mark.slow

Run = Callable[..., WatchStats]


@pytest.mark.parametrize("status", [DROP, 401, 307, 503], ids=["cut", "401", "redirect", "busy"])
def test_an_image_that_is_never_given_stops_no_other(archive: Archive, run: Run, lines: list[str], status: int) -> None:
    bad, *others = images(8)
    for dataset in (bad, *others):
        archive.add(dataset)
    archive.trouble = lambda method, path: status if path.endswith(f"/instances/{bad.SOPInstanceUID}") else None
    stats = run()
    assert (stats.answered, stats.refused, stats.waiting) == (7, 0, 1)
    assert any("image" in line and "wait" in line for line in lines)
    archive.trouble = lambda method, path: None
    assert run().answered == 1


def test_an_image_of_which_it_is_not_known_whether_it_has_gone_stops_no_other(archive: Archive, run: Run) -> None:
    bad, *others = images(8)
    for dataset in (bad, *others):
        archive.add(dataset)
    archive.trouble = lambda method, path: (
        404
        if path.endswith(str(bad.SOPInstanceUID)) and "?" not in path
        else 500
        if "?SOPInstanceUID" in path
        else None
    )
    stats = run()
    assert (stats.answered, stats.gone, stats.waiting) == (7, 0, 1)


@pytest.mark.parametrize("status", [DROP, 401, 503], ids=["cut", "401", "busy"])
def test_results_that_are_never_taken_stop_no_others(archive: Archive, run: Run, status: int) -> None:
    bad, *others = images(8)
    for dataset in (bad, *others):
        archive.add(dataset)
    archive.trouble_with_body = lambda body: status if bad.SOPInstanceUID.encode() in body else None
    stats = run()
    assert (stats.answered, stats.refused, stats.waiting) == (7, 0, 1)


@pytest.mark.parametrize("level", ["Instance", "Series", "Study"])
def test_a_change_that_orthanc_cannot_explain_stops_no_other(archive: Archive, run: Run, level: str) -> None:
    bad, good = make.mr(seed=1, series="bad", study="bad"), make.mr(seed=2)
    entry = archive.add(bad)
    archive.add(good)
    hidden = {"Instance": entry, "Series": bad.SeriesInstanceUID, "Study": bad.StudyInstanceUID}[level].encode()
    archive.trouble_with_body = lambda body: 500 if b'"Resources"' in body and hidden in body else None
    stats = run()
    assert (stats.answered, stats.refused, stats.waiting) == (1, 0, 1)
    archive.trouble_with_body = lambda body: None
    assert run().answered == 1


def test_a_list_that_repeats_itself_for_ever_is_read_at_leisure(archive: Archive, run: Run) -> None:
    archive.add(images(1)[0])
    change = {"Seq": 1, "ID": archive.changes[0][1], "ChangeType": "NewInstance"}
    archive.canned_replies = {"/changes?since": json.dumps({"Changes": [change], "Done": False, "Last": 1}).encode()}
    archive.trouble = lambda method, path: os.kill(os.getpid(), signal.SIGTERM) if len(archive.asked) == 300 else None
    assert run().answered == 1
    assert len(archive.asked) < 50


def test_images_of_a_list_that_grows_at_its_front_are_not_lost(archive: Archive, run: Run) -> None:
    """While the second page is asked for, as many others come before the first: it is the first page once more."""
    for dataset in images(4):
        archive.add(dataset)
    archive.page = 2
    shifted = [2]
    archive.shift = lambda path, start: start - shifted.pop() if "/instances" in path and start and shifted else start
    assert run("/dicom-web").answered == 4


def test_an_archive_that_never_gives_the_rest_of_a_list_is_told(archive: Archive, run: Run, lines: list[str]) -> None:
    for dataset in images(4):
        archive.add(dataset)
    archive.page, archive.pages = 2, False
    stats = run("/dicom-web")
    assert stats.answered == 2
    assert stats.waiting
    assert any("fewer" in line for line in lines)


@pytest.mark.parametrize("largest", [99, 10, 1])
def test_an_archive_that_allows_small_pages_only_gets_small_ones(archive: Archive, run: Run, largest: int) -> None:
    for dataset in images(3):
        archive.add(dataset)
    archive.trouble = lambda method, path: (
        400 if "limit=" in path and int(path.partition("limit=")[2].partition("&")[0]) > largest else None
    )
    assert run("/dicom-web").answered == 3


@pytest.mark.parametrize(
    "row", [{}, [], None, {"0020000D": {"Value": ["1.2.3"]}}, {"0020000D": 7, "00201208": {"Value": [1]}}]
)
def test_a_study_of_which_a_search_says_nonsense_stops_no_other(archive: Archive, run: Run, row: object) -> None:
    archive.add(images(1)[0])
    archive.before = {"/studies": [row]}
    stats = run("/dicom-web")
    assert (stats.answered, stats.waiting) == (1, 1)


def test_an_instance_of_which_a_search_says_nonsense_is_not_passed_over(archive: Archive, run: Run) -> None:
    lost, good = images(2)
    archive.held[archive.add(lost)][1]["SOPInstanceUID"] = ""
    archive.add(good)
    archive.page = 1
    stats = run("/dicom-web")
    assert (stats.answered, stats.waiting) == (1, 1)


def test_what_was_begun_stays_so_while_a_study_cannot_be_searched(
    archive: Archive, run: Run, bundled: Model, tmp_path: Path
) -> None:
    from braintumor.dicom.results.base import provenance_hash

    archive.add(images(1)[0])
    with WatchState(tmp_path / "state") as state:
        state.begin(["a"], provenance_hash(bundled))
    archive.trouble = lambda method, path: 500 if "/instances" in path else None
    run("/dicom-web")
    with WatchState(tmp_path / "state") as state:
        assert state.under_way() == {provenance_hash(bundled): 1}


def test_many_images_that_fail_do_not_keep_new_ones_away(
    archive: Archive, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("braintumor.pacs.watch.MOST_WAITING", 2)
    monkeypatch.setattr("braintumor.pacs.feed.PAGE", 2)
    bad, good = images(2, study="bad"), make.mr(seed=7)
    for dataset in (*bad, good):
        archive.add(dataset)
    hidden = bad[0].StudyInstanceUID
    archive.trouble = lambda method, path: 500 if f"/studies/{hidden}/" in path else None
    stats = run()
    assert (stats.answered, stats.waiting) == (1, 2)


def test_a_single_run_that_is_told_to_stop_ends_as_any_other(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from braintumor.cli.main import main

    archive.add(images(1)[0])

    def trouble(method: str, path: str) -> int | None:
        if "/instances/" in path:
            os.kill(os.getpid(), signal.SIGTERM)
            return 500
        return None

    archive.trouble = trouble
    assert main(["dicom", "watch", archive.url, "--state", str(tmp_path / "state"), "--once"]) == 0


def test_what_waits_is_told_once_a_minute_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = [1000.0], list[str]()
    monkeypatch.setattr(retry, "monotonic", lambda: clock[0])
    monkeypatch.setattr(retry, "backoff", lambda failures: 8.0 * failures)
    items = [retry.Retry(), retry.Retry(), retry.Retry(kind="study")]
    for item in items:
        item.wait("no DICOM file")
    reminder = retry.Reminder(lines.append)
    for seconds in (0.0, 59.0, 2.0, 30.0):
        clock[0] += seconds
        reminder.tell(items)
    assert lines[:2] == [
        "no DICOM file: 2 image(s) wait, next try in 8 s",
        "no DICOM file: 1 study(s) left out for now, the others go on, next try in 8 s",
    ]
    assert len(lines) == 4  # both again after 61 seconds, when they are due
    reminder.tell_last(items)
    assert lines[4:] == ["no DICOM file: 2 image(s) still wait", "no DICOM file: 1 study(s) still wait"]


def test_of_changes_beyond_an_image_that_waits_only_the_places_between_are_kept(tmp_path: Path) -> None:
    from braintumor.pacs.client import InstanceReference
    from braintumor.pacs.feed import OrthancChanges

    with serving(Archive()) as served, WatchState(tmp_path) as state:
        served.changes = [(seq, f"entry {seq}") for seq in range(1, 91)]
        reached = client.Archive(served.url)
        changes = OrthancChanges(reached, state)
        changes.more()
        waiting = [InstanceReference("1", "2", str(seq), seq=seq) for seq in (10, 50)]
        changes.done(waiting)
        assert state.cursor == (9, "entry 9")
        assert list(changes._trail) == [(49, "entry 49"), (90, "entry 90")]
        changes.done(waiting[1:])
        assert state.cursor == (49, "entry 49")
        changes.done([])
        assert state.cursor == (90, "entry 90")
        reached.close()


def test_what_is_explained_late_is_not_lost_if_the_next_question_fails(archive: Archive, run: Run) -> None:
    for dataset in images(5):
        archive.add(dataset)
    asked = iter(range(1_000))

    def trouble(method: str, path: str) -> int | None:
        return 500 if (method == "POST" and "bulk" in path) or ("/changes?since" in path and next(asked) % 2) else None

    attempts = iter(range(1_000))
    archive.trouble = lambda method, path: trouble(method, path) if next(attempts) < 40 else None
    stats = run()
    assert (stats.answered, stats.waiting) == (5, 0)
