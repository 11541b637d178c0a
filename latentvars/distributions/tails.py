"""Distribution functions of the entries of an observation, one at a time, by kind of distribution.

``P(X < x)`` and ``P(X <= x)`` of each number of an event, the other numbers integrated out. A new collapsed
distribution registers its rule here or beside itself.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import (
    Beta,
    Binomial,
    Geometric,
    Independent,
    NegativeBinomial,
    Poisson,
    StudentT,
    constraints,
)

from latentvars.distributions.hidden_markov import HiddenMarkov
from latentvars.distributions.log_space import log_probs, only_known
from latentvars.distributions.missing import ObservedPart, normal_of
from latentvars.distributions.mixture import Mixture
from latentvars.distributions.product import Product
from latentvars.errors import SupportError

LARGEST_COUNT = 10_000  # of laws whose probabilities are added up one by one
Given = Literal["others", "past"]


class Tails(NamedTuple):
    """Distribution functions at one observation.

    Attributes:
        below: P(X < x), ``[..., *E]``; NaN where x is missing.
        upto: P(X <= x), the same where the law is continuous.
    """

    below: Tensor
    upto: Tensor

    def average(self, weights: Tensor, event_dims: int, axis: int = -1) -> Tails:
        """Σ weights · value over one dimension of the batch, with ``weights [...]`` of the whole batch shape."""
        weights = weights.reshape(weights.shape + (1,) * event_dims)
        axis = axis - event_dims if axis < 0 else axis
        return Tails(*((weights * value).sum(axis) for value in self))

    def moved(self, origin: int, goal: int) -> Tails:
        return Tails(*(value.movedim(origin, goal) for value in self))

    def where(self, observed: Tensor) -> Tails:
        """NaN where something was not observed."""
        return Tails(*(torch.where(observed, value, torch.nan) for value in self))


@singledispatch
def tails(fn: TorchDistribution, value: Tensor) -> Tails:
    """P(X < x) and P(X <= x) of each entry of x, ``[..., *E]``.

    Args:
        fn: batch shape ``[...]``, event shape E. Steps of a chain are given the steps before them.
        value: x, ``[..., *E]``, NaN where it is missing.

    Raises:
        SupportError: a law whose distribution function is not known.
    """
    normal = normal_of(fn)
    if normal is not None:
        spread = normal.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        return _twice(torch.special.ndtr((value - normal.loc) / spread))
    if fn.event_shape:
        raise _unknown(fn)
    support: Any = fn.support
    return _discrete(fn, value) if support.is_discrete else _twice(_continuous(fn, value))


@tails.register(ExpandedDistribution)
@tails.register(MaskedDistribution)
def _(fn: Any, value: Tensor) -> Tails:
    found = tails(fn.base_dist, value)
    mask = getattr(fn, "_mask", None)
    if mask is None or mask is True:
        return found
    mask = torch.as_tensor(mask)
    return found.where(mask.reshape(mask.shape + (1,) * len(fn.event_shape)))


@tails.register
def _(fn: ObservedPart, value: Tensor) -> Tails:
    if normal_of(fn.base) is not None:
        return tails(fn.base, value)
    return tails(fn.base, fn.filled(value)).where(~value.isnan())


@tails.register
def _(fn: Independent, value: Tensor) -> Tails:
    base: Any = fn.base_dist
    return tails(base, value)


@tails.register
def _(fn: Product, value: Tensor) -> Tails:
    parts = [tails(part, column) for part, column in zip(fn.parts, fn.split(value), strict=True)]
    found = []
    for values in zip(*parts, strict=True):
        columns = [v if part.event_shape else v.unsqueeze(-1) for part, v in zip(fn.parts, values, strict=True)]
        batch = torch.broadcast_shapes(*(column.shape[:-1] for column in columns))
        found.append(torch.cat([column.expand((*batch, column.shape[-1])) for column in columns], -1))
    return Tails(*found)


@tails.register
def _(fn: Mixture, value: Tensor) -> Tails:
    dims = len(fn.event_shape)
    parts = tails(fn.components, value.unsqueeze(-1 - dims))
    shape = torch.broadcast_shapes(parts.upto.shape[: parts.upto.dim() - dims], fn.weights.shape)
    weights = fn.weights.expand(shape)
    if fn.known is not None:
        weights = torch.where((fn.known >= 0).unsqueeze(-1), torch.arange(fn.labels) == fn.known.unsqueeze(-1), weights)
    return parts.average(weights.to(parts.upto.dtype), dims)


@tails.register
def _(fn: HiddenMarkov, value: Tensor) -> Tails:
    return chain_tails(fn, value, step_states(fn, value, "past").softmax(-1))


def chain_tails(fn: HiddenMarkov, value: Tensor, states: Tensor) -> Tails:
    """Tails of each step of a chain ``[..., T, *E]`` under probabilities of its states ``[..., T, K]``."""
    dims = len(fn.emission.event_shape)
    parts = tails(fn.emission, fn.parts_of(value)["emission"].value)
    parts = parts if fn.is_shared else parts.moved(0, -2 - dims)
    return parts.average(states, dims)


def step_states(fn: HiddenMarkov, value: Tensor, given: Given) -> Tensor:
    """What other steps say about the state of each step, ``[..., T, K]``, nats.

    Args:
        fn: a chain.
        value: ``[..., T, *E]``, NaN where it is missing.
        given: ``"past"``: log p(x_1..t-1, z_t); ``"others"``: log p(x_1..t-1, x_t+1..T, z_t) (Zucchini & MacDonald
            2009, section 5.3 and eq. 5.3, before they are normalised). A state that is known is kept to.
    """
    chain = fn.posterior(value)
    steps = chain.filtered.steps
    before = torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)[..., :-1]], -1)
    first = log_probs(fn.initial).unsqueeze(-2).expand(chain.log_emission[..., :1, :].shape)
    coming = torch.logsumexp(chain.filtered.states[..., :-1, :, None] + chain.log_transition, -2)
    found = torch.cat([first, coming], -2) + before.unsqueeze(-1)
    if given == "others":
        ahead = torch.logsumexp(chain.log_transition + chain.smoothed.log_ahead[..., 1:, None, :], -1)
        ahead = ahead + (chain.filtered.total.unsqueeze(-1) - before - steps)[..., :-1, None]
        if chain.valid is not None:
            ahead = torch.where(chain.valid[..., 1:, None], ahead, 0.0)
        found = found + torch.cat([ahead, torch.zeros_like(found[..., :1, :])], -2)
    return only_known(found, fn.known)


def _twice(upto: Tensor) -> Tails:
    return Tails(upto, upto)


def _continuous(fn: Any, value: Tensor) -> Tensor:
    """P(X <= x) of numbers."""
    if isinstance(fn, StudentT):
        from scipy.special import stdtr

        return _by_scipy(stdtr, fn.df, (value - fn.loc) / fn.scale)
    if isinstance(fn, Beta):
        from scipy.special import betainc

        return _by_scipy(betainc, fn.concentration1, fn.concentration0, value)
    try:
        return fn.cdf(value)
    except NotImplementedError:
        raise _unknown(fn) from None


def _discrete(fn: Any, value: Tensor) -> Tails:
    """P(X < x) and P(X <= x) of whole numbers, by a closed form or by adding up probabilities."""
    from scipy import stats

    count = (value if value.is_floating_point() else value.double()).floor()
    if isinstance(fn, Poisson):
        upto = [_by_scipy(stats.poisson.cdf, k, fn.rate) for k in (count - 1, count)]
    elif isinstance(fn, Binomial):
        upto = [_by_scipy(stats.binom.cdf, k, fn.total_count, fn.probs) for k in (count - 1, count)]
    elif isinstance(fn, NegativeBinomial):
        upto = [_by_scipy(stats.nbinom.cdf, k, fn.total_count, 1 - fn.probs) for k in (count - 1, count)]
    elif isinstance(fn, Geometric):
        upto = [-torch.expm1((k + 1) * torch.log1p(-fn.probs)) for k in (count - 1, count)]
    else:
        return _summed(fn, count)
    return Tails(*(torch.where(k < 0, 0.0, p) for k, p in zip((count - 1, count), upto, strict=True)))


def _summed(fn: Any, count: Tensor) -> Tails:
    """The same by P(X = 0) + P(X = 1) + ..."""
    largest = int(count.nan_to_num(0).max()) if count.numel() else 0
    if not _from_zero(fn.support):
        raise _unknown(fn)
    if largest > LARGEST_COUNT:
        raise _unknown(fn, f", of which {largest} probabilities would be added up")
    shape = torch.broadcast_shapes(count.shape, fn.batch_shape)
    codes = range(max(0, largest) + 1)
    probs = torch.stack([fn.log_prob(count.new_full(fn.batch_shape, code)).exp() for code in codes], -1)
    upto = torch.cat([torch.zeros_like(probs[..., :1]), probs.cumsum(-1).clamp(max=1)], -1)
    upto = upto.expand((*shape, upto.shape[-1]))
    place = count.expand(shape).nan_to_num(0).long().clamp(min=-1).unsqueeze(-1)
    return Tails(*(upto.gather(-1, (place + step).clamp(min=0)).squeeze(-1) for step in (0, 1)))


def _from_zero(support: Any) -> bool:
    """Whether the values of a discrete law are counted from 0."""
    if isinstance(support, type(constraints.boolean)):
        return True
    lowest = getattr(support, "lower_bound", None)
    return lowest is not None and bool((torch.as_tensor(lowest) == 0).all())


def _by_scipy(function: Any, *arguments: Tensor) -> Tensor:
    """A function of scipy's, entry by entry."""
    numbers = torch.broadcast_tensors(*(torch.as_tensor(value).detach() for value in arguments))
    found = function(*(value.double().numpy() for value in numbers))
    return torch.as_tensor(found, dtype=numbers[0].dtype if numbers[0].is_floating_point() else torch.float64)


def _unknown(fn: Any, why: str = "") -> SupportError:
    shape = f" of events of shape {list(fn.event_shape)}" if fn.event_shape else ""
    return SupportError(
        given=f"the law {type(fn).__name__}{shape}{why}",
        needed="one whose distribution function is known: of numbers, multivariate normal, or products, mixtures and "
        "chains of these",
        remedy="read lv.pit(fit), which falls back on draws, or give the distribution a method cdf",
    )
