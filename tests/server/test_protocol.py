"""How long connections may keep the service waiting, with real sockets; times and rates are scaled down."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from braintumor.overlay import png
from braintumor.server import protocol, run

BOUNDARY = "x"
RECEIVED = 16 << 10  # bytes that the client's system takes before the client reads
PICTURES, SIDE = 6, 1000
"""Of noise, which does not pack: about 8 MB of answer, more than all buffers on the way."""


@pytest.fixture(scope="module")
def noise() -> bytes:
    return png(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8))


def form(*contents: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    return b"".join(head + content + b"\r\n" for content in contents) + f"--{BOUNDARY}--\r\n".encode()


def head(length: int, query: str = "", closing: bool = False) -> bytes:
    lines = [
        f"POST /v1/predictions{query} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {length}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        *(["Connection: close"] if closing else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def connected(address: tuple[str, int], received: int = RECEIVED) -> socket.socket:
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
    stream.settimeout(10)
    stream.connect(address)
    return stream


def read_slowly(stream: socket.socket, per_second: float, seconds: float) -> tuple[int, int]:
    """Return how many bytes of an answer's content came and how many were announced; until cut, whole or in time."""
    answer, step = b"", 0.02
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            piece = stream.recv(int(per_second * step) or 1)
        except ConnectionError:
            break
        answer += piece
        start, _, content = answer.partition(b"\r\n\r\n")
        if not piece or (content and len(content) == length_of(start)):
            break
        time.sleep(max(len(answer) / per_second - (time.monotonic() - began), 0))
    start, _, content = answer.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200"), answer[:100]
    return len(content), length_of(start)


def seconds_until_cut(step: Callable[[], object]) -> float:
    """Return after how many seconds of small steps the connection is cut; 10 if it is not."""
    began = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - began < 10:
            step()
            time.sleep(0.05)
    return time.monotonic() - began


def whole(stream: socket.socket) -> bytes:
    """Return a short answer."""
    answer = stream.recv(1000)
    return answer if answer.endswith(b"ok") else answer + stream.recv(1000)


def length_of(start: bytes) -> int:
    (length,) = [int(line.split(b":")[1]) for line in start.split(b"\r\n") if line.startswith(b"content-length")]
    return length


SCALED = {"silent_seconds": 1.0, "window_seconds": 1.0, "slowest_bytes": 1 << 20}


@pytest.mark.parametrize("closing", [False, True])
def test_a_slow_reader_gets_the_whole_answer(
    listening: Any, noise: bytes, closing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    body = form(*[noise] * PICTURES)
    with listening(**SCALED, keep_alive_seconds=0.5) as address, connected(address) as stream:
        stream.sendall(head(len(body), "?pixels=true", closing) + body)
        began = time.monotonic()
        came, announced = read_slowly(stream, per_second=3 << 20, seconds=20)
        assert came == announced > PICTURES * SIDE * SIDE
        assert time.monotonic() - began > 2 * SCALED["window_seconds"]  # or it would show nothing


@pytest.mark.slow
@pytest.mark.parametrize("burst", [0, 2 << 20])
@pytest.mark.parametrize("closing", [False, True])
def test_a_reader_that_drips_is_cut_off(listening: Any, noise: bytes, burst: int, closing: bool) -> None:
    body = form(*[noise] * PICTURES)
    with listening(**SCALED) as address, connected(address) as stream:
        stream.sendall(head(len(body), "?pixels=true", closing) + body)
        while burst > 0:
            burst -= len(stream.recv(burst))
        assert seconds_until_cut(lambda: stream.recv(1000)) < 6
        health = httpx.get(f"http://{address[0]}:{address[1]}/healthz", timeout=1)
        assert health.status_code == 200


@pytest.mark.slow
def test_a_small_answer_that_nobody_takes_is_no_loss(listening: Any) -> None:
    with listening(**SCALED) as address, connected(address) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2.2)
        assert whole(stream).endswith(b"ok")


@pytest.mark.slow
def test_an_upload_is_judged_by_its_pace_and_not_by_its_length(listening: Any, noise: bytes) -> None:
    body = form(noise)
    limits = {"silent_seconds": 0.8, "window_seconds": 0.8, "slowest_bytes": 150_000}
    with listening(**limits) as address, ThreadPoolExecutor(3) as pool:
        honest, stalled, dripping = streams = [connected(address) for _ in range(3)]
        for stream in streams:
            stream.sendall(head(len(body)) + body[:300_000])
        cut = pool.submit(seconds_until_cut, lambda: dripping.sendall(b"x"))
        silent = pool.submit(stalled.recv, 100)
        began = time.monotonic()
        for start in range(300_000, len(body), 40_000):
            time.sleep(0.1)
            honest.sendall(body[start : start + 40_000])
        assert time.monotonic() - began > 2 * limits["window_seconds"]  # or it would show nothing
        assert honest.recv(100).startswith(b"HTTP/1.1 200")
        assert silent.result().startswith(b"HTTP/1.1 408")
        assert cut.result() < 5
        for stream in streams:
            stream.close()


