"""Find the defects of a picture before it is classified: no content, saturated, tiny, burnt-in writing.

Needs numpy alone, since it runs before every prediction. The audit of data folders applies the same rules.
"""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from braintumor.errors import ReferralReason
from braintumor.io.scan import Scan
from braintumor.models.referral import SMALLEST_SIDE, QualityDefect, Referral

Grey = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Region = list[tuple[int, int, int]]
"""Runs of neighbouring fields: row, first column, column after the last."""

FLAT_RANGE: Final = 0.05  # of all grey levels
LIT: Final = 0.05  # of all grey levels; darker pixels show nothing
LEAST_LIT: Final = 0.02  # share of lit pixels; fewer are no picture
WHITE: Final = 0.995  # of all grey levels
MOST_WHITE: Final = 0.2  # share of the lit pixels

GRID: Final = 112  # fields along the longer side
VISIBLE: Final = 40  # of 255; brighter fields belong to the head or to writing
EDGE: Final = 90  # of 255, between neighbouring pixels: sharper than anatomy
TALLEST, LONGEST, SHORTEST = 12, 80, 3  # of a line of writing, in fields
STROKES: Final = 2.5  # changes between dark and bright along a row of letters, on average


def defects(scan: Scan) -> tuple[Referral, ...]:
    """Return why a slice is not good enough to be classified; nothing if it is."""
    pixels = scan.pixels
    lit = pixels > LIT
    # An empty slice has no further defects: shares of its lit pixels would be noise, or divided by zero.
    if float(np.ptp(pixels)) < FLAT_RANGE or lit.mean() < LEAST_LIT:
        return (Referral(ReferralReason.IMAGE_QUALITY, (QualityDefect.EMPTY,)),)
    has_defect = {
        QualityDefect.SATURATED: float((pixels[lit] > WHITE).mean()) > MOST_WHITE,
        QualityDefect.TOO_SMALL: min(pixels.shape) < SMALLEST_SIDE,
        QualityDefect.WRITING: has_writing(np.rint(pixels * 255).astype(np.uint8)),
    }
    return tuple(Referral(ReferralReason.IMAGE_QUALITY, (defect,)) for defect, present in has_defect.items() if present)


def has_writing(grey: Grey) -> bool:
    """Tell whether something beside the head looks like writing: small, sharp, changing often along the line.

    The picture (H, W) is reduced to about 112 fields by the brightest pixel, which keeps thin strokes and joins the
    letters of a word. Of the connected bright regions the largest is the head. Of the others, those that lie outside
    it count as writing if they hold a sharp edge and their rows change between dark and bright 2.5 times on average;
    vertical writing is not found. Fixed by eye on the public set, see docs/how-to/audit.md.
    """
    step = max(1, round(max(grey.shape) / GRID))
    fields = _brightest(grey, step) > VISIBLE
    bright_regions = regions(fields)
    if len(bright_regions) < 2:
        return False
    head = max(bright_regions, key=lambda runs: sum(end - start for _, start, end in runs))
    # Bright islands enclosed by the head, such as ventricles on T2, are anatomy, however sharp.
    hull = _between(drawn(head, fields.shape))
    for runs in bright_regions:
        top, bottom = min(row for row, _, _ in runs), max(row for row, _, _ in runs) + 1
        left, right = min(start for _, start, _ in runs), max(end for _, _, end in runs)
        if runs is head or not (2 <= bottom - top <= TALLEST and SHORTEST <= right - left <= LONGEST):
            continue
        is_outside = not any(hull[row, start:end].any() for row, start, end in runs)
        if is_outside and _is_writing(grey[top * step : bottom * step, left * step : right * step]):
            return True
    return False


def _brightest(grey: Grey, step: int) -> Grey:
    """Return the brightest pixel of each field of step x step pixels; an incomplete last field is left out."""
    height, width = (side // step for side in grey.shape)
    blocks = grey[: height * step, : width * step].reshape(height, step, width, step)
    fields: Grey = blocks.max(axis=(1, 3))
    return fields


def regions(fields: Flags) -> list[Region]:
    """Return the connected regions of fields (H, W); fields that touch at a corner are connected."""
    # Runs of neighbouring fields per row, joined with a union-find: 1 where a run begins, -1 behind its end.
    edges = np.diff(fields.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    root = list(range(len(runs)))

    def find(run: int) -> int:
        while root[run] != run:
            root[run] = root[root[run]]  # halves the path, so that later look-ups are short
            run = root[run]
        return run

    # The number of the first run of each row, then a merge of the runs of each two neighbouring rows.
    first = np.searchsorted(rows, np.arange(len(fields) + 1)).tolist()
    for (before, here), (_, after) in zip(pairwise(first), pairwise(first[1:]), strict=False):
        upper, lower = before, here
        while upper < here and lower < after:
            # <= instead of <, since ends are exclusive: runs that touch at a corner count as connected.
            if runs[upper][1] <= runs[lower][2] and runs[lower][1] <= runs[upper][2]:
                root[find(lower)] = find(upper)
            if runs[upper][2] < runs[lower][2]:
                upper += 1
            else:
                lower += 1
    by_root: dict[int, Region] = {}
    for number, run in enumerate(runs):
        by_root.setdefault(find(number), []).append(run)
    return list(by_root.values())


def drawn(runs: Region, shape: tuple[int, ...]) -> Flags:
    """Return a region as flags of a shape (H, W)."""
    flags = np.zeros(shape, bool)
    for row, start, end in runs:
        flags[row, start:end] = True
    return flags


def _between(region: Flags) -> Flags:
    """Return the fields that lie between two fields of a region in their row or column, the region included."""
    between: list[Flags] = []
    for axis in (0, 1):
        before = np.logical_or.accumulate(region, axis=axis)
        after = np.flip(np.logical_or.accumulate(np.flip(region, axis), axis=axis), axis)
        between.append(before & after)
    return between[0] | between[1]


def _is_writing(grey: Grey) -> bool:
    """Tell whether a cut-out has sharp edges, and its rows change often between dark and bright."""
    levels = grey.astype(np.int16)  # differences of uint8 would wrap around
    if max(int(np.abs(np.diff(levels, axis=axis)).max(initial=0)) for axis in (0, 1)) < EDGE:
        return False
    bright = levels > levels.max() / 2
    return float((bright[:, 1:] != bright[:, :-1]).sum(axis=1).mean()) >= STROKES
