"""Read NIfTI volumes into slices in radiological convention."""

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, Final

import numpy as np
from nibabel.nifti1 import Nifti1Header, data_type_codes, intent_codes
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import apply_orientation
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from braintumor.errors import ImageError, Refusal
from braintumor.io.grey import BY_PERCENTILES, limits
from braintumor.io.scan import (
    LARGEST_SIDE,
    LARGEST_VOLUME,
    Scan,
    SlicePosition,
    SliceSelection,
    slice_name,
    unusable_size,
)
from braintumor.io.slice_geometry import slice_geometry
from braintumor.io.square import square_shape, squared

SAMPLE: Final = 2_000_000  # voxels, at most, from which the grey values of a volume are chosen
NO_WINDOW: Final = f"no window in the file: {BY_PERCENTILES} of the volume"
WINDOW_UNUSED: Final = f"display range in the file not used: {BY_PERCENTILES} of the volume"
TRUNCATED: Final = "truncated; copy the file again"
LONGEST_HEADER: Final = 540  # bytes, of NIfTI-2
HEADERS: Final[dict[bytes, tuple[Any, int, str]]] = {
    struct.pack(f"{order}i", length): (kind, length, order)
    for kind, length in ((Nifti1Header, 348), (Nifti2Header, 540))
    for order in "<>"
}
"""The class, length and byte order of a header by its first bytes, which are its length."""
LARGEST_EXTENSION: Final = 16 << 20  # bytes between header and voxels
TYPES: Final = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    "float32",
    "float64",
}
# Statistics; labels, vectors, matrices and other values that are no picture; data on surfaces; connectivity (CIFTI).
UNFIT_INTENTS: Final = (*range(2, 25), *range(1001, 1012), *range(2002, 2007), *range(3000, 3013))


def read_nifti(content: bytes, name: str, largest: int, choice: SliceSelection) -> Iterator[Scan]:
    """Yield the selected slices of a NIfTI volume, .nii or .nii.gz, version 1 or 2, in the order of their numbers.

    Slices lie in radiological convention by the header's sform, else its qform: the patient's right is on the left of
    axial and coronal slices, anterior on top of axial and on the left of sagittal ones, superior on top of the others.
    Number 1 is the most inferior axial, the most posterior coronal, the rightmost sagittal slice. Oblique volumes are
    cut along the voxel axes closest to the patient's. The plane `acquired` is across the axis of the largest voxel
    spacing; of spacings that differ by less than 5 % axial comes first, then coronal. A volume without sform and qform
    has only that plane, as it is stored, preferably across the third axis.

    Grey values go from the 0.1 to the 99.9 percentile of the volume's finite voxels other than 0; of more than two
    million voxels, of a regular grid among them. Pixels that are not square within 1 % become so, bilinearly along the
    coarser direction. `SlicePosition.position` is in millimetres along the slices' normal.

    Args:
        content: of the file.
        name: of the file and the volume; one of several slices is named by it, # and the number.
        largest: the most pixels of a slice that are read.
        choice: which slices to read.

    Raises:
        ImageError: not a single NIfTI file, damaged, truncated or too large; several volumes; colour, complex or label
            voxels; an unusable orientation; slices of an unusable size; none of the selected slices is there.

    Source: nifti1.h of the NIfTI-1.1 standard, methods 2 and 3 of its section on orientation.
    """
    header, voxels = _stored(content, name)
    geometry = slice_geometry(header, voxels.shape, choice.plane, name)
    turned = apply_orientation(voxels, geometry.turn)  # (columns, rows, slices), a view
    count = turned.shape[2]
    numbers = [number for number in range(1, count + 1) if choice.wants(number)]
    if not numbers:
        raise ImageError(
            name,
            f"has slices 1 to {count} in this plane, none of which was requested; choose others",
            Refusal.NO_SLICE,
        )
    # The size counts as it will be with square pixels: thin ones could blow a small slice up to any size.
    columns, rows, _ = geometry.spacing
    height, width = square_shape((turned.shape[1], turned.shape[0]), rows, columns)
    if reason := unusable_size(width, height, largest):
        raise ImageError(name, f"slices of {reason[0]}", reason[1])
    grey = _grey_of(header, voxels, name)
    for number in numbers:
        pixels, missing_notes = grey(turned[:, :, number - 1].T)
        pixels, spacing, square_notes = squared(pixels, (rows, columns))
        yield Scan(
            pixels,
            spacing,
            source=slice_name(name, number, count),
            notes=(*grey.notes, *geometry.notes, *missing_notes, *square_notes),
            place=SlicePosition(name, number, geometry.position(number - 1)),
        )


