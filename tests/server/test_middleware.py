"""What every request passes: odd headers, tokens, HEAD, clients that leave."""

import itertools
import re
import socket
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from braintumor.server.middleware import is_token

HEAD_OF_FORM = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n"
VALUES = (
    b"", b"[", b"]", b"http://[", b"http://[::1", b"http://]", b"//", b"://", b"\xb2", b"1\xb2", b"-1", b"+5", b"0x5",
    b"5, 5", b"5 5", b"1e3", b"9" * 19, b"9" * 21, b"\xff\xfe", b"\xc3\xa9", b"%", b"%00", b"@", b"a@b", b"a b",
    b"a,b", b"a/b", b"?", b"#", b"\\", b"\"", b"';--", b"{}", b"null", b"*", b";", b"=", b"a" * 5000,
    b"localhost:99999", b"localhost:\xb2", b"localhost:-1", b"[::1]:x", b"xn--\xff", b"http://localhost:\xb2",
    b"http://a:99999999999/", b"chunked, gzip", b"gzip", b"100-continue", b"200-ok", b"bytes=", b"bytes=-",
    b"bytes=5-1", b"bytes=\xb2-", b"bytes=0-0,1-1," + b"2-2," * 400, b"bytes=0-999999999999999999999",
    b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=\xe9",
    b"multipart/form-data; boundary=\"", b"multipart/form-data; boundary=x; charset=undefined",
    b"multipart/form-data; boundary=x; charset=zlib", b"multipart/form-data; boundary=x; charset=\x00",
    b"multipart/form-data; boundary=x; charset=idna", b"multipart/", b"/;;=;", b"Bearer", b"Bearer ", b"Bearer \xe9",
    b"Basic \xff", b"Sat, 31 Feb 99999 99:99:99", b"W/\"", b"websocket", b"h2c", b"close, \xff",
)  # fmt: skip
NAMES = (
    b"Origin", b"Host", b"Content-Length", b"Content-Type", b"Authorization", b"Range", b"If-Range", b"Expect",
    b"Transfer-Encoding", b"Upgrade", b"Connection", b"Accept", b"Accept-Encoding", b"If-Modified-Since",
    b"If-None-Match", b"Cookie", b"X-Forwarded-For", b"Access-Control-Request-Method",
)  # fmt: skip
TARGETS = (
    b"/%00", b"/static/%00", b"/static/%ff", b"/static/" + b"a" * 5000, b"/static", b"/static/",
    b"/static//etc/passwd", b"//", b"*", b"/v1/models/", b"/?%ff=%00", b"/docs/", b"http://localhost/healthz",
    b"localhost:80", b"/v1/predictions?slices=%C2%B2", b"/v1/predictions?model=%00", b"/v1/predictions?maps=%FF",
    b"/v1/predictions?slices=" + b"1," * 2000, b"/v1/dicom-results?slices=-",
)  # fmt: skip


