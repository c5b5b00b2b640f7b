"""Name the reasons for withholding an answer: a code for programs, a sentence for people, written only here."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

from braintumor.classes import TITLES
from braintumor.errors import ReferralReason

SMALLEST_SIDE: Final = 64  # pixels along the shorter side of a slice that is good enough
REASON_TITLES: Final[Mapping[ReferralReason, str]] = {
    ReferralReason.NOT_BRAIN_MRI: "not a brain MRI",
    ReferralReason.OUT_OF_DISTRIBUTION: "unlike the training images",
    ReferralReason.UNCERTAIN: "uncertain",
    ReferralReason.IMAGE_QUALITY: "image quality",
}
"""The title of each reason, where slices are counted by it."""


class QualityDefect(StrEnum):
    """A defect of a picture, the detail of a referral for `image_quality`."""

    EMPTY = auto()
    SATURATED = auto()
    TOO_SMALL = auto()
    WRITING = auto()


_DEFECT_TITLES: Final = {
    QualityDefect.EMPTY: "empty",
    QualityDefect.SATURATED: "saturated",
    QualityDefect.TOO_SMALL: f"smaller than {SMALLEST_SIDE} pixels",
    QualityDefect.WRITING: "writing in the image",
}


@dataclass(frozen=True)
class Referral:
    """One reason to withhold an answer.

    Attributes:
        code: the reason, for programs.
        details: the two most probable classes for `uncertain`, the `QualityDefect` for `image_quality`.
    """

    code: ReferralReason
    details: tuple[str, ...] = ()

    def text(self, titles: Mapping[str, str] = TITLES) -> str:
        """Return the reason for people.

        Args:
            titles: names of the classes for people.
        """
        title = REASON_TITLES[self.code]
        if self.code == ReferralReason.UNCERTAIN:
            return f"{title} between {' and '.join(titles[name] for name in self.details)}"
        if self.code == ReferralReason.IMAGE_QUALITY:
            return f"{title}: {', '.join(_DEFECT_TITLES[QualityDefect(defect)] for defect in self.details)}"
        return title

    def record(self) -> dict[str, str]:
        """Return code and text, as they stand in JSON."""
        return {"code": self.code, "text": self.text()}


def sentence(reasons: tuple[Referral, ...], titles: Mapping[str, str] = TITLES) -> str:
    """Return several reasons on one line."""
    return "; ".join(reason.text(titles) for reason in reasons)
