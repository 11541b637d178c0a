"""The networks of a model: every ``nn.Module`` that is an attribute of it, or the model itself."""

from __future__ import annotations

import torch
from torch import nn

from latentvars.contract import LatentModel


def model_modules(model: LatentModel) -> dict[str, nn.Module]:
    """Networks by attribute name; a model that is itself a module is listed as ``""``."""
    if isinstance(model, nn.Module):
        return {"": model}
    return {name: value for name, value in vars(model).items() if isinstance(value, nn.Module)}


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
