"""Convert stored values to the grey that a radiologist would see: modality, value of interest, presentation.

Source: PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.11.6 (presentation LUT), C.7.6.16.2.9 and .10 (groups).
"""

import sys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from braintumor.dicom.attributes import code, functional_group, functional_group_of, integer, items, numbers, values
from braintumor.errors import DicomRefusalError
from braintumor.io.grey import BY_PERCENTILES, LUMA, between, limits

Field = NDArray[np.float64]
NO_WINDOW: Final = f"no window in the file: {BY_PERCENTILES}"
ODD_WINDOW: Final = f"unusable window in the file: {BY_PERCENTILES}"
HIDING_WINDOW: Final = f"the window in the file shows too little of the image: {BY_PERCENTILES}"
# When a window is taken to hide the image, see `_hides`
LEAST_SHOWN: Final = 0.5  # share of the greys from black to white that the values have to use
BACKGROUND: Final = 0.05  # share of the values' range below which there is no tissue
ENDS: Final = (0.01, 0.99)  # greys that count as black or less, white or more
LEAST_BETWEEN: Final = 0.05  # share of the tissue that has to be neither black nor white
SAMPLE: Final = 8_192  # pixels that are looked at, evenly spread
FEW_VALUES: Final = 16  # different values of an image that is black and white by nature, such as a mask
COLOUR: Final = "colour turned into grey"
# LINEAR needs a width of 1 or more, the others one above 0 (PS3.3 C.11.2.1.2.1, C.11.2.1.3).
SMALLEST_WIDTH: Final = {"LINEAR": 1.0, "LINEAR_EXACT": sys.float_info.min, "SIGMOID": sys.float_info.min}
LARGEST_SPACING: Final = 1_000.0  # mm; more is damage


