"""Which files of a study are classified: surveyed without decoding their pixels, chosen by the rules of `series`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from braintumor.dicom.series import CONTRASTS, Chosen, File, choose
from braintumor.errors import ImageError
from braintumor.io.read import UNDECODABLE, read_volume_file
from braintumor.io.replies import is_text
from braintumor.io.sandbox import Sandbox
from braintumor.io.scan import SERIES


@dataclass(frozen=True)
class Study:
    """What was found in files.

    Attributes:
        series: what becomes of each series.
        unreadable: files that are no DICOM, or damaged.
    """

    series: tuple[Chosen, ...]
    unreadable: tuple[ImageError, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths of the files to classify, series by series."""
        return tuple(file for series in self.series if series.wanted for file in series.files)

    @property
    def explanations(self) -> tuple[str, ...]:
        """Return a line for each series: whether it is classified and why."""
        return tuple(f"{series.volume}: {series.explanation}" for series in self.series)


def survey(paths: Iterable[Path], sandbox: Sandbox, *, best: bool = False) -> Study:
    """Return which of these files are to be classified, and why; all are parsed in another process.

    Args:
        paths: files.
        sandbox: where they are parsed.
        best: of all series take the one alone that suits the models best.
    """
    files: list[File] = []
    unreadable: list[ImageError] = []
    for path in paths:
        try:
            files.append(file_of(sandbox.describe(read_volume_file(path, str(path)), str(path)), str(path)))
        except ImageError as error:
            unreadable.append(error)
    return Study(tuple(choose(files, best=best)), tuple(unreadable))


def file_of(described: dict[str, Any], name: str) -> File:
    """Return what a decoder's process says about the file of this name.

    Raises:
        ImageError: it says what no decoder says, unless its file has taken it over.
    """
    try:
        file = File(**described)
        is_sound = (
            file.name == name
            and (file.volume == name or SERIES.fullmatch(file.volume) is not None)
            and (file.refusal is None or is_text(file.refusal))
            and type(file.series_uid) is str
            and type(file.slices) is type(file.number) is int
            and file.slices >= 1
            and file.contrast in CONTRASTS
            and type(file.is_axial) is bool
        )
    except TypeError:
        is_sound = False
    if not is_sound:
        raise ImageError(name, UNDECODABLE)
    return file
