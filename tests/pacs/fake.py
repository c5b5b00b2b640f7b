"""A small archive that answers like Orthanc or like another DICOMweb service, and fails as it is told to."""

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from tests.dicom import make
from tests.dicom.make import encoded

JSON_TAGS = {
    "StudyInstanceUID": "0020000D",
    "SeriesInstanceUID": "0020000E",
    "SOPInstanceUID": "00080018",
    "Modality": "00080060",
    "Manufacturer": "00080070",
}


class Archive:
    """What the archive holds, and how it behaves.

    Attributes:
        held: file and main attributes of each instance, by Orthanc's name.
        changes: number and Orthanc's name of each new instance.
        asked: method and path of every request.
        trouble: called before every request; a status that it returns is the answer.
        refuse: tells whether a result is refused, by SOP Instance UID.
        canned_replies: given instead of the real ones, by how the path begins.
        headers: of every answer, besides the usual.
        failure: Failure Reason of what is refused; none is given if it is 0.
        packed: what becomes of the content of every answer.
        lists: whether there is a list of changes.
        pages: whether searches heed `offset`.
        page: most rows that searches give at once.
        shift: called with path and offset of every search; the offset that it returns is heeded.
        before: rows that searches give before all others, by how the path ends.
        trouble_with_body: as `trouble`, called with what was sent.
    """

    def __init__(self) -> None:
        self.held: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.changes: list[tuple[int, str]] = []
        self.asked: list[tuple[str, str]] = []
        self.trouble: Callable[[str, str], int | None] = lambda method, path: None
        self.refuse: Callable[[str], bool] = lambda uid: False
        self.failure = 0
        self.canned_replies: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.packed: Callable[[bytes], bytes] = lambda content: content
        self.lists, self.pages, self.page = True, True, 10_000
        self.shift: Callable[[str, int], int] = lambda path, start: start
        self.before: dict[str, list[object]] = {}
        self.trouble_with_body: Callable[[bytes], int | None] = lambda body: None
        self.url = ""

    def add(self, dataset: Dataset, content: bytes | None = None) -> str:
        """Take an instance as from a scanner, and return Orthanc's name of it."""
        entry = f"entry-{dataset.SOPInstanceUID[-12:]}"
        if entry not in self.held:
            self.changes.append((self.changes[-1][0] + 1 if self.changes else 1, entry))
            attributes = {name: str(dataset.get(name, "")) for name in JSON_TAGS}
            self.held[entry] = (content or encoded(dataset), attributes)
        return entry

    def results(self) -> list[Dataset]:
        """Return our results."""
        ours = [content for content, attributes in self.held.values() if attributes["Manufacturer"] == "braintumor"]
        return [pydicom.dcmread(io.BytesIO(content)) for content in ours]

    def pulls(self) -> int:
        """Return how many times an image was fetched."""
        return sum(method == "GET" and "/instances/" in path for method, path in self.asked)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and content of the answer to a request."""
        self.asked.append((method, path))
        status = self.trouble(method, path) or self.trouble_with_body(body)
        if status:
            return status, b""
        for start, content in self.canned_replies.items():
            if path.startswith(start):
                return 200, content
        path, _, query = path.partition("?")
        wanted = dict(part.partition("=")[::2] for part in query.split("&"))
        if self.lists:
            if path == "/changes":
                return 200, json.dumps(self._changes(wanted)).encode()
            if path == "/tools/bulk-content":
                return 200, json.dumps(self._contents(**json.loads(body))).encode()
        dicom_web = re.fullmatch(r"/dicom-web(/studies(?:/.+)?)", path)
        if not dicom_web:
            return 404, b""
        if method == "POST":
            return self._store(body)
        return self._web(dicom_web[1], wanted)

    def _changes(self, wanted: dict[str, str]) -> dict[str, Any]:
        since, limit = int(wanted.get("since", 0)), int(wanted.get("limit", 100))
        after = [(seq, entry) for seq, entry in self.changes if seq > since]
        page = self.changes[-1:] if "last" in wanted else after[:limit]
        listed = [{"Seq": seq, "ID": entry, "ChangeType": "NewInstance"} for seq, entry in page]
        last = (page or self.changes or [(0, "")])[-1][0]
        return {"Changes": listed, "Done": len(after) <= limit, "Last": last}

    def _contents(self, Resources: list[str], Level: str) -> list[dict[str, Any]]:  # noqa: N803
        key = {"Instance": "SOPInstanceUID", "Series": "SeriesInstanceUID", "Study": "StudyInstanceUID"}[Level]
        resources = {}
        for entry, (_, attributes) in self.held.items():
            name = entry if Level == "Instance" else attributes[key]
            if name in Resources:
                parents = {
                    "ParentSeries": attributes["SeriesInstanceUID"],
                    "ParentStudy": attributes["StudyInstanceUID"],
                }
                resources[name] = {"ID": name, "MainDicomTags": attributes, **parents}
        return list(resources.values())

    def _store(self, body: bytes) -> tuple[int, bytes]:
        boundary = body[: body.index(b"\r\n")]
        stored, failed = [], []
        for part in body.split(boundary)[1:-1]:
            content = part[part.index(b"\r\n\r\n") + 4 : -2]
            dataset = pydicom.dcmread(io.BytesIO(content))
            if not self.refuse(dataset.SOPInstanceUID):
                self.add(dataset, content)
                stored.append({"00081155": {"vr": "UI", "Value": [dataset.SOPInstanceUID]}})
            elif self.failure:
                sop = {"00081155": {"vr": "UI", "Value": [dataset.SOPInstanceUID]}}
                failed.append(sop | {"00081197": {"vr": "US", "Value": [self.failure]}})
        answer = {"00081198": {"vr": "SQ", "Value": failed}, "00081199": {"vr": "SQ", "Value": stored}}
        return 200, json.dumps(answer).encode()

    def _web(self, path: str, wanted: dict[str, str]) -> tuple[int, bytes]:
        names = dict(zip(*[iter(path.strip("/").split("/"))] * 2, strict=False))
        keys = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
        instances = [
            (content, attributes)
            for content, attributes in self.held.values()
            if all(attributes[keys[level]] == uid for level, uid in names.items())
            and wanted.get("SOPInstanceUID", attributes["SOPInstanceUID"]) == attributes["SOPInstanceUID"]
        ]
        if "instances" in names:
            multipart = b"--x\r\nContent-Type: application/dicom\r\n\r\n%s\r\n--x--\r\n"
            return (200, multipart % instances[0][0]) if instances else (404, b"")
        rows = [
            {JSON_TAGS[name]: {"Value": [value]} for name, value in attributes.items() if value}
            for _, attributes in instances
        ]
        if path == "/studies":
            counts: dict[str, int] = {}
            for _, attributes in instances:
                uid = attributes["StudyInstanceUID"]
                counts[uid] = counts.get(uid, 0) + 1
            rows = [{"0020000D": {"Value": [uid]}, "00201208": {"Value": [n]}} for uid, n in counts.items()]
        listed = [row for end, more in self.before.items() if path.endswith(end) for row in more] + rows
        start = self.shift(path, int(wanted.get("offset", 0)) if self.pages else 0)
        limit = min(self.page, int(wanted.get("limit", 10_000)))
        return 200, json.dumps(listed[start : start + limit]).encode()


def images(total: int, study: object = 0) -> list[Dataset]:
    """Return different MR images of one series."""
    return [make.mr(seed=number, number=number + 1, study=study) for number in range(total)]


@contextmanager
def serving(archive: Archive) -> Iterator[Archive]:
    """Serve an archive on this machine; its address is then in `url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = archive.answer(self.command, self.path, body)
            if status == DROP:
                self.close_connection = True
                return
            content = archive.packed(content)
            self.send_response(status)
            if status in (301, 307):
                self.send_header("Location", "http://localhost:1/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            for name, value in archive.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    archive.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield archive
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


DROP = 1
"""As a status: the connection is closed without an answer."""
