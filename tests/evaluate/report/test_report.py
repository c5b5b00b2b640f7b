import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from braintumor.classes import CLASSES, DISCLAIMER
from braintumor.data.duplicates import thumbnails
from braintumor.data.layout import list_images
from braintumor.data.manifest import Manifest, Row, write_manifest
from braintumor.errors import DataError, UnreadableDataError
from braintumor.evaluate.report.model_card import model_card
from braintumor.evaluate.report.report import evaluate
from braintumor.evaluate.selective import tumor_shares
from braintumor.models.session import Model, load_folder
from braintumor.predictor import predict
from tests.referrals import TOO_SMALL

EVIL = "<script>alert(1)<script> & ' \".png"


def test_the_numbers_are_those_of_the_answers(data_dir: Path, model: Model, tmp_path: Path) -> None:
    report = evaluate(model, data_dir, tmp_path / "out")
    assert report.protocol == "official"
    assert report.confusion == ((2, 1, 0, 0), (0, 3, 0, 0), (0, 0, 3, 0), (1, 0, 0, 2))
    assert report.measured.overall["accuracy"].value == pytest.approx(10 / 12)
    assert report.measured.per_class["glioma"]["precision"].value == pytest.approx(2 / 3)
    assert report.counts == dict.fromkeys(CLASSES, 3)
    assert report.skipped == {}


@pytest.mark.slow
def test_images_of_one_slice_are_one_group(data_dir: Path, model: Model, tmp_path: Path) -> None:
    report = evaluate(model, data_dir, tmp_path / "out")
    images = [row.image for row in list_images(data_dir, parts=("test",)).manifest]
    group_of = dict(zip(images, report.groups, strict=True))
    assert report.n_groups == 11
    assert group_of["Testing/notumor/0.png"] == group_of["Testing/notumor/1.png"]


