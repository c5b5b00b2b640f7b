"""List the images and labels of a data folder in one of the layouts in use, or say what is wrong with the folder."""

import os
import stat
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row
from braintumor.errors import DataError
from braintumor.files import file_sha256

PARTS: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
ALIASES: Final = {
    "glioma": "glioma",
    "gliomatumor": "glioma",
    "meningioma": "meningioma",
    "meningiomatumor": "meningioma",
    "pituitary": "pituitary",
    "pituitarytumor": "pituitary",
    "notumor": "no_tumor",
}
"""Class of a folder name in lower case, without spaces, hyphens and underscores and with `tumor` for `tumour`."""
IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
CLUTTER: Final = ("thumbs.db", "desktop.ini", "__macosx")
UNDERSTOOD: Final = (
    "Layouts that are understood, in any case:",
    "  Training/CLASS/*.jpg and Testing/CLASS/*.jpg",
    "  train/CLASS/*.jpg, and if there are any val/CLASS/*.jpg and test/CLASS/*.jpg",
    "  CLASS/*.jpg",
    "with a folder for each CLASS: glioma or glioma_tumor, meningioma or meningioma_tumor, pituitary or",
    "pituitary_tumor, notumor or no_tumor.",
)


@dataclass(frozen=True)
class Listing:
    """The images of a data folder.

    Attributes:
        manifest: one row per image with label, source, sha256 and split, sorted by path.
        skipped: reason of every path left out, relative to the data folder.
    """

    manifest: Manifest
    skipped: dict[str, str]


def list_images(data_dir: Path, *, parts: Collection[str] = ("train", "val", "test")) -> Listing:
    """Return the images under a data folder in one of the known layouts; the images are hashed, not decoded.

    Paths that are empty, not permitted, dangling, in a link loop or no images are left out and named in the listing.
    Of a layout with parts only the wanted parts are opened. In a layout of class folders alone every row has an
    empty split, whatever parts are wanted.

    Args:
        data_dir: the data folder.
        parts: which of train, val and test to list; a missing val or test is no error while another one is there.

    Raises:
        DataError: no folder, no known layout, an unknown class folder, a class without images, a single class, or
            no train part where it is wanted.
    """
    data_dir = Path(data_dir)
    rows: list[Row] = []
    problems: dict[str, str] = {}
    for part, folder in _wanted_parts(data_dir, parts).items():
        for name, label in _class_folders(folder).items():
            for path, problem in _walk(folder / name, (folder.resolve(),)):
                relative = path.relative_to(data_dir).as_posix()
                if problem:
                    problems[relative] = problem
                else:
                    source = "" if folder == data_dir else folder.name
                    rows.append(Row(relative, label, source=source, split=part))
    rows, unreadable = add_hashes(data_dir, rows)
    problems.update(unreadable)
    # only now: a class whose files have all turned out to be unreadable is empty, too
    for part, folder in _wanted_parts(data_dir, parts).items():
        _check_classes(folder, [row for row in rows if row.split == part])
    return Listing(Manifest(data_dir, tuple(sorted(rows, key=lambda row: row.image))), problems)


def has_part(data_dir: Path, part: str) -> bool:
    """Return whether the layout has its own folder for train, val or test.

    Raises:
        DataError: no folder, or no known layout.
    """
    return part in _part_folders(Path(data_dir))


def _wanted_parts(data_dir: Path, parts: Collection[str]) -> dict[str, Path]:
    """Return the folder of each wanted part, or that of all images under an empty name.

    Raises:
        DataError: no known layout, no train part although wanted, or none of the wanted parts.
    """
    folders = _part_folders(data_dir)
    wanted = {part: folder for part, folder in folders.items() if part in parts or not part}
    if not wanted or ("train" in parts and not {"train", ""} & set(wanted)):
        missing = "train" if "train" in parts else " or ".join(sorted(parts))
        raise DataError(f"{data_dir} has no {missing} folder, only {_listed(folders.values())}.", *UNDERSTOOD)
    return wanted


def _part_folders(data_dir: Path) -> dict[str, Path]:
    """Return the folder of each part in the order train, val, test; `{"": data_dir}` for class folders alone.

    Raises:
        DataError: no folder, no known layout, or two at once.
    """
    subfolders = _visible_folders(data_dir)
    part_folders = [(PARTS[folder.name.lower()], folder) for folder in subfolders if folder.name.lower() in PARTS]
    classes = [folder for folder in subfolders if class_of(folder.name)]
    # images beside the parts would silently stay out of training and test
    if part_folders and classes:
        both = _listed([*(folder for _, folder in part_folders), *classes])
        raise DataError(f"{data_dir} mixes part folders and class folders: {both}.", *UNDERSTOOD)
    if len({part for part, _ in part_folders}) < len(part_folders):
        raise DataError(
            f"{data_dir} has two folders for one part: {_listed(folder for _, folder in part_folders)}; merge them"
        )
    if not part_folders and not classes:
        # the commonest mistake is to name the folder above the one that an archive was unpacked to
        advice = "".join(f" Give {folder}." for folder in subfolders if _has_layout(folder))
        raise DataError(f"no known layout in {data_dir}: it holds {_listed(subfolders)}.{advice}", *UNDERSTOOD)
    order = list(PARTS.values())
    return dict(sorted(part_folders, key=lambda item: order.index(item[0]))) if part_folders else {"": data_dir}