def test_stalled_uploads_leave_the_others_room(listening: Any, noise: bytes) -> None:
    limits = {"held_bytes": 8 << 20, "request_bytes": 2 << 20, "silent_seconds": 5.0}
    with listening(**limits) as address:
        stalled = [connected(address) for _ in range(3)]
        for stream in stalled:
            stream.sendall(head(2 << 20) + form(bytes(2 << 20))[: (2 << 20) - 10_000])
        time.sleep(0.3)
        for _ in range(5):
            answer = httpx.post(f"http://{address[0]}:{address[1]}/v1/predictions", files={"files": noise[:50_000]})
            assert answer.status_code == 422  # cut off, but taken
        for stream in stalled:
            stream.close()


def test_connections_live_as_long_as_proxies_keep_them(listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with listening(keep_alive_seconds=1.2) as address, connected(address) as kept, connected(address) as spare:
        for stream in (kept, kept, spare):  # the last one was opened ahead
            stream.sendall(asked)
            assert whole(stream).endswith(b"ok")
            time.sleep(0.4)
        began = time.monotonic()
        assert kept.recv(1000) == b""
        assert 0.1 < time.monotonic() - began < 5


@pytest.mark.parametrize(("path", "status"), [(b"/nowhere", b"404"), (b"/v1/predictions", b"401")])
def test_the_rest_of_a_body_that_nobody_reads_is_waited_for_shortly(listening: Any, path: bytes, status: bytes) -> None:
    with listening(window_seconds=0.5, silent_seconds=0.5, token="x") as address, connected(address) as stream:
        stream.sendall(head(1_000_000).replace(b"/v1/predictions", path))
        assert stream.recv(1000).startswith(b"HTTP/1.1 " + status)
        assert 0.4 < seconds_until_cut(lambda: stream.sendall(b"x" * 100)) < 3


@pytest.mark.parametrize(
    ("path", "status"), [(b"/nowhere", b"404"), (b"/v1/predictions", b"401"), (b"/v1/predictions\xff", b"400")]
)
def test_clients_that_send_all_before_they_read_hear_why_they_are_refused(
    listening: Any, path: bytes, status: bytes
) -> None:
    length = 8 << 20
    with listening(token="x") as address:
        for _ in range(5):
            with connected(address) as stream:
                stream.sendall(head(length).replace(b"/v1/predictions", path))
                time.sleep(0.1)
                stream.sendall(bytes(length))
                assert stream.recv(1000).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("sent", [b"", b"GET /heal", b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\n", head(999) + b"x"])
def test_more_connections_than_there_is_room_for_cost_the_silent_ones(
    listening: Any, sent: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "connections", lambda: 10)
    with listening() as address:
        crowd = [connected(address) for _ in range(40)]
        for stream in crowd:
            if sent:
                try:
                    stream.sendall(sent)
                except ConnectionError:
                    continue
        for _ in range(3):
            began = time.monotonic()
            assert httpx.get(f"http://{address[0]}:{address[1]}/healthz").status_code == 200
            assert time.monotonic() - began < 1
        for stream in crowd:
            stream.close()
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def few_files(model_folder: Path) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """Yield a service that may have 64 files open."""
    command = "ulimit -n 64; exec " + f"{sys.executable} -m braintumor serve --port 0 --model {model_folder}"
    with subprocess.Popen(["bash", "-c", command], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        url = httpx.URL(process.stdout.readline().split()[1])
        yield process, (url.host, url.port or 80)
        process.kill()


def test_a_service_with_few_open_files_stays_healthy(
    few_files: tuple[subprocess.Popen[str], tuple[str, int]], slices: list[Path]
) -> None:
    process, address = few_files
    crowd = [connected(address) for _ in range(90)]
    for _ in range(5):
        began = time.monotonic()
        assert httpx.get(f"http://{address[0]}:{address[1]}/healthz").status_code == 200
        assert time.monotonic() - began < 1
        files = {"files": slices[0].read_bytes()}
        assert httpx.post(f"http://{address[0]}:{address[1]}/v1/predictions", files=files).status_code == 200
    for stream in crowd:
        stream.close()
    process.terminate()
    assert process.communicate(timeout=15)[1] == ""
