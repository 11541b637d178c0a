"""Operators of torch around compiled functions, with a way past torch where nothing listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import-not-found]
from torch.autograd import forward_ad

from latentvars.distributions.normal_blocks import is_recorded


class Operator:
    """A function of tensors that torch can record, map and differentiate.

    Where it is called with plain numbers and no derivative is wanted the function is called as it is: torch's dispatch
    takes some tenths of a millisecond, and the first time a second to be imported.

    Attributes:
        function: of tensors on a CPU.
        operator: the same known to torch, with rules for shapes, vmap, derivatives and other devices.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.operator = torch.library.custom_op(name, mutates_args=(), device_types=())(function)
        torch.library.impl(name, "cpu")(function)  # as it is, without what custom_op wraps around a kernel

    def __call__(self, *given: Tensor | None) -> Any:
        tensors = [one for one in given if one is not None]
        return self.function(*given) if holds_numbers(*tensors) else self.operator(*given)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an operator of a function."""
    return lambda function: Operator(name, function)


def array_of(value: Tensor) -> np.ndarray:
    """The numbers of a tensor on a CPU, C-contiguous; without a copy where they lie so."""
    return (value.detach() if value.requires_grad else value).contiguous().numpy()


def holds_numbers(*values: Tensor) -> bool:
    """Whether values on a CPU hold numbers alone: nothing records, maps or differentiates what is done with them."""
    return all(map(is_plain, values)) and not needs_derivatives(*values) and not is_recorded()


def needs_derivatives(*values: Tensor) -> bool:
    """Whether autograd records what is done with some value."""
    return torch.is_grad_enabled() and any(value.requires_grad for value in values)


def is_plain(value: Tensor) -> bool:
    """Whether a value holds numbers alone on a CPU: not while a graph is captured or mapped, and without a tangent."""
    plain = type(value) is Tensor and value.device.type == "cpu" and not is_functorch_wrapped_tensor(value)
    return plain and not has_tangent(value)


def has_tangent(value: Tensor) -> bool:
    """Whether a derivative goes forward with a value, as no operator of ours knows (``torch.autograd.forward_ad``)."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None
