"""Types of options that several commands share, with the words for them in the help.

Apart from the commands, so that help names a value by what it means instead of by Python's type.
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
"""A whole number; None where a recipe or the model says it."""
Share = Annotated[float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="")]
"""A fraction from 0 to 1; None where the model says it."""
Precision = Annotated[Literal["float32", "int8"] | None, tyro.conf.arg(metavar="{float32,int8}", help_behavior_hint="")]
"""Precision of the network; None for the first that the model has."""
SliceNumbers = Annotated[str, tyro.conf.arg(metavar="NUMBERS")]
"""Which slices of volumes, as `SliceSelection.of` reads it."""
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
OptionalName = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
Inputs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]", help_behavior_hint="")
]
"""Images, volumes and folders to classify."""