def status_of(address: tuple[str, int], request: bytes) -> int:
    """Return the status of the answer, 0 for none."""
    with socket.create_connection(address, timeout=10) as stream:
        stream.sendall(request)
        answer = b""
        while b"\r\n" not in answer:
            try:
                piece = stream.recv(100)
            except ConnectionResetError:
                break
            if not piece:
                break
            answer += piece
    head = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return int(head[1]) if head else 0


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "token"), [(("localhost",), ""), ((), "secret")])
def test_odd_headers_are_no_errors_of_ours(
    listening: Any, hosts: tuple[str, ...], token: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with listening(hosts=hosts, token=token, silent_seconds=0.3) as address:
        for name, value in itertools.product(NAMES, VALUES):
            host = b"" if name == b"Host" else b"Host: localhost\r\n"
            form = b"" if name in (b"Content-Length", b"Content-Type", b"Transfer-Encoding") else HEAD_OF_FORM
            header = host + name + b": " + value + b"\r\n"
            rights = b"" if name == b"Authorization" else b"Authorization: Bearer secret\r\n"
            for start, rest in ((b"POST /v1/predictions", form), (b"GET /static/viewer.js", b"")):
                request = start + b" HTTP/1.1\r\n" + header + rights + rest + b"\r\n" + (b"--x--" if rest else b"")
                status = status_of(address, request)
                assert 100 <= status < 500, (start, header, status)
    assert capfd.readouterr() == ("", "")


def test_odd_addresses_and_methods_are_no_errors_of_ours(listening: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with listening() as address:
        for method, target in itertools.product(
            (b"GET", b"HEAD", b"POST", b"OPTIONS", b"TRACE", b"X-\xff", b"CONNECT"), TARGETS
        ):
            status = status_of(address, method + b" " + target + b" HTTP/1.1\r\nHost: [\r\nContent-Length: 0\r\n\r\n")
            assert status in (400, 403), (method, target, status)
            status = status_of(address, method + b" " + target + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            assert 200 <= status < 500, (method, target, status)
    assert capfd.readouterr() == ("", "")


def test_no_address_is_made_of_the_clients_header(client: TestClient) -> None:
    answer = client.get("/v1/models/", headers={"host": "evil.example"}, follow_redirects=False)
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/v1/models", "/healthz", "/readyz", "/metrics", "/static/viewer.js"]
)
def test_head_is_answered_wherever_get_is(client: TestClient, path: str) -> None:
    expected, head = client.get(path), client.head(path)
    assert head.status_code == expected.status_code == 200
    assert head.content == b""
    changing = {"date"} | ({"content-length"} if path == "/metrics" else set())
    assert {name: value for name, value in head.headers.items() if name not in changing} == {
        name: value for name, value in expected.headers.items() if name not in changing
    }


def test_head_is_not_answered_where_get_is_not(client: TestClient) -> None:
    answer = client.head("/v1/predictions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_head_and_the_next_request_share_a_connection(listening: Any) -> None:
    host = b" /healthz HTTP/1.1\r\nHost: localhost\r\n"
    request = b"HEAD" + host + b"\r\nGET" + host + b"Connection: close\r\n\r\n"
    with listening() as address, socket.create_connection(address, timeout=10) as stream:
        stream.sendall(request)
        answer = b"".join(iter(lambda: stream.recv(4096), b""))
    first, second, content = answer.split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert b"content-length: 2" in first
    assert second.startswith(b"HTTP/1.1 200")
    assert content == b"ok"


@pytest.mark.parametrize("letters", ["utf-8", "latin-1"])
def test_tokens_may_have_letters_outside_ascii(service: Any, letters: str) -> None:
    client = service(token="sécret")
    right = "Bearer sécret".encode(letters)
    assert client.get("/v1/models", headers={b"authorization": right}).status_code == 200
    assert client.get("/v1/models", headers={b"authorization": right + b"\xa9"}).status_code == 401


@pytest.mark.parametrize(
    ("sent", "right"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Bearer  secret ", True),
        ("Bearer secret2", False),
        ("Bearer", False),
        ("", False),
        ("secret", False),
        ("Basic secret", False),
        ("Bearersecret", False),
        ("Bearer s\xe9cret", False),
    ],
)
def test_what_is_the_token(sent: str, right: bool) -> None:
    assert is_token(sent, "secret") == right


def test_clients_that_leave_leave_nothing_behind(listening: Any, capfd: pytest.CaptureFixture[str]) -> None:
    start = b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    bodies = (
        b"Content-Length: 100000\r\n\r\n",
        b"Content-Length: 100000\r\n\r\n" + part,
        b"Content-Length: 100000\r\n\r\n" + part + bytes(90_000),
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n--",
        b"Content-Length: 200\r\n\r\n" + part + bytes(200),
    )
    with listening() as address:
        for reset, body in itertools.product((False, True), bodies * 3):
            with socket.create_connection(address) as stream:
                if reset:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                stream.sendall(start + body)
                time.sleep(0.02)
        time.sleep(0.3)
        assert status_of(address, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
    assert capfd.readouterr() == ("", "")
