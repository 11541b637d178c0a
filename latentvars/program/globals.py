"""The globals of a model as one flat unconstrained vector and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Transform
from torch.distributions.constraints import Constraint

from latentvars.distributions.bijection import bijection
from latentvars.program.restriction import Restriction, check_names, restriction_of


@dataclass(frozen=True)
class GlobalSite:
    """One global: a sample site outside the rows plate.

    Attributes:
        name: site name.
        shape: constrained shape.
        support: where its values live.
        free: number of unconstrained numbers, the degrees of freedom of the site.
        restriction: what of it is fixed or tied; None where nothing is.
    """

    name: str
    shape: Size
    support: Constraint
    free_shape: Size
    restriction: Restriction | None = None

    @property
    def free(self) -> int:
        return self.free_shape.numel()

    @property
    def transform(self) -> Transform:
        """Unconstrained → constrained."""
        return bijection(self.support) if self.restriction is None else self.restriction

    def restricted(self, fixed: Any, tied: Any) -> GlobalSite:
        """The same site with entries that are fixed or tied; errors as :func:`restriction_of`."""
        found = restriction_of(self.name, self.shape, self.support, fixed, tied)
        return self if found is None else replace(self, free_shape=torch.Size([found.free]), restriction=found)


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

    def restricted(self, fixed: Mapping[str, Any], tied: Mapping[str, Any]) -> GlobalSpace:
        """The space of the degrees of freedom that are left.

        Args:
            fixed: global → its value, NaN where an entry is free.
            tied: global → whole numbers, equal where entries share one value, negative where they are alone.

        Raises:
            NameUnknownError: a name that is that of no global; others as :func:`restriction_of`.
        """
        for what, given in (("fixed", fixed), ("tied", tied)):
            check_names(self.names, given, what)
        return GlobalSpace(tuple(site.restricted(fixed.get(site.name), tied.get(site.name)) for site in self.sites))

    @property
    def unrestricted(self) -> GlobalSpace:
        """The space with nothing fixed or tied."""
        supports = {site.name: site.support for site in self.sites}
        return GlobalSpace.of({site.name: torch.empty(site.shape) for site in self.sites}, supports)

    @property
    def fixed(self) -> dict[str, Tensor]:
        """Global → its value, NaN where an entry is free; of those that have something fixed."""
        found = {site.name: site.restriction.fixed for site in self.sites if site.restriction is not None}
        return {name: value for name, value in found.items() if not bool(value.isnan().all())}

    @property
    def tied(self) -> dict[str, Tensor]:
        """Global → numbers of the values that its entries share, −1 where an entry is fixed."""
        found = {site.name: site.restriction for site in self.sites if site.restriction is not None}
        return {name: torch.where(r.held, -1, r.code) for name, r in found.items() if r.tied}

    def project(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values ``{name: [..., *shape]}`` of some globals, with what is fixed put back and what is tied made equal."""
        found = dict(values)
        for site in self.sites:
            if site.restriction is not None and site.name in found:
                found[site.name] = site.restriction.project(found[site.name])
        return found

    def subset(self, names: tuple[str, ...]) -> GlobalSpace:
        """The space of some of the globals, in this space's order."""
        return GlobalSpace(tuple(site for site in self.sites if site.name in names))

    def parts(self, free: Tensor) -> dict[str, Tensor]:
        """The unconstrained numbers ``[..., size]`` that belong to each global, ``[..., free]``."""
        return dict(zip(self.names, free.split([site.free for site in self.sites], -1), strict=True))

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
