"""Commands that classify slices and explain predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.cli.options import Inputs, Precision, Share, SliceNumbers
from braintumor.cli.output import DONE, FINDINGS, say
from braintumor.errors import ImageError
from braintumor.io.scan import SliceSelection
from braintumor.models.policy import REFER
from braintumor.models.registry import DEFAULT

if TYPE_CHECKING:
    from braintumor.io.scan import Scan
    from braintumor.models.session import Model
    from braintumor.predictor import Prediction


@dataclass(frozen=True)
class Predict:
    """Classify slices: images and volumes, or folders searched for them.

    In a shell:
        braintumor predict scan.png
        braintumor predict study/ --format csv > predictions.csv
        braintumor predict brain.nii.gz --plane axial --slices 60-90
    """

    paths: Inputs
    """Images (PNG, JPEG, TIFF, BMP), DICOM files, NIfTI volumes, or folders."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    format: Literal["text", "json", "csv"] = "text"
    """text for people, json or csv for programs."""
    precision: Precision = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    coverage: Share = None
    """Share of in-distribution images that is answered, the most certain ones; 0.95 by default, 1 answers all."""
    max_error: Share = None
    """Instead: largest share of the answers that may be wrong."""
    set_error: Share = None
    """Show sets of classes that miss the true one on about this share of images: 0.01, 0.02, 0.05 or 0.1."""
    slices: SliceNumbers = "all"
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
    """Highlight the image regions that support a class: an overlay (PNG) and the raw map (NPY) per slice.

    In a shell:
        braintumor explain scan.png
        braintumor explain study/ --class glioma --out explanations
    """

    paths: Inputs
    """Images (PNG, JPEG, TIFF, BMP), DICOM files, NIfTI volumes, or folders."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    out: Path = Path("explanations")
    """Folder for the overlays and maps."""
    show_class: Annotated[
        Literal["glioma", "meningioma", "pituitary", "no_tumor"] | None,
        tyro.conf.arg(name="class", metavar="CLASS", help_behavior_hint=""),
    ] = None
    """Class whose map is shown (glioma, meningioma, pituitary or no_tumor); the predicted one by default."""
    precision: Precision = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    slices: SliceNumbers = "all"
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
