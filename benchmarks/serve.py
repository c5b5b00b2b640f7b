"""The service and its viewer under use, load and attack: `braintumor serve` with the model of the package.

The service is a process of its own; clients run on the same two cores. Every answer 200 under load must equal the
answer that the same slice got when it was alone (SHA-256 of the body). Memory is the sum of the peaks of the service's
processes. With names of parts as arguments (page, load, bombs, fuzz, slow, stalled) only these are measured, and the
numbers recorded before stay for the others.

Needs: Chromium on the PATH for `page`.
Takes: 8 minutes.
Command: python benchmarks/serve.py
"""

import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from hostile import bombs, encoded, malformed
from PIL import Image
from record import RESULTS, ROOT, data_folder, number, record, spread

CLIENTS, LOAD_SECONDS = 32, 60
FUZZ_INPUTS = 10_000
SLOW_CLIENTS, SLOW_SECONDS = 500, 20
IDLE_CLIENTS = 90
PICTURES, SLOW_BYTES = 12, 1.25e6
DROPS = 15
STARTS = 5
UPLOAD_BYTES = 1 << 30
BOUNDARY = "braintumor"
JSON = "application/json"


class Service:
    """A running service."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "braintumor", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        said = "".join(self.process.stdout.readline() for _ in range(2))
        found = re.search(r"http://([\d.]+):(\d+)/", said)
        assert found, said
        self.url, self.host, self.port = found.group(), found.group(1), int(found.group(2))

    def processes(self) -> list[int]:
        """Return the service's process and its children."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [self.process.pid, *(int(each) for task in threads for each in (task / "children").read_text().split())]

    def memory(self, entry: str) -> float:
        """Return VmRSS or VmHWM of all processes together, MiB."""
        total = 0
        for process in self.processes():
            with suppress(FileNotFoundError):
                status = Path(f"/proc/{process}/status").read_text()
                total += int(re.search(rf"{entry}:\s+(\d+)", status).group(1))
        return total / 1024


@contextmanager
def service() -> Iterator[Service]:
    """Start the service; end it by SIGTERM, which must work."""
    running = Service()
    try:
        yield running
        assert running.process.poll() is None, "the service has died"
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)
    finally:
        running.process.kill()
        running.process.wait()


