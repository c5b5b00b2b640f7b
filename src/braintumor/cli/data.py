"""Commands that download, audit and show data folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from braintumor.classes import DISCLAIMER
from braintumor.cli.options import OptionalPath
from braintumor.cli.output import DONE, FINDINGS, say, say_aside
from braintumor.errors import BrainTumorError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Audit:
    """Find copies, patients across splits, label conflicts, odd files and shortcuts in a data folder.

    In a shell:
        braintumor audit Brain_Tumor_Data
    """

    data_dir: Positional[Path]
    """Data folder."""
    reference: OptionalPath = None
    """Folder of slices with known patients (images/, annotations.csv); braintumor data get figshare makes one."""
    out: Path = Path("audit")
    """Folder for audit.html, audit.json and groups.csv."""
    strict: bool = False
    """Exit with status 3 if anything crosses splits or cannot be read."""

    def run(self) -> int:
        """Audit and print what was found."""
        from braintumor.cli.output import Bar
        from braintumor.data.audit import audit
        from braintumor.evaluate.report.audit_page import summary, write_audit_page

        if self.out.resolve().is_relative_to(self.data_dir.resolve()):
            raise BrainTumorError(f"{self.out} lies in the data folder {self.data_dir}; choose another --out")
        with Bar("reading") as bar:
            found = audit(self.data_dir, self.reference, bar.show, bar.say)
        write_audit_page(found, self.data_dir, self.out)
        say(*summary(found).split("\n"), f"report: {self.out / 'audit.html'}", DISCLAIMER)
        return FINDINGS if self.strict and (found.leaks or found.unreadable) else DONE


@dataclass(frozen=True)
class DataGet:
    """Download a public data set: kaggle, the slices to train on, or figshare, slices with patients and outlines."""

    source: Positional[Literal["kaggle", "figshare"]]
    """kaggle: 7,023 images, CC0; figshare: 3,064 slices, CC BY 4.0."""
    out: Path = Path("data")
    """Folder in which brain-tumor-mri/ or figshare/ is made."""

    def run(self) -> int:
        """Download, and say what is there and under which licence."""
        say(*(_kaggle_lines(self.out) if self.source == "kaggle" else _figshare_lines(self.out)), DISCLAIMER)
        return DONE


@dataclass(frozen=True)
class DataShow:
    """Draw some slices of every class and split on one page, with counts and sizes."""

    data_dir: Positional[Path]
    """Data folder."""
    out: Path = Path("contact-sheet.png")
    """PNG file to write."""

    def run(self) -> int:
        """Write the page; what cannot be read goes to the error stream."""
        from braintumor.cli.output import Bar, tell_failures
        from braintumor.data.contact_sheet import contact_sheet
        from braintumor.files import replacing

        with Bar("reading") as bar:
            sheet = contact_sheet(self.data_dir, bar.show)
        with replacing(self.out) as aside:
            sheet.page.save(aside, "PNG")
        say(*sheet.captions, f"contact sheet: {self.out}", DISCLAIMER)
        for image, reason in sorted(sheet.unreadable.items()):
            say_aside(f"unreadable: {self.data_dir / image}: {reason}")
        tell_failures(len(sheet.unreadable))
        return FINDINGS if sheet.unreadable else DONE


@dataclass(frozen=True)
class DataPhantom:
    """Write synthetic slices, so that everything can be tried without a download; they are no medical images."""

    out: Positional[Path]
    """Data folder to make, with Training/ and Testing/."""
    per_class: int = 50
    """Slices of each class, at least two; a fifth of them is for testing."""
    size: int = 224
    """Pixels along each side."""

    def run(self) -> int:
        """Write the folder and say what is in it."""
        from braintumor.data.phantom import write_phantoms
        from braintumor.files import check_writable

        if self.per_class < 2:
            raise BrainTumorError(f"expected at least two slices per class, got --per-class {self.per_class}")
        check_writable(self.out)
        if self.out.exists() and any(self.out.iterdir()):
            raise BrainTumorError(f"{self.out} is not empty; name a new folder")
        write_phantoms(self.out, self.per_class, size=self.size)
        say(f"data folder: {self.out} ({self.per_class} synthetic slices of each class; no medical images)", DISCLAIMER)
        return DONE


@dataclass(frozen=True)
class Data:
    """Download the public data sets, make a synthetic one, or look at a data folder."""

    command: Annotated[
        Annotated[DataGet, tyro.conf.subcommand("get")]
        | Annotated[DataShow, tyro.conf.subcommand("show")]
        | Annotated[DataPhantom, tyro.conf.subcommand("phantom")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run the command behind `data`."""
        return self.command.run()


def _kaggle_lines(out: Path) -> tuple[str, ...]:
    """Get the set from Kaggle; return what to say about it."""
    from braintumor.data.public.kaggle import get_kaggle

    say_aside(f"getting the set from Kaggle into {out}; this takes a while the first time")
    manifest = get_kaggle(out).manifest
    counts = ", ".join(f"{split} {sum(classes.values()):,}" for split, classes in manifest.counts().items())
    return (
        f"data folder: {manifest.root} ({len(manifest):,} images: {counts})",
        "Brain Tumor MRI Dataset (Nickparvar), Kaggle, CC0",
        f"next: braintumor data show {manifest.root}",
    )


def _figshare_lines(out: Path) -> tuple[str, ...]:
    """Get the set from figshare; return what to say about it."""
    from braintumor.cli.output import Bar
    from braintumor.data.public.figshare import get_figshare

    with Bar("figshare") as bar:
        reference = get_figshare(out, bar.show)
    return (
        f"reference folder: {reference}",
        "cite: Cheng 2017, brain tumor dataset, doi 10.6084/m9.figshare.1512427, CC BY 4.0; changed: to PNG, grey "
        "values stretched",
    )
