"""An index as a folder: JSON and safetensors, whole or not at all, nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.embedding.search.engines import Engine, Exact
from latentvars.embedding.search.faiss_engines import HNSW, IVF, FaissEngine, FaissRows, FlatFaiss
from latentvars.embedding.search.index import Index
from latentvars.embedding.search.metrics import prepared
from latentvars.embedding.vectors import Provenance, Vectors
from latentvars.errors import KindError, LatentVarsError, StorageError
from latentvars.storage import Kind, read_folder, write_folder

INDEX = Kind("index", 1)
ENGINES: dict[str, type[Engine]] = {kind.__name__: kind for kind in (Exact, FlatFaiss, HNSW, IVF)}
KINDS = "biufUMm"  # of columns: numbers, text, dates


def save_index(index: Index, path: Path, *, overwrite: bool) -> Path:
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


def load_index(path: str | Path) -> Index:
    """The index that :meth:`latentvars.Index.save` wrote: it finds what that one found.

    Args:
        path: the folder.

    Raises:
        StorageError: there is nothing, something else, a newer version, or files that are incomplete or altered.
        KindError: an index of FAISS, which is not installed.
    """
    body, tensors = read_folder(INDEX, Path(path))
    try:
        return _restored(body, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, KindError):
            raise
        said = error.given if isinstance(error, LatentVarsError) else f"{type(error).__name__}: {error}"
        raise StorageError(
            f"{path} makes no sense: {said}", "an index as index.save wrote it", "build it again"
        ) from error


def _restored(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Index:
    columns = {name: _column(tensors[name], kind) for name, kind in body["columns"].items()}
    vectors = Vectors(
        tensors["values"].numpy(),
        columns.pop("ids"),
        body["names"],
        tensors["std"].numpy() if "std" in tensors else None,
        {name.removeprefix("metadata."): column for name, column in columns.items()},
        Provenance(**body["provenance"]),
    )
    engine = ENGINES[body["engine"]["name"]](**body["engine"]["settings"])
    rows = prepared(vectors.values, body["metric"], vectors.ids)
    if isinstance(engine, FaissEngine):
        built = engine.restored(rows, body["metric"], tensors["faiss"].numpy(), tensors["slots"].numpy())
    else:
        built = engine.build(rows, body["metric"])
    return Index(vectors, body["metric"], engine, built)


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


def _column(stored: Tensor, kind: str) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind not in KINDS:
        raise ValueError(f"a column of {kind}")
    return stored.numpy().copy().view(dtype)[:, 0]
