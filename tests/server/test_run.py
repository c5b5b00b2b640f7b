"""The service as it is started: a process of its own, and connections that try its patience."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from braintumor.errors import BrainTumorError, ImageError, Refusal
from braintumor.models.session import Model
from braintumor.overlay import png
from braintumor.server import protocol, run
from braintumor.server.run import bind_sockets, is_local, serve
from braintumor.server.settings import Settings
from braintumor.server.workers import InferenceWorkers, SliceResult

UPLOAD = (
    b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
)
COMMAND = [sys.executable, "-m", "braintumor", "serve", "--port", "0"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `braintumor serve`, yield the process and its address."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        output = process.stdout.readline() + process.stdout.readline()
        address = re.search(r"http://\S+/", output)
        assert address, output + process.communicate()[1]
        yield process, address.group()
    finally:
        process.kill()
        process.communicate()


def until_closed(connection: socket.socket) -> None:
    """Read until the other side closes the connection; raises `TimeoutError` if it does not."""
    with connection, suppress(ConnectionResetError):
        while connection.recv(1000):
            pass


def test_the_command_answers_and_ends_in_order(model_folder: Path, slices: list[Path]) -> None:
    with running("--model", str(model_folder)) as (process, address):
        with httpx.Client(base_url=address) as client:
            answers = [client.post("v1/predictions", files={"files": slices[0].read_bytes()}) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].content == answers[1].content
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=15)
        assert complaints == ""
        assert process.returncode in (0, -signal.SIGTERM)
        for child in children.stdout.split():
            assert not Path(f"/proc/{child}").exists(), "a decoder outlives the service"


@pytest.mark.slow
def test_what_is_being_answered_is_finished(model_folder: Path, slices: list[Path]) -> None:
    with running("--model", str(model_folder)) as (process, address):
        host, port = httpx.URL(address).host, httpx.URL(address).port
        content = slices[0].read_bytes()
        request = httpx.Request("POST", f"{address}v1/predictions", files={"files": content})
        body = request.read()
        with socket.create_connection((host, port or 80)) as stream:
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            stream.sendall(f"POST /v1/predictions HTTP/1.1\r\n{head}\r\n".encode() + body[:-10])
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            stream.sendall(body[-10:])
            assert stream.recv(100).startswith(b"HTTP/1.1 200")
        process.communicate(timeout=15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "set a token in the environment variable BRAINTUMOR_TOKEN"),
        (["--host", "256.0.0.1"], "set a token"),
        (["--model", "nothing"], "no model is called nothing"),
    ],
)
def test_what_cannot_be_started_says_why(arguments: list[str], message: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_said(model_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*COMMAND[:-2], "--port", str(port), "--model", str(model_folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use); choose" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_models_of_the_same_name_are_refused(model_folder: Path) -> None:
    command = [*COMMAND, "--model", str(model_folder), str(model_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "models of the same name cannot be told apart: tiny, tiny" in done.stderr


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False), ("x", False)],
)
def test_which_hosts_are_this_machine(host: str, local: bool) -> None:
    assert is_local(host) == local


def test_connections_that_ask_nothing_are_closed(listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with listening(keep_alive_seconds=0.5) as (host, port):
        idle, dripping, kept = (socket.create_connection((host, port), timeout=5) for _ in range(3))
        began = time.monotonic()
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        dripping.sendall(b"GET /healthz HT")
        time.sleep(0.3)
        dripping.sendall(b"TP/1.1\r\nHost: ")  # does not buy more time
        for connection in (idle, dripping, kept):
            until_closed(connection)
        assert 0.4 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 100_000,
        b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9" + b"9" * 30 + b"\r\n\r\n",
        b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /static/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3,
    ],
)
def test_nonsense_is_refused_and_the_next_one_served(
    listening: Any, nonsense: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with listening() as (host, port):
        with socket.create_connection((host, port), timeout=10) as stream:
            stream.sendall(nonsense)
            stream.shutdown(socket.SHUT_WR)
            answer = stream.recv(1000)
            until_closed(stream)
        assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 413", b"HTTP/1.1 200")
        assert b"root:" not in answer
        assert httpx.get(f"http://{host}:{port}/healthz").status_code == 200
    assert capfd.readouterr() == ("", "")


def test_bodies_that_drip_are_given_up_and_others_are_served_meanwhile(listening: Any, slices: list[Path]) -> None:
    with listening(silent_seconds=1.0) as (host, port), socket.create_connection((host, port), timeout=10) as slow:
        slow.sendall(UPLOAD + b"--x\r\n")
        answer = httpx.post(f"http://{host}:{port}/v1/predictions", files={"files": slices[0].read_bytes()})
        assert answer.status_code == 200
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_requests_that_never_end_are_cut_off(listening: Any) -> None:
    with listening(silent_seconds=0.5) as (host, port), socket.create_connection((host, port), timeout=10) as silent:
        began = time.monotonic()
        silent.sendall(UPLOAD)
        until_closed(silent)
        assert 0.4 < time.monotonic() - began < 3


def failing(*arguments: str, **environment: str) -> str:
    """Return what `braintumor serve` says where it does not start, which must be by exit status 2."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("token", ["secret ", "\tsecret", "sec\nret", " ", "sec\x7fret"])
