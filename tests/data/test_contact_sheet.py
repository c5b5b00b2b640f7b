from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.data.contact_sheet import CAPTION, MARGIN, SIDE, contact_sheet
from braintumor.errors import DataError


def save(file: Path, grey: int, size: tuple[int, int] = (32, 32)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(file)


def quiet(done: int, total: int) -> None:
    pass


def shown(page: Image.Image, row: int) -> list[int]:
    """Return the grey value in the middle of every slice of a row, up to the first place without one."""
    pixels = np.asarray(page.convert("L"))
    y = MARGIN // 2 + row * (CAPTION + SIDE + 4) + CAPTION + SIDE // 2
    values = [int(pixels[y, MARGIN + place * (SIDE + 4) + SIDE // 2]) for place in range(12)]
    return values[: values.index(PAPER)] if PAPER in values else values


PAPER = 20  # luma of the background


def test_rows_are_splits_and_classes_with_counts_and_sizes(phantoms: Path) -> None:
    steps: list[tuple[int, int]] = []
    sheet = contact_sheet(phantoms, lambda done, total: steps.append((done, total)))
    titles = ("Glioma", "Meningioma", "Pituitary tumor", "No tumor")
    assert sheet.captions == (
        *(f"Training · {title} · 3 images · 96 x 96" for title in titles),
        *(f"Testing · {title} · 1 image · 96 x 96" for title in titles),
    )
    assert sheet.unreadable == {}
    assert steps == [(done, 16) for done in range(1, 17)]


def test_slices_are_drawn_evenly_by_name(tmp_path: Path) -> None:
    for number in range(23):
        save(tmp_path / "glioma" / f"{number:02}.png", 30 + 10 * number)
    save(tmp_path / "notumor/a.png", 100)
    sheet = contact_sheet(tmp_path, quiet)
    assert shown(sheet.page, 0) == [30 + 10 * number for number in range(0, 23, 2)]
    assert shown(sheet.page, 1) == [100]
    assert sheet.captions == ("Glioma · 23 images · 32 x 32", "No tumor · 1 image · 32 x 32")


def test_other_sizes_are_counted_and_proportions_kept(tmp_path: Path) -> None:
    for name, size in (("a", (40, 20)), ("b", (40, 20)), ("c", (20, 40))):
        save(tmp_path / f"glioma/{name}.png", 200, size)
    save(tmp_path / "notumor/a.png", 100)
    sheet = contact_sheet(tmp_path, quiet)
    assert sheet.captions[0] == "Glioma · 3 images · 40 x 20, 1 of other sizes"
    column = np.asarray(sheet.page.convert("L"))[MARGIN // 2 + CAPTION :][:SIDE, MARGIN + SIDE // 2]
    assert (column == 200).sum() == SIDE // 2  # the wide slice fills half of the height


def test_unreadable_files_are_left_out_and_named(tmp_path: Path) -> None:
    save(tmp_path / "glioma/a.png", 200)
    (tmp_path / "glioma/b.png").write_bytes(b"no image")
    (tmp_path / "glioma/c.png").touch()
    (tmp_path / "notumor").mkdir()
    (tmp_path / "notumor/a.png").write_bytes(b"no image")
    sheet = contact_sheet(tmp_path, quiet)
    assert sheet.captions == ("Glioma · 1 image · 32 x 32", "No tumor · 0 images")
    assert sheet.unreadable == {
        "glioma/b.png": "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file",
        "glioma/c.png": "empty file (0 bytes)",
        "notumor/a.png": "not a readable PNG, JPEG, TIFF, BMP, DICOM or NIfTI file",
    }
    assert (shown(sheet.page, 0), shown(sheet.page, 1)) == ([200], [])


def test_the_disclaimer_stands_below(phantoms: Path) -> None:
    page = np.asarray(contact_sheet(phantoms, quiet).page.convert("L"))
    assert page.shape == (MARGIN + 8 * (CAPTION + SIDE + 4) + 2 * MARGIN, 2 * MARGIN + 12 * (SIDE + 4) - 4)
    assert (page[-40:-10] > 150).any()


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no known layout"):
        contact_sheet(tmp_path, quiet)


@pytest.mark.slow
@pytest.mark.data
def test_the_real_set_has_one_size(data_folder: Path) -> None:
    sheet = contact_sheet(data_folder / "brain-tumor-mri", quiet)
    assert sheet.captions[0] == "Training · Glioma · 1,321 images · 224 x 224"
    assert len(sheet.captions) == 8
    assert sheet.unreadable == {}
