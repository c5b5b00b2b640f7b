"""How the service answers volumes: every slice of NIfTI and DICOM files, and results as DICOM."""

import io
import zipfile
from itertools import pairwise
from typing import Any

import httpx
import pydicom
import pytest
from fastapi.testclient import TestClient

from braintumor.models.session import Model
from braintumor.predictor import predict
from tests.dicom import make
from tests.volume_files import brain

PREDICTIONS, RESULTS = "/v1/predictions", "/v1/dicom-results"


def send(client: TestClient, path: str, *contents: bytes) -> httpx.Response:
    return client.post(path, files=[("files", ("SECRET^NAME.dcm", content)) for content in contents])


def unpacked(answer: httpx.Response) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist()}


def test_every_slice_of_a_nifti_volume_is_answered_in_order(client: TestClient, model: Model) -> None:
    content = brain(("no_tumor", "glioma", "no_tumor", "glioma", "pituitary"))
    slices = send(client, PREDICTIONS, content).json()["slices"]
    expected = predict([(content, "file 1")], model)
    assert len(slices) == len(expected) == 5
    for number, (slice_, own) in enumerate(zip(slices, expected, strict=True), start=1):
        assert slice_["predictions"][0] == own.record() | {"class_maps": None}
        assert (slice_["file"], slice_["member"], slice_["number"], slice_["volume"]) == (0, None, number, "file 1")
        assert slice_["position"] == own.place.position  # type: ignore[union-attr]
        assert slice_["notes"] == list(own.notes)
    steps = [after["position"] - before["position"] for before, after in pairwise(slices)]
    assert steps == pytest.approx([6.0] * 4)


def test_pixels_of_a_volume_that_fill_the_memory_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("braintumor.server.workers.PICTURES_BYTES", 1_000)
    answer = send(client, f"{PREDICTIONS}?pixels=true", brain())
    assert answer.status_code == 422
    assert answer.json()["detail"] == "pictures of more than 128 MiB; ask for fewer slices, or without pixels"
    assert send(client, PREDICTIONS, brain()).status_code == 200


def test_an_answer_that_fills_the_memory_ends_with_the_file(client: TestClient, service: Any) -> None:
    contents = [brain(), *(make.encoded(make.mr(number=number)) for number in range(1, 9))]
    request = client.build_request(
        "POST", PREDICTIONS, files=[("files", ("SECRET^NAME.dcm", content)) for content in contents]
    )
    room = len(request.read()) + len(send(client, PREDICTIONS, contents[0]).content)
    answer = send(service(held_bytes=4 * room), PREDICTIONS, *contents)
    assert answer.status_code == 200
    assert {slice_["file"] for slice_ in answer.json()["slices"]} == {0}
    assert sorted(refusal["file"] for refusal in answer.json()["refused"]) == list(range(1, 9))
    assert {refusal["text"] for refusal in answer.json()["refused"]} == {
        "the answer is full; send fewer files in a request, or ask for no pixels"
    }


def test_slices_of_a_series_share_its_code_and_keep_their_numbers(client: TestClient) -> None:
    series = [make.encoded(make.mr(number=number)) for number in (3, 1, 2)]
    other = make.encoded(make.mr(series=1))
    slices = send(client, PREDICTIONS, *series, other).json()["slices"]
    assert [slice_["number"] for slice_ in slices] == [3, 1, 2, 1]
    codes = [slice_["volume"] for slice_ in slices]
    assert len(set(codes[:3])) == 1
    assert codes[3] != codes[0]
    assert make.PATIENT not in str(slices)
    assert make.NAME not in str(slices)


def test_frames_are_slices_and_stand_beside_other_files(client: TestClient) -> None:
    answer = send(client, PREDICTIONS, make.encoded(make.enhanced()), make.encoded(make.ct()), make.encoded(make.mr()))
    body = answer.json()
    frames = [slice_ for slice_ in body["slices"] if slice_["file"] == 0]
    assert [slice_["number"] for slice_ in frames] == list(range(1, len(frames) + 1))
    assert len(frames) > 1
    assert [slice_["predictions"][0]["image"] for slice_ in frames][:2] == ["file 1#1", "file 1#2"]
    assert [slice_["file"] for slice_ in body["slices"]][len(frames) :] == [2]
    ((refused),) = body["refused"]
    assert refused["file"] == 1
    assert "computed tomography" in refused["text"]


