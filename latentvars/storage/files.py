"""The folder of a saved fit or index: written whole or not at all, and checked before anything in it is believed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from torch import Tensor

from latentvars.errors import StorageError

if TYPE_CHECKING:
    import xarray as xr

TENSORS, TREE = "tensors.safetensors", "posterior.nc"
PARTS = (TENSORS, TREE)


@dataclass(frozen=True)
class Kind:
    """What a folder holds.

    Attributes:
        noun: what people call it.
        version: of the format, the newest that this library reads.
    """

    noun: str
    version: int

    @property
    def format(self) -> str:
        """Its name in the description."""
        return f"latentvars.{self.noun}"

    @property
    def document(self) -> str:
        """The file with the description."""
        return f"{self.noun}.json"


FIT = Kind("fit", 1)


def write_fit(
    path: Path, body: Mapping[str, Any], tensors: Mapping[str, Tensor], tree: xr.DataTree | None, *, overwrite: bool
) -> Path:
    """Write a fit into the new folder ``path``; as :func:`write_folder`."""
    return write_folder(FIT, path, body, tensors, tree, overwrite=overwrite)


def write_folder(
    kind: Kind,
    path: Path,
    body: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tree: xr.DataTree | None = None,
    *,
    overwrite: bool,
) -> Path:
    """Write what is of a kind into the new folder ``path``.

    Args:
        kind: what it is.
        path: its parent exists.
        body: the description, JSON values.
        tensors: by name.
        tree: the DataTree; None leaves it out.
        overwrite: replace an earlier one there, which stays until the new one is complete.

    Raises:
        StorageError: something is in the way, or the parent is missing.
    """
    path = path.expanduser().resolve()
    _check_target(kind, path, overwrite)
    with _appearing(path, overwrite) as folder:
        plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        safetensors.torch.save_file(plain, folder / TENSORS)
        if tree is not None:
            tree.to_netcdf(folder / TREE, engine="h5netcdf")
        files = {part.name: _stamp(part) for part in (folder / name for name in PARTS) if part.exists()}
        document = {"format": kind.format, "version": kind.version, **body, "files": files}
        sealed = json.dumps({**document, "sha256": _seal(document)}, indent=1, allow_nan=False)
        (folder / kind.document).write_text(sealed + "\n", encoding="utf-8")
    return path


def read_fit(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a saved fit; as :func:`read_folder`."""
    return read_folder(FIT, path)


def read_folder(kind: Kind, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of what is saved, once every file in it is known to be whole.

    Raises:
        StorageError: there is nothing, something else, a newer version, or files that are incomplete or altered.
    """
    path = path.expanduser()
    document = _document(kind, path)
    for name in PARTS:
        stamp = document["files"].get(name)
        if stamp is not None:
            _check_part(kind, path / name, stamp)
    loaded = _opened(kind, path / TENSORS)
    # copies lie where torch puts its own tensors, so that kernels sum them in the same order
    return document, {name: value.clone() for name, value in loaded.items()}


def _document(kind: Kind, path: Path) -> dict[str, Any]:
    if not path.exists():
        raise StorageError(f"no such folder: {path}", f"the folder of a saved {kind.noun}", "check the path")
    file = path / kind.document
    if not file.is_file():
        raise StorageError(
            f"{path} has no {kind.document}",
            f"a folder that {kind.noun}.save(path) wrote",
            "pass the folder, not a file in it",
        )
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(kind, file, f"is not complete JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != kind.format:
        wanted = f'"format": "{kind.format}"'
        raise StorageError(f"{file} is not that of a {kind.noun}", wanted, "pass a folder that save wrote")
    version = document.get("version")
    if not isinstance(version, int) or version > kind.version:
        library = document.get("inference_library_version")
        raise StorageError(
            f"{path} has format version {version}, written by latentvars {library}",
            f"format version {kind.version} or older",
            "upgrade latentvars",
        )
    seal = document.pop("sha256", None)
    if seal != _seal(document):
        raise _damaged(kind, file, "was altered")
    return document


def _check_part(kind: Kind, file: Path, stamp: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise _damaged(kind, file, "is missing")
    if file.stat().st_size != stamp["bytes"]:
        raise _damaged(kind, file, f"has {file.stat().st_size} bytes of {stamp['bytes']}")
    if _sha256(file) != stamp["sha256"]:
        raise _damaged(kind, file, "was altered")


def _opened(kind: Kind, file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(kind, file, f"cannot be read: {error}") from error


def _damaged(kind: Kind, file: Path, what: str) -> StorageError:
    again = "fit" if kind == FIT else "build"
    return StorageError(
        f"{file} {what}", f"the files as {kind.noun}.save wrote them", f"use another copy, or {again} again"
    )


def _stamp(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _seal(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_target(kind: Kind, path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise StorageError(f"no folder {path.parent}", "a folder to write into", f"create it: mkdir -p {path.parent}")
    if not path.exists():
        return
    if not overwrite:
        raise StorageError(f"{path} exists", "a new path", "choose another, or save(path, overwrite=True)")
    try:
        _document(kind, path)
    except StorageError as error:
        file = path / kind.document
        if file.is_file() and f'"format": "{kind.format}"' in file.read_text(errors="replace"):
            return  # a damaged or newer one may be replaced
        raise StorageError(
            f"{path} exists and is no saved {kind.noun}", f"a saved {kind.noun}, or a new path", "choose another path"
        ) from error


@contextmanager
def _appearing(path: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside ``path`` to write into, which takes its name when all is written and on the disk."""
    folder = _beside(path, "partial")
    folder.mkdir()
    try:
        yield folder
        for file in folder.iterdir():
            _flush(file)
        _flush(folder)
        _take_place(folder, path, overwrite)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _flush(path.parent)


def _take_place(folder: Path, path: Path, overwrite: bool) -> None:
    if not path.exists():
        os.rename(folder, path)
        return
    if not overwrite:
        raise StorageError(f"{path} came into being meanwhile", "a new path", "choose another path")
    old = _beside(path, "old")
    os.rename(path, old)
    try:
        os.rename(folder, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{what}")


def _flush(path: Path) -> None:
    """Have the operating system put a file or folder on the disk, where it can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems cannot, for folders
    finally:
        os.close(handle)
