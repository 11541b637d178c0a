"""Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao & Gabry 2024), by ArviZ."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

EQUAL = 1e-10  # nats: ratios that differ by less are those of the target itself


class Smoothed(NamedTuple):
    """Importance weights of S draws.

    Attributes:
        log_weights: ``[S, ...]``, normalised: their exponentials sum to one over the draws.
        k_hat: Pareto shape ``[...]``: above .7 the weights are not to be trusted; −inf where all are equal.
        log_mean: log of the mean of the smoothed ratios ``[...]``, nats: the normalising constant.
    """

    log_weights: Tensor
    k_hat: Tensor
    log_mean: Tensor


def pareto_smoothed(log_ratios: Tensor) -> Smoothed:
    """Smooth the largest of the ratios p / q of draws from q, ``[S, ...]``, nats, up to a constant; finite."""
    from arviz_stats import base

    size, tail = len(log_ratios), log_ratios.shape[1:]
    ratios = log_ratios.reshape(size, -1).to(torch.float64)
    weights = torch.full_like(ratios, -math.log(size))
    shape = torch.full(ratios.shape[1:], -torch.inf, dtype=torch.float64)
    unequal = ratios.amax(0) - ratios.amin(0) >= EQUAL
    if bool(unequal.any()):
        given = (ratios - ratios.amax(0))[:, unequal]
        # it takes log-likelihoods of what is left out, whose sign is turned
        found, shapes = cast(Any, base).array_stats.psislw(-given.numpy(), axis=0)
        weights[:, unequal] = torch.as_tensor(found).reshape(-1, size).mT.log_softmax(0)
        shape[unequal] = torch.as_tensor(shapes, dtype=torch.float64).reshape(-1)
    # most ratios are not smoothed, and tell the constant by which all were divided
    constant = (ratios - weights).median(0).values - math.log(size)
    return Smoothed(weights.reshape(log_ratios.shape), shape.reshape(tail), constant.reshape(tail))
