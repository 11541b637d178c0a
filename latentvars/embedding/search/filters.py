"""Which rows may be found: by what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from latentvars.embedding.vectors import Vectors
from latentvars.errors import KindError, NameUnknownError, ShapeError

Where = Mapping[str, Any] | Callable[[Mapping[str, np.ndarray]], Any] | np.ndarray | list


def allowed_rows(vectors: Vectors, where: Where | None, exclude: Any) -> np.ndarray | None:
    """A mask ``[N]`` of the rows that may be found; None: all.

    Args:
        vectors: the rows with their metadata.
        where: name → the value or values it may have; a function of the columns; or a mask ``[N]``.
        exclude: ids to leave out.

    Raises:
        NameUnknownError: metadata or ids that do not exist.
        ShapeError: a mask of another length.
        KindError: what is no mask.
    """
    if where is None and exclude is None:
        return None
    mask = np.ones(len(vectors), bool) if where is None else _mask(vectors, where)
    if exclude is not None and len(np.atleast_1d(exclude)):
        mask = mask.copy()
        mask[vectors.positions(exclude)] = False
    return None if mask.all() else mask


def _mask(vectors: Vectors, where: Where) -> np.ndarray:
    if isinstance(where, Mapping):
        mask = np.ones(len(vectors), bool)
        for name, wanted in where.items():
            mask &= _is_one_of(_column(vectors, name), wanted)
        return mask
    mask = np.asarray(where(dict(vectors.metadata)) if callable(where) else where)
    if mask.dtype != bool:
        raise KindError(
            given=f"where= of {mask.dtype} numbers" if mask.ndim else f"where= that gives a {type(where).__name__}",
            needed="a mapping, a boolean mask, or a function of the columns that returns one",
            remedy="compare, as in where=lambda columns: columns['year'] > 2000",
        )
    if mask.shape != (len(vectors),):
        raise ShapeError(f"a mask of shape {list(mask.shape)}", f"[{len(vectors)}]", "pass one value for each row.")
    return mask


def _column(vectors: Vectors, name: str) -> np.ndarray:
    if name not in vectors.metadata:
        raise NameUnknownError(
            given=f"the metadata {name!r}",
            needed=f"one of {list(vectors.metadata)}",
            remedy="filter by metadata that the vectors have: lv.Vectors(..., metadata={...})",
        )
    return vectors.metadata[name]


def _is_one_of(column: np.ndarray, wanted: Any) -> np.ndarray:
    several = isinstance(wanted, list | tuple | set | frozenset | np.ndarray)
    found = np.zeros(len(column), bool)
    for value in wanted if several else [wanted]:
        found |= np.asarray(column == value, bool)
    return found
