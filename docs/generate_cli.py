"""Write reference/cli.md from the help texts of the program."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from braintumor.cli.main import GROUPS, main

PAGE = Path(__file__).parent / "reference" / "cli.md"
WIDTH = "110"
INTRODUCTION = """# Command line

Written by `make docs` from `braintumor COMMAND --help`; do not edit.

`braintumor` and `python -m braintumor` are the same program; `python train.py` is `braintumor train`.
Long options may be written with hyphens or underscores: `--data-dir` and `--data_dir` are the same.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | a bug of the program, with its traceback |
| 2 | wrong input or usage; the message says what to do |
| 3 | finished with findings: unreadable files, images still waiting, or with `audit --strict` groups across splits |
| 130 | interrupted |
| 141 | the output was closed, as by `\\| head` |
"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join([INTRODUCTION, *sections([])])


def sections(words: list[str]) -> Iterator[str]:
    """Yield the section of a command and those of the commands behind it."""
    text = help_text(words)
    yield section(["braintumor", *words], text)
    names = (
        re.findall(r"^│ +• (\w+)", text, re.MULTILINE)
        if words
        else [name for group in GROUPS.values() for name in group]
    )
    for name in names:
        yield from sections([*words, name])


def help_text(words: list[str]) -> str:
    """Return what a command prints for --help, in a terminal of fixed width without colours."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    terminal = {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, terminal), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    printed.seek(0)
    return printed.read()


def section(words: list[str], text: str) -> str:
    """Return a command's heading and its help."""
    return f"## {' '.join(words)}\n\n```text\n{unboxed(text)}\n```\n"


def unboxed(text: str) -> str:
    """Return a help text without the frames around its parts."""
    lines = []
    for line in text.splitlines():
        if title := re.match(r"╭─ (.+?) ─*╮$", line):
            lines.append(f"{title[1]}:")
        elif line.startswith("╰"):
            lines.append("")
        else:
            lines.append(re.sub(r"^│ (.*) │$", r"  \1", line).rstrip().replace("•", "-"))
    return "\n".join(lines).strip()


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
