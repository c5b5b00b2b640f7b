"""Search, fetch and store over DICOMweb (PS3.18), and read Orthanc's own list of changes.

Files are only carried here, never parsed. No error message contains an address: addresses contain UIDs, and messages
end up in logs.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.exceptions import TimeoutError as SlowBodyError

from braintumor.dicom.part10 import dicom_start
from braintumor.errors import (
    MALFORMED_ERRORS,
    ArchiveAnswerError,
    ArchiveError,
    ArchiveStoppedError,
    ArchiveTimeoutError,
    ExchangeStoppedError,
    ExchangeTimeoutError,
    InstanceError,
    InstanceTooLargeError,
    MultipartError,
)
from braintumor.pacs.exchange import CONNECT_SECONDS, SILENT_SECONDS, Exchanges, bounded_session
from braintumor.pacs.multipart import only_part
from braintumor.pacs.stow import ANSWERS, DICOM_PARTS, SUCCESS, request_of, statuses_of

USER: Final = "BRAINTUMOR_PACS_USER"
PASSWORD: Final = "BRAINTUMOR_PACS_PASSWORD"
WHOLE_SECONDS: Final = 300.0  # of an exchange, from connecting to the last byte of the reply
LARGEST: Final = 256 << 20  # bytes of one image
LARGEST_ANSWER: Final = 64 << 20  # bytes of JSON
CHUNK: Final = 1 << 20  # bytes read at a time
BUSY: Final = (429, 502, 503, 504)  # of the archive, or of a proxy in front of it
JSON: Final = "application/dicom+json"
PACKED: Final = ("gzip", "x-gzip", "deflate")


@dataclass(frozen=True)
class ArchiveReply:
    """The reply of an archive to one request.

    Attributes:
        status: of HTTP.
        content: the body, with HTTP compression undone.
        kind: its Content-Type.
    """

    status: int
    content: bytearray
    kind: str


@dataclass(frozen=True)
class InstanceReference:
    """The identifiers of an image in the archive.

    Attributes:
        study: Study Instance UID.
        series: Series Instance UID.
        instance: SOP Instance UID.
        entry: Orthanc's identifier of the image, a hash; empty in other archives.
        seq: number of the change that reported it; 0 in other archives.
    """

    study: str
    series: str
    instance: str
    entry: str = ""
    seq: int = 0

    @property
    def key(self) -> str:
        """The image's identifier in the watcher's state: a hash of its UIDs, which could be traced to a patient."""
        return hashlib.sha256("/".join((self.study, self.series, self.instance)).encode()).hexdigest()[:32]

    @property
    def path(self) -> str:
        """The path of the image below the root of DICOMweb."""
        parts = (("studies", self.study), ("series", self.series), ("instances", self.instance))
        return "".join(f"/{kind}/{quote(uid, safe='')}" for kind, uid in parts)


class Archive:
    """A client of an archive, at the address of Orthanc or at the root of any other DICOMweb service.

    User and password come from the environment, the certificates to trust from REQUESTS_CA_BUNDLE. Proxies are not
    used and redirects not followed, so that neither patient data nor the password goes elsewhere. Calls from several
    threads are safe.

    Raises:
        ArchiveError: the address is not valid, or contains a password. Every method raises it if there is no
            connection or no answer in time, the password is wrong, or the archive is busy.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ArchiveError("expected the address of an archive, such as http://127.0.0.1:8042")
        if parts.username or parts.password:
            raise ArchiveError(f"a password in an address is seen by others; put it into {USER} and {PASSWORD}")
        self.url = url.rstrip("/")
        self.web = self.url  # the root of DICOMweb
        self._exchanges = Exchanges(WHOLE_SECONDS)
        self._session = bounded_session()
        self._session.trust_env = (
            False  # no proxies and no .netrc, which could send patient data or passwords elsewhere
        )
        # files are wanted as they are stored; see `_body` for proxies that compress all the same
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        if USER in os.environ:
            self._session.auth = (_latin(os.environ[USER]), _latin(os.environ.get(PASSWORD, "")))

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        """End exchanges soon after the function returns true; they then raise `ArchiveStoppedError`."""
        self._exchanges.should_stop = should_stop

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def find(self) -> bool:
        """Find the root of DICOMweb and return whether the archive is an Orthanc with a list of changes.

        Raises:
            ArchiveError: there is no DICOMweb.
        """
        reply = self._call("GET", f"{self.url}/changes?limit=1")
        # other services may answer any path with status 200 and a page of their own
        lists = reply.status == 200 and reply.content.startswith(b"{") and b'"Changes"' in reply.content
        self.web = f"{self.url}/dicom-web" if lists else self.url
        status = self._call("GET", f"{self.web}/studies?limit=1", accept=JSON).status
        if status == 403:
            raise ArchiveError(_refusal(status))
        if status not in (200, 204):
            raise ArchiveError(
                f"no DICOMweb there (status {status}); give Orthanc's address and load its DICOMweb plug-in, "
                "or give the root of another archive's DICOMweb service"
            )
        return lists

    def check_usable(self) -> None:
        """Ask a question that every archive answers, to tell a failing archive from one that fails over one object.

        Raises:
            ArchiveError: it does not answer.
        """
        self.search("/studies", limit=1)

    def get(self, path: str) -> Any:
        """Return the JSON reply of Orthanc to a GET request."""
        return self._json("GET", self.url + path)

    def post(self, path: str, value: object) -> Any:
        """Return the JSON reply of Orthanc to a POST request with a JSON value."""
        return self._json("POST", self.url + path, value=value)

    def search(self, path: str, **parameters: str | int) -> list[Any]:
        """Return the rows that QIDO-RS finds, as DICOM JSON."""
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())
        rows = self._json("GET", f"{self.web}{path}?{query}", accept=JSON)
        if not isinstance(rows, list):
            raise ArchiveAnswerError("the archive's answer to a search is not a list")
        return rows

    def pull(self, image: InstanceReference) -> bytes | None:
        """Return the file of an image by WADO-RS, as it is stored; None if it is no longer there.

        Raises:
            InstanceError: the archive has it, or may have it, and does not give it.
            InstanceTooLargeError: it has more than 256 MiB.
        """
        accept = f"{DICOM_PARTS}; transfer-syntax=*"
        try:
            reply = self._call("GET", self.web + image.path, accept=accept, largest=LARGEST)
        except ArchiveTimeoutError as error:  # perhaps this image alone
            raise InstanceError(str(error)) from None
        if reply.status == 200:
            return _file_of(reply)
        # A 404 alone is no proof that it was deleted: a service without WADO-RS gives it for every image. An image is
        # gone only if a search does not find it either.
        if reply.status in (404, 410):
            series = image.path.rsplit("/", 1)[0]
            if not self.search(series, SOPInstanceUID=image.instance):
                return None
        raise InstanceError(f"the archive does not give it (status {reply.status})")

    def store(self, objects: Mapping[str, bytes]) -> dict[str, int]:
        """Send files by STOW-RS and return the status of each, by SOP Instance UID: 0 if the archive now has it.

        Files that it had before count as stored: our UIDs are derived from the content. A file that the reply names
        neither as stored nor as failed is searched for, as when the reply is XML or empty; the dictionary lacks it if
        the archive does not tell.

        Args:
            objects: content by SOP Instance UID.

        Raises:
            InstanceError: the archive does not tell of any of them whether it has it.
        """
        content, kind = request_of(objects)
        reply = self._call("POST", f"{self.web}/studies", accept=JSON, data=content, kind=kind)
        try:
            statuses = statuses_of(json.loads(reply.content))
        except MALFORMED_ERRORS:
            statuses = {}
        if reply.status in ANSWERS:
            statuses |= {uid: SUCCESS for uid in objects if uid not in statuses and self._has(uid)}
        if not statuses:
            raise InstanceError(f"the archive does not take the results (status {reply.status})")
        return {uid: status for uid, status in statuses.items() if uid in objects}

    def _has(self, uid: str) -> bool:
        """Tell whether a search finds an instance; false as well if the archive cannot search for instances."""
        try:
            return bool(self.search("/instances", SOPInstanceUID=uid, limit=1))
        except ArchiveAnswerError:
            return False

    def _json(self, method: str, url: str, accept: str = "application/json", value: Any = None) -> Any:
        """Return the JSON of a reply; an empty list for one without content, which some archives send for no rows."""
        reply = self._call(method, url, accept=accept, value=value)
        if reply.status == 204 or (reply.status == 200 and not reply.content.strip()):
            return []
        if reply.status == 403:
            raise ArchiveError(_refusal(reply.status))
        if reply.status != 200:
            raise ArchiveAnswerError(f"the archive does not answer a question (status {reply.status})")
        try:
            return json.loads(reply.content)
        except MALFORMED_ERRORS:
            raise ArchiveAnswerError("the archive's answer is not JSON") from None

    def _call(
        self,
        method: str,
        url: str,
        *,
        accept: str = "application/json",
        largest: int = LARGEST_ANSWER,
        data: BinaryIO | None = None,
        kind: str | None = None,
        value: Any = None,
    ) -> ArchiveReply:
        """Return the reply to a request; the whole exchange is bounded in time, and the content is held once."""
        headers = {"Accept": accept} | ({"Content-Type": kind} if kind else {})

        def exchange() -> ArchiveReply:
            with self._session.request(
                method,
                url,
                headers=headers,
                data=data,
                json=value,
                timeout=(CONNECT_SECONDS, SILENT_SECONDS),
                stream=True,
                allow_redirects=False,
            ) as response:
                _check(response)
                content = _body(response, largest)
                return ArchiveReply(response.status_code, content, response.headers.get("Content-Type", ""))

        try:
            return self._exchanges.run(exchange)
        except ExchangeTimeoutError:
            raise ArchiveTimeoutError("the archive cannot be reached (no answer in time)") from None
        except ExchangeStoppedError:
            raise ArchiveStoppedError("stopped while the archive was being asked") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            # `from None` here and above: the original errors name addresses, and a traceback would show them
            raise ArchiveError(f"the archive cannot be reached ({_why(error)})") from None


