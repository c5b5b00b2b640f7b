"""Determine the orientation of a NIfTI volume in the patient, and how to turn it for viewing."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from braintumor.errors import ImageError, Refusal

AXES: Final = {"sagittal": "PIL", "coronal": "LIA", "axial": "LPS"}
"""The directions of the columns, rows and slices of each plane: left, posterior, anterior, inferior or superior.

The planes stand in the order of the patient's axes right, anterior and superior, to which they are perpendicular."""
ALIKE: Final = 1.05  # spacings whose ratio is less count as equal
OBLIQUE: Final = 20  # degrees
LEAST_SPACING, LARGEST_SPACING = 1e-3, 1e3  # mm
FLAT: Final = 0.01  # volume of a voxel, as a share of a box with the same sides
MILLIMETRES: Final = {1: 1e3, 3: 1e-3}
"""Millimetres in a metre and a micron, by the unit's code; all other files are in mm (nifti1.h, xyzt_units)."""
UNPLACED: Final = "no orientation in the file: slices as stored"


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """The geometry of a volume turned so that its indices are column, row and slice of the view.

    Attributes:
        turn: (3, 2) for nibabel's `apply_orientation`.
        spacing: millimetres along columns, rows and slices.
        start: position of the first slice along the slices' normal in millimetres; None without orientation.
        step: from a slice to the next along the normal, in millimetres.
        notes: what had to be assumed.
    """

    turn: NDArray[Any]
    spacing: tuple[float, float, float]
    start: float | None
    step: float
    notes: tuple[str, ...]

    def position(self, index: int) -> float | None:
        """Return the position of a slice along the normal, in millimetres."""
        return None if self.start is None else self.start + index * self.step


@np.errstate(all="ignore")  # damaged headers hold NaN and infinity, which are checked below
def slice_geometry(header: Any, shape: tuple[int, ...], plane: str, name: str) -> SliceGeometry:
    """Return the geometry that turns a volume (I, J, K) to a plane, see `nifti.read_nifti`.

    Raises:
        ImageError: the header's orientation or voxel sizes cannot be used, or there are none and the plane needs them.
    """
    affine, notes = _orientation(header, name)
    if affine is None:
        return _geometry_as_stored(header, shape, plane, name)
    own = io_orientation(affine)
    if plane == "acquired":
        axis_of = own[:, 0].argsort().tolist()  # which index runs along the patient's right, anterior, superior
        # Of equal spacings axial comes first, then coronal: the planes in which brains are mostly acquired.
        across = _acquisition_axis(_lengths(affine).tolist(), shape, (axis_of[2], axis_of[1], axis_of[0]))
        plane = tuple(AXES)[axis_of.index(across)]
    turn = ornt_transform(own, axcodes2ornt(AXES[plane]))
    turned = affine @ inv_ornt_aff(turn, shape)
    columns, rows, steps = turned[:3, 0], turned[:3, 1], turned[:3, 2]
    # The axes of a sheared matrix are not perpendicular: positions are measured across the slices, not along the step,
    # and grow from slice to slice whichever way the cross product points.
    normal = np.cross(columns, rows)
    normal *= np.sign(normal @ steps) / np.linalg.norm(normal)
    return SliceGeometry(
        turn=turn,
        spacing=tuple(_lengths(turned).tolist()),
        start=float(turned[:3, 3] @ normal),
        step=float(steps @ normal),
        notes=notes,
    )


def _geometry_as_stored(header: Any, shape: tuple[int, ...], plane: str, name: str) -> SliceGeometry:
    """Return the geometry of a volume of unknown orientation: slices across the axis of the largest spacing.

    Raises:
        ImageError: another plane is requested, or the voxel sizes cannot be used.
    """
    if plane != "acquired":
        raise ImageError(
            name,
            f"no orientation in the file, so its {plane} plane is unknown; ask for the acquired one",
            Refusal.UNSUPPORTED,
        )
    spacing = (header["pixdim"][1:4].astype(np.float64) * _millimetre(header)).tolist()
    _check_spacing(spacing, name)
    # Without orientation only the order of storage is known: programs store the slices last.
    across = _acquisition_axis(spacing, shape, (2, 1, 0))
    order = (*(axis for axis in range(3) if axis != across), across)
    turn = np.array([[order.index(axis), 1] for axis in range(3)])
    return SliceGeometry(
        turn=turn,
        spacing=(spacing[order[0]], spacing[order[1]], spacing[across]),
        start=None,
        step=0.0,
        notes=(UNPLACED,),
    )


