"""What the files are called that hold DICOM results, never after a patient or a file that came in; writing them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from braintumor.dicom.results.base import CLASS_MAP, OVERLAY, REPORT
from braintumor.errors import ImageError
from braintumor.files import replacing

KINDS: Final = {
    OVERLAY.sop_class: "overlay",
    CLASS_MAP.sop_class: "map",
    REPORT.sop_class: "report",
}
TWICE: Final = "has the identifiers of an earlier file and other content; leave out the wrong one"


def file_name(result: Dataset, name: str) -> str:
    """Return what to call the file of a result, by the name of its slice and its own kind."""
    return f"{name}-{KINDS[result.SOPClassUID]}.dcm"


class Distinct:
    """Knows the results that were made together, so that two of the same UID are never of different content."""

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def check(self, results: Iterable[tuple[Dataset, bytes]], name: str) -> None:
        """Note the results about a slice.

        Raises:
            ImageError: there are others about another slice that says to be the same. An archive would keep only those
                of one of them, and nobody can tell of which.
        """
        for each, content in results:
            digest = hashlib.sha256(content).digest()
            if self._known.setdefault(str(each.SOPInstanceUID), digest) != digest:
                raise ImageError(name, TWICE)


def save_results(results: Iterable[tuple[Dataset, bytes]], folder: Path, name: str) -> None:
    """Write results with their content, as `images.result_files` gives them, into a folder, named after the slice.

    Raises:
        StorageError: the folder cannot be written to.
    """
    for each, content in results:
        with replacing(folder / file_name(each, name)) as aside:
            aside.write_bytes(content)