def _file_of(reply: ArchiveReply) -> bytes:
    """Return the DICOM file in a reply to WADO-RS.

    Raises:
        InstanceError: it holds no file or several, or something else.
    """
    try:
        file = only_part(reply.content, reply.kind)
    except MultipartError as error:
        raise InstanceError(f"the archive gives something other than one file ({error})") from None
    if dicom_start(file) is None:  # a page that asks to log in, perhaps
        raise InstanceError("the archive gives something that is not a DICOM file")
    return file


def _latin(text: str) -> str:
    """Return the text that `requests`, which encodes as Latin-1, sends as the UTF-8 of `text` (RFC 7617, 2.1)."""
    return text.encode().decode("latin-1")


def _refusal(status: int) -> str:
    """Return the message about an archive that denies access."""
    return f"the archive refuses us (status {status}); check {USER} and {PASSWORD}"


def _check(response: requests.Response) -> None:
    """Raise an `ArchiveError` for a reply that says that nothing can be had now."""
    status = response.status_code
    if status == 401:
        raise ArchiveError(_refusal(status))
    if response.is_redirect:
        raise ArchiveError("the archive redirects to another address; give that one")
    if status in BUSY:
        raise ArchiveError(f"the archive is busy (status {status})")


def _body(response: requests.Response, largest: int) -> bytearray:
    """Return the content of a reply.

    Raises:
        ArchiveError: it is compressed in an unknown way, or too large.
        InstanceTooLargeError: it is an image and too large.
    """
    # no compression was asked for, but a proxy in between may compress all the same
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", *PACKED):
        raise ArchiveError("the archive packs its answer in an unknown way; turn off HTTP compression")
    content = bytearray()
    # `read1` bounds what one call unpacks, so that a compressed bomb is left at the limit
    while chunk := response.raw.read1(CHUNK, decode_content=coding in PACKED):
        content += chunk
        if len(content) > largest:
            text = f"more than {largest >> 20} MiB"
            raise InstanceTooLargeError(text) if largest == LARGEST else ArchiveError(f"an answer of {text}")
    return content


def _why(error: Exception) -> str:
    """Return what was wrong with a connection, without the addresses that the text of the error itself contains."""
    # the first kind that fits counts, so special ones stand before general ones
    if isinstance(error.__context__, ProtocolError) and isinstance(error.__context__.__context__, TimeoutError):
        return "no answer in time"  # while sending
    kinds: Sequence[tuple[type[Exception], str]] = (
        (
            requests.exceptions.SSLError,
            "no https there, or no trusted certificate: its authority goes into REQUESTS_CA_BUNDLE",
        ),
        (requests.Timeout, "no answer in time"),
        (TimeoutError, "no answer in time"),
        (SlowBodyError, "no answer in time"),
        (requests.ConnectionError, "no connection"),
        (requests.RequestException, "the connection broke"),
        (HTTPError, "the connection broke"),
    )
    return next((text for kind, text in kinds if isinstance(error, kind)), "no connection")
