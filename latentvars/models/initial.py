"""Observations with gaps, made ready for a data-driven start."""

from __future__ import annotations

import torch
from torch import Tensor


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
