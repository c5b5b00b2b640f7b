"""Reading of good and bad image files."""

import errno
import io
import os
import re
import struct
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from braintumor.data.phantom import phantom
from braintumor.errors import ImageError
from braintumor.io.deep import DEEP as DEEP_NOTE
from braintumor.io.grey import between
from braintumor.io.read import may_hold_several, read, read_all, volume_kind
from tests.dicom import make
from tests.volume_files import brain

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def encode_array(values: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of an image file with these values."""
    return encode(Image.fromarray(values), kind, **options)


def reason_of(source: Any) -> str:
    """Return why a source is refused."""
    with pytest.raises(ImageError) as caught:
        read(source)
    return caught.value.reason


def noise(size: int) -> NDArray[np.uint8]:
    """Return a (size, size) image that compresses badly."""
    return np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_8_bit_grey_is_divided_by_255(kind: str) -> None:
    scan = read(encode_array(RAMP, kind))
    np.testing.assert_array_equal(scan.pixels, RAMP.astype(np.float32) / np.float32(255))
    assert (scan.source, scan.spacing) == ("bytes", None)


def test_jpeg_is_read_within_its_losses() -> None:
    smooth = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    np.testing.assert_allclose(read(encode_array(smooth, "JPEG", quality=95)).pixels, smooth / 255, atol=0.02)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    file = tmp_path / "slice.jpg"
    file.write_bytes(encode_array(RAMP, "BMP"))
    scan = read(file)
    assert scan.source == str(file)
    assert scan.pixels[15, 15] == 1.0


def test_a_name_replaces_the_source() -> None:
    assert read(encode_array(RAMP), name="upload 1").source == "upload 1"


def test_grey_stored_as_colour_equals_grey() -> None:
    grey = read(encode_array(RAMP)).pixels
    np.testing.assert_array_equal(read(encode_array(np.dstack([RAMP] * 3))).pixels, grey)


def test_colour_becomes_itu_601_luma() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    values = [read(encode(Image.new("RGB", (16, 16), colour))).pixels[0, 0] * 255 for colour in colours]
    assert values == pytest.approx([76, 150, 29])  # 0.299, 0.587 and 0.114 of 255, rounded


@pytest.mark.parametrize(("mode", "colour"), [("LA", (200, 51)), ("RGBA", (200, 200, 200, 51))])
def test_transparency_lies_on_black(mode: str, colour: tuple[int, ...]) -> None:
    pixels = read(encode(Image.new(mode, (16, 16), colour))).pixels
    np.testing.assert_allclose(pixels, 200 / 255 * 51 / 255, rtol=1e-6)


def test_palette_images_show_their_colours() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 100, 100, 100])
    assert read(encode(image)).pixels[0, 0] == pytest.approx(100 / 255)
    assert read(encode(image, transparency=1)).pixels[0, 0] == 0
    assert read(encode(image, transparency=b"\xff\x33")).pixels[0, 0] == pytest.approx(100 / 255 * 51 / 255)


def test_bilevel_images_are_black_and_white() -> None:
    pixels = read(encode(Image.fromarray(RAMP > 127))).pixels
    np.testing.assert_array_equal(pixels, (RAMP > 127).astype(np.float32))


def test_a_cmyk_jpeg_is_not_inverted() -> None:
    assert read(encode(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")).pixels.min() > 0.99


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("largest", [255, 1023, 4095, 16383, 65535])
def test_16_bit_values_of_a_full_range_keep_it(kind: str, largest: int) -> None:
    values = np.linspace(0, largest, 256).astype(np.uint16).reshape(16, 16)
    scan = read(encode_array(values, kind))
    np.testing.assert_allclose(scan.pixels, values / largest, rtol=1e-6)
    assert scan.notes == ()


def test_big_endian_16_bit_tiff_is_read() -> None:
    values = np.linspace(0, 4095, 256).astype(">u2").reshape(16, 16)
    image = Image.frombytes("I;16B", (16, 16), values.tobytes())
    np.testing.assert_allclose(read(encode(image, "TIFF")).pixels, values / 4095, rtol=1e-6)


def test_32_bit_containers_of_16_bit_values_are_read() -> None:
    values = np.linspace(0, 65535, 256).astype(np.int32).reshape(16, 16)
    np.testing.assert_allclose(read(encode_array(values, "TIFF")).pixels, values / 65535, rtol=1e-6)


def grey_png(values: NDArray[Any]) -> bytes:
    return encode_array(values.astype(np.uint16))


def grey_tiff(values: NDArray[Any]) -> bytes:
    return encode_array(values.astype(np.uint16), "TIFF")


def big_endian_tiff(values: NDArray[Any]) -> bytes:
    height, width = values.shape
    return encode(Image.frombytes("I;16B", (width, height), values.astype(">u2").tobytes()), "TIFF")


def wide_tiff(values: NDArray[Any]) -> bytes:
    return encode_array(values.astype(np.int32), "TIFF")


def packed_tiff(values: NDArray[Any]) -> bytes:
    return encode_array(values.astype(np.uint16), "TIFF", compression="tiff_lzw")


def colour_png(values: NDArray[Any]) -> bytes:
    return deep_png(np.stack([values] * 3, axis=-1))


def transparent_png(values: NDArray[Any]) -> bytes:
    return deep_png(np.stack([values, np.full_like(values, 65535)], axis=-1))


def transparent_colour_png(values: NDArray[Any]) -> bytes:
    return deep_png(np.stack([values, values, values, np.full_like(values, 65535)], axis=-1))


def colour_tiff(values: NDArray[Any]) -> bytes:
    return deep_tiff(np.stack([values] * 3, axis=-1), "<")


def big_endian_colour_tiff(values: NDArray[Any]) -> bytes:
    return deep_tiff(np.stack([values] * 3, axis=-1), ">")


DEEP = [
    *(grey_png, grey_tiff, big_endian_tiff, wide_tiff, packed_tiff),
    *(colour_png, transparent_png, transparent_colour_png, colour_tiff, big_endian_colour_tiff),
]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(values: NDArray[Any]) -> bytes:
    """Return a PNG of (H, W, channels) 16-bit values: grey and transparency, colour, or colour and transparency."""
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def deep_tiff(values: NDArray[Any], order: str, *, planes: bool = False) -> bytes:
    """Return a TIFF of (H, W, 3) 16-bit values in a byte order of `struct`, its channels side by side or apart."""
    height, width, channels = values.shape
    stored = values.astype(f"{order}u2")
    parts = [stored[..., channel].tobytes() for channel in range(channels)] if planes else [stored.tobytes()]
    content = b"".join(parts)
    starts = [8 + sum(map(len, parts[:index])) for index in range(len(parts))]
    extra = 8 + len(content)
    tables = [(258, 3, [16] * channels), (273, 4, starts), (279, 4, list(map(len, parts)))]
    single = [(256, width), (257, height), (259, 1), (262, 2), (277, 3), (278, height), (284, 1 + planes)]
    entries, tail = {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in single}, b""
    for tag, kind, numbers in tables:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        value = packed if len(packed) == 4 else struct.pack(f"{order}I", extra + len(tail))
        entries[tag] = struct.pack(f"{order}HHI", tag, kind, len(numbers)) + value
        tail += packed if len(packed) > 4 else b""
    listed = b"".join(entries[tag] for tag in sorted(entries))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, extra + len(tail))
    return head + content + tail + struct.pack(f"{order}H", len(entries)) + listed + b"\0" * 4


def slice_of(largest: int) -> NDArray[np.int64]:
    """Return a phantom's 64 x 64 values from 0 to `largest`."""
    grey = phantom("glioma", 3, 64).astype(np.float64)
    return np.rint(grey / grey.max() * largest).astype(np.int64)


@pytest.mark.parametrize("encoded", DEEP, ids=lambda encoded: encoded.__name__)
@pytest.mark.parametrize("largest", [900, 1030, 4200, 17000, 30000])
def test_a_slice_looks_alike_whatever_its_largest_value_in_every_deep_format(
    encoded: Callable[[NDArray[Any]], bytes], largest: int
) -> None:
    values = slice_of(largest)
    expected = between(values.astype(np.float64), *np.percentile(values, (0.1, 99.9)))
    scan = read(encoded(values))
    np.testing.assert_allclose(scan.pixels, expected, atol=0.06 if largest in (1030, 4200, 17000) else 1e-6)
    assert scan.notes == (DEEP_NOTE,) or largest in (1030, 4200, 17000)
    np.testing.assert_allclose(scan.pixels, read(grey_png(values)).pixels, atol=1e-6)


@pytest.mark.parametrize("encoded", DEEP, ids=lambda encoded: encoded.__name__)
def test_every_deep_format_with_its_full_range_is_divided_by_it(encoded: Callable[[NDArray[Any]], bytes]) -> None:
    values = slice_of(65535)
    np.testing.assert_allclose(read(encoded(values)).pixels, values / 65535, atol=1e-6)


def test_deep_colour_becomes_itu_601_luma_of_all_its_bits_and_transparency_lies_on_black() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 65536, (32, 32, 4))
    values[0, 0] = 65535
    luma = values[..., :3] @ (0.299, 0.587, 0.114)
    for content in (deep_png(values[..., :3]), deep_tiff(values[..., :3], "<"), deep_tiff(values[..., :3], ">")):
        np.testing.assert_allclose(read(content).pixels, luma / 65535, atol=2e-5)
    np.testing.assert_allclose(read(deep_png(values)).pixels, luma * values[..., 3] / 65535**2, atol=2e-5)
    grey = read(deep_png(values[..., 2:])).pixels
    np.testing.assert_allclose(grey, values[..., 2] * (values[..., 3] / 65535**2), atol=2e-5)


