import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from braintumor.dicom import source_attributes
from braintumor.errors import ImageError
from tests.dicom import make


def read_back(dataset: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(make.encoded(dataset)))


def raw(keyword: str, content: bytes, vr: str | None = None) -> RawDataElement:
    return RawDataElement(
        tag=Tag(tag_for_keyword(keyword)),
        VR=vr or dictionary_VR(keyword),
        length=len(content),
        value=content,
        value_tell=0,
        is_implicit_VR=False,
        is_little_endian=True,
    )


def with_raw(keyword: str, content: bytes, vr: str | None = None) -> Dataset:
    dataset = read_back(make.mr())
    dataset[tag_for_keyword(keyword)] = raw(keyword, content, vr)
    return dataset


def kept(dataset: Dataset, frame: int = 1) -> Dataset:
    """Return what results can repeat, after the way through JSON that it takes between processes."""
    return source_attributes.restore_attributes(
        json.loads(json.dumps(source_attributes.extract_attributes(dataset, frame)))
    )


def test_patient_study_series_and_place_are_kept_as_they_are() -> None:
    source = read_back(make.mr(number=7))
    restored = kept(source)
    for keyword in (
        *source_attributes.NEEDED,
        *source_attributes.EMPTY_IF_UNKNOWN,
        *source_attributes.GEOMETRY,
        "FrameOfReferenceUID",
        "Rows",
    ):
        if keyword in source:
            assert restored[keyword] == source[keyword], keyword
    assert (restored.InstanceNumber, restored.NumberOfFrames, restored.ReferencedFrameNumber) == (7, 1, 1)


def test_nothing_but_the_list_is_kept() -> None:
    dataset = make.mr(PatientAddress="PLANTED", OperatorsName="PLANTED", InstitutionName="PLANTED")
    dataset.OtherPatientIDs, dataset.ImageComments = "PLANTED", "PLANTED"
    block = dataset.private_block(0x11, "PLANTED", create=True)
    block.add_new(1, "LO", "PLANTED")
    dataset.RequestAttributesSequence = [make.item(RequestedProcedureDescription="PLANTED")]
    taken = source_attributes.extract_attributes(read_back(dataset), 1)
    allowed = {
        *source_attributes.NEEDED,
        *source_attributes.EMPTY_IF_UNKNOWN,
        *source_attributes.OPTIONAL,
        *source_attributes.GEOMETRY,
        "ReferencedFrameNumber",
    }
    assert {keyword_for_tag(int(tag, 16)) for tag in taken} <= allowed
    assert "PLANTED" not in json.dumps(taken)


