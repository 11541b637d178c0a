"""Rows as JSON and tensors."""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from latentvars.errors import KindError, StorageError
from latentvars.rows import Rows

Json = Any


def encode_rows(rows: Rows, tensors: dict[str, Tensor]) -> Json:
    """What :func:`decode_rows` needs; columns, weights and lengths go into ``tensors``.

    Raises:
        KindError: row names that are no text, numbers, dates or tuples of them.
    """
    tensors.update({f"data.column.{name}": value for name, value in rows.columns.items()})
    tensors.update({f"data.known.{name}": value for name, value in rows.known.items()})
    tensors["data.weights"] = rows.weights
    if rows.lengths is not None:
        tensors["data.lengths"] = rows.lengths
    return {
        "columns": list(rows.columns),
        "sequences": rows.lengths is not None,
        "features": {name: list(features) for name, features in rows.features.items()},
        "names": _encode_names(rows.names),
        "known": list(rows.known),
    }


def decode_rows(value: Mapping[str, Json], tensors: Mapping[str, Tensor], digest: str) -> Rows:
    """The rows that :func:`encode_rows` described.

    Raises:
        StorageError: they are not those that were written.
    """
    rows = object.__new__(Rows)
    rows._set(  # not the constructor: these values were read and checked once
        {name: tensors[f"data.column.{name}"] for name in value["columns"]},
        tensors["data.lengths"] if value["sequences"] else None,
        tensors["data.weights"],
        {name: tuple(features) for name, features in value["features"].items()},
        _decode_names(value["names"]),
        {name: tensors[f"data.known.{name}"] for name in value.get("known", ())},
    )
    if rows.digest() != digest:
        raise StorageError("rows whose digest is another", "the rows that were written", "use another copy of the file")
    return rows


def _encode_names(names: Sequence[Hashable]) -> Json:
    if isinstance(names, range):
        return {"range": [names.start, names.stop, names.step]}
    return {"items": [_encode_name(name) for name in names]}


def _decode_names(value: Mapping[str, Json]) -> Sequence[Hashable]:
    return range(*value["range"]) if "range" in value else tuple(_decode_name(name) for name in value["items"])


def _encode_name(name: Any) -> Json:
    if isinstance(name, np.generic) and not isinstance(name, np.datetime64):
        name = name.item()
    if name is None or isinstance(name, bool | int | str):
        return name
    if isinstance(name, float):
        return {"float": name.hex()}
    if isinstance(name, tuple):
        return {"tuple": [_encode_name(part) for part in name]}
    if isinstance(name, np.datetime64):
        return {"datetime64": [str(name), np.datetime_data(name.dtype)[0]]}
    if hasattr(name, "to_datetime64") and name.tzinfo is None:  # a pandas Timestamp
        return {"timestamp": name.isoformat()}
    if type(name) in (datetime.datetime, datetime.date):
        return {type(name).__name__: name.isoformat()}
    raise KindError(
        given=f"the row name {name!r}, a {type(name).__name__}",
        needed="names that are text, numbers, dates or tuples of them",
        remedy="pass Rows(..., names=[str(name) for name in names]), or save(path, data=False)",
    )


def _decode_name(value: Json) -> Hashable:
    match value:
        case {"float": number}:
            return float.fromhex(number)
        case {"tuple": parts}:
            return tuple(_decode_name(part) for part in parts)
        case {"datetime64": [text, unit]}:
            return np.datetime64(text, unit)
        case {"timestamp": text}:
            import pandas  # xarray brings it along

            return pandas.Timestamp(text)
        case {"datetime": text}:
            return datetime.datetime.fromisoformat(text)
        case {"date": text}:
            return datetime.date.fromisoformat(text)
    return value
