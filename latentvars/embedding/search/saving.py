"""An index as a folder: JSON and safetensors, whole or not at all, nothing pickled."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Protocol

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
    columns = {"ids": vectors.ids, **{f"metadata.{name}": column for name, column in vectors.metadata.items()}}
    tensors = {name: _bytes(column, name) for name, column in columns.items()}
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
        "columns": {name: column.dtype.str for name, column in columns.items()},
        "provenance": asdict(vectors.provenance),
    }
    return write_folder(INDEX, path, body, tensors, overwrite=overwrite)


def _bytes(column: np.ndarray, name: str) -> Tensor:
    """A column as its bytes, row by row ``[N, B]``."""
    if column.dtype.kind not in KINDS:
        raise KindError(
            given=f"{name}, a column of {column.dtype}",
            needed="numbers, text or dates",
            remedy=f"make it text: {name} = column.astype(str)",
        )
    whole = np.ascontiguousarray(column)
    return torch.from_numpy(whole.view(np.uint8).reshape(len(whole), whole.dtype.itemsize).copy())
