from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing

from braintumor.dicom.grayscale import (
    COLOUR,
    HIDING_WINDOW,
    NO_WINDOW,
    ODD_WINDOW,
    display_values,
    modality_values,
    spacing,
    window_values,
)
from braintumor.errors import DicomRefusalError
from tests.dicom.make import enhanced, item, levels

RAMP = np.arange(0, 4095, 7, np.uint16).reshape(9, 65)


def header(**attributes: Any) -> Dataset:
    plain = {"PhotometricInterpretation": "MONOCHROME2", "BitsStored": 12, "BitsAllocated": 16}
    dataset = item(**{**plain, "PixelRepresentation": 0, **attributes})
    dataset.set_original_encoding(False, True, None)
    return dataset


def grey(stored: Any, frame: int = 1, **attributes: Any) -> list[float]:
    shown, _ = display_values(np.array([stored]), header(**attributes), frame)
    return [round(float(value), 6) for value in shown[0]]


def test_a_linear_window_is_that_of_the_standard() -> None:
    # PS3.3 C.11.2.1.2.1, the standard's own note: centre 2048 and width 4096 map 0 to black and 4095 to white
    assert grey([0, 4095, 1], WindowCenter=2048, WindowWidth=4096) == [0, 1, round(1 / 4095, 6)]
    # centre 5, width 3: 4 and below is 0... x <= 5 - 0.5 - 1 = 3.5; x > 5.5 is 1; 4 is (4 - 4.5) / 2 + 0.5
    assert grey([3, 4, 5, 6], WindowCenter=5, WindowWidth=3) == [0, 0.25, 0.75, 1]


def test_a_linear_window_of_width_1_is_a_threshold() -> None:
    assert grey([4, 5, 6], WindowCenter=5, WindowWidth=1) == [0, 1, 1]


def test_an_exact_window_is_that_of_the_standard() -> None:
    window = {"WindowCenter": 10, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey([7, 8, 9, 10, 12, 13], **window) == [0, 0, 0.25, 0.5, 1, 1]


def test_an_exact_window_may_be_narrower_than_1() -> None:
    shown = grey([1, 2, 3], RescaleSlope="0.1", WindowCenter=0.2, WindowWidth=0.25, VOILUTFunction="LINEAR_EXACT")
    assert shown == [0.1, 0.5, 0.9]


def test_a_sigmoid_window_is_that_of_the_standard() -> None:
    shown = grey([0, 10, 20, 60_000], WindowCenter=10, WindowWidth=20, VOILUTFunction="SIGMOID")
    assert shown == [
        pytest.approx(1 / (1 + np.exp(2)), abs=1e-6),
        0.5,
        pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6),
        1,
    ]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2000, 3000), (100.5, 50.25), (-100, 500), (4000, 40)])
def test_windows_agree_with_pydicom(function: str, centre: float, width: float) -> None:
    window = header(WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    lowest, highest = 0, 4095
    expected = (apply_windowing(RAMP, window) - lowest) / (highest - lowest)
    shown = window_values(RAMP.astype(float), window, 1)
    assert shown is not None
    np.testing.assert_allclose(shown, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "centre", "width"),
    [
        ((12_000, 20_000), 3174, 2426),  # all white
        ((0, 1123), 8191.5, 16383),  # nearly black
        ((0, 1123), -5000, 100),
        ((0, 1123), 60_000, 100),
        ((0, 4095), 4000, 40),
        ((50, 1400), 1000, 3000),  # less than half of the greys: such windows changed 13 to 86 of 100 decisions
        ((50, 1400), 300, 4000),
    ],
)
def test_a_window_that_hides_the_image_is_not_used(values: tuple[int, int], centre: float, width: float) -> None:
    head = np.linspace(*values, RAMP.size).reshape(RAMP.shape).astype(np.uint16)
    hidden = header(WindowCenter=centre, WindowWidth=width, BitsStored=16, BitsAllocated=16, HighBit=15)
    plain, notes = display_values(head, header(BitsStored=16, BitsAllocated=16, HighBit=15))
    assert notes == (NO_WINDOW,)
    shown, notes = display_values(head, hidden)
    assert notes == (HIDING_WINDOW,)
    np.testing.assert_array_equal(shown, plain)


