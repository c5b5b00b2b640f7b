"""The sentences for people about withheld answers: no other test holds their words."""

import pytest

from braintumor.errors import ReferralReason
from braintumor.models.referral import REASON_TITLES, Referral, sentence
from tests.referrals import EMPTY, NOT_BRAIN_MRI, OUT_OF_DISTRIBUTION, SATURATED, TOO_SMALL, WRITING, uncertain


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (NOT_BRAIN_MRI, "not a brain MRI"),
        (OUT_OF_DISTRIBUTION, "unlike the training images"),
        (uncertain("no_tumor", "pituitary"), "uncertain between No tumor and Pituitary tumor"),
        (EMPTY, "image quality: empty"),
        (SATURATED, "image quality: saturated"),
        (TOO_SMALL, "image quality: smaller than 64 pixels"),
        (WRITING, "image quality: writing in the image"),
    ],
)
def test_each_reason_has_its_sentence(reason: Referral, text: str) -> None:
    assert reason.text() == text
    assert reason.record() == {"code": str(reason.code), "text": text}


def test_every_code_has_a_title_and_a_sentence() -> None:
    assert set(REASON_TITLES) == set(ReferralReason)
    assert {
        reason.code for reason in (NOT_BRAIN_MRI, OUT_OF_DISTRIBUTION, EMPTY, uncertain("glioma", "no_tumor"))
    } == set(ReferralReason)


def test_classes_may_be_called_otherwise() -> None:
    titles = {"glioma": "Glioma class", "no_tumor": "No tumor class"}
    assert uncertain("glioma", "no_tumor").text(titles) == "uncertain between Glioma class and No tumor class"
    assert sentence((EMPTY, uncertain("glioma", "no_tumor")), titles) == (
        "image quality: empty; uncertain between Glioma class and No tumor class"
    )
