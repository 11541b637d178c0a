"""Reading the folder of a saved index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latentvars.embedding.search.faiss_engines import FaissEngine
from latentvars.embedding.search.index import Index
from latentvars.embedding.search.metrics import prepared
from latentvars.embedding.search.saving import ENGINES, INDEX, KINDS
from latentvars.embedding.vectors import Provenance, Vectors
from latentvars.errors import KindError, LatentVarsError, StorageError
from latentvars.storage import read_folder


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


def _column(stored: Tensor, kind: str) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind not in KINDS:
        raise ValueError(f"a column of {kind}")
    return stored.numpy().copy().view(dtype)[:, 0]
