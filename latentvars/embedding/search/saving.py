"""An index as a folder: JSON and safetensors, whole or not at all, nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from latentvars.embedding.search.engines import Built, Engine, Exact
from latentvars.embedding.search.faiss_engines import HNSW, IVF, FaissRows, FlatFaiss
from latentvars.embedding.vectors import Vectors
from latentvars.errors import KindError
from latentvars.storage import Kind, write_folder

INDEX = Kind("index", 1)
ENGINES: dict[str, type[Engine]] = {kind.__name__: kind for kind in (Exact, FlatFaiss, HNSW, IVF)}
KINDS = "biufUMm"  # of columns: numbers, text, dates


class Savable(Protocol):
    """What is written: :class:`latentvars.Index`."""

    @property
    def vectors(self) -> Vectors: ...
    @property
    def metric(self) -> str: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def built(self) -> Built: ...


def save_index(index: Savable, path: Path, *, overwrite: bool) -> Path:
    """Write an index; see :meth:`latentvars.Index.save`."""
    vectors = index.vectors
    tensors, kinds = written_columns(vectors)
    tensors["values"] = torch.from_numpy(vectors.values.copy())
    if vectors.std is not None:
        tensors["std"] = torch.from_numpy(vectors.std.copy())
    if isinstance(index.built, FaissRows):
        tensors["faiss"] = torch.from_numpy(index.built.stored())
        tensors["slots"] = torch.from_numpy(index.built.slots.astype(np.int64))
    if type(index.engine).__name__ not in ENGINES:
        raise KindError(f"{index.engine}", f"one of {', '.join(ENGINES)}", "save an index of one of them.")
    body = {
        "metric": index.metric,
        "engine": {"name": type(index.engine).__name__, "settings": asdict(index.engine)},  # type: ignore[arg-type]
        "names": list(vectors.names),
        "columns": kinds,
        "provenance": asdict(vectors.provenance),
    }
    return write_folder(INDEX, path, body, tensors, overwrite=overwrite)


def written_columns(vectors: Vectors) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Ids and metadata as bytes, which text is missing, and their types."""
    columns = {"ids": vectors.ids, **{f"metadata.{name}": column for name, column in vectors.metadata.items()}}
    gaps = {name: column == None for name, column in columns.items() if column.dtype.kind == "O"}  # noqa: E711
    columns |= {name: _text(columns[name], name) for name in gaps}
    tensors = {name: _bytes(column, name) for name, column in columns.items()}
    tensors |= {f"missing.{name}": torch.from_numpy(np.asarray(gap, bool)) for name, gap in gaps.items()}
    return tensors, {name: column.dtype.str for name, column in columns.items()}


def read_columns(tensors: Mapping[str, Tensor], kinds: Mapping[str, str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ids, and metadata by name, of what :func:`written_columns` gives."""
    columns = {name: _column(tensors[name], kind) for name, kind in kinds.items()}
    for name in columns:
        if f"missing.{name}" in tensors:
            columns[name] = columns[name].astype(object)
            columns[name][tensors[f"missing.{name}"].numpy()] = None
    return columns.pop("ids"), {name.removeprefix("metadata."): column for name, column in columns.items()}


def _column(stored: Tensor, kind: str) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind not in KINDS:
        raise ValueError(f"a column of {kind}")
    return stored.numpy().copy().view(dtype)[:, 0]


def _text(column: np.ndarray, name: str) -> np.ndarray:
    """Text with "" where it is missing."""
    if not all(one is None or isinstance(one, str) for one in column):
        _refuse(column, name)
    return np.array(["" if one is None else one for one in column], dtype=str)


def _refuse(column: np.ndarray, name: str) -> NoReturn:
    raise KindError(
        given=f"{name}, a column of {column.dtype}",
        needed="numbers, text or dates",
        remedy=f"make it text: {name} = column.astype(str)",
    )


def _bytes(column: np.ndarray, name: str) -> Tensor:
    """A column as its bytes, row by row ``[N, B]``."""
    if column.dtype.kind not in KINDS:
        _refuse(column, name)
    whole = np.ascontiguousarray(column)
    return torch.from_numpy(whole.view(np.uint8).reshape(len(whole), whole.dtype.itemsize).copy())
