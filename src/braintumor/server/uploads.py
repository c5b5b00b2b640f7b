"""Which slices a request holds: its files, and the members of ZIP archives, unpacked in memory one at a time."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from braintumor.errors import Refusal, UploadError
from braintumor.files import ZIP_ERRORS
from braintumor.io.read import START_BYTES, UNKNOWN_FORMAT, volume_kind
from braintumor.server.settings import Settings

ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
IMAGE_STARTS: Final = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")
"""Of PNG, JPEG, TIFF in both byte orders, 32-bit and 64-bit, and BMP. Besides, DICOM and NIfTI are decoded."""
END: Final = struct.Struct("<4s4H2LH")
"""The last record of an archive: signature, disk numbers, members here and in all, bytes and place of the directory,
length of a comment. Source: APPNOTE.TXT of PKWARE, 4.3.16."""
END_SIGNATURE: Final = b"PK\x05\x06"
ZIP64_LOCATOR: Final = b"PK\x06\x07"
LOCATOR_BYTES: Final = 20
DIRECTORY_BYTES_PER_MEMBER: Final = 1024
PACKINGS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


NO_IMAGE: Final = UploadError(415, Refusal.UNKNOWN_FORMAT, UNKNOWN_FORMAT)


@dataclass(frozen=True)
class UploadedFile:
    """One file to decode.

    Attributes:
        file: its number among the files of the request.
        member: its number among the members of the archive; None outside one.
        content: returns its bytes, or why they are not to be had; only until the next part is asked for.
    """

    file: int
    member: int | None
    content: Callable[[], bytes | UploadError]

    @property
    def name(self) -> str:
        """Return what to call it: never the client's name, which may say who the patient is."""
        inside = "" if self.member is None else f", member {self.member + 1}"
        return f"file {self.file + 1}{inside}"


def uploaded_files(files: list[bytes], settings: Settings) -> Iterator[UploadedFile]:
    """Yield what is to be decoded, files in order, archives by their members.

    Raises:
        UploadError: an archive cannot be opened or holds too much, or there are too many slices.
    """
    count = 0
    for number, content in enumerate(files):
        inside = _unpacked(number, content, settings) if is_archive(content) else None
        for part in inside or (UploadedFile(number, None, partial(_usable, content, settings)),):
            count += 1
            if count > settings.slices:
                raise UploadError(
                    413, Refusal.TOO_LARGE, f"more than {settings.slices} slices in one request; send them in several"
                )
            yield part


def is_archive(start: bytes) -> bool:
    """Tell from the first bytes of a file whether it is a ZIP archive. DICOM may begin with anything, PS3.10 7.1."""
    return start.startswith(ZIP_STARTS) and volume_kind(start) != "dicom"


def _usable(content: bytes, settings: Settings) -> bytes | UploadError:
    """Return a file's content, or that it is too large or cannot be an image."""
    if len(content) > settings.file_bytes:
        return _too_large(settings)
    return content if not content or _may_be_image(content) else NO_IMAGE


def _may_be_image(start: bytes) -> bool:
    """Tell from the first bytes of a file whether it is worth decoding."""
    return start.startswith(IMAGE_STARTS) or volume_kind(start) is not None


def _too_large(settings: Settings) -> UploadError:
    return UploadError(413, Refusal.TOO_LARGE, f"larger than {settings.file_bytes >> 20} MiB; export the slice alone")


def _unpacked(number: int, content: bytes, settings: Settings) -> Iterator[UploadedFile]:
    """Yield the members of an archive that are files; what the system of some computers adds to it is left out.

    Raises:
        UploadError: damaged, encrypted, too many or too large members, or of an unusual kind.
    """
    _check_directory(content, settings)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            wanted = [member for member in archive.infolist() if _is_wanted(member)]
            _check_members(wanted, settings)
            for index, member in enumerate(wanted):
                yield UploadedFile(number, index, partial(_member_content, archive, member, settings))
    except ZIP_ERRORS as error:
        raise UploadError(422, Refusal.UNDECODABLE, "a damaged ZIP archive; make it again") from error


def _check_directory(content: bytes, settings: Settings) -> None:
    """Raise where an archive's directory is too large to be read, before anything reads it.

    The last record must be the end of the file, so that there is one way to understand the archive.

    Raises:
        UploadError: it is too large, or not where it should be.
    """
    if len(content) < END.size:
        raise UploadError(422, Refusal.UNDECODABLE, "a damaged ZIP archive; make it again")
    signature, *_, members, directory_bytes, _, comment = END.unpack(content[-END.size :])
    if signature != END_SIGNATURE or comment:
        raise UploadError(
            422,
            Refusal.TRUNCATED,
            "a ZIP archive that is cut off, or has a comment or other bytes at its end; make it again",
        )
    if content[-END.size - LOCATOR_BYTES :].startswith(ZIP64_LOCATOR):
        raise UploadError(
            422, Refusal.UNSUPPORTED, "a ZIP archive of the 64-bit kind; make one of fewer or smaller files"
        )
    most = 4 * settings.slices  # folders and hidden files are members, too
    if members > most or directory_bytes > most * DIRECTORY_BYTES_PER_MEMBER:
        raise UploadError(
            413, Refusal.TOO_LARGE, f"a ZIP archive of more than {settings.slices} files; send it in several parts"
        )


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    """Tell whether a member is a file that a person has put into the archive."""
    names = member.filename.split("/")
    return not member.is_dir() and "__MACOSX" not in names and not names[-1].startswith(".")


def _check_members(members: list[zipfile.ZipInfo], settings: Settings) -> None:
    """Raise where an archive holds too many files, or they would be too large together.

    Raises:
        UploadError: it does.
    """
    if not members:
        raise UploadError(422, Refusal.NO_SLICE, "a ZIP archive without files")
    if len(members) > settings.slices:
        raise UploadError(
            413, Refusal.TOO_LARGE, f"a ZIP archive of more than {settings.slices} files; send it in several parts"
        )
    if sum(member.file_size for member in members) > settings.unpacked_bytes:
        raise UploadError(
            413, Refusal.TOO_LARGE, f"a ZIP archive of more than {settings.unpacked_bytes >> 20} MiB; send it in parts"
        )


def _member_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, settings: Settings) -> bytes | UploadError:
    """Return what a member holds, never more than the limit, or why it is not to be had."""
    if member.compress_type not in PACKINGS:
        return UploadError(422, Refusal.UNSUPPORTED, "packed in an unusual way; make the archive again")
    if member.flag_bits & 1:
        return UploadError(422, Refusal.UNSUPPORTED, "encrypted; make the archive without a password")
    if member.file_size > settings.file_bytes:
        return _too_large(settings)
    try:
        with archive.open(member) as stream:
            start = stream.read(START_BYTES)
            if is_archive(start):
                return UploadError(422, Refusal.UNSUPPORTED, "an archive inside an archive; unpack it first")
            if start and not _may_be_image(start):
                return NO_IMAGE
            return start + stream.read(settings.file_bytes - len(start))
    except ZIP_ERRORS:
        return UploadError(422, Refusal.UNDECODABLE, "damaged in the archive; make it again")
