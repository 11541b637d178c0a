"""The bounds between which each number of a global lies, and the scale on which its error is taken as normal."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor
from torch.distributions import constraints

from latentvars.distributions.bijection import base_support
from latentvars.program import GlobalSite

INFINITE = float("inf")
SIMPLEX = type(constraints.simplex)
MATRICES = tuple(
    map(type, (constraints.positive_definite, constraints.positive_semidefinite, constraints.lower_cholesky))
)
CORRELATIONS = (type(constraints.corr_cholesky), type(pyro_constraints.corr_matrix))
POSITIVE_VECTOR = type(pyro_constraints.positive_ordered_vector)


class Bounds(NamedTuple):
    """Of each entry of one global.

    Attributes:
        low: ``[*shape]``, −inf where there is none.
        high: ``[*shape]``, inf where there is none.
        entrywise: whether the support is a bound of each entry by itself.
        simplex: whether the last axis sums to one.
    """

    low: Tensor
    high: Tensor
    entrywise: bool = False
    simplex: bool = False

    @property
    def two_sided(self) -> Tensor:
        return self.low.isfinite() & self.high.isfinite()

    @property
    def relative(self) -> bool:
        """Whether its unconstrained coordinates are logarithms or logits."""
        return self.simplex or (self.entrywise and bool((self.low.isfinite() | self.high.isfinite()).any()))

    @property
    def distance(self) -> Tensor:
        """Of the two bounds, 1 where they are not both finite."""
        return torch.where(self.two_sided, self.high - self.low, 1.0)


def entry_bounds(site: GlobalSite, like: Tensor) -> Bounds:
    """Bounds of the entries of a global, tensors as ``like``: [0, 1] of a probability, [0, ∞) of a variance."""
    support = base_support(site.support)
    low, high = like.new_full(site.shape, -INFINITE), like.new_full(site.shape, INFINITE)
    square = len(site.shape) > 1 and site.shape[-1] == site.shape[-2]
    diagonal = torch.eye(site.shape[-1], dtype=torch.bool).expand(site.shape) if square else None
    kind = type(support)  # not the object: a copy of a model copies it
    if kind is SIMPLEX:
        return Bounds(torch.zeros_like(low), torch.ones_like(high), simplex=True)
    if issubclass(kind, MATRICES):
        assert diagonal is not None
        return Bounds(low.masked_fill(diagonal, 0.0), high)
    if issubclass(kind, CORRELATIONS):
        return Bounds(torch.full_like(low, -1.0), torch.ones_like(high))
    if issubclass(kind, POSITIVE_VECTOR):
        return Bounds(torch.zeros_like(low), high)
    low = _given(support, "lower_bound", low)
    high = _given(support, "upper_bound", high)
    return Bounds(low, high, entrywise=support.event_dim == 0)


def normal_interval(value: Tensor, error: Tensor, low: Tensor, high: Tensor, width: Tensor) -> Tensor:
    """value ± width · error on the scale of each number, mapped back, ``[..., 2]``: inside its bounds always.

    The scale is log(x − low) or log(high − x) with one bound, the logit with two, x itself without; the error is taken
    there by the delta method.
    """
    above, below = value - low, high - value
    one_low, one_high = low.isfinite() & ~high.isfinite(), high.isfinite() & ~low.isfinite()
    both = low.isfinite() & high.isfinite()
    ends = []
    for sign in (-1.0, 1.0):
        move = sign * width * error
        log_low = low + above * (move / above).exp()
        log_high = high - below * (-move / below).exp()
        odds = (above / below).log() + move * (high - low) / (above * below)
        logit = low + (high - low) * odds.sigmoid()
        end = value + move
        for where, candidate in ((one_low, log_low), (one_high, log_high), (both, logit)):
            end = torch.where(where, candidate, end)
        ends.append(torch.where(error == 0, value, end))
    return torch.stack(ends, -1)


def _given(support: Any, name: str, default: Tensor) -> Tensor:
    bound = getattr(support, name, None)
    return default if bound is None else torch.as_tensor(bound).to(default).expand(default.shape)