def display_values(
    stored: NDArray[Any], header: Dataset, frame: int = 1
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return a frame as it is displayed, (H, W) float32 in [0, 1], and notes on what had to be assumed.

    Grey: rescaling or modality LUT; then the first VOI LUT, else the first window (LINEAR, LINEAR_EXACT or SIGMOID),
    each from the frame's functional groups where they have one; MONOCHROME1 and INVERSE are inverted. Without a VOI, or
    with one that cannot be used, the 0.1 and 99.9 percentiles become black and white; values that Pixel Padding Value
    marks are left out of them. Colour becomes ITU-R 601 luma.

    Args:
        stored: (H, W) stored values, signed as the header says; (H, W, 3) RGB; (H, W) indices with PALETTE COLOR.
        header: the image's attributes.
        frame: frame number, from 1.

    Raises:
        DicomRefusalError: an attribute that is needed is damaged, or an index lies outside of the palette.
    """
    if stored.ndim == 3:
        return _luma(stored, integer(header, "BitsStored")), (COLOUR,)
    if code(header, "PhotometricInterpretation") == "PALETTE COLOR":
        return _luma(_palette_colours(stored, header), 16), (COLOUR,)
    with np.errstate(all="ignore"):
        shown, notes = _grey_values(stored, header, frame)
    # Errors of the arithmetic are ignored above and found here: attributes may hold any numbers.
    if not np.isfinite(shown).all():
        raise DicomRefusalError("the window leads to values that are not finite; send the image again")
    if _is_inverted(header):
        np.subtract(1, shown, out=shown)
    return np.clip(shown, 0, 1, out=shown).astype(np.float32), notes


def _grey_values(stored: NDArray[Any], header: Dataset, frame: int) -> tuple[Field, tuple[str, ...]]:
    """Return the (H, W) values in [0, 1] of a grey frame before presentation, and notes, see `display_values`."""
    modality = modality_values(stored, header, frame)
    if not np.isfinite(modality).all():
        raise DicomRefusalError("rescaling leads to values that are not finite; send the image again")
    padded = _padding(stored, header)
    is_image = np.ones(stored.shape, np.bool_) if padded is None else ~padded
    shown = window_values(modality.copy(), header, frame)  # a copy: windows work in place
    # A VOI LUT was made for this very image and is taken as it is; only windows are doubted.
    if shown is not None and (_has_table(header, frame) or not _hides(shown[is_image], modality[is_image])):
        return shown, ()
    note = NO_WINDOW
    if _has_voi(header, frame):
        note = ODD_WINDOW if shown is None else HIDING_WINDOW
    return between(modality, *limits(modality[is_image])), (note,)


def _hides(shown: Field, values: Field) -> bool:
    """Tell whether a window shows next to nothing of an image: few of the greys, or hardly any but black and white.

    A person would adjust the window; the network cannot. A window that clips the brightest values, or leaves the
    background black, is meant to do so.

    Args:
        shown: (N,) greys by the window, black to white from 0 to 1.
        values: (N,) the values that it shows.
    """
    if not values.size or not np.isfinite(shown).all():  # greys that are not finite are refused by the caller
        return False
    step = max(1, values.size // SAMPLE)
    shown, values = shown[::step], values[::step]
    low, high = limits(values)
    if low == high:  # nothing to show
        return False
    darkest, lightest = limits(shown)  # percentiles: single pixels at the ends do not save a window
    if lightest - darkest < LEAST_SHOWN:
        return True
    # The image uses the greys. Are they all at the ends, tissue white on black? A mask may be, anything else may not.
    tissue = shown[values > low + BACKGROUND * (high - low)]
    between_ends = ((tissue > ENDS[0]) & (tissue < ENDS[1])).mean() if tissue.size else 1.0
    return bool(between_ends < LEAST_BETWEEN and len(np.unique(values)) > FEW_VALUES)


def _luma(rgb: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Return the (H, W) ITU-R 601 luma of (H, W, 3) RGB as float32 in [0, 1]; of 8 bits, exactly as of a PNG file."""
    # Whole numbers with 16 binary places, as in Pillow: the weights add up to 2**16, and 0x8000 rounds to nearest.
    weighted: NDArray[np.int64] = rgb.astype(np.int64) @ np.array(LUMA)
    levels = (weighted + 0x8000) >> 16 if bits <= 8 else weighted / 2**16
    return np.asarray(levels / (2**bits - 1), np.float32).clip(0, 1)


def _palette_colours(indices: NDArray[Any], header: Dataset) -> NDArray[np.int64]:
    """Return the (H, W, 3) 16-bit colours of palette indices (PS3.3 C.7.6.3.1.5 and .6).

    Raises:
        DicomRefusalError: the palette is missing, segmented or shorter than it says, or an index lies outside of it.
    """
    channels = []
    for colour in ("Red", "Green", "Blue"):
        table, first, bits = _lookup(header, f"{colour}PaletteColorLookupTable", header)
        index = indices.astype(np.int64) - first
        if index.min() < 0 or index.max() >= len(table):
            raise DicomRefusalError(
                "a pixel refers to a colour that the palette does not have; export the image as RGB"
            )
        channels.append(table[index] * (2**16 - 1) // (2**bits - 1))
    return np.stack(channels, axis=-1)


def _lookup(holder: Dataset, keyword: str, header: Dataset) -> tuple[NDArray[np.int64], int, int]:
    """Return a lookup table's entries, the value that the first entry is for, and the bits per entry.

    Args:
        holder: the dataset that holds the table.
        keyword: `LUT`, or the like; Descriptor and Data are added to it.
        header: the image's attributes, which say whether values are signed, and the byte order.

    Raises:
        DicomRefusalError: it is missing, or its data does not fit its descriptor.
    """
    descriptor, data = numbers(holder, f"{keyword}Descriptor"), values(holder, f"{keyword}Data")
    if len(descriptor) != 3 or not data:
        raise DicomRefusalError(f"{keyword} is missing or segmented; export the image again")
    count, first, bits = (int(value) for value in descriptor)
    # A count of 0 is 65,536 (PS3.3 C.11.1.1). A descriptor has the VR of the pixels: read as SS, a large count becomes
    # negative; read as US, a first value below zero becomes large.
    count = count % 2**16 or 2**16
    if not 8 <= bits <= 16:
        raise DicomRefusalError(f"{keyword} has entries of {bits} bits; only 8 to 16 are supported")
    if integer(header, "PixelRepresentation", 0) and first > 32_767:
        first -= 2**16
    # Only a dataset that was read has an encoding; any other is taken for little endian.
    table = _entries(data, count, "big" if header.original_encoding[1] is False else "little")
    if len(table) < count:
        raise DicomRefusalError(
            f"{keyword} has {len(table):,} entries, its descriptor says {count:,}; send the image again"
        )
    return table[:count], first, bits


def _entries(data: tuple[Any, ...], count: int, order: str) -> NDArray[np.int64]:
    """Return the entries of a lookup table, from numbers or from bytes: 16 bits each if there are enough, else 8."""
    if not isinstance(data[0], bytes):
        return np.array([int(value) % 2**16 for value in data], np.int64)  # unsigned, even if read as SS
    raw = data[0]
    if len(raw) < 2 * count:
        return np.frombuffer(raw, np.uint8).astype(np.int64)
    entries = np.frombuffer(raw[: 2 * count], np.uint16)
    return (entries if order == sys.byteorder else entries.byteswap()).astype(np.int64)


def modality_values(stored: NDArray[Any], header: Dataset, frame: int) -> Field:
    """Return the (H, W) values after the modality LUT, or after rescaling, or as they are (PS3.3 C.11.1).

    Raises:
        DicomRefusalError: damaged attributes.
    """
    tables = items(header, "ModalityLUTSequence")
    if tables:
        return _looked_up(stored.astype(np.float64), *_lookup(tables[0], "LUT", header)[:2])
    holder = functional_group_of(header, frame, "PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = (numbers(holder, keyword)[:1] for keyword in ("RescaleSlope", "RescaleIntercept"))
    rescaled = stored.astype(np.float64)
    rescaled *= slope[0] if slope else 1.0
    rescaled += intercept[0] if intercept else 0.0
    return rescaled


def _looked_up(inputs: Field, table: NDArray[np.int64], first: int) -> Field:
    """Return the entry for each value; those outside the table get its first or last entry (PS3.3 C.11.1.1.1)."""
    indices = np.clip(np.floor(inputs) - first, 0, len(table) - 1).astype(np.int64)
    return np.asarray(table[indices], np.float64)


def window_values(modality: Field, header: Dataset, frame: int) -> Field | None:
    """Return the (H, W) values in [0, 1] after the VOI LUT or window of a frame, None without a usable one.

    Of several, which are alternative views (PS3.3 C.11.2.1.2), the first is taken.
    """
    for holder in _voi_holders(header, frame):
        tables = items(holder, "VOILUTSequence")
        if tables:
            table, first, bits = _lookup(tables[0], "LUT", header)
            return np.asarray(_looked_up(modality, table, first) / (2**bits - 1))
        if "WindowCenter" in holder and "WindowWidth" in holder:
            try:
                centre, width = numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth")
            except DicomRefusalError:
                return None
            function = code(holder, "VOILUTFunction") or "LINEAR"
            is_usable = centre and width and function in SMALLEST_WIDTH and width[0] >= SMALLEST_WIDTH[function]
            return _windowed(modality, centre[0], width[0], function) if is_usable else None
    return None


def _voi_holders(header: Dataset, frame: int) -> tuple[Dataset, ...]:
    """Return the datasets that may hold the VOI of a frame, its functional group first."""
    own = functional_group(header, frame, "FrameVOILUTSequence")
    return (header,) if own is None else (own, header)


def _has_table(header: Dataset, frame: int) -> bool:
    return any(items(holder, "VOILUTSequence") for holder in _voi_holders(header, frame))


def _has_voi(header: Dataset, frame: int) -> bool:
    """Tell whether a frame has a window, usable or not."""
    return any("WindowCenter" in holder or "WindowWidth" in holder for holder in _voi_holders(header, frame))


def _windowed(inputs: Field, centre: float, width: float, function: str) -> Field:
    """Return values in [0, 1] by a window function; `inputs` may be overwritten.

    Source: PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and .2.
    """
    if function == "SIGMOID":
        # exp overflows a float64 above 709; at 700 the grey is 0 or 1 anyway.
        return np.asarray(1 / (1 + np.exp((-4 * (inputs - centre) / width).clip(-700, 700))))
    if function == "LINEAR_EXACT":
        return between(inputs, centre - width / 2, centre + width / 2)
    return between(inputs, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _padding(stored: NDArray[Any], header: Dataset) -> NDArray[np.bool_] | None:
    """Return the (H, W) mask of stored values that are padding (PS3.3 C.7.5.1.1.2), None where the file names none."""
    try:
        padding = numbers(header, "PixelPaddingValue")[:1]
        limit = numbers(header, "PixelPaddingRangeLimit")[:1] or padding
    except DicomRefusalError:
        return None
    if not padding:
        return None
    low, high = sorted((padding[0], limit[0]))  # the limit may lie on either side
    return np.asarray((stored >= low) & (stored <= high))


def _is_inverted(header: Dataset) -> bool:
    """Tell whether low values are to be shown bright (PS3.3 C.7.6.3.1.2, C.11.6.1.2)."""
    is_monochrome1 = code(header, "PhotometricInterpretation") == "MONOCHROME1"
    return is_monochrome1 or code(header, "PresentationLUTShape") == "INVERSE"


def spacing(header: Dataset, frame: int = 1) -> tuple[float, float] | None:
    """Return the (row, column) distance of pixel centres in mm, None where the file does not say (PS3.3 10.7.1).

    It is Pixel Spacing, from the frame's functional groups or the image itself; else Imager Pixel Spacing, which is
    measured at the detector.
    """
    measures = functional_group_of(header, frame, "PixelMeasuresSequence", "PixelSpacing")
    for holder, keyword in ((measures, "PixelSpacing"), (header, "ImagerPixelSpacing")):
        try:
            distances = numbers(holder, keyword)
        except DicomRefusalError:
            continue
        if len(distances) == 2 and all(0 < distance <= LARGEST_SPACING for distance in distances):
            return distances[0], distances[1]
    return None


def aspect(header: Dataset) -> tuple[float, float] | None:
    """Return the relative height and width of a pixel, None where the file does not say (PS3.3 C.7.6.3.1.7)."""
    try:
        sizes = numbers(header, "PixelAspectRatio")
    except DicomRefusalError:
        return None
    return (sizes[0], sizes[1]) if len(sizes) == 2 and min(sizes) > 0 else None
