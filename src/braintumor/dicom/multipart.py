"""How the one file of a multipart answer is found, as archives may write it (RFC 2046 5.1, RFC 2387)."""

import re
from email.message import Message
from typing import Final

_LINE_END: Final = re.compile(rb"[ \t]*(?:\r\n|\n)")
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n)[ \t]*(?:\r\n|\n)")
_LARGEST_HEAD: Final = 64 << 10  # bytes of the header of a part


class MultipartError(ValueError):
    """A message that is cut off, or holds another number of files than one."""


def only_part(content: bytes | bytearray, kind: str = "") -> bytes:
    """Return the content of the only part of a multipart message, or the content itself if it is none.

    There may be anything before the first boundary and after the last, blanks after a boundary, lines that end with a
    line feed alone, and any header in the part.

    Args:
        content: of the message.
        kind: its Content-Type; where that names no boundary, the content's first line may.

    Raises:
        MultipartError: no or several parts, or no end.
    """
    boundary = _boundary(content, kind)
    if boundary is None:
        return bytes(content)
    delimiter = b"--" + boundary
    first = _found(content, delimiter, 0)
    if first < 0:
        raise MultipartError("no boundary")
    start = _after_head(content, first + len(delimiter))
    following = _found(content, delimiter, start - 1)
    if following < 0:
        raise MultipartError("no end")
    if content[following + len(delimiter) :][:2] != b"--":
        raise MultipartError("several parts")
    end = following - (2 if content[following - 2 : following] == b"\r\n" else 1)
    return bytes(memoryview(content)[start : max(start, end)])


def _boundary(content: bytes | bytearray, kind: str) -> bytes | None:
    """Return the boundary of a message, None if it is no multipart one."""
    header = Message()
    header["Content-Type"] = kind.replace("\r", " ").replace("\n", " ")
    named = header.get_boundary() if kind.strip().lower().startswith("multipart/") else None
    if named:
        return named.encode("latin-1", "replace")
    if not content.startswith(b"--"):
        return None
    line = _LINE_END.search(content, 0, _LARGEST_HEAD)
    return bytes(content[2 : line.start()]) if line and line.start() > 2 else None


def _found(content: bytes | bytearray, delimiter: bytes, start: int) -> int:
    """Return where the next line begins with a delimiter that nothing but blanks or the mark of the end follows."""
    place = start - 1
    while (place := content.find(delimiter, place + 1)) >= 0:
        is_line = place == 0 or content[place - 1 : place] == b"\n"
        after = place + len(delimiter)
        if is_line and (content[after : after + 2] == b"--" or _LINE_END.match(content, after)):
            return place
    return -1


def _after_head(content: bytes | bytearray, start: int) -> int:
    """Return where the content of a part begins, whose boundary ends at `start`.

    Raises:
        MultipartError: its header has no end.
    """
    line = _LINE_END.match(content, start)
    if line is None:
        raise MultipartError("no part")
    blank = _BLANK_LINE.search(content, line.end() - (2 if line[0].endswith(b"\r\n") else 1), start + _LARGEST_HEAD)
    if blank is None:
        raise MultipartError("a header without an end")
    return blank.end()
