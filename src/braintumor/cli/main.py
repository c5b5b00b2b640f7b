"""The command line: one dataclass per command. `terminal` prints."""

import codecs
import dataclasses
import functools
import io
import os
import resource
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitSubcommandPrefixes, Positional

from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.cli.output import say, say_aside
from braintumor.errors import BrainTumorError, ImageError, MissingExtraError
from braintumor.files import user_folder
from braintumor.io.confinement import hide
from braintumor.io.scan import SliceSelection
from braintumor.models.policy import REFER
from braintumor.models.referral import sentence
from braintumor.models.registry import DEFAULT, is_path
from braintumor.text import visible

if TYPE_CHECKING:
    from braintumor.io.scan import Scan
    from braintumor.models.session import Model
    from braintumor.predictor import Prediction

DONE, BAD_INPUT, FINDINGS, INTERRUPTED, CLOSED_PIPE = 0, 2, 3, 130, 141
EXTRA_OF = {
    "torch": "train",
    "timm": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "matplotlib": "evaluate",
    "jinja2": "evaluate",
    "markupsafe": "evaluate",
    "faiss": "evaluate",
    "sklearn": "evaluate",
    "scipy": "evaluate",
    "h5py": "data",
    "kagglehub": "data",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "pydicom": "dicom",
    "requests": "dicom",
    "nibabel": "nifti",
}
TOKEN_VARIABLE = "BRAINTUMOR_TOKEN"


@dataclass(frozen=True)
class Train:
    """Train a model on a folder of images and write a model folder."""

    data_dir: Path
    """Folder with Training/ and Testing/, or train/, val/ and test/, or one folder per class."""
    model: str
    """cnn, resnet, or the name of a timm network with spatial features."""
    recipe: str = "reference"
    """Named settings: reference, fast (minutes instead of half an hour), or best (for new patients)."""
    epochs: int | None = None
    """At most so many; the recipe's number by default. Early stopping may end the run before."""
    out: Path | None = None
    """Model folder to write; runs/MODEL-RECIPE by default."""
    seed: int | None = None
    """Of initial weights, order, augmentation, dropout and the validation split."""
    batch_size: int | None = None
    """Images per step; the recipe's number by default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    weights: str | None = None
    """imagenet, none, or a safetensors file; resnet starts from imagenet by default, the others from none."""
    allow_partial_weights: bool = False
    """Start tensors that the weights lack from He-normal values; recorded in the model card."""
    masks: Path | None = None
    """Reference folder with tumor outlines, which teach the network where to look; needs a recipe with attention."""
    keep_last: bool = False
    """Keep the last epoch instead of the one that validates best; the run then has all its epochs."""
    resume: bool = False
    """Go on after the last finished epoch of an interrupted run."""
    skip_unreadable: bool = False
    """Leave out files that cannot be read; recorded in the model card."""

    def run(self) -> int:
        """Train and say where the model is."""
        from braintumor.cli.output import TrainingProgress
        from braintumor.training.config import recipe
        from braintumor.training.train import train

        given: dict[str, Any] = {
            "epochs": self.epochs,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "weights": self.weights,
            "masks": self.masks and str(self.masks),
        }
        config = dataclasses.replace(
            recipe(self.recipe, self.model),
            allow_partial_weights=self.allow_partial_weights,
            keep_last=self.keep_last,
            **{name: value for name, value in given.items() if value is not None},
        )
        out = self.out or Path("runs") / f"{self.model}-{self.recipe}"
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            with TrainingProgress() as progress:
                card = train(
                    config,
                    self.data_dir,
                    out,
                    progress,
                    device=self.device,
                    resume=self.resume,
                    skip_unreadable=self.skip_unreadable,
                )
        except KeyboardInterrupt:
            say_aside(_interrupted_text(out))
            return INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, previous)
        if card is None:  # a process beside the first under torchrun
            return DONE
        validation = card.metrics["validation"]
        say(
            f"model folder: {out}",
            f"epoch {card.metrics['kept_epoch']} of {card.metrics['epochs']} is kept, "
            f"{card.metrics['train_minutes']} minutes, "
            f"validation macro-F1 {validation['macro_f1']:.4f} on {validation['n']} images",
            f"next: braintumor evaluate {out} {self.data_dir}",
            DISCLAIMER,
        )
        return DONE


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on the test part of a data folder; write report.json, report.html and predictions.csv."""

    model: Positional[Path]
    """Model folder."""
    data_dir: Positional[Path]
    """Data folder with a test part, or the one the model was trained on."""
    out: Path | None = None
    """Folder for the report; evaluation/ in the model folder by default, evaluation-clean/, evaluation-int8/."""
    protocol: Literal["official", "clean"] = "official"
    """official: all test images; clean: those that share no slice and no patient with training."""
    precision: Literal["float32", "int8"] = "float32"
    """int8 is faster; braintumor quantize writes it."""
    masks: Path | None = None
    """Reference folder with tumor outlines, with which the class maps are compared."""
    skip_unreadable: bool = False
    """Leave out files that cannot be read; listed in the report."""

    def run(self) -> int:
        """Evaluate and print the main numbers."""
        from braintumor.cli.output import Bar
        from braintumor.evaluate.report.report import evaluate
        from braintumor.models.session import load_folder

        kind = [name for name in (self.protocol, self.precision) if name not in ("official", "float32")]
        out = self.out or self.model / "-".join(["evaluation", *kind])
        model = load_folder(self.model, precision=self.precision)
        with Bar("evaluating") as bar:
            report = evaluate(
                model,
                self.data_dir,
                out,
                protocol=self.protocol,
                masks=self.masks,
                skip_unreadable=self.skip_unreadable,
                progress=bar.show,
            )
        say(*report.summary().split("\n"), f"report: {out / 'report.html'}", DISCLAIMER)
        return FINDINGS if report.skipped else DONE


