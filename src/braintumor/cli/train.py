"""Commands that train and measure models."""

import dataclasses
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from braintumor.classes import DISCLAIMER
from braintumor.cli.options import Count, OptionalName, OptionalPath
from braintumor.cli.output import DONE, FINDINGS, INTERRUPTED, say, say_aside
from braintumor.models.registry import is_path

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Train:
    """Train a model on a folder of images and write a model folder.

    In a shell:
        braintumor train --model cnn --data-dir Brain_Tumor_Data
        braintumor train --model resnet --recipe fast --data-dir Brain_Tumor_Data --resume
    """

    data_dir: Path
    """Folder with Training/ and Testing/, or train/, val/ and test/, or one folder per class."""
    model: str
    """cnn, resnet, or the name of a timm network with spatial features."""
    recipe: str = "reference"
    """Named settings: reference, fast (minutes instead of half an hour), or best (for new patients)."""
    epochs: Count = None
    """At most so many; the recipe's number by default. Early stopping may end the run before."""
    out: OptionalPath = None
    """Model folder to write; runs/MODEL-RECIPE by default."""
    seed: Count = None
    """Of initial weights, order, augmentation, dropout and the validation split."""
    batch_size: Count = None
    """Images per step; the recipe's number by default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    weights: OptionalName = None
    """imagenet, none, or a safetensors file; resnet starts from imagenet by default, the others from none."""
    allow_partial_weights: bool = False
    """Start tensors that the weights lack from He-normal values; recorded in the model card."""
    masks: OptionalPath = None
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
    """Measure a model on the test part of a data folder; write report.json, report.html and predictions.csv.

    In a shell:
        braintumor evaluate runs/cnn-reference Brain_Tumor_Data
        braintumor evaluate runs/cnn-reference Brain_Tumor_Data --protocol clean
    """

    model: Positional[Path]
    """Model folder."""
    data_dir: Positional[Path]
    """Data folder with a test part, or the one the model was trained on."""
    out: OptionalPath = None
    """Folder for the report; evaluation/ in the model folder by default, evaluation-clean/, evaluation-int8/."""
    protocol: Literal["official", "clean"] = "official"
    """official: all test images; clean: those that share no slice and no patient with training."""
    precision: Literal["float32", "int8"] = "float32"
    """int8 is faster; braintumor quantize writes it."""
    masks: OptionalPath = None
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
    """Measure a recipe on patients its models have not seen: train and test five patient-disjoint folds.

    In a shell:
        braintumor folds Brain_Tumor_Data --model resnet --recipe best
    """

    data_dir: Positional[Path]
    """Data folder, whose parts are pooled, or a reference folder (images/ and annotations.csv)."""
    model: str
    """cnn, resnet, or the name of a timm network with spatial features."""
    recipe: str = "best"
    """Named settings: best, fast or reference."""
    out: OptionalPath = None
    """Folder of the folds and the pooled report; runs/folds/MODEL-RECIPE by default."""
    jobs: int = 1
    """Folds trained at the same time, each on its share of the cores."""
    epochs: Count = None
    """At most so many; the recipe's number by default."""
    seed: Count = None
    """Of initial weights, order, augmentation, dropout and the validation split; the folds are fixed."""
    weights: OptionalName = None
    """imagenet, none, or a safetensors file; resnet starts from imagenet by default, the others from none."""
    allow_partial_weights: bool = False
    """Start tensors that the weights lack from He-normal values; recorded in the model card."""
    masks: OptionalPath = None
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
    """Write a variant of a model that computes with 8-bit integers, and measure how far it agrees with the model.

    In a shell:
        braintumor quantize runs/resnet-reference Brain_Tumor_Data
    """

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
    """Compare two evaluated models on the same images; write compare.json and compare.html.

    In a shell:
        braintumor compare runs/cnn-reference runs/resnet-reference
    """

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


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted_text(out: Path) -> str:
    """Return what to say after an interruption: how to go on."""
    if (out / "checkpoint" / "state.json").exists():
        return f"interrupted; the last finished epoch is kept in {out}. Go on with the same command and --resume"
    return "interrupted before the first epoch was finished; nothing to resume, start again"


def _as_model(folder: Path) -> str:
    """Return a folder as --model takes it, which takes a word without a separator for a name."""
    return str(folder) if is_path(str(folder)) else f".{os.sep}{folder}"
