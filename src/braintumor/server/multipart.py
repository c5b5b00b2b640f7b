"""How the files of a request are taken out of its form, without writing any to the disk."""

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
TEXTS: Final = 100  # fields of a form that hold no file; what is in them is not kept
TEXT_BYTES: Final = 64 << 10  # in one of them


class InMemoryFormParser(MultiPartParser):
    """Starlette's parser of forms, which writes no file: the guard bounds how much there is. Texts are left out."""

    spool_max_size = 1 << 40

    def __init__(self, headers: Any, stream: Any, most_files: int) -> None:
        super().__init__(headers, stream, max_files=inf, max_fields=inf)
        self._most_files = most_files
        self._text_bytes = 0
        self.is_whole = False

    def on_end(self) -> None:
        """Note that the form has its end."""
        self.is_whole = True

    def close(self) -> None:
        """Forget the files, those that did not come whole too."""
        for file in self._files_to_close_on_error:
            file.close()

    def on_headers_finished(self) -> None:
        """Begin with a part; raises `ProblemError` where there are too many."""
        super().on_headers_finished()
        self._text_bytes = 0
        if self._current_files > self._most_files:
            raise ProblemError(413, f"more than {self._most_files} files in one request; send them in several")
        if self._current_fields > TEXTS:
            raise ProblemError(400, f"more than {TEXTS} fields without a file; only files are read")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Take a piece of a file; raises `ProblemError` for a text that is none that comes along with files."""
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
        ProblemError: it is no form, or holds no file.
    """
    _check_type(request.headers, settings)
    parser = InMemoryFormParser(request.headers, request.stream(), settings.slices)
    with closing(parser):
        try:
            parts = (await parser.parse()).multi_items()
        except (MultiPartException, ValueError, LookupError) as error:
            raise ProblemError(400, "the form is damaged; a part of it cannot be understood") from error
        if not parser.is_whole:
            raise ProblemError(400, "the form is cut off; its last boundary is missing")
        contents = [_whole(part) for name, part in parts if name == FILES_FIELD and not isinstance(part, str)]
    if not contents:
        raise ProblemError(400, f"no file in the field {FILES_FIELD}; {_why_none(parts)}")
    return contents


def _check_type(headers: Mapping[str, str], settings: Settings) -> None:
    """Raise where what is sent is no form with files.

    Raises:
        ProblemError: it says to be something else, or not what is between its parts.
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
    """Return what a form without a file in our field has instead: text there, or files in other fields."""
    if any(name == FILES_FIELD for name, _ in parts):
        return "what is in it has no file name; send it as a file"
    others = sum(not isinstance(part, str) for _, part in parts)
    return f"the form has {others} in fields of other names" if others else "the form has none in any field"


def _whole(part: UploadFile) -> bytes:
    """Return the content of a file that was kept in memory, without a second copy of it."""
    buffer = part.file._file  # type: ignore[attr-defined]  # what SpooledTemporaryFile is documented to have
    assert isinstance(buffer, BytesIO)
    return buffer.getvalue()
