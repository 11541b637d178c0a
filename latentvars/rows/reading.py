"""Reading what people hold (arrays, frames, nested lists, lists of sequences) into plain CPU tensors.

Nothing here is written to, and memory is shared with the caller wherever the dtype allows it.
"""

from __future__ import annotations

import math
import numbers
import sys
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import DataError, KindError, ShapeError
from latentvars.rows.column import Column
from latentvars.rows.streams import stream_of

ALIGNMENT = 64  # bytes, of what torch allocates
SMALL = 2**20  # bytes


@dataclass(frozen=True)
class Source:
    """One column as read.

    Attributes:
        values: ``[S, ...]`` float64 or int64, on the CPU; NaN where an entry is missing. A :class:`Column` where the
            numbers stay in a file.
        features: names of the last axis, where the input has them.
        names: labels of the leading axis, where the input has them.
        lengths: steps of each sequence, where the input was a list of sequences.
    """

    values: Any
    features: tuple[str, ...] | None = None
    names: Sequence[Hashable] | None = None
    lengths: tuple[int, ...] | None = None


def read_columns(x: Any) -> dict[str, Source]:
    """Columns of ``x`` by name; anything but a mapping is the single column ``"x"``."""
    _refuse("x", x)  # some sparse matrices are mappings
    if not isinstance(x, Mapping):
        return {"x": read_column("x", x)}
    if not x:
        raise DataError("a mapping without columns", "at least one named column", "pass {'name': array}.")
    for name in x:
        if not isinstance(name, str):
            raise KindError(
                f"the column name {name!r}", "column names that are strings", f"rename it to {str(name)!r}."
            )
    return {name: read_column(name, value) for name, value in x.items()}


def read_column(name: str, value: Any) -> Source:
    """One column from any supported input; errors name the column."""
    stream = stream_of(name, value)
    if stream is not None:
        return Source(Column(stream), stream.features if len(stream.shape) > 1 else None)
    _refuse(name, value)
    if _is_a(value, "pandas", "DataFrame"):
        return _pandas_frame(name, value)
    if _is_a(value, "pandas", "Series"):
        return Source(_pandas_series(name, value), names=_pandas_names(value))
    if _is_a(value, "polars", "DataFrame"):
        return _polars_frame(name, value)
    if _is_a(value, "polars", "Series"):
        return Source(_polars_series(name, value))
    if isinstance(value, list | tuple) and any(_is_sequence(item) for item in value):
        return _sequences(name, value)
    return Source(to_tensor(name, value))


def to_tensor(name: str, value: Any) -> Tensor:
    """``value`` as an int64 or float64 CPU tensor: integers stay integers, booleans and floats become float64."""
    if isinstance(value, Tensor):
        return _from_torch(name, value)
    array = value if isinstance(value, np.ndarray) else _from_python(name, value)
    if np.ma.isMaskedArray(array):
        array = np.ma.filled(np.ma.asarray(array).astype(np.float64), np.nan)
    if array.ndim == 0:
        raise ShapeError(
            f"column {name!r} is a single value", "one entry per row", "pass an array with at least one axis."
        )
    if array.dtype.kind == "c":
        raise DataError(
            f"Complex data not supported: column {name!r} is {array.dtype}",
            "real numbers",
            "pass real and imaginary parts as two features.",
        )
    if array.dtype.kind == "O":
        array = _from_objects(name, array)
    if array.dtype.kind not in "fiub":
        raise _not_numeric(name, array.dtype)
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"column {name!r} holds {array.max()}", "integers below 2**63", "convert it to float64.")
    return share(array.astype(np.int64 if array.dtype.kind in "iu" else np.float64, copy=False))


def share(array: np.ndarray) -> Tensor:
    """The array as a tensor over the same memory.

    Copied where torch cannot have its strides, and where it is small and off the boundaries of torch's own memory:
    vectorised products may round otherwise there, and where numpy puts an array is chance.
    """
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    if array.ctypes.data % ALIGNMENT and array.nbytes <= SMALL:
        return torch.tensor(array)
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():  # torch warns of read-only arrays; latentvars never writes to rows
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def labels(value: Any) -> list[Hashable]:
    """Ids or names as a list of plain Python values."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    for method in ("to_list", "tolist"):
        if hasattr(value, method):
            return list(getattr(value, method)())
    return list(value)


def is_missing(label: Any) -> bool:
    """Whether a label is None, NaN or pandas' NA or NaT."""
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return True
    return type(label).__name__ in ("NAType", "NaTType")


