"""Define the errors that input can cause. The command line prints these and exits 2; any other one is our bug."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from enum import StrEnum, auto
from pathlib import Path
from typing import Final

from braintumor.text import visible

DECODE_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Exceptions that libraries raise on damaged files, besides their own, which are added where they are called."""
MALFORMED_ERRORS: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Exceptions that Python raises where a message is not what it is taken for."""


class Refusal(StrEnum):
    """The code for why a file has no answer. Programs compare it; people read `ImageError.reason`."""

    ABANDONED = auto()
    """Not decoded, since the files before it in the request, or the answers about them, took too much."""
    BUSY = auto()
    """Not the file's fault: its decoder was killed or stopped, or none could be started. A retry may help."""
    CANNOT_OPEN = auto()
    EMPTY = auto()
    MISSING_LIBRARY = auto()
    """Of a kind whose libraries are not installed."""
    NOT_MR = auto()
    """By its header no MR slice of the head."""
    NO_SLICE = auto()
    """It holds none of the requested slices."""
    OUT_OF_MEMORY = auto()
    SEVERAL_SLICES = auto()
    TIMEOUT = auto()
    """Decoding it takes more processor time than one file may have."""
    TOO_LARGE = auto()
    TOO_SMALL = auto()
    TRUNCATED = auto()
    UNDECODABLE = auto()
    UNKNOWN_FORMAT = auto()
    UNSUPPORTED = auto()
    """Intact, but with pixels, values or a header that are not supported."""


class ReferralReason(StrEnum):
    """The code for why an answer is withheld. Programs compare it; people read `referral.Referral.text`."""

    NOT_BRAIN_MRI = auto()
    """By its picture, whose features are far from those of all training images."""
    OUT_OF_DISTRIBUTION = auto()
    """Its features are farther from those of the training images than almost all validation images are."""
    UNCERTAIN = auto()
    """The most probable class is less probable than the operating point asks for."""
    IMAGE_QUALITY = auto()
    """Empty, saturated, tiny, or with writing in it."""


class BrainTumorError(Exception):
    """Input that cannot be used. The message says what came, what was expected and what to do.

    Each argument is a line of the message. Text from outside, such as a file name, cannot begin a further line.
    """

    def __str__(self) -> str:
        """Return the message, with its control characters made visible."""
        # Line by line: only the breaks between arguments are ours, and one inside a file name could forge a message.
        return "\n".join(visible(str(line)) for line in self.args)


class ImageError(BrainTumorError):
    """One image that cannot be read.

    Attributes:
        source: the name of the image.
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


class DicomRefusalError(ValueError):
    """A DICOM file that is not read.

    Attributes:
        code: why, for programs. The message is for people and holds nothing of the file's own text.
    """

    def __init__(self, reason: str, code: Refusal = Refusal.UNDECODABLE) -> None:
        super().__init__(reason)
        self.code = code


class ChildLostError(Exception):
    """A decoder process that will not answer, for a reason that lies outside its file."""


class ChildCrashedError(Exception):
    """A decoder process that was ended by its file."""


class DecodeTimeoutError(Exception):
    """A file that takes more processor time than it may."""


class ArchiveError(BrainTumorError):
    """An archive that cannot be used now. Work that waits for it stays as it is and is tried again later."""


class ArchiveAnswerError(ArchiveError):
    """An unusable answer from an archive that can be reached."""


class ArchiveTimeoutError(ArchiveError):
    """An exchange that did not end in time, though bytes may have arrived."""


class ArchiveStoppedError(ArchiveError):
    """An exchange that was ended because we stop."""


class InstanceError(BrainTumorError):
    """One image that the archive does not give, or whose results it does not take, though it answers."""


class InstanceTooLargeError(BrainTumorError):
    """One image that is too large to be fetched."""


class ExchangeTimeoutError(Exception):
    """An exchange over HTTP that did not end in time."""


class ExchangeStoppedError(Exception):
    """An exchange over HTTP that was ended because we stop."""


class MultipartError(ValueError):
    """A multipart message that is cut off, or does not hold exactly one file."""


class UploadError(Exception):
    """A file or an archive that came with a request and is not used.

    Attributes:
        status: HTTP status, if nothing else in the request can be used either.
        code: why, for programs.
        reason: why, for people; names none of its content.
    """

    def __init__(self, status: int, code: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason


class ProblemError(Exception):
    """A request to the service that is not answered.

    Attributes:
        status: HTTP status.
        detail: why, for people.
        refused: files that were refused, as `RefusedFile` in JSON.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        refused: Sequence[Mapping[str, object]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.refused = tuple(refused)
        self.headers = headers
