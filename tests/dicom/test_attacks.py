"""Files that are made to hurt whoever decodes them: through the sandbox, each gets one clear refusal, and soon."""

import io
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from braintumor.errors import ImageError
from braintumor.io.confinement import MEMORY_BYTES
from braintumor.io.sandbox import Sandbox
from tests.dicom.make import DEFLATED, NAME, PATIENT, encoded, mr, shown


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(1) as running:
        list(running.read_all(encoded(mr()), "warm"))
        yield running


def compressed(frame: bytes, syntax: str, rows: int, columns: int, frames: int = 1) -> bytes:
    """Return an MR file with this compressed frame."""
    dataset = mr(bits=8, syntax=RLELossless)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, frames
    dataset.PixelData = encapsulate([frame])
    dataset.file_meta.TransferSyntaxUID = syntax
    return encoded(dataset)


def deflate_bomb() -> bytes:
    """Return 300 MB of zeros as pixels in the deflated transfer syntax, in 300 kB."""
    return deflated(lambda packer: b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)))


def deflate_bomb_of_attributes() -> bytes:
    """Return a deflated file with 24 MB of empty attributes."""
    element = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0)
    return deflated(lambda packer: packer.compress(element * 3_000_000), pixels=False)


def deflated(rest: Callable[["zlib._Compress"], bytes], pixels: bool = True) -> bytes:
    """Return a deflated file that goes on with something after its attributes."""
    content = encoded(mr(syntax=DEFLATED, PixelData=None))
    start = 132 + 12 + struct.unpack_from("<I", content, 140)[0]
    attributes = zlib.decompress(content[start:], -15)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", 300 << 20) if pixels else b""
    return content[:start] + packer.compress(attributes + head) + rest(packer) + packer.flush()


def rle_bomb(rows: int) -> bytes:
    """Return an RLE frame of so many rows and columns of zeros, 1/64 of the size."""
    segment = b"\x81\x00" * (rows * rows // 128)
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + segment
    return compressed(frame, RLELossless, rows, rows)


def rle_lie() -> bytes:
    """Return an RLE frame that decodes to 128 times the pixels of the header."""
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 18_000_000
    return compressed(frame, RLELossless, 96, 96)


def jpeg_2000(side: int, stated: int) -> bytes:
    """Return a blank JPEG 2000 image of so many rows and columns, with others in the header."""
    stream = io.BytesIO()
    Image.new("L", (1000, 1000)).save(stream, "JPEG2000", no_jp2=True, tile_size=(500, 500))
    frame = stream.getvalue().replace(struct.pack(">II", 1000, 1000), struct.pack(">II", side, side), 1)
    return compressed(frame, JPEG2000Lossless, stated, stated)


def native(**attributes: int) -> bytes:
    return encoded(mr(**attributes))


def nested() -> bytes:
    """Return 20,000 sequences of undefined length, one in the other."""
    start = struct.pack("<HH2s2xI", 0x0040, 0xA730, b"SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return before_pixels(start * 20_000 + end * 20_000)


def nested_functional_groups() -> bytes:
    """Return 3,000 shared functional groups with their lengths, one in the other, which a parser reads late."""
    content = b""
    for _ in range(3_000):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
        content = struct.pack("<HH2s2xI", 0x5200, 0x9229, b"SQ", len(item)) + item
    return before_pixels(content)


def long_element() -> bytes:
    return before_pixels(struct.pack("<HH2s2xI", 0x5000, 0x0010, b"OB", 0xFFFFFFF0))


def many_fragments(frames: int) -> bytes:
    """Return 300,000 empty fragments that are said to be so many frames."""
    content = compressed(b"\0\0", RLELossless, 96, 96, frames)
    start = content.index(b"\xe0\x7f\x10\x00") + 12
    empty = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    return content[:start] + empty * 300_000 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def before_pixels(inserted: bytes) -> bytes:
    content = encoded(mr())
    start = content.index(b"\xe0\x7f\x10\x00OW")
    return content[:start] + inserted + content[start:]


def wide_dimensions() -> bytes:
    """Return Rows as a 32-bit number, as in CVE-2026-5442."""
    rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 96)
    return encoded(mr()).replace(rows, struct.pack("<HH2sHI", 0x0028, 0x0010, b"UL", 4, 0x10060))


def palette() -> bytes:
    """Return indices of 16 bits into a palette of two colours."""
    from tests.dicom.make import capture

    dataset: Dataset = capture(SamplesPerPixel=1, PhotometricInterpretation="PALETTE COLOR", PlanarConfiguration=None)
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", b"\0\0\xff\xff")
    return encoded(dataset)


def random() -> bytes:
    return bytes(128) + b"DICM" + np.random.default_rng(0).bytes(100_000)


ATTACKS: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "deflate bomb": (deflate_bomb, "inflates to more than 16 MiB"),
    "deflate bomb of attributes": (deflate_bomb_of_attributes, "inflates to more than 16 MiB"),
    "RLE bomb": (lambda: rle_bomb(40_000), "40000 x 40000 pixels; at most"),
    "RLE lie": (rle_lie, "longer than Rows and Columns can need"),
    "JPEG 2000 bomb": (lambda: jpeg_2000(20_000, 20_000), "20000 x 20000 pixels; at most"),
    "JPEG 2000 lie": (
        lambda: jpeg_2000(20_000, 256),
        "the compressed pixels are 20000 x 20000, Rows and Columns say 256",
    ),
    "JPEG 2000 huge": (lambda: jpeg_2000(2**32 - 1, 256), "more JPEG 2000 tiles than the standard allows"),
    "65,535 rows": (lambda: native(Rows=65_535, Columns=65_535), "65535 x 65535 pixels; at most"),
    "a billion frames": (lambda: native(NumberOfFrames=10**9), "truncated: "),
    "empty frames": (lambda: many_fragments(299_999), "the RLE pixels have no header"),
    "empty fragments": (lambda: many_fragments(1), "the RLE pixels have no header|takes too long"),
    "nested sequences": (nested, "nested too deeply"),
    "a length of 4 GB": (long_element, "no pixel data"),
    "truncated": (lambda: encoded(mr())[:-5000], "truncated: "),
    "random": (random, "TransferSyntaxUID is missing|damaged"),
    "nothing but the mark": (lambda: bytes(128) + b"DICM", "TransferSyntaxUID is missing"),
    "dimensions of 32 bits": (wide_dimensions, "Rows is not one unsigned 16-bit number"),
    "a colour that is not there": (palette, "refers to a colour that the palette does not have"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_soon_and_the_next_file_is_read(attack: str, sandbox: Sandbox) -> None:
    make, reason = ATTACKS[attack]
    content = make()
    began = time.monotonic()
    with pytest.raises(ImageError, match=reason) as caught:
        list(sandbox.read_all(content, "attack"))
    seconds = time.monotonic() - began
    assert str(caught.value).startswith("attack: ")
    assert NAME not in str(caught.value)
    assert PATIENT not in str(caught.value)
    assert seconds < 1.5 + len(content) / 20e6
    assert peak_bytes(sandbox) < MEMORY_BYTES
    (scan,) = sandbox.read_all(encoded(mr()), "good")
    np.testing.assert_allclose(scan.pixels, shown(), atol=1e-6)


def test_sequences_that_nobody_asks_for_may_be_nested_deeply(sandbox: Sandbox) -> None:
    (scan,) = sandbox.read_all(nested_functional_groups(), "deep")
    np.testing.assert_allclose(scan.pixels, shown(), atol=1e-6)


def peak_bytes(sandbox: Sandbox) -> int:
    """Return the most memory that the child ever held."""
    (child,) = sandbox._all
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
