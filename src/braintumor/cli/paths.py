"""Which files a command reads, and what those are called that it writes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from braintumor.data.layout import IMAGE_SUFFIXES
from braintumor.errors import BrainTumorError, ImageError
from braintumor.io.read import volume_kind
from braintumor.io.scan import SERIES, Scan, number_in_file
from braintumor.predictor import Prediction


class FoundImages:
    """The files as given and the images and volumes in the folders, sorted, as they are found.

    Attributes:
        passed_over: what else lies in the folders, and folders that may not be opened, as far as they were searched.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.passed_over: list[Path] = []

    def __iter__(self) -> Iterator[Path]:
        """Yield the files; each call searches anew."""
        self.passed_over.clear()
        for path in self._paths:
            if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
                yield from self._images_in(path)
            else:
                yield path

    def _images_in(self, folder: Path) -> Iterator[Path]:
        """Yield the images and volumes in a folder and the folders in it, sorted."""
        files: list[Path] = []
        for parent, folders, names in os.walk(folder, onerror=self._pass_over):
            files += (Path(parent, name) for name in names)
            self.passed_over += (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        for file in sorted(files):
            if _holds_image(file):
                yield file
            else:
                self.passed_over.append(file)

    def _pass_over(self, error: OSError) -> None:
        self.passed_over.append(Path(error.filename))


def _holds_image(file: Path) -> bool:
    """Tell whether a file found in a folder is to be read: by its suffix, DICOM also by its content."""
    if not file.is_file():
        return False
    if file.name.lower().endswith((*IMAGE_SUFFIXES, ".dcm", ".nii", ".nii.gz")):
        return True
    try:
        return file.name != "DICOMDIR" and volume_kind(file, file.name) == "dicom"
    except ImageError:
        return file.stat().st_size > 0  # it may not be opened: to say so, since leaving it out would hide a slice


def refuse_overwriting(sources: Sequence[Path], out: Path) -> None:
    """Raise where a file written to `out` could replace one of the images."""
    if any(source.resolve().parent == out.resolve() for source in sources):
        raise BrainTumorError(f"{out} holds images that are read, which could be overwritten; choose another --out")


def output_name(prediction: Prediction) -> str:
    """Return what a file about a slice is called: the input's name, for one slice of several with its number."""
    name = Path(prediction.image).name
    number = number_in_file(name, prediction.place)
    if number is None:
        return name
    stem = name.rpartition("#")[0].removesuffix(".gz").removesuffix(".nii").removesuffix(".dcm")
    return f"{stem}-{number:04d}.x"


class UniqueNames:
    """Names of output files: the input's stem, numbered where several inputs share one."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def take(self, path: str) -> str:
        """Return a name that was not returned before."""
        stem = Path(path).stem
        count = self._taken[stem] = self._taken.get(stem, 0) + 1
        return stem if count == 1 else self.take(f"{stem}-{count}.x")


def result_folder(scan: Scan, out: Path, names: Mapping[Path, UniqueNames]) -> tuple[Path, str]:
    """Return the folder of a slice's series under `out`, and what the slice is called there."""
    assert scan.place
    known = SERIES.fullmatch(scan.place.volume)  # else it is called as the file that came in, which says who it is of
    folder = out / (scan.place.volume.replace(" ", "-") if known else "series-unknown")
    return folder, names[folder].take(f"{scan.place.number:04d}.x")
