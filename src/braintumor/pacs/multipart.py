"""Find the one file in a multipart reply, in the variants that archives write (RFC 2046 5.1, RFC 2387)."""

import re
from email.message import Message
from typing import Final

from braintumor.errors import MultipartError

_LINE_END: Final = re.compile(rb"[ \t]*\r?\n")
_AFTER_BOUNDARY: Final = re.compile(rb"--|[ \t]*\r?\n")
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n)[ \t]*(?:\r\n|\n)")
_LARGEST_HEAD: Final = 64 << 10  # bytes of the header of a part
_LONGEST_KIND: Final = 4096  # characters of a Content-Type, since `email` parses it in quadratic time
_LONGEST_BOUNDARY: Final = 256  # bytes; the standard allows 70


def only_part(content: bytes | bytearray, kind: str = "") -> bytes:
    """Return the content of the only part of a multipart message, or the content itself if it is not multipart.

    Accepts any text before the first boundary and after the last, blanks after a boundary, lines that end with a line
    feed alone, and any header in the part.

    Args:
        content: of the message.
        kind: its Content-Type; where that names no boundary, the content's first line may.

    Raises:
        MultipartError: it has no part, several parts or no end.
    """
    boundary = _boundary(content, kind)
    if boundary is None:
        return bytes(content)
    delimiter = b"--" + boundary
    # One pattern instead of `find` and a check: a message of nothing but lines that begin like the boundary and go on
    # otherwise must not take quadratic time.
    line = re.compile(b"\n" + re.escape(delimiter) + rb"(--|[ \t]*\r?\n)")
    if content.startswith(delimiter) and _AFTER_BOUNDARY.match(content, len(delimiter)):
        start = len(delimiter)
    elif first := line.search(content):
        start = first.start(1)
    else:
        raise MultipartError("no boundary")
    start = _after_head(content, start)
    following = line.search(content, start - 1)
    if following is None:
        raise MultipartError("no end")
    if following[1] != b"--":
        raise MultipartError("several parts")
    end = following.start()  # the line end before a boundary belongs to it: \r\n, or \n alone
    if content[end - 1 : end] == b"\r":
        end -= 1
    return bytes(memoryview(content)[start : max(start, end)])


def _boundary(content: bytes | bytearray, kind: str) -> bytes | None:
    """Return the boundary of a message, None if it is not multipart."""
    header = Message()
    header["Content-Type"] = kind[:_LONGEST_KIND].replace("\r", " ").replace("\n", " ")
    declared = header.get_boundary() if kind.strip().lower().startswith("multipart/") else None
    if declared:
        return declared.encode("latin-1", "replace")
    if not content.startswith(b"--"):
        return None
    end = content.find(b"\n", 0, _LONGEST_BOUNDARY)
    return bytes(content[2 : max(end, 0)]).rstrip(b" \t\r") or None


def _after_head(content: bytes | bytearray, start: int) -> int:
    """Return where the content of the part begins whose boundary ends at `start`.

    Raises:
        MultipartError: its header has no end.
    """
    line = _LINE_END.match(content, start)
    if line is None:
        raise MultipartError("no part")
    # from the line end of the boundary on, since a part without a header begins with the blank line at once
    blank = _BLANK_LINE.search(content, line.end() - (2 if line[0].endswith(b"\r\n") else 1), start + _LARGEST_HEAD)
    if blank is None:
        raise MultipartError("a header without an end")
    return blank.end()
