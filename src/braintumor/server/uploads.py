"""Find the images in a request: its files, and the members of ZIP archives, unpacked in memory one at a time."""

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
DIRECTORY_BYTES_PER_MEMBER: Final = 1024  # 46, a name, and what programs add
PACKINGS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class UploadedFile:
    """One file to decode.

    Attributes:
        file: its number among the files of the request.
        member: its number among the members of the archive; None outside one.
        content: returns its bytes, or raises an `UploadError` that says why it cannot; only valid until the next file
            is asked for.
    """

    file: int
    member: int | None
    content: Callable[[], bytes]

    @property
    def name(self) -> str:
        """Its name in errors and results: never the client's, which may tell who the patient is."""
        inside = "" if self.member is None else f", member {self.member + 1}"
        return f"file {self.file + 1}{inside}"


def uploaded_files(files: list[bytes], settings: Settings) -> Iterator[UploadedFile]:
    """Yield the files to decode, in order; in place of an archive its members.

    Raises:
        UploadError: an archive cannot be opened or holds too much, or there are too many slices.
    """
    count = 0  # of files and members together: an archive is no way around the limit of a request
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
    """Tell from the first bytes of a file whether it is a ZIP archive."""
    # the preamble of a DICOM file may hold anything, a ZIP archive too (PS3.10 7.1)
    return start.startswith(ZIP_STARTS) and volume_kind(start) != "dicom"


def _usable(content: bytes, settings: Settings) -> bytes:
    """Return the content of a file.

    Raises:
        UploadError: it is too large, or cannot be an image.
    """
    if len(content) > settings.file_bytes:
        raise _too_large(settings)
    if content and not _may_be_image(content):  # of an empty file the decoder says that it is empty
        raise _unknown_format()
    return content


def _may_be_image(start: bytes) -> bool:
    """Tell from the first bytes of a file whether it is worth decoding."""
    return start.startswith(IMAGE_STARTS) or volume_kind(start) is not None


def _unknown_format() -> UploadError:
    return UploadError(415, Refusal.UNKNOWN_FORMAT, UNKNOWN_FORMAT)


def _too_large(settings: Settings) -> UploadError:
    return UploadError(413, Refusal.TOO_LARGE, f"larger than {settings.file_bytes >> 20} MiB; export the slice alone")


def _unpacked(number: int, content: bytes, settings: Settings) -> Iterator[UploadedFile]:
    """Yield the members of an archive that are files, without what operating systems add to archives.

    Raises:
        UploadError: the archive is damaged or of an unusual kind, or has too many or too large members.
    """
    # before `ZipFile`, which reads the whole directory into memory at once
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
    """Check that the directory of an archive is small enough to be read, before anything reads it.

    The last record must be the end of the file. Otherwise programs may find different directories in the same bytes,
    and what was checked here would not be what is unpacked.

    Raises:
        UploadError: it is too large, or not where it must be.
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
    most = 4 * settings.slices  # folders and hidden files are members, too; files are counted after that
    if members > most or directory_bytes > most * DIRECTORY_BYTES_PER_MEMBER:
        raise UploadError(
            413, Refusal.TOO_LARGE, f"a ZIP archive of more than {settings.slices} files; send it in several parts"
        )


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    """Tell whether a member is a file that a person put into the archive; macOS adds files of its own."""
    names = member.filename.split("/")
    return not member.is_dir() and "__MACOSX" not in names and not names[-1].startswith(".")


def _check_members(members: list[zipfile.ZipInfo], settings: Settings) -> None:
    """Check that an archive has files, not too many, and that they are not too large together.

    Raises:
        UploadError: one of these does not hold.
    """
    if not members:
        raise UploadError(422, Refusal.NO_SLICE, "a ZIP archive without files")
    if len(members) > settings.slices:
        raise UploadError(
            413, Refusal.TOO_LARGE, f"a ZIP archive of more than {settings.slices} files; send it in several parts"
        )
    # the sizes that the directory declares: zipfile never returns more than that of a member
    if sum(member.file_size for member in members) > settings.unpacked_bytes:
        raise UploadError(
            413, Refusal.TOO_LARGE, f"a ZIP archive of more than {settings.unpacked_bytes >> 20} MiB; send it in parts"
        )


def _member_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, settings: Settings) -> bytes:
    """Return the content of a member, never more than the limit.

    Raises:
        UploadError: it cannot be unpacked, is too large, or cannot be an image.
    """
    if member.compress_type not in PACKINGS:
        raise UploadError(422, Refusal.UNSUPPORTED, "compressed in an unusual way; make the archive again")
    if member.flag_bits & 1:
        raise UploadError(422, Refusal.UNSUPPORTED, "encrypted; make the archive without a password")
    if member.file_size > settings.file_bytes:
        raise _too_large(settings)
    try:
        with archive.open(member) as stream:
            start = stream.read(START_BYTES)  # enough to tell the format, before the rest costs time and memory
            if is_archive(start):
                raise UploadError(422, Refusal.UNSUPPORTED, "an archive inside an archive; unpack it first")
            if start and not _may_be_image(start):
                raise _unknown_format()
            return start + stream.read(settings.file_bytes - len(start))
    except ZIP_ERRORS as error:
        raise UploadError(422, Refusal.UNDECODABLE, "damaged in the archive; make it again") from error
