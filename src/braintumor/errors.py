"""What can go wrong because of what came in. The command line prints these and exits 2; all else is our bug."""

from collections.abc import Mapping
from enum import StrEnum, auto
from pathlib import Path

from braintumor.text import visible


class Refusal(StrEnum):
    """Why a file has no answer: what programs compare, where people read `ImageError.reason`."""

    BUSY = auto()
    """Not the file's fault: its decoder was killed or stopped, or none could be started. Trying again may help."""
    CANNOT_OPEN = auto()
    EMPTY = auto()
    MISSING_LIBRARY = auto()
    """Of a kind whose libraries are not installed."""
    NOT_MR = auto()
    """By its header no MR slice of the head."""
    NO_SLICE = auto()
    """It holds no slice that was asked for."""
    OUT_OF_MEMORY = auto()
    SEVERAL_SLICES = auto()
    TIMEOUT = auto()
    """Decoding it takes more of a processor's time than is given to one file."""
    TOO_LARGE = auto()
    TOO_SMALL = auto()
    TRUNCATED = auto()
    UNDECODABLE = auto()
    UNKNOWN_FORMAT = auto()
    UNSUPPORTED = auto()
    """Intact, but of a kind of pixels, values or header that is not read."""


class BrainTumorError(Exception):
    """Input that cannot be used. The message says what came, what was expected and what to do.

    Each argument is a line of the message. What came from outside, a file name for one, cannot begin a further line.
    """

    def __str__(self) -> str:
        """Return the message, with its control characters made visible."""
        return "\n".join(visible(str(line)) for line in self.args)


class ImageError(BrainTumorError):
    """One image that cannot be read.

    Attributes:
        source: what the image is called.
        reason: why, for people; names neither the folder nor the content of the file.
        code: why, for programs.
    """

    def __init__(self, source: str, reason: str, code: Refusal = Refusal.UNDECODABLE) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason
        self.code = code


class DataError(BrainTumorError):
    """A data folder or manifest that cannot be used."""


class UnreadableDataError(DataError):
    """Files of a data folder that cannot be read: `problems` maps each path to its reason."""

    def __init__(self, root: Path, problems: Mapping[str, str]) -> None:
        super().__init__(
            f"{len(problems)} unusable path(s) in {root}:",
            *(f"  {path}: {reason}" for path, reason in sorted(problems.items())),
            "Repair or remove them, or pass --skip_unreadable to go on without them.",
        )
        self.problems = dict(problems)


class DownloadError(BrainTumorError):
    """A published file that cannot be fetched, or whose content is not the published one."""


class ModelError(BrainTumorError):
    """A model folder that is missing, damaged or of another kind."""


class WeightsError(BrainTumorError):
    """Starting weights that cannot be fetched, verified or fitted to the network."""


class TrainingError(BrainTumorError):
    """Training cannot start or go on: NaN loss, an occupied folder, a changed setting on resume."""


class StorageError(BrainTumorError):
    """A file that cannot be written: no space left, no permission, a read-only folder."""


class MissingExtraError(BrainTumorError):
    """A part of the package whose libraries are not installed."""

    def __init__(self, extra: str, missing: str) -> None:
        super().__init__(f"this needs the library {missing}; install it with: pip install 'braintumor[{extra}]'")