def _acquisition_axis(spacing: list[float], shape: tuple[int, ...], preferred: tuple[int, int, int]) -> int:
    """Return the index across which slices were acquired: the only one of length 1, else that of the largest spacing.

    Of spacings that differ by less than 5 % from the largest the first one in the order `preferred` is taken.
    """
    single = [axis for axis in range(3) if shape[axis] == 1]
    if len(single) == 1:
        return single[0]
    return next(axis for axis in preferred if spacing[axis] * ALIKE > max(spacing))


def _orientation(header: Any, name: str) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return the affine of a volume, None without one, and notes on it.

    The affine (4, 4) maps indices to millimetres towards the patient's right, anterior and superior.

    Raises:
        ImageError: the header holds one that cannot be used.
    """
    qform, sform = _qform(header, name), _sform(header)
    affine, method = (qform, "qform") if sform is None else (sform, "sform")
    if affine is None:
        return None, ()
    if not np.isfinite(affine).all():
        raise ImageError(name, f"damaged header: its {method} is not finite; repair it")
    affine = np.diag([*[_millimetre(header)] * 3, 1.0]) @ affine
    _check_spacing(_lengths(affine).tolist(), name)
    directions = affine[:3, :3] / _lengths(affine)
    if abs(np.linalg.det(directions)) < FLAT:
        raise ImageError(name, f"damaged header: the axes of its {method} lie in one plane; repair it")
    own = io_orientation(affine)
    notes = []
    # Differences of a few degrees are usual, as after registration; only another axis or side is worth a note.
    if sform is not None and qform is not None and (io_orientation(qform) != own).any():
        notes.append("sform and qform of the file contradict each other: the sform is used")
    # The cosine between each voxel axis and the patient's axis closest to it, of the axis that deviates most.
    along = abs(directions[own[:, 0].astype(int), range(3)]).min()
    tilt = math.degrees(math.acos(min(1.0, along)))
    if tilt > OBLIQUE:
        notes.append(f"the volume is tilted by {tilt:.0f} degrees: slices follow its own axes")
    return affine, tuple(notes)


def _sform(header: Any) -> NDArray[np.float64] | None:
    """Return the affine of the header's sform, None if the header has none."""
    return np.asarray(header.get_sform(), np.float64) if header["sform_code"] > 0 else None


def _qform(header: Any, name: str) -> NDArray[np.float64] | None:
    """Return the affine of the header's qform, None if there is none, or if it is damaged and there is an sform.

    Raises:
        ImageError: it is damaged and there is no sform.
    """
    if header["qform_code"] <= 0:
        return None
    header = header.copy()
    if header["pixdim"][0] == 0:  # stands for 1 (nifti1.h, qfac)
        header["pixdim"][0] = 1
    try:
        matrix = np.asarray(header.get_qform(), np.float64)
    except (HeaderDataError, ValueError) as error:
        if header["sform_code"] <= 0:
            raise ImageError(
                name, "damaged header: its qform is not a rotation or has no voxel size; repair it"
            ) from error
        return None
    return matrix if header["sform_code"] <= 0 or np.isfinite(matrix).all() else None


def _lengths(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (3,) voxel spacings of an affine."""
    spacings: NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    return spacings


def _millimetre(header: Any) -> float:
    return MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)


def _check_spacing(spacing: list[float], name: str) -> None:
    if not all(LEAST_SPACING <= length <= LARGEST_SPACING for length in spacing):
        sizes = " x ".join(f"{length:.4g}" for length in spacing)
        raise ImageError(name, f"damaged header: voxels of {sizes} mm; expected 0.001 to 1000 mm; repair it")