@dataclass(frozen=True)
class GrayScaling:
    """The mapping from the voxels of a volume to grey values in [0, 1], the same for all its slices.

    Attributes:
        slope: a value is `slope` * voxel + `intercept`.
        intercept: see `slope`.
        low: value that becomes black.
        high: value that becomes white.
        notes: what had to be assumed.
    """

    slope: float
    intercept: float
    low: float = 0.0
    high: float = 1.0
    notes: tuple[str, ...] = ()

    def values(self, voxels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the values of voxels, which may be infinite or NaN."""
        # float64: rescaled 32-bit integers are not exact in float32.
        return voxels.astype(np.float64) * self.slope + self.intercept

    @np.errstate(all="ignore")
    def __call__(self, voxels: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Return the float32 grey values of voxels, and a note if some have none."""
        values = self.values(voxels)
        is_finite = np.isfinite(values)
        shares = ((values - self.low) / (self.high - self.low)).clip(0, 1)
        # Of finite values the shares may be NaN: a range beyond float64 overflows, and 0 / 0 is none.
        grey = np.where(is_finite & np.isfinite(shares), shares, 0).astype(np.float32)
        missing = is_finite.size - int(is_finite.sum())
        notes = (f"{missing:,} pixels without a finite value are black",) if missing else ()
        return grey, notes


@np.errstate(all="ignore")
def _grey_of(header: Any, voxels: NDArray[Any], name: str) -> GrayScaling:
    """Return the mapping from the voxels of a volume to grey values, see `read_nifti`.

    Raises:
        ImageError: the header's scaling cannot be used.
    """
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise ImageError(name, "damaged header: its scl_inter is not finite; repair it") from error
    grey = GrayScaling(1.0, 0.0) if slope is None else GrayScaling(slope, intercept)
    step = math.ceil((voxels.size / SAMPLE) ** (1 / 3))
    values = _foreground_values(voxels[::step, ::step, ::step], grey)
    if not values.size and step > 1:  # what little there is may lie between the points of the grid
        values = _foreground_values(voxels, grey)
    if not values.size:
        return replace(grey, notes=("no value other than 0 in the volume: black",))
    low, high = limits(values)
    if low == high:  # a mask of one value: shown against the background, which is 0
        low, high = min(low, 0.0), max(high, 0.0)
    # The header's own display range is not used: few programs set it, and nothing says for what purpose.
    has_window = float(header["cal_min"]) < float(header["cal_max"])
    notes = [WINDOW_UNUSED if has_window else NO_WINDOW]
    if low < 0 < high:
        notes.append("values below 0 in the volume: 0 is grey, not black")
    return replace(grey, low=low, high=high, notes=tuple(notes))


def _foreground_values(voxels: NDArray[Any], grey: GrayScaling) -> NDArray[np.float64]:
    """Return the finite values other than 0 of voxels (I, J, K), slice by slice to spare memory."""
    parts = (grey.values(voxels[:, :, index]) for index in range(voxels.shape[2]))
    return np.concatenate([part[np.isfinite(part) & (part != 0)] for part in parts])


def _stored(content: bytes, name: str) -> tuple[Any, NDArray[Any]]:
    """Return the header and the voxels (I, J, K) of a file; unpack no more of a packed one than they need.

    Raises:
        ImageError: see `read_nifti`.
    """
    try:
        with _opened(content) as stream:
            header = _read_header(stream, name)
            shape, kind, offset = _layout(header, name)
            size = math.prod(shape) * kind.itemsize
            if isinstance(stream, gzip.GzipFile):
                # Bounded by what the header promises, which `_layout` has checked: no bomb is unpacked.
                stream.seek(offset)
                voxels = memoryview(stream.read(size))
                stream.read(1)  # at the end, verifies the checksum
            else:
                voxels = memoryview(content)[offset : offset + size]
    except EOFError as error:  # from gzip: the stream ends before its end marker
        raise ImageError(name, TRUNCATED, Refusal.TRUNCATED) from error
    except (OSError, zlib.error) as error:
        raise ImageError(name, "its gzip data is damaged; copy the file again") from error
    if len(voxels) < size:
        raise ImageError(name, TRUNCATED, Refusal.TRUNCATED)
    return header, np.frombuffer(voxels, kind).reshape(shape, order="F")


def _opened(content: bytes) -> IO[bytes]:
    """Return a stream of a file's content, unpacked if it is gzipped."""
    stream = io.BytesIO(content)
    return gzip.GzipFile(fileobj=stream, mode="rb") if content.startswith(b"\x1f\x8b") else stream  # type: ignore[return-value]


def _read_header(stream: IO[bytes], name: str) -> Any:
    """Return the NIfTI header at the beginning of a stream.

    Raises:
        ImageError: there is none, or one of a pair of files.
    """
    start = stream.read(LONGEST_HEADER)
    if start[:4] not in HEADERS:
        raise ImageError(name, "holds no NIfTI volume", Refusal.UNKNOWN_FORMAT)
    kind, length, order = HEADERS[start[:4]]
    if len(start) < length:
        raise ImageError(name, TRUNCATED, Refusal.TRUNCATED)
    header = kind(start[:length], endianness=order, check=False)
    magic = header["magic"].item()
    if magic in (b"ni1", b"ni2"):
        raise ImageError(
            name, "is one of a pair of files, .hdr and .img; convert the pair to one .nii.gz file", Refusal.UNSUPPORTED
        )
    if not magic.startswith((b"n+1", b"n+2")):
        raise ImageError(
            name,
            "is an Analyze header, without orientation; convert the original images to .nii.gz",
            Refusal.UNSUPPORTED,
        )
    return header


def _layout(header: Any, name: str) -> tuple[tuple[int, int, int], np.dtype[Any], int]:
    """Return the layout of the voxels: counts along three axes, type, and the byte in the file at which they begin.

    Raises:
        ImageError: they are not a single volume of grey values, or too large.
    """
    kind = _voxel_type(header, name)
    # Python's integers: the products of the header's own 16-bit ones would overflow.
    axes, *sizes = (int(size) for size in header["dim"])
    sizes = sizes[: max(axes, 0)]
    if not 2 <= axes <= 7 or min(sizes) < 1:
        raise ImageError(name, f"damaged header: {axes} axes of {sizes} voxels; expected 2 to 7 axes of at least 1")
    shape = (sizes[0], sizes[1], sizes[2] if axes > 2 else 1)
    if max(shape) > LARGEST_SIDE:
        raise ImageError(
            name,
            f"{' x '.join(map(str, shape))} voxels; at most {LARGEST_SIDE} along each axis are read",
            Refusal.TOO_LARGE,
        )
    volumes = math.prod(sizes[3:])
    if volumes > 1:
        raise ImageError(
            name, f"holds {volumes} volumes; save the one to classify as a file of its own", Refusal.SEVERAL_SLICES
        )
    size = math.prod(shape) * kind.itemsize
    if size > LARGEST_VOLUME:
        most = f"at most {LARGEST_VOLUME >> 20} MiB are read; save it with 16-bit voxels, or cut it down to the head"
        raise ImageError(name, f"{' x '.join(map(str, shape))} voxels of {size >> 20:,} MiB; {most}", Refusal.TOO_LARGE)
    offset = float(header["vox_offset"])
    least = header["sizeof_hdr"].item() + 4  # the header and four bytes that say whether extensions follow
    if not (least <= offset <= least + LARGEST_EXTENSION) or offset % 1:
        raise ImageError(name, f"damaged header: voxels begin at byte {offset:g}; expected {least} or a little more")
    return shape, kind, int(offset)


def _voxel_type(header: Any, name: str) -> np.dtype[Any]:
    """Return the type of the voxels.

    Raises:
        ImageError: they are not grey values: colour, complex, labels, vectors, statistics.
    """
    intent = int(header["intent_code"])
    if intent in UNFIT_INTENTS:
        content = intent_codes.label[intent] if intent in intent_codes else f"code {intent}"
        raise ImageError(name, f"holds no image; its header says: {content}; pass the image itself", Refusal.NO_SLICE)
    code = int(header["datatype"])
    label = data_type_codes.label[code] if code in data_type_codes else f"code {code}"
    if label not in TYPES:
        raise ImageError(
            name,
            f"voxels of type {label}; expected integers or floats of 8 to 64 bits, not colour",
            Refusal.UNSUPPORTED,
        )
    return np.dtype(label).newbyteorder(header.endianness)