def form(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request with one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="scan.png"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


class Client:
    """A client that keeps its connection."""

    def __init__(self, running: Service) -> None:
        self._service = running
        self._connection = http.client.HTTPConnection(running.host, running.port, timeout=120)

    def ask(self, content: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to a file; a connection that the service has closed is made anew."""
        body, headers = form(content)
        for last in (False, True):
            try:
                self._connection.request("POST", "/v1/predictions?maps=true", body, headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._connection.close()
                if last:
                    raise
        raise AssertionError

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def slices() -> list[bytes]:
    """Return 16 different slices of 512 x 512 pixels, as PNG files."""
    files = sorted((data_folder() / "brain-tumor-mri" / "Testing").rglob("*.jpg"))[::80][:16]
    return [encoded(Image.open(file).convert("L").resize((512, 512)), "PNG") for file in files]


def page() -> dict[str, Any]:
    """Measure how soon the page can be used, how large it is, and how soon a dropped slice shows its map."""
    from playwright.sync_api import sync_playwright

    content = slices()[0]
    ready, drops, sizes = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(STARTS):
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            received: list[Any] = []
            tab.on("requestfinished", lambda request, received=received: received.append(request))
            began = time.perf_counter()
            with service() as running:
                tab.goto(running.url)
                tab.wait_for_selector(USABLE)
                ready.append(time.perf_counter() - began)
                transferred = [request.sizes() for request in received]
                sizes.append(sum(each["responseBodySize"] + each["responseHeadersSize"] for each in transferred) / 1024)
                tab.close()
        with service() as running:
            for _ in range(DROPS + 1):
                tab = browser.new_page(viewport={"width": 1280, "height": 800})
                tab.goto(running.url)
                tab.wait_for_selector(USABLE)
                drops.append(tab.evaluate(DROP, list(content)))
                tab.close()
        browser.close()
    return {
        "ready_seconds": spread(ready, "seconds"),
        "page_kib": spread(sizes, "KiB"),
        "drop_to_map_milliseconds": spread(drops[1:], "milliseconds"),
    }


USABLE = "html[data-ready=true]"
DROP = """async (bytes) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], 'scan.png', {type: 'image/png'}));
  const shown = new Promise((done) => document.addEventListener('braintumor:painted', done, {once: true}));
  const began = performance.now();
  document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
  await shown;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - began;
}"""


def load() -> dict[str, Any]:
    """Ask with many clients at the same time, and compare every answer with the one given alone."""
    contents = slices()
    seconds: list[float] = []
    errors, busy = [], []
    with service() as running:
        alone = Client(running)
        expected = [hashlib.sha256(alone.ask(each)[1]).digest() for each in contents]
        assert len(set(expected)) == len(contents)
        end = time.monotonic() + LOAD_SECONDS

        def client(seed: int) -> None:
            mine, chance = Client(running), random.Random(seed)
            while time.monotonic() < end:
                choice = chance.randrange(len(contents))
                began = time.monotonic()
                try:
                    status, body = mine.ask(contents[choice])
                except OSError as error:
                    errors.append(repr(error))
                    continue
                if status == 503:
                    busy.append(choice)
                    time.sleep(1)
                elif status == 200 and hashlib.sha256(body).digest() == expected[choice]:
                    seconds.append(time.monotonic() - began)
                else:
                    errors.append(str(status))
            mine.close()

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))
        peak = running.memory("VmHWM")
    return {
        "load.errors": number(len(errors), "answers", n=len(seconds) + len(errors) + len(busy)),
        "load.busy": number(len(busy), "answers"),
        "load.ok_per_second": number(len(seconds) / LOAD_SECONDS, "answers/s", n=len(seconds)),
        "load.p50_seconds": number(float(np.quantile(seconds, 0.5)), "seconds", n=len(seconds)),
        "load.p99_seconds": number(float(np.quantile(seconds, 0.99)), "seconds", n=len(seconds)),
        "load.peak_mib": number(peak, "MiB"),
    }


def attack() -> dict[str, Any]:
    """Send bombs; all must be refused, and a good slice must be answered after each."""
    good, seconds = slices()[0], {}
    with service() as running:
        client = Client(running)
        before = running.memory("VmHWM")
        assert client.ask(good)[0] == 200
        attacks: dict[str, Callable[[], int]] = {
            name: (lambda content=content: client.ask(content)[0]) for name, content in bombs().items()
        }
        attacks["upload of 1 GiB"] = lambda: upload(running, f"content-length: {UPLOAD_BYTES}", b"")
        attacks["upload of 1 GiB in pieces"] = lambda: upload(running, "transfer-encoding: chunked", b"100000\r\n")
        for name, send in attacks.items():
            began = time.perf_counter()
            status = send()
            seconds[name] = time.perf_counter() - began
            print(f"{name}: {status} after {seconds[name]:.2f} s, {running.memory('VmHWM'):.0f} MiB", flush=True)
            assert 400 <= status < 500, f"{name}: {status}"
            assert client.ask(good)[0] == 200
        peak = running.memory("VmHWM")
    slowest = max(seconds, key=lambda name: seconds[name])
    print(f"slowest: {slowest}")
    return {
        "bombs.seconds": number(seconds[slowest], "seconds", n=len(seconds)),
        "bombs.median_seconds": number(statistics.median(seconds.values()), "seconds", n=len(seconds)),
        "bombs.peak_mib": number(peak, "MiB"),
        "bombs.before_mib": number(before, "MiB"),
    }


def upload(running: Service, header: str, prefix: bytes) -> int:
    """Send 1 GiB as fast as it is taken; return the status of the answer."""
    piece = prefix + bytes(1 << 20) + (b"\r\n" if prefix else b"")
    head = f"POST /v1/predictions HTTP/1.1\r\nhost: {running.host}\r\n{header}\r\n"
    head += f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    start = form(b"")[0].split(b"\r\n\r\n")[0] + b"\r\n\r\n"
    head += f"{len(start):x}\r\n{start.decode()}\r\n" if prefix else start.decode()
    with socket.create_connection((running.host, running.port), timeout=60) as stream:
        stream.sendall(head.encode())
        stream.setblocking(False)
        rest, sent, answer = b"", 0, b""
        while not answer and sent < UPLOAD_BYTES:
            with suppress(BlockingIOError, ConnectionError):
                rest = rest or piece
                count = stream.send(rest)
                rest, sent = rest[count:], sent + count
            with suppress(BlockingIOError):
                answer = stream.recv(12)
        stream.setblocking(True)
    return int(answer.split()[1])


def fuzz() -> dict[str, Any]:
    """Send malformed files; nothing but answers below 500, 503 and 504 may come back, and memory must stay."""
    contents, statuses, failures = malformed(FUZZ_INPUTS), [0] * 600, []
    with service() as running:
        local = threading.local()

        def send(content: bytes) -> None:
            if not hasattr(local, "client"):
                local.client = Client(running)
            try:
                status, _ = local.client.ask(content)
            except OSError as error:
                failures.append(repr(error))
                return
            statuses[status] += 1
            if status >= 500 and status not in (503, 504):
                failures.append(str(status))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, contents[: FUZZ_INPUTS // 5]))
            early = running.memory("VmRSS")
            list(pool.map(send, contents[FUZZ_INPUTS // 5 :]))
            late = running.memory("VmRSS")
        assert Client(running).ask(slices()[0])[0] == 200
    answers = {f"fuzz.status_{status}": number(count, "answers") for status, count in enumerate(statuses) if count}
    return {
        "fuzz.inputs": number(len(contents), "files"),
        "fuzz.failures": number(len(failures), "answers", n=len(contents)),
        "fuzz.growth_mib": number(late - early, "MiB"),
        **answers,
    }


def slow() -> dict[str, Any]:
    """Serve a client while many sockets idle or drip."""
    content, seconds, errors = slices()[0], [], []
    body, headers = form(content)
    starts = [b"", b"POST /v1/pre", b"POST /v1/predictions HTTP/1.1\r\nhost: localhost\r\n"]
    starts.append(
        starts[-1] + f"content-length: {len(body)}\r\ncontent-type: {headers['content-type']}\r\n\r\n".encode()
    )
    with service() as running:
        client = Client(running)
        expected = client.ask(content)
        crowd = [socket.create_connection((running.host, running.port)) for _ in range(SLOW_CLIENTS)]
        kept = list(range(SLOW_CLIENTS))
        for place, stream in enumerate(crowd):
            stream.sendall(starts[place % len(starts)])
        end, drip = time.monotonic() + SLOW_SECONDS, time.monotonic() + 1
        while time.monotonic() < end:
            began = time.monotonic()
            found = client.ask(content)
            seconds.append(time.monotonic() - began)
            errors += [] if found == expected else [found[0]]
            if began > drip:  # a byte from everyone, every second; who was closed comes back
                drip = began + 1
                for place in kept:
                    try:
                        crowd[place].send(b"x" if place % len(starts) else b"")
                        if place % len(starts) == 0 and closed(crowd[place]):
                            raise ConnectionError
                    except OSError:
                        crowd[place].close()
                        crowd[place] = socket.create_connection((running.host, running.port))
                        crowd[place].sendall(starts[place % len(starts)])
        for stream in crowd:
            stream.close()
    return {
        "slow.clients": number(SLOW_CLIENTS, "sockets"),
        "slow.errors": number(len(errors), "answers", n=len(seconds)),
        "slow.ok_per_second": number((len(seconds) - len(errors)) / SLOW_SECONDS, "answers/s", n=len(seconds)),
        "slow.p99_seconds": number(float(np.quantile(seconds, 0.99)), "seconds", n=len(seconds)),
    }


def closed(stream: socket.socket) -> bool:
    """Tell whether the other side has closed a connection on which nothing was asked."""
    try:
        return stream.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


def stalled() -> dict[str, Any]:
    """Ask for health, and for slices, while one client reads slowly, three stop in the middle of uploads, many idle."""
    content = slices()[0]
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000), dtype=np.uint8)
    health, statuses, taken = [], [], []
    with service() as running:
        client = Client(running)
        expected = client.ask(content)
        reader = threading.Thread(
            target=lambda: taken.append(read_slowly(running, encoded(Image.fromarray(noise), "PNG")))
        )
        reader.start()
        crowd = [socket.create_connection((running.host, running.port)) for _ in range(IDLE_CLIENTS)]
        for stream, mebibytes in zip(crowd, (60, 60, 8), strict=False):
            stream.sendall(upload_head(running, 64 << 20) + bytes(mebibytes << 20)[:-10_000])
        while reader.is_alive():
            began = time.monotonic()
            with socket.create_connection((running.host, running.port), timeout=60) as stream:
                stream.sendall(f"HEAD /healthz HTTP/1.1\r\nhost: {running.host}\r\n\r\n".encode())
                assert stream.recv(12) == b"HTTP/1.1 200"
            health.append(time.monotonic() - began)
            statuses.append(client.ask(content) == expected)
            time.sleep(0.2)
        peak = running.memory("VmHWM")
        for stream in crowd:
            stream.close()
    ((came, announced),) = taken
    return {
        "slow_reader.whole": number(came / announced, "share", n=announced),
        "stalled.errors": number(statuses.count(False), "answers", n=len(statuses)),
        "stalled.peak_mib": number(peak, "MiB"),
        "health.slowest_seconds": number(max(health), "seconds", n=len(health)),
    }


def read_slowly(running: Service, picture: bytes) -> tuple[int, int]:
    """Ask for many pictures back; return how many bytes of the answer came at 1.25 MB a second, and how many it has."""
    part = form(picture)[0].removesuffix(f"--{BOUNDARY}--\r\n".encode())
    body = part * PICTURES + f"--{BOUNDARY}--\r\n".encode()
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        stream.settimeout(60)
        stream.connect((running.host, running.port))
        stream.sendall(upload_head(running, len(body), "?pixels=true") + body)
        answer = http.client.HTTPResponse(stream)
        answer.begin()
        announced, came, began = int(answer.headers["content-length"]), 0, time.monotonic()
        with suppress(OSError, http.client.HTTPException):
            while piece := answer.read(32 << 10):
                came += len(piece)
                time.sleep(max(came / SLOW_BYTES - (time.monotonic() - began), 0))
    return came, announced


def upload_head(running: Service, length: int, query: str = "") -> bytes:
    """Return the head of a request with a form of so many bytes."""
    return (
        f"POST /v1/predictions{query} HTTP/1.1\r\nhost: {running.host}\r\ncontent-length: {length}\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()


PARTS = {"page": page, "load": load, "bombs": attack, "fuzz": fuzz, "slow": slow, "stalled": stalled}


def main() -> None:
    """Produce `serve.json`."""
    asked = sys.argv[1:] or list(PARTS)
    file = RESULTS / "serve.json"
    numbers = json.loads(file.read_text())["numbers"] if file.exists() else {}
    for part in asked:
        numbers |= PARTS[part]()
    record("serve", "python benchmarks/serve.py", numbers)


if __name__ == "__main__":
    os.environ.pop("BRAINTUMOR_TOKEN", None)
    main()
