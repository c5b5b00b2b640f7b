"""DICOM in and out: malformed files through command line and API, and whether what we write is valid DICOM.

A failure of a malformed file is what `dicom_mutants.fuzz` calls one, or that no results can be written for a slice that
was read of it, which is tried with the first thousand. Results are also written for slices of twelve sources of
different kinds, answered and referred, and checked with `dciodvfy`. The time for writing is the processor time of one
thread, from a prediction to the bytes of its three objects.

Needs: dciodvfy on the PATH, of Debian's dicom3tools.
Takes: long, two minutes where dicom3tools is installed.
Command: python benchmarks/dicom.py
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dicom_mutants import fuzz, mutants
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from record import ROOT, number, record, spread

import braintumor
from braintumor.dicom.read import read_dicom
from braintumor.dicom.results.images import encoded, results
from braintumor.errors import ImageError
from braintumor.io.scan import Scan, SliceSelection
from braintumor.models.policy import REFER
from braintumor.models.session import Model
from braintumor.predictor import Prediction, Predictor

sys.path.insert(0, str(ROOT))  # the files of the tests
from tests.dicom import make

INPUTS = 5_000
WRITTEN = 1_000  # of these
REPEATS = 50
LARGEST = 1 << 22  # pixels
REASONS = ("image quality: empty", "uncertain between Glioma and No tumor")
SPARSE = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "SeriesDate"),
    *("SeriesTime", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "StudyID", "SeriesNumber"),
    *("ReferringPhysicianName", "AccessionNumber", "InstanceNumber", "SliceThickness", "StudyDescription"),
    *("PositionReferenceIndicator", "BodyPartExamined", "Laterality", "SeriesDescription", "ProtocolName"),
)
SOURCES: dict[str, Callable[[], Dataset]] = {
    "explicit little endian": make.mr,
    "implicit little endian": lambda: make.mr(syntax=ImplicitVRLittleEndian),
    "MONOCHROME1": make.SOURCES["MONOCHROME1"],
    "signed": make.SOURCES["signed"],
    "8 bit": make.SOURCES["8 bit"],
    "JPEG 2000": make.SOURCES["JPEG 2000"],
    "RLE": make.SOURCES["RLE"],
    "Enhanced": make.enhanced,
    "oblique": lambda: make.mr(ImageOrientationPatient=[0.8, 0.6, 0.0, 0.0, 0.0, -1.0]),
    "non-ASCII": lambda: make.mr(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jörg=王^小东"),
    "few attributes": lambda: make.mr(**dict.fromkeys(SPARSE)),
    "secondary capture": make.capture,
}


def main() -> None:
    """Produce `dicom.json`."""
    model = braintumor.load(threads=1)
    scans = [scan for source in SOURCES.values() for scan in slices_of(source())]
    answers = [(scan, prediction) for scan in scans for prediction in judged(scan, model)]
    objects = [encoded(each) for scan, prediction in answers for each in results(scan, prediction, model)]
    found = fuzz(INPUTS)
    written, unwritten = write_mutants(model)
    print(*found.failures, *unwritten, sep="\n", file=sys.stderr)
    numbers = {
        "fuzz.inputs": number(found.inputs, "files"),
        "fuzz.failures": number(len(found.failures) + len(unwritten), "failures", n=found.inputs),
        "fuzz.seconds": number(found.seconds, "seconds"),
        "fuzz.written": number(written, "slices"),
        "dciodvfy.sources": number(len(SOURCES), "sources"),
        "dciodvfy.objects": number(len(objects), "objects"),
        "dciodvfy.errors": number(sum(map(errors, objects)), "errors", n=len(objects)),
        "write.milliseconds": spread([milliseconds(*answers[0], model) for _ in range(REPEATS)], "ms"),
    }
    record("dicom", "python benchmarks/dicom.py", numbers)


def write_mutants(model: Model) -> tuple[int, list[str]]:
    """Write results for all slices that are read of the first malformed files; return how many, and what failed."""
    sources = ((content, f"m{index}") for index, content in enumerate(mutants(WRITTEN)))
    written, failures = 0, []
    with Predictor(model) as predictor:
        for answer in predictor.run_with_scans(sources):
            if isinstance(answer, ImageError) or answer[0].origin is None:
                continue
            written += 1
            try:
                for result in results(*answer, model):
                    encoded(result)
            except Exception as error:  # whatever it is, it is what is looked for
                failures.append(f"results of {answer[1].image}: {type(error).__name__}")
    return written, failures


def slices_of(source: Dataset) -> list[Scan]:
    """Return the slices of a file as they are read."""
    return list(read_dicom(make.encoded(source), "slice", LARGEST, SliceSelection()))


def judged(scan: Scan, model: Model) -> list[Prediction]:
    """Return the model's answer for a slice, and what it would look like referred."""
    (answer,) = braintumor.predict(scan, model)
    return [answer, dataclasses.replace(answer, decision=REFER, reasons=REASONS)]


def errors(content: bytes) -> int:
    """Return how many errors dciodvfy finds in an object."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.dcm"
        file.write_bytes(content)
        found = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False).stderr
    return sum(line.startswith("Error") for line in found.splitlines())


def milliseconds(scan: Scan, prediction: Prediction, model: Model) -> float:
    """Return the processor time for writing the results of one slice."""
    began = time.process_time()
    for result in results(scan, prediction, model):
        encoded(result)
    return 1000 * (time.process_time() - began)


if __name__ == "__main__":
    main()
