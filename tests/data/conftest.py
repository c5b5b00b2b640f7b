"""What the tests of downloads share: a small server that knows ranges and can cut connections."""

import http.server
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest


@dataclass
class Server:
    """Serves `files`; `cuts` holds after how many bytes each next connection for a file breaks off."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    knows_ranges: bool = True

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, ranged = self.path[1:], self.headers["Range"]
            shared.asked.append((name, ranged))
            if name not in shared.files:
                self.send_error(404)
                return
            start = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged and shared.knows_ranges else 0
            rest = shared.files[name][start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: shared.cuts[name].pop(0)] if shared.cuts[name] else rest)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        shared = Server(f"http://127.0.0.1:{running.server_port}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield shared
        running.shutdown()
        thread.join()


@pytest.fixture
def no_server() -> str:
    """Return an address of this machine at which nothing listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        return f"http://127.0.0.1:{closed.server_port}"
