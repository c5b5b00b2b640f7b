import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from braintumor.download import Remote, fetch, fetch_text
from braintumor.errors import DownloadError, StorageError

if TYPE_CHECKING:
    from conftest import Server

CONTENT = bytes(range(256)) * 40


def quiet(done: int, total: int) -> None:
    pass


def remote(url: str, content: bytes = CONTENT) -> Remote:
    return Remote("slices.zip", url, len(content), hashlib.md5(content).hexdigest())


@pytest.fixture
def published(server: "Server") -> Remote:
    server.files["slices.zip"] = CONTENT
    return remote(server.url("slices.zip"))


def test_a_file_is_fetched_once_and_verified(server: "Server", published: Remote, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    target = fetch(published, tmp_path / "new", lambda done, total: steps.append((done, total)))
    assert target == tmp_path / "new" / "slices.zip"
    assert target.read_bytes() == CONTENT
    assert steps[-1] == (10240, 10240)
    assert fetch(published, tmp_path / "new", quiet) == target
    assert server.asked == [("slices.zip", None)]
    assert list((tmp_path / "new").iterdir()) == [target]


def test_a_cut_connection_is_continued_where_it_stopped(server: "Server", published: Remote, tmp_path: Path) -> None:
    server.cuts["slices.zip"] = [1000, 2000]
    assert fetch(published, tmp_path, quiet).read_bytes() == CONTENT
    assert [ranged for _, ranged in server.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_what_arrived_is_kept_for_the_next_call(server: "Server", published: Remote, tmp_path: Path) -> None:
    server.cuts["slices.zip"] = [4000, 0]
    with pytest.raises(DownloadError, match=r"cut\); 4000 of 10240 bytes are kept in .*slices.zip.part and the same"):
        fetch(published, tmp_path, quiet)
    assert (tmp_path / "slices.zip.part").read_bytes() == CONTENT[:4000]
    server.asked.clear()
    assert fetch(published, tmp_path, quiet).read_bytes() == CONTENT
    assert server.asked == [("slices.zip", "bytes=4000-")]
    assert not (tmp_path / "slices.zip.part").exists()


def test_a_server_without_ranges_sends_the_whole_file_again(
    server: "Server", published: Remote, tmp_path: Path
) -> None:
    server.knows_ranges = False
    (tmp_path / "slices.zip.part").write_bytes(CONTENT[:4000])
    assert fetch(published, tmp_path, quiet).read_bytes() == CONTENT


def test_a_server_that_always_cuts_at_the_same_byte_is_given_up(
    server: "Server", published: Remote, tmp_path: Path
) -> None:
    server.knows_ranges = False
    server.cuts["slices.zip"] = [500] * 10
    with pytest.raises(DownloadError, match="500 of 10240 bytes are kept"):
        fetch(published, tmp_path, quiet)
    assert len(server.asked) == 2


@pytest.mark.parametrize("beginning", [b"", b"another beginning"])
def test_other_content_than_published_is_removed(
    server: "Server", published: Remote, tmp_path: Path, beginning: bytes
) -> None:
    server.files["slices.zip"] = CONTENT[::-1]
    (tmp_path / "slices.zip.part").write_bytes(beginning)
    with pytest.raises(DownloadError, match=f"has the MD5 .*, expected {published.checksum}; it was removed"):
        fetch(published, tmp_path, quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_copy_is_fetched_again(published: Remote, tmp_path: Path) -> None:
    (tmp_path / "slices.zip").write_bytes(CONTENT[:-1] + b"?")
    (tmp_path / "slices.zip.part").write_bytes(CONTENT + b"too much")
    assert fetch(published, tmp_path, quiet).read_bytes() == CONTENT


def test_an_error_status_is_named(server: "Server", tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"absent\.zip .*404"):
        fetch(remote(server.url("absent.zip")), tmp_path, quiet)
    with pytest.raises(DownloadError, match=r"absent\.json .*404"):
        fetch_text(server.url("absent.json"))


def test_no_server_is_named(no_server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"cannot download {no_server}/a .*refused"):
        fetch(remote(f"{no_server}/a"), tmp_path, quiet)
    with pytest.raises(DownloadError, match=f"cannot download {no_server}/a .*refused"):
        fetch_text(f"{no_server}/a")


def test_a_folder_that_cannot_be_written_is_named(published: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another folder"):
        fetch(published, tmp_path / "file", quiet)


@pytest.mark.parametrize(("answer", "reason"), [(b"\xff", "UTF-8"), (b" " * (1 << 20) + b" ", "more than 1048576")])
def test_a_text_that_is_none_is_refused(server: "Server", answer: bytes, reason: str) -> None:
    server.files["list"] = answer
    with pytest.raises(DownloadError, match=reason):
        fetch_text(server.url("list"))
