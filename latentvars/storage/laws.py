"""Distributions as settings: the class and the parameters from which it is rebuilt to the bit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

Json = Any


def encode_law(
    law: Distribution, where: str, encode: Callable[[Any, str], Json], refused: Callable[[Any, str], Exception]
) -> Json:
    """A distribution as JSON.

    Args:
        law: of a class whose constructor takes its parameters; ``to_event`` may have been applied.
        where: what it is.
        encode: writes a parameter.
        refused: the error for a distribution that its parameters do not determine.
    """
    if isinstance(law, Independent):
        base = encode_law(law.base_dist, where, encode, refused)
        return {**base, "event": base["event"] + law.reinterpreted_batch_ndims}
    parameters = _parameters(law)
    if parameters is None:
        raise refused(law, where)
    name = f"{type(law).__module__.rpartition('.')[0]}.{type(law).__qualname__}"
    written = {key: encode(value, f"{where}.{key}") for key, value in parameters.items()}
    return {"kind": "law", "class": name, "parameters": written, "event": 0}


def decode_law(value: Mapping[str, Json], decode: Callable[[Json], Any], known: Callable[[str], Any]) -> Any:
    """The distribution that :func:`encode_law` described."""
    law = known(value["class"])(**{key: decode(item) for key, item in value["parameters"].items()})
    return law.to_event(value["event"]) if value["event"] else law


def _parameters(law: Distribution) -> dict[str, Any] | None:
    """Arguments that make an equal distribution, or None where there are none."""
    signature = inspect.signature(type(law).__init__).parameters
    names = [name for name in signature if name not in ("self", "validate_args")]
    if any(signature[name].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for name in names):
        return None
    alternatives = [name for name in names if signature[name].default is None]
    if any(not hasattr(law, name) for name in names if name not in alternatives):
        return None
    always = {name: getattr(law, name) for name in names if name not in alternatives}
    given = [name for name in alternatives if name in law.__dict__]
    choices = [{**always, name: getattr(law, name)} for name in given] if alternatives else [always]
    return next((choice for choice in choices if _remakes(law, choice)), None)


def _remakes(law: Distribution, parameters: Mapping[str, Any]) -> bool:
    """Whether these arguments give a distribution with the same parameters, to the bit."""
    try:
        other = type(law)(**parameters)
        same = [_equal(getattr(law, name), getattr(other, name)) for name in law.arg_constraints]
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        return False
    shapes = other.batch_shape == law.batch_shape and other.event_shape == law.event_shape
    return shapes and bool(same) and all(same)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    return one == other