@dataclass(frozen=True)
class Folds:
    """Measure a recipe on patients its models have not seen: train and test five patient-disjoint folds."""

    data_dir: Positional[Path]
    """Data folder, whose parts are pooled, or a reference folder (images/ and annotations.csv)."""
    model: str
    """cnn, resnet, or the name of a timm network with spatial features."""
    recipe: str = "best"
    """Named settings: best, fast or reference."""
    out: Path | None = None
    """Folder of the folds and the pooled report; runs/folds/MODEL-RECIPE by default."""
    jobs: int = 1
    """Folds trained at the same time, each on its share of the cores."""
    epochs: int | None = None
    """At most so many; the recipe's number by default."""
    seed: int | None = None
    """Of initial weights, order, augmentation, dropout and the validation split; the folds are fixed."""
    weights: str | None = None
    """imagenet, none, or a safetensors file; resnet starts from imagenet by default, the others from none."""
    allow_partial_weights: bool = False
    """Start tensors that the weights lack from He-normal values; recorded in the model card."""
    masks: Path | None = None
    """Reference folder with tumor outlines, which teach the network where to look; needs a recipe with attention."""

    def run(self) -> int:
        """Train what is missing and print the pooled numbers; the same command goes on after an interruption."""
        from braintumor.cli.output import Bar
        from braintumor.training.config import recipe
        from braintumor.training.cross_validation import folds

        given: dict[str, Any] = {
            "epochs": self.epochs,
            "seed": self.seed,
            "weights": self.weights,
            "masks": self.masks and str(self.masks),
        }
        config = dataclasses.replace(
            recipe(self.recipe, self.model),
            allow_partial_weights=self.allow_partial_weights,
            **{name: value for name, value in given.items() if value is not None},
        )
        out = self.out or Path("runs") / "folds" / f"{self.model}-{self.recipe}"
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            with Bar("evaluating") as bar:
                report = folds(config, self.data_dir, out, bar.say, jobs=self.jobs, progress=bar.show, masks=self.masks)
        except KeyboardInterrupt:
            say_aside("interrupted; finished epochs are kept. The same command goes on")
            return INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, previous)
        say(*report.summary().split("\n"), f"report: {out / 'evaluation' / 'report.html'}", DISCLAIMER)
        return DONE


