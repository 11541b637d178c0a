"""The networks of a model: every ``nn.Module`` that is an attribute of it, or the model itself."""

from __future__ import annotations

import torch
from torch import nn

from latentvars.contract import LatentModel
from latentvars.errors import ModelError


def model_modules(model: LatentModel) -> dict[str, nn.Module]:
    """Networks by attribute name; a model that is itself a module is listed as ``""``."""
    if isinstance(model, nn.Module):
        return {"": model}
    return {name: value for name, value in getattr(model, "__dict__", {}).items() if isinstance(value, nn.Module)}


def check_reachable(model: LatentModel) -> None:
    """No weights where they would not be found, and so not be trained.

    Raises:
        ModelError: an ``nn.Parameter`` beside the modules, or modules in a list or dictionary.
    """
    if isinstance(model, nn.Module):
        return
    for name, value in getattr(model, "__dict__", {}).items():
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        if isinstance(value, nn.Parameter) or any(isinstance(part, nn.Module | nn.Parameter) for part in inside):
            kind = type(value).__name__
            raise ModelError(
                given=f"the attribute {name!r} of {type(model).__name__} holds weights, but is a {kind}",
                needed="weights inside an nn.Module, where they are found, trained and saved",
                remedy=f"make {name!r} an nn.Module (nn.ModuleList, nn.ParameterList ...), or the model itself one",
            )


def model_parameters(model: LatentModel) -> dict[str, nn.Parameter]:
    """All trainable weights by qualified name, as ``encoder.0.weight``."""
    found = {}
    for prefix, module in model_modules(model).items():
        for name, parameter in module.named_parameters(prefix=prefix):
            if parameter.requires_grad:
                found[name] = parameter
    return found


def network_dtype(model: LatentModel) -> torch.dtype | None:
    """The precision of the first floating weight, or None for a model without networks."""
    for module in model_modules(model).values():
        for parameter in module.parameters():
            if parameter.dtype.is_floating_point:
                return parameter.dtype
    return None
