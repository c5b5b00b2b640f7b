"""Reasons to withhold an answer, as tests need them."""

from typing import Final

from braintumor.errors import ReferralReason
from braintumor.models.referral import QualityDefect, Referral

NOT_BRAIN_MRI: Final = Referral(ReferralReason.NOT_BRAIN_MRI)
OUT_OF_DISTRIBUTION: Final = Referral(ReferralReason.OUT_OF_DISTRIBUTION)
EMPTY, SATURATED, TOO_SMALL, WRITING = (Referral(ReferralReason.IMAGE_QUALITY, (defect,)) for defect in QualityDefect)


def uncertain(first: str, second: str) -> Referral:
    """Return that the answer is uncertain between two classes."""
    return Referral(ReferralReason.UNCERTAIN, (first, second))