def _has_layout(folder: Path) -> bool:
    """Tell whether a folder that may be listed holds a folder of a part or a class, as an unpacked archive does."""
    try:
        names = [path.name for path in _visible_folders(folder)]
    except DataError:
        return False
    return any(name.lower() in PARTS or class_of(name) for name in names)


def _visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, links to folders included, hidden ones and clutter not.

    Raises:
        DataError: it does not exist, is no folder or cannot be listed.
    """
    try:
        return [path for path in sorted(folder.iterdir()) if not _is_clutter(path.name) and path.is_dir()]
    except OSError as error:
        reason = (error.strerror or "cannot be listed").lower()
        raise DataError(f"expected a data folder at {folder}: {reason}.", *UNDERSTOOD) from error


def _listed(folders: "Collection[Path] | Iterator[Path]") -> str:
    """Return folder names for a message, the first ten of them."""
    names = [folder.name for folder in folders]
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"the folder(s) {shown}" if names else "no folders"


def _is_clutter(name: str) -> bool:
    """Return whether a file or folder was left by an operating system and is passed over in silence."""
    return name.startswith(".") or name.lower() in CLUTTER


def class_of(name: str) -> str | None:
    """Return the class that a folder name stands for, None if it is none."""
    plain = name.lower().translate(str.maketrans("", "", " -_")).replace("tumour", "tumor")
    return ALIASES.get(plain)


def _class_folders(folder: Path) -> dict[str, str]:
    """Return the class of each folder name in a part.

    Raises:
        DataError: a folder that stands for no class.
    """
    labels = {path.name: class_of(path.name) for path in _visible_folders(folder)}
    # skipping an unknown class would change what the model is measured on; a typo must not do that
    unknown = [folder / name for name, label in labels.items() if label is None]
    if unknown:
        raise DataError(f"unknown class in {folder}: {_listed(unknown)}; rename or remove it.", *UNDERSTOOD)
    return {name: label for name, label in labels.items() if label}


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, str]]:
    """Yield every path under a class folder that counts, with what is wrong with it or an empty text.

    Args:
        folder: where to look, links followed.
        above: real paths of the folders passed on the way; a link to a folder that contains one of them is a loop.
    """
    # a link is followed, but not to a folder that contains one we are in: that would never end
    resolved = folder.resolve()
    if any(passed.is_relative_to(resolved) for passed in above):
        yield folder, "symbolic link loop"
        return
    try:
        paths = sorted(path for path in folder.iterdir() if not _is_clutter(path.name))
    except OSError as error:
        yield folder, (error.strerror or "cannot be listed").lower()
        return
    for path in paths:
        # stat follows links, so a link is judged by its target
        try:
            status = path.stat()
        except OSError as error:
            yield path, "broken link" if isinstance(error, FileNotFoundError) else (error.strerror or "").lower()
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, (*above, resolved))
        else:
            yield path, _file_problem(path, status)


def _file_problem(path: Path, status: os.stat_result) -> str:
    """Return why a file cannot be an image, judged from outside; an empty text if it can."""
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return f"not an image type ({', '.join(IMAGE_SUFFIXES)})"
    return "" if status.st_size else "empty file (0 bytes)"


def add_hashes(data_dir: Path, rows: list[Row]) -> tuple[list[Row], dict[str, str]]:
    """Return the rows with the sha256 of their files, and the reason for each file that cannot be read."""
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda row: _hash_file(data_dir / row.image), rows))
    hashed = [replace(row, sha256=sha256) for row, (sha256, problem) in zip(rows, hashes, strict=True) if not problem]
    return hashed, {row.image: problem for row, (_, problem) in zip(rows, hashes, strict=True) if problem}


def _hash_file(path: Path) -> tuple[str, str]:
    """Return the hexadecimal SHA-256 of a file and an empty text, or an empty text and why it cannot be read."""
    try:
        return file_sha256(path), ""
    except OSError as error:
        return "", (error.strerror or "cannot be read").lower()


def _check_classes(folder: Path, rows: list[Row]) -> None:
    """Refuse a part in which a class folder has no usable image or which has a single class.

    Raises:
        DataError: naming the class.
    """
    labels = set(_class_folders(folder).values())
    # an empty class would not be noticed until its recall is missing from a report
    empty = [label for label in CLASSES if label in labels - {row.label for row in rows}]
    if empty:
        raise DataError(f"no usable image of {', '.join(empty)} in {folder}; add images or remove the class folder")
    if len(labels) < 2:
        only = ", ".join(labels) or "none"
        raise DataError(f"expected at least two classes in {folder}, found {only}.", *UNDERSTOOD)
