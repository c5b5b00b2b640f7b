"""Pictures for the report: the worst mistakes and answers that do not need the tumor, with their class maps."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from braintumor.classes import CLASSES
from braintumor.data.manifest import Manifest, Row
from braintumor.data.outlines import outlines
from braintumor.evaluate.localization import answers, filled, hole_of
from braintumor.io.read import read
from braintumor.models.preprocess import pad_to_square
from braintumor.models.session import Model
from braintumor.overlay import has_evidence, overlay
from braintumor.predictor import Prediction, predict_all

MISTAKES = 24
SURVIVORS = 12
SIDE = 256
LEGEND_HEIGHT = 16


@dataclass(frozen=True)
class Mistake:
    """One wrong answer; the pictures are `data:` addresses of JPEG images.

    Attributes:
        probabilities: per class.
        slice: what the network saw, before resampling.
        maps: the class maps of the predicted and of the true class on the slice.
        evidence: whether these two maps show any.
    """

    image: str
    label: str
    predicted: str
    probabilities: dict[str, float]
    slice: str
    maps: tuple[str, str]
    evidence: tuple[bool, bool]


def worst_mistakes(given: Sequence[tuple[Row, Prediction]], root: Path, model: Model) -> list[Mistake]:
    """Return the at most 24 wrong answers that gave the true class the smallest probability, smallest first.

    The class maps are computed again, so that nobody has to keep those of all images.

    Args:
        given: rows and what the model said.
        root: the folder that the rows' images are relative to.
        model: the model that said it.

    Raises:
        ImageError: an image has become unreadable.
    """
    wrong = [(row, answer) for row, answer in given if answer.predicted != row.label]
    # the name decides between equal probabilities, so that two runs show the same images
    worst = sorted(wrong, key=lambda pair: (float(pair[1].probabilities[CLASSES.index(pair[0].label)]), pair[0].image))
    rows = [row for row, _ in worst[:MISTAKES]]
    again = predict_all([root / row.image for row in rows], model)
    return [_mistake(row, answer, root, model) for row, answer in zip(rows, again, strict=True)]


def _mistake(row: Row, answer: Prediction, root: Path, model: Model) -> Mistake:
    """Return a wrong answer with its pictures."""
    # class maps cover the padded square that the network saw
    pixels = pad_to_square(read(root / row.image).pixels)
    scale = model.card.class_map_scale
    predicted, true = (answer.class_maps[CLASSES.index(name)] for name in (answer.predicted, row.label))
    return Mistake(
        image=row.image,
        label=row.label,
        predicted=answer.predicted,
        probabilities=dict(zip(CLASSES, answer.probabilities.tolist(), strict=True)),
        slice=picture(np.rint(pixels * 255).astype(np.uint8)),
        maps=(picture(overlay(pixels, predicted, scale)), picture(overlay(pixels, true, scale))),
        evidence=(has_evidence(predicted, scale), has_evidence(true, scale)),
    )


@dataclass(frozen=True)
class Survivor:
    """A right answer that stays the same without the tumor; the pictures are `data:` addresses of JPEG images.

    Attributes:
        slice: as the network saw it, with the class map of the true class.
        without: the slice whose tumor is filled from its surroundings, with the class map of the same class there.
    """

    image: str
    label: str
    slice: str
    without: str


def survivors(model: Model, images: Manifest, reference: Path, cache: Path) -> list[Survivor]:
    """Return what a model saw in images, with and without the tumor whose outline a reference folder knows.

    Raises:
        DataError: the reference folder cannot be used.
        ImageError: an image has become unreadable.
    """
    result = []
    for row, polygon in zip(images, outlines(images, reference, cache), strict=True):
        if polygon is None:
            continue
        levels = model.card.preprocess.grey_levels(read(images.path(row)))
        both = [levels, filled(levels, hole_of(polygon, levels.shape[0]))]
        maps = [answer.class_maps[CLASSES.index(row.label)] for answer in answers(both, model)]
        scale = model.card.class_map_scale
        pictures = [
            picture(overlay(pixels.astype(np.float32) / np.float32(255), heat, scale))
            for pixels, heat in zip(both, maps, strict=True)
        ]
        result.append(Survivor(row.image, row.label, *pictures))
    return result


def legend() -> str:
    """Return the colours of class maps from nothing to full scale, left to right, as a `data:` address."""
    ramp = np.tile(np.linspace(0, 1, SIDE, dtype=np.float32), (LEGEND_HEIGHT, 1))
    return picture(overlay(np.full_like(ramp, 0.35), ramp, 1.0))


def picture(pixels: NDArray[np.uint8]) -> str:
    """Return grey (H, W) or colour (H, W, 3) pixels, at most 256 on a side, as the `data:` address of a JPEG."""
    image = Image.fromarray(pixels)
    # the pictures are inside the page, which is sent by mail
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