@dataclass(frozen=True)
class Quantize:
    """Write a variant of a model that computes with 8-bit integers, and measure how far it agrees with the model."""

    model: Positional[Path]
    """Model folder."""
    data_dir: Positional[Path]
    """Data folder that it was trained on; its validation images are used."""
    precision: Literal["int8"] = "int8"
    """Arithmetic of the variant."""

    def run(self) -> int:
        """Quantize and say how far the variant agrees."""
        from braintumor.models.session import ONNX_FILES
        from braintumor.training.quantization import quantize

        card = quantize(self.model, self.data_dir, precision=self.precision)
        found, original = card.precisions[self.precision], card.precisions["float32"]
        say(
            f"written: {self.model / ONNX_FILES[self.precision]}",
            f"on {found['n']} validation images: same class {found['agreement']:.4f}, "
            f"accuracy {found['accuracy']:.4f} (float32 {original['accuracy']:.4f}), "
            f"correlation of the class maps {found['class_map_correlation']:.4f}",
            f"next: braintumor predict IMAGES --model {_as_model(self.model)} --precision {self.precision}",
            DISCLAIMER,
        )
        return DONE


@dataclass(frozen=True)
class Compare:
    """Compare two evaluated models on the same images; write compare.json and compare.html."""

    first: Positional[Path]
    """Model folder that has been evaluated."""
    second: Positional[Path]
    """Another one, evaluated on the same images."""
    out: Path = Path("comparison")
    """Folder for the comparison."""

    def run(self) -> int:
        """Compare and print the table."""
        from braintumor.evaluate.compare import compare

        comparison = compare(self.first, self.second, self.out)
        say(*comparison.summary().split("\n"), f"comparison: {self.out / 'compare.html'}", DISCLAIMER)
        return DONE


