"""Vectors as safetensors and as numpy archives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final
from zipfile import BadZipFile

import numpy as np

from latentvars.embedding.export.format import KEY, Format, Stored, damaged, described, description, unwritable

META, GAPS = "metadata.", "missing."


@final
class Safetensors(Format):
    """Tensors ``values``, ``std`` and, as UTF-8 JSON, ``ids`` and ``metadata.<name>``; a description in the header.

    Text is a list, null where it is missing; everything else ``{"dtype": ..., "values": [...]}``, dates as the
    numbers behind them.
    """

    def write(self, vectors: Stored, path: Path) -> None:
        from safetensors.numpy import save_file

        tensors = {"values": np.ascontiguousarray(vectors.values), "ids": _packed("ids", vectors.ids)}
        tensors |= {} if vectors.std is None else {"std": np.ascontiguousarray(vectors.std)}
        tensors |= {META + name: _packed(name, column) for name, column in vectors.metadata.items()}
        save_file(tensors, path, {KEY: description(vectors)})

    def read(self, path: Path) -> Stored:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise damaged(path, str(error)) from error
        if "values" not in tensors:
            raise damaged(path, "there is no tensor 'values'")
        values = tensors["values"]
        names, provenance = described(text, path)
        ids = _unpacked(tensors["ids"]) if "ids" in tensors else None
        metadata = {k.removeprefix(META): _unpacked(v) for k, v in tensors.items() if k.startswith(META)}
        return Stored(values, ids, names, tensors.get("std"), metadata, provenance)


@final
class Numpy(Format):
    """Arrays ``values``, ``ids``, ``std``, ``metadata.<name>``, with ``missing.<name>`` where text is missing, and the
    description; nothing is pickled."""

    def write(self, vectors: Stored, path: Path) -> None:
        text = np.array(description(vectors))
        arrays: dict[str, Any] = {KEY: text, "values": vectors.values, "ids": vectors.ids}
        arrays |= {} if vectors.std is None else {"std": vectors.std}
        for name, column in vectors.metadata.items():
            arrays |= {META + name: _plain(name, column, ".npz")}
            arrays |= {GAPS + name: column == None} if column.dtype.kind == "O" else {}  # noqa: E711
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def read(self, path: Path) -> Stored:
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise damaged(path, str(error)) from error
        if "values" not in found:
            raise damaged(path, "there is no array 'values'")
        text = str(found[KEY]) if KEY in found else None
        names, provenance = described(text, path)
        metadata = {k.removeprefix(META): v for k, v in found.items() if k.startswith(META)}
        for name in metadata:
            if GAPS + name in found:
                metadata[name] = metadata[name].astype(object)
                metadata[name][found[GAPS + name]] = None
        return Stored(found["values"], found.get("ids"), names, found.get("std"), metadata, provenance)


@final
class Plain(Format):
    """The numbers alone, as ``numpy.save`` writes them: no ids, names, deviations or provenance."""

    def write(self, vectors: Stored, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, vectors.values, allow_pickle=False)

    def read(self, path: Path) -> Stored:
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise damaged(path, str(error)) from error
        return Stored(values, provenance=described(None, path)[1])


def _plain(name: str, column: np.ndarray, suffix: str) -> np.ndarray:
    """A column without objects: "" where text is missing."""
    if column.dtype.kind != "O":
        return column
    if not all(one is None or isinstance(one, str) for one in column):
        raise unwritable(name, column, suffix)
    return np.array(["" if one is None else one for one in column], dtype=str)


def _packed(name: str, column: np.ndarray) -> np.ndarray:
    kind = column.dtype.kind
    if kind == "O":
        _plain(name, column, ".safetensors")
    elif kind not in "UbiufMm":
        raise unwritable(name, column, ".safetensors")
    values = (column.astype(np.int64) if kind in "Mm" else column).tolist()
    held = values if kind in "UO" else {"dtype": column.dtype.str, "values": values}
    return np.frombuffer(json.dumps(held).encode(), dtype=np.uint8).copy()


def _unpacked(packed: np.ndarray) -> np.ndarray:
    held = json.loads(packed.tobytes().decode())
    if not isinstance(held, dict):
        return np.asarray(held)
    dtype = np.dtype(held["dtype"])
    return np.asarray(held["values"], np.int64 if dtype.kind in "Mm" else dtype).astype(dtype)