def test_deep_colour_that_would_be_decoded_wrongly_is_refused() -> None:
    content = deep_tiff(np.stack([slice_of(4000)] * 3, axis=-1), "<", planes=True)
    assert reason_of(content) == "16-bit TIFF with separate colour planes; save it as grey"


@pytest.mark.parametrize("largest", [1000, 1400, 4000, 40000])
def test_one_pixel_decides_nothing_about_the_brightness_of_a_deep_image(largest: int) -> None:
    values = slice_of(largest)
    usual = np.median(read(grey_png(values)).pixels[values > 0])
    brightest = values.copy()
    for pixel in np.unique(np.geomspace(largest, 65535, 60).astype(np.int64)):
        brightest[32, 32] = pixel
        ratio = np.median(read(grey_png(brightest)).pixels[values > 0]) / usual
        assert 0.58 <= ratio <= 1.7, pixel


@pytest.mark.slow
def test_the_brightness_of_a_deep_image_has_no_steps() -> None:
    means = [read(grey_png(slice_of(int(largest)))).pixels.mean() for largest in np.geomspace(200, 65535, 400)]
    steps = np.abs(np.diff(means)) / means[1:]
    assert steps.max() < 0.06


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (300, 0), (4095, 1), (65535, 1)])
def test_deep_images_of_one_value_are_read(value: int, shown: float) -> None:
    assert read(encode_array(np.full((16, 16), value, np.uint16))).pixels.tolist() == [[shown] * 16] * 16


