"""Take the files out of the form of a request, without writing any to the disk."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from io import BytesIO
from math import inf
from typing import Any, Final

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from braintumor.errors import ProblemError
from braintumor.server.settings import Settings

FILES_FIELD: Final = "files"
TEXTS: Final = 100  # fields without a file; their content is not kept
TEXT_BYTES: Final = 64 << 10  # in one of these fields


class InMemoryFormParser(MultiPartParser):
    """Starlette's form parser, which here writes no file and leaves out fields of text.

    It needs no limit of its own on bytes: `RequestLimits` bounds the body.
    """

    spool_max_size = 1 << 40  # bytes above which Starlette would write a file to the disk: images of patients

    def __init__(self, headers: Any, stream: Any, most_files: int) -> None:
        super().__init__(headers, stream, max_files=inf, max_fields=inf)
        self._most_files = most_files
        self._text_bytes = 0
        self.is_whole = False

    def on_end(self) -> None:
        """Record that the last boundary has come."""
        self.is_whole = True

    def close(self) -> None:
        """Free the files, including incomplete ones."""
        for file in self._files_to_close_on_error:
            file.close()

    def on_headers_finished(self) -> None:
        """Begin a part; raise a `ProblemError` if there are too many."""
        super().on_headers_finished()
        self._text_bytes = 0
        if self._current_files > self._most_files:
            raise ProblemError(413, f"more than {self._most_files} files in one request; send them in several")
        if self._current_fields > TEXTS:
            raise ProblemError(400, f"more than {TEXTS} fields without a file; only files are read")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Take a piece of a file; pass over text, or raise a `ProblemError` if there is too much in one field."""
        if self._current_part.file is not None:
            super().on_part_data(data, start, end)
            return
        self._text_bytes += end - start
        if self._text_bytes > TEXT_BYTES:
            raise ProblemError(
                400, f"a field of more than {TEXT_BYTES >> 10} KiB without a file name; send files with their names"
            )


async def uploaded_contents(request: Request, settings: Settings) -> list[bytes]:
    """Return the contents of the files in a request's form.

    Raises:
        ProblemError: it is not a form, or holds no file.
    """
    _check_type(request.headers, settings)
    parser = InMemoryFormParser(request.headers, request.stream(), settings.slices)
    with closing(parser):
        try:
            parts = (await parser.parse()).multi_items()
        except (MultiPartException, ValueError, LookupError) as error:
            raise ProblemError(400, "the form is damaged; a part of it cannot be understood") from error
        if not parser.is_whole:  # Starlette takes a form that is cut off for a whole one
            raise ProblemError(400, "the form is cut off; its last boundary is missing")
        contents = [_content_of(part) for name, part in parts if name == FILES_FIELD and not isinstance(part, str)]
    if not contents:
        raise ProblemError(400, f"no file in the field {FILES_FIELD}; {_why_none(parts)}")
    return contents


def _check_type(headers: Mapping[str, str], settings: Settings) -> None:
    """Check that a request declares to be a form with files.

    Raises:
        ProblemError: it declares another type, or no boundary between the parts.
    """
    kind, options = parse_options_header(headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise ProblemError(415, f"expected a form of the type multipart/form-data with the field {FILES_FIELD}")
    if not options.get(b"boundary"):
        raise ProblemError(
            400,
            f"expected a form of files in the field {FILES_FIELD}, at most {settings.slices}; its Content-Type names "
            "no boundary: let the library that makes the form set this header",
        )


def _why_none(parts: Sequence[tuple[str, UploadFile | str]]) -> str:
    """Return what a form without a file in our field has instead: text in it, or files in other fields."""
    if any(name == FILES_FIELD for name, _ in parts):
        return "its content has no file name; send it as a file"
    others = sum(not isinstance(part, str) for _, part in parts)
    return f"the form has {others} in fields of other names" if others else "the form has none in any field"


def _content_of(part: UploadFile) -> bytes:
    """Return the content of a file that was kept in memory, without copying it."""
    buffer = part.file._file  # type: ignore[attr-defined]  # what SpooledTemporaryFile is documented to have
    assert isinstance(buffer, BytesIO)
    return buffer.getvalue()
