"""Shortest ways as a decoder sees them: geodesics of the pull-back metric."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentvars.latent_space.paths import line

SEGMENTS = 32  # at least, of the curve whose energy is minimised
MOST = 300  # iterations
TOLERANCE = 1e-9


def geodesic(features: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points ``[steps, W]`` on the way of least energy ∫ |d f(z(t)) / dt|² dt, at equal distances as decoded.

    f = (mean, standard deviation) of what is decoded, so that the metric is J_μᵀ J_μ + J_σᵀ J_σ, the expected metric
    of a stochastic decoder (Arvanitidis, Hansen & Hauberg 2018, eq. 8). The curve is a chain of 32 pieces or more,
    whose energy S Σ |f(z_s+1) − f(z_s)|² is minimised by L-BFGS in two rounds from the straight line, first a coarse
    one. It is a local minimum: a geodesic, if not always the shortest.

    Args:
        features: real numbers ``[M, W]`` → f ``[M, F]``, differentiable.
        start: ``[W]``.
        end: ``[W]``.
        steps: number of points.
    """
    every = -(-SEGMENTS // (steps - 1))
    coarse = _relaxed(features, line(start, end, max(5, (steps - 1) // 2 + 1)))
    fine = _resampled(coarse, every * (steps - 1) + 1)
    return _relaxed(features, fine)[::every]


def _relaxed(features: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The interior points moved to least energy."""
    inner = points[1:-1].clone().requires_grad_()
    start, end = points[:1], points[-1:]
    optimizer = torch.optim.LBFGS(
        [inner],
        max_iter=MOST,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def energy() -> Tensor:
        optimizer.zero_grad()
        moved = features(torch.cat([start, inner, end]))
        value = (moved[1:] - moved[:-1]).square().sum() * (len(points) - 1)
        (inner.grad,) = torch.autograd.grad(value, [inner])
        return value.detach()

    with torch.enable_grad():
        optimizer.step(energy)
    found = torch.cat([start, inner.detach(), end])
    return found if bool(found.isfinite().all()) else points


def _resampled(points: Tensor, count: int) -> Tensor:
    """As many points on the chain of straight pieces."""
    at = torch.linspace(0, len(points) - 1, count, dtype=points.dtype)
    low = at.floor().long().clamp(max=len(points) - 2)
    share = (at - low)[:, None]
    return (1 - share) * points[low] + share * points[low + 1]
