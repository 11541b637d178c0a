"""Pathfinder: normals along paths towards the maximum, the best of each path, and starts drawn from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latentvars.capture import Potential, Way
from latentvars.errors import NumericalError, SettingError
from latentvars.inference.density.climbing import WRONG, climbed
from latentvars.inference.density.inverse_hessian import Spread, spreads
from latentvars.inference.density.normals import LOG_TWO_PI, Normals
from latentvars.inference.running.algorithm import OneGo
from latentvars.inference.running.settings import check_at_least
from latentvars.inference.running.stopping import Status
from latentvars.inference.sampling.nuts import check_drawable
from latentvars.posterior.smoothing import pareto_smoothed
from latentvars.program import Program
from latentvars.randomness import derive, generator
from latentvars.rows import Rows

HALVINGS = 10
FEWEST = 25  # weights that a tail is fitted to


@dataclass(frozen=True)
class Pathfinder(OneGo):
    """Normal approximations along L-BFGS paths (Zhang, Carpenter, Gelman & Vehtari 2022, algorithms 1 and 2).

    At each point u of a path there is a normal with the inverse Hessian H that L-BFGS has gathered so far, centred at
    u + H ∇ log p(u); of each path the one with the highest ELBO is kept. All on the unconstrained scale, discrete
    locals summed out.

    As ``start=lv.Pathfinder()`` it gives starting values: draws of the normals of all paths, resampled by their
    importance (Pareto-smoothed), each chain of ``lv.NUTS`` another one: points where the posterior has its mass, not
    its maximum. As an algorithm it gives the mixture of these normals, each weighted by its estimate of the evidence:
    ``fit.globals`` draws from it, with densities.

    Attributes:
        paths: number of them; each begins elsewhere.
        draws: of the normal of each path, which are weighed.
        elbo_draws: of each normal on the way, by which the best is told.
        memory: pairs of steps and gradients in the inverse Hessian.
        steps: most steps of a path.
        spread: how far paths begin from the start, on the unconstrained scale, in each coordinate.
    """

    paths: int = 4
    draws: int = 200
    elbo_draws: int = 10
    memory: int = 6
    steps: int = 1_000
    spread: float = 1.0

    def __post_init__(self) -> None:
        for name in ("paths", "draws", "elbo_draws", "memory", "steps"):
            check_at_least(name, getattr(self, name), 1)
        if not self.spread > 0:
            raise SettingError(f"spread={self.spread}", "a distance above 0", "write Pathfinder(spread=1.0)")

    @property
    def starts(self) -> int:
        return self.paths

    def again(self) -> Pathfinder:
        """How further starts of a fit begin."""
        return self

    def sample(
        self, program: Program, rows: Rows, starts: Sequence[Tensor], seed: int, progress: bool | None
    ) -> tuple[Any, Status]:
        """The mixture of the normals of all paths.

        Raises:
            SupportError: as :func:`latentvars.inference.sampling.nuts.check_drawable`.
            NumericalError: no path leads anywhere.
        """
        potential, ends = self._ends(program, rows, starts, seed)
        shares = torch.stack([smoothed(end.log_ratios)[0].logsumexp(0) for end in ends])
        found = Normals(
            program.space,
            torch.stack([end.loc for end in ends]).to(program.dtype),
            torch.stack([end.spread.dense for end in ends]).to(program.dtype),
            shares.log_softmax(0).to(program.dtype),
            math.nan,
        )
        free = found.free(self.paths * self.draws, derive(seed, 52))
        weights, pareto = smoothed(heights(potential, free) - found.log_density(free).double())
        evidence = float(weights.logsumexp(0)) - math.log(len(free))
        said = f"{len(ends)} of {self.paths} paths, Pareto k {pareto:.2f}" + (
            " (above 0.7: the draws do not stand for the posterior)" if pareto > 0.7 else ""
        )
        whole = Normals(found.space, found.locs, found.factors, found.log_weights, evidence, (said,))
        return whole, Status.CONVERGED

    def points(self, program: Program, rows: Rows, begins: Sequence[Tensor], count: int, seed: int) -> list[Tensor]:
        """Unconstrained starting values ``[P]``, ``count`` in number: draws of all paths, by their importance, each
        taken once where there are enough. Errors as :meth:`sample`."""
        _, ends = self._ends(program, rows, begins, seed)
        pool = torch.cat([end.draws for end in ends])
        weights, _ = smoothed(torch.cat([end.log_ratios for end in ends]))
        noise = torch.rand(len(pool), dtype=weights.dtype, generator=generator(seed, 53))
        order = (weights - (-noise.log()).log()).argsort(descending=True)  # Gumbel noise: in turn, in proportion
        return [pool[order[k % len(order)]].to(program.dtype) for k in range(count)]

    def _ends(self, program: Program, rows: Rows, starts: Sequence[Tensor], seed: int) -> tuple[Potential, list[_End]]:
        """The best normal of each path that leads somewhere."""
        check_drawable(program, rows, "Pathfinder")
        potential = Potential.of(program, rows.batch(dtype=program.dtype), fastest=Way.GRAPH)
        found, failure = [], None
        for number, start in enumerate(starts):
            try:
                found.append(self._end(potential, start.double(), generator(seed, 51, number)))
            except NumericalError as error:
                failure = error
        if not found:
            assert failure is not None
            raise failure
        return potential, found

    def _end(self, potential: Potential, start: Tensor, noise: torch.Generator) -> _End:
        """The best normal of the path from somewhere about ``start``."""
        path = climbed(potential, _begin(potential, start, self.spread, noise), self.steps, memory=self.memory)
        best: _End | None = None
        for point, gradient, spread in zip(
            path.points[1:], path.gradients[1:], spreads(path, self.memory), strict=True
        ):
            if spread is None:
                continue
            normal = _End(point - spread.covariance_times(gradient), spread)
            _, log_ratios = normal.weighed(potential, self.elbo_draws, noise)
            elbo = float(log_ratios.mean())
            if math.isfinite(elbo) and (best is None or elbo > best.elbo):
                best = _End(normal.loc, spread, elbo)
        if best is None:
            raise NumericalError(
                given=f"a path of {len(path.points) - 1} steps without a normal whose draws have a density",
                needed="a density that falls off about its maximum",
                remedy="start elsewhere: start=, or put priors on the globals",
            )
        draws, log_ratios = best.weighed(potential, self.draws, noise)
        return _End(best.loc, best.spread, best.elbo, draws, log_ratios)


@dataclass(frozen=True)
class _End:
    """A normal on a path.

    Attributes:
        loc: ``[P]``.
        spread: of the normal.
        elbo: estimated, nats.
        draws: ``[S, P]``.
        log_ratios: log p − log q of the draws ``[S]``, nats.
    """

    loc: Tensor
    spread: Spread
    elbo: float = -math.inf
    draws: Tensor = field(default_factory=lambda: torch.empty(0))
    log_ratios: Tensor = field(default_factory=lambda: torch.empty(0))

    def weighed(self, potential: Potential, size: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws and their log ratios."""
        noise = torch.randn(size, len(self.loc), dtype=self.loc.dtype, generator=source)
        draws = self.loc + self.spread.times(noise)
        log_q = -0.5 * (noise.square() + LOG_TWO_PI).sum(1) - self.spread.log_det
        return draws, heights(potential, draws) - log_q