def test_report_json_holds_fractions_with_intervals(data_dir: Path, model: Model, tmp_path: Path) -> None:
    evaluate(model, data_dir, tmp_path / "out")
    result = json.loads((tmp_path / "out/report.json").read_text())
    assert list(result)[:5] == ["protocol", "n_images", "n_groups", "metrics", "per_class"]
    assert (result["protocol"], result["n_images"], result["n_groups"]) == ("official", 12, 11)
    rates = ["accuracy", "precision", "recall", "f1", "auc_roc", "auc_pr", "ece"]
    selective = ["aurc", "accuracy_at_95_coverage", "accuracy_at_90_coverage"]
    assert list(result["metrics"]) == [*rates, "brier", "nll", *selective]
    for name in [*rates, *selective]:
        entry = result["metrics"][name]
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
        assert entry["n"] == 12
    assert result["per_class"]["glioma"]["support"] == 3
    assert result["per_class"]["glioma"]["recall"]["value"] == pytest.approx(2 / 3)
    assert len(result["reliability"]) == 15
    card = {"name": "tiny", "version": "1", "architecture": "quarters", "recipe": "reference"}
    assert result["model"] == card | {"precision": "float32"}
    assert result["fingerprint"] == list_images(data_dir, parts=("test",)).manifest.fingerprint()
    assert result["disclaimer"] == DISCLAIMER
    assert result["images_per_second"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", result["date"])
    assert str(tmp_path) not in json.dumps(result)


@pytest.mark.slow
def test_predictions_csv_says_what_predict_says(data_dir: Path, model: Model, tmp_path: Path) -> None:
    evaluate(model, data_dir, tmp_path / "out")
    lines = list(csv.reader((tmp_path / "out/predictions.csv").read_text().splitlines()))
    shares = "p_glioma,p_meningioma,p_pituitary,p_no_tumor"
    first, last = "image,label,predicted,decision,reason_codes,reasons", "model,ood_score,prediction_set,notes"
    assert ",".join(lines[0]) == f"{first},{shares},{last},volume,slice"
    assert len(lines) == 13
    evil = next(line for line in lines if line[0] == f"Testing/glioma/{EVIL}")
    (predictions,) = predict(data_dir / evil[0], model)
    assert evil[1:6] == ["glioma", "meningioma", "refer", "image_quality", TOO_SMALL.text()]
    assert [float(p) for p in evil[6:10]] == pytest.approx(predictions.probabilities.tolist(), abs=5e-7)
    assert evil[10] == predictions.model
    assert float(evil[11]) == pytest.approx(predictions.ood_score, rel=1e-3)


def test_test_images_seen_in_training_are_counted(data_dir: Path, model: Model, tmp_path: Path) -> None:
    leakage = evaluate(model, data_dir, tmp_path / "out").leakage
    assert (leakage.known, leakage.n, leakage.exact, leakage.near, leakage.duplicates) == (True, 12, 1, 1, 2)
    assert leakage.accuracy.value == pytest.approx(10 / 12)
    assert leakage.accuracy_without is not None
    assert (leakage.accuracy_without.value, leakage.accuracy_without.n) == (pytest.approx(8 / 10), 10)
    page = (tmp_path / "out/report.html").read_text()
    assert "This split shares slices or patients with training; the number says little about new patients" in page
    assert "80.0\u00a0%" in page


@pytest.mark.slow
def test_the_summary_warns_of_images_seen_in_training(data_dir: Path, model: Model, tmp_path: Path) -> None:
    lines = evaluate(model, data_dir, tmp_path / "out").summary().splitlines()
    assert re.fullmatch(r"accuracy   83\.3 % \(\d\d\.\d to 100\.0 %; only 12 images\)", lines[0])
    assert lines[4] == "the data set's own test part; 12 images of 11 groups, 95 % intervals"
    assert lines[5] == "warning: 2 of these images share a slice or a patient with training (2 have a duplicate there)"
    assert lines[6].startswith("accuracy on the 10 without a duplicate: 80.0 % (")
    assert lines[7].startswith("accuracy on the 10 that share nothing: 80.0 % (")
    assert len(lines) == 8


FOREIGN = (  # what was once said of every reader's images: true of the public set alone
    "nearly all axial",
    "from other sources than the tumors",
    "294 of 300",
    "This split shares patients",
    "experts",
    "its authors",
    "public collections",
    "which shares patients with training",
    "unknown to the model",
    "Figshare",
)


def test_nothing_is_said_of_other_peoples_images_that_is_true_of_the_public_set_alone(
    data_dir: Path, model: Model, tmp_path: Path
) -> None:
    report = evaluate(model, data_dir, tmp_path / "out")
    metrics = {"parameters": 1, "multiply_adds": 1}
    card = model_card(replace(model.card, metrics=metrics), report.to_json(), "Tiny")
    page = (tmp_path / "out/report.html").read_text()
    for sentence in FOREIGN:
        assert sentence not in page
        assert sentence not in card
        assert sentence not in report.summary()
    assert "2 of 12 share a group with training: the number says little about new patients." in card
    assert "single slices from Testing" in card


def test_the_page_says_how_the_parts_differ_in_their_tumors_where_they_do(
    data_dir: Path, model: Model, tmp_path: Path
) -> None:
    report = evaluate(model, data_dir, tmp_path / "out")
    page = re.sub(r"\s+", " ", (tmp_path / "out/report.html").read_text())
    unlike = tumor_shares(report.crossed)
    assert ("A tumor is labelled on" in page) == bool(unlike)
    for way, shares in unlike.items():
        for part, share in shares.items():
            assert f"{100 * share:.1f} % of the slices of the {way} {part}" in page


def test_the_clean_protocol_leaves_out_what_shares_a_group_with_training(
    data_dir: Path, model: Model, tmp_path: Path
) -> None:
    report = evaluate(model, data_dir, tmp_path / "out", protocol="clean")
    assert (report.protocol, report.n_images, report.excluded) == ("clean", 10, 2)
    assert report.measured.overall["accuracy"].value == pytest.approx(8 / 10)
    assert "2 test images were left out" in report.summary()
    assert "2 test images were left out" in (tmp_path / "out/report.html").read_text()


def test_a_clean_protocol_without_a_clean_image_is_refused(data_dir: Path, model: Model, tmp_path: Path) -> None:
    (model.folder / "manifest.csv").unlink()
    with pytest.raises(
        DataError, match="no test image is known to share nothing with training: the model folder has no"
    ):
        evaluate(model, data_dir, tmp_path / "out", protocol="clean")


def test_slices_of_a_patient_known_from_training_count_as_shared(data_dir: Path, model: Model, tmp_path: Path) -> None:
    from braintumor.data.manifest import read_manifest
    from braintumor.evaluate.leakage import relate

    test = list_images(data_dir, parts=("test",)).manifest
    training = read_manifest(model.folder / "manifest.csv", data_dir)
    seen = training.part("train").rows[0].image
    rows = [replace(row, patient="P") if row.image == seen else row for row in training]
    write_manifest(Manifest(data_dir, tuple(rows)), model.folder / "manifest.csv")
    before = relate(test, model).shared
    named = Manifest(data_dir, tuple(replace(row, patient="P") if n == 5 else row for n, row in enumerate(test)))
    after = relate(named, model)
    assert not before[5]
    assert after.shared[5]
    assert after.exact is not None
    assert not after.exact[5]


def test_accuracy_is_given_per_source(data_dir: Path, model: Model, tmp_path: Path) -> None:
    report = evaluate(model, data_dir, tmp_path / "out")
    assert list(report.subgroups["source"]) == ["Testing"]
    assert report.subgroups["source"]["Testing"].accuracy.value == pytest.approx(10 / 12)
    for way in ("plane", "class", "brightness"):
        assert sum(result.accuracy.n for result in report.subgroups[way].values()) == 12


def test_without_a_record_of_training_nothing_is_claimed(data_dir: Path, model: Model, tmp_path: Path) -> None:
    (model.folder / "manifest.csv").unlink()
    leakage = evaluate(model, data_dir, tmp_path / "out").leakage
    assert (leakage.known, leakage.exact, leakage.near, leakage.accuracy_without) == (False, None, None, None)
    page = (tmp_path / "out/report.html").read_text()
    assert "the model folder has no manifest.csv" in page
    assert "This split shares" not in page


@pytest.mark.slow
def test_training_images_that_are_gone_are_compared_by_their_hash(data_dir: Path, model: Model, tmp_path: Path) -> None:
    for path in (data_dir / "Training").rglob("*.png"):
        path.unlink()
    leakage = evaluate(model, data_dir, tmp_path / "out").leakage
    assert (leakage.known, leakage.exact, leakage.near) == (False, 1, None)
    assert leakage.reason == "8 of the 8 training images are not in the data folder"
    assert leakage.accuracy_without is not None
    assert leakage.accuracy_without.value == pytest.approx(9 / 11)


@pytest.mark.slow
def test_a_changed_training_image_does_not_count_as_seen(data_dir: Path, model: Model, tmp_path: Path) -> None:
    (data_dir / "Training/pituitary/1.png").write_bytes((data_dir / "Training/glioma/0.png").read_bytes())
    leakage = evaluate(model, data_dir, tmp_path / "out").leakage
    assert (leakage.known, leakage.exact, leakage.near) == (False, 1, 0)


@pytest.mark.slow
def test_worst_mistakes_are_shown_with_their_maps(data_dir: Path, model: Model, tmp_path: Path) -> None:
    evaluate(model, data_dir, tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    assert "Glioma, taken for meningioma" in page
    assert "No tumor, taken for glioma" in page
    assert page.count("no evidence in the slice") == 2  # the labelled quarter of both is black
    assert page.count('src="data:image/jpeg;base64,') == 2 * 3 + 1


def test_the_page_opens_offline_and_escapes_names(data_dir: Path, model: Model, tmp_path: Path) -> None:
    (data_dir / "Testing/glioma/<b>broken.png").write_bytes(b"no image")
    evaluate(model, data_dir, tmp_path / "out", skip_unreadable=True)
    page = (tmp_path / "out/report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "url(http" not in page
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert "link" not in tags.names
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert len(tags.addresses) > 10
    assert "&lt;script&gt;alert(1)&lt;script&gt; &amp; &#39; &#34;.png" in page
    assert "&lt;b&gt;broken.png" in page
    assert page.count(DISCLAIMER) >= 1


class Tags(HTMLParser):
    """Collects the elements and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href")]
        if tag == "img":
            assert dict(attrs)["alt"]
        if tag == "th":
            assert dict(attrs)["scope"] in ("row", "col")


def test_unreadable_images_are_refused_or_listed(data_dir: Path, model: Model, tmp_path: Path) -> None:
    (data_dir / "Testing/glioma/broken.png").write_bytes(b"no image")
    (data_dir / "Testing/glioma/empty.png").touch()
    with pytest.raises(UnreadableDataError, match="empty"):
        evaluate(model, data_dir, tmp_path / "out")
    (data_dir / "Testing/glioma/empty.png").unlink()
    with pytest.raises(UnreadableDataError, match=r"glioma/broken\.png"):
        evaluate(model, data_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (data_dir / "Testing/glioma/empty.png").touch()
    report = evaluate(model, data_dir, tmp_path / "out", skip_unreadable=True)
    assert list(report.skipped) == ["Testing/glioma/broken.png", "Testing/glioma/empty.png"]
    assert report.n_images == 12
    saved = json.loads((tmp_path / "out/report.json").read_text())
    assert saved["skipped"] == report.skipped
    assert saved["counts"]["glioma"] == 3


def test_a_test_part_without_a_readable_image_is_refused(data_dir: Path, model: Model, tmp_path: Path) -> None:
    for path in (data_dir / "Testing").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableDataError, match="12 unusable"):
        evaluate(model, data_dir, tmp_path / "out", skip_unreadable=True)


def held_out(data_dir: Path, model: Model) -> Path:
    """Return class folders alone, of which `model` set aside image 0 of each class, each class in its own group."""
    root = data_dir / "Training"
    rows = list_images(root).manifest.rows
    split = [
        Row(r.image, r.label, group=r.image, sha256=r.sha256, split="test" if "0.png" in r.image else "train")
        for r in rows
    ]
    write_manifest(Manifest(root, tuple(split)), model.folder / "manifest.csv")
    return root


def test_images_set_aside_in_training_are_found_again(data_dir: Path, model: Model, tmp_path: Path) -> None:
    report = evaluate(model, held_out(data_dir, model), tmp_path / "out")
    assert (report.protocol, report.n_images, report.n_groups) == ("held-out", 4, 4)
    assert (report.leakage.known, report.leakage.duplicates) == (True, 0)
    lines = (tmp_path / "out/predictions.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == [
        f"{n}/0.png" for n in ("glioma", "meningioma", "notumor", "pituitary")
    ]
    assert "This split shares" not in (tmp_path / "out/report.html").read_text()


def test_groups_of_the_manifest_are_kept(data_dir: Path, model: Model, tmp_path: Path) -> None:
    root = held_out(data_dir, model)
    path = model.folder / "manifest.csv"
    path.write_text(
        path.read_text()
        .replace("glioma,meningioma/0.png,", "glioma,glioma/0.png,")
        .replace("meningioma,meningioma/0.png", "meningioma,glioma/0.png")
    )
    assert evaluate(model, root, tmp_path / "out").groups == (0, 0, 1, 2)


def test_a_changed_image_is_no_longer_the_one_set_aside(data_dir: Path, model: Model, tmp_path: Path) -> None:
    root = held_out(data_dir, model)
    Image.new("L", (32, 32), 9).save(root / "glioma/0.png")
    with pytest.raises(UnreadableDataError, match=r"glioma/0\.png: missing, or no longer the file"):
        evaluate(model, root, tmp_path / "out")
    report = evaluate(model, root, tmp_path / "out", skip_unreadable=True)
    assert report.n_images == 3
    assert list(report.skipped) == ["glioma/0.png"]
    assert report.measured.per_class["glioma"]["recall"].value is None


def test_data_without_test_images_are_refused(data_dir: Path, model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 12 test images"):
        evaluate(model, data_dir / "Training", tmp_path / "out")
    (model.folder / "manifest.csv").unlink()
    with pytest.raises(DataError, match="has no test part"):
        evaluate(model, data_dir / "Training", tmp_path / "out")


@pytest.mark.slow
def test_progress_counts_every_image(data_dir: Path, model: Model, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(model, data_dir, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 12) for i in range(1, 13)]


def test_a_second_evaluation_replaces_the_first(data_dir: Path, model: Model, tmp_path: Path) -> None:
    for _ in range(2):
        evaluate(model, data_dir, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "predictions.csv",
        "report.html",
        "report.json",
    ]


@pytest.mark.slow
def test_a_second_evaluation_decodes_no_file_for_its_miniature(
    data_dir: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(model, data_dir, tmp_path / "out")
    monkeypatch.setattr(thumbnails, "read", None)
    second = evaluate(model, data_dir, tmp_path / "out")
    assert (second.groups, second.leakage) == (first.groups, first.leakage)


@pytest.mark.slow
def test_the_calibration_without_temperature_is_that_of_the_plain_logits(
    data_dir: Path, model: Model, tmp_path: Path
) -> None:
    evaluate(model, data_dir, tmp_path / "plain")
    hot = Model(model.folder, replace(model.card, temperature=3.0), model._session)
    evaluate(hot, data_dir, tmp_path / "hot")
    plain, result = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("plain", "hot"))
    for name in ("ece", "brier", "nll"):
        assert plain["uncalibrated"][name]["value"] == pytest.approx(plain["metrics"][name]["value"], abs=1e-6)
        assert result["uncalibrated"][name]["value"] == pytest.approx(plain["metrics"][name]["value"], abs=1e-4)
        assert result["metrics"][name]["value"] != pytest.approx(plain["metrics"][name]["value"], abs=1e-3)


@pytest.fixture
def outlined(phantoms: Path, tmp_path: Path) -> Path:
    """Return a reference folder of all phantoms with tumors, each with an outline in its middle."""
    (tmp_path / "reference" / "images").mkdir(parents=True)
    lines = ["figshare_id,class,patient,tumor_outline_xy"]
    for file in sorted(phantoms.glob("*/*/*.png")):
        if file.parent.name != "notumor":
            shutil.copy(file, tmp_path / "reference" / "images" / file.name)
            lines.append(f"{file.stem},{file.parent.name},{file.stem},36 36;60 36;60 60;36 60")
    (tmp_path / "reference" / "annotations.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "reference"


def test_maps_are_compared_with_outlines(model_folder: Path, phantoms: Path, outlined: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    rows = list_images(phantoms, parts=("train",)).manifest.rows
    kept = tuple(replace(row, split="val" if place % 3 else "train") for place, row in enumerate(rows))
    write_manifest(Manifest(phantoms, kept), folder / "manifest.csv")
    report = evaluate(load_folder(folder), phantoms, tmp_path / "out", masks=outlined)
    assert report.localisation is not None
    assert report.localisation.overall["pointing"].n == 3  # one test slice of each tumor
    assert set(report.localisation.faithfulness) == {"map", "random"}
    saved = json.loads((tmp_path / "out/report.json").read_text())
    assert "per_image" not in saved["localisation"]
    sizes = saved["subgroups"]["tumor size"]
    assert sum(part["accuracy"]["n"] for part in sizes.values()) == 3
    assert saved["subgroups"]["class"]["no_tumor"]["energy"] is None
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<b>Without the tumor</b>") == min(12, len(report.localisation.survivors))
    assert "Do the coloured pixels carry the answer?" in page


def test_what_file_facts_give_away_stands_beside_the_parts(data_dir: Path, model: Model, tmp_path: Path) -> None:
    report = evaluate(model, data_dir, tmp_path / "out")
    assert report.shortcuts is not None
    assert report.shortcuts.accuracy.n == 12
    assert "without looking at the brain" in (tmp_path / "out/report.html").read_text()
    assert sum(report.crossed["source"]["Testing"].values()) == 12
