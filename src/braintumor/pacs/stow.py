"""Write the requests of STOW-RS and read the replies to them (PS3.18 10.5)."""

import io
import uuid
from collections.abc import Mapping
from typing import Any, Final

DICOM_PARTS: Final = 'multipart/related; type="application/dicom"'
SUCCESS: Final = 0
ANSWERS: Final = (200, 202, 409)  # all stored, some, none (PS3.18 10.5.3.1)

_REFERENCED: Final = "00081199"  # Referenced SOP Sequence: what is stored
_FAILED: Final = "00081198"  # Failed SOP Sequence
_REASON: Final = "00081197"  # Failure Reason
_SOP_INSTANCE: Final = "00081155"  # Referenced SOP Instance UID
_ALREADY_STORED: Final = (0x0111, 45070)
"""Duplicate SOP instance (PS3.4 B.2.3), and the code of Microsoft's archive for it (its conformance statement)."""
_MEANINGS: Final = (
    (0x0110, 0x0110, "processing failure"),
    (0x0122, 0x0122, "SOP class not supported"),
    (0x0124, 0x0124, "not authorized"),
    (0xA700, 0xA7FF, "out of resources"),
    (0xA900, 0xA9FF, "data set does not match SOP class"),
    (0xC000, 0xCFFF, "cannot understand"),
)
"""First and last code, and what they mean (PS3.4 table B.2-1, PS3.18 table I.2-2)."""


def request_of(contents: Mapping[str, bytes]) -> tuple[io.BytesIO, str]:
    """Return the body of a request to store files, and its Content-Type.

    Args:
        contents: the files, by SOP Instance UID.
    """
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = (part for content in contents.values() for part in (head, content, b"\r\n"))
    return io.BytesIO(b"".join((*parts, f"--{boundary}--\r\n".encode()))), f"{DICOM_PARTS}; boundary={boundary}"


def statuses_of(reply: Any) -> dict[str, int]:
    """Return the status of each file that a reply names, by SOP Instance UID: 0 if the archive has it.

    Args:
        reply: its DICOM JSON.

    Raises:
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: it is not as the standard prescribes.
    """
    failed = {
        item[_SOP_INSTANCE]["Value"][0]: int(item[_REASON]["Value"][0])
        for item in reply.get(_FAILED, {}).get("Value", [])
    }
    # a failure with reason 0 is still a failure, so it must not become `SUCCESS`
    statuses = {uid: SUCCESS if reason in _ALREADY_STORED else reason or 0x0110 for uid, reason in failed.items()}
    return statuses | {item[_SOP_INSTANCE]["Value"][0]: SUCCESS for item in reply.get(_REFERENCED, {}).get("Value", [])}


def failure_text(status: int) -> str:
    """Return the text of a status other than 0."""
    meaning = next((f": {meaning}" for first, last, meaning in _MEANINGS if first <= status <= last), "")
    return f"failure reason 0x{status:04X}{meaning}"
