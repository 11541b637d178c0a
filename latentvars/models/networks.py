"""Small networks whose weights are a function of a seed, and the first layers that put data on a network's scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from latentvars.distributions.gelu import gelu
from latentvars.errors import SettingError


@final
class Gelu(nn.Module):
    """``nn.GELU()``, of which the core finds values and slopes in one pass where it can."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": Gelu,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


@final
class MLP(nn.Module):
    """Linear layers with activations between them, ``[..., inputs]`` → ``[..., outputs]``; linear where hidden is ().

    Weights start uniform with variance 1 / inputs of their layer (LeCun et al. 1998, section 4.6), biases at zero.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        hidden: widths of the hidden layers.
        activation: a name in :data:`ACTIVATIONS`.
        generator: what the weights are drawn from; torch's global generator is never touched.
        dtype: precision of the weights.

    Raises:
        SettingError: a width below one, or an unknown activation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (),
        activation: str = "gelu",
        *,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.hidden, self.activation = tuple(hidden), activation
        widths = (inputs, *self.hidden, outputs)
        if min(widths) < 1:
            raise SettingError(f"layers of the widths {list(widths)}", "widths of at least 1", "correct the widths.")
        if activation not in ACTIVATIONS:
            raise SettingError(
                f"activation={activation!r}", f"one of {', '.join(ACTIVATIONS)}", "choose one, or pass your own module."
            )
        layers: list[nn.Module] = []
        for above, below in pairwise(widths):
            layers += [_linear(above, below, generator, dtype), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@final
class Standardize(nn.Module):
    """(x − loc) / scale with constants that are taken from data once, ``[..., features]`` → the same.

    Args:
        features: width of the data, D.
        per_feature: one scale for each feature, as for data in different units; otherwise one for all.
        logarithm: read log(1 + x) instead of x, as for counts.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, features: int, *, per_feature: bool = False, logarithm: bool = False) -> None:
        super().__init__()
        self.per_feature, self.logarithm = per_feature, logarithm
        self.register_buffer("loc", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features if per_feature else 1))

    def extra_repr(self) -> str:
        return f"{self.loc.shape[0]}, per_feature={self.per_feature}, logarithm={self.logarithm}"

    def forward(self, x: Tensor) -> Tensor:
        return ((x.log1p() if self.logarithm else x) - self.loc) / self.scale

    @torch.no_grad()
    def start(self, x: Tensor, weights: Tensor) -> None:
        """Take the constants from data ``[N, D]`` with weights ``[N]``; a constant feature keeps the scale 1."""
        loc, variance = moments(x.log1p() if self.logarithm else x, weights)
        scale = (variance if self.per_feature else variance.mean(-1, keepdim=True)).sqrt()
        self.loc.copy_(loc)
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))


@final
class OneHot(nn.Module):
    """Codes 0 .. K−1 as indicators, ``[..., D]`` → ``[..., D K]``."""

    codes: Tensor

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.arange(categories, dtype=torch.get_default_dtype()))

    def extra_repr(self) -> str:
        return f"{self.codes.shape[0]}"

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None] == self.codes).to(self.codes.dtype).flatten(-2)


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and variance (divisor: the sum of the weights) of ``[N, D]``, ``[D]`` each."""
    share = (weights / weights.sum())[:, None]
    mean = (share * x).sum(0)
    return mean, (share * (x - mean) ** 2).sum(0)


def _linear(inputs: int, outputs: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Linear:
    layer = cast(nn.Linear, skip_init(nn.Linear, inputs, outputs, dtype=dtype))
    bound = math.sqrt(3.0 / inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer
