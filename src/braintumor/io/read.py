"""Read files into slices: recognise the format, decode images, and hand volumes to the readers for DICOM and NIfTI."""

import io
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from braintumor.dicom.part10 import dicom_start
from braintumor.errors import DECODE_ERRORS, ImageError, MissingExtraError, Refusal
from braintumor.io.deep import check_deep, deep_colour, deep_grey, is_deep_colour, raw_modes, take_low_bytes
from braintumor.io.scan import ALL_SLICES, LARGEST_SIDE, Scan, SliceSelection, unusable_size

FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP")
UNKNOWN_FORMAT: Final = "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file"
PILLOW_ERRORS: Final = (*DECODE_ERRORS, Image.DecompressionBombError)
"""Exceptions that Pillow raises on damaged files."""
LARGEST_FILE: Final = 512 << 20  # bytes
OUT_OF_MEMORY: Final = ("not enough memory to decode it", Refusal.OUT_OF_MEMORY)
UNDECODABLE: Final = "damaged, or of a kind that cannot be decoded; export it again"
DAMAGED: Final = (UNDECODABLE, Refusal.UNDECODABLE)
SEVERAL: Final = "holds several slices; ask for all of them, or choose one"
NUMBER_OF_FRAMES: Final = (b"\x28\0\x08\0", b"\0\x28\0\x08", b"1.2.840.10008.1.2.1.99")
"""The attribute's tag in both byte orders, and the transfer syntax whose content is packed."""
PIXEL_DATA: Final = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")
START_BYTES: Final = 352  # a NIfTI-1 header and its extension flag; the start of a DICOM file is shorter
GZIP: Final = b"\x1f\x8b"
NIFTI_1: Final = (b"n+1\0", b"ni1\0")
NIFTI_2: Final = b"n+2\0\r\n\x1a\n"
CHROMA: Final = 20  # of 255: difference between channels from which on a pixel is clearly coloured
PILLOW_MODULES: Final = r"PIL\."
# As `warnings.filterwarnings` stores the filter, to see whether it is installed already.
PILLOW_FILTER: Final[Any] = ("ignore", None, Warning, re.compile(PILLOW_MODULES), 0)
EMPTY_FILE: Final = ("empty (0 bytes)", Refusal.EMPTY)


def read(source: str | Path | bytes, name: str | None = None, *, largest: int = LARGEST_SIDE**2) -> Scan:
    """Return the slice in a PNG, JPEG, TIFF, BMP, DICOM or NIfTI file, recognised by its content.

    Images are turned as their EXIF data says. Colour becomes ITU-R 601 luma, transparency lies on black. 8-bit grey
    values are divided by 255. Of 16-bit values, grey or colour, the 0.1 and the 99.9 percentile become black and white,
    with a note, as for DICOM without a window: scanners store 12 bits or fewer in 16, and how many of them are in use
    says nothing about the brightness. Values with the full range of a bit depth keep it, see `grey.deep_limits`: an
    8-bit image times 257 gives the pixels of the 8-bit one. For DICOM see `dicom.read.read_dicom`, for NIfTI
    `nifti.read_nifti`. Calls from several threads are safe. Warnings of Pillow's decoders are silenced for the process.

    Args:
        source: a path, or the content of a file.
        name: what to call the slice; the path as given, or `bytes`, by default.
        largest: number of pixels that are read at most.

    Raises:
        ImageError: missing, unreadable, damaged or truncated file, another format, several slices or frames, float or
            more than 16-bit pixels of an image, less than 16 or more than 8,000 pixels on a side.
        MissingExtraError: the libraries for DICOM or NIfTI are not installed.
    """
    # The second slice is reason enough to refuse: the rest of a volume is not decoded.
    scans = list(islice(read_all(source, name, largest=largest), 2))
    if len(scans) > 1:
        raise ImageError(_named(source, name), SEVERAL, Refusal.SEVERAL_SLICES)
    return scans[0]


def read_all(
    source: str | Path | bytes,
    name: str | None = None,
    *,
    largest: int = LARGEST_SIDE**2,
    choice: SliceSelection = ALL_SLICES,
) -> Iterator[Scan]:
    """Yield the selected slices of a file of any kind that `read` knows, one at a time; at least one.

    A slice of a DICOM file of several frames, or of a NIfTI volume, is named by the file's name, # and its number.

    Args:
        source: a path, or the content of a file.
        name: what to call the file; the path as given, or `bytes`, by default.
        largest: number of pixels of a slice that are read at most.
        choice: which slices of a volume to read.

    Raises:
        ImageError: as `read`; or the file holds none of the selected slices.
        MissingExtraError: the libraries for DICOM or NIfTI are not installed.
    """
    name = _named(source, name)
    kind = volume_kind(source, name)
    if kind is None:
        with _decoding(source, name, largest) as picture:
            grey, notes = _grey_values(picture, name)
            yield Scan(grey, source=name, notes=notes)
        return
    content = source if isinstance(source, bytes) else read_volume_file(source, name)
    count = 0
    try:
        for scan in _volume_slices(kind, content, name, largest=largest, choice=choice):
            count += 1
            yield scan
    except PILLOW_ERRORS as error:  # readers refuse with ImageError; these come from the libraries below them
        raise ImageError(name, *(OUT_OF_MEMORY if isinstance(error, MemoryError) else DAMAGED)) from error
    if not count:
        raise ImageError(name, "none of its slices has a requested number", Refusal.NO_SLICE)


