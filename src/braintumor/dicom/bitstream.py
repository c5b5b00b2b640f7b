"""What compressed pixels say of their own size, before any decoder allocates memory for them."""

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from braintumor.errors import DicomRefusalError

JPEG_2000: Final = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
STARTS: Final[dict[str, tuple[int, ...]]] = {
    JPEGBaseline8Bit: (0xC0,),
    JPEGExtended12Bit: (0xC0, 0xC1),
    JPEGLossless: (0xC3,),
    JPEGLosslessSV1: (0xC3,),
    JPEGLSLossless: (0xF7,),
    JPEGLSNearLossless: (0xF7,),
}
"""Which start of frame each kind of JPEG has (ISO/IEC 10918-1 table B.1; F7 is JPEG-LS, ISO/IEC 14495-1)."""
FRAME_STARTS: Final = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
ALONE: Final = (0x01, *range(0xD0, 0xD8))
"""Markers without a length."""
MOST_TILES: Final = 65_535
RLE_HEADER: Final = struct.Struct("<16I")
RLE: Final = RLELossless
SLACK: Final = 1024  # bytes of a segment beyond its worst case


@dataclass(frozen=True)
class Size:
    """The size of one frame, as its compressed data states it.

    Attributes:
        rows: of pixels.
        columns: of pixels.
        samples: values per pixel: 1 is grey, 3 is colour.
        bits: per value.
    """

    rows: int
    columns: int
    samples: int
    bits: int


def size(frame: bytes, syntax: str) -> Size:
    """Return the size that a compressed frame states.

    Raises:
        DicomRefusalError: it states none, or is not of the kind that the transfer syntax says.
    """
    if syntax in JPEG_2000:
        return _jpeg_2000_size(frame)
    return _jpeg_size(frame, STARTS[syntax])


def _jpeg_size(frame: bytes, starts: tuple[int, ...]) -> Size:
    """Return the size in the start of frame of a JPEG or JPEG-LS stream.

    Raises:
        DicomRefusalError: there is none, or another kind than `starts`.
    """
    if not frame.startswith(b"\xff\xd8"):
        raise DicomRefusalError("compressed pixels that are no JPEG stream; send the image again")
    position = 2
    while position + 4 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF or marker in ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker in FRAME_STARTS:
            if marker not in starts:
                raise DicomRefusalError("another kind of JPEG than TransferSyntaxUID says; send the image again")
            if position + 10 > len(frame):
                break
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, position + 4)
            return Size(rows, columns, samples, bits)
        position += 2 + length
    raise DicomRefusalError("compressed pixels that state no size; send the image again")


def _jpeg_2000_size(frame: bytes) -> Size:
    """Return the size in the SIZ segment of a JPEG 2000 stream, wrapped into a JP2 file or not.

    Raises:
        DicomRefusalError: there is none, its components differ, or it has more tiles than the standard allows.

    Source: ISO/IEC 15444-1 A.5.1.
    """
    start = _stream_start(frame)
    if frame[start : start + 4] != b"\xff\x4f\xff\x51" or start + 45 > len(frame):
        raise DicomRefusalError("compressed pixels that are no JPEG 2000 stream; send the image again")
    right, bottom, left, top, width, height, tile_left, tile_top, samples = struct.unpack_from(">8IH", frame, start + 8)
    components = frame[start + 42 : start + 42 + 3 * samples]
    alike = len(components) == 3 * samples and components == samples * components[:3]
    if not samples or not alike or components[1:3] != b"\1\1":
        raise DicomRefusalError("JPEG 2000 components of different sizes; export the image again without compression")
    if not width or not height or right <= left or bottom <= top:
        raise DicomRefusalError("a JPEG 2000 stream without pixels; send the image again")
    if -(-(right - tile_left) // width) * -(-(bottom - tile_top) // height) > MOST_TILES:
        raise DicomRefusalError("more JPEG 2000 tiles than the standard allows; send the image again")
    return Size(bottom - top, right - left, samples, (components[0] & 0x7F) + 1)


def _stream_start(frame: bytes) -> int:
    """Return where the JPEG 2000 stream starts: at 0, or in the jp2c box of a JP2 file (ISO/IEC 15444-1 annex I)."""
    position = 0
    if frame[4:8] != b"jP  ":
        return position
    while position + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, position)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if length < 8:
            break
        position += length
    return len(frame)


def check_rle(frame: bytes, rows: int, columns: int, samples: int, bits: int) -> None:
    """Refuse an RLE frame whose segments are not those of this size, or longer than so many pixels can need.

    Raises:
        DicomRefusalError: so.

    Source: PS3.5 G.
    """
    if len(frame) < RLE_HEADER.size:
        raise DicomRefusalError("RLE pixels without a header; send the image again")
    count, *offsets = RLE_HEADER.unpack_from(frame)
    needed = samples * (bits // 8)
    if count != needed:
        raise DicomRefusalError(f"RLE pixels in {count:,} segments; Rows, Columns and BitsAllocated ask for {needed}")
    used = [*offsets[:count], len(frame)]
    longest = 2 * rows * columns + SLACK
    for start, end in pairwise(used):
        if not RLE_HEADER.size <= start < end <= len(frame):
            raise DicomRefusalError("RLE pixels whose segments lie outside of them; send the image again")
        if end - start > longest:
            raise DicomRefusalError("RLE pixels that are longer than Rows and Columns can need; send the image again")
