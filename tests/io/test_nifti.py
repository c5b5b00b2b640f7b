"""NIfTI volumes: slices in radiological convention however they are stored, and reasons for refusing odd files."""

import gzip
import math
from collections.abc import Callable, Iterator
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from braintumor.errors import ImageError
from braintumor.io.nifti import LARGEST_VOLUME, NO_WINDOW, read_nifti
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import Scan, SliceSelection
from braintumor.io.slice_geometry import UNPLACED
from tests.volume_files import brain, changed, head, nifti, orders

LARGEST = 16_000_000
SHAPE = (18, 20, 22)  # right, front, top


def scans(content: bytes, plane: str = "acquired", *ranges: tuple[int, int], largest: int = LARGEST) -> list[Scan]:
    return list(read_nifti(content, "v.nii", largest, SliceSelection(plane, ranges)))


def refusal(content: bytes, plane: str = "acquired", *ranges: tuple[int, int], largest: int = LARGEST) -> str:
    with pytest.raises(ImageError) as error:
        scans(content, plane, *ranges, largest=largest)
    assert error.value.source == "v.nii"
    return error.value.reason


@pytest.fixture(scope="module")
def values() -> NDArray[np.int16]:
    """Return the volume whose every voxel is another number: 1 to 7920, most of them growing to the right."""
    return (1 + np.arange(math.prod(SHAPE), dtype=np.int16).reshape(SHAPE)).astype(np.int16)


@pytest.fixture(scope="module")
def plain(values: NDArray[np.int16]) -> bytes:
    return nifti(values)