def read_volume_file(file: str | Path, name: str) -> bytes:
    """Return the content of a file that may hold a volume.

    Raises:
        ImageError: it cannot be opened, or is larger than 512 MiB.
    """
    with _open_source(file, name) as stream:
        content = stream.read(LARGEST_FILE + 1)  # the size in the file system may have changed since
    if len(content) > LARGEST_FILE:
        raise ImageError(name, f"larger than {LARGEST_FILE >> 20} MiB; split the volume", Refusal.TOO_LARGE)
    return content


def _named(source: str | Path | bytes, name: str | None) -> str:
    return name or ("bytes" if isinstance(source, bytes) else str(source))


def volume_kind(source: str | Path | bytes, name: str = "bytes") -> Literal["dicom", "nifti"] | None:
    """Return the kind of a file that may hold a volume, by its first bytes; None for all other files.

    Raises:
        ImageError: the file cannot be opened.
    """
    if isinstance(source, bytes):
        start = source[:START_BYTES]
    else:
        with _open_source(source, name) as stream:
            start = stream.read(START_BYTES)
    if dicom_start(start) is not None:
        return "dicom"
    # Of packed files only NIfTI is read; whether this is one shows when it is unpacked.
    is_packed = start.startswith(GZIP)
    return "nifti" if is_packed or start[344:348] in NIFTI_1 or start[4:12] == NIFTI_2 else None


def may_hold_several(content: bytes) -> bool:
    """Tell whether a file may hold several slices, without parsing it: NIfTI, DICOM with a Number of Frames.

    Deflated DICOM may, too: its attributes cannot be seen. The answer may be wrong for a file made to mislead, which
    turns out to hold several slices when it is read.
    """
    kind = volume_kind(content)
    if kind != "dicom":
        return kind == "nifti"
    # Only what precedes the pixels counts, whose bytes may equal the tag by chance.
    header = min((offset for tag in PIXEL_DATA if (offset := content.find(tag)) >= 0), default=len(content))
    return any(content.find(tag, 0, header) >= 0 for tag in NUMBER_OF_FRAMES)


def _volume_slices(
    kind: Literal["dicom", "nifti"], content: bytes, name: str, *, largest: int, choice: SliceSelection
) -> Iterator[Scan]:
    """Return the slices of a DICOM or NIfTI file.

    Raises:
        MissingExtraError: the format's libraries are not installed.
    """
    # Imported here: pydicom and nibabel are extras, and images need neither.
    try:
        if kind == "dicom":
            from braintumor.dicom.read import read_dicom as read_volume
        else:
            from braintumor.io.nifti import read_nifti as read_volume
    except ModuleNotFoundError as error:
        raise MissingExtraError(kind, str(error.name)) from error
    return read_volume(content, name, largest, choice)


@dataclass(frozen=True)
class Stored:
    """The way in which a file stores its slice.

    Attributes:
        format: PNG, JPEG, TIFF or BMP.
        mode: Pillow's name for the kind of pixels: L is 8-bit grey, RGB colour, P a palette.
        coloured: share of the pixels that are clearly coloured, not grey.
    """

    format: str
    mode: str
    coloured: float


def read_stored(source: str | Path | bytes, name: str | None = None) -> tuple[Scan, Stored]:
    """Return the slice as `read` does, and how its file stores it.

    Raises:
        ImageError: as `read`.
    """
    name = _named(source, name)
    with _decoding(source, name) as picture:
        image = picture.image
        stored = Stored(image.format or "", image.mode, _coloured_share(image))
        grey, notes = _grey_values(picture, name)
        return Scan(grey, source=name, notes=notes), stored


def _coloured_share(image: Image.Image) -> float:
    """Return the share of the pixels whose largest and smallest channel differ by more than 20 of 255."""
    if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
        return 0.0
    red, green, blue = image.convert("RGB").split()
    # In Pillow's bytes and a histogram: NumPy would need several copies of the image.
    lightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    counts = ImageChops.subtract(lightest, darkest).histogram()
    return sum(counts[CHROMA + 1 :]) / sum(counts)


def _silence_decoders() -> None:
    """Ignore warnings raised inside Pillow; `warnings.catch_warnings` would not be safe in threads."""
    if PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", category=Warning, module=PILLOW_MODULES)


