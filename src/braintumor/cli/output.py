"""How answers and progress look on a terminal, in a pipe and in a log."""

import csv
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.errors import BrainTumorError, ImageError
from braintumor.models.policy import REFER
from braintumor.models.referral import sentence
from braintumor.predictor import COLUMNS, Prediction
from braintumor.text import to_cell, visible
from braintumor.volumes import VolumeSummaryBuilder

if TYPE_CHECKING:
    from braintumor.models.session import Model
    from braintumor.training.checkpoint import Epoch

DONE, BAD_INPUT, FINDINGS, INTERRUPTED, CLOSED_PIPE = 0, 2, 3, 130, 141
"""Exit statuses: 2 for bad input or usage, 3 for done with findings, such as files that cannot be read."""
Answer = TypeVar("Answer")
# ANSI: no class is red or green, which would read as a diagnosis
_COLOURS = {**dict.fromkeys(CLASSES, "\x1b[1m"), "no_tumor": "\x1b[36m", REFER: "\x1b[33m"}
_PLAIN = "\x1b[0m"
Writer = Callable[[Prediction | ImageError | None], None]
"""Takes every answer, then None at the end."""


def say(*lines: str) -> None:
    """Print lines, at once; control characters in them, a line break too, are made visible."""
    for line in lines:
        print(visible(line), flush=True)


def say_aside(*lines: str) -> None:
    """Print lines to the error stream as `say` does."""
    for line in lines:
        print(visible(line), file=sys.stderr, flush=True)


def text_writer(model: "Model") -> Writer:
    """Return a writer of lines for people: each slice, then a summary of each volume.

    On a terminal the columns are aligned, decisions have colours, and a count of the decisions comes at the end.
    """
    builder = VolumeSummaryBuilder(model.card.class_map_scale)
    decisions: Counter[str] = Counter()
    is_terminal = sys.stdout.isatty()
    has_colours = is_terminal and _has_colours()
    width = 0  # of the widest name so far: those to come are not known

    def write(answer: Prediction | ImageError | None) -> None:
        nonlocal width
        if answer is None:
            say(*_summary_lines(builder))
            if is_terminal and decisions:
                say(count_text(decisions))
            say(f"{model.identity}. {DISCLAIMER}")
        elif not isinstance(answer, ImageError):
            shares = "  ".join(f"{name} {share:.3f}" for name, share in zip(CLASSES, answer.probabilities, strict=True))
            classes = f"  one of: {', '.join(answer.prediction_set)}" if answer.prediction_set else ""
            name = visible(answer.image)
            if is_terminal:
                width = max(width, len(name))
                text = f"{decision_text(answer):<15}"
                coloured = f"{_COLOURS[answer.decision]}{text}{_PLAIN}" if has_colours else text
                print(f"{name + ':':<{width + 1}} {coloured}  {shares}{classes}", flush=True)
            else:
                say(f"{name}: {decision_text(answer):<15}  {shares}{classes}")
            decisions[answer.decision] += 1
            builder.add(answer)

    return write


def count_text(decisions: Mapping[str, int]) -> str:
    """Return how many slices were decided how, the classes in their order, then those that were referred."""
    counts = [f"{TITLES.get(name, name)} {decisions[name]}" for name in (*CLASSES, REFER) if decisions.get(name)]
    total = sum(decisions.values())
    return f"{total} slice{'' if total == 1 else 's'}: {', '.join(counts)}"


def _has_colours() -> bool:
    """Tell whether a terminal is to show colours; see https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def decision_text(prediction: Prediction) -> str:
    """Return the decision about a slice in words, with the reasons where it is referred."""
    refused = prediction.decision == REFER
    return f"refer ({sentence(prediction.reasons)})" if refused else TITLES[prediction.decision]


def json_writer(model: "Model") -> Writer:
    """Return a writer of one JSON object whose `predictions` are streamed; summaries of `volumes` follow."""
    tally = VolumeSummaryBuilder(model.card.class_map_scale)
    head = json.dumps({"model": model.identity, "disclaimer": DISCLAIMER})
    separator = head.removesuffix("}") + ', "predictions": [\n'
    empty = separator

    def write(answer: Prediction | ImageError | None) -> None:
        nonlocal separator
        if answer is None:
            volumes = _ascii_json([summary.record() for summary in tally.summaries()])
            print(f'{empty if separator is empty else ""}\n], "volumes": {volumes}}}')
        else:
            if isinstance(answer, Prediction):
                tally.add(answer)
            entry = (
                {"image": answer.source, "error": {"code": answer.code, "text": answer.reason}}
                if isinstance(answer, ImageError)
                else answer.record()
            )
            print(separator + _ascii_json(entry), end="", flush=True)
            separator = ",\n"

    return write


def _ascii_json(value: object) -> str:
    """Return JSON of printable ASCII alone; the standard library leaves DEL as it is."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def csv_writer(model: "Model") -> Writer:
    """Return a writer of lines with the columns of predictions.csv; unreadable files and summaries have none."""
    tally = VolumeSummaryBuilder(model.card.class_map_scale)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(answer: Prediction | ImageError | None) -> None:
        if answer is None:
            say_aside(*_summary_lines(tally), f"{model.identity}. {DISCLAIMER}")
        elif not isinstance(answer, ImageError):
            writer.writerow(map(to_cell, answer.row().values()))
            tally.add(answer)

    return write


