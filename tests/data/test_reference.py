"""From which slice of a reference set an image was made, and where it lies in it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.data.duplicates.thumbnails import Thumbnails, make_thumbnails
from braintumor.data.manifest import Manifest, Row
from braintumor.data.phantom import phantom
from braintumor.data.reference import Match, match, placed, read_reference
from braintumor.errors import DataError

SIDE = 120


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reference folder of six slices of 120 x 120 pixels from three patients."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "images").mkdir()
    lines = ["figshare_id,class,patient,tumor_outline_xy"]
    for number in range(6):
        slice_ = phantom("glioma" if number % 2 else "pituitary", number, size=SIDE)
        Image.fromarray(np.rint(slice_ * 255).astype(np.uint8)).save(folder / "images" / f"{number}.png")
        lines.append(f"{number},{'glioma' if number % 2 else 'pituitary'},P{number // 2},1 1;5 1;5 5")
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n")
    return folder


def matched(folder: Path, picture: np.ndarray, tmp_path: Path) -> Match | None:
    """Return the source slice of one picture."""
    Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "a.png")
    known = read_reference(folder)
    found: Thumbnails = make_thumbnails(Manifest(tmp_path, (Row("a.png", "glioma"),)), tmp_path / "cache")[0]
    (result,) = match(found, known, make_thumbnails(known.manifest, tmp_path / "cache")[0])
    return result


def source(folder: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(folder / "images" / f"{number}.png"))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_slice_inherits_patient_and_orientation(reference: Path, tmp_path: Path, mirrored: bool, turns: int) -> None:
    picture = np.rot90(source(reference, 3), -turns)  # turned back; mirroring the result first undoes the fliplr below
    result = matched(reference, np.fliplr(picture) if mirrored else picture, tmp_path)
    assert result is not None
    assert (result.reference_id, result.patient, result.label) == ("3", "P1", "glioma")
    assert (result.mirrored, result.rotation) == (mirrored, 90 * turns)
    assert result.score > 0.99
    assert result.window == pytest.approx((0, 0, SIDE, SIDE), abs=1e-3)


def test_the_window_of_a_cropped_slice_says_where_it_lay(reference: Path, tmp_path: Path) -> None:
    result = matched(reference, source(reference, 2)[3:117, 5:119], tmp_path)  # 114 of 120 pixels: 5 %
    assert result is not None
    assert result.reference_id == "2"
    assert result.window == pytest.approx((5, 3, 119, 117), abs=1.6)


def test_another_head_has_no_source(reference: Path, tmp_path: Path) -> None:
    other = np.rint(phantom("meningioma", 77, size=SIDE) * 255).astype(np.uint8)
    assert matched(reference, other, tmp_path) is None


def test_windows_worked_out_by_hand() -> None:
    # the image's left half was found in the source's window rows 0.2-0.6, columns 0.1-0.3
    windows = np.array([[0, 1, 0, 0.5], [0.2, 0.6, 0.1, 0.3]])
    assert placed(windows, 0, 0) == pytest.approx((0.2, 0.6, 0.1, 0.5))
    # mirrored, the left half is the right one
    assert placed(windows, 1, 0) == pytest.approx((0.2, 0.6, -0.1, 0.3))
    # turned a quarter counter-clockwise, the left half is the lower one
    assert placed(windows, 0, 1) == pytest.approx((-0.2, 0.6, 0.1, 0.3))


def test_a_folder_that_is_no_reference_says_what_is_expected(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected images/ and annotations\.csv .*data get figshare"):
        read_reference(tmp_path)
    (tmp_path / "annotations.csv").write_text("id,label\n1,glioma\n")
    with pytest.raises(
        DataError, match="expected the columns figshare_id,class,patient,tumor_outline_xy, got id,label"
    ):
        read_reference(tmp_path)
    (tmp_path / "annotations.csv").write_text((reference / "annotations.csv").read_text())
    with pytest.raises(
        DataError, match=r"lacks the images of 6 slices \(0, 1, 2, 3, 4, 5\); expected ID.png or ID.jpg"
    ):
        read_reference(tmp_path)
