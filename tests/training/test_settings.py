"""Settings of a run that are of another kind, out of range or do not fit one another are told at once."""

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest

from braintumor.errors import TrainingError
from braintumor.training.augment import Augment
from braintumor.training.config import RECIPES, TrainConfig
from braintumor.training.settings import check_number, check_range, check_whole

WRONG: dict[str, tuple[Any, ...]] = {
    "model": ("", 3, None),
    "recipe": ("", None),
    "epochs": (0, -1, 1.5, 2.0, True, "3", None, math.nan, 10**9),
    "batch_size": (1, 0, -32, 32.0, True, 10**9),
    "learning_rate": (0, -1e-4, math.nan, math.inf, 11, "1e-4", True),
    "final_learning_rate": (-1e-9, 1e-3, math.nan, "0"),  # above the highest rate
    "warmup_epochs": (-0.5, math.inf, math.nan, None),
    "weight_decay": (-0.1, math.nan, math.inf, 11),
    "label_smoothing": (-0.1, 1, 1.5, math.nan),
    "averaging": (1.0, -0.1, math.nan),
    "dropout": (1, -0.5, math.nan, "half"),
    "patience": (0, -1, 2.5, math.inf),
    "keep_last": (1, "yes", None),
    "validation_fraction": (0, 1, -0.1, 1.5, math.nan, True),
    "norm_batches": (-1, 0.5, None),
    "frozen": ("conv1", ["conv1"], ("",), (3,)),
    "weights": ("", None, 3),
    "allow_partial_weights": (0, "true"),
    "size": (0, 31, 5000, 224.0, -224),
    "train_sizes": ((16,), [96], (96.0,), 96),
    "source_size": (0, 31, None),
    "map_stride": (-8, 8.0, 1000, True),
    "attention": (1, None),
    "guidance": (-0.3, math.nan, math.inf),
    "masks": (None, 3),
    "seed": (-1, 0.5, 2**63, True, None),
    "augment": (None, {}, "strong"),
}
WRONG_AUGMENT: dict[str, tuple[Any, ...]] = {
    "crop_scale": ((0, 1), (0.7, 1.1), (1.0, 0.7), (0.7,), 0.7, (math.nan, 1)),
    "crop_aspect": ((0, 1), (1.1, 0.9), (1, math.inf), None),
    "flip_horizontal": (-0.1, 1.1, math.nan, True),
    "flip_vertical": (2, "0.3"),
    "rotation": (-1, 181, math.nan),
    "brightness": (-0.2, 1.2),
    "contrast": (-0.2, math.inf),
    "blur": (-1, 2),
    "blur_sigma": ((-0.1, 1), (1, 0.1), "01", (0.1, 11)),
}


def test_every_setting_has_values_that_are_refused() -> None:
    assert set(WRONG) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(WRONG_AUGMENT) == {field.name for field in dataclasses.fields(Augment)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_named_with_what_came(name: str, value: object) -> None:
    with pytest.raises(TrainingError, match=f"^{name}: expected ") as refusal:
        TrainConfig(**{"model": "cnn", name: value})
    shown = value[0] if name in ("frozen", "train_sizes") and isinstance(value, tuple) else value
    assert str(refusal.value).endswith(f", got {shown!r}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_AUGMENT.items() for value in values]
)
def test_a_wrong_setting_of_the_augmentation_is_named(name: str, value: object) -> None:
    with pytest.raises(TrainingError, match=rf"^augment\.{name}: expected "):
        Augment(**{name: value})


def test_every_recipe_keeps_to_the_ranges() -> None:
    for recipes in RECIPES.values():
        for config in recipes.values():
            assert replace(config, epochs=1, batch_size=2, seed=2**63 - 1).epochs == 1


def test_outlines_are_refused_where_they_cannot_teach() -> None:
    with pytest.raises(TrainingError, match="the recipe reference pools all positions evenly"):
        TrainConfig("cnn", masks="figshare")
    with pytest.raises(TrainingError, match="choose --recipe best, or leave --masks out"):
        TrainConfig("cnn", masks="figshare", attention=True)
    assert TrainConfig("cnn", masks="figshare", attention=True, guidance=0.3).masks == "figshare"


def test_sentences_state_the_range() -> None:
    with pytest.raises(TrainingError, match=r"^a: expected a whole number of at least 1, got 0$"):
        check_whole("a", 0, 1)
    with pytest.raises(TrainingError, match=r"^a: expected a whole number from 1 to 9, got True$"):
        check_whole("a", True, 1, 9)
    with pytest.raises(TrainingError, match=r"^a: expected a number above 0 and below 1, got 1$"):
        check_number("a", 1, 0, 1, open_low=True, open_high=True)
    with pytest.raises(TrainingError, match=r"^a: expected a number from 0 to 1, got nan$"):
        check_number("a", math.nan, 0, 1)
    with pytest.raises(TrainingError, match=r"^a: expected the smaller number first, got \(2, 1\)$"):
        check_range("a", (2, 1), 0, 9)
    check_number("a", 1, 0, 1)
    check_range("a", (1, 1), 0, 1)
