"""Which images an archive without a list of changes has that we have not seen: found by searching (QIDO-RS)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from typing import Any, Final
from urllib.parse import quote

from braintumor.errors import ArchiveAnswerError, ArchiveError
from braintumor.pacs.client import Archive, InstanceReference
from braintumor.pacs.feed import PAGE, is_wanted
from braintumor.pacs.retry import Retry

SMALLER_PAGES: Final = (10, 1)  # where one allows fewer, or fails over something in the page
IDLE_PAGES: Final = 3  # pages in a row that tell of nothing new, after which a list is at its end
MOST_LISTED: Final = 100_000  # images of a study
MODALITY: Final = "00080060"
MADE_BY: Final = "00080070"
INSTANCE: Final = "00080018"
STUDY: Final = "0020000D"
SERIES: Final = "0020000E"
COUNT: Final = "00201208"  # Number of Study Related Instances
NO_COUNT: Final = "the archive does not say how many images its studies have (QIDO-RS, 0020,1208)"
FEWER: Final = "the archive lists fewer images of a study than it counts"


class QidoPolling:
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

    def more(self) -> tuple[list[InstanceReference], int, bool]:
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
            if not uid or not _is_number(count):
                self._leave_out(uid, NO_COUNT)
            elif self._counts.get(uid) != count:
                return *self._images(uid, count), False
        self._studies = None
        self._left_out = {uid: retry for uid, retry in self._left_out.items() if uid in self._listed}
        return [], 0, not self._changed

    def done(self, waiting: Sequence[InstanceReference]) -> None:
        """Keep nothing: what is settled is in the journal."""

    def _images(self, uid: str, count: str) -> tuple[list[InstanceReference], int]:
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
        return [InstanceReference(uid, each[SERIES], each[INSTANCE]) for each in wanted], len(known) - len(wanted)

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
        except ArchiveAnswerError as error:
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
            except ArchiveAnswerError:
                if size == sizes[-1]:
                    raise
            else:
                self._size = size
                return [_row_values(row) for row in rows]
        return []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _row_values(row: Any) -> dict[str, str]:
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
        raise ArchiveAnswerError("the archive's answer to a search is no DICOM JSON") from None
