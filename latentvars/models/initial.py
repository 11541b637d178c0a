"""Data-driven starts: groups of observations by k-means++."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE = 20_000  # observations that centres are sought among
LLOYD_STEPS = 5


def soft_groups(points: Tensor, weights: Tensor, groups: int, blur: float, generator: torch.Generator) -> Tensor:
    """Memberships of observations in groups around k-means++ centres.

    Args:
        points: ``[S, P]``, as the emission's ``points``.
        weights: ``[S]``, nonnegative, not all zero.
        groups: K.
        blur: share of a uniform draw from the simplex in each membership, so that no group is empty and groups that
            coincide can part.
        generator: the only source of chance.

    Returns:
        ``[S, K]``, rows sum to one.
    """
    at = sample(weights, SAMPLE, generator)
    centres = _lloyd(points[at], weights[at], _seeds(points[at], weights[at], groups, generator))
    hard = torch.nn.functional.one_hot(_nearest(points, centres), groups).to(points.dtype)
    noise = torch.empty(hard.shape, dtype=hard.dtype).exponential_(generator=generator) + 1e-12
    return (1 - blur) * hard + blur * noise / noise.sum(-1, keepdim=True)


def filled(x: Tensor, weights: Tensor) -> Tensor:
    """Observations ``[S, D]`` with the observed value nearest its feature's mean in the place of each missing one.

    Args:
        x: at least one entry of each feature is observed where ``weights`` is positive.
        weights: ``[S]``; observations of weight zero have no say.
    """
    if not bool(x.isnan().any()):
        return x
    used = x[weights > 0]
    nearest = (used - used.nanmean(0)).abs().nan_to_num(nan=torch.inf).argmin(0, keepdim=True)
    return torch.where(x.isnan(), used.gather(0, nearest), x)


def redrawn(x: Tensor, groups: Tensor, generator: torch.Generator) -> Tensor:
    """Observations ``[S, D]`` with a random observed value of their own group in the place of each missing one.

    Args:
        x: observations.
        groups: ``[S, K]`` memberships; a group where a feature was never observed takes from all.
        generator: the only source of chance; not used where nothing is missing.
    """
    missing, member = x.isnan(), groups.argmax(-1)
    x = x.clone()
    for feature in missing.any(0).nonzero()[:, 0].tolist():
        gap = missing[:, feature]
        for group in member[gap].unique().tolist():
            own = member == group
            donors = (own & ~gap if bool((own & ~gap).any()) else ~gap).nonzero()[:, 0]
            at = (own & gap).nonzero()[:, 0]
            x[at, feature] = x[donors[torch.randint(len(donors), (len(at),), generator=generator)], feature]
    return x


def sample(weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Positions of at most ``size`` observations of positive weight, without repeats, in order."""
    at = (weights > 0).nonzero()[:, 0]
    if len(at) <= size:
        return at
    return at[torch.randperm(len(at), generator=generator)[:size]].sort().values


def _seeds(points: Tensor, weights: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding (Arthur & Vassilvitskii 2007, section 2.2) with weights, ``[K, P]``."""
    chance, distance = weights, None
    centres = []
    for _ in range(groups):
        centre = points[torch.multinomial(chance, 1, generator=generator)]
        centres.append(centre)
        new = (points - centre).square().sum(-1)
        distance = new if distance is None else torch.minimum(distance, new)
        chance = weights * distance
        if not bool(chance.sum() > 0):  # fewer distinct points than groups
            chance = weights
    return torch.cat(centres)


def _lloyd(points: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """A few k-means steps; a centre without points stays where it is."""
    for _ in range(LLOYD_STEPS):
        member = torch.nn.functional.one_hot(_nearest(points, centres), len(centres)).to(points.dtype)
        member = member * weights[:, None]
        total = member.sum(0)[:, None]
        centres = torch.where(total > 0, member.mT @ points / torch.where(total > 0, total, 1.0), centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre, ``[S]``; ties go to the first."""
    return (centres.square().sum(-1) - 2 * points @ centres.mT).argmin(-1)