@dataclass(frozen=True)
class Predict:
    """Classify slices: images and volumes, or folders searched for them."""

    paths: Positional[tuple[Path, ...]]
    """Images (PNG, JPEG, TIFF, BMP), DICOM files, NIfTI volumes, or folders."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    format: Literal["text", "json", "csv"] = "text"
    """text for people, json or csv for programs."""
    precision: Literal["float32", "int8"] | None = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    coverage: float | None = None
    """Share of in-distribution images that is answered, the most certain ones; 0.95 by default, 1 answers all."""
    max_error: float | None = None
    """Instead: largest share of the answers that may be wrong."""
    set_error: float | None = None
    """Show sets of classes that miss the true one on about this share of images: 0.01, 0.02, 0.05 or 0.1."""
    slices: str = "all"
    """Of volumes, the numbers of the slices: all, 12, 10-20, or 1-5,9."""
    plane: Literal["acquired", "axial", "coronal", "sagittal"] = "acquired"
    """Of NIfTI volumes, the direction in which they are cut; acquired is that of the sharpest slices."""
    verbose: bool = False
    """Name the files of folders that are passed over, because they hold no image."""

    def run(self) -> int:
        """Print one answer per slice as they come; what cannot be read goes to the error stream."""
        from braintumor.cli.output import AnswerWriter, csv_writer, json_writer, tell_passed_over, text_writer
        from braintumor.cli.paths import FoundImages
        from braintumor.models.registry import load
        from braintumor.predictor import Predictor

        model = load(self.model, precision=self.precision)
        model = model.deciding(coverage=self.coverage, max_error=self.max_error, set_error=self.set_error)
        writer_for = {"text": text_writer, "json": json_writer, "csv": csv_writer}[self.format]
        choice = SliceSelection.of(self.slices, self.plane)
        images = FoundImages(self.paths)
        writer = AnswerWriter(writer_for(model))
        try:
            with Predictor(model, choice) as predictor:
                for answer in predictor.run(images):
                    writer.add(answer)
            failures = writer.finish()
        finally:
            tell_passed_over(images.passed_over, verbose=self.verbose)
        return FINDINGS if failures else DONE


@dataclass(frozen=True)
class Explain:
    """Show which region spoke for a class: an overlay (PNG) and the raw map (NPY) per slice."""

    paths: Positional[tuple[Path, ...]]
    """Images (PNG, JPEG, TIFF, BMP), DICOM files, NIfTI volumes, or folders."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    out: Path = Path("explanations")
    """Folder for the overlays and maps."""
    show_class: Annotated[
        Literal["glioma", "meningioma", "pituitary", "no_tumor"] | None, tyro.conf.arg(name="class")
    ] = None
    """Class whose map is shown; the predicted one by default."""
    precision: Literal["float32", "int8"] | None = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    slices: str = "all"
    """Of volumes, the numbers of the slices: all, 12, 10-20, or 1-5,9."""
    plane: Literal["acquired", "axial", "coronal", "sagittal"] = "acquired"
    """Of NIfTI volumes, the direction in which they are cut; acquired is that of the sharpest slices."""
    verbose: bool = False
    """Name the files of folders that are passed over, because they hold no image."""

    def run(self) -> int:
        """Write the files and say for each slice what they show."""
        from braintumor.cli.output import AnswerWriter, tell_passed_over
        from braintumor.cli.paths import FoundImages, UniqueNames, output_name, refuse_overwriting
        from braintumor.models.registry import load
        from braintumor.predictor import Predictor

        model = load(self.model, precision=self.precision)
        choice = SliceSelection.of(self.slices, self.plane)
        images = FoundImages(self.paths)
        sources = list(images)
        refuse_overwriting(sources, self.out)
        names = UniqueNames()

        def write(answer: "tuple[Scan, Prediction] | ImageError | None") -> None:
            if answer is None:
                say(f"{model.identity}. {DISCLAIMER}")
            elif not isinstance(answer, ImageError):
                scan, prediction = answer
                shown_class = self.show_class or prediction.predicted
                name = names.take(output_name(prediction))
                say(_explained(scan, prediction, model, shown_class, self.out, name))

        writer = AnswerWriter(write)
        try:
            with Predictor(model, choice) as predictor:
                for answer in predictor.run_with_scans(sources):
                    writer.add(answer)
            failures = writer.finish()
        finally:
            tell_passed_over(images.passed_over, verbose=self.verbose)
        return FINDINGS if failures else DONE


