"""What a law whose local is summed or integrated out says of the local: its prior, and the law given its value.

A new collapsed distribution registers its rules here or beside itself.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from pyro.distributions import Categorical, MultivariateNormal, Normal, TorchDistribution
from torch import Tensor
from torch.nn.functional import one_hot

from latentvars.distributions import ChainPosterior, FactorNormal, HiddenMarkov, Mixture
from latentvars.errors import SupportError
from latentvars.latent_space.law import Law


@singledispatch
def given_local(fn: TorchDistribution, value: Tensor) -> Law:
    """p(x | z) of M values of the local ``[M, ...]``.

    Raises:
        SupportError: a law that has no rule.
    """
    raise _unknown(fn)


@singledispatch
def local_prior(fn: TorchDistribution, steps: int) -> TorchDistribution:
    """p(z) of one row, batch shape that of ``fn``; the paths of a chain have so many steps.

    Raises:
        SupportError: a law that has no rule.
    """
    raise _unknown(fn)


@given_local.register
def _(fn: Mixture, value: Tensor) -> Law:
    weights = one_hot(value.long(), fn.labels).to(fn.weights.dtype).log()
    return Law(fn.components, weights, (-1,))


@given_local.register
def _(fn: HiddenMarkov, value: Tensor) -> Law:
    weights = one_hot(value.long().clamp(min=0), fn.states).to(fn.initial.dtype).log()
    return Law(fn.emission, weights, (-1,), row_axis=-2)


@given_local.register
def _(fn: FactorNormal, value: Tensor) -> Law:
    loc = fn.loc + (fn.loadings @ value[..., None])[..., 0]
    return Law(Normal(loc, fn.noise.expand(loc.shape)).to_event(1))


@local_prior.register
def _(fn: Mixture, steps: int) -> TorchDistribution:
    return Categorical(probs=fn.weights).expand(fn.batch_shape)


@local_prior.register
def _(fn: HiddenMarkov, steps: int) -> TorchDistribution:
    nothing = fn.initial.new_zeros(*fn.batch_shape, steps, fn.states)
    return ChainPosterior(fn.initial, fn.transition, nothing, None, fn.moving)


@local_prior.register
def _(fn: FactorNormal, steps: int) -> TorchDistribution:
    zero = fn.loadings.new_zeros(fn.loadings.shape[-1])
    eye = torch.eye(len(zero), dtype=zero.dtype)
    return MultivariateNormal(zero, eye).expand(fn.batch_shape)


def _unknown(fn: TorchDistribution) -> SupportError:
    return SupportError(
        given=f"a latent space of a {type(fn).__name__}",
        needed="a law with rules for its local",
        remedy="register them with latentvars.latent_space.collapsed.given_local and local_prior, or write the local "
        "as a sample site",
    )
