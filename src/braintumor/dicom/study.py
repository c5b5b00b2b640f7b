"""Survey the files of a study without decoding their pixels, and choose those to classify by the rules of `series`."""

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
    """The series of a study, and its files that cannot be read.

    Attributes:
        series: each series, and whether it is classified.
        unreadable: files that are not DICOM, or damaged.
    """

    series: tuple[Chosen, ...]
    unreadable: tuple[ImageError, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Return the paths of the files to classify, series by series."""
        return tuple(file for series in self.series if series.wanted for file in series.files)

    @property
    def explanations(self) -> tuple[str, ...]:
        """Return one line per series: whether it is classified, and why."""
        return tuple(f"{series.volume}: {series.explanation}" for series in self.series)


def survey(paths: Iterable[Path], sandbox: Sandbox, *, best: bool = False) -> Study:
    """Return the series of these files, and which of them to classify; the files are parsed in another process.

    Args:
        paths: the files of a study.
        sandbox: where they are parsed.
        best: choose only the series that suits the models best.
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
    """Return the description of a file that a decoder process sent, after checking it.

    Raises:
        ImageError: no sound decoder describes a file like that.
    """
    # A hostile file may have taken over the process that parsed it, so the reply is untrusted: it must not speak for
    # another file, nor hold escape sequences that a terminal would obey. `type(...) is`, since True is an int.
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
