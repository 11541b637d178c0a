"""The globals of a model as one flat unconstrained vector and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Transform
from torch.distributions.constraints import Constraint

from latentvars.distributions.bijection import bijection


@dataclass(frozen=True)
class GlobalSite:
    """One global: a sample site outside the rows plate.

    Attributes:
        name: site name.
        shape: constrained shape.
        support: where its values live.
        free: number of unconstrained numbers, the degrees of freedom of the site.
    """

    name: str
    shape: Size
    support: Constraint
    free_shape: Size

    @property
    def free(self) -> int:
        return self.free_shape.numel()

    @property
    def transform(self) -> Transform:
        """Unconstrained → constrained."""
        return bijection(self.support)


@dataclass(frozen=True)
class GlobalSpace:
    """All globals of a model in a fixed order; ``size`` unconstrained numbers in total."""

    sites: tuple[GlobalSite, ...]

    @staticmethod
    def of(values: Mapping[str, Tensor], supports: Mapping[str, Constraint]) -> GlobalSpace:
        """The space of globals that have these values and supports."""
        sites = []
        for name, value in values.items():
            free_shape = bijection(supports[name]).inverse_shape(value.shape)
            sites.append(GlobalSite(name, value.shape, supports[name], torch.Size(free_shape)))
        return GlobalSpace(tuple(sites))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.sites)

    @property
    def size(self) -> int:
        return sum(site.free for site in self.sites)

    def __getitem__(self, name: str) -> GlobalSite:
        return next(site for site in self.sites if site.name == name)

    def subset(self, names: tuple[str, ...]) -> GlobalSpace:
        """The space of some of the globals, in this space's order."""
        return GlobalSpace(tuple(site for site in self.sites if site.name in names))

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Constrained values ``{name: [..., *shape]}`` → ``[..., size]``."""
        parts = []
        for site in self.sites:
            value = values[site.name]
            inverse: Any = site.transform.inv
            free = inverse(value)
            parts.append(free.reshape((*value.shape[: value.dim() - len(site.shape)], site.free)))
        return torch.cat(parts, -1) if parts else torch.zeros(0)

    def constrain(self, free: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """``[..., size]`` → constrained values ``{name: [..., *shape]}`` and the log-Jacobian ``[...]``, nats."""
        values: dict[str, Tensor] = {}
        log_jacobian = free.new_zeros(free.shape[:-1])
        lead = free.shape[:-1]
        for site, part in zip(self.sites, free.split([site.free for site in self.sites], -1), strict=True):
            part = part.reshape(lead + site.free_shape)
            value: Any = site.transform(part)
            density = site.transform.log_abs_det_jacobian(part, value)
            log_jacobian = log_jacobian + density.reshape(*lead, -1).sum(-1)
            values[site.name] = value
        return values, log_jacobian
