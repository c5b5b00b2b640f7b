"""Which files of a study are classified: surveyed without decoding their pixels, chosen by the rules of `series`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from braintumor.dicom.series import Chosen, File, choose
from braintumor.errors import ImageError
from braintumor.read import whole
from braintumor.sandbox import Sandbox


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


def survey(paths: Iterable[Path], *, best: bool = False) -> Study:
    """Return which of these files are to be classified, and why; all are parsed in another process.

    Args:
        paths: files.
        best: of all series take the one alone that suits the models best.
    """
    files: list[File] = []
    unreadable: list[ImageError] = []
    with Sandbox(1) as sandbox:
        for path in paths:
            try:
                files.append(File(**sandbox.describe(whole(path, str(path)), str(path))))
            except ImageError as error:
                unreadable.append(error)
    return Study(tuple(choose(files, best=best)), tuple(unreadable))
