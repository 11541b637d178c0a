"""The improper flat distribution: a global without a prior."""

from __future__ import annotations

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.distributions.bijection import base_support, bijection
from latentvars.distributions.ordering import OrderedBy
from latentvars.distributions.shapes import check_expand
from latentvars.errors import SettingError, ShapeError

_START = 2.0
LARGE = 4  # rows of a matrix


@final
class Flat(TorchDistribution):
    """p(θ) ∝ 1 on the support, with respect to the constrained value; improper unless the support is bounded.

    ``log_prob`` is 0 (not normalised), so a posterior mode under it is the maximum-likelihood estimate.

    Args:
        shape: event shape.
        support: constraint of the value; the dimensions of ``shape`` left of its own are independent.

    Raises:
        ShapeError: ``shape`` has fewer dimensions than the support needs.
    """

    def __init__(self, shape: tuple[int, ...] = (), support: constraints.Constraint = constraints.real) -> None:
        shape = Size(shape)
        extra = len(shape) - support.event_dim
        if extra < 0:
            raise ShapeError(
                given=f"a flat distribution of shape {list(shape)} on {support}",
                needed=f"a shape of at least {support.event_dim} dimensions",
                remedy="give the shape of the whole value, as flat((K,), constraints.simplex)",
            )
        self._support = constraints.independent(support, extra) if extra else support
        super().__init__(Size(), shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return self._support

    def expand(self, batch_shape: tuple[int, ...], _instance: Flat | None = None) -> Flat:
        batch_shape = Size(batch_shape)
        check_expand("a flat distribution", self.batch_shape, batch_shape)
        new = _instance or Flat.__new__(Flat)
        new._support = self._support
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Zeros of the value's dtype, ``[..., *batch]``."""
        shape = value.shape[: value.dim() - len(self.event_shape)]
        return value.new_zeros(torch.broadcast_shapes(self.batch_shape, shape))

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """A *starting value*, not a draw from a prior: uniform(−2, 2) on the unconstrained scale, as Stan starts."""
        with torch.no_grad():
            transform: Any = bijection(self._support)
            shape = Size(sample_shape) + self.batch_shape + self.event_shape
            unconstrained = torch.empty(transform.inverse_shape(shape)).uniform_(-_START, _START)
            return transform(_within(self._support, shape) * unconstrained)


def _within(support: Any, shape: Size) -> float:
    """What keeps starts of matrices in hand: triangular ones of D rows with entries of about one have condition numbers
    that grow as 2^D (Viswanath & Trefethen 1998), with entries of about 1/√D they do not."""
    support = base_support(support)
    triangular = support.event_dim == 2 and not isinstance(support, OrderedBy)
    return shape[-1] ** -0.5 if triangular and shape[-1] > LARGE else 1.0


def flat(shape: tuple[int, ...] = (), support: constraints.Constraint = constraints.real) -> Flat:
    """A global site without a prior: ``pyro.sample("loc", lv.flat((K, D)))``. See :class:`Flat`."""
    return Flat(shape, support)


def ordered(shape: tuple[int, int], feature: int = 0, positive: bool = False) -> Flat:
    """A global site ``[K, D]`` without a prior whose components are in the order of one feature, so that labels cannot
    switch: ``priors={"loc": lv.ordered((3, 2), feature=1)}``; ``positive`` for rates and scales.

    Raises:
        SettingError: there is no such feature.
    """
    if len(shape) != 2 or not -shape[1] <= feature < shape[1]:
        raise SettingError(
            f"an order of the shape {list(shape)} by feature {feature}",
            "a shape [K, D] and a feature from 0 to D - 1",
            "correct shape= or feature=.",
        )
    return Flat(shape, OrderedBy(feature, positive))
