"""What the files are called that hold DICOM results, never after a patient or a file that came in; writing them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ParametricMapStorage, SecondaryCaptureImageStorage

from braintumor.files import replacing

KINDS: Final = {
    SecondaryCaptureImageStorage: "overlay",
    ParametricMapStorage: "map",
    Comprehensive3DSRStorage: "report",
}


def file_name(result: Dataset, name: str) -> str:
    """Return what to call the file of a result, by the name of its slice and its own kind."""
    return f"{name}-{KINDS[result.SOPClassUID]}.dcm"


def save(results: Iterable[tuple[Dataset, bytes]], folder: Path, name: str) -> None:
    """Write results with their content, as `write.result_files` gives them, into a folder, under the name of the slice.

    Raises:
        StorageError: the folder cannot be written to.
    """
    for each, content in results:
        with replacing(folder / file_name(each, name)) as aside:
            aside.write_bytes(content)
