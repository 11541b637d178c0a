"""The No-U-Turn sampler over the globals, discrete locals summed out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentvars.capture import Potential, Way
from latentvars.errors import NumericalError, SettingError, SupportError
from latentvars.inference.running.algorithm import OneGo
from latentvars.inference.running.settings import check_at_least
from latentvars.inference.running.stopping import Status
from latentvars.inference.sampling.chains import Chains, Settings, Trace, library
from latentvars.inference.sampling.draws import DIVERGING, Draws
from latentvars.inference.sampling.local_draws import describe, drawn_locals, joint, prior_locals
from latentvars.program import Program, model_parameters
from latentvars.randomness import derive, generator
from latentvars.rows import Rows

LEAPS = 16  # gradients of a draw, as a rule
SPREAD = 0.1  # how far chains begin from their starts, on the unconstrained scale


@dataclass(frozen=True)
class NUTS(OneGo):
    """Draws from the posterior of the globals by Hamiltonian Monte Carlo without U-turns (Hoffman & Gelman 2014).

    The density is prior(θ) Π p(xₙ | θ)^{wₙ}, the discrete locals summed out exactly; continuous locals are drawn
    together with the globals, from prior(θ) Π p(xₙ, zₙ | θ), and need no guide. Its steps are adapted to draws and
    gradients together (nutpie). Given each draw of the globals the locals have an exact posterior:
    ``fit.draw_latents()``.

    Attributes:
        draws: of each chain, after tuning.
        tune: steps of each chain in which step size and metric are found; they are thrown away.
        chains: independent chains; at least two are needed to see whether they agree.
        target_accept: mean acceptance that the step size is tuned to; larger values take smaller steps.
        max_tree_depth: a draw takes at most two to this power of steps.
        compile: compile the density. That takes up to a minute once, is kept on disk, and makes a gradient of a small
            model several times faster. None: where it is expected to pay, as in long runs of models of many operations.
    """

    draws: int = 1_000
    tune: int = 1_000
    chains: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 10
    compile: bool | None = None

    def __post_init__(self) -> None:
        for name in ("draws", "tune", "chains", "max_tree_depth"):
            check_at_least(name, getattr(self, name), 1)
        if not 0 < self.target_accept < 1:
            raise SettingError(
                f"target_accept={self.target_accept}", "a number between 0 and 1", "write target_accept=0.9"
            )

    @property
    def starts(self) -> int:
        return self.chains

    def sample(
        self, program: Program, rows: Rows, starts: Sequence[Tensor], seed: int, progress: bool | None
    ) -> tuple[Any, Status]:
        """Draws, and whether all chains came to their end (``DRAWN``).

        Args:
            program: the model.
            rows: all data, in memory.
            starts: where each chain begins, unconstrained ``[size]``.
            seed: of the run.
            progress: whether to show a bar; None: where standard error is a terminal.

        Raises:
            ImportError: nutpie is not installed.
            NumericalError: a chain that begins where the density is not finite or flat, or that breaks off.
        """
        library()
        if program.roles.continuous:
            given = [program.space.constrain(start)[0] for start in starts]
            whole = joint(program, rows, given[0])
            batch = rows.batch(dtype=program.dtype)
            drawn = [prior_locals(program, batch, one, derive(seed, 32, k)) for k, one in enumerate(given)]
            starts = [whole.space.unconstrain({**one, **own}) for one, own in zip(given, drawn, strict=True)]
        else:
            whole = program
        potential = Potential.of(
            whole,
            rows.batch(dtype=program.dtype),
            fastest=Way.GRAPH if self.compile is False else Way.COMPILED,
            gradients=None if self.compile else LEAPS * self.chains * (self.draws + self.tune),
        )
        noise = generator(seed, 30)
        begins = [start + SPREAD * (2 * torch.rand(start.shape, generator=noise) - 1) for start in starts]
        for number, begin in enumerate(begins):
            _check_begin(whole, potential, begin, number)
        settings = Settings(self.draws, self.tune, self.target_accept, self.max_tree_depth)
        trace = Chains(potential, begins, settings).run(derive(seed, 31), progress)
        own, rest = trace.free.to(program.dtype).split([program.space.size, whole.space.size - program.space.size], -1)
        locals_ = whole.space.subset(program.roles.continuous).constrain(rest)[0] if rest.shape[-1] else {}
        draws = Draws(program.space, own.contiguous(), trace.stats, (self._note(potential, trace),), locals_)
        if locals_:
            describe(program.model, draws.local_draws(draws.size))
        _warn(draws)
        return draws, Status.DRAWN if trace.complete else Status.INTERRUPTED

    def _note(self, potential: Potential, trace: Trace) -> str:
        chains, each = trace.free.shape[:2]
        return (
            f"{chains} chains of {each} draws after {self.tune} steps of tuning, {trace.seconds:.2f} s of sampling, "
            f"{trace.evaluations} gradients by {potential.way.value}"
        )


def check_drawable(program: Program, rows: Rows, name: str = "NUTS") -> None:
    """Whether there are globals to draw, for an algorithm of this name.

    Raises:
        SupportError: no continuous global; continuous locals that are not drawn, network weights or discrete globals;
            rows in files.
    """
    roles = program.roles
    weights = _weights(program, rows)
    if roles.choices:
        problem, remedy = (
            f"the discrete globals {list(roles.choices.names)}",
            "fit it with lv.EM(), which sums them out",
        )
    elif roles.continuous and drawn_locals(program.model) is None:
        problem = f"the continuous locals {list(roles.continuous)}"
        remedy = "integrate them out in the model, or fit it with lv.SVI()"
    elif weights:
        problem, remedy = f"network weights ({weights[0]}, ...)", "fit it with lv.SVI()"
    elif not program.space.size and not roles.continuous:
        problem = "no continuous globals"
        remedy = "read its exact posterior: lv.from_point(model, data, {}).latent(); or fit it with lv.EM()"
    elif rows.streamed:
        problem, remedy = "rows that stay in their files", "read them with rows.in_memory(), or fit it with lv.SVI()"
    else:
        return
    raise SupportError(given=f"{name} on a model with {problem}", needed="continuous globals alone", remedy=remedy)


def _weights(program: Program, rows: Rows) -> list[str]:
    """Names of the network weights that the density depends on; those of a guide that is not used are none."""
    named = model_parameters(program.model)
    if not named or drawn_locals(program.model) is None:
        return list(named)
    values = program.prior_draw(0)
    batch = rows.batch(torch.arange(min(len(rows), 2)), dtype=program.dtype)
    with torch.enable_grad():
        score = program.score({name: values[name] for name in program.space.names}, batch)
        total = score.prior + score.rows.sum()
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True) if total.requires_grad else ()
    return [name for name, slope in zip(named, found, strict=False) if slope is not None]


def _check_begin(program: Program, potential: Potential, begin: Tensor, number: int) -> None:
    value, gradient = potential(begin)
    if bool(value.isfinite()) and bool(gradient.isfinite().all()):
        flat = [name for name, part in program.space.parts(gradient).items() if bool((part == 0).any())]
        if not flat:
            return
        raise NumericalError(
            given=f"chain {number} begins where the density does not change with {flat}",
            needed="a density that depends on every global",
            remedy="leave out globals that the density does not use, or start elsewhere: start=",
        )
    values = {name: value.flatten()[:3].tolist() for name, value in program.space.constrain(begin)[0].items()}
    raise NumericalError(
        given=f"chain {number} begins where the log density is {-float(value):.6g}, or has no gradient: {values}",
        needed="a finite density with finite derivatives",
        remedy="give start=, as the point of a fit by lv.EM(), away from the edges of supports",
    )


def _warn(draws: Draws) -> None:
    divergent = float(draws.stats[DIVERGING].double().mean())
    if divergent > 0:
        warnings.warn(
            f"{divergent:.1%} of the draws diverged: parts of the posterior may have been missed. Raise "
            "target_accept=, or write the model with fewer dependencies between scales and what they scale",
            stacklevel=5,
        )
