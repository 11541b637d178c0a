"""x Φ(x), the smooth activation of networks (Hendrycks & Gimpel 2016), and its slope in one pass over memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latentvars.distributions.normal_scores import is_served
from latentvars.distributions.operators import array_of, operator

# exp(z²) erfc(z) / t for t = 1 / (1 + 0.4 z), z ≥ 0, from the lowest power of t on, as in the compiled core
SCALED_TAIL = (
    0.225675889,
    0.225664899,
    0.207977429,
    0.167069889,
    0.149421393,
    -0.0298004159,
    0.211869997,
    -0.226788126,
    0.0744401566,
    -0.00553106018,
)


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), with Φ the distribution function of the standard normal.

    By the compiled core in single precision on a CPU, where it errs by less than torch does, else by torch.
    """
    if x.dtype != torch.float32 or not is_served(x):
        return torch.nn.functional.gelu(x)
    return activated(x)[0]


@operator("latentvars::gelu")
def activated(x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`gelu` of float32, and its slopes, which are for what follows back, not to be differentiated."""
    from latentvars.kernels import activations

    value, slope = activations.gelu(array_of(x))
    return torch.from_numpy(value), torch.from_numpy(slope)


@activated.operator.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@activated.operator.register_vmap
def _(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Any, Any]:
    return activated(x), (in_dims[0], in_dims[0])


def _keep(ctx: Any, inputs: tuple[Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _slopes(ctx: Any, along: Tensor, _: Tensor) -> Tensor:
    x, slopes = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative: as a function of everything
        slopes = in_torch(x)[1]
    return along * slopes


activated.operator.register_autograd(_slopes, setup_context=_keep)


def in_torch(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same by operations of torch."""
    below = 0.5 * torch.erfc(-math.sqrt(0.5) * x)
    return x * below, below + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def written_out(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the compiled core does in single precision, for a compiler to merge with what stands around it: one
    exponential and a polynomial, where an error function takes several times as long."""
    if x.dtype != torch.float32:
        return in_torch(x)
    bell = torch.exp(-0.5 * x.square())
    t = 1 / (1 + 0.4 * math.sqrt(0.5) * x.abs())
    tail = torch.full_like(x, SCALED_TAIL[-1])
    for coefficient in reversed(SCALED_TAIL[:-1]):
        tail = tail * t + coefficient
    tail = 0.5 * tail * t * bell
    below = torch.where(x > 0, 1 - tail, tail)
    return x * below, below + x * bell / math.sqrt(2 * math.pi)
