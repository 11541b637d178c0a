"""What a file format of vectors has to do."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentvars.errors import DataError, KindError, StorageError

KEY = "latentvars"  # under which a description stands in a file


@dataclass(frozen=True)
class Stored:
    """What a file holds: the parts of :class:`latentvars.Vectors`.

    Attributes:
        values: ``[N, W]``.
        ids: ``[N]`` text; None where the file has none.
        names: of the coordinates, W; () where the file has none.
        std: ``[N, W]`` or None.
        metadata: name → ``[N]``.
        provenance: as a mapping of text.
    """

    values: np.ndarray
    ids: Any = None
    names: Sequence[str] = ()
    std: np.ndarray | None = None
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


class Format(ABC):
    """Vectors as one file."""

    @abstractmethod
    def write(self, vectors: Stored, path: Path) -> None:
        """Write the vectors into a new file."""

    @abstractmethod
    def read(self, path: Path) -> Stored:
        """The vectors of a file; StorageError where it holds none."""


def description(vectors: Stored) -> str:
    """Names of coordinates and provenance as JSON."""
    return json.dumps({"names": list(vectors.names), "provenance": dict(vectors.provenance)})


def described(text: str | None, path: Path) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The inverse of :func:`description`; for a file of other origin, plain names and the name of the file."""
    if text is None:
        return (), {"source": f"file {path.name}"}
    try:
        found = json.loads(text)
        return tuple(found["names"]), dict(found["provenance"])
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"its description makes no sense: {error}") from error


def damaged(path: Path, why: str) -> StorageError:
    """An error about a file."""
    return StorageError(f"{path} holds no vectors: {why}", "a file that vectors.save(path) wrote", "use another copy")


def missing_library(name: str, extra: str, suffix: str) -> ImportError:
    """An error about a library that is not installed."""
    return ImportError(f"{suffix} files need {name}\n  do: pip install 'latentvars[{extra}]'")


def unwritable(name: str, column: np.ndarray, suffix: str) -> KindError:
    """An error about metadata that a format has no place for."""
    return KindError(
        given=f"metadata {name!r}, a column of {column.dtype}, in a {suffix} file",
        needed="numbers or text" + (", or dates" if suffix != ".h5ad" else ""),
        remedy=f"make it text: {name} = column.astype(str)",
    )


def check_metadata(metadata: Mapping[str, np.ndarray], taken: tuple[str, ...]) -> None:
    """Whether the names of metadata are free."""
    clash = [name for name in metadata if name in taken]
    if clash:
        raise DataError(
            given=f"metadata called {clash[0]!r}",
            needed=f"other names than {list(taken)}, which the file has itself",
            remedy="rename it",
        )
