"""What a person sees on a terminal, which programs in a pipe do not get."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from braintumor.classes import DISCLAIMER
from braintumor.cli.output import count_text

COLOUR = re.compile(r"\x1b\[\d+m")


def on_terminal(*arguments: object, **variables: str) -> list[str]:
    """Return the lines that a command prints on a terminal."""
    ours, theirs = pty.openpty()
    environment = (
        {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | variables
    )
    command = [sys.executable, "-m", "braintumor", *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        content = b""
        try:
            while chunk := os.read(ours, 4096):
                content += chunk
        except OSError:  # as Linux tells the end
            pass
    os.close(ours)
    assert process.returncode == 0
    return content.decode().splitlines()


def test_answers_on_a_terminal_are_aligned_coloured_and_counted(
    slices: list[Path], model_folder: Path, tmp_path: Path
) -> None:
    long = tmp_path / "a-longer-name-than-that-of-the-others-by-far-a-longer-name-than-that-of-the-others.png"
    long.write_bytes(slices[0].read_bytes())
    short = tmp_path / "b.png"
    short.write_bytes(slices[1].read_bytes())
    first, second, count, last = on_terminal("predict", long, short, "--model", model_folder)
    assert COLOUR.search(first)
    plain = [COLOUR.sub("", line) for line in (first, second)]
    assert plain[0].index("  glioma 0.") == plain[1].index("  glioma 0.")
    assert re.fullmatch(r"2 slices: .+", count)
    assert last.endswith(DISCLAIMER)


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_turned_off(slices: list[Path], model_folder: Path, variables: dict[str, str]) -> None:
    assert "\x1b" not in "".join(on_terminal("predict", slices[0], "--model", model_folder, **variables))


def test_the_count_names_classes_in_their_order_and_referrals_last() -> None:
    assert count_text({"refer": 2, "no_tumor": 1, "glioma": 3}) == "6 slices: Glioma 3, No tumor 1, refer 2"
    assert count_text({"pituitary": 1}) == "1 slice: Pituitary tumor 1"
