"""How stored values become the grey that a radiologist would see: modality, value of interest, presentation.

Source: PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.11.6 (presentation LUT), C.7.6.16.2.9 and .10 (their groups).
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
LEAST_SHOWN: Final = 0.5  # of the greys from black to white, that the values have to use
BACKGROUND: Final = 0.05  # of the values' range, below which lies no tissue
ENDS: Final = (0.01, 0.99)
LEAST_BETWEEN: Final = 0.05  # of the tissue, that has to be neither black nor white
SAMPLE: Final = 8_192  # pixels that are looked at, evenly spread
FEW_VALUES: Final = 16  # of an image that is black and white by nature, as a mask
COLOUR: Final = "colour turned into grey"
SMALLEST_WIDTH: Final = {"LINEAR": 1.0, "LINEAR_EXACT": sys.float_info.min, "SIGMOID": sys.float_info.min}
LARGEST_SPACING: Final = 1_000.0  # mm


def display_values(
    stored: NDArray[Any], header: Dataset, frame: int = 1
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return a frame as it is to be seen, (H, W) float32 in [0, 1], and notes on what had to be assumed.

    Grey: rescaling or modality LUT; then the first VOI LUT, else the first window (LINEAR, LINEAR_EXACT or SIGMOID),
    each from the frame's functional groups where they have one; MONOCHROME1 and INVERSE are inverted. Without a VOI, or
    with one that cannot be used, the 0.1 and 99.9 percentiles of the values become black and white, without those that
    Pixel Padding Value marks. Colour becomes ITU-R 601 luma.

    Args:
        stored: (H, W) stored values, signed as the header says; (H, W, 3) RGB; (H, W) indices with PALETTE COLOR.
        header: the image's attributes.
        frame: from 1.

    Raises:
        DicomRefusalError: an attribute that is needed is damaged, or an index lies outside of the palette.
    """
    if stored.ndim == 3:
        return _luma(stored, integer(header, "BitsStored")), (COLOUR,)
    if code(header, "PhotometricInterpretation") == "PALETTE COLOR":
        return _luma(_palette_colours(stored, header), 16), (COLOUR,)
    with np.errstate(all="ignore"):
        shown, notes = _grey_values(stored, header, frame)
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
    real = np.ones(stored.shape, np.bool_) if padded is None else ~padded
    shown = window_values(modality.copy(), header, frame)
    if shown is not None and (_has_table(header, frame) or not _hides(shown[real], modality[real])):
        return shown, ()
    note = NO_WINDOW if not _has_voi(header, frame) else ODD_WINDOW if shown is None else HIDING_WINDOW
    return between(modality, *limits(modality[real])), (note,)


