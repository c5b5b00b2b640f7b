"""Read a MATLAB file of the figshare set: grey values, class, patient and the outline of the tumor."""

import io
import re
from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from braintumor.errors import DataError

LABELS: Final = {1: "meningioma", 2: "glioma", 3: "pituitary"}
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # pixels
MOST_BORDER_VALUES: Final = 100_000
LONGEST_NAME: Final = 64
PATIENT: Final = re.compile(r"([A-Za-z]*\d+)[A-Za-z]+", re.ASCII)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice.

    Attributes:
        pixels: (H, W) integers in the scanner's units, rows from top to bottom.
        label: one of `CLASSES`.
        patient: the published name; a letter at the end, which marks a part of one patient's slices, is cut off.
        outline: (n, 2) float64, x and y of points on the tumor's border in pixels of the slice, as published: MATLAB
            counts pixels from 1.
    """

    pixels: NDArray[Any]
    label: str
    patient: str
    outline: NDArray[np.float64]


def read_slice(content: bytes, name: str) -> Slice:
    """Return the slice in the bytes of a MATLAB 7.3 file, which is HDF5 with a group `cjdata`.

    MATLAB stores columns one after the other, HDF5 rows: images come transposed and are turned back.

    Args:
        content: of the file.
        name: what to call it in errors.

    Raises:
        DataError: not HDF5, a field is missing, elsewhere than in this file, or of an impossible size or content.
    """
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            return _slice_of(_part(file, "cjdata", h5py.Group))
    # a damaged or hostile file makes h5py raise any of these
    except (KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{name} is not a slice of the figshare set ({error}); download its archive again") from error


def _slice_of(group: Any) -> Slice:
    """Return the slice in an HDF5 group.

    Raises:
        KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError: from here or from h5py.
    """
    label = LABELS.get(int(_values(group, "label", 1)[0]))
    if label is None:
        raise ValueError(f"label is not one of {', '.join(map(str, LABELS))}")
    patient = "".join(chr(int(code)) for code in _values(group, "PID", LONGEST_NAME)).strip()
    if not patient.isprintable() or not patient:
        raise ValueError("PID is not a name")
    pixels, mask = _picture(group, "image"), _picture(group, "tumorMask")
    if pixels.shape != mask.shape:
        raise ValueError(f"tumorMask has the shape {mask.shape}, the image {pixels.shape}")
    border = _values(group, "tumorBorder", MOST_BORDER_VALUES).astype(np.float64)
    if len(border) < 6 or len(border) % 2 or not np.isfinite(border).all():
        raise ValueError("tumorBorder is not a list of at least three points")
    grouped = PATIENT.fullmatch(patient)
    return Slice(pixels, label, grouped[1] if grouped else patient, _outline(border.reshape(-1, 2), mask != 0))


def _part(group: Any, name: str, kind: type) -> Any:
    """Return a member of a group; links to other files are not followed, data in other files is not read.

    Raises:
        ValueError: it is not there, or of another kind.
    """
    # a soft or external link, an external dataset and a virtual one could all read other files of this machine
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing")
    member = group[name]
    if not isinstance(member, kind) or getattr(member, "external", None) or getattr(member, "is_virtual", False):
        raise ValueError(f"{name} is of another kind")
    return member


def _values(group: Any, name: str, most: int) -> NDArray[Any]:
    """Return the at most so many numbers of a field as one row.

    Raises:
        ValueError: none, more or no numbers.
    """
    field = _part(group, name, h5py.Dataset)
    # checked before anything is read: a few compressed bytes may claim a field of any size
    if field.dtype.kind not in "iuf" or not 1 <= field.size <= most:
        raise ValueError(f"{name} has {field.size} values of type {field.dtype}, expected 1 to {most} numbers")
    return np.asarray(field[()]).ravel()


def _picture(group: Any, name: str) -> NDArray[Any]:
    """Return an image field as (H, W) integers.

    Raises:
        ValueError: another shape or type.
    """
    field = _part(group, name, h5py.Dataset)
    sides_fit = len(field.shape) == 2 and all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in field.shape)
    if not sides_fit or field.dtype.kind not in "iu":
        raise ValueError(f"{name} has the shape {field.shape} and type {field.dtype}, expected a slice of integers")
    return np.asarray(field[()]).T


def _outline(points: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the points (n, 2) of a border as x and y: in the order in which they enclose the mask (H, W) better."""
    # the published files do not say whether x or y comes first
    swapped = points[:, ::-1]
    return swapped if _overlap(swapped, mask) > _overlap(points, mask) else points


def _overlap(points: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Return intersection over union of a polygon of (n, 2) x and y and a mask (H, W)."""
    drawn = Image.new("1", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(drawn).polygon([(x, y) for x, y in points.tolist()], fill=1)
    polygon = np.asarray(drawn)
    return float((polygon & mask).sum() / max((polygon | mask).sum(), 1))
