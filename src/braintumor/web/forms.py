"""How the files of a request are taken out of its form, without writing any to the disk."""

from io import BytesIO
from typing import Final

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from braintumor.web.settings import Settings

FILES_FIELD: Final = "files"


class InMemory(MultiPartParser):
    """Starlette's parser of forms, which writes no file: the guard bounds how much there is."""

    spool_max_size = 1 << 40


async def uploaded(request: Request, settings: Settings) -> list[bytes]:
    """Return the contents of the files in a request's form.

    Raises:
        HTTPException: it is no form, or holds no file.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, f"expected a form of the type multipart/form-data with the field {FILES_FIELD}")
    try:
        form = await InMemory(
            request.headers, request.stream(), max_files=settings.slices, max_fields=0, max_part_size=1
        ).parse()
    except (MultiPartException, ValueError, LookupError) as error:
        raise HTTPException(
            400, f"expected a form of files in the field {FILES_FIELD}, at most {settings.slices}"
        ) from error
    contents = [whole(part) for name, part in form.multi_items() if name == FILES_FIELD and not isinstance(part, str)]
    await form.close()
    if not contents:
        raise HTTPException(400, f"no file in the field {FILES_FIELD}")
    return contents


def whole(part: UploadFile) -> bytes:
    """Return the content of a file that was kept in memory, without a second copy of it."""
    buffer = part.file._file  # type: ignore[attr-defined]  # what SpooledTemporaryFile is documented to have
    assert isinstance(buffer, BytesIO)
    return buffer.getvalue()
