"""Every setting of a training run, with the published values as defaults, and the named recipes."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

from braintumor.errors import DataError, TrainingError
from braintumor.training.augment import Augment
from braintumor.training.settings import check_flag, check_number, check_text, check_tuple, check_whole

RESNET_FROZEN = ("conv1", "bn1", "layer1", "layer2")
MOST_EPOCHS: Final = 1_000_000
MOST_LEARNING_RATE: Final = 10.0
MOST_WEIGHT_DECAY: Final = 10.0
MOST_GUIDANCE: Final = 1e6
WHOLE_NUMBERS: Final = {
    "epochs": (1, MOST_EPOCHS),
    "batch_size": (2, 65_536),  # batch norm needs two images
    "patience": (1, MOST_EPOCHS),
    "norm_batches": (0, MOST_EPOCHS),
    "size": (32, 4096),  # five halvings leave one position of 32 pixels
    "source_size": (32, 4096),
    "map_stride": (0, 256),
    "seed": (0, 2**63 - 1),
}
"""The smallest and the largest value of each setting that is a whole number."""
NO_EARLY_STOP = 1_000  # epochs of patience, more than any recipe has
GUIDED: Final[dict[str, Any]] = {"map_stride": 8, "attention": True, "guidance": 0.3}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on besides the data; the card records all of it.

    Attributes:
        model: `cnn`, `resnet` or a timm name.
        recipe: the name under which these settings are published.
        epochs: at most; fewer where early stopping ends the run.
        learning_rate: at its highest; falls along a half cosine to `final_learning_rate` at the last step.
        warmup_epochs: over which the learning rate first rises from `final_learning_rate`; 0 starts at the top.
        weight_decay: of AdamW.
        label_smoothing: share of the target spread evenly over all classes. Source: arXiv:1512.00567.
        averaging: decay per step of a moving average of the weights, which is then what is validated and kept;
            0 keeps the weights themselves. Source: arXiv:1803.05407.
        dropout: in the head.
        patience: epochs without a better validation macro-F1 after which the run ends.
        keep_last: keep the last epoch instead of the one with the best validation macro-F1, and never stop early. Where
            weights are averaged and the learning rate has fallen to its end, the best of many epochs is best by chance.
        validation_fraction: share of the training images held out, in whole groups.
        norm_batches: unaugmented training batches on which the statistics of trained batch norms are measured before
            every validation; 0 keeps the running ones, which follow the augmented images. Source: arXiv:2105.07576.
        frozen: parts of the backbone that keep their weights and batch-norm statistics.
        weights: `imagenet`, `none` or a safetensors file.
        allow_partial_weights: accept weights that lack tensors; these start He-normal.
        size: side of the network's input in pixels.
        train_sizes: sides of the training images, each for an equal share of the epochs; empty for `size` throughout.
        source_size: side of the cached image that crops are taken from.
        map_stride: input pixels to one position of the features that are pooled and of the class maps; 0 takes the
            backbone's last features, which have 32.
        attention: pool under learnt weights instead of evenly.
        guidance: weight of the second task, to pool where the tumor's outline lies, wherever `masks` knows it.
        masks: reference folder with the outlines, empty for none.
        seed: of initial weights, order, augmentation, dropout and the validation split.
    """

    model: str
    recipe: str = "reference"
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    warmup_epochs: float = 0.0
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    averaging: float = 0.0
    dropout: float = 0.6
    patience: int = 5
    keep_last: bool = False
    validation_fraction: float = 0.15
    norm_batches: int = 0
    frozen: tuple[str, ...] = ()
    weights: str = "none"
    allow_partial_weights: bool = False
    size: int = 224
    train_sizes: tuple[int, ...] = ()
    source_size: int = 256
    map_stride: int = 0
    attention: bool = False
    guidance: float = 0.0
    masks: str = ""
    seed: int = 0
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            TrainingError: a setting is of another kind, out of range, or does not fit the others.
        """
        for name in ("model", "recipe", "weights"):
            check_text(name, getattr(self, name))
        check_text("masks", self.masks, empty=True)
        for name in ("keep_last", "allow_partial_weights", "attention"):
            check_flag(name, getattr(self, name))
        for name, (lowest, highest) in WHOLE_NUMBERS.items():
            check_whole(name, getattr(self, name), lowest, highest)
        for name in ("label_smoothing", "averaging", "dropout"):
            check_number(name, getattr(self, name), 0, 1, open_high=True)
        check_number("validation_fraction", self.validation_fraction, 0, 1, open_low=True, open_high=True)
        check_number("learning_rate", self.learning_rate, 0, MOST_LEARNING_RATE, open_low=True)
        check_number("final_learning_rate", self.final_learning_rate, 0, self.learning_rate)
        check_number("warmup_epochs", self.warmup_epochs, 0, MOST_EPOCHS)
        check_number("weight_decay", self.weight_decay, 0, MOST_WEIGHT_DECAY)
        check_number("guidance", self.guidance, 0, MOST_GUIDANCE)
        for prefix in check_tuple("frozen", self.frozen):
            check_text("frozen", prefix)
        lowest, highest = WHOLE_NUMBERS["size"]
        for size in check_tuple("train_sizes", self.train_sizes):
            check_whole("train_sizes", size, lowest, highest)
        if not isinstance(self.augment, Augment):
            raise TrainingError(f"augment: expected an Augment, got {self.augment!r}")
        # Refused, not ignored: who passes outlines expects them to have an effect.
        if self.masks and not (self.attention and self.guidance):
            raise TrainingError(
                f"the recipe {self.recipe} pools all positions evenly, so outlines cannot teach it where to look; "
                "choose --recipe best, or leave --masks out"
            )


RECIPES: Final = {
    "reference": {
        "cnn": TrainConfig("cnn", norm_batches=32),
        "resnet": TrainConfig("resnet", epochs=30, frozen=RESNET_FROZEN, weights="imagenet"),
    },
    "fast": {
        "cnn": TrainConfig(
            "cnn",
            "fast",
            epochs=24,
            learning_rate=2e-3,
            warmup_epochs=1,
            weight_decay=0.05,
            averaging=0.99,
            patience=NO_EARLY_STOP,
            norm_batches=8,
            size=160,
            train_sizes=(96, 112, 128, 144),
            source_size=224,
        ),
        "resnet": TrainConfig(
            "resnet",
            "fast",
            epochs=12,
            learning_rate=2e-4,
            warmup_epochs=0.5,
            weight_decay=0.05,
            averaging=0.99,
            patience=NO_EARLY_STOP,
            frozen=RESNET_FROZEN,
            weights="imagenet",
            train_sizes=(160, 192),
        ),
    },
}
# `best` is `fast` with finer, guided class maps and a smaller validation part. Its ResNet trains layer2 too, for fewer
# epochs: more of them ended at a higher validation loss, see docs/concepts/training.md.
RECIPES["best"] = {
    "cnn": replace(RECIPES["fast"]["cnn"], recipe="best", validation_fraction=0.1, **GUIDED),
    "resnet": replace(
        RECIPES["fast"]["resnet"],
        recipe="best",
        epochs=8,
        frozen=("conv1", "bn1", "layer1"),
        source_size=224,
        validation_fraction=0.1,
        **GUIDED,
    ),
}


def recipe(name: str, model: str) -> TrainConfig:
    """Return the settings of a named recipe for a model; a timm backbone gets the CNN's, from `none` weights.

    Raises:
        DataError: there is no such recipe.
    """
    if name not in RECIPES:
        raise DataError(f"no recipe is called {name!r}; choose one of {', '.join(RECIPES)}")
    models = RECIPES[name]
    return models.get(model) or replace(models["cnn"], model=model)
