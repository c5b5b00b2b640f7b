"""What the service answers."""

import base64
import io
import itertools
import logging
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from braintumor.classes import CLASSES, DISCLAIMER
from braintumor.errors import ImageError, Refusal
from braintumor.io.read import read
from braintumor.io.sandbox import Sandbox
from braintumor.models.session import Model
from braintumor.predictor import COLUMNS, predict
from braintumor.server.middleware import RequestLimits
from braintumor.server.service import PredictionService
from tests.dicom import make

PATH = "/v1/predictions"


def send(
    client: TestClient, contents: Sequence[bytes | Path], query: str = "", name: str = "scan.png"
) -> httpx.Response:
    files = [("files", (name, content.read_bytes() if isinstance(content, Path) else content)) for content in contents]
    return client.post(f"{PATH}{query}", files=files)


def zipped(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_slice_gets_the_answer_of_python(client: TestClient, model: Model, slices: list[Path]) -> None:
    answer = send(client, slices[:1])
    assert answer.status_code == 200
    assert answer.json()["disclaimer"] == DISCLAIMER
    assert answer.json()["refused"] == []
    (slice_,) = answer.json()["slices"]
    assert (slice_["file"], slice_["member"], slice_["width"], slice_["height"]) == (0, None, 96, 96)
    assert slice_["agree"] is None
    assert slice_["pixels"] is None
    (prediction,) = slice_["predictions"]
    expected = predict(read(slices[0]), model)[0].record() | {"image": "file 1", "class_maps": None}
    assert prediction == expected
    assert tuple(prediction) == (*(name for name in COLUMNS if name != "reason_codes"), "class_maps")


def test_maps_and_pixels_come_where_they_are_wanted(client: TestClient, model: Model, slices: list[Path]) -> None:
    (slice_,) = send(client, slices[:1], "?maps=true&pixels=true").json()["slices"]
    maps = np.array(slice_["predictions"][0]["class_maps"])
    np.testing.assert_allclose(maps, predict(slices[0], model)[0].class_maps, atol=6e-5)
    image = Image.open(io.BytesIO(base64.b64decode(slice_["pixels"])))
    assert (image.format, image.mode) == ("PNG", "L")
    np.testing.assert_array_equal(np.asarray(image), np.rint(read(slices[0]).pixels * 255).astype(np.uint8))


def test_many_files_are_answered_in_order_each_as_alone(client: TestClient, slices: list[Path]) -> None:
    alone = [send(client, [slice_]).json()["slices"][0]["predictions"][0] for slice_ in slices]
    together = send(client, slices).json()["slices"]
    assert [slice_["file"] for slice_ in together] == list(range(len(slices)))
    for number, (slice_, expected) in enumerate(zip(together, alone, strict=True), 1):
        assert slice_["predictions"][0] == expected | {"image": f"file {number}"}


def test_an_archive_is_answered_by_its_members(client: TestClient, slices: list[Path]) -> None:
    members = {f"patient/{path.name}": path.read_bytes() for path in slices[:2]}
    content = zipped(
        {**members, "__MACOSX/x.png": b"x", "patient/.hidden": b"x", "patient/": b"", "note.txt": b"hello"}
    )
    answer = send(client, [slices[2], content], name="archive.zip").json()
    assert [(slice_["file"], slice_["member"]) for slice_ in answer["slices"]] == [(0, None), (1, 0), (1, 1)]
    assert answer["slices"][1]["predictions"][0]["image"] == "file 2, member 1"
    (refused,) = answer["refused"]
    assert (refused["file"], refused["member"]) == (1, 2)


def test_two_models_answer_side_by_side(both: TestClient, slices: list[Path]) -> None:
    (slice_,) = send(both, slices[:1]).json()["slices"]
    assert [prediction["model"] for prediction in slice_["predictions"]] == ["tiny 1.2", "twin 1.2"]
    assert slice_["agree"] is True
    (slice_,) = send(both, slices[:1], "?model=twin").json()["slices"]
    assert [prediction["model"] for prediction in slice_["predictions"]] == ["twin 1.2"]
    assert slice_["agree"] is None
    answer = send(both, slices[:1], "?model=unknown")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no such model here; there are tiny, twin"


def test_the_models_say_what_the_page_needs(both: TestClient, model: Model) -> None:
    answer = both.get("/v1/models").json()
    assert [class_["name"] for class_ in answer["classes"]] == list(CLASSES)
    assert [model_["name"] for model_ in answer["models"]] == ["tiny", "twin"]
    first = answer["models"][0]
    assert first["class_map_scale"] == model.card.class_map_scale
    assert first["identity"] == "tiny 1.2"
    assert first["ood_threshold"] is None  # its card has no threshold
    assert first["card"]["intended_use"] == model.card.intended_use
    assert answer["limits"]["slices"] == 500


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"%PDF-1.7 no image", 415, "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file"),
        (b"", 422, "empty (0 bytes)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 415, "not a readable"),
        (b"PK\x03\x04 not really", 422, "a damaged ZIP archive"),
        (zipped({}), 422, "a ZIP archive without files"),
        (zipped({"a.zip": zipped({"b.png": b"x"})}), 422, "an archive inside an archive"),
        (zipped({"a.bin": b"x"}, zipfile.ZIP_LZMA), 422, "compressed in an unusual way"),
        (zipped({f"{n}.png": b"" for n in range(501)}), 413, "a ZIP archive of more than 500 files"),
        (zipped({"a.png": b"x"}) + b"more", 422, "a ZIP archive that is cut off"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(
    client: TestClient, content: bytes, status: int, reason: str
) -> None:
    answer = send(client, [content])
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(reason)


def test_archives_that_unpack_to_too_much_are_refused(service: Any) -> None:
    client = service(file_bytes=2 << 20, unpacked_bytes=3 << 20)
    large = send(client, [zipped({"a.bin": bytes(3 << 20)})])
    assert large.status_code == 413
    assert large.json()["detail"].startswith("larger than 2 MiB")
    many = send(client, [zipped({f"{n}.bin": bytes(1 << 20) for n in range(4)})])
    assert many.status_code == 413
    assert many.json()["detail"].startswith("a ZIP archive of more than 3 MiB")


def test_one_bad_file_does_not_spoil_the_others(client: TestClient, slices: list[Path]) -> None:
    answer = send(client, [b"junk", slices[0], slices[0].read_bytes()[:300]])
    assert answer.status_code == 200
    assert [slice_["file"] for slice_ in answer.json()["slices"]] == [1]
    assert [refusal["file"] for refusal in answer.json()["refused"]] == [0, 2]


def test_requests_that_are_no_forms_are_refused(client: TestClient, slices: list[Path]) -> None:
    content = slices[0].read_bytes()
    assert client.post(PATH, content=content).status_code == 415
    assert client.post(PATH, files={"image": content}).status_code == 400
    assert client.post(PATH, data={"files": "text"}).status_code == 415
    broken = client.post(PATH, content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data; boundary=x"})
    assert broken.status_code == 400
    without = client.post(PATH, content=content, headers={"content-type": "multipart/form-data"})
    assert without.status_code == 400
    assert "at most 500" in without.json()["detail"]
    wrong = send(client, slices[:1], "?maps=<script>")
    assert wrong.status_code == 422
    assert wrong.json()["detail"] == "expected true or false for maps"


def test_names_and_contents_of_files_are_never_sent_back(
    client: TestClient, slices: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    name = "DOE^JANE.png"
    texts = [
        send(client, [slices[0]], name=name).text,
        send(client, [b"PatientName=DOE^JANE"], name=name).text,
        send(client, [zipped({name: b"DOE^JANE"})], name=name).text,
        client.get("/metrics").text,
        client.get("/DOE^JANE").text,
    ]
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]  # the client's
    assert not any("JANE" in text for text in [*texts, *logged])


def test_every_answer_has_the_headers_of_a_closed_house(client: TestClient) -> None:
    for path in ("/", "/docs", "/v1/models", "/static/viewer.js", "/nowhere", "/healthz"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_the_description_lists_everything(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {"/v1/models", PATH, "/v1/dicom-results", "/healthz", "/readyz", "/metrics"}
    page = client.get("/docs").text
    for path in description["paths"]:
        assert path in page
    assert "PredictionAnswer.p_glioma" in page
    assert DISCLAIMER in page
    assert "<script" not in page


def test_monitoring_counts_answers_and_decisions(service: Any, slices: list[Path]) -> None:
    client = service()
    send(client, slices[:2])
    send(client, [b"junk"])
    client.get("/invented")
    text = client.get("/metrics").text
    assert 'braintumor_answers_total{path="/v1/predictions",status="200"} 1.0' in text
    assert 'braintumor_answers_total{path="/v1/predictions",status="415"} 1.0' in text
    assert 'braintumor_answers_total{path="other",status="404"} 1.0' in text
    assert 'braintumor_refused_files_total{code="unknown_format"} 1.0' in text
    assert 'braintumor_refused_files_total{code="timeout"} 0.0' in text
    assert 'braintumor_referrals_total{reason="uncertain"} 0.0' in text
    decisions = [line for line in text.splitlines() if line.startswith("braintumor_decisions_total")]
    assert sum(float(line.split()[-1]) for line in decisions) == 2
    assert client.get("/healthz").text == "ok"
    assert client.get("/readyz").text == "ready"


def test_too_much_is_refused(service: Any, slices: list[Path]) -> None:
    size = len(slices[0].read_bytes())
    small = service(file_bytes=size - 1, slices=2, request_bytes=4 * size, held_bytes=32 * size)
    answer = send(small, slices[:1])
    assert answer.status_code == 413
    assert send(service(slices=2), slices[:3]).status_code in (400, 413)
    large = send(small, [bytes(5 * size)])
    assert large.status_code == 413
    assert "in one request" in large.json()["detail"]

    def pieces() -> Iterator[bytes]:  # sent without a length
        yield from (bytes(size) for _ in range(5))

    chunked = small.post(PATH, content=pieces(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert chunked.status_code == 413


def test_a_crowd_is_told_to_come_back(service: Any, slices: list[Path]) -> None:
    full = service(requests=0)
    answer = send(full, slices[:1])
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert full.get("/readyz").status_code == 503
    held = send(service(held_bytes=100), slices[:1])
    assert held.status_code == 503
    assert held.headers["retry-after"] == "1"


def test_bytes_are_given_back_after_each_request(service: Any, slices: list[Path]) -> None:
    size = len(slices[0].read_bytes())
    client = service(held_bytes=4 * (size + 2000), file_bytes=size + 1000)
    for _ in range(8):
        assert send(client, slices[:1]).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(
    service: Any, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = service(answer_seconds=0.2)
    read_file = Sandbox.read

    def slowly(self: Sandbox, *arguments: Any) -> Any:
        time.sleep(0.5)
        return read_file(self, *arguments)

    monkeypatch.setattr(Sandbox, "read", slowly)
    answer = send(client, slices[:1])
    assert answer.status_code == 504
    monkeypatch.undo()
    time.sleep(0.6)
    assert send(client, slices[:1]).status_code == 200


def test_a_token_is_asked_for(service: Any, slices: list[Path]) -> None:
    client = service(token="secret")
    assert client.get("/").status_code == 200
    assert client.get("/healthz").status_code == 200
    for path in ("/v1/models", "/metrics"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
    answer = send(client, slices[:1])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["connection"] == "close"


def test_other_names_and_other_sites_are_kept_out(service: Any, slices: list[Path]) -> None:
    client = service(hosts=("localhost", "127.0.0.1", "[::1]"))
    assert client.get("/healthz").status_code == 403  # asked for as "testserver"
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "", "[::1]:8000:x"):
        assert client.get("/healthz", headers={"host": host}).status_code == 403
    here = {"host": "localhost:8000"}
    files = {"files": slices[0].read_bytes()}
    assert client.post(PATH, files=files, headers=here | {"origin": "http://evil.example"}).status_code == 403
    assert client.post(PATH, files=files, headers=here | {"origin": "null"}).status_code == 403
    assert client.post(PATH, files=files, headers=here | {"origin": "http://localhost:8000"}).status_code == 200


def test_our_mistakes_are_not_told_to_clients(
    service: Any, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = service()

    def broken(*_: object) -> None:
        raise RuntimeError("DOE^JANE")

    for part in ("braintumor.predictor.Predictor.predict", "braintumor.server.workers.defects"):
        for _ in range(3):  # more often than there are threads
            monkeypatch.setattr(part, broken)
            with pytest.raises(RuntimeError):
                send(client, slices[:1])
        monkeypatch.undo()
        assert send(client, slices[:1]).status_code == 200


def test_nothing_is_written_to_the_disk(
    client: TestClient, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", refuse)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    picture = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2000), dtype=np.uint8)
    Image.fromarray(noise).save(picture, "BMP")  # 4 MB: larger than what starlette keeps in memory
    assert send(client, [picture.getvalue()]).status_code == 200


def test_places_are_freed_whatever_happens(client: TestClient, slices: list[Path]) -> None:
    prediction_service: PredictionService = client.app.state.service  # type: ignore[attr-defined]
    for contents in ([b"junk"], slices[:1], [zipped({})]):
        send(client, contents)
    assert prediction_service._present == 0


def failing(code: Refusal, after: int = 0) -> Any:
    """Return what the sandbox does where it gives some files their slices and refuses the others."""
    read_file, calls = Sandbox.read, itertools.count()

    def read(self: Sandbox, content: bytes, name: str, *more: Any) -> Any:
        if next(calls) >= after:
            raise ImageError(name, "a reason", code)
        return read_file(self, content, name, *more)

    return read


def test_a_decoder_that_was_killed_is_nobodys_fault(
    client: TestClient, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("braintumor.server.workers.may_hold_several", lambda _: False)
    archive = zipped({path.name: path.read_bytes() for path in slices[:3]})
    for path, contents in (
        (PATH, [slices[0].read_bytes()]),
        (PATH, [path.read_bytes() for path in slices[:3]]),
        (PATH, [archive]),
        ("/v1/dicom-results", [make.encoded(make.mr(number=number)) for number in (1, 2)]),
    ):
        monkeypatch.setattr(Sandbox, "read", failing(Refusal.BUSY, after=len(contents) - 1))
        answer = client.post(path, files=[("files", ("a", content)) for content in contents])
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["detail"] == "a reason"
        assert [refusal["text"] for refusal in answer.json()["refused"]] == ["a reason"]


@pytest.mark.parametrize(
    ("code", "status"),
    [(Refusal.UNKNOWN_FORMAT, 415), (Refusal.TIMEOUT, 422), (Refusal.UNDECODABLE, 422), (Refusal.NOT_MR, 422)],
)
def test_the_status_follows_the_code_of_the_refusal(
    client: TestClient, slices: list[Path], code: Refusal, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sandbox, "read", failing(code))
    answer = send(client, slices[:6])
    assert answer.status_code == status
    reasons = {refusal["text"] for refusal in answer.json()["refused"]}
    assert ("not looked at: a file before it took too long to decode; send it without that one" in reasons) == (
        code == Refusal.TIMEOUT
    )


def test_an_answer_counts_as_held_until_it_is_sent(service: Any, slices: list[Path]) -> None:
    client = service()
    for contents in (slices[:1], slices[:3], [b"junk"]):
        send(client, contents, "?maps=true&pixels=true")
    stack = client.app.middleware_stack
    while not isinstance(stack, RequestLimits):
        stack = stack.app
    assert stack._budget.held == 0
