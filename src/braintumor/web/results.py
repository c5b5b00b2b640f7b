"""Where the DICOM results of one request are put together: a ZIP archive in memory."""

import io
import threading
import zipfile
from importlib.util import find_spec
from typing import Final

from braintumor.errors import ImageError
from braintumor.inference import Prediction
from braintumor.model import Model
from braintumor.scan import Scan

MOST: Final = 100
"""Slices of one request whose results are put together; each takes about a quarter of a MiB."""


def can_write() -> bool:
    """Tell whether the libraries that write DICOM are installed."""
    return find_spec("pydicom") is not None


class Results:
    """The DICOM results of one request; calls from several threads are safe.

    Attributes:
        count: how many slices have been added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._buffer = io.BytesIO()
        self._archive = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self._lock = threading.Lock()

    def add(self, scan: Scan, prediction: Prediction, model: Model) -> None:
        """Write the results about a slice.

        Raises:
            ImageError: it comes from no DICOM file, or there are too many slices.
        """
        from braintumor.dicom.files import file_name
        from braintumor.dicom.write import encoded, results

        if scan.origin is None:
            raise ImageError(scan.source, "no DICOM image, or without valid identifiers: results could not refer to it")
        written = [(each, encoded(each)) for each in results(scan, prediction, model)]
        with self._lock:
            if self._archive.fp is None:  # closed: nobody waits any more
                return
            if self.count == MOST:
                raise ImageError(scan.source, f"more than {MOST} slices; ask for the results in several requests")
            self.count += 1
            for result, content in written:
                entry = zipfile.ZipInfo(file_name(result, f"{self.count:04d}"))
                entry.external_attr = 0o600 << 16
                self._archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 1)

    def close(self) -> None:
        """Complete the archive; what is added afterwards is dropped."""
        with self._lock:
            self._archive.close()

    def content(self) -> bytes:
        """Return the archive, complete."""
        self.close()
        return self._buffer.getvalue()
