"""Which models there are by name: those inside the package, and those that were added on this machine."""

import os
import re
import shutil
import urllib.parse
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from braintumor import model as loading
from braintumor.data.unzip import ZIP_ERRORS
from braintumor.errors import ModelError, StorageError
from braintumor.files import cache_folder, file_sha256, publish
from braintumor.model import ONNX_FILES, Card, Model, precisions_in

if TYPE_CHECKING:
    from braintumor.data.download import Progress

BUNDLED: Final = Path(__file__).parent / "models"
DEFAULT: Final = "cnn"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
PARTS: Final = ("card.json", *ONNX_FILES.values(), "weights.safetensors")
"""What is taken of a model; a folder written by training holds more, about its images."""
LARGEST_PART: Final = 1 << 30  # bytes


@dataclass(frozen=True)
class Known:
    """A model that can be asked for by its name."""

    name: str
    folder: Path
    precisions: tuple[str, ...]
    card: Card


def load(model: str | Path = DEFAULT, *, precision: str | None = None, threads: int | None = None) -> Model:
    """Return a model by its name or folder; without one, that which comes with the package.

    Args:
        model: a name as `known` lists them, or a model folder.
        precision: `float32` or `int8`; by default the first of them that the model has.
        threads: CPU threads to use; by default one for each core that the process may use.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    return loading.load(find(model), precision=precision, threads=threads)


def find(model: str | Path) -> Path:
    """Return the folder of a model by its name or folder.

    Raises:
        ModelError: there is none.
    """
    if Path(model).is_dir() or not NAME.fullmatch(str(model)):
        return Path(model)
    folders = {each.name: each.folder for each in known()}
    if str(model) not in folders:
        raise ModelError(f"no model is called {model}, and it is no folder; there are {', '.join(sorted(folders))}")
    return folders[str(model)]


def known() -> list[Known]:
    """Return the models that were added on this machine, and those of the package that are not replaced by them."""
    found: dict[str, Known] = {}
    for place in (BUNDLED, models_folder()):
        try:
            cards = sorted(place.glob("*/card.json"))
        except PermissionError:  # the account of a service, which may not look into the home it was given
            cards = []
        for card in cards:
            folder = card.parent
            precisions = precisions_in(folder)
            if precisions and NAME.fullmatch(folder.name):
                found[folder.name] = Known(folder.name, folder, precisions, Card.from_json(card.read_text()))
    return [found[name] for name in sorted(found)]


def models_folder() -> Path:
    """Return where added models lie: $BRAINTUMOR_MODELS, else braintumor/models under the user's data."""
    chosen = os.environ.get("BRAINTUMOR_MODELS")
    data = os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")
    return Path(chosen) if chosen else Path(data) / "braintumor" / "models"


def add(source: Path, name: str | None = None, sha256: str | None = None) -> Known:
    """Take a model from a model folder or a ZIP archive of one; it is there whole or not at all.

    Args:
        source: a folder with `card.json` and an ONNX file, or an archive with these at its top.
        name: what to call it; by default the name in its card.
        sha256: of the archive, in hexadecimal.

    Raises:
        ModelError: another checksum, no usable model, or a name that is taken or cannot be one.
        StorageError: it cannot be written.
    """
    if sha256 is not None:
        check_sha256(source, sha256)
    place = models_folder()
    with scratch(place) as aside:
        if source.is_dir():
            copy_parts(source, aside)
        else:
            unpack_parts(source, aside)
        for precision in precisions_in(aside) or ("float32",):  # which says what is missing
            card = loading.load(aside, precision=precision).card
        name = card.name if name is None else name
        if not NAME.fullmatch(name):
            raise ModelError(
                f"{name!r} cannot be a model's name: use small letters, digits, dots, dashes and underscores"
            )
        if (place / name).exists():
            raise ModelError(f"a model called {name} is in {place} already; choose another --name, or remove it there")
        publish(aside, place / name)
    return next(each for each in known() if each.name == name)


def get(url: str, sha256: str, name: str | None, progress: "Progress") -> Known:
    """Download an archive of a model, verify it and add it; an interrupted download goes on where it was.

    Raises:
        ModelError: no checksum, or as `add`.
        DownloadError: no connection, or another content than the checksum's.
        StorageError: it cannot be written.
    """
    from braintumor.data.download import Remote, fetch, size_of  # what else starts needs no network

    if not SHA256.fullmatch(sha256):
        raise ModelError(f"expected a SHA-256 of 64 hexadecimal digits beside the address, got {sha256!r}")
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ModelError(
            f"expected an http or https address, got {url}; a file is taken by: braintumor models add FILE"
        )
    archive = fetch(Remote(f"{sha256}.zip", url, size_of(url), sha256, "sha256"), cache_folder() / "models", progress)
    found = add(archive, name)
    archive.unlink()
    return found


def check_sha256(source: Path, sha256: str) -> None:
    """Raise where a file has another checksum.

    Raises:
        ModelError: it has, or is a folder.
    """
    if not source.is_file():
        raise ModelError(f"{source} is no file, so it has no SHA-256; leave --sha256 out for a folder")
    found = file_sha256(source)
    if found != sha256:
        raise ModelError(
            f"{source} has the SHA-256 {found}, expected {sha256}; copy it again from where it was published"
        )


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """Yield a new folder beside the models, which is removed unless it was renamed.

    Raises:
        StorageError: it cannot be made or filled.
    """
    aside = place / f".{os.getpid()}.part"
    try:
        aside.mkdir(parents=True)
        yield aside
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write to {place} ({reason}); choose another with BRAINTUMOR_MODELS") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def copy_parts(source: Path, target: Path) -> None:
    """Copy what makes a model from one folder to another."""
    for part in PARTS:
        if (source / part).is_file():
            shutil.copyfile(source / part, target / part)


def unpack_parts(archive: Path, target: Path) -> None:
    """Unpack what makes a model from the top of an archive.

    Raises:
        ModelError: it cannot be read, or holds too much.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                if member.filename not in PARTS:
                    continue
                if member.file_size > LARGEST_PART:
                    raise ModelError(f"{archive}: {member.filename} is larger than {LARGEST_PART >> 20} MiB")
                with file.open(member) as stream, (target / member.filename).open("wb") as copy:
                    shutil.copyfileobj(stream, copy)
    except FileNotFoundError as error:
        raise ModelError(f"{archive} is neither a model folder nor a file") from error
    except ZIP_ERRORS as error:
        raise ModelError(
            f"{archive} cannot be unpacked ({error}); copy it again from where it was published"
        ) from error
