"""Missing entries given the observed ones: expectations and draws of x | x_o, by kind of distribution.

Read values with NaN and distributions as :func:`latentvars.distributions.observed_part` makes them; whatever else
comes is taken as it is. A new collapsed distribution registers its two rules here or beside itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from pyro.distributions import Categorical, TorchDistribution
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from latentvars.distributions.factor_normal import FactorNormal
from latentvars.distributions.hidden_markov import HiddenMarkov
from latentvars.distributions.missing import ObservedPart, normal_of, plain
from latentvars.distributions.mixture import Mixture
from latentvars.distributions.normal_blocks import conditional_mean
from latentvars.distributions.product import Product
from latentvars.errors import SupportError


class Guess(NamedTuple):
    """Consecutive columns of E[x | x_o], or the probabilities of categories, which can be averaged as codes cannot.

    Attributes:
        value: ``[..., *E]``, or ``[..., *E, C]`` where ``categories``.
        event_dims: dimensions of E.
        categories: whether the last dimension holds probabilities.
    """

    value: Tensor
    event_dims: int
    categories: bool = False

    def average(self, weights: Tensor, batch_dims: Sequence[int] = (-1,)) -> Guess:
        """Σ weights · value over dimensions of the batch, with ``weights [...]`` of the whole batch shape."""
        kept = self.event_dims + self.categories
        weighted = weights.reshape(weights.shape + (1,) * kept) * self.value
        batch = weighted.dim() - kept
        return self._replace(value=weighted.sum([dim % batch for dim in batch_dims]) if batch_dims else weighted)

    def as_event(self, dims: int) -> Guess:
        """The last ``dims`` batch dimensions become part of the event."""
        return self._replace(event_dims=self.event_dims + dims)


def guessed(guesses: tuple[Guess, ...]) -> Tensor:
    """The value ``[..., *E]``: expectations, and the most probable code of a category (the first of equal ones)."""
    values = [guess.value.argmax(-1).to(guess.value.dtype) if guess.categories else guess.value for guess in guesses]
    return values[0] if len(values) == 1 else torch.cat(values, -1)


@singledispatch
def expected(fn: TorchDistribution, value: Tensor) -> tuple[Guess, ...]:
    """E[x | x_o], one guess for each block of columns of another kind.

    Args:
        fn: batch shape ``[...]``, event shape E.
        value: ``[..., *E]`` with NaN.

    Raises:
        SupportError: a law without a mean.
    """
    return (Guess(value, len(fn.event_shape)),)


@expected.register
def _(fn: ObservedPart, value: Tensor) -> tuple[Guess, ...]:
    base, normal = plain(fn.base), normal_of(fn.base)
    if normal is not None:
        return (Guess(conditional_mean(normal.loc, normal.covariance, value), 1),)
    missing = fn.missing(value)
    if isinstance(base, Categorical):
        known = torch.nn.functional.one_hot(fn.filled(value).long(), base.probs.shape[-1]).to(base.probs.dtype)
        return (Guess(torch.where(missing.unsqueeze(-1), base.probs, known), 0, True),)
    mean = fn.base.mean
    if not bool(mean.isfinite().all()):
        raise SupportError(
            given=f"site {fn.site!r} ~ {type(base).__name__}, which has no mean",
            needed="a law with a mean",
            remedy="ask for draws instead, as fit.impute(draws=100), and take their median",
        )
    return (Guess(torch.where(value.isnan(), mean, value), len(fn.event_shape)),)


@expected.register
def _(fn: FactorNormal, value: Tensor) -> tuple[Guess, ...]:
    return (Guess(conditional_mean(fn.loc, fn.covariance, value), 1),)


@expected.register
def _(fn: Independent, value: Tensor) -> tuple[Guess, ...]:
    base: Any = fn.base_dist
    return tuple(guess.as_event(fn.reinterpreted_batch_ndims) for guess in expected(base, value))


@expected.register(MaskedDistribution)
def _(fn: Any, value: Tensor) -> tuple[Guess, ...]:
    return expected(fn.base_dist, value)


@expected.register
def _(fn: Product, value: Tensor) -> tuple[Guess, ...]:
    found = []
    for part, columns in zip(fn.parts, fn.split(value), strict=True):
        for guess in expected(part, columns):
            scalar = not guess.event_dims
            found.append(Guess(guess.value.unsqueeze(-1 - guess.categories), 1, guess.categories) if scalar else guess)
    return tuple(found)


@expected.register
def _(fn: Mixture, value: Tensor) -> tuple[Guess, ...]:
    factor = fn.factors(value, torch.ones((), dtype=value.dtype))["components"]
    return tuple(guess.average(factor.weights) for guess in expected(factor.fn, factor.value))


@expected.register
def _(fn: HiddenMarkov, value: Tensor) -> tuple[Guess, ...]:
    factor = fn.factors(value, torch.ones((), dtype=value.dtype))["emission"]
    averaged = [guess.average(factor.weights) for guess in expected(factor.fn, factor.value)]
    if not fn.is_shared:  # time leads
        averaged = [g._replace(value=g.value.movedim(0, -1 - g.event_dims - g.categories)) for g in averaged]
    return tuple(guess.as_event(1) for guess in averaged)


@singledispatch
def drawn(fn: TorchDistribution, value: Tensor, draws: int) -> Tensor:
    """Draws of x | x_o, ``[draws, ..., *E]``; observed entries as they are. Torch's global generator is used.

    Args:
        fn: batch shape ``[...]``, event shape E.
        value: ``[..., *E]`` with NaN.
        draws: how many.
    """
    return value.expand((draws, *value.shape))


@drawn.register
def _(fn: ObservedPart, value: Tensor, draws: int) -> Tensor:
    dims = len(fn.event_shape)
    batch = torch.broadcast_shapes(value.shape[: value.dim() - dims], fn.batch_shape)
    fresh = fn.base.expand(batch).sample(torch.Size([draws])).to(value.dtype)
    normal = normal_of(fn.base)
    if normal is not None:
        return conditional_mean(fresh, normal.covariance, value)
    fn.missing(value)  # in part: an error
    return torch.where(value.isnan(), fresh, value)


@drawn.register
def _(fn: FactorNormal, value: Tensor, draws: int) -> Tensor:
    batch = torch.broadcast_shapes(value.shape[:-1], fn.batch_shape)
    fresh = fn.expand(batch).sample(torch.Size([draws])).to(value.dtype)
    return conditional_mean(fresh, fn.covariance, value)


@drawn.register
def _(fn: Independent, value: Tensor, draws: int) -> Tensor:
    base: Any = fn.base_dist
    return drawn(base, value, draws)


@drawn.register(MaskedDistribution)
def _(fn: Any, value: Tensor, draws: int) -> Tensor:
    return drawn(fn.base_dist, value, draws)


@drawn.register
def _(fn: Product, value: Tensor, draws: int) -> Tensor:
    blocks = []
    for part, columns in zip(fn.parts, fn.split(value), strict=True):
        block = drawn(part, columns, draws)
        blocks.append(block if part.event_shape else block.unsqueeze(-1))
    batch = torch.broadcast_shapes(*(block.shape[:-1] for block in blocks))
    return torch.cat([block.expand((*batch, block.shape[-1])) for block in blocks], -1)


@drawn.register
def _(fn: Mixture, value: Tensor, draws: int) -> Tensor:
    which = fn.posterior(value).sample(torch.Size([draws]))
    factor = fn.factors(value, torch.ones((), dtype=value.dtype))["components"]
    return _chosen(drawn(factor.fn, factor.value, draws), which, len(fn.event_shape))


@drawn.register
def _(fn: HiddenMarkov, value: Tensor, draws: int) -> Tensor:
    path = fn.posterior(value).sample(torch.Size([draws])).clamp(min=0)
    factor = fn.factors(value, torch.ones((), dtype=value.dtype))["emission"]
    dims = len(fn.emission.event_shape)
    given = drawn(factor.fn, factor.value, draws)
    given = given if fn.is_shared else given.movedim(1, -2 - dims)
    return _chosen(given, path, dims)


def _chosen(given: Tensor, which: Tensor, dims: int) -> Tensor:
    """``[..., K, *E]`` and categories ``[...]`` → ``[..., *E]``."""
    event = given.shape[given.dim() - dims :]
    given = given.expand((*which.shape, given.shape[-1 - dims], *event))
    index = which.reshape(which.shape + (1,) * (1 + dims)).expand((*which.shape, 1, *event))
    return given.gather(which.dim(), index).squeeze(which.dim())
