"""Inversion by SVI: a normal of full covariance for each mode of each row, and what they cover together."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentvars.latent_space.inversion import Inversion, log_laws, masses, proposed, weigh
from latentvars.latent_space.modes import Modes
from latentvars.latent_space.source import Target
from latentvars.randomness import derive, generator

STEPS = 400
PAIRS = 8  # of antithetic draws a step
RATE = 0.05
AVERAGED = 0.25  # of the steps, the last ones, whose parameters are averaged


def by_svi(target: Target, modes: Modes, found: Inversion, seed: int) -> Inversion:
    """The inversion with draws of normals fitted to the posterior in the place of those by importance.

    Each mode of each row begins a normal of its own, which maximises its ELBO. Importance sampling from heavy-tailed
    copies of them all, and of Laplace's, which are wider where the posterior has a long side, tells the masses that
    they are given, and the evidence beside which the ELBO of the mixture stands.

    Args:
        target: log p(x, u).
        modes: where the normals begin.
        found: by importance.
        seed: of the draws.
    """
    size = len(found.draws)
    fitted = normals(target, modes, derive(seed, 6))
    weighed = weigh(target, _both(modes, fitted), 4 * size, derive(seed, 7))
    shares = masses(weighed).reshape(2, *fitted.log_mass.shape).sum(0)
    free = proposed(fitted, shares, size, derive(seed, 8), heavy=False)
    with torch.no_grad():
        log_q = torch.logsumexp(log_laws(fitted, free, heavy=False) + shares.log()[:, None], 0)
        elbo = (target.log_density(free) - log_q).mean(0)
    return replace(
        found,
        draws=target.values(free[torch.randperm(size, generator=generator(seed, 9))]),
        masses=shares,
        log_evidence=weighed.log_evidence,
        k_hat=weighed.k_hat,
        elbo=elbo,
        method="svi",
    )


def _both(first: Modes, second: Modes) -> Modes:
    parts = ((getattr(one, name) for one in (first, second)) for name in ("loc", "scale", "log_density", "log_mass"))
    return Modes(*map(torch.cat, map(tuple, parts)))


def normals(target: Target, modes: Modes, seed: int) -> Modes:
    """Normals of full covariance, from Laplace's at the modes, by stochastic gradients of their ELBOs.

    u = m + A(a + C ε), m and A of the mode, so that every row is on one scale. The gradient goes through u alone
    (Roeder, Wu & Duvenaud 2017), whose noise vanishes where the normal is the posterior.
    """
    count, rows, width = modes.loc.shape
    shift = torch.zeros_like(modes.loc).requires_grad_()
    factor = torch.zeros_like(modes.scale).requires_grad_()  # log of the diagonal, and below it
    adam = torch.optim.Adam([shift, factor], lr=RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    own, kept = generator(seed), []
    for step in range(STEPS):
        half = torch.randn(PAIRS, count, rows, width, generator=own, dtype=torch.float64)
        noise = torch.cat([half, -half])
        with torch.enable_grad():
            total = _elbo(target, modes, shift, factor, noise)
            slopes = torch.autograd.grad(-total[total.isfinite()].sum() / len(noise), [shift, factor])
        shift.grad, factor.grad = (slope.nan_to_num(0, 0, 0) for slope in slopes)
        adam.step()
        decay.step()
        if step >= (1 - AVERAGED) * STEPS:
            kept.append((shift.detach().clone(), factor.detach().clone()))
    shift, factor = (torch.stack(part).mean(0) for part in zip(*kept, strict=True))
    lower = _lower(factor)
    loc = modes.loc + (modes.scale @ shift[..., None])[..., 0]
    half = torch.randn(64, count, rows, width, generator=own, dtype=torch.float64)
    with torch.no_grad():
        values = _elbo(target, modes, shift, factor, torch.cat([half, -half])).mean(0)
    there = modes.log_mass.isfinite() & values.isfinite()
    return Modes(loc, modes.scale @ lower, modes.log_density, torch.where(there, values, -torch.inf))


def _lower(factor: Tensor) -> Tensor:
    return torch.tril(factor, -1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).exp())


def _elbo(target: Target, modes: Modes, shift: Tensor, factor: Tensor, noise: Tensor) -> Tensor:
    """log p(x, u) − log q(u) at each draw ``[S, R, N]``; the parameters of log q are held."""
    lower = _lower(factor)
    inner = shift + (lower @ noise[..., None])[..., 0]
    u = modes.loc + (modes.scale @ inner[..., None])[..., 0]
    score = target.log_density(u.flatten(0, 1)).reshape(u.shape[:-1])
    back = torch.linalg.solve_triangular(lower.detach(), (inner - shift.detach())[..., None], upper=False)[..., 0]
    size = noise.shape[-1]
    log_q = -0.5 * back.square().sum(-1) - 0.5 * size * torch.log(torch.tensor(2 * torch.pi, dtype=u.dtype))
    log_scale = (modes.scale @ lower.detach()).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return score - log_q + log_scale
