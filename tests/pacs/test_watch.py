import gzip
import io
import json
import logging
import os
import re
import signal
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pydicom
import pytest

from braintumor.dicom.results.base import provenance_hash
from braintumor.errors import ArchiveError, ImageError, InstanceError, ModelError, Refusal, StorageError
from braintumor.io.sandbox import TOO_LONG, Sandbox
from braintumor.models.session import Model
from braintumor.pacs import client
from braintumor.pacs.client import InstanceReference
from braintumor.pacs.fetch import InstanceFetcher
from braintumor.pacs.multipart import only_part
from braintumor.pacs.retry import backoff
from braintumor.pacs.state import WatchState
from braintumor.pacs.store import WorkItem
from braintumor.pacs.watch import MOST_FAILURES, WatchStats, watch
from tests.dicom import make
from tests.pacs.fake import DROP, Archive, images

Run = Callable[..., WatchStats]


def answered(archive: Archive) -> list[int]:
    """Return how many results refer to each image that is not ours."""
    uids = [str(make.uid("instance", 0, 0, number)) for number in range(1, 100)]
    texts = [dataset.to_json() for dataset in archive.results()]
    return [
        sum(f'"{uid}"' in text for text in texts)
        for uid in uids
        if any(uid in attributes.values() for _, attributes in archive.held.values())
    ]


@pytest.mark.parametrize("root", ["", "/dicom-web"], ids=["changes", "qido"])
def test_each_mr_image_is_answered_and_nothing_else(archive: Archive, run: Run, lines: list[str], root: str) -> None:
    for dataset in images(3):
        archive.add(dataset)
    archive.add(make.mr(number=4, series="ct", Modality="CT"))
    assert run(root) == WatchStats(answered=3, passed=1 + 9 + (root != "") * 1)
    assert answered(archive) == [3, 3, 3]
    assert archive.pulls() == 3
    assert "answered 3; 0 waiting" in lines
    assert not any("2.25." in line or make.NAME in line for line in lines)


@pytest.mark.parametrize("root", ["", "/dicom-web"], ids=["changes", "qido"])
def test_a_second_run_fetches_nothing(archive: Archive, run: Run, root: str) -> None:
    for dataset in images(2):
        archive.add(dataset)
    run(root)
    archive.add(images(3)[2])
    archive.asked.clear()
    assert run(root).answered == 1
    assert archive.pulls() == 1
    assert answered(archive) == [3, 3, 3]


@pytest.mark.slow
def test_an_archive_that_fails_is_asked_again(archive: Archive, run: Run, lines: list[str]) -> None:
    for dataset in images(3):
        archive.add(dataset)
    archive.trouble = lambda method, path: {3: 503, 9: DROP}.get(len(archive.asked) % 12)
    assert run().answered == 3
    assert answered(archive) == [3, 3, 3]
    # at once for the archive, or for the one image, where the archive answers another question
    assert any(re.search(r"busy \(status 503\)(; trying again|: 1 image\(s\) wait)", line) for line in lines)


def test_an_archive_that_is_not_there_ends_a_single_run_only(archive: Archive, run: Run, lines: list[str]) -> None:
    archive.trouble = lambda method, path: 401
    with pytest.raises(ArchiveError, match=r"refuses us .*BRAINTUMOR_PACS_USER"):
        run()
    assert len(lines) == MOST_FAILURES - 1


def test_an_archive_without_https_is_said(archive: Archive) -> None:
    secure = client.Archive(archive.url.replace("http:", "https:"))
    with pytest.raises(ArchiveError, match="no https there, or no trusted certificate"):
        secure.find()
    secure.close()


def test_without_dicomweb_an_image_is_not_taken_for_deleted(archive: Archive, run: Run) -> None:
    archive.add(images(1)[0])
    archive.trouble = lambda method, path: 404 if "instances" in path else None
    assert run() == WatchStats(waiting=1)
    archive.trouble = lambda method, path: None
    assert run().answered == 1


