"""The set that models are trained on: Kaggle's "Brain Tumor MRI Dataset" (Nickparvar, CC0), placed whole."""

import contextlib
import io
import logging
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from braintumor.data.layout import Listing, list_images
from braintumor.data.public.unzip import members
from braintumor.errors import DownloadError, StorageError
from braintumor.files import publish, replacing, user_folder

VERSION: Final = "masoudnickparvar/brain-tumor-mri-dataset/versions/1"
"""The set of 7,023 images that published results are about; version 2 is another one, of 7,200."""
PAGE: Final = f"https://www.kaggle.com/datasets/{VERSION}"
IMAGE: Final = re.compile(r"(?:.*/)?(Training|Testing)/(\w+)/(\w[\w.-]*\.jpg)", re.ASCII)


def get_kaggle(out: Path) -> Listing:
    """Return what the data folder `OUT/brain-tumor-mri` holds; it is downloaded if it is not there.

    An archive `OUT/brain-tumor-mri.zip` that was put there by hand is unpacked instead. The folder is filled aside
    and renamed into place when it is complete. kagglehub keeps its own copy, and parts of it, in its cache.

    Raises:
        DownloadError: kagglehub cannot download it; says what to do by hand.
        DataError: what came has another layout, or the archive is damaged.
        StorageError: the disk is full or the folder cannot be written to.
        ModuleNotFoundError: kagglehub is not installed and there is no archive.
    """
    target, archive = out / "brain-tumor-mri", out / "brain-tumor-mri.zip"
    if target.exists():
        return list_images(target)
    aside = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        if archive.is_file():
            _unpack(archive, aside)
        else:
            _copy(_download(archive), aside)
        list_images(aside)  # raises before anything stands under the final name
        publish(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return list_images(target)


def _unpack(archive: Path, folder: Path) -> None:
    """Write the images of an archive to `PART/CLASS/NAME.jpg` in a folder; everything else in it is passed over.

    Raises:
        DataError: the archive is damaged or holds no such images.
        StorageError: the folder cannot be written.
    """
    for match, content in members(archive, IMAGE):
        with replacing(folder.joinpath(*match.groups())) as aside:
            aside.write_bytes(content)


def _copy(source: Path, folder: Path) -> None:
    """Copy a folder.

    Raises:
        StorageError: something cannot be read or written.
    """
    try:
        shutil.copytree(source, folder)
    except (OSError, shutil.Error) as error:
        raise StorageError(
            f"cannot copy {source} to {folder} ({error}); free some space or choose another --out"
        ) from error


def _download(archive: Path) -> Path:
    """Return the folder in kagglehub's cache, downloaded if it is not there; kagglehub stays silent.

    Args:
        archive: where an archive could be put by hand; for the message.

    Raises:
        DownloadError: no connection, refused, or damaged.
        ModuleNotFoundError: kagglehub is not installed.
        StorageError: there is no home folder, which kagglehub looks for when it is imported.
    """
    if user_folder("HOME", "") is None:
        raise StorageError("kagglehub needs a home folder, and there is none; name one in the variable HOME")
    # kagglehub writes to the terminal, some of it already while it is imported
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import kagglehub
        from kagglehub import exceptions

        logging.getLogger("kagglehub").setLevel(logging.CRITICAL)
        failures = (
            OSError,  # also what the library requests raises
            ValueError,  # damaged credentials, an archive of an unknown kind
            zipfile.BadZipFile,
            tarfile.TarError,
            exceptions.BackendError,
            exceptions.CredentialError,
            exceptions.DataCorruptionError,
            exceptions.NotFoundError,
            exceptions.UnauthenticatedError,
        )
        try:
            return Path(kagglehub.dataset_download(VERSION))
        except failures as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DownloadError(
                f"kagglehub cannot download {VERSION} ({reason}).",
                f"On a machine without network, put the archive from {PAGE}",
                f"at {archive} and run the same command again",
            ) from error
