"""Which data folders are understood, and what is said about the others."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from braintumor.data.layout import Listing, class_of, has_part, list_images
from braintumor.errors import DataError


def fill(folder: Path, *names: str) -> Path:
    """Write a file of some bytes, its own path, for each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def listed(listing: Listing) -> list[tuple[str, str, str, str]]:
    """Return image, label, source and split of all rows."""
    return [(row.image, row.label, row.source, row.split) for row in listing.manifest]


def refusal(folder: Path, **options: Any) -> str:
    """Return the message of the DataError about a folder."""
    with pytest.raises(DataError) as caught:
        list_images(folder, **options)
    return str(caught.value)


def test_the_public_layout_is_listed(tmp_path: Path) -> None:
    fill(tmp_path, "Training/glioma/b.jpg", "Training/notumor/a.JPG", "Testing/glioma/c.jpg", "Testing/notumor/d.jpg")
    assert listed(list_images(tmp_path)) == [
        ("Testing/glioma/c.jpg", "glioma", "Testing", "test"),
        ("Testing/notumor/d.jpg", "no_tumor", "Testing", "test"),
        ("Training/glioma/b.jpg", "glioma", "Training", "train"),
        ("Training/notumor/a.JPG", "no_tumor", "Training", "train"),
    ]


def test_train_val_test_are_listed_in_any_case(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{part}/{label}/a.png" for part in ("TRAIN", "Valid", "test") for label in ("glioma", "notumor")))
    counts = list_images(tmp_path).manifest.counts()
    assert {part: sum(counts[part].values()) for part in counts} == {"train": 2, "val": 2, "test": 2}
    assert [has_part(tmp_path, part) for part in ("train", "val", "test")] == [True, True, True]


def test_class_folders_alone_have_no_split(tmp_path: Path) -> None:
    fill(tmp_path, "Glioma/x/deep.tif", "no tumor/a.bmp")
    assert listed(list_images(tmp_path, parts={"train", "val"})) == [
        ("Glioma/x/deep.tif", "glioma", "", ""),
        ("no tumor/a.bmp", "no_tumor", "", ""),
    ]
    assert not has_part(tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("glioma", "glioma"),
        ("Glioma_Tumor", "glioma"),
        ("MENINGIOMA", "meningioma"),
        ("meningioma tumour", "meningioma"),
        ("pituitary_tumor", "pituitary"),
        ("notumor", "no_tumor"),
        ("no_tumor", "no_tumor"),
        ("No Tumor", "no_tumor"),
        ("no-tumor", "no_tumor"),
        ("tumor", None),
        ("astrocytoma", None),
    ],
)
def test_class_names(name: str, label: str | None) -> None:
    assert class_of(name) == label


def test_two_names_of_one_class_are_merged(tmp_path: Path) -> None:
    fill(tmp_path, "glioma/a.png", "glioma_tumor/a.png", "notumor/a.png")
    labels = [row.label for row in list_images(tmp_path).manifest]
    assert labels == ["glioma", "glioma", "no_tumor"]


def test_rows_carry_the_hash_of_the_bytes_and_keep_unicode_names(tmp_path: Path) -> None:
    fill(tmp_path, "glioma/Schädel 脑.png", "notumor/a.png")
    row = list_images(tmp_path).manifest.rows[0]
    assert row.image == "glioma/Schädel 脑.png"
    assert row.sha256 == hashlib.sha256("glioma/Schädel 脑.png".encode()).hexdigest()


def test_the_test_part_is_not_touched_unless_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *(f"{part}/{label}/a.png" for part in ("train", "test") for label in ("glioma", "notumor")))
    (tmp_path / "test" / "astrocytoma").mkdir()
    opened: list[str] = []
    opening, iterdir = Path.open, Path.iterdir
    monkeypatch.setattr(Path, "open", lambda path, *rest: opened.append(str(path)) or opening(path, *rest))
    monkeypatch.setattr(Path, "iterdir", lambda path: opened.append(str(path)) or iterdir(path))
    assert len(list_images(tmp_path, parts={"train", "val"}).manifest) == 2
    assert opened
    assert not [path for path in opened if path.startswith(str(tmp_path / "test"))]


def test_clutter_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "glioma/a.png", "glioma/.DS_Store", "glioma/Thumbs.db", "glioma/desktop.ini", "notumor/a.png")
    fill(tmp_path, "__MACOSX/x.png", ".git/config", "glioma/.hidden/b.png")
    assert list_images(tmp_path).skipped == {}
    assert len(list_images(tmp_path).manifest) == 2


