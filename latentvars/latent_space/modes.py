"""The modes of log p(x_n, u) of many rows at a time, from many starts, and the normals that fit there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentvars.errors import NumericalError
from latentvars.latent_space.source import Target

ADAM_STEPS = 100
NEWTON_STEPS = 12
RATE = 0.1
APART = 1.0  # standard deviations between two modes
LEAST_CURVATURE = 1e-4
WORTH_KEEPING = 12.0  # nats of mass below the largest mode


@dataclass(frozen=True)
class Modes:
    """Distinct maxima, the heaviest first, those of N rows side by side; padded to the largest number R.

    Attributes:
        loc: ``[R, N, W]``.
        scale: lower factors of the inverse Hessians ``[R, N, W, W]``.
        log_density: ``[R, N]``, nats; −inf where a row has fewer modes.
        log_mass: Laplace's estimate of the log of the integral about each ``[R, N]``.
    """

    loc: Tensor
    scale: Tensor
    log_density: Tensor
    log_mass: Tensor


def find_modes(target: Target, starts: Tensor, most: int) -> Modes:
    """Climb from ``starts [S, N, W]``: Adam, then damped steps of Newton; ends nearer than a standard deviation to a
    heavier one are the same mode.

    Raises:
        NumericalError: a row without a finite density at any end.
    """
    ends = _newton(target, _adam(target, starts))
    _, hessian, density = _derivatives(target, ends)
    values, vectors = torch.linalg.eigh(-hessian)
    ridge = values.clamp(min=LEAST_CURVATURE)
    scale = torch.linalg.cholesky(vectors @ torch.diag_embed(1 / ridge) @ vectors.mT)
    size = starts.shape[-1]
    mass = density + 0.5 * size * torch.log(torch.tensor(2 * torch.pi)) - 0.5 * ridge.log().sum(-1)
    if not bool(density.isfinite().any(0).all()):
        bad = (~density.isfinite().any(0)).nonzero()[:5, 0].tolist()
        raise NumericalError(
            given=f"rows {bad}, which no latent that was tried gives a finite density",
            needed="rows with a density",
            remedy="check these rows against the support of the model",
        )
    return _distinct(ends, scale, density, torch.where(density.isfinite(), mass, -torch.inf), most)


def _adam(target: Target, starts: Tensor) -> Tensor:
    at = starts.clone().requires_grad_()
    adam = torch.optim.Adam([at], lr=RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ADAM_STEPS)
    for _ in range(ADAM_STEPS):
        with torch.enable_grad():
            total = target.log_density(at)
            (slope,) = torch.autograd.grad(-total[total.isfinite()].sum(), [at])
        at.grad = slope.nan_to_num(0, 0, 0)
        adam.step()
        decay.step()
    return at.detach()


def _newton(target: Target, at: Tensor) -> Tensor:
    """Steps of Newton by absolute curvatures, halved until the density grows."""
    for _ in range(NEWTON_STEPS):
        gradient, hessian, density = _derivatives(target, at)
        values, vectors = torch.linalg.eigh(hessian)
        along = (vectors.mT @ gradient[..., None])[..., 0] / values.abs().clamp(min=LEAST_CURVATURE)
        move = (vectors @ along[..., None])[..., 0]
        share = torch.ones_like(density)
        better = torch.zeros_like(density, dtype=torch.bool)
        for _ in range(6):
            tried = at + share[..., None] * move
            with torch.no_grad():
                new = target.log_density(tried)
            grown = (new > density) & ~better
            at = torch.where(grown[..., None], tried, at)
            better = better | grown
            share = share / 3
        if not bool(better.any()):
            break
    return at


def _derivatives(target: Target, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients ``[S, N, W]``, Hessians ``[S, N, W, W]`` and values ``[S, N]``: rows do not touch each other."""
    at = at.detach().requires_grad_()
    with torch.enable_grad():
        density = target.log_density(at)
        (gradient,) = torch.autograd.grad(density.sum(), [at], create_graph=True)
        rows = []
        for k in range(at.shape[-1]):
            one = gradient[..., k].sum()
            row = torch.autograd.grad(one, [at], retain_graph=True)[0] if one.requires_grad else torch.zeros_like(at)
            rows.append(row)
    hessian = torch.stack(rows, -2).nan_to_num(0, 0, 0)
    return gradient.detach().nan_to_num(0, 0, 0), (hessian + hessian.mT) / 2, density.detach()


def _distinct(ends: Tensor, scale: Tensor, density: Tensor, mass: Tensor, most: int) -> Modes:
    """Greedily the heaviest end of each row, and all that are near it struck out."""
    left, loc, kept_scale, kept_density, kept_mass = mass.clone(), [], [], [], []
    rows, best = torch.arange(ends.shape[1]), mass.amax(0)
    for _ in range(most):
        which = left.argmax(0)
        here = left[which, rows]
        valid = here > best - WORTH_KEEPING
        if not bool(valid.any()):
            break
        loc.append(ends[which, rows])
        kept_scale.append(scale[which, rows])
        kept_density.append(torch.where(valid, density[which, rows], -torch.inf))
        kept_mass.append(torch.where(valid, here, -torch.inf))
        apart = torch.linalg.solve_triangular(scale[which, rows], (ends - loc[-1])[..., None], upper=False)[..., 0]
        left = torch.where(apart.square().mean(-1).sqrt() < APART, -torch.inf, left)
    return Modes(torch.stack(loc), torch.stack(kept_scale), torch.stack(kept_density), torch.stack(kept_mass))
