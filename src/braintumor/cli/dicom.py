"""Commands that classify DICOM files and watch an archive."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from braintumor.classes import DISCLAIMER
from braintumor.cli.options import Inputs, Precision, SliceNumbers
from braintumor.cli.output import DONE, FINDINGS, say, say_aside
from braintumor.errors import BrainTumorError, ImageError
from braintumor.io.scan import SliceSelection
from braintumor.models.referral import sentence
from braintumor.models.registry import DEFAULT

if TYPE_CHECKING:
    from braintumor.io.scan import Scan
    from braintumor.predictor import Prediction


@dataclass(frozen=True)
class DicomClassify:
    """Classify the DICOM images of a study; write overlay, class map and structured report of each as DICOM files.

    In a shell:
        braintumor dicom classify study/ --out results
    """

    paths: Inputs
    """DICOM files, or folders searched for them."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    out: Path = Path("dicom-results")
    """Folder for the results, one folder per series in it."""
    precision: Precision = None
    """float32 where the model has it, by default; int8 is faster, braintumor quantize writes it."""
    series: Literal["all", "best"] = "all"
    """all: every series of MR slices of the head; best: the one that suits the models best, see the documentation."""
    slices: SliceNumbers = "all"
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
    """Answer every new brain MR image of a DICOM archive: fetch it, classify it, store the results beside it.

    In a shell:
        braintumor dicom watch http://localhost:8042 --state watch-state
    """

    url: Positional[str]
    """Address of Orthanc (http://host:8042), or of another archive's DICOMweb service. User and password come from
    BRAINTUMOR_PACS_USER and BRAINTUMOR_PACS_PASSWORD in the environment."""
    state: Path
    """Folder for the journal: what was answered, so that nothing is answered twice or forgotten."""
    model: str = DEFAULT
    """Model folder, or a name from braintumor models list; the model that comes with the package by default."""
    precision: Precision = None
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
        Annotated[
            DicomClassify,
            tyro.conf.subcommand(
                "classify", description="Classify the DICOM images of a study, and write results as DICOM."
            ),
        ]
        | Annotated[
            DicomWatch, tyro.conf.subcommand("watch", description="Answer every new brain MR image of a DICOM archive.")
        ],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run the command behind `dicom`."""
        return self.command.run()
