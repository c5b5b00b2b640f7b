"""Keep the libraries that handle patient data from logging any of it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LIBRARIES: Final = ("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "urllib3", "requests", "PIL")
"""They log attribute values, identifiers, and URLs that hold UIDs, some at INFO, and quote such values in warnings."""


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log records and warnings of these libraries while the block runs, at whatever level the program logs.

    Handlers that are added to their loggers inside the block still receive records. Warnings are dropped for the whole
    process: those of pydicom are attributed to its caller and cannot be told from others. Afterwards all is as before.
    """
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.propagate, logger.handlers) for logger in loggers]
    captured = logging.getLogger("py.warnings")  # where logging.captureWarnings sends them
    try:
        for logger in loggers:
            # Not an empty list: without any handler, logging's last resort prints warnings to stderr.
            logger.propagate, logger.handlers = False, [logging.NullHandler()]
        # Filters of warnings are global, and another thread that leaves its own catch_warnings may restore old ones.
        captured.addFilter(nothing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        captured.removeFilter(nothing)
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers


def nothing(_: logging.LogRecord) -> bool:
    """Reject every record; a filter for loggers."""
    return False