def test_a_frame_has_its_own_place() -> None:
    restored = kept(read_back(make.enhanced()), 3)
    assert list(restored.ImagePositionPatient) == [-40, -40, 10]
    assert (list(restored.PixelSpacing), restored.SliceThickness) == (list(make.SPACING), 5)
    assert list(restored.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert (restored.NumberOfFrames, restored.ReferencedFrameNumber) == (4, 3)


@pytest.mark.parametrize(
    ("charset", "content", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        ("ISO_IR 192", "Müller^Jörg=王^小东".encode(), "Müller^Jörg=王^小东"),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),
        (
            ["", "ISO 2022 IR 87"],  # PS3.5 H.3.1
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_survive_in_any_character_set(charset: Any, content: bytes, name: str) -> None:
    plain = make.mr(SpecificCharacterSet=charset, PatientName="X" * len(content))
    file = make.encoded(plain).replace(b"X" * len(content), content)
    assert kept(pydicom.dcmread(io.BytesIO(file))).PatientName == name


@pytest.mark.parametrize("empty", ["PatientName", "PatientBirthDate", "StudyTime", "AccessionNumber"])
def test_what_results_must_have_is_empty_where_the_file_has_nonsense(empty: str) -> None:
    for content in (b"\x07\x00\xff\xfe", b"x" * 5000, b"2026\\2027", b""):
        restored = kept(with_raw(empty, content))
        assert empty in restored
        assert not restored[empty].value


def test_a_patient_id_is_repeated_as_it_is_or_there_are_no_results() -> None:
    for content in (b"\x07\x00\xff\xfe", b"x" * 5000, b"2026\\2027"):
        with pytest.raises(ImageError, match="PatientID is missing or invalid"):
            kept(with_raw("PatientID", content))
    file = make.encoded(make.mr(SpecificCharacterSet="ISO_IR 192", PatientID="XXXXXX"))
    undecodable = file.replace(b"XXXXXX", "Müller".encode("latin-1"))
    with pytest.raises(ImageError, match="PatientID"):
        kept(pydicom.dcmread(io.BytesIO(undecodable)))
    for content in (b"", b"  "):
        assert not kept(with_raw("PatientID", content)).PatientID


@pytest.mark.parametrize(
    ("keyword", "content"),
    [
        ("SeriesNumber", b"1e5"),
        ("SeriesNumber", b"99999999999"),
        ("SeriesDescription", b"x" * 65),
        ("ContentDate", b"20260230"),
        ("ContentTime", b"250000"),
        ("ContentTime", b"126100"),
        ("LossyImageCompression", b"lossy!"),
        ("FrameOfReferenceUID", b"1.02.3"),
        ("FrameOfReferenceUID", b"1." + b"2" * 63),
        ("Rows", b"\x00\x01\x00"),
        ("LossyImageCompression", b"02"),
        ("PatientOrientation", b"L\\P\\H"),
        ("PatientOrientation", b"L"),
        ("PatientOrientation", b"L\\X"),
    ],
)
def test_an_invalid_optional_value_is_left_out(keyword: str, content: bytes) -> None:
    assert keyword not in kept(with_raw(keyword, content))


@pytest.mark.parametrize(("sex", "taken"), [(b"F ", "F"), (b"O ", "O"), (b"W ", ""), (b"FEMALE", "")])
def test_only_sexes_that_dicom_knows_are_kept(sex: bytes, taken: str) -> None:
    assert (kept(with_raw("PatientSex", sex)).PatientSex or "") == taken


def test_the_representation_is_the_standards_not_the_files() -> None:
    assert kept(with_raw("PatientID", b"MRN1 ", "UN")).PatientID == "MRN1"
    assert "SeriesNumber" not in kept(with_raw("SeriesNumber", b"\x01\x00", "US"))
    old = kept(with_raw("StudyDate", b"1997.01.02"))
    assert old.StudyDate == "19970102"


@pytest.mark.parametrize("keyword", source_attributes.NEEDED)
@pytest.mark.parametrize("content", [b"", b"SECRET^NAME", b"1.2.\xff", b"12345", b"1." * 40])
def test_an_image_that_cannot_be_referred_to_is_refused_without_its_values(keyword: str, content: bytes) -> None:
    with pytest.raises(ImageError, match=f"^scan.dcm: {keyword} is missing or invalid") as caught:
        source_attributes.extract_attributes(with_raw(keyword, content), 1, "scan.dcm")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("keyword", "content"),
    [
        ("ImagePositionPatient", b"0\\0"),
        ("ImagePositionPatient", b"0\\0\\nan"),
        ("ImagePositionPatient", b"0\\0\\1e9"),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\0\\0"),
        ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0"),
        ("ImageOrientationPatient", b"2\\0\\0\\0\\2\\0"),
        ("PixelSpacing", b"0\\1"),
        ("PixelSpacing", b"-1\\1"),
    ],
)
def test_a_place_is_kept_whole_or_not_at_all(keyword: str, content: bytes) -> None:
    restored = kept(with_raw(keyword, content))
    assert not any(name in restored for name in source_attributes.GEOMETRY)


def test_a_thickness_of_nonsense_does_not_cost_the_place() -> None:
    restored = kept(with_raw("SliceThickness", b"thick"))
    assert "SliceThickness" not in restored
    assert "ImagePositionPatient" in restored


def test_numbers_come_back_as_they_were_written() -> None:
    content = b"-123.45678901234\\0.1\\-1.23456789E-5"
    restored = kept(with_raw("ImagePositionPatient", content))
    assert [float(value) for value in restored.ImagePositionPatient] == [-123.45678901234, 0.1, -1.23456789e-5]


def test_a_number_that_needs_17_characters_is_rounded_to_16() -> None:
    restored = kept(with_raw("SliceThickness", b"1.2345678901234E-5"))
    assert restored.SliceThickness == pytest.approx(1.2345678901234e-5, rel=1e-9)
    assert len(str(restored.SliceThickness)) <= 16


@pytest.mark.parametrize("name", make.SOURCES)
def test_every_kind_of_source_can_be_referred_to(name: str) -> None:
    source = read_back(make.SOURCES[name]())
    assert kept(source).SOPInstanceUID == source.SOPInstanceUID


@pytest.mark.slow
@settings(deadline=None)
@given(
    keyword=st.sampled_from(
        [
            *source_attributes.NEEDED,
            *source_attributes.EMPTY_IF_UNKNOWN,
            *source_attributes.OPTIONAL,
            *source_attributes.GEOMETRY,
        ]
    ),
    content=st.binary(max_size=80) | st.text("0123456789.-+eE\\^= ", max_size=80).map(str.encode),
    vr=st.sampled_from(["", "UN", "OB", "US"]),
)
def test_no_value_whatever_breaks_it(keyword: str, content: bytes, vr: str) -> None:
    try:
        restored = kept(with_raw(keyword, content, vr or None))
    except ImageError:
        assert keyword in (*source_attributes.NEEDED, "PatientID")
    else:
        json.dumps(restored.to_json_dict())
        pydicom.dcmwrite(io.BytesIO(), restored, implicit_vr=False, little_endian=True)


@pytest.mark.parametrize(
    "oddity",
    [
        lambda dataset: setattr(dataset, "PerFrameFunctionalGroupsSequence", []),
        lambda dataset: setattr(dataset, "SharedFunctionalGroupsSequence", [Dataset()]),
        lambda dataset: setattr(dataset, "NumberOfFrames", -3),
        lambda dataset: dataset.add_new("PatientName", "SQ", [Dataset()]),
    ],
)
def test_odd_structure_is_as_if_it_were_not_there(oddity: Callable[[Dataset], None]) -> None:
    dataset = make.mr()
    oddity(dataset)
    restored = kept(dataset)
    assert restored.NumberOfFrames == 1
    assert np.allclose(np.array(restored.ImagePositionPatient, float), [-40, -40, 5])


@pytest.mark.parametrize(
    "change",
    [
        {"00100020": {"vr": "LO", "Value": ["x" * 100]}},  # PatientID, longer than it may be
        {"00101040": {"vr": "LO", "Value": ["Elm Street"]}},  # PatientAddress, which is not kept
        {"0020000D": {"vr": "UI", "Value": ["not a UID"]}},
        {"00080018": {"vr": "UI"}},
        {"00104000": {"vr": "LT", "Value": ["\x1b[2J"]}},
        {"00280010": {"vr": "US", "Value": [-1]}},
        {"00280008": {"vr": "IS", "Value": [0]}},
        {"00086001": {"vr": "SQ", "Value": [{}]}},
    ],
)
def test_attributes_that_no_image_gives_are_not_taken_from_a_decoder(change: dict[str, Any]) -> None:
    taken = json.loads(json.dumps(source_attributes.extract_attributes(read_back(make.mr()), 1)))
    assert source_attributes.restore_attributes(taken).PatientID == make.PATIENT
    with pytest.raises((ValueError, ImageError)):
        source_attributes.restore_attributes(taken | change)