def test_tissue_that_is_all_white_on_black_is_hidden_too() -> None:
    head = np.zeros((64, 64), np.uint16)
    head[16:48, 16:48] = np.linspace(12_000, 20_000, 1024).reshape(32, 32)
    assert display_values(head, header(WindowCenter=3174, WindowWidth=2426))[1] == (HIDING_WINDOW,)


@pytest.mark.parametrize(("centre", "width"), [(700, 1400), (400, 500), (1000, 2400), (300, 2000)])
def test_a_window_that_a_person_would_choose_is_used(centre: float, width: float) -> None:
    head = np.zeros((64, 64), np.uint16)
    head[16:48, 16:48] = np.linspace(50, 1400, 1024).reshape(32, 32)
    shown, notes = display_values(head, header(WindowCenter=centre, WindowWidth=width))
    assert notes == ()
    expected = np.clip((head - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_a_picture_in_black_and_white_keeps_its_window() -> None:
    mask = np.zeros((32, 32), np.uint16)
    mask[8:16, 8:16] = 1000
    assert display_values(mask, header(WindowCenter=500, WindowWidth=100))[1] == ()


@pytest.mark.parametrize(("function", "tolerance"), [("LINEAR", 2e-3), ("LINEAR_EXACT", 1e-6), ("SIGMOID", 1e-6)])
def test_windows_agree_with_highdicom(function: str, tolerance: float) -> None:
    shown, _ = display_values(RAMP, header(WindowCenter=1500, WindowWidth=1000, VOILUTFunction=function))
    expected = highdicom.pixels.apply_voi_window(RAMP, 1500, 1000, function)
    np.testing.assert_allclose(shown, expected, atol=tolerance)  # its LINEAR divides by the width, not by width - 1


def test_the_first_of_several_windows_is_taken() -> None:
    shown = grey([0, 100, 200], WindowCenter=[100, 1000], WindowWidth=[201, 2000])
    assert shown == [0.0025, 0.5025, 1]  # x / 200 + 0.0025


def test_values_are_rescaled_before_the_window() -> None:
    window = {"WindowCenter": 0, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey([0, 512, 1024], RescaleSlope=2, RescaleIntercept=-1024, **window) == [0, 0.5, 1]


def test_a_window_holds_for_signed_values() -> None:
    shown, _ = display_values(
        np.array([[-100, 0, 100]], np.int16),
        header(PixelRepresentation=1, WindowCenter=0, WindowWidth=200, VOILUTFunction="LINEAR_EXACT"),
    )
    assert shown.tolist() == [[0, 0.5, 1]]


def table(bits: int = 8, first: int = 0, data: Any = (0, 64, 255), **attributes: Any) -> Dataset:
    sequence_item = item(**attributes)
    sequence_item.add_new(0x00283002, "US", [len(data), first % 2**16, bits])
    sequence_item.add_new(0x00283006, "US", list(data))
    return sequence_item


def test_a_voi_table_goes_before_a_window_and_its_ends_hold_on() -> None:
    both = {"VOILUTSequence": [table(first=10)], "WindowCenter": 5, "WindowWidth": 2}
    assert grey([0, 10, 11, 12, 4000], **both) == [0, 0, round(64 / 255, 6), 1, 1]


@pytest.mark.parametrize("bits", [8, 16])
def test_tables_agree_with_pydicom(bits: int) -> None:
    data = np.linspace(2**bits - 1, 0, 200).astype(int).tolist()
    values = RAMP if bits == 16 else RAMP % 256  # pydicom counts entries in 8 bits there
    voi = header(VOILUTSequence=[table(bits, 50, data)])
    expected = apply_voi(values, voi) / (2**bits - 1)
    np.testing.assert_allclose(display_values(values, voi)[0], expected, atol=1e-6)
    modality = header(
        ModalityLUTSequence=[table(bits, 50, data)], WindowCenter=40, WindowWidth=300, VOILUTFunction="LINEAR_EXACT"
    )
    rescaled = apply_modality_lut(RAMP, modality).astype(float)
    shown = window_values(modality_values(RAMP, modality, 1), modality, 1)
    assert shown is not None
    np.testing.assert_allclose(shown, np.clip((rescaled - 40) / 300 + 0.5, 0, 1), atol=1e-6)


def test_a_table_may_start_below_zero() -> None:
    voi = header(PixelRepresentation=1, VOILUTSequence=[table(first=-1)])
    assert display_values(np.array([[-5, -1, 0, 1]], np.int16), voi)[0].tolist() == [[0, 0, np.float32(64 / 255), 1]]


@pytest.mark.parametrize("little", [True, False])
def test_a_table_may_be_stored_as_bytes(little: bool) -> None:
    sequence_item = item(LUTDescriptor=[3, 0, 16])
    sequence_item.add_new(0x00283006, "OW", np.array([0, 16384, 65535], "<u2" if little else ">u2").tobytes())
    voi = header(VOILUTSequence=[sequence_item])
    voi.set_original_encoding(False, little, None)
    assert display_values(np.array([[0, 1, 2]]), voi)[0].tolist() == [[0, np.float32(16384 / 65535), 1]]


def test_a_table_that_is_shorter_than_it_says_is_refused() -> None:
    voi = header(VOILUTSequence=[table()])
    voi.VOILUTSequence[0].LUTDescriptor = [300, 0, 8]
    with pytest.raises(DicomRefusalError, match="has 3 entries, its descriptor says 300"):
        display_values(RAMP, voi)


@pytest.mark.parametrize(
    "inverting", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}]
)
def test_low_values_are_bright_where_the_file_says_so(inverting: dict[str, str]) -> None:
    window = {"WindowCenter": 10, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey([7, 9, 10, 13], **window, **inverting) == [1, 0.75, 0.5, 0]
    both = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert grey([7, 9, 10, 13], **window, **both) == [1, 0.75, 0.5, 0]  # what PS3.3 asks for beside MONOCHROME1


def test_without_a_window_percentiles_are_taken_and_noted() -> None:
    shown, notes = display_values(RAMP, header())
    low, high = np.percentile(RAMP, [0.1, 99.9])
    np.testing.assert_allclose(shown, np.clip((RAMP - low) / (high - low), 0, 1), atol=1e-6)
    assert notes == (NO_WINDOW,)


def test_padding_is_left_out_of_the_percentiles() -> None:
    padded = RAMP.copy()
    padded[:, 40:] = 63_536
    shown, _ = display_values(padded, header(PixelPaddingValue=63_536))
    low, high = np.percentile(RAMP[:, :40], [0.1, 99.9])
    np.testing.assert_allclose(shown[:, :40], np.clip((RAMP[:, :40] - low) / (high - low), 0, 1), atol=1e-6)
    ranged, _ = display_values(padded, header(PixelPaddingValue=63_000, PixelPaddingRangeLimit=64_000))
    np.testing.assert_array_equal(ranged, shown)


def test_a_slice_of_nothing_but_padding_is_black_or_white_without_warnings() -> None:
    shown, _ = display_values(np.full((2, 2), 7), header(PixelPaddingValue=7))
    assert np.isin(shown, (0, 1)).all()


def test_a_constant_slice_is_black() -> None:
    assert display_values(np.full((2, 2), 7), header())[0].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "odd",
    [
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": 5, "WindowWidth": -3},
        {"WindowCenter": 5, "WindowWidth": 0.5},
        {"WindowCenter": 5, "WindowWidth": 10, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 5},
        {"WindowWidth": 5},
        {"WindowCenter": float("nan"), "WindowWidth": 5},
        {"WindowCenter": float("inf"), "WindowWidth": 5},
        {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_an_unusable_window_is_replaced_and_noted(odd: dict[str, Any]) -> None:
    dataset = header()
    for keyword, value in odd.items():
        dataset.add_new(keyword, "CS" if keyword == "VOILUTFunction" else "FD", value)
    shown, notes = display_values(RAMP, dataset)
    assert notes == (ODD_WINDOW,)
    np.testing.assert_array_equal(shown, display_values(RAMP, header())[0])


def test_each_frame_has_its_own_window() -> None:
    dataset = enhanced()
    dataset.set_original_encoding(False, True, None)
    stored = dataset.pixel_array
    for frame, label in enumerate(("glioma", "no_tumor", "meningioma", "pituitary"), start=1):
        shown, notes = display_values(stored[frame - 1], dataset, frame)
        np.testing.assert_allclose(shown, levels(label) / 4095, atol=1e-6)
        assert not notes


def test_what_all_frames_share_is_found() -> None:
    window = item(WindowCenter=10, WindowWidth=4, VOILUTFunction="LINEAR_EXACT")
    shared = item(
        FrameVOILUTSequence=[window],
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=2)],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25])],
    )
    dataset = header(SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[item(), item()])
    assert display_values(np.array([[3, 4, 5]]), dataset, 2)[0].tolist() == [[0, 0.5, 1]]
    assert spacing(dataset, 2) == (0.5, 0.25)


