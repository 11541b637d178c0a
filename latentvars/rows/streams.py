"""Columns that stay in their files: memory-mapped numpy, Parquet and zarr, read slice by slice, never whole."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latentvars.errors import DataError, KindError, NameUnknownError, StorageError

Stamp = tuple[tuple[str, int, int], ...]
MOST_STAMPED = 10_000  # files of a store that are looked at to see whether it has changed


class Stream(Protocol):
    """A column in a file.

    Attributes:
        shape: ``(S, ...)``.
        dtype: of what is read.
        features: names of the last axis, where the file has them.
        where: the file, for messages.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def features(self) -> tuple[str, ...] | None: ...

    @property
    def where(self) -> str: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop``, in memory of their own."""
        ...

    def stamp(self) -> Stamp:
        """Name, size and time of last change (ns) of every file; what changes when the data do."""
        ...


@dataclass(frozen=True)
class Mapped:
    """A memory-mapped numpy array. It is read with plain reads, so that pages of the file never count as our memory.

    Attributes:
        path: the file.
        offset: bytes before the first number.
        shape, dtype, strides: as numpy has them.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]

    @staticmethod
    def of(array: np.memmap) -> Mapped:
        """The part of a file that a (view of a) memory-mapped array shows."""
        mapped = array._mmap  # type: ignore[attr-defined]
        begin = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
        lead = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
        offset = lead + array.__array_interface__["data"][0] - begin
        return Mapped(Path(str(array.filename)), offset, array.shape, array.dtype, array.strides)

    @property
    def features(self) -> None:
        return None

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self, start: int, stop: int) -> np.ndarray:
        count = max(0, stop - start)
        shape = (count, *self.shape[1:])
        if self.strides == np.empty((1, *self.shape[1:]), self.dtype).strides:
            numbers = int(np.prod(shape, dtype=np.int64))
            found = np.fromfile(self.path, self.dtype, numbers, offset=self._at(start))
            if found.size != numbers:
                raise _shrunk(self.where, start, stop)
            return found.reshape(shape)
        if any(stride < 0 for stride in self.strides):
            raise KindError(
                f"a reversed view of {self.where}", "an array in the order of its file", "map the file anew."
            )
        if self._at(start) + self._extent(shape) > self.path.stat().st_size:
            raise _shrunk(self.where, start, stop)
        window = np.memmap(self.path, np.uint8, "r", offset=self._at(start), shape=(self._extent(shape),))
        view = np.ndarray(shape, self.dtype, window, strides=self.strides)
        return np.array(view, order="C")  # the window is unmapped when it goes out of scope

    def stamp(self) -> Stamp:
        return (_stamp(self.path),)

    def _at(self, start: int) -> int:
        return self.offset + start * self.strides[0]

    def _extent(self, shape: tuple[int, ...]) -> int:
        last = sum((size - 1) * stride for size, stride in zip(shape, self.strides, strict=True))
        return last + self.dtype.itemsize


@dataclass(frozen=True)
class Parquet:
    """Columns of a Parquet file (or of all files in a folder, in order of their names), read with polars.

    ``lv.Rows(lv.Parquet("rows.parquet", ["height", "width"]))``; with a single name, one number per row.

    Attributes:
        path: the file or folder.
        columns: names of the columns, in this order; None: all.

    Raises:
        StorageError: there is no such file, or it cannot be read.
        NameUnknownError: a column that the file does not have.
        DataError: columns that are not numbers.
        ImportError: polars is not installed.
    """

    path: str | os.PathLike[str]
    columns: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        schema = self._schema()
        wrong = [name for name in self._names(schema) if name not in schema]
        if wrong:
            raise NameUnknownError(
                f"the columns {wrong} of {self.where}", f"some of {list(schema)}", "correct Parquet(..., columns=)."
            )
        text = [n for n in self._names(schema) if not (schema[n].is_numeric() or str(schema[n]) == "Boolean")]
        if text:
            raise DataError(
                f"{self.where}: the columns {', '.join(map(repr, text))} do not hold numbers",
                "numeric columns (integer, float or boolean)",
                "name the numeric ones in Parquet(..., columns=), or convert them to codes.",
            )
        object.__setattr__(self, "_kinds", [schema[name] for name in self._names(schema)])
        object.__setattr__(self, "_read_names", tuple(self._names(schema)))
        object.__setattr__(self, "_size", int(self._scan().select(_polars().len()).collect().item()))

    @property
    def where(self) -> str:
        return str(Path(self.path))

    @property
    def shape(self) -> tuple[int, ...]:
        size: int = self._size  # type: ignore[attr-defined]
        return (size,) if isinstance(self.columns, str) else (size, len(self._kinds))  # type: ignore[attr-defined]

    @property
    def dtype(self) -> np.dtype:
        """int64 where all columns are whole numbers; those may not have gaps then."""
        whole = all(kind.is_integer() for kind in self._kinds)  # type: ignore[attr-defined]
        return np.dtype(np.int64 if whole else np.float64)

    @property
    def features(self) -> tuple[str, ...] | None:
        return None if isinstance(self.columns, str) else self._read_names  # type: ignore[attr-defined]

    def read(self, start: int, stop: int) -> np.ndarray:
        names: tuple[str, ...] = self._read_names  # type: ignore[attr-defined]
        frame = self._scan().select(names).slice(start, stop - start).collect(engine="streaming")
        if len(frame) != stop - start:
            raise _shrunk(self.where, start, stop)
        found = np.empty((len(frame), len(names)), self.dtype)
        for number, name in enumerate(names):
            if self.dtype.kind == "i" and frame[name].null_count():
                raise DataError(
                    f"{self.where}: column {name!r} has whole numbers with gaps",
                    "numbers of a floating-point kind where entries are missing",
                    "write the column as Float64.",
                )
            found[:, number] = frame[name].cast(_polars().Float64 if self.dtype.kind == "f" else _polars().Int64)
        return found[:, 0] if isinstance(self.columns, str) else found

    def stamp(self) -> Stamp:
        return _stamps(Path(self.path))

    def _names(self, schema: Any) -> list[str]:
        if self.columns is None:
            return list(schema)
        return [self.columns] if isinstance(self.columns, str) else list(self.columns)

    def _schema(self) -> Any:
        _check_there(Path(self.path))
        try:
            return self._scan().collect_schema()
        except (OSError, _polars().exceptions.PolarsError) as error:
            raise _unreadable(self.where, "Parquet", error) from error

    def _scan(self) -> Any:
        path = Path(self.path)
        return _polars().scan_parquet(path / "**/*.parquet" if path.is_dir() else path)