def test_a_deep_image_with_few_pixels_that_are_not_black_shows_them() -> None:
    values = np.zeros((64, 64), np.uint16)
    values[3, 5] = 700
    np.testing.assert_array_equal(read(encode_array(values)).pixels, (values > 0).astype(np.float32))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(243, 255))
def test_8_bit_times_257_gives_the_same_pixels(seed: int, brightest: int) -> None:
    grey = np.random.default_rng(seed).integers(0, brightest + 1, (16, 16), dtype=np.uint8)
    grey[0, 0] = brightest
    deep = read(encode_array(grey.astype(np.uint16) * 257)).pixels
    np.testing.assert_array_equal(deep, read(encode_array(grey)).pixels)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, turn: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(encode_array(RAMP, kind, exif=exif)).pixels
    np.testing.assert_array_equal(pixels, np.rot90(RAMP, turn).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\xff\0\0"]
)
def test_damaged_exif_data_is_passed_over_without_a_warning(block: bytes) -> None:
    plain = read(encode_array(noise(32), "JPEG")).pixels
    np.testing.assert_array_equal(read(encode_array(noise(32), "JPEG", exif=block)).pixels, plain)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty (0 bytes)"),
        (b"hello", "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file"),
        (encode(Image.new("L", (16, 16)), "GIF"), "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file"),
        (encode(Image.new("L", (15, 400))), "15 x 400 pixels; at least 16 on each side are needed"),
        (encode(Image.new("F", (16, 16)), "TIFF"), "floating-point pixels have no fixed black and white"),
        (encode_array(np.full((16, 16), -1, np.int32), "TIFF"), "grey values from -1 to -1"),
        (encode_array(np.full((16, 16), 65536, np.int32), "TIFF"), "grey values from 65536 to 65536"),
    ],
    ids=["empty", "text", "gif", "small", "float", "negative", "over 16 bits"],
)
def test_unusable_content_is_refused(content: bytes, reason: str) -> None:
    assert reason_of(content).startswith(reason)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {"default_image": False}), ("TIFF", {})])
