"""Draw docs/images/leakage.png: what the official test images of the public set share with its training part.

The numbers are those of benchmarks/results/audit.json; the slices are synthetic.

Command: python docs/generate_leakage_picture.py
"""

import io
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from braintumor.data.phantom import phantom

mpl.use("Agg")
ROOT = Path(__file__).parent.parent
PARTS = (
    (("bytes", "pixels"), "identical file", "#8c2d04"),
    (("near", "turned"), "copy, mirrored or not", "#d94801"),
    (("related", "group"), "other slice of the same group", "#fdae6b"),
    (("none",), "nothing", "#2b8cbe"),
)


def main() -> None:
    """Write the picture."""
    numbers = json.loads((ROOT / "benchmarks" / "results" / "audit.json").read_text())["numbers"]
    counts = [sum(numbers[f"found.relations.{name}"]["value"] for name in names) for names, _, _ in PARTS]
    figure = plt.figure(figsize=(9, 4.4), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    bar = rows[0].subplots()
    left = 0.0
    for (_, title, colour), count in zip(PARTS, counts, strict=True):
        bar.barh(0, count, left=left, color=colour, height=0.6, label=f"{title}: {count:,.0f}")
        left += count
    bar.set(xlim=(0, left), yticks=[], title=f"What the {left:,.0f} official test images share with the training part")
    bar.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, frameon=False, fontsize=8)
    bar.spines[["top", "left", "right"]].set_visible(False)
    draw_copies(rows[1])
    figure.savefig(ROOT / "docs" / "images" / "leakage.png", dpi=110)


def draw_copies(figure: "mpl.figure.SubFigure") -> None:
    """Draw a synthetic slice beside what counts as a copy of it, and another slice that does not."""
    slice_ = phantom("meningioma", 7, size=160)
    pictures = {
        "a slice": slice_,
        "mirrored": slice_[:, ::-1],
        "turned": np.rot90(slice_),
        "cropped by 5 %": slice_[4:156, 4:156],
        "other contrast": slice_**0.6,
        "compressed": compressed(slice_),
        "another slice": phantom("meningioma", 8, size=160),
    }
    for axes, (title, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.suptitle("Copies of one slice, and a slice that is none (synthetic)", fontsize=10)


def compressed(pixels: np.ndarray) -> np.ndarray:
    """Return the slice after a JPEG compression of low quality."""
    content = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(content, "JPEG", quality=12)
    return np.asarray(Image.open(content)) / 255


if __name__ == "__main__":
    main()
