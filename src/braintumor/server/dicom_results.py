"""Collect the DICOM results of one request in a ZIP archive in memory."""

import io
import re
import threading
import zipfile
from importlib.util import find_spec
from typing import Final

from braintumor.errors import ImageError
from braintumor.io.scan import Scan, number_in_file
from braintumor.models.session import Model
from braintumor.predictor import Prediction

MOST: Final = 100
"""Slices of one request that may have DICOM results; those of one slice take about a quarter of a MiB."""


def can_write() -> bool:
    """Tell whether the libraries that write DICOM are installed."""
    return find_spec("pydicom") is not None


class DicomResultsArchive:
    """The DICOM results of one request; calls from several threads are safe.

    A result is named after the number of the uploaded file, the number of the slice if the file has several, the model
    if there are several, and its kind: `0001-overlay.dcm`, `0002-0017-cnn-report.dcm`.
    """

    def __init__(self, models: int) -> None:
        from braintumor.dicom.results.files import Distinct

        self._models = models
        self._distinct = Distinct()
        self._count = 0
        self._buffer = io.BytesIO()
        self._archive = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self._lock = threading.Lock()

    def add(self, file: int, scan: Scan, prediction: Prediction, model: Model) -> None:
        """Write the results about a slice of an uploaded file, counted from 1.

        Raises:
            ImageError: the slice is not from a DICOM file, its file claims to be another one of the request, or there
                are too many slices.
        """
        from braintumor.dicom.results.files import file_name
        from braintumor.dicom.results.images import result_files

        if scan.origin is None:
            raise ImageError(
                scan.source, "not a DICOM image, or one without valid identifiers: results could not refer to it"
            )
        number = number_in_file(scan.source, scan.place)
        parts = (
            f"{file:04d}",
            f"{number:04d}" if number is not None else "",
            re.sub(r"[^\w.-]+", "-", model.card.name) if self._models > 1 else "",
        )
        name = "-".join(filter(None, parts))
        results = result_files(
            scan, prediction, model
        )  # before the lock: it takes long, and threads can do it together
        with self._lock:
            if self._archive.fp is None:  # closed: nobody waits any more
                return
            if self._count == MOST * self._models:
                raise ImageError(scan.source, f"more than {MOST} slices; ask for the results in several requests")
            self._distinct.check(results, scan.source)
            self._count += 1
            for dataset, content in results:
                entry = zipfile.ZipInfo(file_name(dataset, name))  # with the date 1980-01-01: the same bytes every time
                entry.external_attr = 0o600 << 16  # readable by its owner alone once it is unpacked
                self._archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 1)

    def close(self) -> None:
        """Complete the archive; results that are added afterwards are dropped."""
        with self._lock:
            self._archive.close()

    def content(self) -> bytes:
        """Complete the archive and return its bytes."""
        self.close()
        return self._buffer.getvalue()
