"""Vectors of data that stay in their files, some rows at a time into a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latentvars.embedding.export.files import appearing
from latentvars.embedding.export.parquet import library, table
from latentvars.embedding.vectors import Vectors
from latentvars.errors import SettingError, ShapeError
from latentvars.rows import Rows

PRECISIONS = {"float32": np.float32, "float64": np.float64}


class Source(Protocol):
    """What makes vectors part by part: :class:`latentvars.Embedding`."""

    def vector_parts(self, X: Any, ids: Any = None, *, return_std: bool = False) -> Iterator[Vectors]: ...


def export(
    embedding: Source,
    data: Any,
    path: str | os.PathLike[str],
    *,
    ids: Any = None,
    precision: str = "float32",
    return_std: bool = False,
    overwrite: bool = False,
) -> Path:
    """Embed rows part by part into one Parquet or ``.npy`` file, whole or not at all.

    Memory holds ``batch_rows`` rows of the data and their vectors, however many rows there are.

    Args:
        embedding: fitted.
        data: N rows, such as :class:`latentvars.Rows` over files.
        path: ``.parquet`` (id, vector, std), or ``.npy`` (numbers alone, ``[N, W]``).
        ids: ``[N]``; names of the rows by default.
        precision: of the numbers in the file, ``"float32"`` or ``"float64"``.
        return_std: whether a Parquet file has the posterior standard deviations too.
        overwrite: replace a file that stands there.

    Raises:
        SettingError: another suffix or precision.
        ShapeError: another number of ids.
        DataError: ids that repeat.
        StorageError: something is in the way, or the folder is missing.
    """
    target = Path(path).expanduser()
    if target.suffix not in (".parquet", ".npy"):
        raise SettingError(f"a file called {target.name!r}", ".parquet or .npy, written part by part", "rename it")
    if return_std and target.suffix == ".npy":
        raise SettingError("return_std=True into .npy, which holds one table", ".parquet", "rename the file")
    if precision not in PRECISIONS:
        raise SettingError(f"precision={precision!r}", f"one of {list(PRECISIONS)}", "change it")
    rows = Rows.of(data)
    if ids is not None and len(ids) != len(rows):
        raise ShapeError(f"{len(ids)} ids", f"one for each of {len(rows)} rows", "pass as many ids.")
    if ids is not None:
        Vectors(np.zeros((len(rows), 1), np.float32), ids)  # refuses copies, which stand in different parts
    parts = embedding.vector_parts(rows, ids, return_std=return_std)
    with appearing(target, overwrite) as file:
        if target.suffix == ".npy":
            _numbers(parts, file, PRECISIONS[precision])
        else:
            _table(parts, file, PRECISIONS[precision])
    return target


def _table(parts: Any, file: Path, dtype: Any) -> None:
    _, parquet = library()
    writer = None
    try:
        for part in parts:
            found = table(_cast(part, dtype).stored)
            writer = writer or parquet.ParquetWriter(file, found.schema)
            writer.write_table(found)
    finally:
        if writer is not None:
            writer.close()


def _numbers(parts: Any, file: Path, dtype: Any) -> None:
    """The header of ``numpy.save``, whose number of rows is filled in at the end."""
    from numpy.lib import format as npy

    size = width = 0
    with file.open("wb") as opened:
        for part in parts:
            if not size:
                width = part.width
                _header(npy, opened, 0, width, dtype)
            opened.write(np.ascontiguousarray(part.values, dtype=dtype).data)
            size += len(part)
        opened.seek(0)
        _header(npy, opened, size, width, dtype)


def _header(npy: Any, opened: Any, size: int, width: int, dtype: Any) -> None:
    """Of one length whatever the number of rows, as numpy leaves room for it to grow."""
    described = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (size, width)}
    npy.write_array_header_1_0(opened, described)


def _cast(part: Vectors, dtype: Any) -> Vectors:
    std = None if part.std is None else part.std.astype(dtype)
    return Vectors(part.values.astype(dtype), part.ids, part.names, std, part.metadata, part.provenance)
