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
        shifted = x - centre
        distance = np.minimum(distance, np.einsum("ij,ij->i", shifted, shifted))
        left = weight * distance
        # with fewer distinct points than groups all have the same chance again
        chance = torch.from_numpy(left) if left.any() else weights
    return torch.from_numpy(np.concatenate(centres))


def lloyd(points: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """A few k-means steps, fewer where the groups stay; a centre without points stays where it is."""
    x, weight, at = points.numpy(), weights.numpy(), centres.numpy()
    labels, member = np.arange(len(at))[:, None], np.empty(0)
    for _ in range(LLOYD_STEPS):
        before, member = member, _nearest(x, at) == labels
        if np.array_equal(member, before):
            break
        at = _means(x, member * weight, at)
    return torch.from_numpy(at)


def means(points: Tensor, members: Tensor, otherwise: Tensor) -> Tensor:
    """Weighted means ``[K, P]`` of groups with ``members`` ``[S, K]``; ``otherwise`` where a group is empty."""
    return torch.from_numpy(_means(points.numpy(), members.numpy().T, otherwise.numpy()))


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre, ``[S]``; ties go to the first."""
    return torch.from_numpy(_nearest(points.numpy(), centres.numpy()))


def _means(x: np.ndarray, members: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The same by ``members`` ``[K, S]``."""
    total = members.sum(1)[:, None]
    return np.where(total > 0, members @ x / np.where(total > 0, total, 1.0), otherwise)


def _nearest(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    return (np.square(at).sum(-1)[:, None] - 2 * at @ x.T).argmin(0)