def _is_a(value: Any, module: str, kind: str) -> bool:
    """isinstance without importing: a value of a class can only exist once its module was imported."""
    cls = getattr(sys.modules.get(module), kind, None)
    return isinstance(cls, type) and isinstance(value, cls)


def _refuse(name: str, value: Any) -> None:
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(value):
        raise KindError(f"column {name!r} is a sparse matrix", "a dense array", "call .toarray() on it.")
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise KindError(f"column {name!r} is a sparse tensor", "a dense tensor", "call .to_dense() on it.")
    if isinstance(value, str | bytes) or value is None:
        raise KindError(f"column {name!r} is {type(value).__name__}", "numbers", "pass an array, a frame or a list.")


def _is_sequence(item: Any) -> bool:
    """Whether a list item is an array or frame with steps (a list of such items is a list of sequences)."""
    if isinstance(item, Tensor | np.ndarray):
        return item.ndim > 0
    return any(_is_a(item, module, kind) for module in ("pandas", "polars") for kind in ("Series", "DataFrame"))


def _sequences(name: str, items: Sequence[Any]) -> Source:
    """A list of ``[T_i, ...]`` arrays or frames, concatenated over steps."""
    parts = []
    for number, item in enumerate(items):
        if not _is_sequence(item):
            raise KindError(
                f"column {name!r} is a list of sequences, but item {number} is {type(item).__name__}",
                "arrays or frames only",
                "make every sequence an array.",
            )
        parts.append(read_column(name, item))
        shape, first = parts[-1].values.shape, parts[0].values.shape
        if shape[0] == 0:
            raise DataError(f"sequence {number} of column {name!r} has no steps", "at least one step", "leave it out.")
        if shape[1:] != first[1:]:
            raise ShapeError(
                f"sequence {number} of column {name!r} has the shape {list(shape)}, sequence 0 has {list(first)}",
                "the same shape after the first axis in every sequence",
                "give all sequences the same features.",
            )
        if parts[-1].features != parts[0].features:
            raise DataError(
                f"sequence {number} of column {name!r} has the features {parts[-1].features}, "
                f"sequence 0 has {parts[0].features}",
                "the same feature names in the same order in every sequence",
                "reorder or rename the columns of the frames.",
            )
    floating = any(part.values.is_floating_point() for part in parts)
    values = torch.cat([part.values.double() if floating else part.values for part in parts])
    return replace(parts[0], values=values, names=None, lengths=tuple(len(part.values) for part in parts))


def _from_torch(name: str, value: Tensor) -> Tensor:
    if value.is_complex():
        raise DataError(
            f"Complex data not supported: column {name!r} is {value.dtype}",
            "real numbers",
            "pass real and imaginary parts as two features.",
        )
    if value.ndim == 0:
        raise ShapeError(
            f"column {name!r} is a single value", "one entry per row", "pass a tensor with at least one axis."
        )
    floating = value.is_floating_point() or value.dtype == torch.bool
    return value.detach().to("cpu", torch.float64 if floating else torch.int64)


