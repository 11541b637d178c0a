"""How a family declares its globals: flat unless a prior was given by site name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyro
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from latentvars.distributions.bijection import base_support
from latentvars.distributions.flat import flat
from latentvars.errors import NameUnknownError, ShapeError, SupportError


@dataclass(frozen=True)
class Priors:
    """Laws of the globals.

    Attributes:
        given: site name → prior. Its batch shape is expanded to the site: ``Normal(0., 10.)`` for every entry of
            ``loc``, ``Dirichlet(torch.ones(K))`` for every row of ``transition``.
        suffix: appended to the name of each site, for the parts of a product.
    """

    given: Mapping[str, TorchDistribution] = field(default_factory=dict)
    suffix: str = ""

    def sample(self, name: str, shape: tuple[int, ...], support: Constraint) -> Tensor:
        """Declare one global of this shape, independent over the dimensions left of the support's own."""
        site = name + self.suffix
        if site not in self.given:
            return pyro.sample(site, flat(shape, support))
        return pyro.sample(site, _expanded(site, self.given[site], Size(shape), support))

    def part(self, number: int) -> Priors:
        """For the globals of part ``number`` of a product."""
        return Priors(self.given, f"{self.suffix}_{number}")


def check_names(priors: Mapping[str, TorchDistribution], sites: Iterable[str]) -> None:
    """Every prior belongs to a site.

    Raises:
        NameUnknownError: there is no such site.
    """
    sites = tuple(sites)
    unknown = [name for name in priors if name not in sites]
    if unknown:
        raise NameUnknownError(
            given=f"a prior of {', '.join(map(repr, unknown))}",
            needed=f"names of globals of this model: {', '.join(sites)}",
            remedy="rename or remove it",
        )


def _expanded(site: str, prior: TorchDistribution, shape: Size, support: Constraint) -> TorchDistribution:
    event, lead = prior.event_shape, shape[: len(shape) - len(prior.event_shape)]
    fits = shape[len(lead) :] == event and len(prior.batch_shape) <= len(lead)
    tail = lead[len(lead) - len(prior.batch_shape) :]
    if not fits or any(size not in (1, goal) for size, goal in zip(prior.batch_shape, tail, strict=True)):
        raise ShapeError(
            given=f"a prior of {site!r} of batch shape {list(prior.batch_shape)} and event shape {list(event)}",
            needed=f"one that expands to the shape {list(shape)} of the site",
            remedy="give one law for all entries, or one per entry",
        )
    if base_support(prior.support) is constraints.real and base_support(support) is not constraints.real:
        raise SupportError(
            given=f"a prior of {site!r} on all real numbers ({type(prior).__name__})",
            needed=f"one on {support}",
            remedy="choose a law of that support, as Gamma or LogNormal for a positive number",
        )
    return prior.expand(lead).to_event(len(lead))
