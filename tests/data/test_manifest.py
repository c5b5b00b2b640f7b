"""What a manifest holds, writes and refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from braintumor.data.manifest import COLUMNS, Manifest, Row, leaks, read_manifest, write_manifest
from braintumor.errors import DataError, StorageError

ROWS = (
    Row("Training/glioma/a.jpg", "glioma", "7", "12b", "Training", "aa", "train"),
    Row("Training/notumor/ü, 脑.png", "no_tumor", "", "", "Training", "bb", "val"),
    Row("Testing/glioma/c.jpg", "glioma", "8", "", "Testing", "cc", "test"),
)
HEADER = "image,label,group,patient,source,sha256,split\n"


def test_the_columns_are_the_contract() -> None:
    assert ",".join(COLUMNS) + "\n" == HEADER


def test_a_written_manifest_reads_back(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, ROWS)
    write_manifest(manifest, tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv", tmp_path) == manifest
    lines = (tmp_path / "manifest.csv").read_text(encoding="utf-8").splitlines()
    assert lines[2] == '"Training/notumor/ü, 脑.png",no_tumor,,,Training,bb,val'


def test_file_names_that_are_not_utf_8_survive(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, (replace(ROWS[0], image=b"glioma/\xff\n.jpg".decode(errors="surrogateescape")),))
    write_manifest(manifest, tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv", tmp_path) == manifest
    assert len(manifest.fingerprint()) == 64


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manifest.csv"
    file.write_text("old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="No space left"):
        write_manifest(Manifest(tmp_path, ROWS), file)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("manifest.csv", "old")]


def test_parts_counts_and_paths() -> None:
    manifest = Manifest(Path("data"), ROWS)
    assert manifest.part("train", "test").rows == (ROWS[0], ROWS[2])
    assert len(manifest) == 3
    assert list(manifest) == list(ROWS)
    assert manifest.path(ROWS[0]) == Path("data/Training/glioma/a.jpg")
    assert manifest.counts() == {
        "train": {"glioma": 1, "meningioma": 0, "pituitary": 0, "no_tumor": 0},
        "val": {"glioma": 0, "meningioma": 0, "pituitary": 0, "no_tumor": 1},
        "test": {"glioma": 1, "meningioma": 0, "pituitary": 0, "no_tumor": 0},
    }


def test_the_fingerprint_depends_on_content_not_on_order_or_place() -> None:
    fingerprint = Manifest(Path("a"), ROWS).fingerprint()
    assert Manifest(Path("b"), ROWS[::-1]).fingerprint() == fingerprint
    for change in ({"sha256": "x"}, {"split": "val"}, {"group": "9"}, {"label": "pituitary"}, {"image": "b.jpg"}):
        assert Manifest(Path("a"), (replace(ROWS[0], **change), *ROWS[1:])).fingerprint() != fingerprint


def test_leaks_are_groups_in_several_splits() -> None:
    rows = (*ROWS, replace(ROWS[0], image="d.jpg", split="test"), replace(ROWS[1], image="e.jpg", split="train"))
    assert leaks(Manifest(Path(), rows)) == [("7", ("test", "train"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns image,label,.* got an empty file"),
        ("image,label\n", "expected the columns image,label,group.* got image,label"),
        (HEADER + "a.png,glioma,,,,\n", "line 2: expected 7 columns, got 6"),
        (HEADER + "a.png,astrocytoma,,,,,\n", "line 2: unknown label 'astrocytoma', expected one of glioma, "),
        (HEADER + "a.png,glioma,,,,,dev\n", "line 2: unknown split 'dev', expected train, val, test or nothing"),
        (HEADER + "../a.png,glioma,,,,,\n", r"inside the data folder, got '\.\./a\.png'"),
        (HEADER + "/a.png,glioma,,,,,\n", "inside the data folder, got '/a.png'"),
        (HEADER + "a.png,glioma,,,,,\n" * 2, r"listed more than once \(1\):\n  a.png"),
        (HEADER + "a.png,glioma,5,,,,val\nb.png,glioma,5,,,,train\n", r"cross splits \(1\):\n  5 in train, val"),
    ],
)
def test_unusable_manifests_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "manifest.csv", tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the manifest .*none\.csv"):
        read_manifest(tmp_path / "none.csv", tmp_path)


def test_a_spreadsheets_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("\ufeff" + HEADER + "a.png,glioma,,,,,\n", encoding="utf-8")
    assert read_manifest(tmp_path / "manifest.csv", tmp_path).rows == (Row("a.png", "glioma"),)