def _from_python(name: str, value: Any) -> np.ndarray:
    """Nested lists of numbers (and of zero-dimensional arrays), or anything with ``__array__``."""
    if isinstance(value, list | tuple):
        value = _plain(value)
    elif not hasattr(value, "__array__"):
        raise KindError(
            f"column {name!r} is {type(value).__name__}",
            "an array, a tensor, a frame, or a nested list of numbers",
            "convert it with numpy.asarray.",
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(
            f"column {name!r} is a nested list whose lists differ in length",
            "equal lengths, or for sequences a list of arrays",
            "for sequences, make each one an array: [np.asarray(s) for s in sequences].",
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) else value


def _from_objects(name: str, array: np.ndarray) -> np.ndarray:
    """Objects that are numbers or missing; whole numbers without a gap stay integers."""
    items = [math.nan if is_missing(item) else item for item in array.ravel().tolist()]
    whole = all(isinstance(item, numbers.Integral) and not isinstance(item, bool) for item in items)
    try:
        if any(isinstance(item, str) for item in items):
            raise ValueError(f"it holds the text {next(item for item in items if isinstance(item, str))!r}")
        flat = np.array(items, np.int64) if whole else np.array([float(item) for item in items], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        wrong = KindError if isinstance(error, TypeError) else DataError
        raise wrong(
            f"column {name!r} is not numeric: {error}",
            "numbers, or None and NaN where an entry is missing",
            "convert it to numbers first, as by codes.",
        ) from error
    return flat.reshape(array.shape)


def _not_numeric(name: str, dtype: Any) -> DataError:
    return DataError(f"column {name!r} has the dtype {dtype}", "numbers", "convert it to numbers first, as by codes.")


def _pandas_series(name: str, series: Any) -> Tensor:
    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        return to_tensor(name, series.to_numpy())
    if getattr(dtype, "kind", "O") not in "fiub" or not getattr(dtype, "_is_numeric", True):
        raise _not_numeric(name, dtype)
    if bool(series.isna().any()):
        return to_tensor(name, series.to_numpy(dtype=np.float64, na_value=np.nan))
    kinds: dict[str, type] = {"i": np.int64, "u": np.uint64}
    return to_tensor(name, series.to_numpy(dtype=kinds.get(dtype.kind, np.float64)))


def _pandas_frame(name: str, frame: Any) -> Source:
    dtypes = set(frame.dtypes)
    if len(dtypes) == 1 and isinstance(frame.dtypes.iloc[0], np.dtype) and frame.dtypes.iloc[0].kind in "fiub":
        values = to_tensor(name, frame.to_numpy())
    else:
        series = [(str(frame.columns[i]), frame.iloc[:, i]) for i in range(frame.shape[1])]
        values = _stack(name, series, _pandas_series, len(frame))
    return Source(values, tuple(str(column) for column in frame.columns), _pandas_names(frame))


def _pandas_names(frame: Any) -> Sequence[Hashable] | None:
    index = frame.index
    if type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1:
        return None
    return tuple(index.tolist())


def _polars_series(name: str, series: Any) -> Tensor:
    kind = str(series.dtype)
    if not (series.dtype.is_numeric() or kind in ("Boolean", "Null") or kind.startswith("Array")):
        raise _not_numeric(name, kind)
    if series.null_count() or kind.startswith("Decimal"):
        return to_tensor(name, [math.nan if item is None else float(item) for item in series.to_list()])
    return to_tensor(name, series.to_numpy())


def _polars_frame(name: str, frame: Any) -> Source:
    series = [(one.name, one) for one in frame]
    if len(set(frame.dtypes)) == 1 and frame.dtypes[0].is_numeric() and not any(one.null_count() for one in frame):
        return Source(to_tensor(name, frame.to_numpy()), tuple(frame.columns))
    return Source(_stack(name, series, _polars_series, len(frame)), tuple(frame.columns))


def _stack(name: str, series: Sequence[tuple[str, Any]], read: Callable[[str, Any], Tensor], size: int) -> Tensor:
    """Columns of a frame side by side, ``[N, D]``; all that are not numbers are named in one error."""
    tensors, wrong = [], []
    for feature, values in series:
        try:
            tensors.append(read(feature, values))
        except (DataError, KindError):
            wrong.append(feature)
    if wrong:
        raise DataError(
            f"column {name!r}: the frame columns {', '.join(map(repr, wrong))} do not hold real numbers",
            "numeric columns (integer, float or boolean)",
            "drop them, convert them to codes, or pass the numeric ones only.",
        )
    if not tensors:
        return torch.empty(size, 0, dtype=torch.float64)
    floating = any(tensor.is_floating_point() for tensor in tensors)
    return torch.stack([tensor.double() if floating else tensor for tensor in tensors], dim=1)
