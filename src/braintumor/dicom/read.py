"""Read DICOM files into slices, one frame at a time, as a radiologist would see them; refuse others with a reason."""

import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from braintumor.dicom import eligibility, grayscale
from braintumor.dicom.attributes import TOO_DEEP, functional_group_of, integer_or, numbers
from braintumor.dicom.dataset import parse
from braintumor.dicom.logging_guard import nothing
from braintumor.dicom.pixels import Layout, Pixels, check_amount, decode, frames, layout
from braintumor.dicom.series import File, described, volume_of
from braintumor.dicom.source_attributes import extract_attributes
from braintumor.errors import DicomRefusalError, ImageError, Refusal
from braintumor.io.scan import Scan, SlicePosition, SliceSelection, slice_name, unusable_size
from braintumor.io.square import square_shape, squared

UNREFERABLE: Final = "identifiers in the file are missing or invalid: no DICOM results can refer to it"
OWN_MODULES: Final = r"pydicom\.|braintumor\.dicom\."  # warnings of pydicom are attributed to the module that calls it
# Filters of a logger do not apply to records of its children, so each logger that writes is named.
LOGGERS: Final = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils")
OWN_FILTER: Final = ("ignore", None, Warning, re.compile(OWN_MODULES), 0)
"""The entry that `warnings.filterwarnings` makes of our arguments, to see whether it is still in the list."""


def read_dicom(content: bytes, name: str, largest: int, choice: SliceSelection) -> Iterator[Scan]:
    """Yield the wanted slices of a DICOM file, MR of the head or Secondary Capture, one frame decoded at a time.

    Warnings and log records of pydicom, which may hold a patient's data, are dropped for the process from then on.

    Args:
        content: bytes of a DICOM file.
        name: what to call the file; a frame of several is called by it, # and its number.
        largest: most pixels that a slice may have.
        choice: which slices are wanted: by Instance Number, or by frame number where there are several frames.

    Raises:
        ImageError: the file is damaged, of a kind that is not supported, or outside the models' scope (see
            `eligibility`); a plane is asked for; a side has fewer than 16 or more than 8,000 pixels. The reason holds
            no text of the file.
    """
    silence()
    if choice.plane != "acquired":
        raise ImageError(
            name, f"DICOM slices are read as acquired; leave out the plane {choice.plane}", Refusal.NO_SLICE
        )
    try:
        header, pixels = parse(content)
        if reason := eligibility.ineligibility(header):
            raise DicomRefusalError(reason, Refusal.NOT_MR)
        image = opened(header, pixels)
        # Sizes are checked on what the header states: too large an image is refused before anything is decoded.
        if unusable := unusable_size(image.stored.columns, image.stored.rows, largest):
            raise DicomRefusalError(*unusable)
        check_amount(image.pixels, image.stored)
        notes = eligibility.notes(header)
        for number, stored in image.wanted(choice):
            grey, assumptions = grayscale.display_values(
                decode(stored, image.pixels, image.stored), header, number.frame
            )
            origin = _origin_of(header, number.frame)
            spacing, aspect = grayscale.spacing(header, number.frame), grayscale.aspect(header)
            # Making pixels square can stretch a slice beyond the limits that its header kept.
            height, width = square_shape((image.stored.rows, image.stored.columns), *(spacing or aspect or (1, 1)))
            if unusable := unusable_size(width, height, largest):
                raise DicomRefusalError(*unusable)
            square, spacing, changes = squared(grey, spacing, aspect)
            unreferable = () if origin else (UNREFERABLE,)
            yield Scan(
                pixels=np.ascontiguousarray(square),
                spacing=spacing,
                source=slice_name(name, number.shown, image.stored.frames),
                notes=(*notes, *assumptions, *changes, *unreferable),
                place=_slice_position(header, number, name),
                origin=origin,
            )
    except DicomRefusalError as error:
        raise ImageError(name, str(error), error.code) from error
    except RecursionError as error:
        raise ImageError(name, TOO_DEEP) from error


def _origin_of(header: Dataset, frame: int) -> dict[str, Any] | None:
    """Return the attributes that results about a frame must repeat, None where no result could refer to it."""
    try:
        return extract_attributes(header, frame)
    except ImageError:
        return None


def silence() -> None:
    """Drop warnings and log records of pydicom from now on, in the whole process.

    `warnings.catch_warnings` would be narrower, but is not safe in threads.
    """
    # Looked up each time: a caller's catch_warnings may have removed the filter, and adding it again and again would
    # make the list grow. addFilter of a logger looks for itself.
    if OWN_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", category=Warning, module=OWN_MODULES)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(nothing)


def describe(content: bytes, name: str) -> File:
    """Return a description of a DICOM file from which the series of a study can be chosen.

    Raises:
        ImageError: its attributes cannot be read. A file outside the models' scope is described like any other.
    """
    silence()
    try:
        return described(parse(content)[0], name)
    except DicomRefusalError as error:
        raise ImageError(name, str(error), error.code) from error
    except RecursionError as error:
        raise ImageError(name, TOO_DEEP) from error


@dataclass(frozen=True)
class Number:
    """Numbers of a slice of a file.

    Attributes:
        frame: frame number, from 1.
        shown: the number that people see: Instance Number of a single-frame image, else the frame number.
    """

    frame: int
    shown: int


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image of one or more frames, not yet decoded.

    Attributes:
        header: attributes before the pixel data.
        pixels: the pixel data.
        stored: storage layout of the pixels.
    """

    header: Dataset
    pixels: Pixels
    stored: Layout

    def wanted(self, choice: SliceSelection) -> Iterator[tuple[Number, memoryview | bytes]]:
        """Yield numbers and stored data of the wanted frames.

        Raises:
            DicomRefusalError: there are fewer frames than the header says.
        """
        instance_number = max(1, integer_or(self.header, "InstanceNumber", 1))
        for frame, stored in enumerate(frames(self.pixels, self.stored), start=1):
            number = Number(frame, frame if self.stored.frames > 1 else instance_number)
            if choice.wants(number.shown):
                yield number, stored


def opened(header: Dataset, pixels: Pixels | None) -> OpenedImage:
    """Return an image, not yet decoded.

    Raises:
        DicomRefusalError: it has no pixels, or pixels of a kind that is not supported.
    """
    if pixels is None:
        raise DicomRefusalError("no pixel data; send the image itself", Refusal.NO_SLICE)
    return OpenedImage(header, pixels, layout(header))


def _slice_position(header: Dataset, number: Number, name: str) -> SlicePosition:
    """Return the series of a slice, its number, and its position along the normal."""
    return SlicePosition(volume_of(header, name), number.shown, _distance_along_normal(header, number.frame))


def _distance_along_normal(header: Dataset, frame: int) -> float | None:
    """Return the distance in mm of a frame from the origin along the normal of its plane, None where it is unknown.

    Source: PS3.3 C.7.6.2.1.1; the normal is the cross product of the directions of rows and columns.
    """
    positions = functional_group_of(header, frame, "PlanePositionSequence", "ImagePositionPatient")
    orientations = functional_group_of(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    try:
        corner = numbers(positions, "ImagePositionPatient")
        directions = numbers(orientations, "ImageOrientationPatient")
    except DicomRefusalError:
        return None
    if len(corner) != 3 or len(directions) != 6:
        return None
    distance = float(np.dot(np.cross(directions[:3], directions[3:]), corner))
    return distance if np.isfinite(distance) else None
