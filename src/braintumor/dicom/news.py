"""Which images an archive has that we have not seen: from Orthanc's list of changes, or by searching (QIDO-RS)."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from math import inf
from typing import Any, Final, Protocol
from urllib.parse import quote

from braintumor.dicom.codes import MANUFACTURER
from braintumor.dicom.journal import Journal
from braintumor.dicom.pacs import NONSENSE, AnswerError, Archive, ArchiveError, Image
from braintumor.dicom.retry import Retry

PAGE: Final = 100  # nearly all archives allow as many, some no more than 200
SMALLER_PAGES: Final = (10, 1)  # where one allows fewer, or fails over something in the page
IDLE_PAGES: Final = 3  # pages in a row that tell of nothing new, after which a list is at its end
MOST_LISTED: Final = 100_000  # images of a study
MODALITY: Final = "00080060"
MADE_BY: Final = "00080070"
INSTANCE: Final = "00080018"
STUDY: Final = "0020000D"
SERIES: Final = "0020000E"
COUNT: Final = "00201208"  # Number of Study Related Instances


class News(Protocol):
    """What is new in an archive.

    Attributes:
        pace: how many times longer than usual to wait before asking again.
    """

    pace: float

    @property
    def left_out(self) -> Sequence[Retry]:
        """Studies or changes of which the archive does not say what they hold, while it answers other questions."""

    def more(self) -> tuple[list[Image], int, bool]:
        """Return new MR images, how many others were passed over, and whether there is no more now."""

    def again(self) -> None:
        """Check, after a start or a broken connection, that it is still the same archive."""

    def done(self, waiting: Sequence[Image]) -> None:
        """Keep the place, given the images that are not settled yet."""


class Changes:
    """Orthanc's list of changes, from the place in the journal on."""

    pace = 1.0

    def __init__(self, archive: Archive, journal: Journal) -> None:
        self._archive, self._journal = archive, journal
        self._read, _ = journal.place
        self._trail: deque[tuple[int, str]] = deque()  # changes beyond the place that it may move to
        self._unknown: dict[str, tuple[int, Retry]] = {}  # new instances that are left out, with their changes

    @property
    def left_out(self) -> Sequence[Retry]:
        """New instances of which Orthanc does not say what they are, see `News`."""
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

    def more(self) -> tuple[list[Image], int, bool]:
        """Return what the next changes tell of, see `News`; one at a time those that were left out before.

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

    def done(self, waiting: Sequence[Image]) -> None:
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

    def _explained(self) -> tuple[list[Image], int] | None:
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
        with understood():
            changes = [(int(each["Seq"]), str(each["ID"]), str(each["ChangeType"])) for each in answer["Changes"]]
            if not all(0 < seq <= LARGEST_SEQ for seq, _, _ in changes):
                raise ValueError
            return changes, int(answer["Last"]), bool(answer["Done"]) or not changes

    def _start_over(self) -> None:
        self._read = 0
        self._trail.clear()
        self._unknown.clear()
        self._journal.move(0, "")

    def _images(self, new: dict[str, int]) -> tuple[list[Image], int]:
        """Return where the MR images among new instances are, in three questions; deleted ones are in no answer."""
        with understood():
            return self._found(new)

    def _found(self, new: dict[str, int]) -> tuple[list[Image], int]:
        instances = self._contents(new, "Instance")
        series = {each["ID"]: each for each in self._contents({each["ParentSeries"] for each in instances}, "Series")}
        wanted = {entry: each for entry, each in series.items() if is_wanted(named(each), "Modality", "Manufacturer")}
        studies = {
            each["ID"]: each for each in self._contents({each["ParentStudy"] for each in wanted.values()}, "Study")
        }
        images = []
        for each in instances:
            parent = wanted.get(each["ParentSeries"])
            study = studies.get(parent["ParentStudy"]) if parent else None
            if parent and study:
                resources = {"StudyInstanceUID": study, "SeriesInstanceUID": parent, "SOPInstanceUID": each}
                uids = [named(resource).get(name, "") for name, resource in resources.items()]
                if all(uids):
                    images.append(Image(uids[0], uids[1], uids[2], entry=each["ID"], seq=new[each["ID"]]))
        images.sort(key=lambda image: image.seq)
        return images, len(instances) - len(images)

    def _contents(self, entries: Any, level: str) -> list[Any]:
        content: list[Any] = self._archive.post("/tools/bulk-content", {"Resources": sorted(entries), "Level": level})
        return content


@contextmanager
def understood() -> Iterator[None]:
    """Turn what comes of an answer that is not as Orthanc writes it into an `ArchiveError`."""
    try:
        yield
    except NONSENSE:
        raise ArchiveError("the archive's answer is not as Orthanc writes it") from None


LARGEST_SEQ: Final = 2**63 - 1


def named(resource: Any) -> dict[str, str]:
    """Return the main attributes of one of Orthanc's resources by keyword."""
    return {str(name): str(value) for name, value in resource["MainDicomTags"].items()}


def is_wanted(attributes: dict[str, str], modality: str, manufacturer: str) -> bool:
    """Tell whether a series is of MR images that we have not made."""
    return attributes.get(modality) == "MR" and attributes.get(manufacturer) != MANUFACTURER


