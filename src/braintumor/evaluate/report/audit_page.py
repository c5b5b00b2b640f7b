"""Write an audit as files: audit.html with pictures, audit.json and groups.csv; and as lines of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from braintumor.data.audit import AuditResult
from braintumor.data.duplicates.groups import write_groups
from braintumor.data.duplicates.kinds import COPIES, Pair
from braintumor.data.quality import ODDITIES
from braintumor.data.shortcuts import FACTS
from braintumor.errors import ImageError
from braintumor.evaluate.report import html
from braintumor.evaluate.report.gallery import picture
from braintumor.files import write_text
from braintumor.io.read import read

Entry = TypeVar("Entry")

PAIRS: Final = 6
PICTURES: Final = 24
KIND_TITLES: Final = {
    "bytes": "Identical files",
    "pixels": "Identical pictures in different files",
    "near": "Likely the same slice",
    "turned": "Likely the same slice, mirrored or turned",
    "related": "Related: likely the same patient, or a neighbouring slice",
}
RELATION_TITLES: Final = {
    "bytes": "the identical file",
    "pixels": "the identical picture in another file",
    "near": "likely the same slice, changed in brightness, contrast, compression or margin",
    "turned": "likely the same slice, mirrored or turned",
    "related": "a very similar slice, probably of the same patient",
    "group": "another slice of the same group",
    "none": "nothing that was found",
}

MODES: Final = {"L": "grey", "RGB": "colour", "P": "palette", "RGBA": "colour and transparency", "1": "black and white"}
PARTS: Final = {"train": "training", "val": "validation", "test": "test", "": ""}
TERMS: Final = {
    "bytes": "identical files",
    "pixels": "identical pixels",
    "near": "likely same",
    "turned": "mirrored, turned",
    "related": "related",
}


@dataclass(frozen=True)
class Shown:
    """A pair with its pictures: `data:` addresses, each with what stands below it."""

    pair: Pair
    pictures: tuple[tuple[str, str], ...]


def write_audit_page(audit: AuditResult, data_dir: Path, out: Path) -> None:
    """Write audit.html, audit.json and groups.csv into a folder.

    Raises:
        StorageError: a file cannot be written.
    """
    write_groups(audit.rows, out / "groups.csv")
    write_text(out / "audit.html", render(audit, data_dir))
    html.write_json(out / "audit.json", audit.to_json())


def render(audit: AuditResult, data_dir: Path) -> str:
    """Return the text of audit.html."""
    return html.page(
        "audit.html",
        audit=audit,
        folder=data_dir.resolve().name,
        parts=PARTS | {"": "all"},
        kinds={
            kind: (title, _shown(_evenly(audit.pairs[kind], PAIRS), data_dir)) for kind, title in KIND_TITLES.items()
        },
        conflicts=_shown(audit.conflicts[:PAIRS], data_dir),
        relations=RELATION_TITLES,
        odd={
            kind: (meaning, [(image, _slice_of(data_dir / image)) for image in _evenly(oddity.listed, PICTURES)])
            for kind, meaning in ODDITIES.items()
            if (oddity := audit.odd[kind]).images
        },
        copies=COPIES,
        facts=FACTS,
        modes=MODES,
        told_by=sorted(audit.shortcuts.alone, key=audit.shortcuts.alone.__getitem__)[::-1] if audit.shortcuts else [],
    )


def _evenly(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Return at most so many of the entries, evenly spaced, the first and the last included."""
    positions = np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int).tolist()
    return [entries[position] for position in positions]


def _shown(pairs: Sequence[Pair], data_dir: Path) -> list[Shown]:
    """Return pairs with their pictures; of a mirrored or turned one the first also as it looks when brought in line."""
    result = []
    for pair in pairs:
        pictures = [(_slice_of(data_dir / image), image) for image in pair.images]
        # people do not see that two slices are the same while one of them lies on its side
        if pair.mirrored or pair.rotation:
            pictures.append((_slice_of(data_dir / pair.images[0], pair), f"the first, {movement(pair)}"))
        result.append(Shown(pair, tuple(pictures)))
    return result


def movement(pair: Pair) -> str:
    """Return in words how the first image is brought in line with the second."""
    words = ["mirrored left to right"] if pair.mirrored else []
    return " and ".join([*words, f"turned by {pair.rotation}° counter-clockwise"] if pair.rotation else words)


def _slice_of(file: Path, pair: Pair | None = None) -> str:
    """Return a slice as the `data:` address of a JPEG, moved as a pair says; black if it has become unreadable."""
    try:
        grey = np.rint(read(file).pixels * 255).astype(np.uint8)
    except ImageError:
        # the files were all readable a moment ago; one picture less must not cost the whole audit
        grey = np.zeros((16, 16), np.uint8)
    if pair and pair.mirrored:
        grey = grey[:, ::-1]
    return picture(np.ascontiguousarray(np.rot90(grey, pair.rotation // 90 if pair else 0)))


def summary(audit: AuditResult) -> str:
    """Return what was found as lines for a terminal."""
    return "\n".join(f"{name:<17} {text}" for name, text in _findings(audit).items()).replace("\u00a0", " ")


def _findings(audit: AuditResult) -> dict[str, str]:
    """Return what was found, by short names."""
    held, groups, patients, measured = PARTS[audit.held_out], audit.groups, audit.patients, audit.shortcuts
    parts = {PARTS[split]: sum(classes.values()) for split, classes in audit.counts.items() if split}
    named = ", ".join(f"{count:,} {part}" for part, count in parts.items()) or "no parts: nothing can cross splits"
    lines = {"images": f"{audit.images:,} ({named})", "unreadable": _counted(audit.unreadable, "file")}
    for kind, entry in audit.copies.items():
        across = f", {entry.across_splits:,} of them across splits" if held else ""
        lines[TERMS[kind]] = f"{_counted(entry.pairs, 'pair')} of {_counted(entry.images, 'image')}{across}"
    across = f"; {groups.across_splits:,} across splits" if held else ""
    lines["groups"] = f"{groups.number:,}, the largest of {_counted(groups.largest, 'image')}{across}"
    if patients:
        shared = f"; {patients.shared:,} of the {patients.held_out:,} in {held} are in training too" if held else ""
        lines["patients"] = f"{patients.number:,} known{shared}"
    if held:
        share = html.percent(audit.sharing / audit.n_held_out)
        lines[f"{held} images"] = f"{audit.sharing:,} of {audit.n_held_out:,} ({share}) share a group with training"
    conflicts, mixed = _counted(audit.n_conflicts, "pair"), _counted(groups.with_two_labels, "group")
    lines["label conflicts"] = f"{conflicts} of copies with two labels, {mixed} with two labels"
    odd = [f"{entry.images:,} {kind}" for kind, entry in audit.odd.items() if entry.images]
    lines["odd files"] = ", ".join(odd) or "none"
    if measured:
        right, chance = html.plain(measured.accuracy), html.percent(measured.chance)
        lines["shortcuts"] = f"{right} right from file, size, brightness and border alone; by chance {chance}"
    return lines


def _counted(number: int, noun: str) -> str:
    """Return a number with its noun, `1 pair`, `2 pairs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