def _open_source(source: str | Path | bytes, name: str) -> AbstractContextManager[IO[bytes]]:
    """Return the open stream of a regular, non-empty file or of the bytes.

    Raises:
        ImageError: there is no such file, or it is empty, a folder, a device or not permitted.
    """
    if isinstance(source, bytes):
        if not source:
            raise ImageError(name, *EMPTY_FILE)
        return io.BytesIO(source)
    try:
        status = Path(source).stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(name, "is a folder; name one image file", Refusal.CANNOT_OPEN)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(name, "not a regular file", Refusal.CANNOT_OPEN)
        if status.st_size == 0:
            raise ImageError(name, *EMPTY_FILE)
        return Path(source).open("rb")
    except OSError as error:
        raise ImageError(name, (error.strerror or "cannot be opened").lower(), Refusal.CANNOT_OPEN) from error
    except ValueError as error:  # a zero byte in the path
        raise ImageError(name, "not a valid file name", Refusal.CANNOT_OPEN) from error


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image.

    Attributes:
        image: upright, with at most 8 bits per channel unless it is grey.
        deep: (H, W) luma from 0 to 65,535 of an image with 16 bits per channel of colour; None for all others.
    """

    image: Image.Image
    deep: NDArray[np.float32] | None


@contextmanager
def _decoding(source: str | Path | bytes, name: str, largest: int = LARGEST_SIDE**2) -> Iterator[Picture]:
    """Yield the upright image in a file; turn what Pillow raises on it, also in the caller's block, into `ImageError`.

    Raises:
        ImageError: it cannot be opened or decoded, or is no single slice of a usable size.
    """
    _silence_decoders()
    with _open_source(source, name) as stream:
        try:
            with _upright(stream, name, largest) as picture:
                yield picture
        except PILLOW_ERRORS as error:
            raise ImageError(name, *_failure_reason(error)) from error


@contextmanager
def _upright(stream: IO[bytes], name: str, largest: int) -> Iterator[Picture]:
    """Yield the decoded image in a stream, turned as its EXIF data says.

    Raises:
        ImageError: it decodes but is no single slice of a usable size.
    """
    with Image.open(stream, formats=FORMATS) as image:
        # The header alone decides about the size: nothing of a decompression bomb is decoded.
        if reason := unusable_size(*image.size, largest):
            raise ImageError(name, *reason)
        if _holds_several(image):
            raise ImageError(
                name, "holds several images; save the slice to classify as one image", Refusal.SEVERAL_SLICES
            )
        check_deep(image, name)
        # Asked for before `load`, after which Pillow no longer knows how the pixels are stored.
        stored = raw_modes(image)[0] if is_deep_colour(image) else None
        image.load()
        _turn_upright(image)
        yield Picture(image, None if stored is None else deep_colour(image, _lower_bytes(stream), stored))


def _lower_bytes(stream: IO[bytes]) -> Image.Image:
    """Return an image of deep colour, upright, with the lower 8 bits of its channels instead of the upper."""
    # Pillow keeps 8 bits of a channel, so the file is decoded twice: for the upper and for the lower byte.
    stream.seek(0)
    image = Image.open(stream, formats=FORMATS)
    take_low_bytes(image)
    image.load()
    _turn_upright(image)
    return image


def _holds_several(image: Image.Image) -> bool:
    """Tell whether a file goes on after its first image, without counting what may be a hundred thousand of them."""
    # Pillow's `n_frames` would walk through all of them.
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation in place; damaged EXIF data leaves the image as stored."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except PILLOW_ERRORS:
        return


def _grey_values(picture: Picture, name: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return the (H, W) float32 grey values in [0, 1] of a decoded image, and what had to be assumed.

    Raises:
        ImageError: values that are negative or of more than 16 bits.
    """
    image = picture.image
    if picture.deep is not None:
        return deep_grey(picture.deep, name)
    if image.mode.startswith("I"):
        return deep_grey(np.asarray(image), name)
    if image.has_transparency_data:
        # Luma times opacity is the image on black; Pillow's own conversion ignores the opacity.
        image = image.convert("RGBA")
        return _scale_bytes(image.convert("L")) * _scale_bytes(image.getchannel("A")), ()
    if image.mode not in ("1", "L", "P", "RGB"):
        image = image.convert("RGB")
    return _scale_bytes(image.convert("L")), ()


def _scale_bytes(image: Image.Image) -> NDArray[np.float32]:
    """Return an 8-bit channel as (H, W) float32 in [0, 1]."""
    return np.asarray(image, np.float32) / np.float32(255)


def _failure_reason(error: BaseException) -> tuple[str, Refusal]:
    """Return why decoding failed, without Pillow's own text, which may hold paths."""
    # UnidentifiedImageError is an OSError, as truncation is: the narrower classes come first.
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels; at most {LARGEST_SIDE} on each side are read", Refusal.TOO_LARGE
    if isinstance(error, UnidentifiedImageError):
        return UNKNOWN_FORMAT, Refusal.UNKNOWN_FORMAT
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated; copy the file again", Refusal.TRUNCATED
    return DAMAGED
