"""Summaries of volumes: every slice is counted, and nothing is claimed beyond the slices."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from braintumor.classes import CLASSES
from braintumor.errors import ReferralReason
from braintumor.io.scan import Scan, SlicePosition
from braintumor.models.image_quality import defects
from braintumor.models.policy import Policy
from braintumor.models.referral import Referral
from braintumor.models.session import Model
from braintumor.predictor import Prediction, predict
from braintumor.volumes import Evidence, VolumeSummary, VolumeSummaryBuilder, in_order, numbered, summarize_volumes
from tests import referrals
from tests.referrals import uncertain
from tests.volume_files import brain

EMPTY = (referrals.EMPTY,)


def slice_prediction(
    number: int,
    predicted: str,
    *,
    strength: float = 1.0,
    probability: float = 0.9,
    reasons: tuple[Referral, ...] = (),
    volume: str | None = "brain.nii.gz",
    position: float | None = None,
    notes: tuple[str, ...] = (),
) -> Prediction:
    """Return the answer for a slice, whose class map has this maximum."""
    shares = np.full(4, (1 - probability) / 3, np.float32)
    shares[CLASSES.index(predicted)] = probability
    maps = np.zeros((4, 2, 2), np.float32)
    maps[CLASSES.index(predicted), 1, 0] = strength
    place = None if volume is None else SlicePosition(volume, number, position)
    decision = "refer" if reasons else predicted
    return Prediction(f"x#{number}", shares, predicted, decision, reasons, maps, "tiny", 1.0, (), notes, place)


def one(*predictions: Prediction, scale: float = 1.0) -> VolumeSummary:
    (summary,) = summarize_volumes(predictions, scale)
    return summary


WHOLE = (
    slice_prediction(1, "no_tumor", reasons=EMPTY),
    slice_prediction(2, "no_tumor"),
    slice_prediction(3, "glioma", strength=2.0),
    slice_prediction(4, "no_tumor"),
    slice_prediction(5, "glioma", strength=3.0),
    slice_prediction(6, "glioma", strength=7.0, probability=0.8),
    slice_prediction(7, "glioma", strength=5.0),
    slice_prediction(8, "meningioma", reasons=(uncertain("meningioma", "glioma"),)),
    slice_prediction(9, "no_tumor", reasons=EMPTY),
    slice_prediction(10, "glioma", reasons=EMPTY, strength=99.0),
)


def test_every_slice_is_told_once() -> None:
    summary = one(*WHOLE, scale=4.0)
    assert summary.slices == 10
    assert summary.decided == {"glioma": (3, 5, 6, 7), "meningioma": (), "pituitary": (), "no_tumor": (2, 4)}
    assert [number for number, _ in summary.referred] == [1, 8, 9, 10]
    numbers = [*sum(summary.decided.values(), ()), *(number for number, _ in summary.referred)]
    assert sorted(numbers) == list(range(1, 11))
    assert summary.reasons == {ReferralReason.IMAGE_QUALITY: 3, ReferralReason.UNCERTAIN: 1}


def test_the_strongest_slice_is_that_of_the_highest_class_map_among_those_decided() -> None:
    summary = one(*WHOLE, scale=4.0)
    assert summary.strongest["glioma"] == Evidence(6, "x#6", 1.75, pytest.approx(0.8), decided=True)


def test_a_class_that_was_only_referred_is_still_told() -> None:
    summary = one(*WHOLE, scale=4.0)
    assert summary.strongest["meningioma"] == Evidence(8, "x#8", 0.25, pytest.approx(0.9), decided=False)
    assert "meningioma on none (strongest 8, referred)" in str(summary)
    assert "pituitary" not in summary.strongest


def test_a_slice_that_shows_no_brain_is_evidence_for_nothing() -> None:
    black = Scan(np.zeros((64, 64), np.float32))
    foreign = Policy(ood_threshold=1, far_ood_threshold=2).reasons(np.full(4, 0.25, np.float32), 3)
    for reasons in (defects(black), foreign):
        summary = one(slice_prediction(1, "glioma", reasons=reasons))
        assert summary.strongest == {}
        assert str(summary).startswith("brain.nii.gz: 1 slice: no tumor class on 0, referred 1 (1: ")
    ood_score = Policy(ood_threshold=1, far_ood_threshold=9).reasons(np.full(4, 0.25, np.float32), 3)
    assert not one(slice_prediction(1, "glioma", reasons=ood_score)).strongest["glioma"].decided


def test_of_empty_class_maps_the_most_probable_slice_is_named() -> None:
    summary = one(
        slice_prediction(1, "glioma", strength=0.04, probability=0.6),
        slice_prediction(2, "glioma", strength=0.01, probability=0.7),
        scale=1.0,
    )
    assert summary.strongest["glioma"].slice == 2
    assert not summary.strongest["glioma"].visible
    assert str(summary) == (
        "brain.nii.gz: 2 slices: glioma on 2 (1-2, class map empty, most probable 2), no tumor class on 0"
    )


def test_a_visible_class_map_comes_before_a_probability_and_the_first_of_equals_is_taken() -> None:
    summary = one(
        slice_prediction(3, "glioma", strength=0.5, probability=0.6),
        slice_prediction(2, "glioma", strength=0.5, probability=0.6),
        slice_prediction(1, "glioma", strength=0.01, probability=0.99),
    )
    assert summary.strongest["glioma"].slice == 2


def test_one_line_tells_people_all_of_it() -> None:
    assert str(one(*WHOLE, scale=4.0)) == (
        "brain.nii.gz: 10 slices: glioma on 4 (3, 5-7, strongest 6), meningioma on none (strongest 8, referred), "
        "no tumor class on 2 (2, 4), referred 4 (1, 9-10: image quality: empty; "
        "8: uncertain between Meningioma and Glioma)"
    )
    assert str(one(slice_prediction(5, "no_tumor"))) == "brain.nii.gz: 1 slice: no tumor class on 1 (5)"


def test_the_order_of_the_answers_changes_nothing() -> None:
    assert one(*reversed(WHOLE)) == one(*WHOLE)
    shuffled = [WHOLE[index] for index in (4, 1, 9, 0, 3, 8, 2, 7, 6, 5)]
    assert str(one(*shuffled)) == str(one(*WHOLE))


def test_the_longest_run_is_of_neighbours() -> None:
    assert one(*WHOLE).longest_run == {"glioma": (5, 7)}
    gap = [slice_prediction(number, "glioma") for number in (1, 2, 4, 5, 6, 9)]
    assert one(*gap).longest_run == {"glioma": (4, 6)}
    equal = [slice_prediction(number, "glioma") for number in (1, 2, 4, 5)]
    assert one(*equal).longest_run == {"glioma": (1, 2)}


def test_referred_slices_part_a_run() -> None:
    slices = [slice_prediction(number, "glioma", reasons=EMPTY if number == 3 else ()) for number in range(1, 8)]
    assert one(*slices).longest_run == {"glioma": (4, 7)}


def test_neighbours_are_told_by_position_where_all_slices_have_one() -> None:
    downwards = [
        slice_prediction(number, "glioma" if number < 4 else "no_tumor", position=-5.0 * number)
        for number in range(1, 7)
    ]
    assert one(*downwards).longest_run == {"glioma": (1, 3)}
    interleaved = [
        slice_prediction(number, "glioma", position=float(position)) for number, position in ((1, 0), (2, 10), (3, 5))
    ]
    assert one(*interleaved).longest_run == {"glioma": (2, 3)}


@pytest.mark.parametrize("positions", [(None, 5.0, 10.0), (5.0, 5.0, 10.0)])
def test_missing_and_repeated_positions_fall_back_to_numbers(positions: tuple[float | None, ...]) -> None:
    slices = [
        slice_prediction(number, "glioma", position=position)
        for number, position in zip((3, 1, 2), positions, strict=True)
    ]
    assert one(*slices).longest_run == {"glioma": (1, 3)}


def test_gaps_and_repeated_numbers_are_told() -> None:
    summary = one(*(slice_prediction(number, "glioma") for number in (2, 3, 3, 7, 2_000_000_000)))
    assert summary.slices == 5
    assert summary.decided["glioma"] == (2, 3, 3, 7, 2_000_000_000)
    assert summary.gaps == ((4, 6), (8, 1_999_999_999))
    assert summary.repeated == (3,)
    assert str(summary) == (
        "brain.nii.gz: 5 slices: glioma on 5 (2-3, 7, 2000000000, strongest 2), no tumor class on 0, "
        "no answer for 4-6, 8-1999999999, several slices with the number 3"
    )


def test_many_gaps_are_shortened_on_the_line_only() -> None:
    summary = one(*(slice_prediction(number, "no_tumor") for number in range(1, 20, 2)))
    assert len(summary.gaps) == len(summary.record()["gaps"]) == 9
    assert "no answer for 2, 4, 6, 8, 10 and 4 more gaps" in str(summary)


def test_notes_are_told_with_their_slices() -> None:
    summary = one(
        *(slice_prediction(number, "glioma", notes=("no window",)) for number in (1, 2, 4)),
        slice_prediction(3, "glioma", notes=("dark", "odd")),
    )
    assert summary.notes == {"no window": (1, 2, 4), "dark": (3,), "odd": (3,)}
    assert summary.lines()[1:] == ["  slice 1-2, 4: no window", "  slice 3: dark", "  slice 3: odd"]
    assert summary.record()["notes"]["no window"] == [1, 2, 4]


def test_volumes_come_in_order_and_single_images_are_left_out() -> None:
    predictions = [
        slice_prediction(1, "glioma", volume="b"),
        slice_prediction(1, "glioma", volume=None),
        slice_prediction(1, "no_tumor", volume="a"),
        slice_prediction(2, "pituitary", volume="b"),
    ]
    assert [(summary.volume, summary.slices) for summary in summarize_volumes(iter(predictions), 1.0)] == [
        ("b", 2),
        ("a", 1),
    ]
    assert summarize_volumes([], 1.0) == []
    assert summarize_volumes([slice_prediction(1, "glioma", volume=None)], 1.0) == []


def test_no_line_says_what_the_volume_or_the_patient_has() -> None:
    for summary in (
        one(*WHOLE),
        one(slice_prediction(1, "no_tumor")),
        one(*(slice_prediction(n, "glioma") for n in range(9))),
    ):
        assert "no tumor class on" in str(summary)
        assert set(summary.record()) == {
            *("volume", "slices", "decided", "referred", "reasons", "strongest", "longest_run", "gaps", "repeated"),
            *("notes", "text"),
        }


def test_the_record_is_json_and_complete() -> None:
    record: dict[str, Any] = json.loads(json.dumps(one(*WHOLE, scale=4.0).record()))
    assert record["decided"] == {"glioma": [3, 5, 6, 7], "meningioma": [], "pituitary": [], "no_tumor": [2, 4]}
    assert record["referred"][1] == {"slice": 8, "reasons": [uncertain("meningioma", "glioma").record()]}
    assert record["strongest"]["glioma"] == {
        **{"slice": 6, "image": "x#6", "strength": 1.75},
        **{"probability": 0.8, "decided": True},
    }
    assert record["longest_run"] == {"glioma": [5, 7]}
    assert record["text"].startswith("brain.nii.gz: 10 slices")


def test_the_builder_keeps_no_class_maps() -> None:
    builder = VolumeSummaryBuilder(1.0)
    for prediction in WHOLE:
        builder.add(prediction)
    assert "array" not in repr(vars(builder))
    assert builder.summaries() == summarize_volumes(WHOLE, 1.0)


@pytest.mark.parametrize(
    ("numbers", "words"), [((), ""), ((4,), "4"), ((1, 2, 3, 5, 9, 8), "1-3, 5, 8-9"), ((2, 2, 3), "2-3")]
)
def test_numbers_are_told_as_ranges(numbers: tuple[int, ...], words: str) -> None:
    assert numbered(numbers) == words


@pytest.mark.usefixtures("shared_decoders")
def test_a_volume_is_summed_up_from_its_file(model: Model) -> None:
    predictions = predict([(brain(size=64), "brain.nii.gz")], model)
    summary = one(*predictions, scale=model.card.class_map_scale)
    assert summary.slices == len(predictions) == 12
    assert dict(summary.referred)[1] == dict(summary.referred)[12] == EMPTY
    for name, evidence in summary.strongest.items():
        assert evidence.decided
        maxima = {
            prediction.image: float(prediction.class_maps[CLASSES.index(name)].max())
            for prediction in predictions
            if prediction.decision == name
        }
        assert maxima[evidence.image] == max(maxima.values())
    assert summary.strongest


RULES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "fixtures" / "volume_rules.json").read_text())


@pytest.mark.parametrize("case", RULES, ids=[case["name"] for case in RULES])
def test_order_and_strongest_evidence_follow_the_rules_that_the_viewer_shares(case: dict[str, Any]) -> None:
    predictions = [
        replace(
            slice_prediction(
                slice_["number"],
                slice_["predicted"],
                strength=slice_["strength"],
                probability=slice_["probability"],
                position=slice_["position"],
                reasons=tuple(Referral(ReferralReason(code)) for code in slice_["reasons"]),
            ),
            decision=slice_["decision"],
        )
        for slice_ in case["slices"]
    ]
    builder = VolumeSummaryBuilder(1.0)
    for prediction in predictions:
        builder.add(prediction)
    ((_, outcomes),) = builder._outcomes.items()
    assert [outcome.number for outcome in in_order(outcomes)] == case["order"]
    evidence = one(*predictions).strongest
    assert {name: {"slice": best.slice, "decided": best.decided} for name, best in evidence.items()} == case["evidence"]
