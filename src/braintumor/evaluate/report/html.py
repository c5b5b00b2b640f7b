"""Write results as files: pages that open without a network, JSON and CSV."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.files import write_text
from braintumor.intervals import FEW, FEW_MARK, Estimate
from braintumor.text import to_cell, visible

UNKNOWN = "–"


def page(template: str, **fields: object) -> str:
    """Return the page of a template beside this file; whatever is put in is escaped."""
    # StrictUndefined: a misspelt field must not become an empty cell in a report
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=visible_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": _number, "span": marked_span}
    constants = {
        "CLASSES": CLASSES,
        "TITLES": TITLES,
        "DISCLAIMER": DISCLAIMER,
        "UNKNOWN": UNKNOWN,
        "FEW_MARK": FEW_MARK,
        "FEW": FEW,
    }
    return _printable(environment.get_template(template).render(constants | fields))


def visible_value(value: object) -> object:
    """Return what is put into a page with its control characters made visible; markup of ours as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(fraction: float | None) -> str:
    """Return a fraction as people read it, `96.4 %` that no line break parts; 100 and 0 only where it is just that."""
    if fraction is None:
        return UNKNOWN
    rounded = round(100 * fraction, 1)
    # one wrong answer of 3,000 must not be rounded to "100.0 %"
    if rounded == 100 and fraction < 1:
        return ">\u00a099.9\u00a0%"
    if rounded == 0 and fraction > 0:
        return "<\u00a00.1\u00a0%"
    return f"{rounded:.1f}\u00a0%"


def _number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def span(estimate: Estimate, digits: int | None = None) -> str:
    """Return the interval of an estimate, `95.1 to 97.4 %`; with digits as plain numbers, without as percent."""
    if estimate.low is None or estimate.high is None:
        return "interval unknown"
    if digits is not None:
        return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}\u00a0%"


def marked_span(estimate: Estimate, digits: int | None = None) -> str:
    """Return the interval of an estimate, with a mark where there are few images."""
    return f"{span(estimate, digits)}\u00a0{FEW_MARK}" if estimate.few else span(estimate, digits)


def plain(estimate: Estimate) -> str:
    """Return a rate with its interval for a terminal, `96.4 % (95.1 to 97.4 %)`, and with the number of few images."""
    few = f"; only {estimate.n} image{'' if estimate.n == 1 else 's'}" if estimate.few else ""
    return f"{percent(estimate.value)} ({span(estimate)}{few})".replace("\u00a0", " ")


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, whole or not at all.

    Raises:
        ValueError: a number is NaN or infinite.
        StorageError: the file cannot be written.
    """
    write_text(path, json.dumps(fields, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table, whole or not at all; texts as `to_cell` and broken file names as `_printable` gives them.

    Raises:
        StorageError: the file cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([tuple(columns), *(map(to_cell, row) for row in rows)])
    write_text(path, _printable(text.getvalue()))


def _printable(text: str) -> str:
    """Return the text with anything that UTF-8 cannot hold (broken file names) as an escape."""
    return text.encode(errors="backslashreplace").decode()
