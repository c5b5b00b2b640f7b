import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import UID

import braintumor
from braintumor import overlay
from braintumor.classes import CLASSES
from braintumor.dicom import codes, source_attributes
from braintumor.dicom.read import read_dicom
from braintumor.dicom.results import base
from braintumor.dicom.results.images import encoded, results
from braintumor.io.scan import ALL_SLICES, Scan, SliceSelection
from braintumor.models.session import Model
from braintumor.predictor import Prediction
from tests.dicom import make
from tests.referrals import EMPTY, NOT_BRAIN_MRI, OUT_OF_DISTRIBUTION, uncertain

SIDE = make.SIZE
OBLIQUE = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
# fmt: off
SPARSE: dict[str, Any] = dict.fromkeys((
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "SeriesDate",
    "SeriesTime", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "StudyID", "SeriesNumber",
    "ReferringPhysicianName", "AccessionNumber", "InstanceNumber", "SliceThickness", "StudyDescription",
    "PositionReferenceIndicator", "BodyPartExamined", "Laterality", "SeriesDescription",
))
# fmt: on
NAME = "Müller^Jörg=王^小东"
KINDS: dict[str, Callable[[], Dataset]] = {
    **make.SOURCES,
    "oblique": lambda: make.mr(ImageOrientationPatient=OBLIQUE, series="oblique"),
    "non-ASCII": lambda: make.mr(SpecificCharacterSet="ISO_IR 192", PatientName=NAME, series="non-ASCII"),
    "sparse": lambda: make.mr(series="sparse", **SPARSE),
    "CT": make.ct,
}


def taken(source: Dataset, frame: int = 1, notes: tuple[str, ...] = ()) -> Scan:
    """Return the slice of a source as a reader gives it; its grey values do not matter here."""
    read = pydicom.dcmread(io.BytesIO(make.encoded(source)))
    origin = json.loads(json.dumps(source_attributes.extract_attributes(read, frame)))
    return Scan(make.shown(size=source.Rows), source="slice", notes=notes, origin=origin)


def back(result: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(encoded(result)))


def by_kind(datasets: list[Dataset]) -> tuple[Dataset, Dataset, Dataset]:
    """Return overlay, class map and report as they are in their files."""
    overlaid, class_map, report = map(back, datasets)
    return overlaid, class_map, report


def walk(dataset: Dataset) -> Iterator[Any]:
    """Yield all elements, those in sequences too."""
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from walk(item)


@pytest.mark.parametrize("name", KINDS)
def test_results_are_of_the_same_patient_and_study_in_series_of_their_own(
    name: str, model: Model, prediction: Prediction
) -> None:
    source = KINDS[name]()
    read_results = [back(result) for result in results(taken(source), prediction, model)]
    assert len(read_results) == (2 if name == "RGB capture" else 3)  # it does not say where it lies
    for result in read_results:
        for keyword in (*source_attributes.EMPTY_IF_UNKNOWN, "StudyInstanceUID"):
            assert str(result[keyword].value or "") == str(source.get(keyword) or ""), keyword
        assert result.Manufacturer == "braintumor"
        assert result.SeriesDescription.endswith("research use only")
    series = {result.SeriesInstanceUID for result in read_results}
    assert (
        len(series)
        == len({result.SOPInstanceUID for result in read_results})
        == len({result.SeriesNumber for result in read_results})
    )
    assert source.SeriesInstanceUID not in series
    assert all(result.SOPInstanceUID.is_valid and result.SeriesInstanceUID.is_valid for result in read_results)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "CT"])  # which is not classified
def test_every_slice_that_is_read_can_be_answered(name: str, model: Model) -> None:
    source = KINDS[name]()
    scans = list(read_dicom(make.encoded(source), "slice", 1 << 20, SliceSelection()))
    assert len(scans) == int(source.get("NumberOfFrames", 1))
    for frame, (scan, prediction) in enumerate(zip(scans, braintumor.predict(scans, model), strict=True), start=1):
        for result in results(scan, prediction, model):
            assert result.PatientName == source.get("PatientName", "")
            if len(scans) > 1:
                assert result.InstanceNumber == frame


