"""Inversion by NUTS: one chain from each mode, put together by the masses of the modes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from latentvars.distributions import flat
from latentvars.inference.sampling.nuts import NUTS
from latentvars.latent_space.inversion import Inversion
from latentvars.latent_space.modes import Modes
from latentvars.latent_space.source import Target
from latentvars.program import Program
from latentvars.randomness import derive, generator
from latentvars.rows import Batch, Rows

TUNE = 400


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

    A chain crosses between modes seldom, or never: each row has as many draws of the chain from a mode as the mode has
    mass.

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
    free: Tensor = trace.values["u"]  # [chains, draws, N, W]
    own = generator(seed, 5)
    which = torch.multinomial(found.masses.mT.clamp(min=0), draws, replacement=True, generator=own).mT
    when = torch.rand(draws, target.rows, generator=own).argsort(0)
    picked = free[which, when, torch.arange(target.rows)]
    return replace(found, draws=target.values(picked), method="nuts")
