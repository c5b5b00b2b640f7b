"""Name and write the files of DICOM results; no name holds a patient's name or that of an uploaded file."""

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
TWICE: Final = "has the identifiers of an earlier file but different content; leave out the wrong one"


def file_name(result: Dataset, name: str) -> str:
    """Return the name of a result's file, from the name of its slice and the kind of result."""
    return f"{name}-{KINDS[result.SOPClassUID]}.dcm"


class Distinct:
    """Register of results made together, in which no two may have the same UID but different content."""

    def __init__(self) -> None:
        self._digests: dict[str, bytes] = {}  # by SOP Instance UID; digests, since contents may be large

    def check(self, results: Iterable[tuple[Dataset, bytes]], name: str) -> None:
        """Remember the results about a slice, and compare them with earlier ones.

        Raises:
            ImageError: an earlier slice with the same identifiers has different results. An archive would keep only
                those of one of the two, and nobody could tell which.
        """
        for result, content in results:
            digest = hashlib.sha256(content).digest()
            if self._digests.setdefault(str(result.SOPInstanceUID), digest) != digest:
                raise ImageError(name, TWICE)


def save_results(results: Iterable[tuple[Dataset, bytes]], folder: Path, name: str) -> None:
    """Write results with their content, from `images.result_files`, into a folder; `name` is that of the slice.

    Raises:
        StorageError: the folder cannot be written to.
    """
    for result, content in results:
        with replacing(folder / file_name(result, name)) as temporary:
            temporary.write_bytes(content)
