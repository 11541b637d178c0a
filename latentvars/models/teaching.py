"""Networks that are taught coordinates before they are trained: a start for models with many optima."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from latentvars.errors import DataError, SettingError, ShapeError
from latentvars.randomness import generator

BATCH = 256
RATE = 3e-3


class Pair(Protocol):
    """An encoder and a decoder."""

    def encoder_distribution(self, x: Tensor) -> TorchDistribution: ...
    def decoder_distribution(self, z: Tensor) -> TorchDistribution: ...


def teach(
    pair: Pair, weights: Iterable[nn.Parameter], x: Tensor, latents: Tensor, spread: float, steps: int, seed: int
) -> None:
    """Maximise Σ log q(z_n + ε | x_n) + log p(x_n | z_n + ε), ε ~ Normal(0, spread²), *in place* by Adam.

    Args:
        pair: whose networks are taught.
        weights: of these networks.
        x: ``[N, D]`` in their precision.
        latents: z ``[N, L]``.
        spread: deviation of the noise, which the noise of q and p starts from.
        steps: of 256 rows each, their rate falling to zero.
        seed: of rows and noise.
    """
    noise = generator(seed, 2)
    adam = torch.optim.Adam([weight for weight in weights if weight.requires_grad], lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    with torch.enable_grad():
        for _ in range(steps):
            at = torch.randint(len(x), (min(BATCH, len(x)),), generator=noise)
            z = latents[at] + spread * torch.randn(latents[at].shape, generator=noise, dtype=latents.dtype)
            gain = pair.encoder_distribution(x[at]).log_prob(z) + pair.decoder_distribution(z).log_prob(x[at])
            adam.zero_grad()
            (-gain.mean()).backward()
            adam.step()
            falling.step()
    adam.zero_grad()


def coordinates(latents: Tensor, rows: int, width: int) -> Tensor:
    """Coordinates ``[rows, width]`` with mean 0 and deviation 1, as a standard normal prior expects.

    Raises:
        ShapeError: another shape.
        DataError: coordinates that are not finite, or all the same.
    """
    if latents.shape != (rows, width):
        raise ShapeError(f"latents of shape {list(latents.shape)}", f"[{rows}, {width}]", "pass one vector a row.")
    if not bool(latents.isfinite().all()) or not bool((latents.std(0) > 0).all()):
        raise DataError(
            given="latents that are not finite, or of which a coordinate is constant",
            needed="coordinates that tell rows apart",
            remedy="pass those of Isomap or PCA, say, with fewer latents",
        )
    return (latents - latents.mean(0)) / latents.std(0)


def check_teaching(spread: float, steps: int) -> None:
    """Whether settings are in their range."""
    if not spread > 0 or steps < 1:
        raise SettingError(
            f"spread={spread}, steps={steps}", "a positive spread and at least one step", "correct them."
        )
