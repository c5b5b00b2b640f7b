"""Read the members of an untrusted ZIP archive into memory; nothing is unpacked under a name of its choosing."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from braintumor.errors import DataError
from braintumor.files import ZIP_ERRORS

LARGEST_MEMBER: Final = 64 << 20  # bytes, unpacked
MOST_MEMBERS: Final = 50_000


def members(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yield match and content of every member whose whole name matches, in the order of the archive.

    Every content is checked against the CRC-32 in the archive. Use only parts of the match that the pattern restricts
    to plain names as file names.

    Raises:
        DataError: no such archive, a damaged or encrypted one, more than 50,000 members, one of more than 64 MiB, or
            no member that matches.
    """
    count = 0
    try:
        with zipfile.ZipFile(archive) as file:
            if len(file.infolist()) > MOST_MEMBERS:
                raise DataError(f"{archive} has {len(file.infolist())} members, at most {MOST_MEMBERS} are unpacked")
            for member in file.infolist():
                if match := wanted.fullmatch(member.filename):
                    count += 1
                    yield match, _content_of(file, member, archive)
    except ZIP_ERRORS as error:
        raise DataError(f"{archive} cannot be unpacked ({error}); remove it and download it again") from error
    if not count:
        raise DataError(f"{archive} holds none of the expected files; remove it and get the archive of this data set")


def _content_of(file: zipfile.ZipFile, member: zipfile.ZipInfo, archive: Path) -> bytes:
    """Return what a member holds, never more than the limit, whatever size the archive claims.

    Raises:
        DataError: it is larger.
    """
    with file.open(member) as stream:
        # the size in the archive's directory is a claim; one byte beyond the limit shows that it was exceeded
        content = stream.read(LARGEST_MEMBER + 1)
    if len(content) > LARGEST_MEMBER:
        raise DataError(f"{archive}: {member.filename} is larger than {LARGEST_MEMBER >> 20} MiB")
    return content