def _hides(shown: Field, values: Field) -> bool:
    """Tell whether a window shows next to nothing of an image: few of the greys, or hardly any but black and white.

    A person would turn the knob; the network cannot. Windows that clip what is bright, or leave the background black,
    are as they are meant.

    Args:
        shown: (N,) greys by the window, black to white from 0 to 1.
        values: (N,) the values that it shows.
    """
    if not values.size or not np.isfinite(shown).all():  # which is refused
        return False
    step = max(1, values.size // SAMPLE)
    shown, values = shown[::step], values[::step]
    low, high = limits(values)
    if low == high:  # nothing to show
        return False
    darkest, lightest = limits(shown)
    if lightest - darkest < LEAST_SHOWN:
        return True
    tissue = shown[values > low + BACKGROUND * (high - low)]
    between_ends = ((tissue > ENDS[0]) & (tissue < ENDS[1])).mean() if tissue.size else 1.0
    return bool(between_ends < LEAST_BETWEEN and len(np.unique(values)) > FEW_VALUES)


def _luma(rgb: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Return the (H, W) ITU-R 601 luma of (H, W, 3) RGB as float32 in [0, 1], of 8 bits just as for a PNG file."""
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
            raise DicomRefusalError("a pixel asks for a colour that the palette does not have; export the image as RGB")
        channels.append(table[index] * (2**16 - 1) // (2**bits - 1))
    return np.stack(channels, axis=-1)


def _lookup(place: Dataset, keyword: str, header: Dataset) -> tuple[NDArray[np.int64], int, int]:
    """Return a lookup table's entries, the value that the first of them is for, and the bits of the entries.

    Args:
        place: the dataset that holds the table.
        keyword: `LUT`, or the like; Descriptor and Data are added to it.
        header: the image's attributes, which say whether values are signed and in which order bytes are.

    Raises:
        DicomRefusalError: it is missing, or its data does not fit its descriptor.
    """
    described, data = numbers(place, f"{keyword}Descriptor"), values(place, f"{keyword}Data")
    if len(described) != 3 or not data:
        raise DicomRefusalError(f"{keyword} is missing or segmented; export the image again")
    count, first, bits = (int(value) for value in described)
    count = count % 2**16 or 2**16  # stored as SS where values are signed
    if not 8 <= bits <= 16:
        raise DicomRefusalError(f"{keyword} has entries of {bits} bits; 8 to 16 are read")
    if integer(header, "PixelRepresentation", 0) and first > 32_767:
        first -= 2**16
    table = _entries(data, count, "big" if header.original_encoding[1] is False else "little")
    if len(table) < count:
        raise DicomRefusalError(f"{keyword} has {len(table):,} entries and says {count:,}; send the image again")
    return table[:count], first, bits


def _entries(data: tuple[Any, ...], count: int, order: str) -> NDArray[np.int64]:
    """Return the entries of a lookup table: numbers, or bytes with 16 or, if there are only so many, 8 bits each."""
    if not isinstance(data[0], bytes):
        return np.array([int(value) % 2**16 for value in data], np.int64)
    raw = data[0]
    if len(raw) < 2 * count:
        return np.frombuffer(raw, np.uint8).astype(np.int64)
    found = np.frombuffer(raw[: 2 * count], np.uint16)
    return (found if order == sys.byteorder else found.byteswap()).astype(np.int64)


def modality_values(stored: NDArray[Any], header: Dataset, frame: int) -> Field:
    """Return the (H, W) values after the modality LUT, or after rescaling, or as they are (PS3.3 C.11.1).

    Raises:
        DicomRefusalError: damaged attributes.
    """
    tables = items(header, "ModalityLUTSequence")
    if tables:
        return _looked_up(stored.astype(np.float64), *_lookup(tables[0], "LUT", header)[:2])
    place = functional_group_of(header, frame, "PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = (numbers(place, keyword)[:1] for keyword in ("RescaleSlope", "RescaleIntercept"))
    rescaled = stored.astype(np.float64)
    rescaled *= slope[0] if slope else 1.0
    rescaled += intercept[0] if intercept else 0.0
    return rescaled


def _looked_up(inputs: Field, table: NDArray[np.int64], first: int) -> Field:
    """Return the entries for values; those outside of the table get its first or last one (PS3.3 C.11.1.1.1)."""
    indices = np.clip(np.floor(inputs) - first, 0, len(table) - 1).astype(np.int64)
    return np.asarray(table[indices], np.float64)


def window_values(modality: Field, header: Dataset, frame: int) -> Field | None:
    """Return the (H, W) values in [0, 1] after the VOI LUT or window of a frame, None without one that can be used."""
    for place in _voi_places(header, frame):
        tables = items(place, "VOILUTSequence")
        if tables:
            table, first, bits = _lookup(tables[0], "LUT", header)
            return np.asarray(_looked_up(modality, table, first) / (2**bits - 1))
        if "WindowCenter" in place and "WindowWidth" in place:
            try:
                centre, width = numbers(place, "WindowCenter"), numbers(place, "WindowWidth")
            except DicomRefusalError:
                return None
            function = code(place, "VOILUTFunction") or "LINEAR"
            is_usable = centre and width and function in SMALLEST_WIDTH and width[0] >= SMALLEST_WIDTH[function]
            return _windowed(modality, centre[0], width[0], function) if is_usable else None
    return None


def _voi_places(header: Dataset, frame: int) -> tuple[Dataset, ...]:
    """Return where the VOI of a frame may be, the nearest place first."""
    own = functional_group(header, frame, "FrameVOILUTSequence")
    return (header,) if own is None else (own, header)


def _has_table(header: Dataset, frame: int) -> bool:
    """Tell whether a frame has a VOI LUT, which somebody made for it."""
    return any(items(place, "VOILUTSequence") for place in _voi_places(header, frame))


def _has_voi(header: Dataset, frame: int) -> bool:
    """Tell whether a frame has a window, be it usable or not."""
    return any("WindowCenter" in place or "WindowWidth" in place for place in _voi_places(header, frame))


def _windowed(inputs: Field, centre: float, width: float, function: str) -> Field:
    """Return values in [0, 1] by a window function, perhaps in place (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and .2)."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp((-4 * (inputs - centre) / width).clip(-700, 700))))
    if function == "LINEAR_EXACT":
        return between(inputs, centre - width / 2, centre + width / 2)
    return between(inputs, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _padding(stored: NDArray[Any], header: Dataset) -> NDArray[np.bool_] | None:
    """Return which of the (H, W) stored values are no part of the image (PS3.3 C.7.5.1.1.2), None if unsaid."""
    try:
        marked = numbers(header, "PixelPaddingValue")[:1]
        limit = numbers(header, "PixelPaddingRangeLimit")[:1] or marked
    except DicomRefusalError:
        marked = ()
    if not marked:
        return None
    low, high = sorted((marked[0], limit[0]))
    return np.asarray((stored >= low) & (stored <= high))


def _is_inverted(header: Dataset) -> bool:
    """Tell whether low values are to be shown bright (PS3.3 C.7.6.3.1.2, C.11.6.1.2)."""
    is_monochrome1 = code(header, "PhotometricInterpretation") == "MONOCHROME1"
    return is_monochrome1 or code(header, "PresentationLUTShape") == "INVERSE"


def spacing(header: Dataset, frame: int = 1) -> tuple[float, float] | None:
    """Return the (row, column) distance of pixel centres in mm, None where the file does not say (PS3.3 10.7.1).

    Pixel Spacing, in the frame's functional groups or not; else Imager Pixel Spacing, measured at the detector.
    """
    places = (functional_group_of(header, frame, "PixelMeasuresSequence", "PixelSpacing"), "PixelSpacing")
    for place, keyword in (places, (header, "ImagerPixelSpacing")):
        try:
            found = numbers(place, keyword)
        except DicomRefusalError:
            continue
        if len(found) == 2 and all(0 < distance <= LARGEST_SPACING for distance in found):
            return found[0], found[1]
    return None


def aspect(header: Dataset) -> tuple[float, float] | None:
    """Return how high and how wide a pixel is, in no unit, None where the file does not say (PS3.3 C.7.6.3.1.7)."""
    try:
        sizes = numbers(header, "PixelAspectRatio")
    except DicomRefusalError:
        return None
    return (sizes[0], sizes[1]) if len(sizes) == 2 and min(sizes) > 0 else None
