"""How the libraries that touch patient data are kept from writing any of it down."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LIBRARIES: Final = ("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "urllib3", "requests", "PIL")
"""They log values of attributes, identifiers, and addresses that hold UIDs, some at INFO, and warn with such values."""


@contextmanager
def quiet() -> Iterator[None]:
    """Let no log record or warning of these libraries out while the block runs, whatever level the program has set.

    Their loggers still work for handlers that are put on them afterwards. Warnings are dropped for the whole process:
    those of pydicom are attributed to its caller and cannot be told from others. After the block all is as before.
    """
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(each.propagate, each.handlers) for each in loggers]
    captured = logging.getLogger("py.warnings")  # where logging.captureWarnings sends them
    try:
        for each in loggers:
            each.propagate, each.handlers = False, [logging.NullHandler()]
        captured.addFilter(nothing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        captured.removeFilter(nothing)
        for each, (propagate, handlers) in zip(loggers, before, strict=True):
            each.propagate, each.handlers = propagate, handlers


def nothing(_: logging.LogRecord) -> bool:
    """Let no record through."""
    return False
