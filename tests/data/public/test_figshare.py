import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from braintumor.errors import DataError, DownloadError
from braintumor.io.read import read

h5py = pytest.importorskip("h5py")
from braintumor.data.public import figshare  # noqa: E402
from braintumor.data.public.figshare import get_figshare  # noqa: E402

if TYPE_CHECKING:
    from conftest import Server

FIRST, SECOND = "brainTumorDataPublic_1-2.zip", "brainTumorDataPublic_3-3.zip"
BRIGHT = np.zeros((16, 20), np.int16)
BRIGHT[3, 5] = 300
BRIGHT[8, 4] = -100


def quiet(done: int, total: int) -> None:
    pass


def matlab_file(label: int, patient: str, image: np.ndarray[Any, Any] = BRIGHT) -> bytes:
    """Return a slice whose tumor is the square from (4, 6) to (9, 11) in x and y."""
    mask = np.zeros(image.shape, np.uint8)
    mask[6:12, 4:10] = 1
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("cjdata")
        group["label"] = np.array([[label]], np.float64)
        group["PID"] = np.array([[ord(letter)] for letter in patient], np.uint16)
        group["image"], group["tumorMask"] = image.T, mask.T
        group["tumorBorder"] = np.array([[4.0, 6, 9.04, 6, 9.06, 11, 4, 11]])
    return content.getvalue()


