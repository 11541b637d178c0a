"""Vectors as Parquet: ``id``, ``vector`` (lists of one length), ``std`` where there is one, metadata as columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from latentvars.embedding.export.format import (
    KEY,
    Format,
    Stored,
    check_metadata,
    damaged,
    described,
    description,
    missing_library,
    unwritable,
)

OWN = ("id", "vector", "std")


@final
class ParquetFile(Format):
    """Readable by every Parquet library; vectors of float32 are fixed-size lists of float32."""

    def write(self, vectors: Stored, path: Path) -> None:
        _, parquet = library()
        parquet.write_table(table(vectors), path)

    def read(self, path: Path) -> Stored:
        arrow, parquet = library()
        try:
            found = parquet.read_table(path)
        except (OSError, arrow.lib.ArrowException) as error:
            raise damaged(path, str(error)) from error
        if "vector" not in found.column_names:
            raise damaged(path, f"there is no column 'vector' among {found.column_names}")
        values = _numbers(found.column("vector"), path)
        text = (found.schema.metadata or {}).get(KEY.encode())
        names, provenance = described(None if text is None else text.decode(), path)
        std = _numbers(found.column("std"), path) if "std" in found.column_names else None
        ids = np.asarray(found.column("id").to_pylist(), str) if "id" in found.column_names else None
        metadata = {name: _read(found.column(name)) for name in found.column_names if name not in OWN}
        return Stored(values, ids, names, std, metadata, provenance)


def library() -> tuple[Any, Any]:
    """pyarrow and its Parquet module."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_library("pyarrow", "parquet", ".parquet") from error
    return pyarrow, parquet


def table(vectors: Stored) -> Any:
    """The vectors as an Arrow table."""
    arrow, _ = library()
    check_metadata(vectors.metadata, OWN)
    columns = {"id": arrow.array(vectors.ids.tolist(), arrow.string()), "vector": _lists(vectors.values)}
    columns |= {} if vectors.std is None else {"std": _lists(vectors.std)}
    columns |= {name: _written(name, column) for name, column in vectors.metadata.items()}
    return arrow.table(columns).replace_schema_metadata(_header(vectors))


def _header(vectors: Stored) -> Mapping[str, str]:
    return {KEY: description(vectors)}


def _written(name: str, column: np.ndarray) -> Any:
    """Numbers and dates in their own type; of Python's objects the type that arrow finds."""
    arrow, _ = library()
    try:
        return arrow.array(column if column.dtype.kind in "biufMm" else column.tolist())
    except (arrow.lib.ArrowException, OverflowError) as error:
        raise unwritable(name, column, ".parquet") from error


def _read(column: Any) -> np.ndarray:
    arrow, _ = library()
    own = arrow.types.is_primitive(column.type) or arrow.types.is_nested(column.type)
    return column.to_numpy() if own else np.asarray(column.to_pylist())


def _lists(values: np.ndarray) -> Any:
    arrow, _ = library()
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), values.shape[1])


def _numbers(column: Any, path: Path) -> np.ndarray:
    """``[N, W]`` of lists, fixed in size or not."""
    arrow, _ = library()
    types = arrow.types
    if not (types.is_list(column.type) or types.is_fixed_size_list(column.type) or types.is_large_list(column.type)):
        raise damaged(path, f"its column of vectors holds {column.type}, not lists of numbers")
    column = column.combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if not len(column) or column.null_count or len(flat) % len(column):
        raise damaged(path, "vectors of several lengths, or none")
    found = flat.reshape(len(column), -1)
    lengths = getattr(column, "value_lengths", None)
    if lengths is not None and set(lengths().to_pylist()) != {found.shape[1]}:
        raise damaged(path, "vectors of several lengths")
    return found
