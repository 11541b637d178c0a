"""Missing entries (NaN) integrated out: the law of what was observed.

A distribution is rewritten once, part by part, into one that reads NaN; complete data never come here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, final

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Size, Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, biject_to

from latentvars.contract import Factor
from latentvars.distributions.factor_normal import FactorNormal
from latentvars.distributions.normal_blocks import conditional, is_recorded, log_marginal
from latentvars.errors import SupportError


def observed_part(fn: TorchDistribution, site: str = "x") -> TorchDistribution:
    """The same law for values with NaN: its ``log_prob`` is that of the entries that are not NaN.

    Independent entries (``to_event``, ``Product``), multivariate normals, and mixtures and chains of these give exact
    marginals. Other laws of vectors accept observations that are missing as a whole.

    Args:
        fn: any distribution.
        site: name for errors.

    Raises:
        SupportError: a collapsed distribution that does not tell its parts (no method ``map_parts``).
    """
    change = partial(observed_part, site=site)
    found: Any = fn
    if isinstance(fn, ObservedPart) or 0 in fn.event_shape:  # an empty event is a factor, not an observation
        return fn
    if hasattr(fn, "map_parts"):
        return found.map_parts(change)
    if hasattr(fn, "posterior") or hasattr(fn, "factors"):
        raise SupportError(
            given=f"missing entries at {site!r} ~ {type(fn).__name__}",
            needed="a collapsed distribution with a method map_parts, as lv's own have",
            remedy="write map_parts(change), which rebuilds it with change(part) for each part, or drop these rows",
        )
    if isinstance(fn, Independent):
        return change(found.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return MaskedDistribution(change(found.base_dist), found._mask)
    return ObservedPart(fn, site)


@final
class ObservedPart(TorchDistribution):
    """p(x_o) = ∫ p(x_o, x_m) dx_m with m the entries of x that are NaN; log p = 0 where all are.

    Args:
        base: p(x), of batch shape ``[...]`` and event shape E.
        site: name for errors.

    Values are ``[..., *E]``. Gradients are finite: no NaN enters the density.
    """

    def __init__(self, base: TorchDistribution, site: str = "x") -> None:
        self.base, self.site = base, site
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        support: Any = self.base.support
        return support

    def expand(self, batch_shape: tuple[int, ...], _instance: ObservedPart | None = None) -> ObservedPart:
        new = _instance or ObservedPart.__new__(ObservedPart)
        ObservedPart.__init__(new, self.base.expand(Size(batch_shape)), self.site)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x_o), nats, ``[...]``.

        Raises:
            SupportError: a vector observed in part, of a law whose marginals are not known.
        """
        normal = normal_of(self.base)
        if normal is not None:
            found = log_marginal(normal.loc, normal.covariance, value)
            return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))
        missing = self.missing(value)
        if self.event_shape and not is_recorded() and bool(missing.all()):  # nothing to fill with
            return value.new_zeros(torch.broadcast_shapes(missing.shape, self.batch_shape))
        return torch.where(missing, 0.0, self.base.log_prob(self.filled(value)))

    def missing(self, value: Tensor) -> Tensor:
        """Where an observation is missing as a whole, ``[...]``.

        Raises:
            SupportError: one is missing in part.
        """
        missing = value.isnan()
        if not self.event_shape:
            return missing
        events = missing.flatten(value.dim() - len(self.event_shape))
        whole = events.all(-1)
        if not is_recorded() and bool((events.any(-1) & ~whole).any()):
            raise SupportError(
                given=f"observations at {self.site!r} ~ {type(self.base).__name__} that are missing in part",
                needed="a law whose marginals are known: independent entries, a multivariate normal, or mixtures, "
                "products and chains of these",
                remedy="make the whole observation NaN, impute it, or choose such a law",
            )
        return whole

    def filled(self, value: Tensor) -> Tensor:
        """The value with some element of the support in the place of NaN."""
        if not self.event_shape:
            return torch.where(value.isnan(), _inside(self.base), value)
        rows = value.reshape(-1, *self.event_shape)
        observed = ~self.missing(value).reshape(-1)
        first = rows.index_select(0, observed.to(torch.uint8).argmax().reshape(1))[0]
        some = torch.where(observed.any(), first, self.base.mean.detach())
        return torch.where(value.isnan(), some, value)

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Draws of the whole x, ``[*sample_shape, ..., *E]``."""
        return self.base.sample(Size(sample_shape))

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.base.variance


class Normal(NamedTuple):
    """Parameters of a multivariate normal, not broadcast: ``loc [..., D]``, ``covariance [..., D, D]``."""

    loc: Tensor
    covariance: Tensor


def normal_of(fn: TorchDistribution) -> Normal | None:
    """Mean and covariance of a multivariate normal in any parametrisation; None for another law."""
    found: Any = plain(fn)
    if isinstance(found, FactorNormal):
        return Normal(found.loc, found.covariance)
    if isinstance(found, MultivariateNormal):
        tril = found._unbroadcasted_scale_tril
        return Normal(found.loc, tril @ tril.mT)
    if isinstance(found, LowRankMultivariateNormal):
        factor: Any = found._unbroadcasted_cov_factor
        return Normal(found.loc, factor @ factor.mT + torch.diag_embed(found._unbroadcasted_cov_diag))
    return None


def plain(fn: TorchDistribution) -> TorchDistribution:
    """The distribution below ``expand``."""
    while isinstance(fn, ExpandedDistribution):
        fn = fn.base_dist
    return fn


def completed(factor: Factor) -> Factor:
    """The factor whose expected statistics, given the observed entries, are those of an M-step.

    Missing independent entries have weight zero. A multivariate normal has E[x | x_o] as its value and Cov[x | x_o]
    as its spread, under its own parameters (Little & Rubin 2002, section 11.2.1). Others stay as they are.
    """
    fn = factor.fn
    gaps = isinstance(fn, FactorNormal) and fn.gaps
    if not gaps and not isinstance(fn, ObservedPart):
        return factor
    base = fn if isinstance(fn, FactorNormal) else plain(fn.base)
    normal = normal_of(base)
    if normal is not None:
        found = conditional(normal.loc, normal.covariance, factor.value)
        return Factor(base, found.mean, factor.weights, found.covariance)
    return Factor(base, fn.filled(factor.value), factor.weights * ~fn.missing(factor.value))


def _inside(fn: TorchDistribution) -> Tensor:
    """An element of the support of a law of numbers, near its middle, without a gradient."""
    support: Any = fn.support
    loc = getattr(fn, "loc", None)
    if isinstance(support, type(constraints.real)) and isinstance(loc, Tensor):
        return loc.detach()
    if support.is_discrete:
        return torch.as_tensor(getattr(support, "lower_bound", 0)).detach()
    try:
        middle: Any = biject_to(support)(torch.zeros(()))
    except NotImplementedError:
        return torch.ones(())
    return middle.detach()
