"""Find models by name: those of the package, and those that were added on this machine."""

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
"""The files that are copied of a model; a folder written by training holds more, about its images."""
LARGEST_PART: Final = 1 << 30  # bytes


@dataclass(frozen=True)
class RegisteredModel:
    """A model that can be loaded by its name."""

    name: str
    folder: Path
    precisions: tuple[str, ...]
    card: Card

    def claim(self) -> str:
        """Return in words how good the model is, and who claims it."""
        # A card may come from elsewhere: `metrics` can hold anything that JSON can.
        tested = self.card.metrics.get("tested")
        accuracy = tested.get("accuracy") if isinstance(tested, dict) else None
        value = accuracy.get("value") if isinstance(accuracy, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            return "not measured on other patients"
        if self.folder.parent == BUNDLED:
            return f"{100 * value:.1f} % on other patients of the same collections"
        return f"{100 * value:.1f} % by its own card, not checked here"


def load(model: str | Path = DEFAULT, *, precision: str | None = None, threads: int | None = None) -> Model:
    """Return a model by its name or folder, by default the one that comes with the package.

    The predictions of an added model carry the name that it was given here.

    Args:
        model: a name as `known` lists them, or a model folder; `is_path` tells which of them a text is.
        precision: `float32` or `int8`; by default the first of these that the model has.
        threads: CPU threads to use; by default one for each core that the process may use.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    folder = find(model)
    loaded = loading.load_folder(folder, precision=precision, threads=threads)
    # A card from elsewhere may claim the name of a model of the package: results must not carry that.
    if folder.parent != BUNDLED and not is_path(model):
        loaded.card = replace(loaded.card, name=str(model))
    return loaded


def is_path(model: str | Path) -> bool:
    """Tell whether a model is given by its folder: by an absolute path, or one with a leading dot or a separator.

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
    if name in _bundled():  # first, so that nothing on this machine can pass for a model of the package
        return BUNDLED / name
    folder = models_folder()
    if NAME.fullmatch(name) and folder is not None and os.path.lexists(folder / name):
        return folder / name
    is_folder = os.path.isdir(name)  # noqa: PTH112 - Path.is_dir raises where it may not look
    hint = f"; to load the folder of this name, write .{os.sep}{name}" if is_folder else ", and no folder either"
    names = ", ".join(registered.name for registered in known())
    raise ModelError(f"no model is called {name}{hint}; there are {names}")


def _bundled() -> tuple[str, ...]:
    """Return the names of the models that come with the package; no other model can have one of them."""
    return tuple(sorted(card.parent.name for card in BUNDLED.glob("*/card.json")))


def known() -> list[RegisteredModel]:
    """Return the models that can be named: those of the package, and those that were added on this machine."""
    return [model for model in surveyed() if isinstance(model, RegisteredModel)]


def surveyed() -> list[RegisteredModel | ModelError]:
    """Return all models by name; for each added folder that cannot be used, the error instead."""
    added = models_folder()
    try:
        others = sorted(added.iterdir()) if added is not None else []
    except OSError:  # no model was added, or the account of a service may not look into the home it was given
        others = []
    # A leading dot: what is just being added, or was left over when that was interrupted.
    folders = [BUNDLED / name for name in _bundled()]
    folders += [folder for folder in others if not folder.name.startswith(".")]
    return list(map(_survey, sorted(folders, key=lambda folder: folder.name)))


def _survey(folder: Path) -> RegisteredModel | ModelError:
    """Return the model in a folder, or the error if it cannot be used; the network is not opened."""
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
    """Return why an added model cannot have this name, an empty text if it can."""
    if not NAME.fullmatch(name):
        return f"{name!r} cannot be a model's name: use lower-case letters, digits, dots, dashes and underscores"
    if name in _bundled():
        return f"{name} is a model of the package, which no other can replace; choose another name"
    return ""


def models_folder() -> Path | None:
    """Return the folder of added models: $BRAINTUMOR_MODELS, else braintumor/models under the user's data; or None.

    Raises:
        ModelError: the variable holds a relative path, so that a name would mean another model in every folder.
    """
    if chosen := os.environ.get("BRAINTUMOR_MODELS"):
        if not Path(chosen).is_absolute():
            raise ModelError(f"expected an absolute path in BRAINTUMOR_MODELS, got {chosen}")
        return Path(chosen)
    data = user_folder("XDG_DATA_HOME", os.path.join(".local", "share"))  # noqa: PTH118
    return None if data is None else data / "braintumor" / "models"


def add(source: Path, name: str | None = None, sha256: str | None = None) -> RegisteredModel:
    """Add a model from a model folder or a ZIP archive of one, completely or not at all.

    Args:
        source: a folder with `card.json` and an ONNX file, or an archive with these at its top.
        name: by which it is to be loaded; by default the name in its card.
        sha256: of the archive, in hexadecimal.

    Raises:
        ModelError: another checksum, no usable model, or a name that is taken or cannot be one.
        StorageError: it cannot be written.
    """
    if sha256 is not None:
        _check_sha256(source, sha256)
    models = models_folder()
    if models is None:
        raise StorageError("there is no home folder for models; name a folder in BRAINTUMOR_MODELS")
    with _scratch(models) as aside:
        if os.path.isdir(source):  # noqa: PTH112 - Path.is_dir raises where it may not look
            _copy_parts(source, aside)
        else:
            _unpack_parts(source, aside)
        # Loaded and run before it gets its name: a model that is listed works. Without any network, loading float32
        # raises the error that says what is missing. Two images show outputs that ignore the size of the batch.
        for precision in precisions_in(aside) or ("float32",):
            model = loading.load_folder(aside, precision=precision)
            side = model.card.preprocess.size
            model(np.zeros((2, 1, side, side), np.float32))
        name = model.card.name if name is None else name
        if fault := _fault_of_name(name):
            raise ModelError(fault)
        if os.path.lexists(models / name):
            raise ModelError(f"a model called {name} is already in {models}; choose another --name, or remove it there")
        publish(aside, models / name)
    return RegisteredModel(name, models / name, precisions_in(models / name), model.card)


def get(url: str, sha256: str, name: str | None, progress: "Progress") -> RegisteredModel:
    """Download an archive of a model, verify it and add it; resume an interrupted download.

    Raises:
        ModelError: no checksum, or as `add`.
        DownloadError: no connection, or the checksum does not match.
        StorageError: it cannot be written.
    """
    from braintumor.download import Remote, fetch, remote_size  # imported here: no other command needs a network

    if not SHA256.fullmatch(sha256):
        raise ModelError(f"expected a SHA-256 of 64 hexadecimal digits beside the address, got {sha256!r}")
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ModelError(
            f"expected an http or https address, got {url}; add a local file with: braintumor models add FILE"
        )
    archive = fetch(
        Remote(name=f"{sha256}.zip", url=url, size=remote_size(url), checksum=sha256, algorithm="sha256"),
        cache_folder() / "models",
        progress,
    )
    registered = add(archive, name)
    archive.unlink()  # only now: after any failure the next call needs no second download
    return registered


def _check_sha256(source: Path, sha256: str) -> None:
    """Raise if a file has another checksum.

    Raises:
        ModelError: it has, or it is a folder or cannot be read.
    """
    if not os.path.isfile(source):  # noqa: PTH113 - Path.is_file raises where it may not look
        raise ModelError(f"{source} is not a file and has no SHA-256; leave out --sha256 for a folder")
    try:
        actual = file_sha256(source)
    except OSError as error:
        raise ModelError(f"{source} cannot be read ({error.strerror})") from error
    if actual != sha256:
        raise ModelError(
            f"{source} has the SHA-256 {actual}, expected {sha256}; copy it again from where it was published"
        )


@contextmanager
def _scratch(models: Path) -> Iterator[Path]:
    """Yield a new folder beside the models, which is removed unless it was renamed.

    Raises:
        StorageError: it cannot be created or filled.
    """
    # In the same folder, so on the same disk: the model gets its name by one rename.
    aside = models / f".{os.getpid()}.part"
    try:
        aside.mkdir(parents=True)
        yield aside
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write to {models} ({reason}); choose another with BRAINTUMOR_MODELS") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy_parts(source: Path, target: Path) -> None:
    """Copy the files of a model from one folder to another.

    Raises:
        ModelError: a file cannot be read, or is a link, which could bring in any file of this machine.
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
    """Unpack the files of a model from the top of an archive.

    Raises:
        ModelError: it cannot be read, or holds too much.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                # Exact names only: no path in an archive can lead anywhere else.
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