def test_what_the_three_are(model: Model, prediction: Prediction) -> None:
    read_results = by_kind(results(taken(make.mr(SeriesNumber=4, number=7)), prediction, model))
    assert [result.SOPClassUID.name for result in read_results] == [
        "Secondary Capture Image Storage",
        "Parametric Map Storage",
        "Comprehensive 3D SR Storage",
    ]
    assert [result.Modality for result in read_results] == ["OT", "OT", "SR"]
    assert [result.SeriesNumber for result in read_results] == [491, 492, 493]
    assert [result.InstanceNumber for result in read_results] == [7, 7, 7]
    for result in read_results:
        assert result.ManufacturerModelName == model.card.name
        assert list(result.SoftwareVersions) == [braintumor.__version__, model.identity]
        contribution = result.ContributingEquipmentSequence[0]
        assert contribution.DeviceUID == result.DeviceUID
        assert contribution.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Processing Equipment"


def test_the_overlay_is_the_figure_in_colour(model: Model, prediction: Prediction) -> None:
    scan = taken(make.mr())
    overlaid = by_kind(results(scan, prediction, model))[0]
    assert (overlaid.PhotometricInterpretation, overlaid.BurnedInAnnotation, overlaid.ConversionType) == (
        "RGB",
        "YES",
        "WSD",
    )
    expected = np.asarray(
        overlay.figure(
            scan.pixels,
            prediction.class_maps[0],
            model.card.class_map_scale,
            answer="Glioma class predicted on this slice",
            title="Glioma",
            model=model.identity,
        )
    )
    differing = np.argwhere((overlaid.pixel_array != expected).any(axis=2))
    assert len(differing) > 0  # the probability, in the free space under the slice
    top, left = differing.min(axis=0)
    bottom, right = differing.max(axis=0)
    assert top > overlay.TOP + overlay.SIDE
    assert bottom < overlay.TOP + overlay.SIDE + 56
    assert left >= overlay.MARGIN
    assert right < overlay.MARGIN + overlay.SIDE


def test_long_reasons_stay_under_the_slice(model: Model, prediction: Prediction) -> None:
    many = dataclasses.replace(prediction, decision="refer", reasons=(uncertain("glioma", "no_tumor"),) * 20)
    without = dataclasses.replace(prediction, decision="refer", reasons=(NOT_BRAIN_MRI,))
    long, short = (by_kind(results(taken(make.mr()), referred, model))[0].pixel_array for referred in (many, without))
    rows = np.argwhere((long != short).any(axis=(1, 2)))
    columns = np.argwhere((long != short).any(axis=(0, 2)))
    assert rows.min() > overlay.TOP + overlay.SIDE
    assert rows.max() < overlay.TOP + overlay.SIDE + 56
    assert columns.max() < overlay.MARGIN + overlay.SIDE


@pytest.mark.parametrize(
    ("directions", "letters"),
    [
        ([1, 0, 0, 0, 1, 0], ["L", "P"]),
        ([0, 1, 0, 0, 0, -1], ["P", "F"]),
        ([-1, 0, 0, 0, 0, -1], ["R", "F"]),
        (OBLIQUE, ["LP", "F"]),
    ],
)
def test_the_overlay_says_where_left_is(
    directions: list[float], letters: list[str], model: Model, prediction: Prediction
) -> None:
    scan = taken(make.mr(ImageOrientationPatient=directions))
    assert list(by_kind(results(scan, prediction, model))[0].PatientOrientation) == letters


def map_values(class_map: Dataset) -> NDArray[np.float64]:
    """Return the map's real values as highdicom, another reader, gives them."""
    image = highdicom.imread(io.BytesIO(encoded(class_map)))
    values: NDArray[np.float64] = image.get_frame(1, apply_real_world_transform=True, dtype=np.float64)
    return values


