"""Centres of groups: k-means++ seeds, a few k-means steps, the nearest centre."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LLOYD_STEPS = 5


def sample(weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Positions of at most ``size`` observations of positive weight, without repeats, in order."""
    at = (weights > 0).nonzero()[:, 0]
    if len(at) <= size:
        return at
    return at[torch.randperm(len(at), generator=generator)[:size]].sort().values


def seeds(points: Tensor, weights: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding (Arthur & Vassilvitskii 2007, section 2.2) with weights, ``[K, P]``."""
    x, weight = points.numpy(), weights.numpy()
    chance, distance = weights, np.full(len(x), np.inf)
    centres = []
    for _ in range(groups):
        centre = x[torch.multinomial(chance, 1, generator=generator).numpy()]
        centres.append(centre)
        distance = np.minimum(distance, np.square(x - centre).sum(-1))
        left = weight * distance
        # with fewer distinct points than groups all have the same chance again
        chance = torch.from_numpy(left) if left.sum() > 0 else weights
    return torch.from_numpy(np.concatenate(centres))


def lloyd(points: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """A few k-means steps; a centre without points stays where it is."""
    for _ in range(LLOYD_STEPS):
        member = torch.nn.functional.one_hot(nearest(points, centres), len(centres)).to(points.dtype)
        centres = means(points, member * weights[:, None], centres)
    return centres


def means(points: Tensor, members: Tensor, otherwise: Tensor) -> Tensor:
    """Weighted means ``[K, P]`` of groups with ``members`` ``[S, K]``; ``otherwise`` where a group is empty."""
    total = members.sum(0)[:, None]
    return torch.where(total > 0, members.mT @ points / torch.where(total > 0, total, 1.0), otherwise)


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre, ``[S]``; ties go to the first."""
    return (centres.square().sum(-1) - 2 * points @ centres.mT).argmin(-1)
