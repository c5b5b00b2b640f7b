"""Draw the curves of a report as inline SVG whose colours follow the page, light or dark."""

import re
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from braintumor.classes import CLASSES, TITLES
from braintumor.evaluate.metrics import Bin, Measured, curves, risk_coverage
from braintumor.intervals import Floats, Integers

with chdir(Path(__file__).parent):  # matplotlib obeys a file matplotlibrc in the folder where it is first imported
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each stands in the drawing for a custom property of the page's style sheet.
INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
CLASS_COLOURS = {name: f"#0505{c:02}" for c, name in enumerate(CLASSES)}
PROPERTIES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent"} | {
    colour: f"--{name.replace('_', '-')}" for name, colour in CLASS_COLOURS.items()
}
TENTHS, FEWEST = 10, 10
DEFAULTS: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
DASHES = dict(zip(CLASSES, ("-", "--", "-.", ":"), strict=True))  # told apart without colour, too


def receiver_operating(labels: Integers, probabilities: Floats, measured: Measured) -> str:
    """Return the ROC curves, one class against the rest, as an SVG element.

    Args:
        labels: (N,) in the order of `CLASSES`.
        probabilities: (N, 4).
        measured: of the same answers, for the areas in the legend.
    """
    with _drawing("ROC curve of each class against the rest") as (axes, result):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
        for c, name in enumerate(CLASSES):
            alarms, recall, _ = curves(labels == c, probabilities[:, c])
            _plot(axes, name, alarms, recall, measured.per_class[name]["auc_roc"].value)
        _finish(axes, "False-positive rate (1 − specificity)", "Recall (sensitivity)")
    return result[0]


def precision_recall(labels: Integers, probabilities: Floats, measured: Measured) -> str:
    """Return the precision-recall curves, one class against the rest, as an SVG element; arguments as above."""
    with _drawing("Precision-recall curve of each class against the rest") as (axes, result):
        for c, name in enumerate(CLASSES):
            _, recall, precision = curves(labels == c, probabilities[:, c])
            _plot(axes, name, recall, precision, measured.per_class[name]["auc_pr"].value)
        _finish(axes, "Recall (sensitivity)", "Precision (positive predictive value)")
    return result[0]


def reliability_diagram(bins: Sequence[Bin], *, before: Sequence[Bin] = ()) -> str:
    """Return accuracy over confidence of each share of the images, with intervals, as an SVG element.

    `before` are the shares without temperature, drawn without intervals.
    """
    with _drawing("Reliability diagram: accuracy over confidence") as (axes, result):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)), label="perfect calibration")
        for low, high, confidence in [(b.accuracy.low, b.accuracy.high, b.confidence) for b in bins]:
            if low is not None and high is not None:
                axes.plot([confidence, confidence], [low, high], color=ACCENT, linewidth=1.2, alpha=0.55)
        if before:
            axes.plot(*_known_points(before), "o", color=MUTED, markersize=4, fillstyle="none", label="no temperature")
        axes.plot(*_known_points(bins), "o", color=ACCENT, markersize=4.5, label="1/15 of the images")
        _finish(axes, "Confidence (largest probability)", "Accuracy")
    return result[0]


def class_reliability(labels: Integers, probabilities: Floats) -> str:
    """Return how often each class is the label over its probability, in tenths of it, as an SVG element.

    Tenths with fewer than 10 images are not drawn.
    """
    with _drawing("Reliability of the probability of each class") as (axes, result):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
        for c, name in enumerate(CLASSES):
            tenth = np.minimum((probabilities[:, c] * TENTHS).astype(int), TENTHS - 1)
            chosen = [tenth == number for number in range(TENTHS) if (tenth == number).sum() >= FEWEST]
            mean_probability = [probabilities[part, c].mean() for part in chosen]
            label_share = [(labels[part] == c).mean() for part in chosen]
            style: dict[str, Any] = {"color": CLASS_COLOURS[name], "linestyle": DASHES[name], "linewidth": 1.6}
            axes.plot(mean_probability, label_share, marker="o", markersize=3.5, label=TITLES[name], **style)
        _finish(axes, "Probability given to the class", "Share with this label", legend="upper left")
    return result[0]


def _known_points(bins: Sequence[Bin]) -> tuple[list[float], list[float]]:
    points = [(b.confidence, b.accuracy.value) for b in bins if b.accuracy.value is not None]
    return [confidence for confidence, _ in points], [accuracy for _, accuracy in points]


def accuracy_coverage(labels: Integers, probabilities: Floats) -> str:
    """Return the accuracy on the most confident share of the images over that share, as an SVG element."""
    coverage, risk = risk_coverage(labels, probabilities)
    with _drawing("Accuracy over coverage") as (axes, result):
        axes.plot(coverage, 1 - risk, color=ACCENT, linewidth=1.6, label="most confident first")
        _finish(axes, "Coverage (share of images answered)", "Accuracy")
        lowest = np.floor(10 * (1 - risk.max())) / 10
        axes.set(ylim=(max(0.0, min(lowest, 0.9)) - 0.002, 1.002), aspect="auto")
    return result[0]


def _plot(axes: Axes, name: str, across: Floats, up: Floats, area: float | None) -> None:
    """Draw one class's curve; a class that is not determined is named in the legend without one."""
    defined = ~(np.isnan(across) | np.isnan(up))
    label = f"{TITLES[name]} {area:.3f}" if area is not None else f"{TITLES[name]} –"
    style: dict[str, Any] = {"color": CLASS_COLOURS[name], "linestyle": DASHES[name], "linewidth": 1.6}
    axes.plot(across[defined], up[defined], label=label, **style)


@contextmanager
def _drawing(description: str) -> Iterator[tuple[Axes, list[str]]]:
    """Give axes to draw on; on leaving, the list holds the SVG element. The user's own settings do not count."""
    result: list[str] = []
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": description,  # ids that are the same in every run
        "font.size": 10,
        "axes.linewidth": 0.8,
    }
    with matplotlib.rc_context(DEFAULTS | settings):
        figure = Figure(figsize=(3.9, 3.8), layout="constrained", facecolor="none")
        yield figure.add_subplot(facecolor="none"), result
        text = StringIO()
        figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None})
    result.append(_inline(text.getvalue(), description))


def _finish(axes: Axes, across: str, up: str, legend: Literal["lower center", "upper left"] = "lower center") -> None:
    """Name the axes, both of which are fractions from 0 to 1, and draw grid and legend."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(colors=MUTED, length=3)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.legend(loc=legend, frameon=False, labelcolor=INK, fontsize=10, handlelength=2.6)


def _inline(svg: str, description: str) -> str:
    """Return a matplotlib SVG file as an element for a page: no addresses, page colours and font, a description."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    box = re.search(r'viewBox="([\d. ]+)"', svg)
    assert box, "matplotlib writes a viewBox"
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # matplotlib names them alike in every drawing
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # would hold for the whole page
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for colour, name in PROPERTIES.items():
        body = body.replace(colour, f"var({name})")
    return f'<svg role="img" aria-label="{description}" viewBox="{box[1]}">{body}'
