"""Which models there are by name: those inside the package, and those that were added on this machine."""

import os
import re
import shutil
import urllib.parse
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from braintumor.errors import ModelError, StorageError
from braintumor.files import ZIP_ERRORS, cache_folder, file_sha256, publish, user_folder
from braintumor.models import session as loading
from braintumor.models.session import ONNX_FILES, Card, Model, card_in, precisions_in

if TYPE_CHECKING:
    from braintumor.download import Progress

BUNDLED: Final = Path(__file__).parent / "bundled"
DEFAULT: Final = "cnn"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
PARTS: Final = ("card.json", *ONNX_FILES.values(), "weights.safetensors")
"""What is taken of a model; a folder written by training holds more, about its images."""
LARGEST_PART: Final = 1 << 30  # bytes


@dataclass(frozen=True)
class RegisteredModel:
    """A model that can be asked for by its name."""

    name: str
    folder: Path
    precisions: tuple[str, ...]
    card: Card

    def claim(self) -> str:
        """Return in words how good the model is, and who says so."""
        tested = self.card.metrics.get("tested")
        accuracy = tested.get("accuracy") if isinstance(tested, dict) else None
        value = accuracy.get("value") if isinstance(accuracy, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            return "not measured on other patients"
        if self.folder.parent == BUNDLED:
            return f"{100 * value:.1f} % on other patients of the same collections"
        return f"{100 * value:.1f} % by its own card, not checked here"


def load(model: str | Path = DEFAULT, *, precision: str | None = None, threads: int | None = None) -> Model:
    """Return a model by its name or folder; without one, that which comes with the package.

    A model that was added answers under the name that it was given here.

    Args:
        model: a name as `known` lists them, or a model folder; see `is_path` for which of them a text is.
        precision: `float32` or `int8`; by default the first of them that the model has.
        threads: CPU threads to use; by default one for each core that the process may use.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    folder = find(model)
    loaded = loading.load_folder(folder, precision=precision, threads=threads)
    if folder.parent != BUNDLED and not is_path(model):
        loaded.card = replace(loaded.card, name=str(model))
    return loaded


def is_path(model: str | Path) -> bool:
    """Tell whether a model is named by its folder: a text is if it is absolute, begins with a dot or has a separator.

    Any other text is a name, whatever lies in the folder where the program was started.
    """
    if isinstance(model, Path):
        return True
    return Path(model).is_absolute() or model.startswith(".") or os.sep in model or (os.altsep or os.sep) in model


def find(model: str | Path) -> Path:
    """Return the folder of a model by its name or folder.

    Raises:
        ModelError: there is none.
    """
    if is_path(model):
        return Path(model)
    name = str(model)
    if name in _bundled():
        return BUNDLED / name
    folder = models_folder()
    if NAME.fullmatch(name) and folder is not None and os.path.lexists(folder / name):
        return folder / name
    beside = f"; the folder of this name is written .{os.sep}{name}" if os.path.isdir(name) else ", and it is no folder"  # noqa: PTH112
    raise ModelError(f"no model is called {name}{beside}; there are {', '.join(each.name for each in known())}")


def _bundled() -> tuple[str, ...]:
    """Return the names of the models that come with the package; no other model can have one of them."""
    return tuple(sorted(card.parent.name for card in BUNDLED.glob("*/card.json")))


def known() -> list[RegisteredModel]:
    """Return the models that can be named: those of the package, and those that were added on this machine."""
    return [each for each in surveyed() if isinstance(each, RegisteredModel)]


def surveyed() -> list[RegisteredModel | ModelError]:
    """Return all models by name, and for each folder among the added ones that cannot be used, why."""
    added = models_folder()
    try:
        others = sorted(added.iterdir()) if added is not None else []
    except OSError:  # no model was added, or the account of a service may not look into the home it was given
        others = []
    folders = [*(BUNDLED / name for name in _bundled()), *(each for each in others if not each.name.startswith("."))]
    return list(map(_survey, sorted(folders, key=lambda folder: folder.name)))


def _survey(folder: Path) -> RegisteredModel | ModelError:
    """Return the model in a folder, or why it cannot be used; the network is not opened."""
    if folder.parent != BUNDLED and (fault := _fault_of_name(folder.name)):
        return ModelError(f"{folder}: {fault}")
    try:
        card, precisions = card_in(folder), precisions_in(folder)
    except ModelError as error:
        return error
    if not precisions:
        return ModelError(f"no model in {folder}: {' and '.join(ONNX_FILES.values())} are missing")
    return RegisteredModel(folder.name, folder, precisions, card)


def _fault_of_name(name: str) -> str:
    """Return why an added model cannot be called so, an empty text if it can."""
    if not NAME.fullmatch(name):
        return f"{name!r} cannot be a model's name: use small letters, digits, dots, dashes and underscores"
    if name in _bundled():
        return f"{name} is a model of the package, which no other can replace; choose another name"
    return ""


def models_folder() -> Path | None:
    """Return where added models lie: $BRAINTUMOR_MODELS, else braintumor/models under the user's data, else nowhere.

    Raises:
        ModelError: the variable holds no absolute path, so that names would mean another model in every folder.
    """
    if chosen := os.environ.get("BRAINTUMOR_MODELS"):
        if not Path(chosen).is_absolute():
            raise ModelError(f"expected an absolute path in BRAINTUMOR_MODELS, got {chosen}")
        return Path(chosen)
    data = user_folder("XDG_DATA_HOME", os.path.join(".local", "share"))  # noqa: PTH118
    return None if data is None else data / "braintumor" / "models"


def add(source: Path, name: str | None = None, sha256: str | None = None) -> RegisteredModel:
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
        _check_sha256(source, sha256)
    place = models_folder()
    if place is None:
        raise StorageError("there is no home folder for models; name a folder in BRAINTUMOR_MODELS")
    with _scratch(place) as aside:
        if os.path.isdir(source):  # noqa: PTH112 - Path.is_dir raises where it may not look
            _copy_parts(source, aside)
        else:
            _unpack_parts(source, aside)
        for precision in precisions_in(aside) or ("float32",):  # which says what is missing
            model = loading.load_folder(aside, precision=precision)
            side = model.card.preprocess.size
            model(np.zeros((2, 1, side, side), np.float32))  # which says where its answers are none
        name = model.card.name if name is None else name
        if fault := _fault_of_name(name):
            raise ModelError(fault)
        if os.path.lexists(place / name):
            raise ModelError(f"a model called {name} is in {place} already; choose another --name, or remove it there")
        publish(aside, place / name)
    return RegisteredModel(name, place / name, precisions_in(place / name), model.card)


def get(url: str, sha256: str, name: str | None, progress: "Progress") -> RegisteredModel:
    """Download an archive of a model, verify it and add it; an interrupted download goes on where it was.

    Raises:
        ModelError: no checksum, or as `add`.
        DownloadError: no connection, or another content than the checksum's.
        StorageError: it cannot be written.
    """
    from braintumor.download import Remote, fetch, remote_size  # what else starts needs no network

    if not SHA256.fullmatch(sha256):
        raise ModelError(f"expected a SHA-256 of 64 hexadecimal digits beside the address, got {sha256!r}")
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ModelError(
            f"expected an http or https address, got {url}; a file is taken by: braintumor models add FILE"
        )
    archive = fetch(
        Remote(f"{sha256}.zip", url, remote_size(url), sha256, "sha256"), cache_folder() / "models", progress
    )
    found = add(archive, name)
    archive.unlink()
    return found


def _check_sha256(source: Path, sha256: str) -> None:
    """Raise where a file has another checksum.

    Raises:
        ModelError: it has, or is a folder.
    """
    if not os.path.isfile(source):  # noqa: PTH113 - Path.is_file raises where it may not look
        raise ModelError(f"{source} is no file, so it has no SHA-256; leave --sha256 out for a folder")
    try:
        found = file_sha256(source)
    except OSError as error:
        raise ModelError(f"{source} cannot be read ({error.strerror})") from error
    if found != sha256:
        raise ModelError(
            f"{source} has the SHA-256 {found}, expected {sha256}; copy it again from where it was published"
        )


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
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


def _copy_parts(source: Path, target: Path) -> None:
    """Copy what makes a model from one folder to another.

    Raises:
        ModelError: a part cannot be read, or is a link, which could bring in any file of this machine.
    """
    for part in PARTS:
        file = source / part
        if file.is_symlink():
            raise ModelError(f"{file} is a link; put the file itself there")
        if not file.is_file():
            continue
        try:
            stream = file.open("rb")
        except OSError as error:
            raise ModelError(f"{file} cannot be read ({error.strerror})") from error
        with stream, (target / part).open("wb") as copy:
            shutil.copyfileobj(stream, copy)


def _unpack_parts(archive: Path, target: Path) -> None:
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
