"""Which images an archive has that we have not seen: what every source tells, and Orthanc's list of changes."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final, Protocol

from braintumor.dicom.codes import MANUFACTURER
from braintumor.errors import MALFORMED_ERRORS, ArchiveError
from braintumor.pacs.client import Archive, InstanceReference
from braintumor.pacs.retry import Retry
from braintumor.pacs.state import WatchState

PAGE: Final = 100  # rows or changes; nearly all archives allow as many, some no more than 200
LARGEST_SEQ: Final = 2**63 - 1


class InstanceFeed(Protocol):
    """What is new in an archive.

    Attributes:
        pace: how many times longer than usual to wait before asking again.
    """

    pace: float

    @property
    def left_out(self) -> Sequence[Retry]:
        """Studies or changes of which the archive does not say what they hold, while it answers other questions."""

    def more(self) -> tuple[list[InstanceReference], int, bool]:
        """Return new MR images, how many others were passed over, and whether there is no more now."""

    def again(self) -> None:
        """Check, after a start or a broken connection, that it is still the same archive."""

    def done(self, waiting: Sequence[InstanceReference]) -> None:
        """Keep the place, given the images that are not settled yet."""


class OrthancChanges:
    """Orthanc's list of changes, from the place in the journal on."""

    pace = 1.0

    def __init__(self, archive: Archive, journal: WatchState) -> None:
        self._archive, self._journal = archive, journal
        self._read, _ = journal.place
        self._trail: deque[tuple[int, str]] = deque()  # changes beyond the place that it may move to
        self._unknown: dict[str, tuple[int, Retry]] = {}  # new instances that are left out, with their changes

    @property
    def left_out(self) -> Sequence[Retry]:
        """New instances of which Orthanc does not say what they are, see `InstanceFeed`."""
        return [retry for _, retry in self._unknown.values()]

    def again(self) -> None:
        """Start over where the list is not the one that was read before, as after Orthanc's database was replaced.

        The change at our place then has another image, or there are fewer changes. Settled images stay settled.
        """
        seq, entry = self._journal.place
        if seq:
            found, _, _ = self._page(f"since={seq - 1}&limit=1")
            if found and found[0][0] == seq and found[0][1] != entry:
                self._start_over()

    def more(self) -> tuple[list[InstanceReference], int, bool]:
        """Return what the next changes tell of, see `InstanceFeed`; one at a time those that were left out before.

        What was told is returned before anything else is asked that may fail.
        """
        explained = self._explained()
        if explained:
            return *explained, False
        changes, last, done = self._page(f"since={self._read}&limit={PAGE}")
        if not changes and last < self._read and self._is_shorter():
            self._start_over()
            return [], 0, False
        changes = [change for change in changes if change[0] > self._read]  # a list may repeat itself for ever
        new = {entry: seq for seq, entry, kind in changes if kind == "NewInstance"}
        try:
            images, passed = self._images(new) if new else ([], 0)
        except ArchiveError:
            self._archive.check_usable()
            images, passed = [], 0
            self._unknown |= {entry: (seq, Retry(kind="new instance")) for entry, seq in new.items()}
        self._trail.extend((seq, entry) for seq, entry, _ in changes)
        self._read = max([self._read, *(seq for seq, _, _ in changes)])
        return images, passed, (done or not changes) and not any(retry.is_due for retry in self.left_out)

    def done(self, waiting: Sequence[InstanceReference]) -> None:
        """Move the place in the journal to the last change before the first image that is not settled."""
        unsettled = {image.seq for image in waiting} | {seq for seq, _ in self._unknown.values()}
        first = min(unsettled, default=self._read + 1)
        reached = None
        while self._trail and self._trail[0][0] < first:
            reached = self._trail.popleft()
        if reached:
            self._journal.move(*reached)
        # of changes between two unsettled ones the last will do; all would fill the memory while an image waits
        kept = [change for change, (following, _) in pairwise(self._trail) if following in unsettled]
        self._trail = deque([*kept, *list(self._trail)[-1:]])

    def _explained(self) -> tuple[list[InstanceReference], int] | None:
        """Return what Orthanc now says of a new instance that was left out and is due again; None if nothing."""
        due = [(entry, seq, retry) for entry, (seq, retry) in self._unknown.items() if retry.is_due]
        for entry, seq, retry in due[:1]:
            try:
                told = self._images({entry: seq})
            except ArchiveError as error:
                self._archive.check_usable()
                retry.wait(str(error))
            else:
                del self._unknown[entry]
                return told
        return None

    def _is_shorter(self) -> bool:
        """Tell whether the list ends before what was read of it."""
        last, _, _ = self._page("last")
        return not last or last[-1][0] < self._read

    def _page(self, wanted: str) -> tuple[list[tuple[int, str, str]], int, bool]:
        """Return number, Orthanc's name and kind of some changes, the last number, and whether there is no more."""
        answer = self._archive.get(f"/changes?{wanted}")
        with _understood():
            changes = [(int(each["Seq"]), str(each["ID"]), str(each["ChangeType"])) for each in answer["Changes"]]
            if not all(0 < seq <= LARGEST_SEQ for seq, _, _ in changes):
                raise ValueError
            return changes, int(answer["Last"]), bool(answer["Done"]) or not changes

    def _start_over(self) -> None:
        self._read = 0
        self._trail.clear()
        self._unknown.clear()
        self._journal.move(0, "")

    def _images(self, new: dict[str, int]) -> tuple[list[InstanceReference], int]:
        """Return where the MR images among new instances are, in three questions; deleted ones are in no answer."""
        with _understood():
            return self._found(new)

    def _found(self, new: dict[str, int]) -> tuple[list[InstanceReference], int]:
        instances = self._contents(new, "Instance")
        series = {each["ID"]: each for each in self._contents({each["ParentSeries"] for each in instances}, "Series")}
        wanted = {entry: each for entry, each in series.items() if is_wanted(_named(each), "Modality", "Manufacturer")}
        studies = {
            each["ID"]: each for each in self._contents({each["ParentStudy"] for each in wanted.values()}, "Study")
        }
        images = []
        for each in instances:
            parent = wanted.get(each["ParentSeries"])
            study = studies.get(parent["ParentStudy"]) if parent else None
            if parent and study:
                resources = {"StudyInstanceUID": study, "SeriesInstanceUID": parent, "SOPInstanceUID": each}
                uids = [_named(resource).get(name, "") for name, resource in resources.items()]
                if all(uids):
                    images.append(InstanceReference(uids[0], uids[1], uids[2], entry=each["ID"], seq=new[each["ID"]]))
        images.sort(key=lambda image: image.seq)
        return images, len(instances) - len(images)

    def _contents(self, entries: Any, level: str) -> list[Any]:
        content: list[Any] = self._archive.post("/tools/bulk-content", {"Resources": sorted(entries), "Level": level})
        return content


@contextmanager
def _understood() -> Iterator[None]:
    """Turn what comes of an answer that is not as Orthanc writes it into an `ArchiveError`."""
    try:
        yield
    except MALFORMED_ERRORS:
        raise ArchiveError("the archive's answer is not as Orthanc writes it") from None


def _named(resource: Any) -> dict[str, str]:
    """Return the main attributes of one of Orthanc's resources by keyword."""
    return {str(name): str(value) for name, value in resource["MainDicomTags"].items()}


def is_wanted(attributes: dict[str, str], modality: str, manufacturer: str) -> bool:
    """Tell whether a series is of MR images that we have not made."""
    return attributes.get(modality) == "MR" and attributes.get(manufacturer) != MANUFACTURER
