"""Find the new images of an archive that has no list of changes, by searching it (QIDO-RS, PS3.18 10.6)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from typing import Any, Final
from urllib.parse import quote

from braintumor.errors import ArchiveAnswerError, ArchiveError
from braintumor.pacs.client import Archive, InstanceReference
from braintumor.pacs.feed import PAGE, is_wanted
from braintumor.pacs.retry import Retry

SMALLER_PAGES: Final = (10, 1)  # for an archive that allows no more, or fails over something in a page
IDLE_PAGES: Final = 3  # pages in a row without a new row, after which a list counts as read to its end
MOST_LISTED: Final = 100_000  # images of a study
MODALITY: Final = "00080060"
MANUFACTURER_TAG: Final = "00080070"
INSTANCE: Final = "00080018"
STUDY: Final = "0020000D"
SERIES: Final = "0020000E"
COUNT: Final = "00201208"  # Number of Study Related Instances
NO_COUNT: Final = "the archive does not say how many images its studies have (QIDO-RS, 0020,1208)"
FEWER: Final = "the archive lists fewer images of a study than it counts"


class QidoPolling:
    """The images of a DICOMweb archive that has no list of changes.

    All studies are listed again and again; those whose number of images differs from the last time are searched. Which
    of their images are new the watcher's state knows: nothing is kept here over a restart.
    """

    poll_factor = 30.0

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._size = PAGE
        self._counts: dict[str, str] = {}  # images of each study when it was last searched without a gap
        self._left_out: dict[str, Retry] = {}  # by Study Instance UID; under "" rows without one
        self._studies: Iterator[dict[str, str]] | None = None  # the rest of the list that is being read
        self._listed: set[str] = set()  # studies of that list so far
        self._has_changed = False  # whether any of them was searched, and completely

    @property
    def left_out(self) -> Sequence[Retry]:
        """Studies whose images the archive does not list, or not all of them, see `InstanceFeed`."""
        return list(self._left_out.values())

    def revalidate(self) -> None:
        """Search all studies again: the archive may be another one."""
        self._counts.clear()
        self._studies = None

    def more(self) -> tuple[list[InstanceReference], int, bool]:
        """Return the MR images of the next study that has changed, new or not, see `InstanceFeed`.

        An image whose modality the archive does not tell counts as MR: its file will show what it is.
        """
        if self._studies is None:
            self._size, self._listed, self._has_changed = PAGE, set(), False
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
        # a study that is no longer listed was deleted; its error would otherwise be reported for ever
        self._left_out = {uid: retry for uid, retry in self._left_out.items() if uid in self._listed}
        return [], 0, not self._has_changed

    def done(self, waiting: Sequence[InstanceReference]) -> None:
        """Keep nothing: the watcher's state has the finished images."""

    def _images(self, uid: str, count: str) -> tuple[list[InstanceReference], int]:
        """Return the MR images of a study, and how many others it has; remember its count if the list is complete."""
        path = f"/studies/{quote(uid, safe='')}/instances"
        try:
            rows = self._pages(path, int(count), includefield=f"{MODALITY},{MANUFACTURER_TAG}")
            listed = list(islice(rows, MOST_LISTED))
        except ArchiveError as error:
            self._archive.check_usable()
            self._leave_out(uid, str(error))
            return [], 0
        complete = [row for row in listed if {SERIES, INSTANCE} <= set(row)]
        # Images that were listed are answered in any case; the study is searched again until as many are listed as the
        # archive counts.
        if len(complete) < int(count):
            self._leave_out(uid, FEWER)
        else:
            self._left_out.pop(uid, None)
            self._counts[uid], self._has_changed = count, True
        wanted = [row for row in complete if is_wanted({MODALITY: "MR"} | row, MODALITY, MANUFACTURER_TAG)]
        images = [InstanceReference(uid, row[SERIES], row[INSTANCE]) for row in wanted]
        return images, len(complete) - len(wanted)

    def _leave_out(self, uid: str, error: str) -> None:
        """Record why a study is left out for now, unless it was not due and so not tried."""
        retry = self._left_out.setdefault(uid, Retry(kind="study"))
        if retry.is_due:
            retry.wait(error)

    def _all_studies(self) -> Iterator[dict[str, str]]:
        """Yield the studies with MR images; if the list breaks off, those before that are yielded all the same."""
        any_study = False
        try:
            for study in self._pages("/studies", ModalitiesInStudy="MR", includefield=COUNT):
                any_study = True
                yield study
        except ArchiveAnswerError as error:
            if not any_study:
                raise  # not even one row: this is the archive's failure, not one study's
            self._listed.add("")
            self._leave_out("", str(error))

    def _pages(self, path: str, most: float = inf, **query: str) -> Iterator[dict[str, str]]:
        """Yield the rows that a search finds, as first values by tag, until so many instances are found.

        A row that is not DICOM JSON is yielded empty.
        """
        seen: set[tuple[str, ...]] = set()
        start = idle = instances = 0
        # A page without a new row is no proof of the end: rows that arrive at the front of the list shift known ones
        # into it. And an archive that ignores `offset` gives its first page for ever, so there is a limit.
        while idle < IDLE_PAGES and instances < most:
            page = self._page(path, start, query)
            if not page:
                return
            before = len(seen)
            for row in page:
                key = tuple(row.get(tag, "") for tag in (STUDY, SERIES, INSTANCE))
                if key not in seen:
                    seen.add(key)
                    if INSTANCE in row:
                        instances += 1
                    yield row
            start += len(page)
            idle = 0 if len(seen) > before else idle + 1

    def _page(self, path: str, start: int, query: dict[str, str]) -> list[dict[str, str]]:
        """Return a page of the rows that a search finds, as large as the archive allows.

        Raises:
            ArchiveError: it does not give even one row.
        """
        sizes = [size for size in (PAGE, *SMALLER_PAGES) if size <= self._size]
        for size in sizes:
            try:
                rows = self._archive.search(path, **query, limit=size, offset=start)
            except ArchiveAnswerError:
                if size == sizes[-1]:
                    raise
            else:
                self._size = size  # until the next list: a size that failed is not tried for every page
                return [_row_values(row) for row in rows]
        return []


def _is_number(text: str) -> bool:
    # `isdigit` alone takes digits of other scripts, and `int` refuses texts of more than 4,300 digits
    return text.isascii() and text.isdigit() and len(text) < 10


def _row_values(row: Any) -> dict[str, str]:
    """Return the first values of a row of a search; empty where it is not DICOM JSON."""
    try:
        return first_values(row)
    except ArchiveError:
        return {}


def first_values(dataset: Any) -> dict[str, str]:
    """Return the first value of each attribute that has one, by tag.

    Args:
        dataset: in the DICOM JSON model (PS3.18 F.2).

    Raises:
        ArchiveAnswerError: it is not.
    """
    try:
        return {tag: str(element["Value"][0]) for tag, element in dataset.items() if element.get("Value")}
    except (LookupError, TypeError, AttributeError):
        raise ArchiveAnswerError("the archive's answer to a search is not DICOM JSON") from None