def test_several_frames_are_refused(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())]
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert reason_of(content) == "holds several images; save the slice to classify as one image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_a_truncated_file_is_refused_or_has_all_its_pixels(kind: str) -> None:
    content = encode_array(RAMP, kind)
    whole = read(content).pixels
    refused = 0
    for length in range(1, len(content)):
        try:
            np.testing.assert_array_equal(read(content[:length]).pixels, whole)
        except ImageError:
            refused += 1
    assert refused > len(content) * 0.7


def test_a_truncated_jpeg_is_called_truncated() -> None:
    content = encode_array(noise(64), "JPEG")
    assert reason_of(content[:-500]) == "truncated; copy the file again"


def blank_png(width: int, height: int) -> bytes:
    """Return a PNG that declares width x height grey pixels and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8001, 8001), (9600, 9600), (12000, 12000), (20000, 20000), (100000, 16), (16, 8001)])
def test_huge_images_are_refused_from_the_header(size: tuple[int, int]) -> None:
    tracemalloc.start()
    try:
        reason = reason_of(blank_png(*size))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "at most 8000 on each side are read" in reason
    assert peak < 2_000_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_flipped_bytes_give_a_scan_or_a_refusal(kind: str) -> None:
    content = encode_array(noise(24), kind)
    random = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(content)
        for offset in random.integers(0, min(len(content), 400), 4):
            damaged[offset] = random.integers(256)
        try:
            pixels = read(bytes(damaged)).pixels
        except ImageError:
            continue
        assert 0 <= pixels.min() <= pixels.max() <= 1


def test_paths_that_are_no_image_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {name: reason_of(tmp_path / name) for name in ("missing.png", "empty.png", "loop.png", "pipe.png", ".")}
    assert reasons == {
        "missing.png": "no such file or directory",
        "empty.png": "empty (0 bytes)",
        "loop.png": "too many levels of symbolic links",
        "pipe.png": "not a regular file",
        ".": "is a folder; name one image file",
    }
    assert reason_of("a\0b.png") == "not a valid file name"


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "slice.png"
    file.write_bytes(encode_array(RAMP))

    def forbid(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", forbid)
    assert reason_of(file) == "permission denied"


def test_reasons_hold_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "slice.png"
    for content in (b"", b"hello", blank_png(20000, 20000), encode_array(RAMP)[:50]):
        file.write_bytes(content)
        assert re.search(re.escape(str(tmp_path)), reason_of(file)) is None


def test_warnings_of_decoders_stay_inside_threads_too() -> None:
    damaged = encode_array(RAMP, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\xff\0\0")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                read(damaged)
                with pytest.raises(ImageError):
                    read(blank_png(9600, 9600))
        except BaseException as error:
            failures.append(error)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (failures, caught) == ([], [])


def test_16_bit_tiff_with_white_as_zero_is_refused() -> None:
    content = bytearray(encode_array(np.full((16, 16), 300, np.uint16), "TIFF"))
    entry = content.index(struct.pack("<HHIH", 262, 3, 1, 1))
    content[entry + 8] = 0
    assert reason_of(bytes(content)) == "16-bit TIFF with white as zero; save it with black as zero"


def test_files_that_may_hold_volumes_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    for content, kind in (
        (make.encoded(make.mr()), "dicom"),
        (brain(), "nifti"),
        (brain(packed=False), "nifti"),
        (encode_array(RAMP), None),
        (b"", None),
    ):
        assert volume_kind(content) == kind
        (tmp_path / "file").write_bytes(content or b"x")
        assert volume_kind(tmp_path / "file") == kind


def test_frames_are_seen_without_parsing() -> None:
    frames = np.full((128, 128), 8 << 16 | 40, np.uint32).tobytes()  # pixels that look like the attribute
    lookalike = make.mr()
    lookalike.PixelData = frames[: len(lookalike.PixelData)]
    assert not may_hold_several(make.encoded(lookalike))
    assert may_hold_several(make.encoded(make.enhanced()))
    assert may_hold_several(brain())
    assert not may_hold_several(encode_array(RAMP))


def test_the_slices_of_a_file_are_read_one_by_one_and_not_as_one(tmp_path: Path) -> None:
    file = tmp_path / "frames"
    file.write_bytes(make.encoded(make.enhanced()))
    assert [scan.source for scan in read_all(file)] == [f"{file}#{number}" for number in (1, 2, 3, 4)]
    assert reason_of(file) == "holds several slices; ask for all of them, or choose one"
    assert read(make.encoded(make.mr()), "one").source == "one"
    (image,) = read_all(encode_array(RAMP), "image")
    assert (image.source, image.place, image.origin, image.notes) == ("image", None, None, ())
