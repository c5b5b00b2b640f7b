import io
import logging
import warnings
from collections.abc import Iterator

import pydicom
import pytest
from pydicom.dataset import Dataset

from braintumor.dicom.logging_guard import LIBRARIES, quiet

SECRET = "SECRET^NAME"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Yield what a program would log that logs everything, warnings too, and has read no DICOM file before."""
    monkeypatch.setattr(logging.getLogger("pydicom"), "filters", [])
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    yield stream
    logging.captureWarnings(False)
    root.setLevel(level)
    root.removeHandler(handler)


def leak() -> None:
    """Do what makes libraries write down patient data."""
    for name in (*LIBRARIES, "pynetdicom.acse", "urllib3.connectionpool"):
        logging.getLogger(name).critical(SECRET)
    warnings.warn(SECRET, UserWarning, stacklevel=1)
    dataset = Dataset()
    dataset.StudyInstanceUID = SECRET  # pydicom warns of it, with the value


def test_nothing_of_the_libraries_comes_out(log: io.StringIO) -> None:
    with quiet():
        leak()
        logging.getLogger("braintumor").warning("3 images")
    assert log.getvalue() == "3 images\n"


def test_afterwards_all_is_as_before(log: io.StringIO) -> None:
    with quiet():
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        leak()
    assert log.getvalue().count(SECRET) >= len(LIBRARIES) + 4


def test_loggers_are_as_before_after_an_error() -> None:
    logger = logging.getLogger("pydicom")
    before = logger.propagate, list(logger.handlers), list(warnings.filters)
    with pytest.raises(pydicom.errors.InvalidDicomError), quiet():
        raise pydicom.errors.InvalidDicomError
    assert (logger.propagate, logger.handlers, list(warnings.filters)) == before
