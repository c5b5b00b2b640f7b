"""Whether a folder loses no file without a word."""

import os
from pathlib import Path

import pytest

from braintumor.cli.output import tell_passed_over
from braintumor.cli.paths import FoundImages


@pytest.fixture
def folder(tmp_path: Path, slices: list[Path]) -> Path:
    """Return a folder of two images and of what holds none."""
    (tmp_path / "deeper").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("b.png", "deeper/a.png"):
        (tmp_path / name).write_bytes(slices[0].read_bytes())
    for name in ("notes.txt", ".hidden", "deeper/DICOMDIR"):
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    return tmp_path


def test_every_file_is_an_image_or_passed_over(folder: Path) -> None:
    found = FoundImages([folder])
    assert [file.relative_to(folder).as_posix() for file in found] == ["b.png", "deeper/a.png"]
    passed = sorted(file.relative_to(folder).as_posix() for file in found.passed_over)
    assert passed == [".hidden", "deeper/DICOMDIR", "gone.png", "linked", "notes.txt"]
    assert len(list(found)) == 2
    assert len(found.passed_over) == 5  # not twice


@pytest.mark.skipif(os.getuid() == 0, reason="root may open every folder")
def test_a_folder_that_may_not_be_opened_is_passed_over(folder: Path) -> None:
    (folder / "elsewhere").chmod(0)
    found = FoundImages([folder])
    list(found)
    assert folder / "elsewhere" in found.passed_over


def test_a_folder_that_vanishes_is_passed_over(folder: Path) -> None:
    found = FoundImages([folder])
    found._pass_over(OSError(13, "Permission denied", str(folder / "elsewhere")))
    assert found.passed_over == [folder / "elsewhere"]


def test_what_is_passed_over_is_counted_and_named_if_wanted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = FoundImages([folder / "deeper"])
    list(found)
    counted = "1 file(s) and folder(s) without an image were passed over"
    tell_passed_over(found.passed_over, verbose=False)
    assert capsys.readouterr().err == f"{counted}; --verbose names them\n"
    tell_passed_over(found.passed_over, verbose=True)
    named = f"passed over: {folder / 'deeper' / 'DICOMDIR'}\n"
    assert capsys.readouterr().err == f"{named}{counted}\n"
    tell_passed_over([], verbose=True)
    assert capsys.readouterr().err == ""
