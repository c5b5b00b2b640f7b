"""Make text from outside safe to show and write: nothing in it acts on a terminal, in a log or in a spreadsheet."""

import re
from typing import Final, TypeVar

Value = TypeVar("Value")

UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, C0 and C1, line breaks among them
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0"  # soft hyphen and fillers
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # zero width, direction of writing
    # line and paragraph separator, annotations
    "\u2028\u2029\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff]"  # bytes of a file name that are not UTF-8, as Python's surrogateescape represents them
    # joiners stay between letters and emoji that need them
    "|(?<![\u0600-\u1aff\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
    "|[\u200c\u200d](?![\u0600-\u1aff\u2600-\u27bf\U0001f000-\U0001faff])"
)
"""Characters that control a terminal or cannot be seen: C0 and C1, and what Unicode calls default ignorable."""
FOREIGN_BYTES: Final = frozenset(map(chr, range(0xDCA0, 0xDD00)))
"""Bytes A0 to FF of a file name that is not UTF-8, as Python's surrogateescape represents them."""
ESCAPE: Final = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4}))")
FORMULA: Final = re.compile(r"'*\s*[=+\-@＝＋－＠]")
NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def visible(text: str) -> str:
    """Return a text on one line, with a Python-like escape for each character that acts or cannot be seen.

    These are control characters, line breaks, changes of the direction of writing, characters of zero width, and bytes
    that are not UTF-8; letters of all scripts and emoji stay. Applied twice it changes nothing more.
    """
    return UNSEEN.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    r"""Return a character as `\x1b`, `\u202e` or `\U000e0001`."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def to_cell(value: Value) -> Value | str:
    """Return a value as a CSV cell that no spreadsheet evaluates and that holds no line break; `from_cell` undoes it.

    A text that a spreadsheet would take for a formula is prefixed with `'`, `=1+1` becomes `'=1+1`; characters that
    `visible` escapes are escaped, and so is a backslash that would read like such an escape. Numbers stay, and so do
    bytes of file names that are not UTF-8, unless a terminal could take them for control characters.
    """
    if not isinstance(value, str):
        return value
    # First the backslashes of the text itself, then the escapes that are added: the other way round, `from_cell` could
    # not tell one from the other.
    without_escapes = ESCAPE.sub(lambda match: f"\\x5c{match[0][1:]}", value)
    cell = UNSEEN.sub(lambda match: match[0] if match[0] in FOREIGN_BYTES else _escaped(match[0]), without_escapes)
    # A leading minus or plus may be that of a number, which should stay one.
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def from_cell(cell: str) -> str:
    """Return the text from which `to_cell` made a cell."""
    # FORMULA includes leading quotes, so a text that begins with a quote itself got a second one, and loses only that.
    text = cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
    return ESCAPE.sub(lambda match: chr(int(match[1] or match[2] or match[3], 16)), text)
