"""Settings as JSON and back: numbers, text, tuples, mappings, dataclasses, distributions, torch factories.

A class or function is written by its public name and found again in a registry that the reader holds: no file can
name code to run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from latentvars.errors import KindError, StorageError
from latentvars.storage.laws import decode_law, encode_law

Json = Any
Registry = Mapping[str, Any]

OURS = "latentvars"


class Undescribed(KindError):
    """A value that no description can be written of, or none from which it comes back to the bit."""


def class_name(kind: type | Callable[..., Any]) -> str:
    """Public name of a class: that of its package and its own, whichever file of the package it stands in.

    Of ours, the package is the outermost one that exports it, so that files outlive moves between inner rooms.
    """
    package, name = kind.__module__.rpartition(".")[0] or kind.__module__, kind.__qualname__
    if not package.startswith(f"{OURS}."):
        return f"{package}.{name}"
    inwards = list(accumulate(package.split(".")[1:], "{}.{}".format, initial=OURS))[1:]
    exporting = (room for room in inwards if getattr(sys.modules.get(room), name, None) is kind)
    return f"{next(exporting, inwards[0])}.{name}"


def encode(value: Any, tensors: dict[str, Tensor], where: str) -> Json:
    """``value`` as JSON; its tensors are put into ``tensors`` under names that begin with ``where``.

    Raises:
        Undescribed: it holds something that cannot be described.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"kind": "float", "value": repr(value)}
    if isinstance(value, Tensor):
        tensors[where] = value.detach()
        return {"kind": "tensor", "name": where}
    if isinstance(value, list | tuple):
        items = [encode(item, tensors, f"{where}.{k}") for k, item in enumerate(value)]
        return {"kind": "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"kind": "mapping", "items": _each(value, tensors, where)}
    if isinstance(value, torch.dtype):
        return {"kind": "dtype", "name": str(value).removeprefix("torch.")}
    if isinstance(value, Distribution):
        return encode_law(value, where, lambda item, at: encode(item, tensors, at), _refused)
    if isinstance(value, functools.partial) and not value.args:
        return {"kind": "partial", "of": _function(value.func, where), "with": _each(value.keywords, tensors, where)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_object(value, tensors, where)
    if isinstance(value, type | types.FunctionType):
        return {"kind": "named", "name": _function(value, where)}
    raise _refused(value, where)


def decode(value: Json, tensors: Mapping[str, Tensor], registry: Registry) -> Any:
    """The value that :func:`encode` described.

    Args:
        value: the description.
        tensors: what its tensors are taken from.
        registry: public name → class.

    Raises:
        Undescribed: a class that is not in the registry.
        StorageError: a description that makes no sense.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [decode(item, tensors, registry) for item in value]
    again = functools.partial(decode, tensors=tensors, registry=registry)
    match value:
        case {"kind": "float", "value": number}:
            return float(number)
        case {"kind": "tensor", "name": name}:
            return tensors[name]
        case {"kind": "tuple", "items": items}:
            return tuple(again(item) for item in items)
        case {"kind": "mapping", "items": items}:
            return {name: again(item) for name, item in items.items()}
        case {"kind": "dtype", "name": name} if isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        case {"kind": "law"}:
            return decode_law(value, again, functools.partial(_known, registry))
        case {"kind": "partial", "of": name, "with": settings}:
            return functools.partial(_known(registry, name), **{k: again(item) for k, item in settings.items()})
        case {"kind": "named", "name": name}:
            return _known(registry, name)
        case {"kind": "config", "class": name, "config": config}:
            return _known(registry, name).from_config(config)
        case {"kind": "object", "class": name, "fields": fields}:
            return _rebuilt(_known(registry, name), {k: again(item) for k, item in fields.items()})
    raise StorageError(f"the description {str(value)[:80]}", "one that this version knows", "upgrade latentvars")


def _each(values: Mapping[str, Any], tensors: dict[str, Tensor], where: str) -> dict[str, Json]:
    return {name: encode(item, tensors, f"{where}.{name}") for name, item in values.items()}


def _encode_object(value: Any, tensors: dict[str, Tensor], where: str) -> Json:
    name = class_name(type(value))
    if hasattr(value, "config") and hasattr(type(value), "from_config"):
        config = value.config()
        if config is None:
            raise Undescribed(
                given=f"{where}: a {type(value).__name__} with networks of your own",
                needed="networks that its config() can describe",
                remedy=f"pass a {type(value).__name__} with the same networks to load(path, model=...)",
            )
        return {"kind": "config", "class": name, "config": config}
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {"kind": "object", "class": name, "fields": _each(fields, tensors, where)}


def _rebuilt(kind: type, fields: Mapping[str, Any]) -> Any:
    """A dataclass with these fields; one whose constructor takes other arguments is filled directly."""
    if kind.__dataclass_params__.init:  # type: ignore[attr-defined]
        return kind(**fields)
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _function(function: Any, where: str) -> str:
    """Name of a class or of a function that stands in a module."""
    if not isinstance(function, type | types.FunctionType) or "<" in function.__qualname__:
        raise _refused(function, where)
    return class_name(function)


def _known(registry: Registry, name: str) -> Any:
    inner = f"{OURS}.inference."  # whose rooms stood in names once
    at = inner + name.rpartition(".")[2] if name.startswith(inner) else name
    if at not in registry:
        raise Undescribed(
            given=f"{name}",
            needed="a class or function that latentvars, Pyro or torch.optim has",
            remedy="pass the object itself to load: it was written by you",
        )
    return registry[at]


def _refused(value: Any, where: str) -> Undescribed:
    functions = types.FunctionType | types.BuiltinFunctionType | types.MethodType | functools.partial
    kind = "function" if isinstance(value, functions) else type(value).__name__
    return Undescribed(
        given=f"{where}: a {kind} of your own",
        needed="numbers, text, tuples, mappings, dataclasses or distributions",
        remedy="pass the object itself to load",
    )