class Searches:
    """A DICOMweb archive without a list of changes: studies whose number of images has changed are looked through."""

    pace = 30.0

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._size = PAGE
        self._counts: dict[str, str] = {}
        self._left_out: dict[str, Retry] = {}  # by Study Instance UID; by nothing what is none
        self._studies: Iterator[dict[str, str]] | None = None
        self._listed: set[str] = set()  # studies of the search that is under way
        self._changed = False

    @property
    def left_out(self) -> Sequence[Retry]:
        """Studies that the archive does not list, or not all of whose images, see `News`."""
        return list(self._left_out.values())

    def again(self) -> None:
        """Look through all studies anew: the archive may be another one."""
        self._counts.clear()
        self._studies = None

    def more(self) -> tuple[list[Image], int, bool]:
        """Return the MR images of the next study that has changed; the journal tells which are new.

        An image of which the archive does not say what it is counts as one: its file will tell.
        """
        if self._studies is None:
            self._size, self._listed, self._changed = PAGE, set(), False
            self._studies = self._all_studies()
        for study in self._studies:
            uid, count = study.get(STUDY, ""), study.get(COUNT, "")
            self._listed.add(uid)
            if uid in self._left_out and not self._left_out[uid].is_due:
                continue
            if not uid or not is_number(count):
                self._leave_out(uid, NO_COUNT)
            elif self._counts.get(uid) != count:
                return *self._images(uid, count), False
        self._studies = None
        self._left_out = {uid: retry for uid, retry in self._left_out.items() if uid in self._listed}
        return [], 0, not self._changed

    def done(self, waiting: Sequence[Image]) -> None:
        """Keep nothing: what is settled is in the journal."""

    def _images(self, uid: str, count: str) -> tuple[list[Image], int]:
        """Return the MR images of a study, and how many others it has; note it as looked through if these are all."""
        path = f"/studies/{quote(uid, safe='')}/instances"
        try:
            rows = self._pages(path, int(count), includefield=f"{MODALITY},{MADE_BY}")
            listed = list(islice(rows, MOST_LISTED))
        except ArchiveError as error:
            self._archive.check_usable()
            self._leave_out(uid, str(error))
            return [], 0
        known = [each for each in listed if {SERIES, INSTANCE} <= set(each)]
        if len(known) < int(count):
            self._leave_out(uid, FEWER)
        else:
            self._left_out.pop(uid, None)
            self._counts[uid], self._changed = count, True
        wanted = [each for each in known if is_wanted({MODALITY: "MR"} | each, MODALITY, MADE_BY)]
        return [Image(uid, each[SERIES], each[INSTANCE]) for each in wanted], len(known) - len(wanted)

    def _leave_out(self, uid: str, trouble: str) -> None:
        """Note why a study is left out for now, if it was tried."""
        retry = self._left_out.setdefault(uid, Retry(kind="study"))
        if retry.is_due:
            retry.wait(trouble)

    def _all_studies(self) -> Iterator[dict[str, str]]:
        """Yield the studies with MR images; where the list breaks off, those before that are not the worse for it."""
        any_study = False
        try:
            for study in self._pages("/studies", ModalitiesInStudy="MR", includefield=COUNT):
                any_study = True
                yield study
        except AnswerError as error:
            if not any_study:
                raise
            self._listed.add("")
            self._leave_out("", str(error))

    def _pages(self, path: str, most: float = inf, **wanted: str) -> Iterator[dict[str, str]]:
        """Yield the first values of what a search finds, by tag, page by page, up to so many instances.

        What is no row of a search is yielded empty.
        """
        seen: set[tuple[str, ...]] = set()
        start = idle = instances = 0
        while idle < IDLE_PAGES and instances < most:  # archives may give one page for ever, lists grow at their front
            page = self._page(path, start, wanted)
            if not page:
                return
            before = len(seen)
            for row in page:
                key = tuple(row.get(tag, "") for tag in (STUDY, SERIES, INSTANCE))
                if key not in seen:
                    seen.add(key)
                    instances += INSTANCE in row
                    yield row
            start += len(page)
            idle = 0 if len(seen) > before else idle + 1

    def _page(self, path: str, start: int, wanted: dict[str, str]) -> list[dict[str, str]]:
        """Return a page of what a search finds, as large as the archive allows.

        Raises:
            ArchiveError: it does not even give one row.
        """
        sizes = [size for size in (PAGE, *SMALLER_PAGES) if size <= self._size]
        for size in sizes:
            try:
                rows = self._archive.search(path, **wanted, limit=size, offset=start)
            except AnswerError:
                if size == sizes[-1]:
                    raise
            else:
                self._size = size
                return [row_values(row) for row in rows]
        return []


NO_COUNT: Final = "the archive does not say how many images its studies have (QIDO-RS, 0020,1208)"
FEWER: Final = "the archive lists fewer images of a study than it counts"


def is_number(text: str) -> bool:
    """Tell whether this is a number of images."""
    return text.isascii() and text.isdigit() and len(text) < 10


def row_values(row: Any) -> dict[str, str]:
    """Return the first values of a row of a search, none of what is no row."""
    try:
        return first_values(row)
    except ArchiveError:
        return {}


def first_values(found: Any) -> dict[str, str]:
    """Return the first value of each attribute of DICOM JSON that has one."""
    try:
        return {tag: str(each["Value"][0]) for tag, each in found.items() if each.get("Value")}
    except (LookupError, TypeError, AttributeError):
        raise AnswerError("the archive's answer to a search is no DICOM JSON") from None