@dataclass(frozen=True)
class Zarr:
    """A zarr array, ``zarr.open_array(path)``.

    Attributes:
        array: the array; it is only read.
    """

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype)

    @property
    def features(self) -> None:
        return None

    @property
    def where(self) -> str:
        return str(self._folder() or f"{type(self.array).__name__} {getattr(self.array, 'name', '')}")

    def read(self, start: int, stop: int) -> np.ndarray:
        found = np.ascontiguousarray(self.array[start:stop])
        if len(found) != stop - start:
            raise _shrunk(self.where, start, stop)
        return found

    def stamp(self) -> Stamp:
        folder = self._folder()
        return () if folder is None else _stamps(folder)

    def _folder(self) -> Path | None:
        """Where it lies, if it is a folder of this machine."""
        root = getattr(self.array.store, "root", None) or getattr(self.array.store, "path", None)
        if root is None or not Path(str(root)).is_dir():
            return None
        return Path(str(root)) / str(getattr(self.array, "path", ""))


def stream_of(name: str, value: Any) -> Stream | None:
    """The stream of a value that stays in its file; None where it is something else.

    Raises:
        StorageError: a path to nothing, or to no file that can be read.
        KindError: a path to a file of another kind.
        DataError: an array that does not hold real numbers.
    """
    if isinstance(value, os.PathLike):
        value = _opened(name, Path(value))
    if isinstance(value, np.memmap) and value.ndim and getattr(value, "filename", None) is not None:
        value = Mapped.of(value)
    elif type(value).__module__.split(".")[0] == "zarr" and hasattr(value, "shape") and hasattr(value, "store"):
        value = Zarr(value)
    if not isinstance(value, Mapped | Parquet | Zarr):
        return None
    if value.dtype.kind not in "fiub":
        raise DataError(
            f"column {name!r} in {value.where} has the dtype {value.dtype}",
            "real numbers",
            "convert it to numbers first, as by codes.",
        )
    return value


def _opened(name: str, path: Path) -> Any:
    _check_there(path)
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise _unreadable(str(path), "npy", error) from error
    if path.suffix == ".parquet":
        return Parquet(path)
    if path.suffix == ".zarr":
        return _zarr(name, path)
    raise KindError(
        f"column {name!r} is the path {path}",
        "a file whose name ends in .npy, .parquet or .zarr",
        "pass numpy.memmap(path, dtype, 'r', shape=...), lv.Parquet(path, columns), or an open zarr array.",
    )


def _zarr(name: str, path: Path) -> Any:
    zarr = _package("zarr", "zarr")
    found = zarr.open(str(path), mode="r")
    if hasattr(found, "shape"):
        return found
    raise KindError(
        f"column {name!r} is {path}, a group of zarr arrays",
        "one array",
        f"pass lv.Rows({{'x': zarr.open({str(path)!r}, mode='r')['...']}}), a column for each array.",
    )


def _polars() -> Any:
    return sys.modules.get("polars") or _package("polars", "parquet")


def _package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed to read this file\n  do: pip install 'latentvars[{extra}]'") from error


def _check_there(path: Path) -> None:
    if not path.exists():
        raise StorageError(f"no such file: {path.absolute()}", "a file that exists", "check the path.")


def _unreadable(where: str, kind: str, error: Exception) -> StorageError:
    first = (str(error).splitlines() or [""])[0]
    return StorageError(f"{where} cannot be read as {kind}: {first}", f"a {kind} file", "check what wrote it.")


def _shrunk(where: str, start: int, stop: int) -> DataError:
    return DataError(
        f"{where} ends before rows {start} to {stop} that it had when it was opened",
        "a file that stays as it is while it is read",
        "wait until it is written, or copy it, and begin again.",
    )


def _stamp(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return path.name, found.st_size, found.st_mtime_ns


def _stamps(path: Path) -> Stamp:
    """Those of a file, or of the files of a folder."""
    if not path.is_dir():
        return (_stamp(path),)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return (_stamp(path), *(_stamp(file) for file in files[:MOST_STAMPED]), (str(path), len(files), 0))
