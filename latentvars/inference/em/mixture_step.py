"""The E-step of S mixtures on the same observations, by the compiled core.

Normal components go by products of features as long as these keep their digits, and by residuals about the mean of each
component where not; the statistics are then about these means too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Size, Tensor

from latentvars.families import Arguments, Family, Reference
from latentvars.families.normal import covariance_of
from latentvars.families.tables import WIDEST, MultivariateNormalTable, Packed, SphericalTable, Table, is_normal
from latentvars.inference.em.points import Points
from latentvars.kernels.mixtures import Form, Normals, expected, normal_expected

NARROWEST = 1e12  # range over a standard deviation, where no number of the data has digits left


class MixtureStep(NamedTuple):
    """What is expected at S sets of globals.

    Attributes:
        objective: Σ w log p(x) ``[S]``, nats; not finite where arguments are none, or too narrow for any digits.
        statistics: of the components, ``[S, *target, *event]``, not laid out yet.
        counts: Σ w r, ``[S, K]``.
        offset: of the centre of the statistics from that of the reference, ``[S, *target, *event of x]``; None: none.
    """

    objective: Tensor
    statistics: Packed
    counts: Tensor
    offset: Tensor | None


def mixture_step(
    family: Family,
    table: Table,
    points: Points,
    arguments: Arguments | Normals,
    weights: Tensor,
    target: Size,
    at: Reference,
) -> MixtureStep:
    """The E-step.

    Args:
        family: of the components.
        table: its table.
        points: the observations.
        arguments: of the components, ``[S, *batch, *event]`` with ``batch`` of the rank of ``target``; or normals
            themselves.
        weights: of the components, ``[S, K]``.
        target: joint batch shape of the arguments of one set of globals.
        at: about which the features are taken.
    """
    shape = Size((len(weights), target[0]))
    if isinstance(arguments, Normals) or is_normal(table):
        if not isinstance(arguments, Normals):
            arguments = Normals(*normal_arguments(table, arguments, len(weights), target))
        objective, sums, loc = _normals(points, arguments, weights, at)
    else:
        every = Size((weights.numel(), *target[1:]))
        whole = {
            name: value.expand((len(weights), *target, *value.shape[value.dim() - family.events[name] :])).flatten(0, 1)
            for name, value in arguments.items()
        }
        objective, sums, loc = *_by_features(table, points, table.natural(whole, every, at), weights.log(), at), None
    statistics = Packed(table, sums, shape, target)
    offset = None if loc is None else loc.reshape(statistics["first"].shape) - at.centre
    return MixtureStep(objective + points.base, statistics, sums[:, 0].reshape(shape), offset)


def _normals(points: Points, normals: Normals, weights: Tensor, at: Reference) -> tuple[Tensor, Tensor, Tensor | None]:
    """Objectives, sums, and the means where the sums are about them."""
    centre, reach = at.centre.reshape(-1).contiguous(), points.reach
    found = normal_expected(
        normals, weights.contiguous(), points.matrix, points.weights, centre, points.shared, reach, WIDEST
    )
    objective = found.objective if found.sharpest * reach < NARROWEST else found.objective * torch.nan
    return objective, found.sums, normals.loc if found.apart else None


def normal_arguments(table: Table, arguments: Arguments, starts: int, target: Size) -> tuple[Tensor, Tensor]:
    """Means ``[S·K, D]`` and spreads ``[S·K or S, ...]`` as the core has them.

    Args:
        table: of normals.
        arguments: ``[S, *batch, *event]`` with ``batch`` of the rank of ``target``.
        starts: S.
        target: joint batch shape of the arguments of one set of globals.
    """
    rows = starts * target[0]
    groups = (starts, 1) if table.own is not None else (starts, target[0])
    if isinstance(table, MultivariateNormalTable):
        loc, covariance = arguments["loc"], covariance_of(arguments)
        loc = loc.expand(starts, *target, table.size).reshape(rows, table.size)
        return loc.contiguous(), covariance.expand(*groups, table.size, table.size).flatten(0, 1).contiguous()
    loc, scale = arguments["loc"].expand(starts, *target).reshape(rows, -1), arguments["scale"]
    if isinstance(table, SphericalTable):
        return loc.contiguous(), scale.reshape(scale.shape[0], -1).expand(*groups).reshape(-1).contiguous()
    return loc.contiguous(), scale.expand(*groups, *target[1:]).reshape(groups[0] * groups[1], -1).contiguous()


def _by_features(
    table: Table, points: Points, natural: Tensor, log_weights: Tensor, at: Reference
) -> tuple[Tensor, Tensor]:
    natural = torch.cat([natural[:, :1] + log_weights.reshape(-1, 1), natural[:, 1:]], 1)
    objective, sums = natural.new_zeros(len(log_weights)), torch.zeros_like(natural)
    for features, weights in points.chunks(table, at):
        own, own_sums = expected(Form.TABLE, features.contiguous(), at.centre, weights, natural, len(log_weights))
        objective, sums = objective + own, sums + own_sums
    return objective, sums
