"""Report the images of an archive that have not been seen: the interface of every source, and Orthanc's changes."""

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
LARGEST_SEQ: Final = 2**63 - 1  # that SQLite keeps as an integer


class InstanceFeed(Protocol):
    """A source of new images in an archive.

    Attributes:
        poll_factor: how many times longer than usual to wait before asking again.
    """

    poll_factor: float

    @property
    def left_out(self) -> Sequence[Retry]:
        """Studies or changes whose content the archive does not tell, while it answers other questions."""

    def more(self) -> tuple[list[InstanceReference], int, bool]:
        """Return new MR images, how many other instances were passed over, and whether there is no more now."""

    def revalidate(self) -> None:
        """Check, after a start or a broken connection, that it is still the same archive."""

    def done(self, waiting: Sequence[InstanceReference]) -> None:
        """Keep the position, given the images that are not finished yet."""


class OrthancChanges:
    """Orthanc's list of changes, read from the cursor of the watcher's state on.

    There are two positions in the list. Reading goes ahead of the cursor, which only passes a change when every image
    before it is done; after a kill, what lies between them is read again.
    """

    poll_factor = 1.0

    def __init__(self, archive: Archive, journal: WatchState) -> None:
        self._archive, self._journal = archive, journal
        self._read, _ = journal.cursor  # number of the last change that was read
        self._trail: deque[tuple[int, str]] = deque()  # changes after the cursor to which it may advance
        self._unknown: dict[str, tuple[int, Retry]] = {}  # new instances that are left out: their change, next attempt

    @property
    def left_out(self) -> Sequence[Retry]:
        """New instances of which Orthanc does not tell what they are, see `InstanceFeed`."""
        return [retry for _, retry in self._unknown.values()]

    def revalidate(self) -> None:
        """Start over if the list is not the one that was read before, as after Orthanc's database was replaced.

        The change at the cursor then has another image, or there are fewer changes. Finished images stay finished.
        """
        seq, entry = self._journal.cursor
        if seq:
            changes, _, _ = self._page(f"since={seq - 1}&limit=1")
            # another number means that the change was deleted with its image: no sign of another list
            if changes and changes[0][0] == seq and changes[0][1] != entry:
                self._start_over()

    def more(self) -> tuple[list[InstanceReference], int, bool]:
        """Return the images of the next page of changes, see `InstanceFeed`, or of one change that was left out before.

        What the archive has told is returned before it is asked anything else: if that failed, the images would be lost
        until the next start.
        """
        resolved = self._resolve_left_out()
        if resolved:
            return *resolved, False
        changes, last, done = self._page(f"since={self._read}&limit={PAGE}")
        # Nothing after our position, and the list ends before it: perhaps another list. The archive is asked for its
        # last change before everything is read again: an empty page need not say which it is.
        if not changes and last < self._read and self._is_shorter():
            self._start_over()
            return [], 0, False
        changes = [change for change in changes if change[0] > self._read]  # a faulty list may repeat itself for ever
        new = {entry: seq for seq, entry, kind in changes if kind == "NewInstance"}
        try:
            images, passed = self._images(new) if new else ([], 0)
        except ArchiveError:
            # the archive fails over something in this page and works otherwise: each change is then tried alone
            self._archive.check_usable()
            images, passed = [], 0
            self._unknown |= {entry: (seq, Retry(kind="new instance")) for entry, seq in new.items()}
        self._trail.extend((seq, entry) for seq, entry, _ in changes)
        self._read = max([self._read, *(seq for seq, _, _ in changes)])
        return images, passed, (done or not changes) and not any(retry.is_due for retry in self.left_out)

    def done(self, waiting: Sequence[InstanceReference]) -> None:
        """Advance the cursor to the last change before the first image that is not finished."""
        unfinished = {image.seq for image in waiting} | {seq for seq, _ in self._unknown.values()}
        first = min(unfinished, default=self._read + 1)
        reached = None
        while self._trail and self._trail[0][0] < first:
            reached = self._trail.popleft()
        if reached:
            self._journal.advance(*reached)
        # Of the changes between two unfinished ones the cursor can only ever stop at the last. The others are dropped:
        # they would fill the memory while one image waits for days.
        kept = [change for change, (following, _) in pairwise(self._trail) if following in unfinished]
        self._trail = deque([*kept, *list(self._trail)[-1:]])

    def _resolve_left_out(self) -> tuple[list[InstanceReference], int] | None:
        """Return the images of one new instance that was left out and is due again; None if Orthanc still fails."""
        due = [(entry, seq, retry) for entry, (seq, retry) in self._unknown.items() if retry.is_due]
        for entry, seq, retry in due[:1]:
            try:
                resolved = self._images({entry: seq})
            except ArchiveError as error:
                self._archive.check_usable()
                retry.wait(str(error))
            else:
                del self._unknown[entry]
                return resolved
        return None

    def _is_shorter(self) -> bool:
        """Tell whether the list ends before the position up to which it was read."""
        last, _, _ = self._page("last")
        return not last or last[-1][0] < self._read

    def _page(self, query: str) -> tuple[list[tuple[int, str, str]], int, bool]:
        """Return number, Orthanc's identifier and type of changes, the last number, and whether there are no more."""
        reply = self._archive.get(f"/changes?{query}")
        with _as_archive_error():
            changes = [
                (int(change["Seq"]), str(change["ID"]), str(change["ChangeType"])) for change in reply["Changes"]
            ]
            if not all(0 < seq <= LARGEST_SEQ for seq, _, _ in changes):
                raise ValueError
            return changes, int(reply["Last"]), bool(reply["Done"]) or not changes

    def _start_over(self) -> None:
        self._read = 0
        self._trail.clear()
        self._unknown.clear()
        self._journal.advance(0, "")

    def _images(self, new: dict[str, int]) -> tuple[list[InstanceReference], int]:
        """Return the MR images among new instances, and how many others there are.

        Three requests, however many instances: their series, then the studies of the MR series. Orthanc leaves deleted
        resources out of its replies.

        Args:
            new: the number of the change of each instance, by Orthanc's identifier.
        """
        with _as_archive_error():
            return self._look_up(new)

    def _look_up(self, new: dict[str, int]) -> tuple[list[InstanceReference], int]:
        instances = self._contents(new, "Instance")
        all_series = self._contents({instance["ParentSeries"] for instance in instances}, "Series")
        wanted = {
            series["ID"]: series for series in all_series if is_wanted(_main_tags(series), "Modality", "Manufacturer")
        }
        studies = {
            study["ID"]: study
            for study in self._contents({series["ParentStudy"] for series in wanted.values()}, "Study")
        }
        images = []
        for instance in instances:
            series = wanted.get(instance["ParentSeries"])
            study = studies.get(series["ParentStudy"]) if series else None
            if series and study:
                resources = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
                uids = [_main_tags(resource).get(name, "") for name, resource in resources.items()]
                if all(uids):
                    entry = instance["ID"]
                    images.append(InstanceReference(uids[0], uids[1], uids[2], entry=entry, seq=new[entry]))
        images.sort(key=lambda image: image.seq)
        return images, len(instances) - len(images)

    def _contents(self, entries: Any, level: str) -> list[Any]:
        resources: list[Any] = self._archive.post("/tools/bulk-content", {"Resources": sorted(entries), "Level": level})
        return resources


@contextmanager
def _as_archive_error() -> Iterator[None]:
    """Turn the error that a malformed reply of Orthanc causes in the block into an `ArchiveError`."""
    try:
        yield
    except MALFORMED_ERRORS:
        raise ArchiveError("the archive's answer is not as Orthanc writes it") from None


def _main_tags(resource: Any) -> dict[str, str]:
    """Return the main attributes of an Orthanc resource by keyword."""
    return {str(name): str(value) for name, value in resource["MainDicomTags"].items()}


def is_wanted(attributes: dict[str, str], modality: str, manufacturer: str) -> bool:
    """Tell whether a series holds MR images that are not our own results, given the names of the two attributes."""
    return attributes.get(modality) == "MR" and attributes.get(manufacturer) != MANUFACTURER
