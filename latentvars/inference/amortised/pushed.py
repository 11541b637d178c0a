"""A normal under the map onto a support, with moments; and where a local stands among the numbers of a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.transforms import IndependentTransform, ReshapeTransform

from latentvars.distributions.bijection import base_support, bijection
from latentvars.errors import SupportError
from latentvars.program.run import Site
from latentvars.randomness import seeded

NODES = 64
DRAWS = 2_000


@dataclass(frozen=True)
class Place:
    """A continuous local of a row.

    Attributes:
        name: its site.
        shape: of one value.
        support: where values live.
        free_shape: of the real numbers that make a value.
    """

    name: str
    shape: Size
    support: Any
    free_shape: Size

    @staticmethod
    def of(site: Site) -> Place:
        """The place of a site; SupportError where no real numbers make its values."""
        support: Any = site.fn.support
        try:
            free = bijection(support).inverse_shape(site.fn.event_shape)
        except NotImplementedError as error:
            raise SupportError(
                given=f"the continuous local {site.name!r} ~ {type(site.fn).__name__} with the support {support}",
                needed="a support with a map from real numbers",
                remedy="choose a distribution on another support, or write guide(rows)",
            ) from error
        return Place(site.name, site.fn.event_shape, support, Size(free))

    @property
    def size(self) -> int:
        """Real numbers of a value."""
        return self.free_shape.numel()

    @property
    def real(self) -> bool:
        """Whether values are real numbers without bounds."""
        return isinstance(base_support(self.support), type(constraints.real))

    def law(self, loc: Tensor, scale: Tensor, full: bool) -> Any:
        """The distribution of the values, batch shape ``[B]``, from the normal of its numbers.

        Args:
            loc: ``[B, size]``.
            scale: lower triangular ``[B, size, size]`` where ``full``, else standard deviations ``[B, size]``.
            full: whether the numbers covary.
        """
        if not self.shape and self.size == 1:
            deviation = scale[..., 0, 0] if full else scale[..., 0]
            base: Any = dist.Normal(loc[..., 0], deviation)
        elif full:
            base = dist.MultivariateNormal(loc, scale_tril=scale)
        else:
            base = dist.Normal(loc, scale).to_event(1)
        transforms = []
        if self.shape and self.free_shape != (self.size,):
            transforms.append(ReshapeTransform(Size([self.size]), self.free_shape))
        if not self.real:
            transforms.append(bijection(self.support))
        return Pushed(base, transforms) if transforms else base

    def free(self, value: Tensor) -> Tensor:
        """The numbers ``[B, size]`` of values ``[B, *shape]``."""
        inverse: Any = bijection(self.support).inv
        return inverse(value).reshape(*value.shape[: value.dim() - len(self.shape)], self.size)

    def mapped(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers ``[M, size]`` → values ``[M, *shape]`` and log |Jacobian| ``[M]``, or ``[]`` where it is 0."""
        if self.real:
            return free.reshape(len(free), *self.shape), torch.zeros(())
        transform: Any = bijection(self.support)
        free = free.reshape(len(free), *self.free_shape)
        value = transform(free)
        log_abs = transform.log_abs_det_jacobian(free, value)
        return value, log_abs.reshape(len(free), -1).sum(1)


class Pushed(dist.TransformedDistribution):
    """A normal under a bijection. Moments are by quadrature where each number is mapped by itself, else by draws, the
    same each time."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> Pushed:
        return super().expand(batch_shape, _instance=self._get_checked_instance(Pushed, _instance))

    @property
    def mean(self) -> Tensor:
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        return self._moments[1]

    @property
    def median(self) -> Tensor:
        """Of each number, where each is mapped by itself, by an increasing or decreasing map; else that of draws."""
        base: Any = self.base_dist
        if not all(_by_itself(transform) for transform in self.transforms):
            with seeded(0):
                return self.sample((DRAWS,)).median(0).values
        at = base.mean
        for transform in self.transforms:
            at = transform(at)
        return at

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        base: Any = self.base_dist
        if all(_by_itself(transform) for transform in self.transforms):
            nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
            lead = (NODES,) + (1,) * base.mean.dim()
            at = base.mean + base.stddev * torch.from_numpy(nodes).to(base.mean).reshape(lead)
            share = torch.from_numpy(weights / weights.sum()).to(base.mean)
        else:
            with seeded(0):
                at = base.sample((DRAWS,))
            share = at.new_full((DRAWS,), 1 / DRAWS)
        for transform in self.transforms:
            at = transform(at)
        share = share.reshape((-1,) + (1,) * (at.dim() - 1))
        mean = (share * at).sum(0)
        return mean, (share * (at - mean).square()).sum(0)


def _by_itself(transform: Any) -> bool:
    """Whether each number is mapped alone."""
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ReshapeTransform) or transform.domain.event_dim == 0
