"""Centres of groups: k-means++ seeds, a few k-means steps, the nearest centre."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentvars.kernels import _core

LLOYD_STEPS = 5


def sample(weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Positions of at most ``size`` observations of positive weight, without repeats, in order."""
    at = (weights > 0).nonzero()[:, 0]
    if len(at) <= size:
        return at
    return at[torch.randperm(len(at), generator=generator)[:size]].sort().values


def seeds(points: Tensor, weights: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding (Arthur & Vassilvitskii 2007, section 2.2) with weights, ``[K, P]``."""
    uniforms = torch.rand(groups, generator=generator, dtype=torch.float64)
    chosen = torch.empty(groups, dtype=torch.int64)
    _core.seeds(_doubles(points), _doubles(weights), uniforms.numpy(), chosen.numpy())
    return points[chosen]


def lloyd(points: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """A few k-means steps, fewer where the groups stay; a centre without points stays where it is."""
    found = np.array(_doubles(centres))
    _core.lloyd(_doubles(points), _doubles(weights), found, LLOYD_STEPS)
    return torch.from_numpy(found).to(points.dtype)


def means(points: Tensor, members: Tensor, otherwise: Tensor) -> Tensor:
    """Weighted means ``[K, P]`` of groups with ``members`` ``[S, K]``; ``otherwise`` where a group is empty."""
    total = members.sum(0)[:, None]
    return torch.where(total > 0, members.mT @ points / torch.where(total > 0, total, 1.0), otherwise)


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre, ``[S]``; ties go to the first."""
    found = np.empty(len(points), np.int64)
    _core.nearest(_doubles(points), _doubles(centres), found)
    return torch.from_numpy(found)


def _doubles(value: Tensor) -> np.ndarray:
    return np.ascontiguousarray(value.numpy(), np.float64)
