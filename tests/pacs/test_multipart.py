"""Whether the one file of a multipart answer is found however archives may write it."""

import contextlib
import time

import pytest

from braintumor.errors import MultipartError
from braintumor.pacs.multipart import only_part

FILE = b"\0" * 128 + b"DICM\r\n\r\n--y\r\n--\n\0\xff--x\r\n"  # with what looks a little like boundaries
KIND = 'multipart/related; type="application/dicom"; boundary=x'
HEAD = b"Content-Type: application/dicom\r\n\r\n"


def message(before: bytes = b"", after: bytes = b"", head: bytes = HEAD, file: bytes = FILE) -> bytes:
    return before + b"--x\r\n" + head + file + b"\r\n--x--" + after


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (message(), KIND),
        (message(b"\r\n"), KIND),
        (message(b"This is a message in parts.\r\n"), KIND),
        (message(after=b"\r\n"), KIND),
        (message(after=b"\r\nand so on"), KIND),
        (message(head=b"content-type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\n\r\n"), KIND),
        (message(head=b"Content-Type: application/dicom;\r\n transfer-syntax=*\r\nContent-Length: 3\r\n\r\n"), KIND),
        (message(head=b"\r\n"), KIND),
        (message().replace(b"--x\r\nC", b"--x \t\r\nC"), KIND),
        (b"--x\nContent-Type: application/dicom\n\n" + FILE + b"\n--x--\n", KIND),
        (message(), 'Multipart/Related; Boundary="x"; type="application/dicom"'),
        (message(), "multipart/related;boundary=x  "),
        (message(), ""),
        (message(), "application/octet-stream"),
        (FILE, "application/dicom"),
        (FILE, ""),
        (FILE, "multipart/related"),
    ],
)
def test_the_file_comes_out_unchanged(content: bytes, kind: str) -> None:
    expected = FILE
    assert only_part(content, kind) == expected
    assert only_part(bytearray(content), kind) == expected


def test_a_boundary_with_a_blank_or_of_seventy_letters_is_known() -> None:
    for boundary in ("a b", "x" * 70, "=_(')+,-./:=?"):
        content = f"--{boundary}\r\n\r\nabc\r\n--{boundary}--".encode()
        assert only_part(content, f'multipart/related; boundary="{boundary}"') == b"abc"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no boundary"),
        (b"<html>log in</html>", "no boundary"),
        (message()[:-5], "no end"),
        (b"--x\r\nContent-Type: application/dicom\r\n", "without an end"),
        (b"--x\r\n" + HEAD + b"one\r\n--x\r\n" + HEAD + b"two\r\n--x--", "several parts"),
        (b"--x\r\n" + b"A: b\r\n" * 20_000 + b"\r\nfile\r\n--x--", "without an end"),
    ],
)
def test_what_is_not_one_file_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(MultipartError, match=why):
        only_part(content, KIND)


def test_an_empty_part_is_empty() -> None:
    assert only_part(b"--x\r\n\r\n\r\n--x--", KIND) == b""


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"--" + b" " * (4 << 20), ""),
        (b"--x\n" + b"\n--x-" * (4 << 20), KIND),
        (b"--x\n\n" + b"\n--x" * (4 << 20), KIND),
        (b"--x\n\n" + b"\n--x   " * (2 << 20), KIND),
        (b"--x" + b" " * (16 << 20), KIND),
        (b"--x\n" + b"\t" * (16 << 20), KIND),
        (b"-" * (16 << 20), "multipart/related; boundary=----------------"),
        (b"--x\n\n\n--x--", "multipart/related" + '; ";' * 100_000),
    ],
    ids=["blanks", "heads", "boundaries", "blanks after boundaries", "one line", "tabs", "hyphens", "type"],
)
def test_no_message_takes_long_to_be_searched(content: bytes, kind: str) -> None:
    began = time.process_time()
    with contextlib.suppress(MultipartError):
        only_part(content, kind)
    assert time.process_time() - began < 2