def test_all_unusable_paths_are_reported_at_once(tmp_path: Path) -> None:
    fill(tmp_path, "glioma/a.png", "notumor/a.png", "glioma/notes.txt", "glioma/scan.dcm")
    (tmp_path / "glioma/empty.png").touch()
    (tmp_path / "glioma/broken.png").symlink_to("nowhere.png")
    (tmp_path / "glioma/self.png").symlink_to("self.png")
    (tmp_path / "notumor/up").symlink_to("..", target_is_directory=True)
    (tmp_path / "notumor/round").symlink_to(".", target_is_directory=True)
    os.mkfifo(tmp_path / "notumor/pipe.png")
    assert list_images(tmp_path).skipped == {
        "glioma/notes.txt": "not an image type (.png, .jpg, .jpeg, .tif, .tiff, .bmp)",
        "glioma/scan.dcm": "not an image type (.png, .jpg, .jpeg, .tif, .tiff, .bmp)",
        "glioma/empty.png": "empty file (0 bytes)",
        "glioma/broken.png": "broken link",
        "glioma/self.png": "too many levels of symbolic links",
        "notumor/round": "symbolic link loop",
        "notumor/up": "symbolic link loop",
        "notumor/pipe.png": "not a regular file",
    }


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    fill(tmp_path, "data/glioma/a.png", "data/notumor/a.png", "other/b.png")
    (tmp_path / "data/glioma/away").symlink_to("../../other", target_is_directory=True)
    (tmp_path / "other/back").symlink_to("../data/glioma", target_is_directory=True)
    assert list_images(tmp_path / "data").skipped == {"glioma/away/back": "symbolic link loop"}


def test_links_to_folders_outside_are_followed(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/a.png", "data/notumor/a.png")
    (tmp_path / "data/glioma").symlink_to("../elsewhere", target_is_directory=True)
    assert [row.image for row in list_images(tmp_path / "data").manifest] == ["glioma/a.png", "notumor/a.png"]


def test_files_and_folders_without_permission_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "glioma/a.png", "glioma/b.png", "glioma/locked/c.png", "notumor/a.png")
    opening, iterdir = Path.open, Path.iterdir

    def guarded(action: Any, forbidden: str) -> Any:
        def run(path: Path, *arguments: Any) -> Any:
            if path.name == forbidden:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return action(path, *arguments)

        return run

    monkeypatch.setattr(Path, "open", guarded(opening, "b.png"))
    monkeypatch.setattr(Path, "iterdir", guarded(iterdir, "locked"))
    assert list_images(tmp_path).skipped == {"glioma/b.png": "permission denied", "glioma/locked": "permission denied"}


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "file")
    assert "no such file or directory" in refusal(tmp_path / "missing")
    assert "not a directory" in refusal(tmp_path / "file")


def test_an_unknown_layout_says_what_is_there_and_what_is_understood(tmp_path: Path) -> None:
    assert "it holds no folders" in refusal(tmp_path)
    fill(tmp_path, "yes/a.png", "no/a.png")
    message = refusal(tmp_path)
    assert "it holds the folder(s) no, yes" in message
    assert "Training/CLASS/*.jpg" in message
    assert "notumor or no_tumor" in message


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "Training/glioma/a.png", "Training/notumor/a.png", "Training/astrocytoma/a.png")
    assert "Training: the folder(s) astrocytoma; rename or remove it" in refusal(tmp_path)


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "glioma/a.png", "notumor/a.png", "pituitary/a.txt")
    assert "no usable image of pituitary" in refusal(tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train/glioma/a.png")
    assert "expected at least two classes" in refusal(tmp_path)
    assert "found glioma" in refusal(tmp_path)


def test_a_missing_train_part_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    fill(tmp_path, "Testing/glioma/a.png", "Testing/notumor/a.png")
    assert "has no train folder, only the folder(s) Testing" in refusal(tmp_path, parts={"train", "val"})
    assert "has no val folder" in refusal(tmp_path, parts={"val"})
    assert len(list_images(tmp_path, parts={"test"}).manifest) == 2


def test_ambiguous_layouts_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train/glioma/a.png", "train/notumor/a.png", "glioma/a.png")
    assert "mixes part folders and class folders" in refusal(tmp_path)
    fill(tmp_path / "two", "train/glioma/a.png", "Training/glioma/a.png")
    assert "two folders for one part" in refusal(tmp_path / "two")


def test_a_layout_one_folder_deeper_is_pointed_to(tmp_path: Path) -> None:
    for folder in ("archive/Training/glioma", "archive/Training/notumor", "other/notes"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        list_images(tmp_path)
    assert str(caught.value).splitlines()[0] == (
        f"no known layout in {tmp_path}: it holds the folder(s) archive, other. Give {tmp_path / 'archive'}."
    )
