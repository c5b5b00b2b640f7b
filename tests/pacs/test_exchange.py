"""Whether an archive that drips, stalls or never ends costs its time limit and no more, whatever it does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from braintumor.errors import ArchiveError, ArchiveStoppedError, ArchiveTimeoutError, InstanceError
from braintumor.pacs import client, exchange

Behaviour = Callable[[socket.socket, threading.Event], None]


def silent(connection: socket.socket, over: threading.Event) -> None:
    over.wait(30)


def dripping_head(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not over.wait(0.05):
        connection.sendall(b"x")


def dripping_body(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not over.wait(0.05):
        connection.sendall(b"x")


def endless_body(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while not over.wait(0.01):
        connection.sendall(b"x" * 1000)


def reading_nothing(connection: socket.socket, over: threading.Event) -> None:
    over.wait(30)


BEHAVIOURS = (silent, dripping_head, dripping_body, endless_body)


@contextlib.contextmanager
def hostile(behaviour: Behaviour) -> Iterator[str]:
    """Serve connections so until the block ends; yield the address."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def accept() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    threading.Thread(target=behave, args=(connection,), daemon=True).start()

        def behave(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                if behaviour is not reading_nothing:
                    connection.recv(65536)
                behaviour(connection, over)

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            accepting.join()


def working_threads() -> int:
    return sum(thread.name.endswith("(_work)") for thread in threading.enumerate())


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_each_exchange_is_over_in_its_time_and_leaves_no_thread(
    behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "WHOLE_SECONDS", 0.5)
    with hostile(behaviour) as url:
        archive = client.Archive(url)
        began = time.monotonic()
        with pytest.raises(ArchiveTimeoutError, match="no answer in time"):
            archive.get("/changes")
        assert 0.4 < time.monotonic() - began < 3
        until = time.monotonic() + 3
        while working_threads() and time.monotonic() < until:
            time.sleep(0.02)
        assert working_threads() == 0
        archive.close()


def test_what_nobody_reads_is_not_sent_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WHOLE_SECONDS", 0.5)
    with hostile(reading_nothing) as url:
        archive = client.Archive(url)
        with pytest.raises(ArchiveError):
            archive.store({"1.2.3": b"x" * (32 << 20)})
        archive.close()


def test_one_image_that_drips_is_trouble_of_that_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WHOLE_SECONDS", 0.3)
    with hostile(dripping_body) as url:
        archive = client.Archive(url)
        with pytest.raises(InstanceError, match="no answer in time"):
            archive.pull(client.InstanceReference("1", "2", "3"))
        archive.close()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_stop_ends_what_is_under_way(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "STOP_SECONDS", 0.3)
    stopped = threading.Event()
    with hostile(behaviour) as url:
        archive = client.Archive(url)
        archive.stop_when(stopped.is_set)
        threading.Timer(0.3, stopped.set).start()
        began = time.monotonic()
        with pytest.raises(ArchiveStoppedError):
            archive.get("/changes")
        assert time.monotonic() - began < 3
        archive.close()


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [dripping_head, dripping_body])
def test_sigterm_ends_a_watcher_that_is_held_by_its_archive(behaviour: Behaviour, tmp_path: Path) -> None:
    with hostile(behaviour) as url:
        command = [sys.executable, "-m", "braintumor", "dicom", "watch", url, "--state", str(tmp_path / "state")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as watcher:
            assert watcher.stdout
            watcher.stdout.readline()  # the model: the first question follows
            time.sleep(1.5)
            began = time.monotonic()
            watcher.send_signal(signal.SIGTERM)
            assert watcher.wait(30) == 0
            assert time.monotonic() - began < 10


def test_an_upload_may_take_longer_than_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0.3)
    answer = b'{"00081199": {"Value": [{"00081155": {"Value": ["1.2.3"]}}]}}'

    def reading_slowly(connection: socket.socket, over: threading.Event) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer)
        time.sleep(1)
        with connection.makefile("rb") as stream:
            stream.read((32 << 20) - 65536)  # and what was read before
        connection.sendall(head + answer)
        over.wait(5)

    with hostile(reading_slowly) as url:
        archive = client.Archive(url)
        assert archive.store({"1.2.3": b"x" * (32 << 20)}) == {"1.2.3": 0}
        archive.close()


def test_an_upload_that_nobody_reads_is_told_as_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SILENT_SECONDS", 0.3)
    with hostile(reading_nothing) as url:
        archive = client.Archive(url)
        with pytest.raises(ArchiveError, match="no answer in time"):
            archive.store({"1.2.3": b"x" * (32 << 20)})
        archive.close()


@pytest.mark.parametrize("late", [True, False], ids=["late", "stopped"])
def test_what_is_done_at_the_last_moment_counts(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Between the last look and the end of the time, the archive answers."""
    looked = threading.Event()
    exchanges = exchange.Exchanges(100.0)

    def clock() -> float:
        looked.set()
        time.sleep(0.3)  # the work ends
        return next(times)

    times = iter([0.0] + [1000.0] * 100)
    monkeypatch.setattr(exchange, "monotonic", clock)
    if not late:
        exchanges = exchange.Exchanges(1e9)
        exchanges.should_stop = lambda: True

    def work() -> str:
        looked.wait()
        time.sleep(0.2)
        return "stored"

    assert exchanges.run(work) == "stored"
