"""Vectors into a file and back, by its suffix."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentvars.embedding.export.annotated import Annotated
from latentvars.embedding.export.format import Format, Stored
from latentvars.embedding.export.numbers import Numpy, Plain, Safetensors
from latentvars.embedding.export.parquet import ParquetFile
from latentvars.embedding.export.word2vec import Word2Vec
from latentvars.errors import SettingError, StorageError

FORMATS: dict[str, Format] = {
    ".parquet": ParquetFile(),
    ".safetensors": Safetensors(),
    ".npz": Numpy(),
    ".npy": Plain(),
    ".vec": Word2Vec(),
    ".txt": Word2Vec(),
    ".h5ad": Annotated(),
}


def write(vectors: Stored, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write vectors into one file, whole or not at all.

    Args:
        vectors: what is written.
        path: its suffix says how: ``.parquet``, ``.safetensors``, ``.npz`` and ``.h5ad`` keep everything; ``.vec`` and
            ``.txt`` (word2vec's text) ids and numbers, ``.npy`` the numbers alone.
        overwrite: replace a file that stands there.

    Raises:
        StorageError: something is in the way, or the folder is missing.
        SettingError: another suffix.
        ImportError: a format whose library is not installed.
    """
    target = Path(path).expanduser()
    written = format_of(target)
    with appearing(target, overwrite) as file:
        written.write(vectors, file)
    return target


def read(path: str | os.PathLike[str]) -> Stored:
    """What a file holds, by its suffix.

    Raises:
        StorageError: there is no such file, or it holds no vectors.
        SettingError: an unknown suffix.
    """
    source = Path(path).expanduser()
    found = format_of(source)
    if not source.is_file():
        raise StorageError(f"no such file: {source}", "a file of vectors", "check the path")
    return found.read(source)


def format_of(path: Path) -> Format:
    """The format of a file's suffix."""
    if path.suffix not in FORMATS:
        raise SettingError(f"a file called {path.name!r}", f"one of the suffixes {list(FORMATS)}", "rename it")
    return FORMATS[path.suffix]


@contextmanager
def appearing(target: Path, overwrite: bool) -> Iterator[Path]:
    """A file beside ``target`` to write into, which takes its name when all is written."""
    if not target.parent.is_dir():
        raise StorageError(f"no folder {target.parent}", "a folder to write into", f"mkdir -p {target.parent}")
    if target.is_dir():
        raise StorageError(f"{target} is a folder", "the path of a file", "choose another path")
    if target.exists() and not overwrite:
        raise StorageError(f"{target} exists", "a new path", "choose another, or write overwrite=True")
    partial = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