def test_dicom_results_come_as_an_archive(client: TestClient) -> None:
    answer = send(client, RESULTS, make.encoded(make.mr(number=1)), make.encoded(make.mr(number=2)))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    results = unpacked(answer)
    kinds = ("overlay", "map", "report")
    assert set(results) == {f"{number:04d}-{kind}.dcm" for number in (1, 2) for kind in kinds}
    for result in results.values():
        assert result.PatientID == make.PATIENT
        assert result.Manufacturer == "braintumor"
    again = unpacked(send(client, RESULTS, make.encoded(make.mr(number=1))))
    assert again["0001-report.dcm"].SOPInstanceUID in {dataset.SOPInstanceUID for dataset in results.values()}


def test_dicom_results_are_those_of_the_wanted_model(both: TestClient) -> None:
    content = make.encoded(make.mr())
    kinds = ("overlay", "map", "report")
    assert set(unpacked(send(both, RESULTS, content))) == {f"0001-{n}-{k}.dcm" for n in ("tiny", "twin") for k in kinds}
    assert {
        dataset.ManufacturerModelName for dataset in unpacked(send(both, f"{RESULTS}?model=twin", content)).values()
    } == {"twin"}
    assert send(both, f"{RESULTS}?model=other", content).status_code == 404


def test_dicom_results_are_numbered_by_file_and_slice(client: TestClient) -> None:
    single, frames = make.encoded(make.mr()), make.encoded(make.enhanced(("glioma", "no_tumor")))
    names = {name.rpartition("-")[0] for name in unpacked(send(client, RESULTS, frames, single))}
    assert names == {"0001-0001", "0001-0002", "0002"}


def test_dicom_results_are_for_dicom_only_and_for_all_files_or_none(client: TestClient) -> None:
    for content, status in ((brain(), 422), (b"hello", 415), (make.encoded(make.ct()), 422)):
        answer = send(client, RESULTS, make.encoded(make.mr()), content)
        assert answer.status_code == status
        assert [refusal["file"] for refusal in answer.json()["refused"]] == [1]


def test_dicom_results_are_refused_where_two_files_say_to_be_the_same_image(client: TestClient) -> None:
    answer = send(client, RESULTS, *(make.encoded(make.mr(seed=seed)) for seed in (1, 2)))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("has the identifiers of an earlier file but different content")


def test_more_results_than_fit_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braintumor.server.dicom_results.MOST", 3)
    answer = send(client, RESULTS, make.encoded(make.enhanced(("no_tumor",) * 4, size=64)))
    assert answer.status_code == 422
    assert answer.json()["detail"] == "more than 3 slices; ask for the results in several requests"


def test_a_volume_of_too_many_slices_is_refused(service: Any) -> None:
    client = service(slices=10)
    answer = send(client, PREDICTIONS, brain(("no_tumor",) * 11, size=64))
    assert answer.status_code == 422
    assert answer.json()["detail"] == "more than 10 slices; split the volume"


def test_the_service_says_whether_it_writes_dicom(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/v1/models").json()["dicom"] is True
    monkeypatch.setattr("braintumor.server.app.can_write", lambda: False)
    assert send(client, RESULTS, make.encoded(make.mr())).status_code == 501


def test_frames_that_hide_are_found_when_the_file_is_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braintumor.server.workers.may_hold_several", lambda _: False)
    assert len(send(client, PREDICTIONS, make.encoded(make.enhanced())).json()["slices"]) == 4


def test_slices_of_a_volume_can_be_chosen(client: TestClient) -> None:
    slices = send(client, f"{PREDICTIONS}?slices=2-3,11&plane=coronal", brain()).json()["slices"]
    assert [slice_["number"] for slice_ in slices] == [2, 3, 11]
    frames = make.encoded(make.enhanced())
    assert {name[:9] for name in unpacked(send(client, f"{RESULTS}?slices=3", frames))} == {"0001-0003"}
    answer = send(client, f"{PREDICTIONS}?slices=4", make.encoded(make.mr(number=4)), make.encoded(make.mr(number=5)))
    assert [slice_["file"] for slice_ in answer.json()["slices"]] == [0]
    assert answer.json()["refused"][0]["text"] == "none of its slices has a requested number"
    for query, detail in (
        ("slices=9-1", "expected slice numbers"),
        ("plane=oblique", "no plane is called 'oblique'"),
    ):
        answer = send(client, f"{PREDICTIONS}?{query}", brain())
        assert answer.status_code == 422
        assert detail in answer.json()["detail"]
