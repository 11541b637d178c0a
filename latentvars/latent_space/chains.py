"""Inversion by NUTS: one chain from each mode, put together by the masses of the modes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from latentvars.distributions import flat
from latentvars.inference.sampling.nuts import NUTS
from latentvars.latent_space.inversion import Inversion, log_laws, resampled, weigh
from latentvars.latent_space.modes import Modes
from latentvars.latent_space.source import Target
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows

TUNE = 400
MASS_DRAWS = 4_000
LOST = 0.02  # of a row's mass


@dataclass(frozen=True, eq=False)
class Rest:
    """The model whose globals are the real numbers u ``[N, W]`` of all rows, with log p(x_n, u_n) as its score."""

    target: Target = field(repr=False)

    def model(self, rows: Batch) -> None:
        """Sites "u" and the score of each row."""
        target = self.target.picked(rows.index)
        u = pyro.sample("u", flat((self.target.rows, self.target.size)))
        with poutine.block():  # the model that decodes runs inside
            score = target.log_density(u[rows.index][None])[0]
        with rows.plate():
            law: Any = dist.Unit(score.to(u.dtype))
            pyro.sample("x", law, obs=u.new_empty(0))


def by_chains(target: Target, modes: Modes, found: Inversion, seed: int) -> Inversion:
    """The inversion with draws of chains in the place of those by importance.

    A chain crosses between modes seldom, often, or once for ever. All chains of a row are therefore put together, and
    their draws near a mode share the mass that it has by importance: right whether a chain stays or crosses.

    Args:
        target: log p(x, u).
        modes: where chains begin.
        found: by importance.
        seed: of the chains.
    """
    rows = Rows(torch.arange(target.rows, dtype=torch.float64))
    program = Program.of(Rest(target), rows, torch.float64)
    there = modes.log_mass.isfinite()
    starts = [torch.where(there[r][:, None], modes.loc[r], modes.loc[0]).flatten() for r in range(len(modes.loc))]
    draws = len(found.draws)
    sampler = NUTS(draws=draws, tune=TUNE, chains=len(starts), compile=False)
    trace, _ = sampler.sample(program, rows, starts, derive(seed, 4), False)
    chains: Tensor = trace.values["u"]  # [chains, draws, N, W]
    free, crossed = together(target, modes, chains, draws, derive(seed, 5))
    return replace(found, draws=target.values(free), method="nuts", crossed=crossed)


def together(target: Target, modes: Modes, chains: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws ``[S, N, W]`` of chains ``[C, S, N, W]``, and the share of each row's that had crossed ``[N]``.

    Args:
        target: log p(x, u).
        modes: from which the chains began, C of them.
        chains: their draws.
        draws: S.
        seed: of the masses, and of which draws are taken.
    """
    weighed = weigh(target, modes, MASS_DRAWS, derive(seed, 1))
    count = len(modes.loc)
    share = _counted(nearest(modes, weighed.free), count, weighed.log_weights.exp())  # [R, N]
    where = nearest(modes, chains.flatten(0, 1))  # [C S, N]
    began = torch.arange(count).repeat_interleave(chains.shape[1])[:, None]
    there = modes.log_mass.isfinite()
    began = torch.where(there.repeat_interleave(chains.shape[1], 0), began, 0)
    visited = _counted(where, count, torch.ones_like(where, dtype=share.dtype))
    lost = (share * (visited == 0)).sum(0)
    if bool((lost > LOST).any()):
        warnings.warn(
            f"the chains of {int((lost > LOST).sum())} rows have left modes of mass up to {float(lost.max()):.2f}, of "
            'which there are no draws. needed: chains that stay or come back. do: method="importance"',
            stacklevel=5,
        )
    each = (share / visited.clamp(min=1)).gather(0, where)
    picked = resampled((each / each.sum(0)).log(), draws, derive(seed, 2))
    free = chains.flatten(0, 1).gather(0, picked[..., None].expand(-1, -1, chains.shape[-1]))
    return free, (where != began).to(torch.float64).mean(0)


def nearest(modes: Modes, free: Tensor) -> Tensor:
    """The mode under whose law and mass a draw is most probable ``[S, N]``, of draws ``[S, N, W]``."""
    return (log_laws(modes, free) + modes.log_mass[:, None]).argmax(0)


def _counted(which: Tensor, count: int, weights: Tensor) -> Tensor:
    """Sums ``[R, N]`` of weights ``[S, N]`` by mode."""
    return torch.zeros(count, which.shape[1], dtype=weights.dtype).scatter_add_(0, which, weights)