def heights(potential: Potential, free: Tensor) -> Tensor:
    """Log density at each of ``[S, P]``, nats, −inf where there is none."""
    found = []
    for at in free.to(potential.dtype):
        try:
            value = -float(potential(at)[0])
        except WRONG:
            value = -math.inf
        found.append(value if math.isfinite(value) else -math.inf)
    return torch.tensor(found, dtype=torch.float64)


def smoothed(log_ratios: Tensor) -> tuple[Tensor, float]:
    """Pareto-smoothed log importance weights ``[S]``, nats, of the same total scale, and the Pareto k (Vehtari et al.
    2024); as they are where there are too few for a tail."""
    finite = log_ratios.isfinite()
    if int(finite.sum()) < FEWEST:
        return log_ratios, math.inf
    found = pareto_smoothed(log_ratios[finite])
    whole = torch.full_like(log_ratios, -math.inf)
    whole[finite] = (found.log_weights + found.log_mean + math.log(int(finite.sum()))).to(whole)
    return whole, float(found.k_hat)


def _begin(potential: Potential, start: Tensor, spread: float, noise: torch.Generator) -> Tensor:
    """A point about the start at which there is a density."""
    move = spread * (2 * torch.rand(start.shape, dtype=start.dtype, generator=noise) - 1)
    for halving in range(HALVINGS):
        there = start + 0.5**halving * move
        if bool(heights(potential, there[None]).isfinite().all()):
            return there
    return start