def test_colour_becomes_luma_as_in_a_png() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    shown, notes = display_values(rgb, header(BitsStored=8, PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(shown, np.asarray(Image.fromarray(rgb).convert("L"), np.float32) / np.float32(255))
    assert notes == (COLOUR,)
    deep, _ = display_values(rgb.astype(np.uint16) * 257, header(BitsStored=16, PhotometricInterpretation="RGB"))
    np.testing.assert_allclose(deep, shown, atol=0.51 / 255)


def palette(bits: int = 16, count: int = 256) -> Dataset:
    dataset = header(PhotometricInterpretation="PALETTE COLOR", BitsStored=8, BitsAllocated=8)
    for index, colour in enumerate(("Red", "Green", "Blue")):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [count, 0, bits])
        values = (np.arange(count) * (index + 1) % 256 * 257).astype("<u2")
        setattr(dataset, f"{colour}PaletteColorLookupTableData", values.tobytes())
    return dataset


def test_palettes_agree_with_pydicom() -> None:
    indices: NDArray[np.uint8] = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = palette()
    rgb = apply_color_lut(indices, dataset)
    expected = rgb @ np.array([0.299, 0.587, 0.114]) / 65535
    shown, notes = display_values(indices, dataset)
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    assert notes == (COLOUR,)


def test_an_index_outside_of_the_palette_is_refused() -> None:
    with pytest.raises(DicomRefusalError, match="a colour that the palette does not have"):
        display_values(np.full((16, 16), 100, np.uint8), palette(count=50))


def test_a_palette_that_is_shorter_than_it_says_is_refused() -> None:
    dataset = palette()
    dataset.GreenPaletteColorLookupTableDescriptor = [0, 0, 16]  # 0 is 65,536
    with pytest.raises(DicomRefusalError, match="its descriptor says 65,536"):
        display_values(np.zeros((16, 16), np.uint8), dataset)
    del dataset.GreenPaletteColorLookupTableData
    with pytest.raises(DicomRefusalError, match="missing or segmented"):
        display_values(np.zeros((16, 16), np.uint8), dataset)


def test_a_rescaling_beyond_all_numbers_is_refused() -> None:
    dataset = header()
    dataset.add_new("RescaleSlope", "FD", 1e308)
    with pytest.raises(DicomRefusalError, match="not finite"):
        display_values(RAMP, dataset)


def test_a_window_beyond_all_numbers_is_refused() -> None:
    dataset = header()
    dataset.add_new("WindowCenter", "FD", -1.7e308)
    dataset.add_new("WindowWidth", "FD", 1.7e308)
    with pytest.raises(DicomRefusalError, match="not finite"):
        display_values(RAMP, dataset)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"PixelSpacing": [0.9, 0.8]}, (0.9, 0.8)),
        ({"PixelSpacing": [0.9, 0.8], "ImagerPixelSpacing": [1, 1]}, (0.9, 0.8)),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({}, None),
        ({"PixelSpacing": [0.9, 0]}, None),
        ({"PixelSpacing": [-1, 1]}, None),
        ({"PixelSpacing": 1}, None),
        ({"PixelSpacing": [1, 5000]}, None),
    ],
)
def test_spacing_is_rows_first_or_unknown(attributes: dict[str, Any], expected: tuple[float, float] | None) -> None:
    assert spacing(header(**attributes)) == expected
