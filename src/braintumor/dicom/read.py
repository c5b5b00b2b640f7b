"""How DICOM files become slices: one frame at a time, as a radiologist would see it, or with the reason why not."""

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
OWN_MODULES: Final = r"pydicom\.|braintumor\.dicom\."  # pydicom's are attributed to who calls it
LOGGERS: Final = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils")
OWN_FILTER: Final = ("ignore", None, Warning, re.compile(OWN_MODULES), 0)


def read_dicom(content: bytes, name: str, largest: int, choice: SliceSelection) -> Iterator[Scan]:
    """Yield the wanted slices of a DICOM file, MR of the head or Secondary Capture, one frame decoded at a time.

    Warnings and log records of pydicom, which may hold a patient's data, are dropped for the process from then on.

    Args:
        content: of a DICOM Part 10 file.
        name: what to call the file; a frame of several is called by it, # and its number.
        largest: number of pixels of a slice that are read at most.
        choice: which slices are wanted: by Instance Number, or by frame where there are several.

    Raises:
        ImageError: damaged, of a kind that is not read, or out of the models' scope as `scope` says; a plane is asked
            for; fewer than 16 or more than 8,000 pixels on a side. The reason holds no text of the file.
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
        if unusable := unusable_size(image.stored.columns, image.stored.rows, largest):
            raise DicomRefusalError(*unusable)
        check_amount(image.pixels, image.stored)
        notes = eligibility.notes(header)
        for number, stored in image.wanted(choice):
            shown, assumed = grayscale.display_values(decode(stored, image.pixels, image.stored), header, number.frame)
            origin = _origin_of(header, number.frame)
            spacing, aspect = grayscale.spacing(header, number.frame), grayscale.aspect(header)
            height, width = square_shape((image.stored.rows, image.stored.columns), *(spacing or aspect or (1, 1)))
            if unusable := unusable_size(width, height, largest):
                raise DicomRefusalError(*unusable)
            square, spacing, changed = squared(shown, spacing, aspect)
            yield Scan(
                np.ascontiguousarray(square),
                spacing,
                slice_name(name, number.shown, image.stored.frames),
                (*notes, *assumed, *changed, *(() if origin else (UNREFERABLE,))),
                _place(header, number, name),
                origin,
            )
    except DicomRefusalError as error:
        raise ImageError(name, str(error), error.code) from error
    except RecursionError as error:
        raise ImageError(name, TOO_DEEP) from error


def _origin_of(header: Dataset, frame: int) -> dict[str, Any] | None:
    """Return what results about a frame must repeat, None where they could not refer to it."""
    try:
        return extract_attributes(header, frame)
    except ImageError:
        return None


def silence() -> None:
    """Drop warnings and log records of pydicom, for the process: `warnings.catch_warnings` is not safe in threads."""
    if OWN_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", category=Warning, module=OWN_MODULES)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(nothing)


def describe(content: bytes, name: str) -> File:
    """Return what is to be known about a DICOM file to choose among the series of a study.

    Raises:
        ImageError: it cannot be read at all; one that is out of the models' scope can.
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
    """Which slice of a file it is.

    Attributes:
        frame: from 1.
        shown: what it is called: Instance Number of a single frame, else the frame.
    """

    frame: int
    shown: int


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image of one or more frames, not decoded.

    Attributes:
        header: attributes before the pixel data.
        pixels: the pixel data.
        stored: how they are stored.
    """

    header: Dataset
    pixels: Pixels
    stored: Layout

    def wanted(self, choice: SliceSelection) -> Iterator[tuple[Number, memoryview | bytes]]:
        """Yield number and stored data of the wanted frames.

        Raises:
            DicomRefusalError: there are fewer frames than the header says.
        """
        alone = max(1, integer_or(self.header, "InstanceNumber", 1))
        for frame, stored in enumerate(frames(self.pixels, self.stored), start=1):
            number = Number(frame, frame if self.stored.frames > 1 else alone)
            if choice.wants(number.shown):
                yield number, stored


def opened(header: Dataset, pixels: Pixels | None) -> OpenedImage:
    """Return an image, not decoded.

    Raises:
        DicomRefusalError: no pixels, or of a kind that is not read.
    """
    if pixels is None:
        raise DicomRefusalError("no pixel data; send the image itself", Refusal.NO_SLICE)
    return OpenedImage(header, pixels, layout(header))


def _place(header: Dataset, number: Number, name: str) -> SlicePosition:
    """Return where a slice of a file lies: in which series, its number, and its position along the normal."""
    return SlicePosition(volume_of(header, name), number.shown, _position(header, number.frame))


def _position(header: Dataset, frame: int) -> float | None:
    """Return the distance in mm of a frame from the origin along the normal of its plane, None where it is not known.

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
