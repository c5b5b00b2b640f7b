"""Parse a DICOM file into its header and its pixel data, not yet decoded; refuse damaged and hostile files."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from braintumor.dicom.attributes import CONVERSION_ERRORS, TOO_DEEP, code
from braintumor.dicom.part10 import dicom_start
from braintumor.dicom.pixels import NATIVE, Pixels, check_syntax
from braintumor.errors import DicomRefusalError, Refusal

LARGEST_INFLATED: Final = 128 << 20  # bytes
USUAL_INFLATED: Final = 16 << 20
LARGEST_RATIO: Final = 50
"""A deflated file may inflate to the usual size, or to so many times its own; images hardly get a tenth of that."""
PIXEL_DATA: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float Pixel Data, Double Float Pixel Data, Pixel Data."""
UNDEFINED: Final = 0xFFFFFFFF
BARE: Final = {
    (True, True): ExplicitVRLittleEndian,
    (True, False): ExplicitVRBigEndian,
    (False, True): ImplicitVRLittleEndian,
}
"""The transfer syntax of a file without meta information, which so cannot be compressed."""
DIRECTORY: Final = "a DICOMDIR, the index of a disc; pass the image files themselves"
EXPLICIT_HEAD: Final = 12  # bytes: tag, VR, two reserved, length
UNREADABLE: Final = "damaged: its attributes cannot be read; send the image again"


def parse(content: bytes) -> tuple[Dataset, Pixels | None]:
    """Return the attributes of a DICOM file before its pixel data, and the pixel data, None if there is none.

    Values are converted on access only. Memory is allocated for what the file holds or inflates to, never for the
    sizes that it declares.

    Raises:
        DicomRefusalError: not a DICOM file, no supported transfer syntax, a DICOMDIR, damaged, or nested too deeply.
    """
    start = dicom_start(content)
    if start is None:
        raise DicomRefusalError(
            "not a DICOM file: neither DICM after 128 bytes nor the first attributes of an image; export it as a DICOM "
            "Part 10 file",
            Refusal.UNKNOWN_FORMAT,
        )
    stream = io.BytesIO(content)
    stream.seek(start.offset)
    # The file meta information (group 0002) is Explicit VR Little Endian whatever the rest is (PS3.10 7.1). Its end is
    # found by the first tag of another group: some writers leave the group length out or get it wrong.
    has_meta = start.group != 8
    meta = _dataset_of(stream, True, lambda tag: tag >> 16 != 2) if has_meta else Dataset()
    if code(meta, "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise DicomRefusalError(DIRECTORY, Refusal.NO_SLICE)
    syntax = code(meta, "TransferSyntaxUID") if has_meta else BARE[start.explicit, start.little]
    if not syntax:
        raise DicomRefusalError("TransferSyntaxUID is missing; export it as a DICOM Part 10 file")
    check_syntax(syntax)
    if syntax == DeflatedExplicitVRLittleEndian:
        content = _inflated(memoryview(content)[stream.tell() :])
        stream = io.BytesIO(content)
    little = syntax != ExplicitVRBigEndian
    header = _dataset_of(stream, syntax != ImplicitVRLittleEndian, lambda tag: tag in PIXEL_DATA, little)
    header.file_meta = meta  # type: ignore[assignment]
    # A DICOMDIR without meta information shows itself here only.
    if "DirectoryRecordSequence" in header:
        raise DicomRefusalError(DIRECTORY, Refusal.NO_SLICE)
    return header, _pixel_data(memoryview(content)[stream.tell() :], header, syntax)


def _dataset_of(stream: io.BytesIO, explicit: bool, ends: Callable[[int], bool], little: bool = True) -> Dataset:
    """Return the attributes of a stream up to the first tag for which `ends` is true; the stream is left there.

    Raises:
        DicomRefusalError: damaged, or nested too deeply.
    """
    try:
        dataset = read_dataset(stream, not explicit, little, stop_when=lambda tag, _vr, _length: ends(int(tag)))
    except RecursionError as error:
        raise DicomRefusalError(TOO_DEEP) from error
    except CONVERSION_ERRORS as error:
        raise DicomRefusalError(UNREADABLE) from error
    dataset.set_original_encoding(not explicit, little, None)
    return dataset


def _inflated(content: memoryview) -> bytes:
    """Return a deflated dataset (PS3.5 A.5) inflated.

    Raises:
        DicomRefusalError: it is damaged or cut off, or inflates to more than its own size allows, or to more than
            `LARGEST_INFLATED` bytes.
    """
    largest = min(LARGEST_INFLATED, max(USUAL_INFLATED, LARGEST_RATIO * len(content)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # negative: a raw stream, without a zlib header
    try:
        # One byte more than allowed is enough to tell a deflate bomb, and the rest of it is never inflated.
        result = inflater.decompress(content, largest + 1)
    except zlib.error as error:
        raise DicomRefusalError("damaged: the deflated file cannot be inflated; send the image again") from error
    if len(result) > largest:
        raise DicomRefusalError(
            f"inflates to more than {largest >> 20} MiB; export the image without deflating", Refusal.TOO_LARGE
        )
    if not inflater.eof:
        raise DicomRefusalError("truncated: the deflated file ends too early; send the image again", Refusal.TRUNCATED)
    return result


def _pixel_data(content: memoryview, header: Dataset, syntax: str) -> Pixels | None:
    """Return the pixel data element at the start of `content`, None if there is none or it holds float pixels.

    Raises:
        DicomRefusalError: it is cut off, or its VR or kind of length does not fit the transfer syntax.
    """
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = struct.Struct(order + "HHI")
    if len(content) < EXPLICIT_HEAD:
        return None
    tag_group, element, length = head.unpack_from(content)
    if (tag_group << 16 | element) != PIXEL_DATA[-1]:
        return None
    vr, start = "OW", head.size
    # With an explicit VR the four bytes after the tag are VR and padding, never FFFFFFFF. Where they are, the writer
    # left the VR of encapsulated pixel data out, as some do, and the length stands right behind the tag.
    if syntax != ImplicitVRLittleEndian and length != UNDEFINED:
        vr, start = bytes(content[4:6]).decode("latin-1"), EXPLICIT_HEAD
        (length,) = struct.unpack_from(order + "I", content, 8)
    if vr not in ("OB", "OW"):
        raise DicomRefusalError("the pixel data is stored as neither OB nor OW; send the image again")
    # Encapsulated pixel data has an undefined length, native pixel data a defined one (PS3.5 A.4).
    if (length == UNDEFINED) == (syntax in NATIVE):
        raise DicomRefusalError("the pixel data is not compressed as TransferSyntaxUID says; send the image again")
    # Encapsulated data ends where its sequence delimiter is; `pixels.check_amount` looks for that.
    value = content[start:] if length == UNDEFINED else content[start : start + length]
    if length not in (UNDEFINED, len(value)):
        raise DicomRefusalError(
            f"truncated: {len(value):,} of {length:,} bytes of pixels; send the image again", Refusal.TRUNCATED
        )
    tables = tuple(header.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
    return Pixels(syntax, value, vr, tables if all(isinstance(table, bytes) for table in tables) else None)
