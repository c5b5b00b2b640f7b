"""Predictions: their values and order, and the memory that they take meanwhile."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.errors import ImageError, Refusal
from braintumor.io.read import UNKNOWN_FORMAT, read, read_all
from braintumor.io.scan import Scan, SlicePosition, SliceSelection
from braintumor.models.session import Model
from braintumor.predictor import (
    BATCH,
    BATCHES_AHEAD,
    Prediction,
    Predictor,
    Unreadable,
    predict,
    predict_all,
)
from tests.volume_files import brain


def assert_same(actual: Prediction, expected: Prediction, tolerance: float = 0.0) -> None:
    """Check that two answers are equal."""
    assert (actual.image, actual.predicted, actual.model) == (expected.image, expected.predicted, expected.model)
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        actual.class_maps, expected.class_maps, rtol=0, atol=tolerance * expected.class_maps.max()
    )


def test_an_answer_holds_what_the_network_said(slices: list[Path], model: Model) -> None:
    [answer] = predict(slices[0], model)
    logits, class_maps, ood_score = model(model.card.preprocess(read(slices[0]))[None])
    shares = [2.718281828459045 ** float(logit) for logit in logits[0]]
    np.testing.assert_allclose(answer.probabilities, np.array(shares) / sum(shares), rtol=1e-5)
    np.testing.assert_array_equal(answer.class_maps, class_maps[0])
    assert answer.predicted == answer.decision == CLASSES[int(np.argmax(shares))]
    assert (answer.image, answer.reasons, answer.model) == (str(slices[0]), (), "tiny 1.2")
    assert answer.ood_score == ood_score[0]


def test_a_path_a_text_a_scan_and_several_of_them_are_accepted(slices: list[Path], model: Model) -> None:
    file = slices[0]
    [expected] = predict(file, model)
    given = [str(file), read(file), [file], (str(file),), iter([read(file)])]
    for source in given:
        [actual] = predict(source, model)
        assert_same(actual, expected)
    assert predict([], model) == []


def test_probabilities_sum_to_1(slices: list[Path], model: Model) -> None:
    sums = [float(answer.probabilities.sum()) for answer in predict(slices, model)]
    assert sums == pytest.approx([1.0] * 16, abs=1e-6)


def test_the_temperature_divides_the_logits(slices: list[Path], model: Model) -> None:
    plain = predict(slices[0], model)[0].probabilities
    warm = Model(model.folder, replace(model.card, temperature=2.0), model._session)
    softer = np.sqrt(plain) / np.sqrt(plain).sum()
    np.testing.assert_allclose(predict(slices[0], warm)[0].probabilities, softer, rtol=1e-5)


def test_huge_logits_do_not_overflow(slices: list[Path], model: Model) -> None:
    cold = Model(model.folder, replace(model.card, temperature=1e-6), model._session)
    assert predict(slices[0], cold)[0].probabilities.max() == 1


def test_answers_keep_their_order_with_unreadable_files_between(
    tmp_path: Path, slices: list[Path], model: Model
) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"hello")
    sources = [damaged, slices[0], tmp_path / "missing.png", *slices[1:], damaged]
    answers = list(Predictor(model).run(sources))
    names = [answer.source if isinstance(answer, ImageError) else answer.image for answer in answers]
    assert names == [str(source) for source in sources]
    refused = [index for index, answer in enumerate(answers) if isinstance(answer, ImageError)]
    assert refused == [0, 2, len(sources) - 1]
    assert_same(predict(slices[1], model)[0], answers[3], 1e-5)  # type: ignore[arg-type]


def test_one_bad_file_does_not_discard_the_answers_to_the_others(
    tmp_path: Path, slices: list[Path], model: Model
) -> None:
    missing = tmp_path / "missing.png"
    first, bad, text, last = predict([slices[0], missing, b"no image", slices[1]], model)
    assert bad == Unreadable(str(missing), Refusal.CANNOT_OPEN, "no such file or directory")
    assert text == Unreadable("bytes", Refusal.UNKNOWN_FORMAT, UNKNOWN_FORMAT)
    assert [first.image, last.image] == [str(slices[0]), str(slices[1])]  # type: ignore[union-attr]
    with pytest.raises(ImageError, match=r"missing\.png: no such file"):
        predict_all([slices[0], missing], model)


@pytest.mark.slow
def test_content_without_a_name_is_called_bytes_whatever_it_is(slices: list[Path], model: Model) -> None:
    make = pytest.importorskip("tests.dicom.make", reason="DICOM needs its extra")
    dicom, nifti = make.encoded(make.mr(size=64)), brain(("glioma",))
    for content in (slices[0].read_bytes(), dicom, nifti):
        for answers in (predict(content, model), predict([content], model)):
            assert [answer.image for answer in answers] == ["bytes"]  # type: ignore[union-attr]
    damaged = [predict(content[: len(content) // 2], model)[0] for content in (dicom, nifti)]
    assert [answer.name for answer in damaged] == ["bytes", "bytes"]  # type: ignore[union-attr]


def test_content_with_a_name_is_one_source(slices: list[Path], model: Model) -> None:
    [answer] = predict((slices[0].read_bytes(), "a slice"), model)
    assert answer.image == "a slice"  # type: ignore[union-attr]


def test_only_unreadable_files_need_no_network(tmp_path: Path, model: Model) -> None:
    answers = list(Predictor(model).run([tmp_path / "a.png", tmp_path / "b.png"]))
    assert [type(answer) for answer in answers] == [ImageError, ImageError]


def test_a_batch_gives_the_answers_of_single_slices(slices: list[Path], model: Model) -> None:
    for together, file in zip(predict(slices, model), slices, strict=True):
        assert_same(together, predict(file, model)[0], 1e-5)


def test_a_stream_without_end_is_answered_with_a_few_batches_at_hand(model: Model) -> None:
    pulled = 0

    def endless() -> Iterator[Scan]:
        nonlocal pulled
        while True:
            pulled += 1
            yield Scan(np.zeros((64, 64), np.float32), source=str(pulled))

    answers = Predictor(model).run(endless())
    for count in itertools.count(1):
        answer = next(answers)
        assert isinstance(answer, Prediction)
        assert answer.image == str(count)
        assert count <= pulled <= count + BATCHES_AHEAD * BATCH
        if count == 4 * BATCH:
            break
    answers.close()  # type: ignore[attr-defined]


def test_answers_that_are_dropped_do_not_stay_in_memory(model: Model) -> None:
    sources = (Scan(np.zeros((64, 64), np.float32), source=str(index)) for index in range(6 * BATCH))
    alive: WeakSet[Prediction | ImageError] = WeakSet()
    for answer in Predictor(model).run(sources):
        alive.add(answer)
        assert len(alive) <= 2 * BATCH


def test_four_threads_at_once_get_the_serial_answers(slices: list[Path], model: Model) -> None:
    expected = predict(slices, model)
    with ThreadPoolExecutor(4) as pool:
        for actual in pool.map(lambda _: predict(slices, model), range(8)):
            for one, other in zip(actual, expected, strict=True):
                assert_same(one, other)


def test_loading_and_predicting_needs_no_torch(slices: list[Path], model_folder: Path) -> None:
    program = (
        "import sys, braintumor\n"
        "model = braintumor.load(sys.argv[1])\n"
        "print(braintumor.predict(sys.argv[2], model)[0].predicted)\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'jinja2', 'scipy', 'sklearn', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", program, str(model_folder), str(slices[0])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() in CLASSES


@pytest.mark.slow
def test_the_slices_of_volumes_are_answered_like_the_slices_alone(tmp_path: Path, model: Model) -> None:
    volume = tmp_path / "brain.nii.gz"
    volume.write_bytes(brain())
    expected = predict(list(read_all(volume)), model)
    for source in (volume, (volume.read_bytes(), str(volume))):
        actual = predict([source], model)
        assert len(actual) == 12
        for own, other in zip(expected, actual, strict=True):
            assert_same(other, own)
            assert (other.place, other.notes) == (own.place, own.notes)
    some = predict([volume], model, SliceSelection("axial", ((3, 4), (12, 20))))
    assert [answer.place and answer.place.number for answer in some] == [3, 4, 12]
    assert isinstance(some[0].place, SlicePosition)
    record = some[0].record()
    assert (record["volume"], record["slice"], record["notes"]) == (str(volume), 3, list(some[0].notes))


@pytest.mark.usefixtures("shared_decoders")
def test_judging_gives_each_answer_with_its_slice_and_each_refusal_in_its_place(
    tmp_path: Path, slices: list[Path], model: Model
) -> None:
    missing = tmp_path / "missing.png"
    sources = [*slices[:10], missing, (brain(("glioma", "no_tumor")), "volume"), (b"hello", "text")]
    actual = list(Predictor(model).run_with_scans(sources))
    assert [isinstance(item, ImageError) for item in actual] == [False] * 10 + [True, False, False, True]
    expected = list(Predictor(model).run(sources))
    for item, other in zip(actual, expected, strict=True):
        if isinstance(item, ImageError):
            assert isinstance(other, ImageError)
            assert str(item) == str(other)
        else:
            scan, prediction = item
            assert isinstance(other, Prediction)
            assert_same(prediction, other, tolerance=1e-6)
            assert scan.source == prediction.image
            assert_same(predict(scan, model)[0], prediction, tolerance=1e-6)


def test_a_folder_in_place_of_a_file_is_refused_alone(tmp_path: Path, slices: list[Path], model: Model) -> None:
    refused, answered = Predictor(model).run([tmp_path, slices[0]])
    assert isinstance(refused, ImageError)
    assert refused.reason == "is a folder; name one image file"
    assert isinstance(answered, Prediction)
