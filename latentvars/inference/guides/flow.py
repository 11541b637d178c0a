"""A normalizing flow as the variational distribution over the globals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from latentvars.errors import SettingError
from latentvars.inference.guides.guides import LOG_TWO_PI, FromNoise, GlobalDraw, GlobalGuide, check_scale
from latentvars.inference.running.settings import check_at_least
from latentvars.program import GlobalSpace
from latentvars.randomness import generator

MOST = 0.7  # logarithm of the largest power by which one layer changes tails: a factor of two


@dataclass(frozen=True)
class Flow:
    """Inverse autoregressive layers, then loc + L ·, on the unconstrained scale (Kingma et al. 2016): curved, skewed
    and heavy-tailed posteriors with one mode.

        eᵢ ← shiftᵢ + scaleᵢ · sinh(powerᵢ · (asinh(eᵢ) + skewᵢ)),  u = loc + L e

    of standard normal noise e; the four numbers of a coordinate are a network's function of the coordinates before it,
    in an order that is turned from layer to layer. The transform of one coordinate is that of Jones & Pewsey (2009), so
    that a single global can be skewed too. Each step is monotone in its coordinate, which gives the density of every
    draw in closed form. It begins as :class:`FullRank`, which it contains. It has more weights to learn: give it
    ``particles=8`` or more and a ``schedule`` by which the learning rate falls.

    Attributes:
        layers: of the flow.
        hidden: width of the hidden layer of each network; None: twice the number of globals, at least 16.
        scale: initial standard deviation.
        seed: of the networks' first weights.
    """

    layers: int = 2
    hidden: int | None = None
    scale: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_at_least("layers", self.layers, 1)
        if self.hidden is not None:
            check_at_least("hidden", self.hidden, 1)
        if self.seed < 0:
            raise SettingError(f"seed={self.seed}", "a whole number of at least 0", "write seed=0")

    def build(self, space: GlobalSpace, start: Mapping[str, Tensor], dtype: torch.dtype) -> GlobalGuide:
        hidden = max(16, 2 * space.size) if self.hidden is None else self.hidden
        return FlowGuide(space, start, dtype, self.layers, hidden, self.scale, generator(self.seed))


class FlowGuide(FromNoise):
    """loc + L f(ε) with autoregressive f."""

    def __init__(
        self,
        space: GlobalSpace,
        start: Mapping[str, Tensor],
        dtype: torch.dtype,
        layers: int,
        hidden: int,
        scale: float,
        source: torch.Generator,
    ) -> None:
        super().__init__()
        self.space = space
        loc = space.unconstrain(start).to(dtype)
        self.loc = nn.Parameter(loc.clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, math.log(scale)))
        self.below = nn.Parameter(torch.zeros(loc.shape[0], loc.shape[0], dtype=dtype))
        self.layers = nn.ModuleList([Autoregressive(loc.shape[0], hidden, dtype, source) for _ in range(layers)])
        self.noise = (tuple(loc.shape),)

    def forward(self, *noise: Tensor) -> GlobalDraw:
        free, log_q = self.free(noise[0])
        values, log_jacobian = self.space.constrain(free)
        return GlobalDraw(values, log_q - log_jacobian)

    def free(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noise ``[..., P]`` → unconstrained globals ``[..., P]`` and their log density ``[...]``, nats."""
        log_q = -0.5 * (noise.square() + LOG_TWO_PI).sum(-1)
        for layer in self.layers:
            noise, log_slope = layer(noise)
            noise, log_q = noise.flip(-1), log_q - log_slope
        factor = torch.diag_embed(self.log_scale.exp()) + self.below.tril(-1)
        return self.loc + noise @ factor.mT, log_q - self.log_scale.sum()

    def point(self) -> dict[str, Tensor]:
        """The image of zero noise, on the ridge of the density."""
        with torch.no_grad():
            free, _ = self.free(torch.zeros_like(self.loc))
            return self.space.constrain(free)[0]


class Autoregressive(nn.Module):
    """One layer, ``[..., P]`` → ``[..., P]`` and the log slope ``[...]``: coordinate i depends on those before it."""

    seen: Tensor
    told: Tensor

    def __init__(self, size: int, hidden: int, dtype: torch.dtype, source: torch.Generator) -> None:
        super().__init__()
        # a hidden unit sees the coordinates up to its degree (Germain et al. 2015, eq. 8 and 9)
        degrees = torch.arange(hidden) % max(1, size - 1)
        coordinates = torch.arange(size)
        self.register_buffer("seen", (degrees[:, None] >= coordinates).to(dtype), persistent=False)
        self.register_buffer("told", (coordinates[:, None] > degrees).to(dtype).repeat(4, 1), persistent=False)
        first = torch.randn(hidden, size, dtype=dtype, generator=source) / math.sqrt(size)
        self.inner = nn.Parameter(first)
        self.inner_bias = nn.Parameter(torch.randn(hidden, dtype=dtype, generator=source))
        self.outer = nn.Parameter(torch.zeros(4 * size, hidden, dtype=dtype))
        self.outer_bias = nn.Parameter(torch.zeros(4 * size, dtype=dtype))

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        hidden = linear(noise, self.inner * self.seen, self.inner_bias).tanh()
        shift, log_scale, skew, power = linear(hidden, self.outer * self.told, self.outer_bias).chunk(4, -1)
        log_power = MOST * (power / MOST).tanh()
        angle = log_power.exp() * (noise.asinh() + skew)
        log_slope = log_scale + log_power + angle.cosh().log() - 0.5 * noise.square().log1p()
        return shift + log_scale.exp() * angle.sinh(), log_slope.sum(-1)
