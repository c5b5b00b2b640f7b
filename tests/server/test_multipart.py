"""Which forms give files, and what is said of others."""

import io
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.dicom import make

PATH = "/v1/predictions"
PART = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'


def part(name: str, content: bytes, file: str | None = "a.png") -> bytes:
    return PART.format(name, "" if file is None else f'; filename="{file}"').encode() + content + b"\r\n"


def sent(client: TestClient, body: bytes, kind: str = "multipart/form-data; boundary=x") -> tuple[int, str]:
    """Return the status, and what is said if it is not 200."""
    answer = client.post(PATH, content=body, headers={"content-type": kind})
    return answer.status_code, answer.json().get("detail", "")


@pytest.fixture(scope="module")
def picture(slices: list[Path]) -> bytes:
    return slices[0].read_bytes()


def test_texts_that_uploaders_send_along_are_ignored(client: TestClient, picture: bytes) -> None:
    texts = [part(f"note{number}", b"hello" * 1000, None) for number in range(100)]
    body = b"".join(texts[:50]) + part("files", picture) + b"".join(texts[50:]) + b"--x--"
    assert sent(client, body) == (200, "")


@pytest.mark.parametrize("kind", ["Multipart/Form-Data; boundary=x", 'multipart/form-data;charset=utf-8;boundary="x"'])
def test_types_are_read_as_http_has_them(client: TestClient, picture: bytes, kind: str) -> None:
    assert sent(client, part("files", picture) + b"--x--\r\n", kind) == (200, "")


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (part("file", b"x") + part("file", b"y") + b"--x--", 400, "the form has 2 in fields of other names"),
        (part("files", b"x", None) + b"--x--", 400, "its content has no file name; send it as a file"),
        (part("note", b"x", None) + b"--x--", 400, "the form has none in any field"),
        (b"--x--", 400, "the form has none in any field"),
        (part("files", b"x"), 400, "the form is cut off; its last boundary is missing"),
        (part("files", b"x") + part("files", b"y")[:-2], 400, "the form is cut off; its last boundary is missing"),
        (b"", 400, "the form is cut off; its last boundary is missing"),
        (b"nonsense", 400, "the form is damaged"),
        (b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--x--', 400, "the form is damaged"),
        (b"".join([part("a", b"", None)] * 101) + b"--x--", 400, "more than 100 fields without a file"),
        (part("a", bytes(70_000), None) + b"--x--", 400, "a field of more than 64 KiB without a file name"),
        (b"".join([part("files", b"x")] * 501) + b"--x--", 413, "more than 500 files in one request"),
    ],
)
def test_what_is_wrong_with_a_form_is_said(client: TestClient, body: bytes, status: int, text: str) -> None:
    answered, detail = sent(client, body)
    assert (answered, text in detail) == (status, True), detail


def test_a_dicom_file_may_begin_like_an_archive(client: TestClient) -> None:
    content = b"PK\3\4" + make.encoded(make.mr())[4:]
    answer = client.post(PATH, files={"files": content}).json()
    assert [slice_["member"] for slice_ in answer["slices"]] == [None]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.dcm", content)
    answer = client.post(PATH, files={"files": buffer.getvalue()}).json()
    assert [slice_["member"] for slice_ in answer["slices"]] == [0]
    assert client.post("/v1/dicom-results", files={"files": content}).status_code == 200
