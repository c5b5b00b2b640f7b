import io
import struct

import pytest
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.uid import (
    HTJ2K,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from braintumor.dicom.bitstream import Size, check_rle, size
from braintumor.errors import DicomRefusalError
from tests.dicom.make import SIZE, capture, mr

SYNTAXES = {JPEGBaseline8Bit: 8, JPEGLossless: 12, JPEGLosslessSV1: 12, JPEGLSLossless: 12, JPEG2000Lossless: 12}


def stream(syntax: str, bits: int = 12) -> bytes:
    return get_frame(mr(bits=bits, syntax=syntax).PixelData, 0, number_of_frames=1)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_each_kind_of_stream_tells_its_size(syntax: str) -> None:
    bits = SYNTAXES[syntax]
    stated = size(stream(syntax, bits), syntax)
    assert (stated.rows, stated.columns, stated.samples) == (SIZE, SIZE, 1)
    assert stated.bits in (bits, 16)  # GDCM writes 12 bits as 16


def test_rows_and_columns_are_not_mixed_up() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (40, 20)).save(picture, "JPEG")
    assert size(picture.getvalue(), JPEGBaseline8Bit) == Size(20, 40, 3, 8)
    picture = io.BytesIO()
    Image.new("RGB", (40, 20)).save(picture, "JPEG2000", no_jp2=True)
    assert size(picture.getvalue(), JPEG2000Lossless) == Size(20, 40, 3, 8)


def test_a_jpeg_2000_stream_in_a_jp2_file_is_found() -> None:
    picture = io.BytesIO()
    Image.new("L", (40, 20)).save(picture, "JPEG2000")
    assert picture.getvalue()[4:8] == b"jP  "
    assert size(picture.getvalue(), HTJ2K) == Size(20, 40, 1, 8)


def test_fill_bytes_before_markers_are_passed_over() -> None:
    content = stream(JPEGBaseline8Bit, 8)
    assert size(content[:2] + b"\xff\xff" + content[2:], JPEGBaseline8Bit) == Size(SIZE, SIZE, 1, 8)


@pytest.mark.parametrize(
    ("content", "syntax", "reason"),
    [
        (b"", JPEGBaseline8Bit, "not a JPEG stream"),
        (b"\xff\xd8", JPEGBaseline8Bit, "state no size"),
        (b"\xff\xd8" + 50 * b"\xff", JPEGBaseline8Bit, "state no size"),
        (b"\xff\xd8\xff\xe0\x00\x00\xff\xe0", JPEGBaseline8Bit, "state no size"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08", JPEGBaseline8Bit, "state no size"),
        (b"", JPEG2000Lossless, "not a JPEG 2000 stream"),
        (b"\xff\x4f\xff\x51" + 5 * b"\0", JPEG2000Lossless, "not a JPEG 2000 stream"),
        (b"\0\0\0\x0cjP  " + 9 * b"\0", JPEG2000Lossless, "not a JPEG 2000 stream"),
    ],
)
def test_a_stream_without_a_size_is_refused(content: bytes, syntax: str, reason: str) -> None:
    with pytest.raises(DicomRefusalError, match=reason):
        size(content, syntax)


def test_a_stream_of_another_kind_than_the_transfer_syntax_is_refused() -> None:
    with pytest.raises(DicomRefusalError, match="a different kind of JPEG"):
        size(stream(JPEGLSLossless), JPEGBaseline8Bit)
    with pytest.raises(DicomRefusalError, match="a different kind of JPEG"):
        size(stream(JPEGLosslessSV1), JPEGExtended12Bit)


def siz(right: int = 8, bottom: int = 8, width: int = 8, height: int = 8, components: bytes = b"\7\1\1") -> bytes:
    numbers = struct.pack(">8IH", right, bottom, 0, 0, width, height, 0, 0, len(components) // 3)
    return b"\xff\x4f\xff\x51\0\x29\0\0" + numbers + components


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (siz(components=b"\7\1\1\7\2\2\7\2\2"), "differ in size"),
        (siz(components=b"\7\2\2"), "differ in size"),
        (siz(components=b"") + b"\0\0\0", "differ in size"),
        (siz(width=0), "has no pixels"),
        (siz(right=0), "has no pixels"),
        (siz(20_000, 20_000, 1, 1), "more JPEG 2000 tiles"),
    ],
)
def test_a_jpeg_2000_stream_that_no_decoder_should_see_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DicomRefusalError, match=reason):
        size(content, JPEG2000Lossless)


def test_rle_of_the_right_size_passes() -> None:
    check_rle(stream(RLELossless), SIZE, SIZE, 1, 16)
    check_rle(stream(RLELossless, 8), SIZE, SIZE, 1, 8)
    check_rle(get_frame(capture(syntax=RLELossless).PixelData, 0, number_of_frames=1), SIZE, SIZE, 3, 8)


def rle(*offsets: int, length: int = 200) -> bytes:
    return struct.pack("<16I", len(offsets), *offsets, *(15 - len(offsets)) * [0]) + bytes(length)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\1\0\0\0", "have no header"),
        (rle(64), "RLE segments: 1; SamplesPerPixel and BitsAllocated require 2"),
        (rle(64, 60), "outside"),
        (rle(64, 5000), "outside"),
        (rle(0, 64), "outside"),
        (rle(64, 70, length=10_000), "longer than"),
    ],
)
def test_rle_that_lies_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DicomRefusalError, match=reason):
        check_rle(content, 20, 20, 1, 16)
