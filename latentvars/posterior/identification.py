"""Which globals the data determine: numbers at the edge of their support, and directions in which nothing changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latentvars.errors import NumericalError
from latentvars.posterior.information import Derivatives, coordinates
from latentvars.posterior.scales import Bounds, entry_bounds
from latentvars.program import GlobalSite, GlobalSpace, Program

EXPECTED_AT_EDGE = 0.02  # observations: a probability of less than this over the rows is one of none
LEAST_INFORMATION = 0.1  # on a logarithm or logit: an error of more than 3 there says nothing
FLAT = 1e-9
CURVED_UP = 1e-6
ROUGH = 1e-5  # the two limits for second derivatives that are differences


def edges(
    space: GlobalSpace, values: Mapping[str, Tensor], jacobian: Tensor, information: Tensor, size: float
) -> tuple[Tensor, Tensor]:
    """Coordinates ``[P]`` that are held, and numbers ``[M]`` at the edge of their support.

    A coordinate is held where it moves no number by as much as 0.02 observations among ``size`` could show, and the
    data say nothing of it: no count is left from which an error could be estimated.
    """
    held = torch.zeros(space.size, dtype=torch.bool)
    edges = []
    row = column = 0
    for site in space.sites:
        bounds = entry_bounds(site, values[site.name])
        entries, own = slice(row, row + site.shape.numel()), slice(column, column + site.free)
        row, column = entries.stop, own.stop
        edge = _near(bounds, values[site.name], size) & ~_fixed(site)
        if bounds.relative and site.free:
            block = jacobian[entries, own].abs()
            moved = (block / bounds.distance.flatten()[:, None]).amax(0)
            silent = ~(information.diagonal()[own] >= LEAST_INFORMATION)
            held[own] = (moved * size < EXPECTED_AT_EDGE) & silent
            edge = edge & (bounds.two_sided.flatten() | (block[:, held[own]] > 0).any(-1))
        else:
            edge = torch.zeros_like(edge)
        edges.append(edge)
    return held, torch.cat(edges)


def _near(bounds: Bounds, value: Tensor, size: float) -> Tensor:
    gap = torch.minimum(value - bounds.low, bounds.high - value) / bounds.distance
    return ((gap * size) < EXPECTED_AT_EDGE).flatten()


def _fixed(site: GlobalSite) -> Tensor:
    """Entries whose value the user gave: known, at the edge or not."""
    if site.restriction is None:
        return torch.zeros(site.shape.numel(), dtype=torch.bool)
    return site.restriction.held.flatten()


def inverse_information(program: Program, found: Derivatives, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Generalised inverse of the information ``[P, P]`` (zero on held coordinates), and its flat directions ``[P, F]``.

    Directions are unit vectors of the coordinates times ``scale``, the root of each one's own information ``[P]``.

    Raises:
        NumericalError: the objective rises from the point in some direction.
    """
    kept = (~held).nonzero().flatten()
    information = found.information[kept][:, kept]
    own = information.diagonal().abs().sqrt()
    scale = torch.where(own > 0, own, 1.0)
    values, vectors = torch.linalg.eigh(information / scale[:, None] / scale)
    least = FLAT if found.exact else ROUGH
    if bool((values < -max(least, CURVED_UP)).any()):
        worst = vectors[:, values.argmin()].abs()
        at = kept[worst > 0.1 * worst.max()].tolist()
        raise NumericalError(
            given=f"a log-likelihood that rises from the point along {coordinates(program, at)} (a saddle)",
            needed="a maximum",
            remedy="fit with more passes or a smaller tolerance, or with restarts",
        )
    flat, curved = values < least, vectors[:, values >= least] / scale[:, None]
    inverse, directions = torch.zeros_like(found.information), found.information.new_zeros(len(held), int(flat.sum()))
    inverse[kept[:, None], kept] = (curved / values[~flat]) @ curved.mT
    directions[kept] = vectors[:, flat]
    units = scale.new_full((len(held),), torch.inf)
    units[kept] = scale
    return inverse, directions, units