def test_a_password_in_the_address_is_refused(tmp_path: Path, bundled: Model) -> None:
    with pytest.raises(ArchiveError, match="seen by others") as caught:
        watch("http://me:secret@127.0.0.1:1", bundled, tmp_path, say=print)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8042", "ftp://127.0.0.1", "http://"])
def test_what_is_no_address_is_refused(tmp_path: Path, bundled: Model, url: str) -> None:
    with pytest.raises(ArchiveError, match="expected the address"):
        watch(url, bundled, tmp_path, say=print)


def test_a_redirect_is_not_followed(archive: Archive, run: Run) -> None:
    archive.trouble = lambda method, path: 307
    with pytest.raises(ArchiveError, match="another address"):
        run()
    assert {path for _, path in archive.asked} == {"/changes?limit=1"}


def test_the_password_comes_from_the_environment_as_utf8(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client.USER, "watcher")
    monkeypatch.setenv(client.PASSWORD, "pässwörd")
    session = client.Archive(archive.url)._session
    prepared = session.prepare_request(client.requests.Request("GET", archive.url))
    assert prepared.headers["Authorization"] == "Basic d2F0Y2hlcjpww6Rzc3fDtnJk"  # base64 of watcher:pässwörd


def test_results_that_are_taken_in_part_are_sent_again(archive: Archive, run: Run) -> None:
    for dataset in images(2):
        archive.add(dataset)
    refused: list[str] = []

    def refuse(uid: str) -> bool:
        if len(refused) < 3 and uid not in refused:
            refused.append(uid)
            return True
        return False

    archive.refuse = refuse
    assert run() == WatchStats(answered=2, passed=6)
    assert answered(archive) == [3, 3]


@pytest.mark.slow
def test_an_image_that_fails_while_others_do_not_is_refused_in_the_end(
    archive: Archive, run: Run, lines: list[str]
) -> None:
    bad = images(1)[0]
    archive.add(bad)
    others = (make.mr(seed=number, number=number) for number in count(2))

    def trouble(method: str, path: str) -> int | None:
        if method == "GET" and path.endswith(f"/instances/{bad.SOPInstanceUID}"):
            archive.add(next(others))
            return 500
        return None

    archive.trouble = trouble
    stats = run()
    assert stats.refused == 1
    assert stats.answered >= MOST_FAILURES
    assert "refused 1: the archive does not give it (status 500)" in lines
    archive.trouble = lambda method, path: None
    assert run() == WatchStats()


def test_an_image_that_fails_alone_waits_for_the_next_run(archive: Archive, run: Run) -> None:
    bad = images(1)[0]
    archive.add(bad)
    archive.trouble = lambda method, path: 500 if path.endswith(f"/instances/{bad.SOPInstanceUID}") else None
    assert run() == WatchStats(waiting=1)
    archive.trouble = lambda method, path: None
    assert run().answered == 1


def test_a_study_that_we_may_not_see_stops_no_other(archive: Archive, run: Run) -> None:
    hidden = images(1, study="hidden")[0]
    archive.add(hidden)
    archive.add(images(1)[0])
    archive.trouble = lambda method, path: 403 if path.endswith(f"/instances/{hidden.SOPInstanceUID}") else None
    assert run() == WatchStats(answered=1, passed=3, waiting=1)


def test_an_image_without_a_study_stops_no_other(archive: Archive, run: Run) -> None:
    lost, good = images(2)
    entry = archive.add(lost)
    archive.held[entry][1]["SOPInstanceUID"] = ""
    archive.add(good)
    assert run() == WatchStats(answered=1, passed=4)


