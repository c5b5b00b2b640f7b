import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from braintumor.data.manifest import Row
from braintumor.evaluate.report.gallery import MISTAKES, legend, picture, worst_mistakes
from braintumor.predictor import Prediction, predict

from ..conftest import make_model, save, slice_showing


def pixels_of(address: str) -> np.ndarray:
    """Return the pixels in a `data:` address."""
    head, content = address.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_surest_mistakes_come_first_and_no_more_than_24(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny")
    rows = []
    for i in range(30):  # all show a meningioma, the first ten rightly; the later the darker, so the less sure
        label = "meningioma" if i < 2 else "glioma"
        shade = (slice_showing("meningioma", 1) * (1 - i / 60)).astype(np.uint8)
        rows.append(Row(save(tmp_path, "Testing", label, f"{i}.png", shade).relative_to(tmp_path).as_posix(), label))
    predictions = predict([tmp_path / row.image for row in rows], model)
    order = np.random.default_rng(0).permutation(30)
    mistakes = worst_mistakes([(rows[i], predictions[i]) for i in order], tmp_path, model)
    assert [mistake.image for mistake in mistakes] == [f"Testing/glioma/{i}.png" for i in range(2, 2 + MISTAKES)]
    assert mistakes[0].probabilities["glioma"] < mistakes[-1].probabilities["glioma"]
    assert {(m.label, m.predicted, m.evidence) for m in mistakes} == {("glioma", "meningioma", (True, False))}


def test_a_mistake_shows_the_slice_and_colour_only_where_there_is_evidence(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny")
    slice_ = slice_showing("meningioma", 1)[:, 2:]  # 30 columns: padded by one on either side
    row = Row(save(tmp_path, "Testing", "glioma", "0.png", slice_).relative_to(tmp_path).as_posix(), "glioma")
    (answer,) = predict(tmp_path / row.image, model)
    (mistake,) = worst_mistakes([(row, answer)], tmp_path, model)
    shown, predicted, true = (pixels_of(p).astype(float) for p in (mistake.slice, *mistake.maps))
    assert shown.shape == (32, 32)
    np.testing.assert_allclose(shown[:, 1:31], slice_, atol=40)
    assert np.abs(true - true.mean(axis=2, keepdims=True)).mean() < 2  # grey: nothing speaks for glioma
    tint = (predicted[:, :, 0] - predicted[:, :, 2]).reshape(2, 16, 2, 16).mean(axis=(1, 3))
    assert tint[0, 1] > 40
    assert tint[1, 0] == pytest.approx(0, abs=12)


def test_no_mistakes_need_no_network(tmp_path: Path) -> None:
    answer = Prediction(
        "a", np.eye(4, dtype=np.float32)[0], "glioma", "glioma", (), np.empty((4, 0, 0), np.float32), "tiny", 1.0
    )
    assert worst_mistakes([(Row("a", "glioma"), answer)], tmp_path, make_model(tmp_path / "tiny")) == []


def test_large_pictures_are_made_smaller() -> None:
    assert pixels_of(picture(np.zeros((600, 300), np.uint8))).shape == (256, 128)


def test_the_legend_runs_from_grey_to_full_colour() -> None:
    ramp = pixels_of(legend()).astype(float)
    assert ramp.shape == (16, 256, 3)
    assert np.ptp(ramp[:, :4], axis=2).max() < 12
    assert np.ptp(ramp[:, -4:], axis=2).min() > 60
