"""NIfTI volumes for tests: of brain phantoms, in any storage order, and with any damage to the header.

Import it as `from tests.volume_files import brain`, which needs the root of the repository on the path, as in
`python -m pytest`.
"""

import gzip
import struct
from collections.abc import Sequence
from itertools import permutations, product
from typing import Any, Final

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from braintumor.data.phantom import phantom

LABELS: Final = ("empty", *("no_tumor",) * 3, *("glioma",) * 4, *("no_tumor",) * 3, "empty")
"""Twelve slices from below: nothing at the ends, a glioma on slices 5 to 8."""


def brain(
    labels: Sequence[str] = LABELS,
    *,
    size: int = 96,
    spacing: tuple[float, float, float] = (2.0, 2.0, 6.0),
    seed: int = 0,
    packed: bool = True,
) -> bytes:
    """Return a .nii.gz file of axial slices from below, each a phantom of its label or `empty`.

    Args:
        labels: of the slices.
        size: pixels on a side.
        spacing: millimetres from right to left, front to back and between slices.
        seed: another one, other heads.
        packed: whether it is gzipped.
    """
    return nifti(head(labels, size=size, seed=seed), spacing=spacing, packed=packed)


def head(labels: Sequence[str] = LABELS, *, size: int = 96, seed: int = 0) -> NDArray[np.int16]:
    """Return the (size, size, slices) grey values of 0 to 1000 whose indices grow to the right, front and top."""
    pictures = [
        np.zeros((size, size)) if label == "empty" else phantom(label, seed + number, size)
        for number, label in enumerate(labels)
    ]
    upright = np.stack(pictures, axis=2)  # rows from front to back, columns from the patient's right to left
    return np.rint(upright[::-1, ::-1].transpose(1, 0, 2) * 1000).astype(np.int16)


def nifti(
    values: NDArray[Any],
    *,
    affine: NDArray[np.float64] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    stored: str = "RAS",
    packed: bool = False,
    version: int = 1,
    big_endian: bool = False,
    **fields: Any,
) -> bytes:
    """Return a NIfTI file of grey values.

    Args:
        values: the first three indices grow to the right, front and top.
        affine: from these indices to millimetres; without one the spacing, the middle of the volume at the origin.
        spacing: millimetres along these indices.
        stored: how the file stores them: the directions in which its three indices grow, as in `LPS`.
        packed: whether it is gzipped.
        version: of NIfTI, 1 or 2.
        big_endian: byte order of the file.
        fields: of the header, set as they are, however wrong: `pixdim={1: -1.0}` sets one element.
    """
    if affine is None:
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -(np.array(values.shape[:3]) - 1) / 2 * spacing
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(stored))
    turned = apply_orientation(values, turn)
    turned_affine = affine @ inv_ornt_aff(turn, values.shape[:3])
    kind = nibabel.Nifti2Image if version == 2 else nibabel.Nifti1Image
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(turned.dtype)
    image = kind(turned, turned_affine, header)
    image.set_sform(turned_affine, code=1)
    image.set_qform(turned_affine, code=0)  # there, but not in use
    image.header.set_xyzt_units("mm", "sec")
    return changed(image.to_bytes(), packed=packed, **fields)


def changed(content: bytes, *, packed: bool = False, **fields: Any) -> bytes:
    """Return an unpacked NIfTI file with other values in its header, see `nifti`."""
    second = 540 in struct.unpack("<i", content[:4]) + struct.unpack(">i", content[:4])
    kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    length = kind.template_dtype.itemsize
    header = kind(content[:length], check=False)
    for name, value in fields.items():
        if isinstance(value, dict):
            for index, element in value.items():
                header[name][index] = element
        else:
            header[name] = value
    whole = header.binaryblock + content[length:]
    return gzip.compress(whole, 1, mtime=0) if packed else whole


def orders() -> list[str]:
    """Return the 48 ways to store a volume, by the directions in which the three indices grow."""
    return ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]
