"""What the files are called that hold DICOM results: never after a patient or a file that came in."""

from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ParametricMapStorage, SecondaryCaptureImageStorage

KINDS: Final = {
    SecondaryCaptureImageStorage: "overlay",
    ParametricMapStorage: "map",
    Comprehensive3DSRStorage: "report",
}


def file_name(result: Dataset, name: str) -> str:
    """Return what to call the file of a result, by the name of its slice and its own kind."""
    return f"{name}-{KINDS[result.SOPClassUID]}.dcm"
