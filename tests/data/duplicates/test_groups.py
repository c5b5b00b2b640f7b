"""Which images belong together, in tables and from the table shipped with the package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.data.duplicates import groups as module
from braintumor.data.duplicates.groups import (
    GroupRow,
    PublicImage,
    group_numbers,
    group_rows,
    known_images,
    picture_codes,
    public_set,
    read_groups,
    write_groups,
)
from braintumor.data.duplicates.pairs import Pairs
from braintumor.data.duplicates.thumbnails import NOTHING, Thumbnails, make_thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, Row
from braintumor.data.phantom import phantom
from braintumor.data.reference import Match
from braintumor.errors import DataError


def blank(count: int) -> Thumbnails:
    """Return miniatures without content, which resemble nothing."""
    return Thumbnails.stacked([NOTHING] * count)


def test_images_are_linked_by_bytes_patient_and_similarity(tmp_path: Path) -> None:
    rows = (
        Row("a.png", "glioma", sha256="1"),
        Row("b.png", "glioma", sha256="2", patient="P"),
        Row("c.png", "glioma", sha256="1"),
        Row("d.png", "glioma", sha256="3", patient="P"),
        Row("e.png", "glioma", sha256="4"),
        Row("f.png", "glioma", sha256="5"),
    )
    one = np.array([3]), np.array([4])
    pairs = Pairs(*one, np.array([0.95], np.float32), np.array([0]), np.zeros((1, 2, 4), np.float32))
    numbers = group_numbers(Manifest(tmp_path, rows), blank(6), pairs)
    assert numbers.tolist() == [0, 1, 0, 1, 1, 2]  # b and d are one patient, d and e one slice
    assert group_numbers(Manifest(tmp_path, rows), blank(6), pairs, ["", "", "", "", "Q", "Q"]).tolist()[3:] == [
        1,
        1,
        1,
    ]


def test_similar_slices_are_found_where_no_pairs_are_given(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        picture = np.rint(phantom("glioma", seed, size=96) * 255).astype(np.uint8)
        Image.fromarray(picture if name != "c" else np.ascontiguousarray(picture[:, ::-1])).save(
            tmp_path / f"{name}.png"
        )
    manifest = Manifest(tmp_path, tuple(Row(f"{name}.png", "glioma") for name in "abc"))
    assert group_numbers(manifest, make_thumbnails(manifest, tmp_path)[0]).tolist() == [0, 1, 0]


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, (Row("Training/a.png", "glioma"), Row("Training/b.png", "glioma")))
    result = Match("17", "MR1", "glioma", True, 90, (0.0, 1.25, 512.0, 511.0), 0.98765)
    rows = group_rows(manifest, np.array([4, 5]), [result, None])
    write_groups(rows, tmp_path / "groups.csv")
    assert (tmp_path / "groups.csv").read_text().splitlines() == [
        "image,group,patient,reference_id,mirrored,rotation,x0,y0,x1,y1,score",
        "Training/a.png,g00004,MR1,17,1,90,0.0,1.2,512.0,511.0,0.9877",
        "Training/b.png,g00005,,,,,,,,,",
    ]
    assert read_groups(tmp_path / "groups.csv") == rows


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group\na.png,g1\n")
    with pytest.raises(DataError, match="expected the columns image,group,patient"):
        read_groups(tmp_path / "groups.csv")
    with pytest.raises(DataError, match="cannot read the groups"):
        read_groups(tmp_path / "missing.csv")


def test_a_picture_is_known_by_name_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.rint(phantom("glioma", 1, size=96) * 255).astype(np.uint8)
    Image.fromarray(picture).resize((200, 200)).save(tmp_path / "Tr-gl_0010.jpg", quality=60)
    Image.fromarray(picture).save(tmp_path / "other.png")
    Image.fromarray(picture.T.copy()).save(tmp_path / "Tr-gl_0011.jpg")
    names = ("Tr-gl_0010.jpg", "other.png", "Tr-gl_0011.jpg")
    manifest = Manifest(tmp_path, tuple(Row(name, "glioma") for name in names))
    result, _ = make_thumbnails(manifest, tmp_path / "cache")
    code = picture_codes(result)[1]
    table = {name: PublicImage(GroupRow(name, "g1", "P1"), 3, code) for name in (names[0], names[2])}
    monkeypatch.setattr(module, "public_set", lambda: table)
    known = known_images(manifest, result)
    assert [bool(each) for each in known] == [True, False, False]  # same name and picture; no such name; other picture


def test_the_shipped_tables_fit_together() -> None:
    shipped = public_set()
    assert len(shipped) == 7019
    fold_of: dict[str, int] = {}
    group_of: dict[str, str] = {}
    for known in shipped.values():
        assert fold_of.setdefault(known.row.group, known.fold) == known.fold, "a group is in one fold"
        if known.row.patient:
            assert group_of.setdefault(known.row.patient, known.row.group) == known.row.group, "a patient is one group"
    assert set(fold_of.values()) == {0, 1, 2, 3, 4}
    assert len(group_of) == 209


@pytest.mark.slow
@pytest.mark.data
def test_the_shipped_groups_are_those_of_the_pixels(data_folder: Path, tmp_path: Path) -> None:
    listing = list_images(data_folder / "brain-tumor-mri").manifest
    sample = Manifest(listing.root, listing.rows[::9])
    result, _ = make_thumbnails(sample, tmp_path)
    shipped = [known.row if known else None for known in known_images(sample, result)]
    assert all(shipped)
    group = {line.group for line in shipped if line}
    numbers = group_numbers(sample, result, use_shipped=False)  # without patients: finer than the shipped groups
    names = [line.group for line in shipped if line]
    assert all(len({names[i] for i in np.flatnonzero(numbers == number)}) == 1 for number in range(numbers.max() + 1))
    assert len(group) <= numbers.max() + 1
    assert {row.label for row in sample} == set(CLASSES)
    assert group_numbers(sample, result).max() + 1 == len(group)


def test_groups_given_in_the_rows_stay_together(tmp_path: Path) -> None:
    rows = tuple(replace(Row(f"{n}.png", "glioma"), group="g" if n in (0, 2) else "") for n in range(3))
    assert group_numbers(Manifest(tmp_path, rows), blank(3)).tolist() == [0, 1, 0]
