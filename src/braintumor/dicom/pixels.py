"""Find the pixels of a frame in a DICOM file and decode them, one frame at a time and only on demand."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from braintumor.dicom import bitstream
from braintumor.dicom.attributes import code, integer, values
from braintumor.errors import DicomRefusalError, Refusal

NATIVE: Final = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
"""Transfer syntaxes whose pixels are not compressed."""
DECODERS: Final[dict[str, str]] = {
    bitstream.RLE: "pydicom",
    **dict.fromkeys(bitstream.STARTS, "gdcm"),
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(bitstream.JPEG_2000, "pylibjpeg"),
}
"""The pydicom plugin for each compressed transfer syntax: always the same one, so that a slice does not depend on what
else is installed; none under the GPL."""
KINDS: Final = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
"""Samples per pixel of each photometric interpretation that is read (PS3.3 C.7.6.3.1.2)."""
ITEM: Final = struct.Struct("<II")
ITEM_START: Final = 0xE000FFFE
ITEMS_END: Final = 0xE0DDFFFE
FEWER: Final = "truncated: not all frames are in the pixel data; send the image again"


@dataclass(frozen=True)
class Layout:
    """Storage layout of the pixels of an image (PS3.3 C.7.6.3.1).

    Attributes:
        rows: height of each frame in pixels.
        columns: width of each frame in pixels.
        frames: number of frames.
        kind: PhotometricInterpretation, one of `KINDS`.
        allocated: bits allocated per sample, 8 or 16.
        stored: bits stored per sample.
        signed: whether samples are two's complement.
        planar: PlanarConfiguration.
    """

    rows: int
    columns: int
    frames: int
    kind: str
    allocated: int
    stored: int
    signed: bool
    planar: int

    @property
    def samples(self) -> int:
        """Samples per pixel."""
        return KINDS[self.kind]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame where it is not compressed."""
        # 4:2:2 stores both chroma samples once per two pixels: two samples a pixel on average (PS3.3 C.7.6.3.1.2).
        samples = 2 if self.kind == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.allocated // 8


def check_syntax(syntax: str) -> None:
    """Refuse a transfer syntax that is not supported.

    Raises:
        DicomRefusalError: it is neither native nor has a decoder.
    """
    if syntax not in NATIVE and syntax not in DECODERS:
        # Only names of the standard's list are repeated: the file's text may be anything, even a patient's name.
        name = UID(syntax).name if syntax in AllTransferSyntaxes else "unknown"
        raise DicomRefusalError(f"TransferSyntaxUID is {name}; export the image uncompressed", Refusal.UNSUPPORTED)


def layout(header: Dataset) -> Layout:
    """Return the storage layout that a header states.

    Raises:
        DicomRefusalError: an attribute is missing, impossible, or has a value that is not supported.
    """
    rows, columns = (_dimension(header, keyword) for keyword in ("Rows", "Columns"))
    kind, samples = code(header, "PhotometricInterpretation"), integer(header, "SamplesPerPixel", 1)
    if kind not in KINDS:
        if not kind:
            raise DicomRefusalError("PhotometricInterpretation is missing; send the image again")
        supported = ", ".join(KINDS)
        raise DicomRefusalError(
            f"PhotometricInterpretation is not one of {supported}; export the image again", Refusal.UNSUPPORTED
        )
    if samples != KINDS[kind]:
        raise DicomRefusalError(f"SamplesPerPixel is {samples}; {kind} has {KINDS[kind]}; send the image again")
    allocated = integer(header, "BitsAllocated")
    stored = integer(header, "BitsStored", allocated)
    if allocated not in (8, 16):
        raise DicomRefusalError(f"BitsAllocated is {allocated}; only 8 and 16 are supported", Refusal.UNSUPPORTED)
    # HighBit has to be BitsStored - 1 (PS3.5 8.1.1).
    if not 1 <= stored <= allocated or integer(header, "HighBit", stored - 1) != stored - 1:
        raise DicomRefusalError("BitsStored and HighBit do not fit BitsAllocated; send the image again")
    signed, planar = integer(header, "PixelRepresentation", 0), integer(header, "PlanarConfiguration", 0)
    if signed not in (0, 1) or planar not in (0, 1):
        raise DicomRefusalError("PixelRepresentation or PlanarConfiguration is neither 0 nor 1; send the image again")
    frames = integer(header, "NumberOfFrames", 1)
    if frames < 1:
        raise DicomRefusalError(f"NumberOfFrames is {frames}; send the image again")
    return Layout(
        rows=rows,
        columns=columns,
        frames=frames,
        kind=kind,
        allocated=allocated,
        stored=stored,
        signed=bool(signed),
        planar=planar,
    )


