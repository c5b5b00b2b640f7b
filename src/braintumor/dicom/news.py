"""Which images an archive has that we have not seen: from Orthanc's list of changes, or by searching (QIDO-RS)."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol
from urllib.parse import quote

from braintumor.dicom.codes import MANUFACTURER
from braintumor.dicom.journal import Journal
from braintumor.dicom.pacs import NONSENSE, AnswerError, Archive, ArchiveError, Image, SlowError, StoppedError

PAGE: Final = 100  # all archives allow as many, some no more than 200
MODALITY: Final = "00080060"
MADE_BY: Final = "00080070"
INSTANCE: Final = "00080018"
STUDY: Final = "0020000D"
SERIES: Final = "0020000E"
COUNT: Final = "00201208"  # Number of Study Related Instances
NO_COUNT: Final = "the archive does not say how many images its studies have (QIDO-RS, 0020,1208)"


class News(Protocol):
    """What is new in an archive.

    Attributes:
        pace: how many times longer than usual to wait before asking again.
        troubles: why studies were left out of the last search, and how many; the next one tries them again.
    """

    pace: float
    troubles: Counter[str]

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
        self.troubles: Counter[str] = Counter()
        self._archive, self._journal = archive, journal
        self._read, _ = journal.place
        self._trail: deque[tuple[int, str]] = deque()  # changes read beyond the place

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
        """Return what the next changes tell of, see `News`."""
        changes, last, done = self._page(f"since={self._read}&limit={PAGE}")
        if not changes and last < self._read and self._is_shorter():
            self._start_over()
            return [], 0, False
        new = {entry: seq for seq, entry, kind in changes if kind == "NewInstance"}
        with understood():
            images, passed = self._images(new) if new else ([], 0)
        self._trail.extend((seq, entry) for seq, entry, _ in changes)
        self._read = max([self._read, *(seq for seq, _, _ in changes)])
        return images, passed, done

    def done(self, waiting: Sequence[Image]) -> None:
        """Move the place in the journal to the last change before the first image that is not settled."""
        first = min((image.seq for image in waiting), default=self._read + 1)
        reached = None
        while self._trail and self._trail[0][0] < first:
            reached = self._trail.popleft()
        if reached:
            self._journal.move(*reached)

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
        self._journal.move(0, "")

    def _images(self, new: dict[str, int]) -> tuple[list[Image], int]:
        """Return where the MR images among new instances are, in three questions; deleted ones are in no answer."""
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
        self.troubles: Counter[str] = Counter()
        self._archive = archive
        self._failed: Counter[str] = Counter()  # of the search that is under way
        self._counts: dict[str, str] = {}
        self._partly: dict[str, str] = {}  # of studies some of whose instances are listed in an odd way
        self._studies: Iterator[dict[str, str]] | None = None
        self._changed = False
        self._counted = False  # whether any study has a number of images

    def again(self) -> None:
        """Look through all studies anew: the archive may be another one."""
        self._counts.clear()
        self._partly.clear()
        self._studies = None

    def more(self) -> tuple[list[Image], int, bool]:
        """Return the MR images of the next study that has changed; the journal tells which are new.

        An image of which the archive does not say what it is counts as one: its file will tell.
        """
        if self._studies is None:
            self._studies, self._changed = self._pages("/studies", ModalitiesInStudy="MR", includefield=COUNT), False
            self._failed, self._counted = Counter(), False
        for study in self._studies:
            if STUDY not in study or COUNT not in study:
                self._failed[NO_COUNT] += 1
                continue
            uid, count = study[STUDY], study[COUNT]
            self._counted = True
            if self._counts.get(uid) != count:
                before = self._failed.total()
                try:
                    listed = list(
                        self._pages(f"/studies/{quote(uid, safe='')}/instances", includefield=f"{MODALITY},{MADE_BY}")
                    )
                except StoppedError:
                    raise
                except ArchiveError as error:
                    if isinstance(error, AnswerError | SlowError) or self._archive.answers():  # the others go on
                        self._failed[str(error)] += 1
                        continue
                    raise
                wanted = [each for each in listed if is_wanted({MODALITY: "MR"} | each, MODALITY, MADE_BY)]
                images = [
                    Image(uid, each[SERIES], each[INSTANCE]) for each in wanted if {SERIES, INSTANCE} <= set(each)
                ]
                if self._failed.total() > before:  # it is looked through again, which is not taken for news
                    again, self._partly[uid] = self._partly.get(uid) == count, count
                else:
                    again, self._counts[uid] = False, count
                self._changed |= not again
                return images, 0 if again else len(listed) - len(images), False
        self._studies = None
        if self._failed[NO_COUNT] and not self._counted:
            raise ArchiveError(NO_COUNT)
        self.troubles, self._failed = self._failed, Counter()
        return [], 0, not self._changed

    def done(self, waiting: Sequence[Image]) -> None:
        """Keep nothing: what is settled is in the journal."""

    def _pages(self, path: str, **wanted: str) -> Iterator[dict[str, str]]:
        """Yield the first values of what a search finds, by tag, page by page."""
        seen: set[tuple[str, ...]] = set()
        start = 0
        while True:
            found = self._archive.search(path, **wanted, limit=PAGE, offset=start)
            page = list(self._understood(found))
            fresh = [each for each in page if (each.get(STUDY, ""), each.get(INSTANCE, "")) not in seen]
            if not fresh:  # at the end, or an archive that gives the first page for ever
                return
            seen |= {(each.get(STUDY, ""), each.get(INSTANCE, "")) for each in fresh}
            start += len(found)
            yield from fresh

    def _understood(self, rows: list[Any]) -> Iterator[dict[str, str]]:
        """Yield the first values of the rows of a page; odd ones are counted."""
        for row in rows:
            try:
                yield first_values(row)
            except AnswerError as error:
                self._failed[str(error)] += 1


def first_values(found: Any) -> dict[str, str]:
    """Return the first value of each attribute of DICOM JSON that has one."""
    try:
        return {tag: str(each["Value"][0]) for tag, each in found.items() if each.get("Value")}
    except (LookupError, TypeError, AttributeError):
        raise AnswerError("the archive's answer to a search is no DICOM JSON") from None