def archive(slices: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, slice_file in slices.items():
            file.writestr(name, slice_file)
    return content.getvalue()


ARCHIVES = {
    FIRST: archive({"1.mat": matlab_file(1, "100360"), "folder/2.mat": matlab_file(2, "MR040240B"), "about.txt": b""}),
    SECOND: archive({"3.mat": matlab_file(3, "MR040240D", np.full((16, 20), 7, np.int16)), "../4.mat~": b"no"}),
}


def file_list(server: "Server") -> dict[str, Any]:
    return {
        "files": [
            {
                "name": name,
                "size": len(content),
                "download_url": server.url(name),
                "computed_md5": hashlib.md5(content).hexdigest(),
                "supplied_md5": "",
                "is_link_only": False,
            }
            for name, content in server.files.items()
        ]
    }


@pytest.fixture
def article(server: "Server", monkeypatch: pytest.MonkeyPatch) -> "Server":
    """Serve the article with two small archives in place of the four."""
    server.files |= ARCHIVES | {"README.txt": b"about"}
    server.files["article"] = json.dumps(file_list(server)).encode()
    monkeypatch.setattr(figshare, "ARTICLE", server.url("article"))
    monkeypatch.setattr(figshare, "ARCHIVES", (FIRST, SECOND))
    return server


@pytest.fixture
def alone(no_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have no network; return the address of the article."""
    monkeypatch.setattr(figshare, "ARTICLE", f"{no_server}/article")
    monkeypatch.setattr(figshare, "ARCHIVES", (FIRST, SECOND))
    return f"{no_server}/article"


def check(reference: Path) -> None:
    with (reference / "annotations.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["figshare_id", "class", "patient", "tumor_outline_xy"],
            ["1", "meningioma", "100360", "4.0 6.0;9.0 6.0;9.1 11.0;4.0 11.0"],
            ["2", "glioma", "MR040240", "4.0 6.0;9.0 6.0;9.1 11.0;4.0 11.0"],
            ["3", "pituitary", "MR040240", "4.0 6.0;9.0 6.0;9.1 11.0;4.0 11.0"],
        ]
    assert sorted(file.name for file in (reference / "images").iterdir()) == ["1.png", "2.png", "3.png"]
    with Image.open(reference / "images" / "1.png") as image:
        grey = np.asarray(image)
    assert (grey.dtype, grey.shape) == (np.uint16, (16, 20))
    assert (grey[3, 5], grey[8, 4], grey[0, 0]) == (65535, 0, 16384)  # 300, -100 and 0: a quarter of the way
    assert read(reference / "images" / "1.png").pixels[3, 5] == 1
    assert read(reference / "images" / "3.png").pixels.max() == 0


def test_the_published_files_become_a_reference_folder(article: "Server", tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    reference = get_figshare(tmp_path, lambda done, total: steps.append((done, total)))
    assert reference == tmp_path / "figshare"
    check(reference)
    assert steps[-3:] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figshare", "figshare-original"]
    kept = {path.name for path in (tmp_path / "figshare-original").iterdir()}
    assert kept == {FIRST, SECOND, "README.txt", "article.json"}


def test_a_finished_folder_is_not_made_again(article: "Server", tmp_path: Path) -> None:
    get_figshare(tmp_path, quiet)
    article.asked.clear()
    assert get_figshare(tmp_path, quiet) == tmp_path / "figshare"
    assert article.asked == []


def test_an_interrupted_download_goes_on(article: "Server", tmp_path: Path) -> None:
    article.cuts[SECOND] = [100, 0]
    with pytest.raises(DownloadError, match=r"(?s)100 of \d+ bytes are kept.*On a machine without network, put these"):
        get_figshare(tmp_path, quiet)
    assert not (tmp_path / "figshare").exists()
    article.asked.clear()
    check(get_figshare(tmp_path, quiet))
    assert article.asked == [(SECOND, "bytes=100-"), ("README.txt", None)]


def test_an_interrupted_conversion_goes_on_and_keeps_what_is_written(
    article: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if (done, total) == (2, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get_figshare(tmp_path, stop)
    assert not (tmp_path / "figshare").exists()
    written: list[Path] = []
    write = figshare.write_grey
    monkeypatch.setattr(figshare, "write_grey", lambda target, result: written.append(target) or write(target, result))
    check(get_figshare(tmp_path, quiet))
    assert [target.name for target in written] == ["3.png"]


def test_other_content_than_published_is_refused(article: "Server", tmp_path: Path) -> None:
    article.files[FIRST] = article.files[FIRST][::-1]
    with pytest.raises(DownloadError, match="has the MD5"):
        get_figshare(tmp_path, quiet)
    assert not (tmp_path / "figshare-original" / FIRST).exists()
    assert not (tmp_path / "figshare").exists()


def test_without_a_network_the_message_says_what_to_put_where(alone: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        get_figshare(tmp_path, quiet)
    message = str(caught.value)
    assert f"cannot download {alone}" in message
    assert f"put these files into {tmp_path / 'figshare-original'} and run the same command again" in message
    assert f"{FIRST}, {SECOND} from https://figshare.com/articles/dataset/brain_tumor_dataset/1512427" in message
    assert f"article.json, the answer of {alone}" in message


def test_files_put_there_by_hand_are_enough(alone: str, tmp_path: Path) -> None:
    folder = tmp_path / "figshare-original"
    folder.mkdir()
    for name, content in ARCHIVES.items():
        (folder / name).write_bytes(content)
    check(get_figshare(tmp_path, quiet))


def test_files_put_there_by_hand_are_verified_against_a_list(
    alone: str, server: "Server", no_server: str, tmp_path: Path
) -> None:
    server.files |= ARCHIVES
    server.address = no_server
    folder = tmp_path / "figshare-original"
    folder.mkdir()
    for name, content in ARCHIVES.items():
        (folder / name).write_bytes(content)
    (folder / "article.json").write_text(json.dumps(file_list(server)))
    check(get_figshare(tmp_path / ".", quiet))
    (tmp_path / "figshare").rename(tmp_path / "elsewhere")
    (folder / SECOND).write_bytes(ARCHIVES[SECOND] + b"?")
    with pytest.raises(DownloadError, match=f"cannot download {no_server}/{SECOND}"):
        get_figshare(tmp_path, quiet)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"name": "../escape"}, "the file name '../escape'"),
        ({"name": ".hidden"}, "the file name '.hidden'"),
        ({"download_url": "file:///etc/hostname"}, "the address 'file:///etc/hostname'"),
        ({"size": "many"}, "'many'"),
        ({"name": "other.zip"}, f"lacks {FIRST}"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(
    article: "Server", tmp_path: Path, changed: dict[str, str], reason: str
) -> None:
    listed = file_list(article)
    listed["files"][0] |= changed
    article.files["article"] = json.dumps(listed).encode()
    with pytest.raises(DownloadError, match=reason):
        get_figshare(tmp_path, quiet)
    assert not (tmp_path / "figshare-original").exists()


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"files": 3}', b'{"files": [{}]}', b'{"files": [1]}'])
def test_an_answer_that_is_no_list_is_refused(article: "Server", tmp_path: Path, answer: bytes) -> None:
    article.files["article"] = answer
    with pytest.raises(DownloadError, match=r"expected figshare's list of files from .*article, got something else"):
        get_figshare(tmp_path, quiet)


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ({"1.mat": matlab_file(1, "1")}, r"lacks 1 slice\(s\), first 2.mat"),
        ({"1.mat": matlab_file(1, "1"), "3.mat": b""}, "holds 3.mat twice or by mistake; expected 1 to 2"),
        ({"1.mat": matlab_file(1, "1"), "a/1.mat": b""}, "holds a/1.mat twice or by mistake"),
        ({"1.mat": b"no HDF5"}, f"{FIRST}: 1.mat is not a slice of the figshare set"),
    ],
)
def test_an_archive_with_other_slices_is_refused(
    alone: str, tmp_path: Path, slices: dict[str, bytes], reason: str
) -> None:
    folder = tmp_path / "figshare-original"
    folder.mkdir()
    (folder / SECOND).write_bytes(ARCHIVES[SECOND])
    (folder / FIRST).write_bytes(archive(slices))
    with pytest.raises(DataError, match=reason):
        get_figshare(tmp_path, quiet)
    assert not (tmp_path / "figshare").exists()


def test_a_folder_of_something_else_is_left_alone(article: "Server", tmp_path: Path) -> None:
    (tmp_path / "figshare").mkdir()
    with pytest.raises(DataError, match=r"exists but has no annotations\.csv; remove it or choose another --out"):
        get_figshare(tmp_path, quiet)
    assert article.asked == []
