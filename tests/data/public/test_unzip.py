import re
import zipfile
from pathlib import Path

import pytest

from braintumor.data.public import unzip
from braintumor.data.public.unzip import members
from braintumor.errors import DataError

WANTED = re.compile(r"(\w+)\.txt")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in (("a.txt", "first"), ("../b.txt", "out"), ("/c.txt", "out"), ("d.txt", "d" * 1000)):
            file.writestr(name, content)
    return tmp_path / "a.zip"


def test_members_come_with_their_content_and_paths_outside_are_passed_over(archive: Path) -> None:
    assert [(match[1], content) for match, content in members(archive, WANTED)] == [("a", b"first"), ("d", b"d" * 1000)]


def test_a_large_member_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unzip, "LARGEST_MEMBER", 999)
    with pytest.raises(DataError, match=r"a\.zip: d\.txt is larger than"):
        list(members(archive, WANTED))


def test_too_many_members_are_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unzip, "MOST_MEMBERS", 3)
    with pytest.raises(DataError, match="has 4 members, at most 3"):
        list(members(archive, WANTED))


def test_an_archive_of_something_else_is_refused(archive: Path) -> None:
    with pytest.raises(DataError, match="holds none of the expected files"):
        list(members(archive, re.compile("nothing")))


def test_damaged_archives_are_refused(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[content.index(b"a.txt") + 7] ^= 0xFF
    archive.write_bytes(content)
    (tmp_path / "short.zip").write_bytes(content[:50])
    for damaged in (archive, tmp_path / "short.zip", tmp_path / "absent.zip"):
        with pytest.raises(DataError, match=f"{damaged.name} cannot be unpacked .*download it again"):
            list(members(damaged, WANTED))