def shown(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return values of 1 to 7920 as they are shown: the percentiles 0.1 and 99.9 are 1 + 7919 * 0.001 and * 0.999."""
    low, high = 1 + 7919 * 0.001, 1 + 7919 * 0.999
    return ((values - low) / (high - low)).clip(0, 1)


# values[R, A, S] with indices growing to the right, front and top, seen as a radiologist does
PICTURES: dict[str, Callable[[NDArray[Any], int], NDArray[Any]]] = {
    "axial": lambda values, number: values[::-1, ::-1, number - 1].T,  # right on the left, front on top, from below
    "coronal": lambda values, number: values[::-1, number - 1, ::-1].T,  # right on the left, top on top, from behind
    "sagittal": lambda values, number: values[-number, ::-1, ::-1].T,  # front on the left, top on top, from the right
}


@pytest.mark.parametrize("stored", orders())
def test_every_storage_order_gives_the_same_slices(stored: str, values: NDArray[np.int16]) -> None:
    content = nifti(values, stored=stored)
    for plane, picture in PICTURES.items():
        for number in (1, 5, {"axial": 22, "coronal": 20, "sagittal": 18}[plane]):
            (scan,) = scans(content, plane, (number, number))
            np.testing.assert_allclose(scan.pixels, shown(picture(values, number)), atol=1e-6)


def test_the_patients_right_is_on_the_left_and_the_front_on_top(plain: bytes) -> None:
    markers = np.full(SHAPE, 10, np.int16)
    markers[-3:] = 500  # the patient's right
    markers[:, -3:] = 1000  # front
    content = nifti(markers, stored="LPI")
    picture = scans(content, "axial", (4, 4))[0].pixels
    assert (picture[:3] > 0.99).all()
    assert (picture[3:, :3] > 0.45).all()
    assert picture[3:, 3:].max() < 0.01
    picture = scans(content, "sagittal", (18, 18))[0].pixels
    assert (picture[:, :3] > 0.99).all()
    assert picture[:, 3:].max() < 0.01


@pytest.mark.parametrize("stored", ["RAS", "LPS", "SRA", "AIL", "SAL"])
@pytest.mark.parametrize(
    ("spacing", "plane", "count"),
    [((1, 1, 3), "axial", 22), ((1, 3, 1), "coronal", 20), ((3, 1, 1), "sagittal", 18), ((2, 2, 1), "coronal", 20)],
)
def test_acquired_slices_lie_across_the_largest_spacing(
    stored: str, spacing: tuple[float, float, float], plane: str, count: int, values: NDArray[np.int16]
) -> None:
    content = nifti(values, stored=stored, spacing=spacing)
    actual, expected = scans(content), scans(content, plane)
    assert len(actual) == len(expected) == count
    for one, other in zip(actual, expected, strict=True):
        assert one.place == other.place
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_of_spacings_within_five_percent_axial_comes_first(values: NDArray[np.int16]) -> None:
    assert len(scans(nifti(values, spacing=(1, 1.04, 1)))) == 22
    assert len(scans(nifti(values, spacing=(1, 1.06, 1)))) == 20


def test_a_single_slice_is_the_slice_whatever_its_spacing() -> None:
    (scan,) = scans(nifti(np.arange(400, dtype=np.int16).reshape(20, 1, 20), spacing=(1, 0.5, 1)))
    assert scan.pixels.shape == (20, 20)
    assert scan.source == "v.nii"
    assert scan.place is not None
    assert scan.place.number == 1


def test_slices_say_which_they_are_and_where(values: NDArray[np.int16]) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-10, -20, -30)
    for plane, first, step in (("axial", -30, 2), ("coronal", -20, 2), ("sagittal", -24, 2)):  # left: -(-10 + 17 * 2)
        for stored in ("RAS", "PIL"):
            actual = scans(nifti(values, affine=affine, stored=stored), plane)
            places = [scan.place for scan in actual if scan.place]
            assert [place.number for place in places] == list(range(1, len(actual) + 1))
            assert {place.volume for place in places} == {"v.nii"}
            assert [place.position for place in places] == pytest.approx([first + step * n for n in range(len(actual))])
            assert actual[2].source == "v.nii#3"
            assert {scan.spacing for scan in actual} == {(2.0, 2.0)}


def test_only_the_chosen_slices_come(plain: bytes) -> None:
    actual = scans(plain, "axial", (3, 5), (9, 9))
    assert [scan.source for scan in actual] == ["v.nii#3", "v.nii#4", "v.nii#5", "v.nii#9"]
    assert (
        refusal(plain, "axial", (23, 40))
        == "has slices 1 to 22 in this plane, none of which was requested; choose others"
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_versions_byte_orders_and_packing_change_nothing(
    version: int, big_endian: bool, packed: bool, values: NDArray[np.int16], plain: bytes
) -> None:
    content = nifti(values, version=version, big_endian=big_endian, packed=packed)
    for actual, expected in zip(scans(content), scans(plain), strict=True):
        np.testing.assert_array_equal(actual.pixels, expected.pixels)
        assert actual.place == expected.place


@pytest.mark.parametrize(
    "kind", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
def test_every_type_of_grey_voxels_is_read(kind: str) -> None:
    small = (np.arange(20**3).reshape(20, 20, 20) % 101).astype(kind)
    nonzero = np.array([value for value in small.ravel().tolist() if value])
    low, high = np.percentile(nonzero, (0.1, 99.9))
    actual = scans(nifti(small), "axial")
    expected = ((small[::-1, ::-1, 6].T.astype(float) - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(actual[6].pixels, expected, atol=1e-6)


def test_grey_values_come_from_percentiles_of_the_whole_volume_without_zeros(values: NDArray[np.int16]) -> None:
    padded = np.zeros((40, 40, 44), np.int16)
    padded[:18, :20, :22] = values
    actual = scans(nifti(padded), "axial")
    np.testing.assert_allclose(actual[3].pixels[20:, 22:], shown(values[::-1, ::-1, 3].T), atol=1e-6)
    assert actual[30].pixels.max() == 0, "an empty slice is shown"
    assert {scan.notes for scan in actual} == {(NO_WINDOW,)}


def test_the_window_is_the_same_in_every_plane_and_for_any_choice(plain: bytes) -> None:
    from_front = np.stack([scan.pixels for scan in scans(plain, "coronal")])  # (A, S, R), top and right first
    from_below = np.stack([scan.pixels for scan in scans(plain, "axial")])  # (S, A, R), front and right first
    np.testing.assert_array_equal(from_front, from_below[::-1].transpose(1, 0, 2)[::-1])
    np.testing.assert_array_equal(scans(plain, "axial", (5, 5))[0].pixels, from_below[4])


def test_a_large_volume_is_windowed_by_a_grid_of_its_voxels() -> None:
    large = np.tile(np.arange(1, 201, dtype=np.int16), (160, 160, 1)).reshape(160, 160, 200)  # 5 million
    (scan,) = scans(nifti(large), "axial", (1, 1))
    assert scan.pixels.max() == 0
    (scan,) = scans(nifti(large), "axial", (100, 100))
    np.testing.assert_allclose(scan.pixels, 0.5, atol=0.01)


def test_a_speck_beside_the_grid_is_still_seen() -> None:
    large = np.zeros((160, 160, 200), np.int16)
    large[81, 83, 85] = 7
    (scan,) = scans(nifti(large), "axial", (86, 86))
    assert scan.pixels.sum() == 1


def test_slope_and_intercept_are_applied_and_useless_slopes_are_none(values: NDArray[np.int16], plain: bytes) -> None:
    expected = scans(plain)[4].pixels
    for slope, intercept in ((2.0, 5.0), (0.0, 7.0), (math.nan, math.nan), (math.inf, 1.0)):
        actual = scans(nifti(values, scl_slope=slope, scl_inter=intercept))[4].pixels
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    inverted = scans(nifti(values, scl_slope=-1.0, scl_inter=8000.0))[4].pixels
    np.testing.assert_allclose(inverted, 1 - expected, atol=1e-6)
    assert "scl_inter" in refusal(nifti(values, scl_slope=1.0, scl_inter=math.nan))


def test_voxels_without_a_finite_value_are_black_and_told() -> None:
    floats = np.random.default_rng(0).uniform(1, 2, SHAPE).astype(np.float32)
    floats[0, 0, 3], floats[1, 0, 3], floats[2, 0, 3] = math.nan, math.inf, -math.inf
    actual = scans(nifti(floats), "axial")
    assert actual[3].notes == (NO_WINDOW, "3 pixels without a finite value are black")
    assert actual[2].notes == (NO_WINDOW,)
    assert actual[3].pixels[-1, -3:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_extreme_floats_do_no_harm(kind: str) -> None:
    most = float(np.finfo(kind).max)
    for low, high in ((-most, most), (0, most), (1e-40, 2e-40)):
        floats = np.linspace(0, 1, math.prod(SHAPE)).reshape(SHAPE)
        content = nifti((floats * high + (1 - floats) * low).astype(kind))
        assert all(np.isfinite(scan.pixels).all() for scan in scans(content))


def test_a_volume_of_nothing_is_black_slices_with_a_note() -> None:
    for value in (0.0, math.nan):
        actual = scans(nifti(np.full(SHAPE, value, np.float32)))
        assert len(actual) == 22
        assert all(scan.pixels.max() == 0 for scan in actual)
        assert actual[0].notes[0] == "no value other than 0 in the volume: black"


@pytest.mark.parametrize(("value", "inside", "outside"), [(5, 1, 0), (-5, 0, 1)])
def test_a_volume_of_two_values_is_black_and_white(value: int, inside: float, outside: float) -> None:
    mask = np.zeros(SHAPE, np.int16)
    mask[5:9, 5:9, 5:9] = value
    (scan,) = scans(nifti(mask), "axial", (6, 6))
    assert scan.pixels[20 - 7, 18 - 7] == inside
    assert scan.pixels[0, 0] == outside


def test_values_below_zero_and_a_display_range_are_told() -> None:
    floats = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    assert scans(nifti(floats))[0].notes == (NO_WINDOW, "values below 0 in the volume: 0 is grey, not black")
    assert "display range" in scans(nifti(abs(floats), cal_min=0.1, cal_max=1.0))[0].notes[0]


def test_pixels_become_square_along_the_coarser_direction(values: NDArray[np.int16]) -> None:
    (scan,) = scans(nifti(values, spacing=(1, 1, 3)), "coronal", (7, 7))
    assert scan.pixels.shape == (66, 18)
    assert scan.spacing == (1, 1)
    assert scan.notes == (NO_WINDOW, "pixels of 1 x 3 mm made square")
    before = shown(values[::-1, 6, ::-1].T)
    np.testing.assert_allclose(scan.pixels[1::3], before, atol=1e-6)  # the middle of each stored row
    np.testing.assert_allclose(scan.pixels[2], before[0] * 2 / 3 + before[1] / 3, atol=1e-6)
    (scan,) = scans(nifti(values, spacing=(1, 1, 3)), "axial", (7, 7))
    assert scan.pixels.shape == (20, 18)


def test_nearly_square_pixels_stay_as_they_are(values: NDArray[np.int16]) -> None:
    assert scans(nifti(values, spacing=(1.005, 1, 3)))[0].pixels.shape == (20, 18)
    assert scans(nifti(values, spacing=(1.005, 1, 3)))[0].spacing == pytest.approx((1, 1.005))
    assert scans(nifti(values, spacing=(1.3, 1, 3)))[0].pixels.shape == (20, 23)
    assert scans(nifti(values, spacing=(1.3, 1, 3)))[0].spacing == pytest.approx((1, 1.3 * 18 / 23))


def test_the_unit_of_length_counts(values: NDArray[np.int16]) -> None:
    for code, factor in ((1, 1e-3), (2, 1.0), (3, 1e3), (0, 1.0)):
        content = nifti(values, spacing=(factor, factor, 3 * factor), xyzt_units=code)
        (scan,) = scans(content, "acquired", (22, 22))
        assert scan.spacing == pytest.approx((1, 1))
        assert scan.place is not None
        assert scan.place.position == pytest.approx(31.5)


def test_without_sform_the_qform_counts(values: NDArray[np.int16]) -> None:
    for stored in ("RAS", "LPI", "SAR"):
        actual = scans(nifti(values, stored=stored, sform_code=0, qform_code=1), "axial")
        np.testing.assert_allclose(actual[4].pixels, shown(values[::-1, ::-1, 4].T), atol=1e-6)
        assert actual[4].notes == (NO_WINDOW,)


def test_a_sign_of_zero_before_the_voxel_sizes_stands_for_one(values: NDArray[np.int16]) -> None:
    actual = scans(nifti(values, sform_code=0, qform_code=1, pixdim={0: 0.0}), "axial")
    np.testing.assert_allclose(actual[4].pixels, shown(values[::-1, ::-1, 4].T), atol=1e-6)


def test_forms_that_contradict_each_other_are_told(values: NDArray[np.int16]) -> None:
    content = nifti(values, qform_code=1, sform_code=1)
    assert scans(content)[0].notes == (NO_WINDOW,)
    mirrored = changed(content, srow_x=(-1.0, 0, 0, 8.5))
    actual = scans(mirrored)[4]
    assert actual.notes[1] == "sform and qform of the file contradict each other: the sform is used"
    np.testing.assert_allclose(actual.pixels, shown(values[:, ::-1, 4].T), atol=1e-6)
    assert len(scans(changed(content, quatern_b=9.0))) == 22, "a damaged qform beside a sform is not needed"


def test_without_orientation_slices_come_as_stored(values: NDArray[np.int16]) -> None:
    content = nifti(values, sform_code=0, qform_code=0)
    actual = scans(content)
    assert len(actual) == 22
    np.testing.assert_allclose(actual[4].pixels, shown(values[:, :, 4].T), atol=1e-6)
    assert actual[4].notes == (NO_WINDOW, UNPLACED)
    assert actual[4].place is not None
    assert actual[4].place.position is None
    actual = scans(nifti(values, spacing=(1, 3, 1), sform_code=0, qform_code=0))
    assert len(actual) == 20
    np.testing.assert_allclose(actual[4].pixels, shown(values[:, 4, :].T), atol=1e-6)
    assert refusal(content, "axial").startswith("no orientation in the file, so its axial plane is unknown")


@pytest.mark.parametrize("degrees", [10, 30])
def test_oblique_volumes_are_cut_along_their_own_axes(degrees: int, values: NDArray[np.int16]) -> None:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0, 5], [0, cosine, -sine, 6], [0, sine, cosine, 7], [0, 0, 0, 1.0]])
    affine = turn @ np.diag([1, 1, 2, 1])
    actual = scans(nifti(values, affine=affine))
    np.testing.assert_allclose(actual[4].pixels, shown(values[::-1, ::-1, 4].T), atol=1e-6)
    note = f"the volume is tilted by {degrees} degrees: slices follow its own axes"
    assert actual[4].notes == ((NO_WINDOW, note) if degrees == 30 else (NO_WINDOW,))
    positions = [scan.place.position for scan in actual if scan.place]
    first = -6 * sine + 7 * cosine  # the origin along the slices' normal (0, -sine, cosine)
    assert positions == pytest.approx([first + 2 * number for number in range(22)])


def test_a_phantom_brain_comes_back_as_it_was_drawn() -> None:
    actual = scans(brain(size=64))
    assert len(actual) == 12
    assert [scan.pixels.max() > 0 for scan in actual] == [False, *[True] * 10, False]
    drawn = head(size=64)[::-1, ::-1, 5].T.astype(float)
    assert np.corrcoef(actual[5].pixels.ravel(), drawn.ravel())[0, 1] > 0.99
    assert actual[5].pixels[:10].max() < actual[5].pixels[27:37].max()


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "colour": ({"datatype": 128}, "voxels of type RGB; expected integers or floats"),
    "colour and opacity": ({"datatype": 2304}, "voxels of type RGBA"),
    "complex": ({"datatype": 32}, "voxels of type complex64"),
    "128 bits": ({"datatype": 1536}, "voxels of type float128"),
    "single bits": ({"datatype": 1}, "voxels of type binary"),
    "no such type": ({"datatype": 77}, "voxels of type code 77"),
    "labels": ({"intent_code": 1002}, "holds no image; its header says: label"),
    "statistics": ({"intent_code": 5}, "holds no image; its header says: z score"),
    "several volumes": ({"dim": [4, 18, 20, 11, 2, 1, 1, 1]}, "holds 2 volumes; save the one to classify"),
    "seven axes": ({"dim": [7, 18, 20, 2, 11, 1, 1, 1]}, "holds 11 volumes"),
    "one axis": ({"dim": [1, 18, 1, 1, 1, 1, 1, 1]}, "damaged header: 1 axes"),
    "eight axes": ({"dim": [8, 18, 20, 22, 1, 1, 1, 1]}, "damaged header: 8 axes"),
    "no axes": ({"dim": [0] * 8}, "damaged header: 0 axes"),
    "an axis of nothing": ({"dim": [3, 18, 0, 22, 1, 1, 1, 1]}, "damaged header: 3 axes of [18, 0, 22] voxels"),
    "a negative axis": ({"dim": [3, 18, -20, 22, 1, 1, 1, 1]}, "damaged header: 3 axes of [18, -20, 22] voxels"),
    "more voxels than bytes": ({"dim": [3, 18, 20, 23, 1, 1, 1, 1]}, "truncated; copy the file again"),
    "too many voxels": ({"dim": [3, 6000, 6000, 6000, 1, 1, 1, 1]}, "voxels of 411,987 MiB; at most 192 MiB are read"),
    "a long axis": ({"dim": [3, 30000, 1, 1, 1, 1, 1, 1]}, "30000 x 1 x 1 voxels; at most 8000 along each axis"),
    "thin slices": ({"dim": [3, 360, 2, 11, 1, 1, 1, 1]}, "slices of 360 x 2 pixels; at least 16 on each side"),
    "voxels far away": ({"vox_offset": 1e30}, "damaged header: voxels begin at byte 1e+30"),
    "voxels in the header": ({"vox_offset": 0}, "damaged header: voxels begin at byte 0; expected 352"),
    "voxels before the file": ({"vox_offset": -352}, "damaged header: voxels begin at byte -352"),
    "voxels nowhere": ({"vox_offset": math.nan}, "damaged header: voxels begin at byte nan"),
    "voxels between bytes": ({"vox_offset": 352.5}, "damaged header: voxels begin at byte 352.5"),
    "voxels past the end": ({"vox_offset": 1_000_000}, "truncated; copy the file again"),
    "singular sform": (
        {"srow_y": (0, 1, 1, 0), "srow_z": (0, 0, 1e-3, 0)},
        "damaged header: the axes of its sform lie in one plane",
    ),
    "sform of nothing": ({"srow_x": (0,) * 4, "srow_y": (0,) * 4}, "damaged header: voxels of 0 x 0 x 1 mm"),
    "sform without numbers": ({"srow_y": (math.nan,) * 4}, "damaged header: its sform is not finite"),
    "infinite sform": ({"srow_y": (math.inf,) * 4}, "damaged header: its sform is not finite"),
    "far too large": ({"srow_x": (3e38, 0, 0, 0)}, "damaged header: voxels of 3e+38 x 1 x 1 mm"),
    "negative sizes": ({"sform_code": 0, "qform_code": 1, "pixdim": {2: -1.0}}, "damaged header: its qform is no"),
    "quaternion too long": ({"sform_code": 0, "qform_code": 1, "quatern_b": 9.0}, "damaged header: its qform is no"),
    "no quaternion": ({"sform_code": 0, "qform_code": 1, "quatern_b": math.nan}, "damaged header: its qform is no"),
    "no sizes": ({"sform_code": 0, "qform_code": 0, "pixdim": [0] * 8}, "damaged header: voxels of 0 x 0 x 0 mm"),
    "sizes below zero": ({"sform_code": 0, "qform_code": 0, "pixdim": {3: -2.0}}, "voxels of 1 x 1 x -2 mm"),
    "one of a pair": ({"magic": b"ni1\0"}, "is one of a pair of files, .hdr and .img"),
    "Analyze": ({"magic": b"\0\0\0\0"}, "is an Analyze header, without orientation"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_odd_headers_are_refused_with_the_reason(case: str, packed: bool, plain: bytes) -> None:
    fields, reason = BROKEN[case]
    assert reason in refusal(changed(plain, packed=packed, **fields))


def test_a_last_axis_of_one_is_no_second_volume(plain: bytes) -> None:
    assert len(scans(changed(plain, dim=[4, 18, 20, 22, 1, 1, 1, 1]))) == 22
    assert len(scans(changed(plain, dim=[2, 18, 20, 1, 1, 1, 1, 1]))) == 1


def test_slices_too_large_for_here_are_refused(plain: bytes, values: NDArray[np.int16]) -> None:
    assert "slices of 18 x 20 pixels; at most 359 in all are read here" in refusal(plain, largest=359)
    assert len(scans(plain, largest=360)) == 22
    stretched = nifti(values, spacing=(1, 1, 500))
    assert len(scans(stretched)) == 22
    assert "slices of 18 x 11000 pixels" in refusal(stretched, "coronal")


@pytest.mark.parametrize("length", [0, 3, 4, 100, 347, 351, 352, 1000])
def test_truncated_files_are_refused(length: int, plain: bytes) -> None:
    assert refusal(plain[:length]) == ("truncated; copy the file again" if length >= 4 else "holds no NIfTI volume")
    assert refusal(gzip.compress(plain[:length])) == refusal(plain[:length])


def test_damaged_gzip_data_is_refused(plain: bytes) -> None:
    packed = gzip.compress(plain)
    for length in (10, 50, len(packed) // 2, len(packed) - 5):
        assert refusal(packed[:length]) == "truncated; copy the file again"
    for offset in (len(packed) // 2, len(packed) - 6):
        wrong = bytearray(packed)
        wrong[offset] ^= 0x55
        assert refusal(bytes(wrong)) == "its gzip data is damaged; copy the file again"
    assert refusal(gzip.compress(b"hello")) == "holds no NIfTI volume"


def test_a_gzip_bomb_is_not_unpacked(plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(plain + bytes(64 << 20), 1)
    sizes: list[int] = []
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        sizes.append(size or 0)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    assert len(scans(bomb)) == 22
    assert sum(sizes) < len(plain) + 1000
    assert min(sizes) > 0


def test_nothing_of_the_headers_text_gets_out(values: NDArray[np.int16]) -> None:
    content = nifti(values, descrip=b"SECRET^NAME", aux_file=b"SECRET^NAME", db_name=b"SECRET^NAME")
    assert "SECRET" not in repr(scans(content))
    assert "SECRET" not in refusal(changed(content, datatype=128))


def test_an_extension_of_the_header_is_stepped_over(values: NDArray[np.int16], plain: bytes) -> None:
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"SECRET^NAME"))
    np.testing.assert_array_equal(scans(image.to_bytes())[4].pixels, scans(plain)[4].pixels)


NUMBERS = st.one_of(st.floats(width=32), st.sampled_from([0.0, -1.0, 1.0, 1e-38, 352.0]))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "dim": st.lists(st.integers(-2, 30), min_size=8, max_size=8),
        "datatype": st.sampled_from([2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280, 128, 0, -1]),
        "pixdim": st.lists(NUMBERS, min_size=8, max_size=8),
        "vox_offset": NUMBERS,
        "scl_slope": NUMBERS,
        "scl_inter": NUMBERS,
        "cal_max": NUMBERS,
        "xyzt_units": st.integers(0, 255),
        "sform_code": st.integers(-3, 9),
        "qform_code": st.integers(-3, 9),
        "quatern_b": NUMBERS,
        "quatern_c": NUMBERS,
        "qoffset_x": NUMBERS,
        "intent_code": st.integers(-5, 4000),
        **{f"srow_{axis}": st.lists(NUMBERS, min_size=4, max_size=4) for axis in "xyz"},
    },
)


@pytest.mark.slow
@given(FIELDS, st.sampled_from(["acquired", "axial", "coronal", "sagittal"]))
@settings(max_examples=400, deadline=None)
def test_any_header_gives_slices_or_a_reason(fields: dict[str, Any], plane: str) -> None:
    outcome = outcome_of(changed(CUBE, **fields), plane)
    assert outcome in (1, 3) or isinstance(outcome, str)  # 1 where the header says that there is one slice


CUBE = nifti(np.arange(8000, dtype=np.int16).reshape(20, 20, 20), qform_code=1)


def outcome_of(content: bytes, plane: str) -> int | str:
    """Return the number of slices read, of the first three, or the reason for the refusal."""
    try:
        return len(scans(content, plane, (1, 3)))
    except ImageError as error:
        return error.reason


@pytest.mark.slow
@given(st.integers(0, 351), st.binary(min_size=1, max_size=8))
@settings(max_examples=400, deadline=None)
def test_any_bytes_in_the_header_give_slices_or_a_reason(offset: int, damage: bytes) -> None:
    outcome = outcome_of(CUBE[:offset] + damage + CUBE[offset + len(damage) :], "acquired")
    assert outcome == 3 or isinstance(outcome, str)


def test_the_largest_volume_is_that_of_a_head_at_high_resolution() -> None:
    assert 512 * 512 * 352 * 2 < LARGEST_VOLUME < 256 * 2**20


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(children=1) as sandbox:
        yield sandbox


def test_slices_from_a_child_process_are_the_same(sandbox: Sandbox, plain: bytes) -> None:
    for content in (plain, brain(size=64)):
        for actual, expected in zip(sandbox.read_all(content, "v.nii"), scans(content), strict=True):
            np.testing.assert_array_equal(actual.pixels, expected.pixels)
            assert actual.place == expected.place
            assert actual.spacing == expected.spacing
            assert actual.notes == expected.notes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int16", "float64"])
def test_the_largest_volume_fits_into_a_child_process(sandbox: Sandbox, kind: str) -> None:
    layers = LARGEST_VOLUME // (512 * 512 * np.dtype(kind).itemsize)
    noise = np.random.default_rng(0).integers(1, 1000, (512, 512, 8)).astype(kind)
    volume = np.tile(noise, (1, 1, layers // 8))
    for packed in (False, True):
        content = nifti(volume, packed=packed)
        for plane in ("axial", "sagittal"):
            actual = list(sandbox.read_all(content, "v.nii", SliceSelection(plane, ((3, 8),))))
            assert len(actual) == 6
