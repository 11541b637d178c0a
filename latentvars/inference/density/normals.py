"""A normal, or a mixture of normals, over the unconstrained globals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from latentvars.program import GlobalSpace
from latentvars.randomness import generator

LOG_TWO_PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class Normals:
    """q(u) = Σₘ wₘ Normal(u; locₘ, Fₘ Fₘᵀ) of the P unconstrained globals u, M components.

    Attributes:
        space: the globals.
        locs: ``[M, P]``.
        factors: F, square, not singular ``[M, P, P]``.
        log_weights: ``[M]``, nats.
        log_evidence: an estimate of log ∫ p(x, θ) dθ, nats. Under ``lv.flat`` priors, which are no densities, only
            differences between data-independent settings of one model mean something.
        said: what is to be known of the run.
    """

    space: GlobalSpace
    locs: Tensor
    factors: Tensor
    log_weights: Tensor
    log_evidence: float
    said: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """For the print-out of a fit."""
        return (*self.said, f"log evidence about {self.log_evidence:.4f} nats, prior included")

    @property
    def point(self) -> dict[str, Tensor]:
        """The centre of the heaviest component, constrained: of one normal its median."""
        return self._point

    @cached_property
    def _point(self) -> dict[str, Tensor]:
        return self.space.constrain(self.locs[self.log_weights.argmax()])[0]

    def free(self, size: int, seed: int) -> Tensor:
        """Unconstrained draws ``[size, P]``."""
        source = generator(seed)
        at = torch.multinomial(self.log_weights.exp(), size, replacement=True, generator=source)
        noise = torch.randn(size, self.space.size, dtype=self.locs.dtype, generator=source)
        return self.locs[at] + (self.factors[at] @ noise[:, :, None])[:, :, 0]

    def log_density(self, free: Tensor) -> Tensor:
        """log q(u) of ``[size, P]``, nats, ``[size]``."""
        noise = torch.linalg.solve(self.factors, (free - self.locs[:, None]).mT)  # [M, P, size]
        spread = torch.linalg.slogdet(self.factors).logabsdet + 0.5 * self.space.size * LOG_TWO_PI
        return (self.log_weights[:, None] - 0.5 * noise.square().sum(1) - spread[:, None]).logsumexp(0)

    def draws(self, size: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draws ``[size, *shape]`` and their log density, of the constrained values, ``[size]``, nats."""
        free = self.free(size, seed)
        values, log_jacobian = self.space.constrain(free)
        return values, self.log_density(free) - log_jacobian

    def tensors(self) -> dict[str, Tensor]:
        evidence = torch.tensor(self.log_evidence, dtype=torch.float64)
        return {
            "locs": self.locs,
            "factors": self.factors,
            "log_weights": self.log_weights,
            "log_evidence": evidence,
        }

    @staticmethod
    def rebuilt(space: GlobalSpace, tensors: Mapping[str, Tensor]) -> Normals:
        """From what :meth:`tensors` gave."""
        locs, factors, log_weights = (tensors[name] for name in ("locs", "factors", "log_weights"))
        return Normals(space, locs, factors, log_weights, float(tensors["log_evidence"]))