def _dimension(header: Dataset, keyword: str) -> int:
    """Return Rows or Columns.

    Raises:
        DicomRefusalError: it is missing, not between 1 and 65,535, or its VR is not US.
    """
    length = integer(header, keyword)
    # A decoder that trusts the VR of the file may read 32 bits here and allocate for them (CVE-2026-5442).
    if header[keyword].VR != "US" or len(values(header, keyword)) != 1:
        raise DicomRefusalError(f"{keyword} is not one unsigned 16-bit number; send the image again")
    if not 1 <= length <= 65_535:
        raise DicomRefusalError(f"{keyword} is {length}; send the image again")
    return length


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixel data element of a file, not yet decoded.

    Attributes:
        syntax: UID of the transfer syntax.
        content: the element's value; where it is compressed, all bytes up to the end of the file.
        vr: OB or OW.
        extended: the Extended Offset Table and its lengths, None where the file has none.
    """

    syntax: str
    content: memoryview
    vr: str
    extended: tuple[bytes, bytes] | None = None


def check_amount(pixels: Pixels, stored: Layout) -> None:
    """Refuse an image that states more frames than its data can hold.

    Raises:
        DicomRefusalError: it does, its data is cut off, or its 8-bit frames cannot be told apart.
    """
    if pixels.syntax in NATIVE:
        needed, held = stored.frames * stored.frame_bytes, len(pixels.content)
        if needed > held:
            raise DicomRefusalError(
                f"truncated: {held:,} of {needed:,} bytes of pixels; send the image again", Refusal.TRUNCATED
            )
        # In big endian OW each pair of 8-bit pixels is swapped (PS3.5 8.1.1). Where frames have an odd number of bytes,
        # pairs lie across two frames, so that no frame can be cut out on its own.
        is_swapped = pixels.syntax == ExplicitVRBigEndian and pixels.vr == "OW" and stored.allocated == 8
        if is_swapped and stored.frames > 1 and stored.frame_bytes % 2:
            raise DicomRefusalError(
                "the big endian 8-bit frames have an odd size; export the image again", Refusal.UNSUPPORTED
            )
    # A frame takes one or more fragments, so there cannot be more frames than fragments.
    elif stored.frames > _fragments(pixels.content):
        raise DicomRefusalError(f"NumberOfFrames is {stored.frames:,}, more than the file holds; send the image again")


def _fragments(content: memoryview) -> int:
    """Return the number of fragments of encapsulated pixel data, without the offset table (PS3.5 A.4).

    Raises:
        DicomRefusalError: it is empty, cut off or damaged.
    """
    count, position = -1, 0  # the first item is the offset table, even where it is empty
    while position + ITEM.size <= len(content):
        tag, length = ITEM.unpack_from(content, position)
        if tag == ITEMS_END:
            if count < 1:
                raise DicomRefusalError("no pixel data; send the image again", Refusal.NO_SLICE)
            return count
        if tag != ITEM_START:
            raise DicomRefusalError("damaged pixel data: an item does not start where it should; send the image again")
        count += 1
        position += ITEM.size + length
    raise DicomRefusalError("truncated: the pixel data has no end; send the image again", Refusal.TRUNCATED)


def frames(pixels: Pixels, stored: Layout) -> Iterator[memoryview | bytes]:
    """Yield the stored data of each frame in order, not decoded.

    Raises:
        DicomRefusalError: there are fewer than NumberOfFrames.
    """
    if pixels.syntax in NATIVE:
        # A frame of odd size comes with one byte more: the pad byte, or the first byte of the next frame. pydicom takes
        # it, and big endian OW needs it: there the last 8-bit pixel of an image is swapped with the pad byte.
        for index in range(stored.frames):
            start = index * stored.frame_bytes
            yield pixels.content[start : start + stored.frame_bytes + stored.frame_bytes % 2]
        return
    stream = io.BytesIO(pixels.content)
    count = 0
    try:
        for frame in generate_frames(stream, number_of_frames=stored.frames, extended_offsets=pixels.extended):
            if count == stored.frames:  # pydicom goes on while fragments are left
                return
            count += 1
            yield frame
    except ValueError as error:
        raise DicomRefusalError(FEWER, Refusal.TRUNCATED) from error
    if count < stored.frames:
        raise DicomRefusalError(FEWER, Refusal.TRUNCATED)


def decode(frame: memoryview | bytes, pixels: Pixels, stored: Layout) -> NDArray[Any]:
    """Return the stored values of a frame: (H, W) integers, or (H, W, 3) in RGB.

    Raises:
        DicomRefusalError: the compressed data states another size than the header, or it cannot be decoded.
    """
    # The decoder gets one frame as an image of its own: it never sees the rest of the file.
    options: dict[str, Any] = {
        "rows": stored.rows,
        "columns": stored.columns,
        "number_of_frames": 1,
        "samples_per_pixel": stored.samples,
        "photometric_interpretation": stored.kind,
        "bits_allocated": stored.allocated,
        "bits_stored": stored.stored,
        "pixel_representation": int(stored.signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": pixels.vr,
    }
    if stored.samples > 1:
        options["planar_configuration"] = stored.planar
    source: bytes = bytes(frame)
    if pixels.syntax not in NATIVE:
        _check(source, pixels.syntax, stored)
        options["decoding_plugin"] = DECODERS[pixels.syntax]
        source = encapsulate([source], has_bot=False)
    try:
        decoded, properties = get_decoder(UID(pixels.syntax)).as_array(source, index=0, **options)
    except RuntimeError as error:  # pydicom turns whatever a plugin raises into this
        raise DicomRefusalError("damaged pixels: they cannot be decompressed; send the image again") from error
    if decoded.shape[:2] != (stored.rows, stored.columns):
        raise DicomRefusalError("damaged pixels: their size differs from Rows and Columns; send the image again")
    if stored.samples > 1 and properties["photometric_interpretation"] != "RGB":
        raise DicomRefusalError(f"the {stored.kind} pixels cannot be converted to RGB; export the image again")
    return decoded


def _check(frame: bytes, syntax: str, stored: Layout) -> None:
    """Refuse a compressed frame whose stated size differs from the header's, before a decoder sees it.

    Raises:
        DicomRefusalError: it does, or the frame states none; or it is lossy JPEG of more than 8 bits.
    """
    if syntax == bitstream.RLE:
        bitstream.check_rle(
            frame, rows=stored.rows, columns=stored.columns, samples=stored.samples, bits=stored.allocated
        )
        return
    size = bitstream.size(frame, syntax)
    if (size.rows, size.columns) != (stored.rows, stored.columns):
        raise DicomRefusalError(
            f"the compressed pixels are {size.columns} x {size.rows}, Rows and Columns say "
            f"{stored.columns} x {stored.rows}; send the image again"
        )
    if size.samples != stored.samples:
        raise DicomRefusalError(
            f"the compressed pixels have {size.samples} samples, SamplesPerPixel is {stored.samples}"
        )
    # Pillow decodes these two, and knows 8 bits only.
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and size.bits != 8:
        raise DicomRefusalError(
            f"lossy JPEG of {size.bits} bits; only 8 are supported; export the image uncompressed", Refusal.UNSUPPORTED
        )
    if size.bits > stored.allocated:
        raise DicomRefusalError(f"the compressed pixels have {size.bits} bits, BitsAllocated is {stored.allocated}")
