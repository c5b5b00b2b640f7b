"""Build coded concepts of DICOM, and datasets from attributes.

Separate from `codes`, whose constants on top need this class.
"""

from typing import NamedTuple

from pydicom.dataset import Dataset


class Code(NamedTuple):
    """A coded concept: value and scheme identify it, the meaning is for people (PS3.3 8)."""

    value: str
    scheme: str
    meaning: str

    def item(self) -> Dataset:
        """Return the code as the item of a code sequence."""
        return dataset(CodeValue=self.value, CodingSchemeDesignator=self.scheme, CodeMeaning=self.meaning)


def dataset(**attributes: object) -> Dataset:
    """Return a dataset with these attributes."""
    result = Dataset()
    for keyword, value in attributes.items():
        setattr(result, keyword, value)
    return result