@dataclass(frozen=True)
class Audit:
    """Find copies, patients across splits, label conflicts, odd files and shortcuts in a data folder."""

    data_dir: Positional[Path]
    """Data folder."""
    reference: Path | None = None
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
class Data:
    """Download the public data sets, or look at a data folder."""

    command: Annotated[
        Annotated[DataGet, tyro.conf.subcommand("get")] | Annotated[DataShow, tyro.conf.subcommand("show")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run the command behind `data`."""
        return self.command.run()


@dataclass(frozen=True)
class ModelsList:
    """List the models that can be named: those of the package, and those added on this machine."""

    def run(self) -> int:
        """Print a line for each."""
        from braintumor.models.registry import RegisteredModel, surveyed

        models = surveyed()
        for model in models:
            if isinstance(model, RegisteredModel):
                precisions = ", ".join(model.precisions)
                say(f"{model.name:<16} {model.card.architecture:<8} {precisions:<14} {model.claim()}  {model.folder}")
            else:
                say_aside(f"left out: {model}")
        say(DISCLAIMER)
        return DONE if all(isinstance(model, RegisteredModel) for model in models) else FINDINGS


@dataclass(frozen=True)
class ModelsGet:
    """Download a model, an archive with card.json and ONNX files, and add it; an interrupted download goes on."""

    url: Positional[str]
    """Address of a ZIP archive, http or https."""
    sha256: str
    """Its SHA-256 in hexadecimal, from whoever published it."""
    name: str | None = None
    """What to call it; by default the name in its card."""

    def run(self) -> int:
        """Download, verify, add and say how to use it."""
        from braintumor.cli.output import Bar
        from braintumor.models.registry import get

        with Bar("downloading") as bar:
            found = get(self.url, self.sha256, self.name, bar.show)
        say(*_added_lines(found.name, found.folder))
        return DONE


@dataclass(frozen=True)
class ModelsAdd:
    """Add a model from a file or folder, without a network."""

    source: Positional[Path]
    """Model folder, or ZIP archive with card.json and ONNX files at its top."""
    sha256: str | None = None
    """SHA-256 that the archive must have, in hexadecimal."""
    name: str | None = None
    """What to call it; by default the name in its card."""

    def run(self) -> int:
        """Check, add and say how to use it."""
        from braintumor.models.registry import add

        found = add(self.source, self.name, self.sha256)
        say(*_added_lines(found.name, found.folder))
        return DONE


@dataclass(frozen=True)
class Models:
    """List models, or add further ones."""

    command: Annotated[
        Annotated[ModelsList, tyro.conf.subcommand("list")]
        | Annotated[ModelsGet, tyro.conf.subcommand("get")]
        | Annotated[ModelsAdd, tyro.conf.subcommand("add")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run the command behind `models`."""
        return self.command.run()


@dataclass(frozen=True)
class DicomClassify:
    """Classify the DICOM images of a study; write overlay, class map and structured report of each as DICOM files."""

    paths: Positional[tuple[Path, ...]]
    """DICOM files, or folders searched for them."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    out: Path = Path("dicom-results")
    """Folder for the results, one folder per series in it."""
    precision: Literal["float32", "int8"] | None = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    series: Literal["all", "best"] = "all"
    """all: every series of MR slices of the head; best: the one that suits the models best, see the documentation."""
    slices: str = "all"
    """Instance numbers, or of a file of several frames their numbers: all, 12, 10-20, or 1-5,9."""
    verbose: bool = False
    """Name the files of folders that are passed over, because they hold no image."""

    def run(self) -> int:
        """Say which series are classified and why, write the results, and say for each slice what they say."""
        from braintumor.cli.output import AnswerWriter, tell_passed_over
        from braintumor.cli.paths import FoundImages, UniqueNames, refuse_overwriting, result_folder
        from braintumor.dicom.codes import DECISIONS
        from braintumor.dicom.logging_guard import quiet
        from braintumor.dicom.results.files import Distinct, save_results
        from braintumor.dicom.results.images import result_files
        from braintumor.dicom.study import survey
        from braintumor.io.sandbox import Sandbox
        from braintumor.models.registry import load
        from braintumor.predictor import DECODERS, Predictor

        model = load(self.model, precision=self.precision)
        images = FoundImages(self.paths)
        sources = list(images)
        refuse_overwriting(sources, self.out)
        names: defaultdict[Path, UniqueNames] = defaultdict(UniqueNames)
        distinct = Distinct()

        def answered(answer: "tuple[Scan, Prediction] | ImageError") -> str | ImageError:
            """Write the results about a slice; return what to say of it."""
            if isinstance(answer, ImageError):
                return answer
            scan, prediction = answer
            try:
                results = result_files(scan, prediction, model)
                distinct.check(results, scan.source)
            except ImageError as error:
                return error
            folder, name = result_folder(scan, self.out, names)
            save_results(results, folder, name)
            reasons = f" ({sentence(prediction.reasons)})" if prediction.reasons else ""
            decision = f"{DECISIONS[prediction.decision].meaning}{reasons}"
            return f"{prediction.image}: {decision} -> {folder / name}-*.dcm ({len(results)})"

        def write(line: str | ImageError | None) -> None:
            if not isinstance(line, ImageError):
                say(f"{model.identity}. {DISCLAIMER}" if line is None else line)

        writer = AnswerWriter(write)
        with quiet(), Sandbox(DECODERS) as sandbox:
            study = survey(sources, sandbox, best=self.series == "best")
            say(*study.explanations)
            for problem in study.unreadable:
                say_aside(f"unreadable: {problem}")
            if not study.files:
                tell_passed_over(images.passed_over, verbose=self.verbose)
                raise BrainTumorError("nothing to classify: no DICOM image of a series that is classified; see above")
            predictor = Predictor(model, SliceSelection.of(self.slices), sandbox=sandbox)
            for answer in predictor.run_with_scans(study.files):
                writer.add(answered(answer))
        failures = writer.finish()
        tell_passed_over(images.passed_over, verbose=self.verbose)
        return FINDINGS if study.unreadable or failures else DONE


@dataclass(frozen=True)
class DicomWatch:
    """Answer every new brain MR image of a DICOM archive: fetch it, classify it, store the results beside it."""

    url: Positional[str]
    """Address of Orthanc (http://host:8042), or of another archive's DICOMweb service. User and password come from
    BRAINTUMOR_PACS_USER and BRAINTUMOR_PACS_PASSWORD in the environment."""
    state: Path
    """Folder for the journal: what was answered, so that nothing is answered twice or forgotten."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    precision: Literal["float32", "int8"] | None = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    poll_seconds: float = 1.0
    """Pause between two questions for new images."""
    once: bool = False
    """End when everything that is there is answered, instead of waiting for more."""

    def run(self) -> int:
        """Watch until Ctrl-C or SIGTERM, and say what was done."""
        from braintumor.models.registry import load
        from braintumor.pacs.watch import watch

        model = load(self.model, precision=self.precision)
        say(f"{model.identity}. {DISCLAIMER}")
        tally = watch(self.url, model, self.state, poll_seconds=self.poll_seconds, once=self.once, say=say)
        say(str(tally))
        return FINDINGS if self.once and tally.waiting and not tally.stopped else DONE


@dataclass(frozen=True)
class Dicom:
    """Classify DICOM images and write the results as DICOM, into files or back into an archive."""

    command: Annotated[
        Annotated[DicomClassify, tyro.conf.subcommand("classify")]
        | Annotated[DicomWatch, tyro.conf.subcommand("watch")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run the command behind `dicom`."""
        return self.command.run()


@dataclass(frozen=True)
class Serve:
    """Answer in the browser and to programs: a viewer, and an interface described under /docs."""

    model: tuple[str, ...] = (DEFAULT,)
    """One or more model folders or names from braintumor models list; two are shown side by side."""
    precision: Literal["float32", "int8"] | None = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    host: str = "127.0.0.1"
    """Interface to listen on; for any but this machine's own, BRAINTUMOR_TOKEN must hold a token in the environment."""
    port: int = 8000
    """0 takes any that is free."""
    require_confinement: bool = False
    """Refuse to start where the system cannot take all rights from the processes that decode files."""
    keep_alive_seconds: float = 75.0
    """How long a connection is kept on which nothing is asked; more than a proxy in front keeps its own."""

    def run(self) -> int:
        """Answer until Ctrl-C or SIGTERM."""
        from braintumor.io.sandbox import require_confinement
        from braintumor.models.registry import load
        from braintumor.server.run import serve
        from braintumor.server.settings import Settings

        if self.require_confinement:
            require_confinement()
        models = [load(model, precision=self.precision, threads=1) for model in self.model]
        names = [model.card.name for model in models]
        if len(set(names)) < len(names):
            raise BrainTumorError(f"models of the same name cannot be told apart: {', '.join(names)}; leave one out")

        def ready(address: str) -> None:
            say(", ".join(model.identity for model in models), f"open {address} (Ctrl-C ends)", DISCLAIMER)

        settings = Settings(token=os.environ.get(TOKEN_VARIABLE, ""), keep_alive_seconds=self.keep_alive_seconds)
        serve(models, settings, host=self.host, port=self.port, ready=ready)
        return DONE


Command = Train | Evaluate | Folds | Compare | Predict | Explain | Quantize | Audit | Data | Models | Dicom | Serve


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 for done, 2 for bad input or usage, 3 for done with findings, 130 for interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names in CSV need not be UTF-8, and no character ends a command
        is_utf_8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf_8 else "backslashreplace")
    try:
        command = _parsed(sys.argv[1:] if arguments is None else arguments)
        if isinstance(command, Predict | Explain | Dicom | Serve):
            hide()  # from the processes that decode, where the system confines these badly
        return command.run()
    except BrainTumorError as error:
        say_aside(*f"braintumor: {error}".split("\n"))
        return BAD_INPUT
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        say_aside(f"braintumor: {MissingExtraError(extra, str(error.name))}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say_aside("braintumor: interrupted")
        return INTERRUPTED


def _parsed(arguments: list[str]) -> Command:
    """Return the command that arguments ask for; where they ask for none, say so with the arguments made visible.

    Raises:
        SystemExit: help was asked for, or the arguments are no command.
    """
    parse = functools.partial(
        tyro.cli,
        Command,
        prog="braintumor",
        description=f"Classify brain MRI slices, show why and how sure. {DISCLAIMER}",
        config=(OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    shown = [visible(argument) for argument in arguments]
    try:
        command: Command = parse(args=arguments, console_outputs=arguments == shown)
    except SystemExit:
        if arguments != shown:
            parse(args=shown)
        raise
    return command


def script() -> None:
    """Run the installed command; a closed pipe (`| head`) ends it quietly, and no crash leaves its memory on the disk.

    SIGPIPE stays ignored, as Python has it: it would also end the program when an archive or a browser goes away.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _keep_fonts()
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        status = CLOSED_PIPE
    sys.exit(status)


def _keep_fonts() -> None:
    """Let matplotlib keep its list of fonts in our cache where there is no home folder; it complains otherwise."""
    cache = os.environ.get("BRAINTUMOR_CACHE")
    if cache and user_folder("XDG_CONFIG_HOME", ".config") is None:
        os.environ.setdefault("MPLCONFIGDIR", str(Path(cache).absolute() / "matplotlib"))


def _explained(scan: "Scan", prediction: "Prediction", model: "Model", shown_class: str, out: Path, name: str) -> str:
    """Write the overlay and the raw map of one slice; return the line that says what they show."""
    import numpy as np

    from braintumor.cli.output import decision_text
    from braintumor.files import replacing
    from braintumor.overlay import figure, has_evidence

    class_map = prediction.class_maps[CLASSES.index(shown_class)]
    scale = model.card.class_map_scale
    answer = TITLES[prediction.predicted] if prediction.decision != REFER else "Refer"
    page = figure(
        scan.pixels,
        class_map,
        scale,
        answer=f"{answer}, probability {prediction.probabilities.max():.3f}",
        title=TITLES[shown_class],
        model=prediction.model,
    )
    with replacing(out / f"{name}.png") as aside:
        page.save(aside, "PNG")
    with replacing(out / f"{name}.npy") as aside, aside.open("wb") as file:
        np.save(file, class_map)
    state = "evidence" if has_evidence(class_map, scale) else "no evidence"
    return f"{prediction.image}: {decision_text(prediction)}; {state} for {TITLES[shown_class]} -> {out / name}.png"


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


def _added_lines(name: str, folder: Path) -> tuple[str, ...]:
    return f"{name}: {folder}", f"next: braintumor predict IMAGES --model {name}", DISCLAIMER


def _as_model(folder: Path) -> str:
    """Return a folder as --model takes it, which takes a word without a separator for a name."""
    return str(folder) if is_path(str(folder)) else f".{os.sep}{folder}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted_text(out: Path) -> str:
    """Return what to say after an interruption: how to go on."""
    if (out / "checkpoint" / "state.json").exists():
        return f"interrupted; the last finished epoch is kept in {out}. Go on with the same command and --resume"
    return "interrupted before the first epoch was finished; nothing to resume, start again"
