"""Inversion: the posterior of the latent of given rows, all its modes, by search and importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentvars.errors import SettingError
from latentvars.latent_space.modes import Modes, find_modes
from latentvars.latent_space.source import Target
from latentvars.posterior.smoothing import pareto_smoothed
from latentvars.randomness import derive, generator

FREEDOM = 5.0  # degrees of freedom of the proposals: tails that no normal posterior exceeds
LEAST_SHARE = 0.1  # of the draws that go to all modes alike, whatever their masses seem to be


@dataclass(frozen=True, eq=False)
class Inversion:
    """p(z_n | x_n) of N rows: equally weighted draws, and the modes that they come from.

    Attributes:
        draws: ``[S, N, *shape]``.
        modes: maxima of the posterior density of the latent's real numbers, the heaviest first, ``[R, N, *shape]``; NaN
            where a row has fewer.
        masses: posterior probability of each mode ``[R, N]``; they sum to one.
        log_evidence: log p(x_n) ``[N]``, nats, by importance sampling.
        k_hat: Pareto shape of the importance weights ``[N]``: above .7 they are not to be trusted.
        names: of the rows.
        method: ``"importance"``, ``"svi"`` or ``"nuts"``: where the draws come from. Masses and evidence are always by
            importance, under ``"svi"`` from heavy-tailed copies of its normals too.
        elbo: lower bound of the log evidence by the mixture of the normals that the draws come from ``[N]``, nats;
            None but under ``"svi"``. What is missing is how far they are from the posterior, see :attr:`gap`.
        crossed: share of the draws of the chains of a row that lay at another mode than they began at ``[N]``; None
            but under ``"nuts"``.
    """

    draws: Tensor = field(repr=False)
    modes: Tensor = field(repr=False)
    masses: Tensor
    log_evidence: Tensor
    k_hat: Tensor
    names: tuple = field(repr=False)
    method: str = "importance"
    elbo: Tensor | None = field(default=None, repr=False)
    crossed: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.draws.shape[1]

    @property
    def mean(self) -> Tensor:
        """``[N, *shape]``; between modes where there are several."""
        return self.draws.mean(0)

    @property
    def std(self) -> Tensor:
        return self.draws.std(0)

    @property
    def mode_count(self) -> Tensor:
        """Modes with some mass ``[N]``."""
        return (self.masses > 1e-3).sum(0)

    @property
    def gap(self) -> Tensor | None:
        """KL(normals ‖ posterior) ``[N]``, nats, up to noise of sampling: what the draws of ``"svi"`` are worth, where
        ``k_hat`` says that the evidence can be trusted; None of other methods."""
        return None if self.elbo is None else self.log_evidence - self.elbo

    def __str__(self) -> str:
        worst = float(self.k_hat.max())
        found = f"{len(self)} rows inverted, {int(self.mode_count.min())} to {int(self.mode_count.max())} modes each"
        said = f"{found} ({self.method}); worst k-hat {worst:.2f}" + (" (above .7: not to be trusted)" * (worst > 0.7))
        if self.gap is not None:
            return f"{said}; normals up to {float(self.gap.max()):.2f} nats from the posterior"
        if self.crossed is None or not bool((self.crossed > 0).any()):
            return said
        return f"{said}; chains of {int((self.crossed > 0).sum())} rows crossed between modes, and were weighed by them"


@dataclass(frozen=True)
class Weighed:
    """Draws of a row's proposal with their weights, on real numbers.

    Attributes:
        free: ``[S, N, W]``.
        log_weights: normalised ``[S, N]``.
        which: probability that a draw belongs to each mode ``[R, S, N]``.
        log_evidence: ``[N]``.
        k_hat: ``[N]``.
    """

    free: Tensor
    log_weights: Tensor
    which: Tensor
    log_evidence: Tensor
    k_hat: Tensor


def search(target: Target, restarts: int, most: int, seed: int) -> Modes:
    """The modes of every row, in double precision; errors as :func:`find_modes`."""
    for name, value in (("restarts", restarts), ("modes", most)):
        if not isinstance(value, int) or value < 1:
            raise SettingError(f"{name}={value}", "at least one", f"write {name}=16")
    starts = target.starts(restarts, derive(seed, 1)).to(torch.float64)
    return find_modes(target, starts, most)


def inverted(target: Target, modes: Modes, draws: int, seed: int) -> Inversion:
    """Importance sampling from heavy-tailed copies of the normals at the modes, then draws by their weights.

    Args:
        target: log p(x, u).
        modes: of its rows.
        draws: S; four times as many are proposed.
        seed: of the draws.
    """
    if not isinstance(draws, int) or draws < 2:
        raise SettingError(f"draws={draws}", "at least two", "write draws=1000")
    weighed = weigh(target, modes, 4 * draws, derive(seed, 2))
    picked = resampled(weighed.log_weights, draws, derive(seed, 3))
    free = weighed.free.gather(0, picked[..., None].expand(-1, -1, weighed.free.shape[-1]))
    return Inversion(
        target.values(free),
        mode_values(target, modes),
        masses(weighed),
        weighed.log_evidence,
        weighed.k_hat,
        target.names,
    )


def masses(weighed: Weighed) -> Tensor:
    """Posterior probability of each mode ``[R, N]``."""
    return (weighed.which * weighed.log_weights.exp()).sum(1)


def mode_values(target: Target, modes: Modes) -> Tensor:
    """The modes as values ``[R, N, *shape]``, NaN where there is none."""
    found = target.values(modes.loc)
    there = modes.log_mass.isfinite().reshape(*modes.log_mass.shape, *(1,) * (found.dim() - 2))
    return torch.where(there, found, torch.nan)


def weigh(target: Target, modes: Modes, size: int, seed: int) -> Weighed:
    """Draws of a mixture of Student laws at the modes, weighed by p / q, Pareto-smoothed."""
    shares = modes.log_mass.softmax(0)
    there = modes.log_mass.isfinite().to(shares.dtype)
    shares = (1 - LEAST_SHARE) * shares + LEAST_SHARE * there / there.sum(0)
    free = proposed(modes, shares, size, seed)
    log_each = log_laws(modes, free) + shares.log()[:, None]
    log_q = torch.logsumexp(log_each, 0)
    with torch.no_grad():
        log_p = target.log_density(free).nan_to_num(-1e30, posinf=-1e30, neginf=-1e30)
    smoothed = pareto_smoothed(log_p - log_q)
    return Weighed(free, smoothed.log_weights, (log_each - log_q).exp(), smoothed.log_mean, smoothed.k_hat)


def proposed(modes: Modes, shares: Tensor, size: int, seed: int, *, heavy: bool = True) -> Tensor:
    """``[size, N, W]``, modes in proportion to their shares (systematically, so that none is left out by chance)."""
    own = generator(seed)
    count, rows, width = modes.loc.shape
    at = (
        torch.arange(size, dtype=shares.dtype)[:, None] + torch.rand(1, rows, generator=own, dtype=shares.dtype)
    ) / size
    which = torch.searchsorted(shares.cumsum(0).mT.contiguous(), at.mT.contiguous()).mT.clamp(max=count - 1)
    place = torch.arange(rows).expand(size, rows)
    normal = torch.randn(size, rows, width, generator=own, dtype=torch.float64)
    moved = (modes.scale[which, place] @ normal[..., None])[..., 0]
    if heavy:
        chi = torch.randn(size, rows, int(FREEDOM), generator=own, dtype=torch.float64).square().sum(-1) / FREEDOM
        moved = moved / chi.sqrt()[..., None]
    return modes.loc[which, place] + moved


def log_laws(modes: Modes, free: Tensor, *, heavy: bool = True) -> Tensor:
    """Log densities ``[R, S, N]`` of draws ``[S, N, W]`` under the Student law, or the normal, of each mode."""
    width, df = free.shape[-1], torch.tensor(FREEDOM, dtype=free.dtype)
    found = []
    for loc, scale in zip(modes.loc, modes.scale, strict=True):
        apart = torch.linalg.solve_triangular(scale, (free - loc)[..., None], upper=False)[..., 0].square().sum(-1)
        size = scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if heavy:
            constant = torch.lgamma((df + width) / 2) - torch.lgamma(df / 2) - 0.5 * width * torch.log(df * torch.pi)
            found.append(constant - size - 0.5 * (df + width) * torch.log1p(apart / df))
        else:
            found.append(-0.5 * apart - size - 0.5 * width * math.log(2 * math.pi))
    return torch.stack(found)


def resampled(log_weights: Tensor, draws: int, seed: int) -> Tensor:
    """Positions ``[draws, N]`` of draws in proportion to their weights, in random order."""
    own = generator(seed)
    rows = log_weights.shape[1]
    start = torch.rand(rows, 1, generator=own, dtype=log_weights.dtype)
    at = (torch.arange(draws, dtype=log_weights.dtype) + start) / draws
    upto = log_weights.exp().cumsum(0).mT.contiguous()
    found = torch.searchsorted(upto / upto[:, -1:], at).clamp(max=len(log_weights) - 1)
    mixed = torch.rand(rows, draws, generator=own).argsort(1)
    return found.gather(1, mixed).mT
