import io
import logging
import sys
import zipfile
from pathlib import Path

import pytest

from braintumor.data.public.kaggle import get_kaggle
from braintumor.errors import DataError, DownloadError

NAMES = ("Training/glioma/Tr-gl_0010.jpg", "Training/notumor/Tr-no_0010.jpg", "Testing/glioma/Te-gl_0010.jpg")
ALL = (*NAMES, "Testing/notumor/Te-no_0010.jpg")


def fill(folder: Path, names: tuple[str, ...] = ALL) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def archive_of(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(name, name)
    return content.getvalue()


def test_what_kagglehub_downloads_is_placed_and_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kagglehub = pytest.importorskip("kagglehub")
    asked: list[str] = []

    def dataset_download(handle: str) -> str:
        asked.append(handle)
        print("Warning: you are using an outdated kagglehub")
        print("100%", file=sys.stderr)
        logging.getLogger("kagglehub.datasets").warning("Downloading")
        return str(fill(tmp_path / "cache"))

    monkeypatch.setattr(kagglehub, "dataset_download", dataset_download)
    for _ in range(2):
        listing = get_kaggle(tmp_path / "out")
        assert sorted(row.image for row in listing.manifest) == sorted(ALL)
    assert asked == ["masoudnickparvar/brain-tumor-mri-dataset/versions/1"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["brain-tumor-mri"]
    assert capsys.readouterr() == ("", "")


def test_another_layout_is_refused_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kagglehub = pytest.importorskip("kagglehub")
    source = fill(tmp_path / "cache", ("brain/glioma/a.jpg",))
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(source))
    with pytest.raises(DataError, match="no known layout"):
        get_kaggle(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", [OSError, ValueError, zipfile.BadZipFile, "BackendError", "DataCorruptionError"])
def test_a_failure_says_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception] | str
) -> None:
    kagglehub = pytest.importorskip("kagglehub")
    failure = getattr(kagglehub.exceptions, kind) if isinstance(kind, str) else kind

    def dataset_download(handle: str) -> str:
        raise failure("no route\n\nto host")

    monkeypatch.setattr(kagglehub, "dataset_download", dataset_download)
    with pytest.raises(DownloadError) as caught:
        get_kaggle(tmp_path)
    message = str(caught.value)
    assert "(no route to host)" in message
    assert "https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset/versions/1" in message
    assert f"at {tmp_path / 'brain-tumor-mri.zip'} and run the same command again" in message


def test_an_archive_put_there_by_hand_is_unpacked(tmp_path: Path) -> None:
    outside = ("../escape.jpg", "/Training/../../escape.jpg", "Training/glioma/.hidden.jpg", "readme.txt")
    (tmp_path / "brain-tumor-mri.zip").write_bytes(archive_of(*ALL, *outside))
    assert sorted(row.image for row in get_kaggle(tmp_path).manifest) == sorted(ALL)
    result = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert result == sorted(f"brain-tumor-mri/{name}" for name in ALL)
    assert not list(tmp_path.parent.glob("escape*"))


def test_a_damaged_archive_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    archive = tmp_path / "brain-tumor-mri.zip"
    archive.write_bytes(archive_of(*ALL)[:-30])
    with pytest.raises(DataError, match=r"brain-tumor-mri\.zip cannot be unpacked"):
        get_kaggle(tmp_path)
    assert list(tmp_path.iterdir()) == [archive]


def test_what_an_interrupted_call_left_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / ".brain-tumor-mri.part", ("Training/glioma/half.jpg",))
    (tmp_path / "brain-tumor-mri.zip").write_bytes(archive_of(*ALL))
    assert len(get_kaggle(tmp_path).manifest) == len(ALL)
    assert not (tmp_path / ".brain-tumor-mri.part").exists()
