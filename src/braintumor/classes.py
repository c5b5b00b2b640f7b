"""Define the classes, in the one order that every array, table and file of this project uses."""

from typing import Final

CLASSES: Final = ("glioma", "meningioma", "pituitary", "no_tumor")
TITLES: Final = {
    "glioma": "Glioma",
    "meningioma": "Meningioma",
    "pituitary": "Pituitary tumor",
    "no_tumor": "No tumor",
}
DISCLAIMER: Final = "Research use only. Not a medical device. Not for diagnosis."
