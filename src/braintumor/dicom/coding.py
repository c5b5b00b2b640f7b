"""A coded concept of DICOM, and a dataset made of attributes.

Apart from `codes`, whose constants need it on top.
"""

from typing import NamedTuple

from pydicom.dataset import Dataset


class Code(NamedTuple):
    """A coded concept: value and scheme are what it is, the meaning is for people (PS3.3 8)."""

    value: str
    scheme: str
    meaning: str

    def item(self) -> Dataset:
        """Return the code as the item of a code sequence."""
        return dataset(CodeValue=self.value, CodingSchemeDesignator=self.scheme, CodeMeaning=self.meaning)


def dataset(**attributes: object) -> Dataset:
    """Return a dataset with these attributes."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made
