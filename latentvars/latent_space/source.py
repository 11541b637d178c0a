"""What a latent space stands on: something with a prior that decodes a latent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Size, Tensor

from latentvars.latent_space.law import Law


class Target(ABC):
    """log p(x_n, u) of N rows over the real numbers u of their latents, W a row.

    Attributes:
        rows: N.
        size: W.
        names: of the rows.
    """

    rows: int
    size: int
    names: tuple

    @abstractmethod
    def log_density(self, free: Tensor) -> Tensor:
        """``[S, N, W]`` → ``[S, N]``, nats, the Jacobian of z = T(u) included; differentiable."""

    @abstractmethod
    def starts(self, size: int, seed: int) -> Tensor:
        """Draws ``[size, N, W]`` of the prior, and of what is known besides."""

    @abstractmethod
    def picked(self, index: Tensor) -> Target:
        """The target of some of the rows, without names."""

    @abstractmethod
    def values(self, free: Tensor) -> Tensor:
        """``[S, N, W]`` → z ``[S, N, *shape]``."""


class Source(ABC):
    """Something with a prior that decodes a latent.

    Attributes:
        site: name of the latent.
        shape: of one value, the steps of a path left out.
        discrete: whether values are categories or paths of states.
        dtype: precision.
    """

    site: str
    shape: Size
    discrete: bool
    dtype: torch.dtype

    @abstractmethod
    def draw(self, size: int, seed: int) -> Tensor:
        """Draws of the prior ``[size, *shape]``."""

    @abstractmethod
    def laws(self, z: Tensor, given: Any, seed: int) -> dict[str, Law]:
        """p(x | z_m) of values ``[M, *shape]``; differentiable in z where that is continuous."""

    @abstractmethod
    def free(self, z: Tensor) -> Tensor:
        """Real numbers ``[M, W]`` of values ``[M, *shape]``."""

    @abstractmethod
    def value(self, free: Tensor) -> Tensor:
        """The values of real numbers, the way back."""

    @abstractmethod
    def target(self, data: Any) -> Target:
        """What the posterior of the latents of rows is proportional to."""
