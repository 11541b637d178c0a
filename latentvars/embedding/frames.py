"""Vectors as frames that keep the names of rows and coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import get_config

from latentvars.errors import ShapeError
from latentvars.rows import Rows


def framed(vectors: np.ndarray, names: Sequence[str], rows: Rows, given: Any, container: str | None) -> Any:
    """Vectors ``[N, W]`` or, one for each step, ``[S, W]`` in the container that was asked for.

    Args:
        vectors: the values.
        names: of the coordinates.
        rows: the rows they belong to.
        given: the data as they were passed; an index of the same length is kept.
        container: "default", "pandas", "polars"; None: scikit-learn's ``transform_output``.
    """
    container = container or get_config()["transform_output"]
    if container == "pandas":
        import pandas

        return pandas.DataFrame(vectors, index=_index(rows, given, len(vectors)), columns=list(names))
    if container == "polars":
        import polars

        return polars.DataFrame(vectors, schema=list(names), orient="row")
    return vectors


def names_of(rows: Rows, part: slice, each: bool) -> list[str]:
    """Names of some rows, or ``row/step`` of each of their steps, as text."""
    names = [str(name) for name in rows.names[part]]
    if not each:
        return names
    assert rows.lengths is not None
    lengths = rows.lengths[part].tolist()
    return [f"{name}/{step}" for name, length in zip(names, lengths, strict=True) for step in range(length)]


def _index(rows: Rows, given: Any, size: int) -> Any:
    """The index of the data, or the names of the rows; of steps, names of rows and numbers of steps."""
    import pandas

    if isinstance(given, pandas.DataFrame | pandas.Series) and len(given) == size:
        return given.index
    if size == len(rows):
        return pandas.Index(rows.names)
    assert rows.lengths is not None
    lengths = rows.lengths.numpy()
    steps = np.concatenate([np.arange(length) for length in lengths])
    row = [name for name, length in zip(rows.names, lengths, strict=True) for _ in range(length)]
    return pandas.MultiIndex.from_arrays([row, steps], names=["row", "step"])


def check_input_features(given: np.ndarray, size: int, names: np.ndarray) -> None:
    """Whether names that scikit-learn passes along are those of the columns; ShapeError of others."""
    if len(given) != size:
        raise ShapeError(
            f"input_features should have length equal to the number of features ({size}), got {len(given)}",
            f"{size} names",
            "pass the names of the columns that were fitted, or none.",
        )
    if list(names) != list(given):
        raise ShapeError(
            "input_features is not equal to feature_names_in_",
            f"{list(names)}",
            "pass the names that were fitted, or none.",
        )