def test_tokens_that_no_client_could_send_are_refused_at_the_start(model_folder: Path, token: str) -> None:
    output = failing("--model", str(model_folder), BRAINTUMOR_TOKEN=token)
    assert "the token in the environment variable BRAINTUMOR_TOKEN begins or ends with a blank" in output


@pytest.mark.slow
def test_hosts_and_ports_that_there_are_not_are_said(model_folder: Path) -> None:
    token = {"BRAINTUMOR_TOKEN": "x"}
    output = failing("--model", str(model_folder), "--host", "no.such.host.invalid", **token)
    assert "cannot listen on no.such.host.invalid, port 0 (" in output
    output = failing("--model", str(model_folder), "--port", "99999")
    assert "cannot listen on 127.0.0.1, port 99999; expected a --port from 0 to 65535" in output
    assert "more than 0 keep_alive_seconds, got 0" in failing("--model", str(model_folder), "--keep_alive_seconds", "0")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ImageError("warm-up", "killed", Refusal.BUSY), "cannot decode any file on this machine: killed"),
        (RuntimeError("our bug"), "our bug"),
    ],
)
def test_only_a_failed_bind_says_that_it_cannot_listen(
    model: Model, error: Exception, text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken(InferenceWorkers):
        def judge(self, *_: object, **__: object) -> "Future[list[SliceResult]]":
            failed: Future[list[SliceResult]] = Future()
            failed.set_exception(error)
            return failed

    monkeypatch.setattr("braintumor.server.app.InferenceWorkers", Broken)
    expected = BrainTumorError if isinstance(error, ImageError) else RuntimeError
    with pytest.raises(expected, match=f"^{text}"):
        serve([model], Settings(), host="127.0.0.1", port=0, ready=print)
    assert capfd.readouterr() == ("", "")


def test_a_client_that_does_not_take_its_answer_does_not_keep_the_service_from_ending(
    listening: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ABORT_SECONDS", 0.5)
    noise = png(np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8))
    with listening() as address:
        request = httpx.Request("POST", "http://localhost/v1/predictions?pixels=true", files=[("files", noise)] * 6)
        body = request.read()
        stream = socket.create_connection(address, timeout=10)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        stream.sendall(f"POST /v1/predictions?pixels=true HTTP/1.1\r\n{head}\r\n".encode() + body)
        assert stream.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
    assert time.monotonic() - began < 5
    stream.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("addresses", [["::1", "127.0.0.1"], ["127.0.0.1", "::1"], ["::1", "::1"]])
def test_a_name_is_listened_on_where_only_some_of_its_addresses_are(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], **options: Any) -> socket.socket:
        if address[0] == "::1":
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create(address, **options)

    resolved = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: resolved)
    monkeypatch.setattr("socket.create_server", without_ipv6)
    if "127.0.0.1" in addresses:
        (only,) = bind_sockets("localhost", 0)
        with only:
            assert only.getsockname()[0] == "127.0.0.1"
    else:
        with pytest.raises(BrainTumorError, match=r"cannot listen on localhost, port 0 \(Cannot assign requested"):
            bind_sockets("localhost", 0)


def test_decoders_that_cannot_be_started_are_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("braintumor.server.workers.Sandbox", refused)
    with pytest.raises(BrainTumorError, match="cannot start the processes that decode files"):
        serve([model], Settings(), host="127.0.0.1", port=0, ready=print)