def test_the_class_map_comes_back_from_its_integers(model: Model, prediction: Prediction) -> None:
    class_map = results(taken(make.mr()), prediction, model)[1]
    strength = prediction.class_maps[0] / np.float32(model.card.class_map_scale)
    expected = np.asarray(Image.fromarray(strength).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert np.abs(map_values(class_map) - expected).max() < 1e-5


def test_the_class_map_has_a_fixed_scale_and_ends_there(model: Model, prediction: Prediction) -> None:
    scale = np.float32(model.card.class_map_scale)
    for share, expected in ((0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (3.0, 1.0)):
        maps = np.full((4, 14, 14), share * scale, np.float32)
        class_map = results(taken(make.mr()), dataclasses.replace(prediction, class_maps=maps), model)[1]
        assert np.abs(map_values(class_map) - expected).max() < 1e-5


def test_the_map_of_the_predicted_class_is_written_also_when_referred(model: Model, prediction: Prediction) -> None:
    maps = np.zeros((4, 14, 14), np.float32)
    maps[CLASSES.index("no_tumor")] = model.card.class_map_scale
    referred = dataclasses.replace(
        prediction, predicted="no_tumor", decision="refer", reasons=(EMPTY,), class_maps=maps
    )
    class_map = by_kind(results(taken(make.mr()), referred, model))[1]
    assert class_map.ContentDescription == "Class map of No tumor class, research use only"
    assert map_values(class_map).min() == pytest.approx(1)


@pytest.mark.parametrize("name", ["plain", "oblique", "Enhanced"])
def test_the_class_map_lies_where_the_image_lies(name: str, model: Model, prediction: Prediction) -> None:
    source = KINDS[name]()
    frame = 2 if name == "Enhanced" else 1
    class_map = results(taken(source, frame), prediction, model)[1]
    ours = highdicom.imread(io.BytesIO(encoded(class_map))).get_volume_geometry()
    if name == "Enhanced":
        theirs = highdicom.imread(io.BytesIO(make.encoded(source))).get_volume_geometry()
        assert np.allclose(ours.affine[:, 3], [-40, -40, 5, 1])  # the second of four frames
    else:
        theirs = highdicom.image.get_volume_from_series([source]).get_geometry()
        assert np.allclose(ours.affine[:3, 3], theirs.affine[:3, 3])
    assert np.allclose(np.abs(ours.affine[:3, 1:3]), np.abs(theirs.affine[:3, 1:3]))
    assert class_map.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert (class_map.Rows, class_map.Columns, class_map.NumberOfFrames) == (source.Rows, source.Columns, 1)


def test_pictures_refer_to_the_image_or_its_frame(model: Model, prediction: Prediction) -> None:
    for source, frame in ((make.mr(), 1), (make.enhanced(), 3)):
        overlaid, class_map, _ = by_kind(results(taken(source, frame), prediction, model))
        derivation = class_map.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
        for reference in (
            overlaid.SourceImageSequence[0],
            overlaid.ReferencedImageSequence[0],
            class_map.SourceImageSequence[0],
            derivation.SourceImageSequence[0],
        ):
            assert reference.ReferencedSOPClassUID == source.SOPClassUID
            assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
            assert reference.get("ReferencedFrameNumber") == (3 if frame == 3 else None)
        assert class_map.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def test_the_map_is_marked_as_research(model: Model, prediction: Prediction) -> None:
    class_map = by_kind(results(taken(make.mr()), prediction, model))[1]
    assert class_map.ContentQualification == "RESEARCH"
    mapping = class_map.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130403"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1 / 65535, 0)


def test_loss_by_compression_stays_known(model: Model, prediction: Prediction) -> None:
    source = make.SOURCES["JPEG"]()
    source.LossyImageCompressionRatio = 12.5
    overlaid, class_map, _ = by_kind(results(taken(source), prediction, model))
    for picture in (overlaid, class_map):
        assert (picture.LossyImageCompression, picture.LossyImageCompressionRatio) == ("01", 12.5)
        assert picture.LossyImageCompressionMethod == "ISO_10918_1"
    assert by_kind(results(taken(make.mr()), prediction, model))[0].LossyImageCompression == "00"


def test_the_same_image_and_model_give_the_same_bytes_at_any_time(
    model: Model, prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [encoded(result) for result in results(taken(make.mr()), prediction, model)]
    monkeypatch.setattr("time.time", lambda: 4e9)
    base.fingerprint.cache_clear()
    again = braintumor.load(threads=1)
    assert [encoded(result) for result in results(taken(make.mr()), prediction, again)] == first


def test_another_image_frame_model_or_operating_point_has_other_uids(
    model: Model, prediction: Prediction, tmp_path: Path
) -> None:
    shutil.copytree(model.folder, tmp_path / "model")
    card = (tmp_path / "model/card.json").read_text()
    (tmp_path / "model/card.json").write_text(re.sub(r'"temperature": [\d.]+', '"temperature": 3.5', card))
    retrained = braintumor.load(tmp_path / "model", threads=1)
    cases = [
        (make.mr(), 1, model),
        (make.mr(number=2), 1, model),
        (make.enhanced(), 1, model),
        (make.enhanced(), 2, model),
        (make.mr(study="copy", SOPInstanceUID=make.mr().SOPInstanceUID), 1, model),
        (make.mr(), 1, retrained),
        (make.mr(), 1, model.deciding(coverage=1.0)),
    ]
    all_results = [results(taken(source, frame), prediction, used) for source, frame, used in cases]
    assert len({result.SOPInstanceUID for case_results in all_results for result in case_results}) == 3 * len(cases)
    series = [tuple(result.SeriesInstanceUID for result in case_results) for case_results in all_results]
    assert series[0] == series[1]  # two slices of a series
    assert series[2] == series[3]  # two frames
    assert len(set(series)) == 5


def test_results_carry_the_images_date_or_an_impossible_one(model: Model, prediction: Prediction) -> None:
    dated = by_kind(results(taken(make.mr(ContentDate=None, AcquisitionTime="131415.5")), prediction, model))
    assert {(result.ContentDate, result.ContentTime) for result in dated} == {("20260102", "131415.5")}
    undated = by_kind(results(taken(make.mr(**SPARSE)), prediction, model))
    assert {(result.ContentDate, result.ContentTime) for result in undated} == {("19000101", "000000")}


def test_series_numbers_stay_possible() -> None:
    assert base.series_number(None, base.OVERLAY) == 91
    assert base.series_number(-5, base.OVERLAY) == 9991
    assert base.series_number(2**31 - 1, base.REPORT) == 9993


def test_nothing_else_of_the_file_gets_into_results(model: Model, prediction: Prediction) -> None:
    source = make.mr(PatientAddress="PLANTED", OperatorsName="PLANTED", InstitutionName="PLANTED")
    source.OtherPatientIDs, source.ImageComments, source.PatientComments = "PLANTED", "PLANTED", "PLANTED"
    source.private_block(0x11, "PLANTED", create=True).add_new(1, "LO", "PLANTED")
    for result in results(taken(source), prediction, model):
        assert b"PLANTED" not in encoded(result)
        named = [element.keyword for element in walk(back(result)) if make.PATIENT in str(element.value)]
        assert [keyword for keyword in named if not keyword.endswith("Sequence")] == ["AccessionNumber", "PatientID"]


def test_names_in_any_script_survive(model: Model, prediction: Prediction) -> None:
    for result in by_kind(results(taken(KINDS["non-ASCII"]()), prediction, model)):
        assert result.PatientName == NAME
        assert result.SpecificCharacterSet == "ISO_IR 192"


def test_a_slice_that_is_not_from_dicom_has_no_results(model: Model, prediction: Prediction) -> None:
    with pytest.raises(ValueError, match="read from DICOM"):
        results(Scan(make.shown()), prediction, model)


def test_a_slice_of_another_size_than_its_image_has_no_class_map(model: Model, prediction: Prediction) -> None:
    scan = dataclasses.replace(taken(make.mr()), pixels=make.shown(size=SIDE // 2))
    assert [result.Modality for result in results(scan, prediction, model)] == ["OT", "SR"]


def test_a_model_with_an_odd_name_is_named_as_dicom_allows(model: Model, prediction: Prediction) -> None:
    odd = Model(model.folder, dataclasses.replace(model.card, name="a\\b\n" + "x" * 90), model._session, "int8")
    for result in by_kind(results(taken(make.mr()), prediction, odd)):
        assert result.ManufacturerModelName == "a/b" + "x" * 61


FLAT = ("parametric-map-multi-frame-functional-groups", "sr-document-content")


def test_the_conformance_page_tells_our_uid_and_own_codes(model: Model, prediction: Prediction) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/dicom-conformance.md").read_text("utf-8")
    for result in results(taken(make.mr()), prediction, model):
        assert f"`{back(result).file_meta.ImplementationClassUID}`" in page
        assert result.SOPClassUID in page
    for own in (*codes.CLASSES_OF.values(), *codes.DECISIONS.values(), codes.REASON, codes.OOD_SCORE, codes.CLASS):
        assert f"`{own.value}`" in page


def missing(result: Dataset) -> list[str]:
    """Return the attributes that the modules of the object must have and it has not, by highdicom's tables.

    Source: PS3.3 annex A and C as in highdicom: all of type 1 with a value, all of type 2, in modules that are
    mandatory, wherever the sequence that holds them is there. Of the modules in `FLAT` the tables do not say which of
    their parts depend on others; highdicom's readers and dciodvfy look at those.
    """
    iod = get_sop_class_iod_map()[result.SOPClassUID]
    attributes = get_module_attribute_map()
    problems = []
    modules = [
        module["key"] for module in get_iod_module_map()[iod] if module["usage"] == "M" and module["key"] not in FLAT
    ]
    for module in modules:
        for attribute in attributes[module]:
            holders = [result]
            for step in attribute["path"]:
                holders = [item for holder in holders for item in holder.get(step, [])]
            keyword = attribute["keyword"]
            for holder in holders:
                if attribute["type"] == "1" and (keyword not in holder or holder[keyword].is_empty):
                    problems.append(f"{module}: {keyword}")
                if attribute["type"] == "2" and keyword not in holder:
                    problems.append(f"{module}: {keyword}")
    return problems


@pytest.mark.parametrize("name", KINDS)
def test_no_mandatory_attribute_is_missing(name: str, model: Model, prediction: Prediction) -> None:
    for result in results(taken(KINDS[name]()), prediction, model):
        assert missing(back(result)) == []


def test_the_check_for_mandatory_attributes_finds_one(model: Model, prediction: Prediction) -> None:
    overlaid, class_map, report = by_kind(results(taken(make.mr()), prediction, model))
    del overlaid.PatientID
    class_map.DimensionIndexSequence[0].DimensionIndexPointer = None
    report.CompletionFlag = ""
    assert missing(overlaid) == ["patient: PatientID"]
    assert missing(class_map) == ["multi-frame-dimension: DimensionIndexPointer"]
    assert missing(report) == ["sr-document-general: CompletionFlag"]


def test_every_value_fits_its_representation(model: Model, prediction: Prediction) -> None:
    for name in ("plain", "sparse", "Enhanced", "non-ASCII"):
        for result in results(taken(KINDS[name]()), prediction, model):
            with pydicom.config.strict_reading():
                for element in walk(back(result)):
                    assert not isinstance(element.value, UID) or element.value.is_valid


def tool(name: str) -> str:
    """Return a program of Debian's dcmtk or dicom3tools, or skip."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; it comes with Debian's dcmtk and dicom3tools")
    return path


@pytest.mark.pacs
@pytest.mark.parametrize("name", KINDS)
def test_dciodvfy_finds_no_error(name: str, model: Model, prediction: Prediction, tmp_path: Path) -> None:
    program = tool("dciodvfy")
    for decision, reasons in (("glioma", ()), ("refer", (EMPTY, OUT_OF_DISTRIBUTION))):
        answered = dataclasses.replace(prediction, decision=decision, reasons=reasons, prediction_set=("glioma",))
        for result in results(taken(KINDS[name](), notes=("something was assumed",)), answered, model):
            (tmp_path / "result.dcm").write_bytes(encoded(result))
            done = subprocess.run([program, tmp_path / "result.dcm"], capture_output=True, text=True, check=False)
            said_of_it = [line for line in done.stderr.splitlines() if not line.startswith("Warning")]
            assert said_of_it in (["SCImage"], ["ParametricMap"], ["Comprehensive3DSR"])  # the object it saw, no error


@pytest.mark.pacs
def test_dcmtk_reads_the_objects(model: Model, prediction: Prediction, tmp_path: Path) -> None:
    for result in results(taken(KINDS["non-ASCII"]()), prediction, model):
        (tmp_path / "result.dcm").write_bytes(encoded(result))
        done = subprocess.run([tool("dcmdump"), tmp_path / "result.dcm"], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert NAME.encode() in done.stdout


def test_the_class_map_of_a_slice_made_square_fits_its_image(model: Model, prediction: Prediction) -> None:
    source = make.mr(PixelSpacing=[0.5, 1.0])
    (scan,) = read_dicom(make.encoded(source), "slice", 1_000_000, ALL_SLICES)
    assert scan.pixels.shape == (make.SIZE, 2 * make.SIZE)
    _, class_map, _ = results(scan, prediction, model)
    assert (class_map.Rows, class_map.Columns) == (source.Rows, source.Columns)
    assert list(class_map.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing) == [0.5, 1.0]
    # the network saw the slice in the middle of a square of twice its rows: the map's middle half lies on the image
    name = CLASSES.index(prediction.predicted)
    seen = overlay.scaled_map(prediction.class_maps[name], model.card.class_map_scale)
    height, width = seen.shape
    on_slice = Image.fromarray(seen).resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
    expected = np.asarray(on_slice)[height // 2 : height // 2 + height].mean()
    assert class_map.pixel_array.mean() / 65535 == pytest.approx(expected, abs=0.02)
