import io
from typing import Any

import numpy as np
import pytest

from braintumor.errors import DataError

h5py = pytest.importorskip("h5py")
from braintumor.data.public.matlab import read_slice  # noqa: E402

PIXELS = np.arange(20 * 30, dtype=np.int16).reshape(20, 30)
"""Height 20, width 30."""
MASK = np.zeros((20, 30), np.uint8)
MASK[2:6, 15:26] = 1  # y from 2 to 5, x from 15 to 25
CORNERS = [(15, 2), (25, 2), (25, 5), (15, 5)]


def matlab_file(**changed: Any) -> bytes:
    """Return a file as MATLAB 7.3 writes it: everything transposed, text as 16-bit characters; None leaves out."""
    fields = {
        "label": np.array([[2.0]]),
        "PID": np.array([[ord(letter)] for letter in "MR040240B"], np.uint16),
        "image": PIXELS.T,
        "tumorBorder": np.array([[value for corner in CORNERS for value in corner]], np.float64),
        "tumorMask": MASK.T,
    } | changed
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("cjdata")
        for name, value in fields.items():
            if value is not None:
                group[name] = value
    return content.getvalue()


def test_a_slice_is_turned_upright_with_its_class_and_patient() -> None:
    record = read_slice(matlab_file(), "1.mat")
    np.testing.assert_array_equal(record.pixels, PIXELS)
    assert (record.label, record.patient) == ("glioma", "MR040240")
    assert record.outline.tolist() == [list(corner) for corner in CORNERS]


def test_an_outline_of_row_before_column_is_swapped() -> None:
    swapped = np.array([[value for x, y in CORNERS for value in (y, x)]], np.float64)
    record = read_slice(matlab_file(tumorBorder=swapped), "1.mat")
    assert record.outline.tolist() == [list(corner) for corner in CORNERS]


@pytest.mark.parametrize(
    ("published", "patient"),
    [("112649", "112649"), ("112649a", "112649"), ("MR040240D", "MR040240"), ("MR040240", "MR040240"), ("XY", "XY")],
)
def test_patients_that_differ_by_a_letter_at_the_end_are_one(published: str, patient: str) -> None:
    name = np.array([[ord(letter)] for letter in published], np.uint16)
    assert read_slice(matlab_file(PID=name), "1.mat").patient == patient


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"label": np.array([[4.0]])}, "label is not one of 1, 2, 3"),
        ({"label": np.array([[np.nan]])}, "NaN"),
        ({"label": None}, "label is missing"),
        ({"PID": np.array([[10]], np.uint16)}, "PID is not a name"),
        ({"PID": np.full((65, 1), 65, np.uint16)}, "PID has 65 values .* expected 1 to 64"),
        ({"PID": np.array([[2.0**40]])}, "too large"),
        ({"image": PIXELS.T[:15]}, r"image has the shape \(15, 20\)"),
        ({"image": PIXELS.T.astype(float)}, "expected a slice of integers"),
        ({"image": PIXELS[None]}, r"image has the shape \(1, 20, 30\)"),
        ({"tumorMask": MASK}, r"tumorMask has the shape \(30, 20\), the image \(20, 30\)"),
        ({"tumorBorder": np.zeros((1, 7))}, "tumorBorder is not a list of at least three points"),
        ({"tumorBorder": np.full((1, 8), np.inf)}, "tumorBorder is not a list"),
        ({"image": h5py.ExternalLink("elsewhere.h5", "image")}, "image is missing"),
        ({"image": h5py.SoftLink("/cjdata/tumorMask")}, "image is missing"),
    ],
)
def test_what_cannot_be_a_slice_is_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=rf"^7\.mat is not a slice of the figshare set \(.*{reason}"):
        read_slice(matlab_file(**changed), "7.mat")


def test_values_that_lie_in_another_file_are_not_read(tmp_path: Any) -> None:
    (tmp_path / "secret").write_bytes(bytes(1200))
    content = io.BytesIO(matlab_file(image=None))
    with h5py.File(content, "r+") as file:
        file["cjdata"].create_dataset("image", (30, 20), "i2", external=[(str(tmp_path / "secret"), 0, 1200)])
    with pytest.raises(DataError, match="image is of another kind"):
        read_slice(content.getvalue(), "1.mat")


def test_a_claimed_size_is_refused_before_anything_is_read() -> None:
    content = io.BytesIO(matlab_file(image=None))
    with h5py.File(content, "r+") as file:
        file["cjdata"].create_dataset("image", (10**6, 10**6), "i2", chunks=(64, 64))
    with pytest.raises(DataError, match=r"image has the shape \(1000000, 1000000\)"):
        read_slice(content.getvalue(), "1.mat")


def test_damaged_files_are_refused() -> None:
    content = matlab_file()
    for damaged in (b"", b"no HDF5", content[:500], content[: len(content) // 2]):
        with pytest.raises(DataError, match="download its archive again"):
            read_slice(damaged, "1.mat")
