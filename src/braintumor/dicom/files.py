"""What the files are called that hold DICOM results, never after a patient or a file that came in; writing them."""

from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ParametricMapStorage, SecondaryCaptureImageStorage

from braintumor.dicom.read import UNREFERABLE
from braintumor.dicom.write import encoded, results
from braintumor.errors import ImageError
from braintumor.files import replacing
from braintumor.inference import Prediction
from braintumor.model import Model
from braintumor.scan import Scan

KINDS: Final = {
    SecondaryCaptureImageStorage: "overlay",
    ParametricMapStorage: "map",
    Comprehensive3DSRStorage: "report",
}


def file_name(result: Dataset, name: str) -> str:
    """Return what to call the file of a result, by the name of its slice and its own kind."""
    return f"{name}-{KINDS[result.SOPClassUID]}.dcm"


def answerable(answer: tuple[Scan, Prediction] | ImageError) -> tuple[Scan, Prediction] | ImageError:
    """Return the answer, or why no results about the slice can be written."""
    if isinstance(answer, ImageError) or answer[0].origin is not None:
        return answer
    return ImageError(answer[0].source, UNREFERABLE)


def write_results(scan: Scan, prediction: Prediction, model: Model, folder: Path, name: str) -> int:
    """Write the results about a slice into a folder, under the name of the slice; return how many there are.

    Raises:
        StorageError: the folder cannot be written to.
    """
    made = results(scan, prediction, model)
    for each in made:
        with replacing(folder / file_name(each, name)) as aside:
            aside.write_bytes(encoded(each))
    return len(made)