def _summary_lines(tally: VolumeSummaryBuilder) -> list[str]:
    """Return what to say about volumes of more than one slice."""
    return [line for summary in tally.summaries() if summary.slices > 1 for line in summary.lines()]


def tell_failures(failures: int) -> None:
    """Say how many files could not be read, if any."""
    if failures:
        say_aside(f"{failures} file(s) could not be read")


class AnswerWriter(Generic[Answer]):
    """Gives every answer to a writer as it comes, and says which files could not be read.

    Args:
        write: takes every answer, then None at the end.
    """

    def __init__(self, write: Callable[[Answer | ImageError | None], None]) -> None:
        self._write = write
        self._answers = self._failures = 0

    def add(self, answer: Answer | ImageError) -> None:
        """Write one answer."""
        self._answers += 1
        if isinstance(answer, ImageError):
            self._failures += 1
            say_aside(f"unreadable: {answer}")
        self._write(answer)

    def finish(self) -> int:
        """Write what comes at the end, and return how many files could not be read.

        Raises:
            BrainTumorError: there was no answer.
        """
        self._write(None)
        if not self._answers:
            raise BrainTumorError(
                "no images found; name PNG, JPEG, TIFF, BMP, DICOM or NIfTI files, or a folder that holds some"
            )
        tell_failures(self._failures)
        return self._failures


def tell_passed_over(files: Sequence[Path], *, verbose: bool) -> None:
    """Say how many files of the folders hold no image, if any; which ones, if wanted."""
    for file in sorted(files) if verbose else ():
        say_aside(f"passed over: {file}")
    if files:
        names = "" if verbose else "; --verbose names them"
        say_aside(f"{len(files)} file(s) and folder(s) without an image were passed over{names}")


class Bar:
    """A live bar on a terminal, nothing elsewhere."""

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=None, note="")

    def __enter__(self) -> Self:
        """Start drawing."""
        if sys.stdout.isatty():
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing."""
        if self._bar.live.is_started:
            self._bar.stop()

    def show(self, done: int, total: int, title: str | None = None, note: str = "") -> None:
        """Move the bar; with a title, rename it."""
        self._bar.update(self._task, completed=done, total=total, note=note, description=title)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(visible(message), markup=False, emoji=False, highlight=False, soft_wrap=True)


class TrainingProgress(Bar):
    """Training on a terminal: a live bar with images/s, loss, learning rate and time left; plain lines elsewhere."""

    def __init__(self) -> None:
        super().__init__("preparing")
        self._began = time.perf_counter()
        self._last = ""

    def step(self, epoch: int, done: int, images: int, loss: float, learning_rate: float) -> None:
        """Move the bar by one step."""
        if not self._bar.live.is_started:
            return
        if self._bar.tasks[0].completed >= done:
            self._began = time.perf_counter()
        speed = done / max(time.perf_counter() - self._began, 1e-9)
        note = f"{speed:.0f} images/s  loss {loss:.3f}  lr {learning_rate:.1e}  {self._last}"
        self.show(done, images, f"epoch {epoch}", note)

    def epoch(self, row: "Epoch", epochs: int) -> None:
        """Print the epoch's line."""
        left = (epochs - row.epoch) * row.seconds / 60
        self._last = f"validation macro-F1 {row.val_macro_f1:.4f}, at most {left:.0f} min left"
        self.say(
            f"epoch {row.epoch}/{epochs}  loss {row.train_loss:.4f}  validation loss {row.val_loss:.4f}  "
            f"accuracy {row.val_accuracy:.4f}  macro-F1 {row.val_macro_f1:.4f}  lr {row.learning_rate:.2e}  "
            f"{row.images_per_second:.0f} images/s  at most {left:.0f} min left"
        )
