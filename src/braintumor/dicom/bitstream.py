"""Read the size that compressed pixels state themselves, before a decoder allocates memory for them."""

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
"""Markers of a start of frame, by kind of JPEG (ISO/IEC 10918-1 table B.1; F7 is JPEG-LS, ISO/IEC 14495-1)."""
# C4, C8 and CC are no starts of frame: Huffman tables, a reserved marker, arithmetic coding.
FRAME_STARTS: Final = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
ALONE: Final = (0x01, *range(0xD0, 0xD8))
"""Markers without a length."""
MOST_TILES: Final = 65_535
RLE_HEADER: Final = struct.Struct("<16I")
RLE: Final = RLELossless
SLACK: Final = 1024  # bytes that a segment may have beyond its worst case


@dataclass(frozen=True)
class Size:
    """Size of one frame, as its compressed data states it.

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        samples: values per pixel: 1 is grey, 3 is colour.
        bits: bits per value.
    """

    rows: int
    columns: int
    samples: int
    bits: int


def size(frame: bytes, syntax: str) -> Size:
    """Return the size that a compressed frame states.

    Raises:
        DicomRefusalError: it states none, or is not the kind of stream that the transfer syntax says.
    """
    if syntax in JPEG_2000:
        return _jpeg_2000_size(frame)
    return _jpeg_size(frame, STARTS[syntax])


def _jpeg_size(frame: bytes, starts: tuple[int, ...]) -> Size:
    """Return the size in the start of frame of a JPEG or JPEG-LS stream.

    Raises:
        DicomRefusalError: it has no start of frame, or one that is not among `starts`.
    """
    if not frame.startswith(b"\xff\xd8"):
        raise DicomRefusalError("the compressed pixels are not a JPEG stream; send the image again")
    position = 2
    while position + 4 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF or marker in ALONE:
            # Any number of FF bytes may fill the space before a marker (ISO/IEC 10918-1 B.1.1.2).
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker in FRAME_STARTS:
            if marker not in starts:
                raise DicomRefusalError("a different kind of JPEG than TransferSyntaxUID says; send the image again")
            if position + 10 > len(frame):
                break
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, position + 4)
            return Size(rows, columns, samples, bits)
        # A length of 0 still moves on by the marker's own two bytes, so the loop ends whatever the stream says.
        position += 2 + length
    raise DicomRefusalError("the compressed pixels state no size; send the image again")


def _jpeg_2000_size(frame: bytes) -> Size:
    """Return the size in the SIZ segment of a JPEG 2000 stream, in a JP2 file or bare.

    Raises:
        DicomRefusalError: it has none, its components differ, or it has more tiles than the standard allows.

    Source: ISO/IEC 15444-1 A.5.1.
    """
    start = _stream_start(frame)
    # SOC and SIZ begin every stream; 45 bytes reach up to the end of the first component.
    if frame[start : start + 4] != b"\xff\x4f\xff\x51" or start + 45 > len(frame):
        raise DicomRefusalError("the compressed pixels are not a JPEG 2000 stream; send the image again")
    right, bottom, left, top, width, height, tile_left, tile_top, samples = struct.unpack_from(">8IH", frame, start + 8)
    components = frame[start + 42 : start + 42 + 3 * samples]
    # Three bytes a component: bits, and the steps in which it samples the grid. All have to be alike and not
    # subsampled: of others, Rows and Columns would not tell how much memory they take.
    is_uniform = len(components) == 3 * samples and components == samples * components[:3]
    if not samples or not is_uniform or components[1:3] != b"\1\1":
        raise DicomRefusalError("the JPEG 2000 components differ in size; export the image again without compression")
    if not width or not height or right <= left or bottom <= top:
        raise DicomRefusalError("the JPEG 2000 stream has no pixels; send the image again")
    # Tiles across times tiles down, each rounded up: a decoder allocates something for every tile.
    if -(-(right - tile_left) // width) * -(-(bottom - tile_top) // height) > MOST_TILES:
        raise DicomRefusalError("more JPEG 2000 tiles than the standard allows; send the image again")
    return Size(bottom - top, right - left, samples, (components[0] & 0x7F) + 1)  # the top bit says signed


def _stream_start(frame: bytes) -> int:
    """Return where the JPEG 2000 stream starts: at 0, or in the jp2c box of a JP2 file (ISO/IEC 15444-1 annex I).

    That of a JP2 file without such a box is the end of the file, where no stream is found.
    """
    position = 0
    if frame[4:8] != b"jP  ":
        return position
    while position + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, position)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)  # 1: the length follows in 64 bits
        if length < 8:
            break
        position += length
    return len(frame)


def check_rle(frame: bytes, rows: int, columns: int, samples: int, bits: int) -> None:
    """Refuse an RLE frame whose segments do not fit its size, or are longer than that many pixels can need.

    Raises:
        DicomRefusalError: it has no header, another number of segments than the size requires, segments that are out of
            order or lie outside of the frame, or too long ones.

    Source: PS3.5 G.
    """
    if len(frame) < RLE_HEADER.size:
        raise DicomRefusalError("the RLE pixels have no header; send the image again")
    count, *offsets = RLE_HEADER.unpack_from(frame)
    needed = samples * (bits // 8)  # one segment per byte of a pixel
    if count != needed:
        raise DicomRefusalError(f"RLE segments: {count:,}; SamplesPerPixel and BitsAllocated require {needed}")
    boundaries = [*offsets[:count], len(frame)]
    # Even a poor encoder spends at most two bytes on one: a run of length 1. Longer ones would
    # decode to more pixels than the header states.
    longest = 2 * rows * columns + SLACK
    for start, end in pairwise(boundaries):
        if not RLE_HEADER.size <= start < end <= len(frame):
            raise DicomRefusalError("RLE segments are out of order or outside of the frame; send the image again")
        if end - start > longest:
            raise DicomRefusalError("RLE segments are longer than Rows and Columns can need; send the image again")