def test_an_image_deleted_meanwhile_is_passed_over(archive: Archive, run: Run) -> None:
    first, second = images(2)
    entry = archive.add(first)
    archive.add(second)

    def trouble(method: str, path: str) -> int | None:
        if first.SOPInstanceUID in path:
            archive.held.pop(entry, None)
        return None

    archive.trouble = trouble
    assert run() == WatchStats(answered=1, gone=1, passed=3)


def test_what_cannot_be_decoded_is_refused_once(archive: Archive, run: Run, lines: list[str]) -> None:
    bad, good = images(2)
    archive.add(bad, make.encoded(bad)[:2_000])
    archive.add(good)
    assert run() == WatchStats(answered=1, refused=1, passed=3)
    assert sum(line.startswith("refused 1: ") for line in lines) == 1
    archive.asked.clear()
    assert run() == WatchStats()
    assert archive.pulls() == 0


def test_a_file_that_took_too_long_under_load_gets_another_chance(
    archive: Archive, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add(images(1)[0])
    slow, read_all = iter([True]), Sandbox.read_all

    def sometimes(self: Sandbox, content: bytes, name: str) -> Iterator[object]:
        if next(slow, False):
            raise ImageError(name, TOO_LONG, Refusal.TIMEOUT)
        yield from read_all(self, content, name)

    monkeypatch.setattr(Sandbox, "read_all", sometimes)
    assert run().answered == 1


def test_an_image_whose_results_cannot_be_made_stops_no_other(
    archive: Archive, run: Run, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from braintumor.dicom.results import images as module

    for dataset in images(2):
        archive.add(dataset)
    poison, results = iter([True]), module.results

    def sometimes(*judged: object) -> object:
        if next(poison, False):
            raise ValueError(f"Invalid value: {make.NAME}")
        return results(*judged)

    monkeypatch.setattr(module, "results", sometimes)
    assert run() == WatchStats(answered=1, refused=1, passed=3)
    assert "refused 1: no results can be made from it (ValueError)" in lines


def test_every_frame_of_an_enhanced_image_is_answered(archive: Archive, run: Run) -> None:
    archive.add(make.enhanced())
    assert run() == WatchStats(answered=1, passed=12)
    assert len(archive.results()) == 4 * 3


@pytest.mark.parametrize("shorter", [True, False], ids=["shorter list", "other list"])
def test_a_replaced_list_of_changes_is_read_from_the_start_and_nothing_answered_again(
    archive: Archive, run: Run, shorter: bool
) -> None:
    old = images(2)
    for dataset in old:
        archive.add(dataset)
    run()
    archive.held.clear()
    archive.changes.clear()
    for dataset in [*([] if shorter else images(12, study="filler")), *images(3)]:
        archive.add(dataset)
    archive.asked.clear()
    assert run().answered == (1 if shorter else 13)
    assert archive.pulls() == (1 if shorter else 13)
    assert run().answered == 0


def test_an_archive_that_gives_its_first_page_for_ever_is_read_once(archive: Archive, run: Run) -> None:
    archive.pages = False
    for dataset in images(2):
        archive.add(dataset)
    assert run("/dicom-web").answered == 2


def test_images_half_answered_by_another_model_must_be_finished_first(run: Run, tmp_path: Path) -> None:
    with WatchState(tmp_path / "state") as state:
        state.begin(["a"], "another model")
    with pytest.raises(ModelError, match="1 image"):
        run()


def test_another_version_of_this_package_is_as_another_model(
    archive: Archive, run: Run, bundled: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WatchState(tmp_path / "state") as state:
        state.begin(["a"], provenance_hash(bundled))
    with monkeypatch.context() as newer:
        newer.setattr("braintumor.dicom.results.base.__version__", "99.0")
        with pytest.raises(ModelError, match="or version of braintumor"):
            run()
    assert run() == WatchStats()


def test_an_interrupted_answer_is_finished_and_then_no_longer_under_way(
    archive: Archive, run: Run, bundled: Model, tmp_path: Path
) -> None:
    image = images(1)[0]
    archive.add(image)
    with WatchState(tmp_path / "state") as state:
        key = InstanceReference(image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID).key
        state.begin([key, "gone meanwhile"], provenance_hash(bundled))
    assert run().answered == 1
    with WatchState(tmp_path / "state") as state:
        assert state.under_way() == {}


def test_a_second_watcher_on_the_same_journal_is_refused(run: Run, tmp_path: Path) -> None:
    with WatchState(tmp_path / "state"), pytest.raises(StorageError, match="in use by another watcher"):
        run()


def test_sigterm_ends_the_loop_and_gives_the_old_handler_back(archive: Archive, bundled: Model, tmp_path: Path) -> None:
    archive.add(images(1)[0])
    before, threads = signal.getsignal(signal.SIGTERM), set(threading.enumerate())

    def say(line: str) -> None:
        if line.startswith("answered"):
            os.kill(os.getpid(), signal.SIGTERM)

    assert watch(archive.url, bundled, tmp_path / "state", poll_seconds=60, say=say).answered == 1
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [thread for thread in set(threading.enumerate()) - threads if "Pool" in thread.name]


def test_nothing_of_the_libraries_is_logged(archive: Archive, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    archive.add(images(1)[0])
    assert run().answered == 1
    assert not [record for record in caplog.records if record.name.partition(".")[0] != "asyncio"]


def test_a_pause_doubles_up_to_a_minute_and_varies() -> None:
    assert all(0.5 <= backoff(1) <= 1.0 for _ in range(50))
    assert all(4.0 <= backoff(4) <= 8.0 for _ in range(50))
    assert all(30.0 <= backoff(1000) <= 60.0 for _ in range(50))
    assert len({backoff(3) for _ in range(10)}) > 1


def test_an_image_is_only_blamed_for_failures_between_successes_of_others() -> None:
    item = WorkItem(InstanceReference("1", "2", "3"))
    for successes in (0, 0, 0, 1, 1, 2):
        item.fail("error", successes)
    assert (item.attempts, item.failures_while_others_succeeded) == (6, 2)


def test_the_key_of_an_image_tells_nothing_and_differs_by_study() -> None:
    one, other = InstanceReference("1.2", "1.3", "1.4"), InstanceReference("1.9", "1.3", "1.4")
    assert one.key != other.key
    assert len(one.key) == 32
    assert "1.2" not in one.key


def test_a_file_is_taken_out_of_its_message_unchanged() -> None:
    content = make.encoded(images(1)[0])
    message = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"
    assert only_part(message) == content
    assert only_part(content) == content
    assert pydicom.dcmread(io.BytesIO(only_part(message))).Modality == "MR"


def test_an_image_of_which_a_search_does_not_tell_the_modality_is_not_passed_over(archive: Archive, run: Run) -> None:
    archive.held[archive.add(images(1)[0])][1]["Modality"] = ""
    assert run("/dicom-web").answered == 1


@pytest.mark.slow
def test_another_image_than_the_one_asked_for_is_never_answered(archive: Archive, run: Run, lines: list[str]) -> None:
    wanted, other = images(2)
    archive.add(wanted, make.encoded(other))
    assert run() == WatchStats(waiting=1)
    assert archive.results() == []
    assert not any("2.25." in line for line in lines)


@pytest.mark.parametrize("page", [b"<html>please log in</html>", b""])
def test_a_page_in_place_of_an_image_is_no_reason_to_give_up_on_it(archive: Archive, run: Run, page: bytes) -> None:
    archive.add(images(1)[0])
    archive.canned_replies = {"/dicom-web/studies/": page}
    assert run() == WatchStats(waiting=1)
    archive.canned_replies = {}
    assert run().answered == 1


def test_what_waits_in_great_number_is_waited_for(archive: Archive, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braintumor.pacs.watch.MOST_WAITING", 1)
    archive.add(images(1)[0])
    archive.trouble = lambda method, path: 500 if "/instances/" in path else None
    assert run() == WatchStats(waiting=1)


CHANGE = b'{"Seq": %s, "ID": "a", "ChangeType": "NewInstance"}'


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/changes?since", b"[" * 100_000),
        ("/changes?since", b"[]"),
        ("/changes?since", b'{"Changes": 7, "Done": true, "Last": 0}'),
        ("/changes?since", b'{"Changes": [%s], "Done": true, "Last": 1}' % (CHANGE % b"1e999")),
        ("/changes?since", b'{"Changes": [%s], "Done": true, "Last": 1}' % (CHANGE % str(2**70).encode())),
    ],
)
def test_an_answer_that_cannot_be_understood_is_trouble_of_the_archive(
    archive: Archive, run: Run, path: str, content: bytes
) -> None:
    archive.add(images(1)[0])
    archive.canned_replies = {path: content}
    with pytest.raises(ArchiveError):
        run()
    archive.canned_replies = {}
    assert run().answered == 1


@pytest.mark.parametrize(
    "content", [b'[{"ID": "a"}]', b'[{"ID": "a", "ParentSeries": [], "MainDicomTags": []}]', b'{"a": 1}']
)
def test_a_change_whose_explanation_cannot_be_understood_waits(
    archive: Archive, run: Run, lines: list[str], content: bytes
) -> None:
    archive.add(images(1)[0])
    archive.canned_replies = {"/tools/bulk-content": content}
    assert run() == WatchStats(waiting=1)
    assert lines[-1] == "the archive's answer is not as Orthanc writes it: 1 new instance(s) still wait"
    archive.canned_replies = {}
    assert run().answered == 1


def test_a_list_that_says_for_ever_that_there_is_more_is_read_at_leisure(archive: Archive, run: Run) -> None:
    archive.canned_replies = {"/changes?since": b'{"Changes": [], "Done": false, "Last": 0}'}
    assert run() == WatchStats()


@pytest.mark.parametrize("way", ["gzip", "X-GZip", "deflate"])
def test_what_a_proxy_has_packed_is_unpacked(archive: Archive, run: Run, way: str) -> None:
    archive.add(images(1)[0])
    archive.headers = {"Content-Encoding": way}
    archive.packed = zlib.compress if way == "deflate" else gzip.compress
    assert run().answered == 1


def test_what_is_packed_in_an_unknown_way_is_refused(archive: Archive, run: Run) -> None:
    archive.headers = {"Content-Encoding": "zstd"}
    with pytest.raises(ArchiveError, match="packs its answer"):
        run()


@pytest.mark.slow
def test_what_unpacks_to_any_size_is_left_at_the_limit(archive: Archive) -> None:
    archive.headers = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(bytes(1 << 30), 9)
    archive.packed = lambda _content: bomb
    reached = client.Archive(archive.url)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="an answer of more than 64 MiB"):
            reached.get("/changes")
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()
        reached.close()


def test_packed_data_that_is_damaged_is_a_broken_connection(archive: Archive, run: Run) -> None:
    archive.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(ArchiveError, match="the connection broke"):
        run()


def test_an_answer_that_drips_is_no_answer(archive: Archive, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WHOLE_SECONDS", 0.2)
    archive.trouble = lambda _method, _path: time.sleep(0.5)
    with pytest.raises(ArchiveError, match="no answer in time"):
        run()


def test_the_slices_of_a_large_image_are_never_held_together(archive: Archive) -> None:
    made = make.enhanced()
    archive.add(made)
    reached = client.Archive(archive.url)
    reached.find()
    with Sandbox(1) as sandbox, InstanceFetcher(reached, sandbox) as incoming:
        image = InstanceReference(made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID)
        ((_, fetched),) = next(incoming.fetched([WorkItem(image)], 0))
    assert (fetched.slices, fetched.several) == ((), make.encoded(made))


def test_an_image_of_too_many_slices_is_answered_in_part_and_refused(
    archive: Archive, run: Run, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("braintumor.pacs.watch.MOST_SLICES", 2)
    archive.add(make.enhanced())
    assert run() == WatchStats(refused=1, passed=6)
    assert "refused 1: more than 5,000 slices; split it" in lines


def test_what_waits_is_said_with_its_reason_and_a_single_run_counts_it(
    archive: Archive, run: Run, lines: list[str]
) -> None:
    for image in images(2):
        archive.add(image)
    archive.trouble = lambda method, path: 500 if method == "GET" and "/instances/" in path else None
    assert run() == WatchStats(waiting=2)
    assert any(
        re.fullmatch(r"the archive does not give it \(status 500\): 2 .* wait, next try in \d+ s", line)
        for line in lines
    )
    assert sum(" wait, next try in " in line for line in lines) == 1  # not more often than once a minute
    assert lines[-1] == "the archive does not give it (status 500): 2 image(s) still wait"


@pytest.mark.slow
def test_one_study_that_cannot_be_searched_stops_no_other_and_is_said(
    archive: Archive, run: Run, lines: list[str]
) -> None:
    archive.add(make.mr(study="odd"))
    archive.add(make.mr(study="good"))
    odd = f"/dicom-web/studies/{make.uid('study', 'odd')}/"
    for answer in (b"<html>", b"[3]", b"{}"):
        archive.canned_replies = {odd: answer}
        stats = run("/dicom-web")
        assert (stats.answered, stats.waiting) == (1 if answer == b"<html>" else 0, 1)
        assert any("1 study(s) left out for now, the others go on" in line for line in lines)
    archive.canned_replies = {}
    assert run("/dicom-web").answered == 1


def test_studies_are_searched_in_pages_that_every_archive_allows(archive: Archive, run: Run) -> None:
    def strict(_method: str, path: str) -> int | None:
        limit = re.search(r"limit=(\d+)", path)
        return 400 if limit and int(limit[1]) > 100 else None

    archive.trouble = strict
    archive.add(make.mr())
    assert run("/dicom-web").answered == 1


def failed(reason: int, uid: str) -> bytes:
    item = {"00081155": {"Value": [uid]}, "00081197": {"Value": [reason]}}
    return json.dumps({"00081198": {"Value": [item]}}).encode()


@pytest.mark.parametrize(("reason", "stored"), [(45070, True), (0x0111, True), (0xA700, False), (0x0110, False)])
def test_what_the_archive_has_already_counts_as_stored(archive: Archive, reason: int, stored: bool) -> None:
    reached = client.Archive(archive.url)
    archive.canned_replies = {"/studies": failed(reason, "1.2.3")}
    assert reached.store({"1.2.3": b"x"}) == ({"1.2.3": 0} if stored else {"1.2.3": reason})
    assert reached.store({"1.2.4": b"x"}) == {}  # nothing is said of ours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (0xA700, "failure reason 0xA700: out of resources"),
        (0xA7FF, "failure reason 0xA7FF: out of resources"),
        (0x0124, "failure reason 0x0124: not authorized"),
        (0xBEEF, "failure reason 0xBEEF"),
    ],
)
def test_why_the_archive_does_not_take_a_result_is_told(
    archive: Archive, run: Run, lines: list[str], reason: int, told: str
) -> None:
    archive.add(images(1)[0])
    archive.refuse, archive.failure = lambda uid: True, reason
    assert run().answered == 0
    assert any(line.startswith(f"the archive does not take the results ({told}): 1 image(s) wait") for line in lines)


@pytest.mark.parametrize("answer", [b"", b"<NativeDicomModel/>"])
def test_where_the_archive_does_not_say_what_it_has_it_is_asked(archive: Archive, answer: bytes) -> None:
    reached = client.Archive(archive.url)
    archive.canned_replies = {
        "/studies": answer,
        "/instances?SOPInstanceUID=1.2.3&": b'[{"00080018": {"Value": ["1.2.3"]}}]',
    }
    archive.canned_replies["/instances"] = b"[]"
    assert reached.store({"1.2.3": b"x", "1.2.4": b"x"}) == {"1.2.3": 0}
    with pytest.raises(InstanceError, match="does not take the results"):
        reached.store({"1.2.4": b"x"})


@pytest.mark.parametrize("status", [500, 503, 504, DROP])
def test_one_image_that_the_archive_does_not_give_stops_no_other(
    archive: Archive, run: Run, lines: list[str], status: int
) -> None:
    for image in images(4):
        archive.add(image)
    held = f"/instances/{make.uid('instance', 0, 0, 1)}"  # the first in line
    archive.trouble = lambda method, path: status if method == "GET" and path.endswith(held) else None
    stats = run()
    assert stats.answered == 3
    assert stats.waiting + stats.refused == 1
    assert any("image(s) wait" in line or line.startswith("refused 1: ") for line in lines)


@pytest.mark.parametrize("status", [500, 503, DROP])
def test_one_study_that_the_archive_does_not_list_stops_no_other(archive: Archive, run: Run, status: int) -> None:
    archive.add(make.mr(study="odd"))
    archive.add(make.mr(study="good"))
    odd = f"/studies/{make.uid('study', 'odd')}/instances"
    archive.trouble = lambda _method, path: status if odd in path else None
    stats = run("/dicom-web")
    assert (stats.answered, stats.waiting) == (1, 1)


@pytest.mark.parametrize("row", [{"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}, 7, {"0020000D": 7}])
def test_one_odd_row_of_a_search_stops_no_study(
    archive: Archive, run: Run, monkeypatch: pytest.MonkeyPatch, row: object
) -> None:
    archive.add(make.mr())
    search = client.Archive.search

    def odd(self: client.Archive, path: str, **wanted: str | int) -> list[Any]:
        first = path == "/studies" and not wanted.get("offset")
        return [*([row] if first else []), *search(self, path, **wanted)]

    monkeypatch.setattr(client.Archive, "search", odd)
    stats = run("/dicom-web")
    assert (stats.answered, stats.waiting) == (1, 1)


def test_an_odd_instance_in_a_study_leaves_the_others_and_is_counted(
    archive: Archive, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image in images(2):
        archive.add(image)
    search = client.Archive.search

    def odd(self: client.Archive, path: str, **wanted: str | int) -> list[Any]:
        rows = search(self, path, **wanted)
        return [7, *rows[1:]] if path.endswith("/instances") and not wanted.get("offset") else rows

    monkeypatch.setattr(client.Archive, "search", odd)
    stats = run("/dicom-web")
    assert (stats.answered, stats.waiting) == (1, 1)


@pytest.mark.parametrize("status", [200, 202, 409])
@pytest.mark.parametrize("answer", [b"{}", b'{"00081190": {"vr": "UR"}}', b"", b"<NativeDicomModel/>"])
def test_what_an_answer_names_neither_stored_nor_failed_is_asked_for(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, status: int, answer: bytes
) -> None:
    reached = client.Archive(archive.url)
    archive.canned_replies = {
        "/instances?SOPInstanceUID=1.2.3&": b'[{"00080018": {"Value": ["1.2.3"]}}]',
        "/instances": b"[]",
    }
    call = reached._call

    def answered(method: str, url: str, **options: Any) -> client.ArchiveReply:
        return client.ArchiveReply(status, bytearray(answer), "") if method == "POST" else call(method, url, **options)

    monkeypatch.setattr(reached, "_call", answered)
    assert reached.store({"1.2.3": b"x", "1.2.4": b"x"}) == {"1.2.3": 0}
    with pytest.raises(InstanceError, match=f"status {status}"):
        reached.store({"1.2.4": b"x"})
