"""Stochastic variational inference, maximum likelihood by gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from latentvars.errors import NumericalError, SettingError, SupportError
from latentvars.inference.guides.guides import Delta, GlobalGuide, Guide, MeanField
from latentvars.inference.guides.posteriors import PointMass, Variational
from latentvars.inference.running.algorithm import OneByOne, Problem, Screened
from latentvars.inference.running.settings import check_at_least
from latentvars.inference.running.stopping import Plateau, Status, StopRule
from latentvars.inference.starting.values import check_interior, start_seed
from latentvars.inference.svi.fused import fuse, stepped
from latentvars.inference.svi.recorded import Capture, Recorded
from latentvars.inference.svi.screening import ShortRuns, screen
from latentvars.inference.svi.step import Step
from latentvars.program import Bound, GlobalSpace, Program, model_parameters
from latentvars.randomness import derive
from latentvars.rows import Batch

FULL_BATCH_ROWS = 1_024
BATCH_ROWS = 256
LAST_PASSES = 50
SHORT_RUN = 500

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Schedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 0.01 (Kingma & Ba 2015), the default."""
    return torch.optim.Adam(parameters, lr=0.01)


@dataclass
class SVIState:
    """Everything that training changes: the guide, the networks (in the program's model), the optimiser."""

    program: Program
    guide: GlobalGuide
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer | None
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    seed: int
    rows: int
    updates_per_pass: int
    shared: bool = False
    updates: int = 0
    recorded: Recorded = field(default_factory=Recorded)


@dataclass(frozen=True)
class Gradient:
    """What a batch contributes: objective and gradient, not yet scaled to all rows.

    Attributes:
        objective: Σ wₙ rows[n] + (n/N)(log prior − log q) over the batch, nats.
        gradients: with respect to each parameter; None where it has no part in the objective.
        rows: number of rows, n.
        finite: whether all gradients are known to be finite.
        per_row: whether the gradients are divided by n, as those of an update that is one batch.
    """

    objective: float
    gradients: tuple[Tensor | None, ...]
    rows: int
    finite: bool = False
    per_row: bool = False

    def __add__(self, other: Gradient) -> Gradient:
        rows = self.rows + other.rows
        shares = (self.rows / rows, other.rows / rows) if self.per_row else (1.0, 1.0)
        pairs = zip(self.gradients, other.gradients, strict=True)
        gradients = tuple(_combined(pair, shares) for pair in pairs)
        return Gradient(self.objective + other.objective, gradients, rows, per_row=self.per_row)


def _combined(pair: Sequence[Tensor | None], shares: Sequence[float]) -> Tensor | None:
    both = zip(pair, shares, strict=True)
    parts = [part if share == 1 else part * share for part, share in both if part is not None]
    return sum(parts[1:], parts[0]) if parts else None


@dataclass(frozen=True)
class SVI:
    """Maximise E_q[prior + (N/B) Σ wₙ rows[n]] − E_q[log q(globals)] (Hoffman et al. 2013; Kingma & Welling 2014).

    Discrete locals are summed out exactly, continuous ones are drawn by the model's guide, globals by ``guide``;
    all draws are reparameterised. The optimiser sees the gradient of the objective *per row*.

    Attributes:
        passes: most passes over the data.
        optimizer: a torch factory, parameters → optimiser.
        schedule: a torch factory, optimiser → learning-rate schedule, stepped after each update.
        guide: q(globals): ``MeanField()``, ``FullRank()``, ``LowRank(rank)``, ``Flow()``, ``Delta()`` or
            ``Custom(guide)``.
        batch_size: rows per batch; None: all rows up to 1,024, else 256.
        batches_per_step: batches accumulated for one update.
        memory: bytes that the work on a batch may take: a step is made of several batches where its rows take more, by
            a measurement before the first pass. None: no limit, and 256 MB for rows that stay in files.
        particles: draws per row and update.
        importance: the importance-weighted bound of ``particles`` draws (IWAE) instead of the ELBO.
        kl_weight: multiplies KL(q ‖ p) of the continuous locals (β-VAE).
        kl_warmup: passes over which that weight grows linearly from 0.
        clip: largest norm of the gradient per row; None: no limit.
        stop: when it has converged.
        restarts: number of starts of the globals; the best end is the fit.
        capture: when steps are recorded as a graph, which runs faster; None: never. It does not change results.
        compile: translate recorded steps to machine code, which takes a minute the first time and is kept on disk:
            for long runs. Results change by rounding. Needs a C++ compiler; a warning says where there is none.
    """

    passes: int = 1_000
    optimizer: Optimizer = adam
    schedule: Schedule | None = None
    guide: Guide = field(default_factory=MeanField)
    batch_size: int | None = None
    batches_per_step: int = 1
    particles: int = 1
    importance: bool = False
    kl_weight: float = 1.0
    kl_warmup: int = 0
    clip: float | None = None
    stop: StopRule = field(default_factory=Plateau)
    restarts: int = 1
    capture: Capture | None = field(default_factory=Capture)
    compile: bool = False
    memory: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("passes", 0),
            ("restarts", 1),
            ("batches_per_step", 1),
            ("particles", 1),
            ("kl_warmup", 0),
        ):
            check_at_least(name, getattr(self, name), least)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1)
        if self.memory is not None:
            check_at_least("memory", self.memory, 1)
        check_optimizer(self.optimizer)
        if self.importance and self.particles < 2:
            raise SettingError("importance=True with one particle", "several draws", "write SVI(particles=10)")
        check_clip(self.clip)
        if not hasattr(self.guide, "build"):
            raise SettingError(
                given=f"guide={self.guide!r}",
                needed="a guide for the globals, as lv.FullRank()",
                remedy='correct it; a guide for continuous locals is asked for by lv.fit(..., guide="auto")',
            )
        if self.compile and self.capture is None:
            raise SettingError("compile=True with capture=None", "recorded steps to compile", "leave capture= out")
        if self.kl_weight < 0:
            raise SettingError(f"kl_weight={self.kl_weight}", "a weight of at least 0", "write SVI(kl_weight=1.0)")

    def in_batches(self, most: int, wanted: int) -> SVI:
        """The same with at most ``most`` rows at a time in the place of ``wanted``."""
        parts = math.ceil(wanted / most)
        return replace(self, batch_size=math.ceil(wanted / parts), batches_per_step=self.batches_per_step * parts)

    def rows_per_batch(self, rows: Sized) -> int | None:
        if self.batch_size is not None:
            return self.batch_size
        return None if len(rows) <= FULL_BATCH_ROWS else BATCH_ROWS

    def batches_per_update(self, rows: Sized) -> int:
        return self.batches_per_step

    def shuffles(self) -> bool:
        return True

    def ended(self, state: SVIState, history: Sequence[float], seconds: float) -> Status | None:
        """The rule sees only passes after the warm-up, in which the objective changes by itself."""
        return self.stop(history[self.kl_warmup :], seconds)

    def reached(self, history: Sequence[float]) -> tuple[float, float]:
        """The mean of the last passes; ends within their noise count as alike."""
        last = torch.tensor(history[-LAST_PASSES:], dtype=torch.float64)
        return float(last.mean()), max(1e-3, 2 * float(last.std(correction=0)))

    def screen(self, problem: Problem, starts: Sequence[Mapping[str, Tensor]]) -> list[Screened] | OneByOne:
        """Up to 500 passes of all starts together, where the model and the optimiser can be mapped over them."""
        states = [self.init(replace(problem, start=start)) for start in starts]
        short = ShortRuns(
            passes=min(SHORT_RUN, self.passes),
            draws=1 if self.importance else self.particles,
            clip=self.clip,
            ended=self.stop,
            reached=self.reached,
        )
        seeds = [start_seed(problem.seed, k) for k in range(len(starts))]
        return screen(problem, [state.guide for state in states], seeds, self.optimizer, self.schedule, short)

    def init(self, problem: Problem) -> SVIState:
        """Build the guide at the start values, and the optimiser.

        Raises:
            SupportError: nothing to train.
        ModelError: a start on the edge of a support, from which no gradient leads away.
        """
        program = problem.program
        check_interior(program.space, problem.start)
        guide = self.guide.build(program.space, problem.start, program.dtype)
        named = {f"guide.{name}": p for name, p in guide.named_parameters() if p.requires_grad}
        parameters = {**named, **model_parameters(program.model)}
        trained = {name: p for name, p in parameters.items() if p.numel()}
        if not trained:
            raise SupportError(
                given="a model without globals and without trainable weights",
                needed="something to fit",
                remedy="use lv.from_point(model, data, {}) to read its posterior",
            )
        optimizer = built(self.optimizer, trained)
        schedule = self.schedule(optimizer) if self.schedule else None
        size = self.rows_per_batch(range(problem.size)) or problem.size
        updates = math.ceil(math.ceil(problem.size / size) / self.batches_per_step)
        shared = problem.all.shared
        return SVIState(program, guide, trained, optimizer, schedule, problem.seed, problem.size, updates, shared)

    def contribution(self, state: SVIState, batch: Batch, position: int) -> Gradient:
        """Objective and gradient of one batch; batches of one update share their draw of the globals."""
        step = self._step(state, batch, position)
        left = (self.passes * state.updates_per_pass - state.updates) * self.batches_per_step
        found = state.recorded.run(step, state.program, self.capture, left, self.compile)
        return Gradient(found.objective, found.gradients, len(batch), found.finite, step.per_row)

    def notes(self, state: SVIState) -> tuple[str, ...]:
        """Why steps were not recorded; for the print-out of a fit."""
        recorded = state.recorded
        if recorded.reason is not None:
            return (f"steps run by the model's own code, not as a recorded graph: {recorded.reason}",)
        if recorded.uncompiled is not None:
            return (f"steps run as a recorded graph, not compiled: {recorded.uncompiled}",)
        return ()

    def objective(self, state: SVIState, total: Gradient) -> float:
        return total.objective

    def update(self, state: SVIState, total: Gradient) -> SVIState:
        """One step of the optimiser.

        Raises:
            NumericalError: a gradient that is not finite.
        """
        assert state.optimizer is not None
        check_gradients(state.program.space, state.parameters, total, state.updates)
        ascend(state.parameters, state.optimizer, state.schedule, total, self.clip)
        state.updates += 1
        return state

    def collapsed(self, state: SVIState) -> tuple[str, ...]:
        """There is no floor on which a component could be seen to stand."""
        return ()

    def posterior(self, state: SVIState) -> Variational | PointMass:
        if isinstance(self.guide, Delta) or not state.program.space.size:
            return PointMass({name: value.detach() for name, value in state.guide.point().items()})
        return Variational(state.guide)

    def log_likelihood(self, state: SVIState, batch: Batch) -> None:
        """None: rows have to be scored."""
        return None

    def _step(self, state: SVIState, batch: Batch, position: int) -> Step:
        """Batches of one update share their draws of the globals."""
        draws = 1 if self.importance else self.particles
        particles = self.particles if self.importance else 1
        return Step(
            batch,
            state.parameters,
            state.guide,
            [
                (derive(state.seed, 8, state.updates, k), derive(state.seed, 9, state.updates, k, position))
                for k in range(draws)
            ],
            Bound(particles, self.importance, self._kl_weight(state), analytic=not self.importance),
            self.kl_warmup > 0,
            len(batch) / state.rows,
            self.batches_per_step == 1 and not state.shared,
        )

    def _kl_weight(self, state: SVIState) -> float:
        if not self.kl_warmup:
            return self.kl_weight
        done = state.updates / (self.kl_warmup * state.updates_per_pass)
        return self.kl_weight * min(1.0, done)


def check_optimizer(optimizer: Optimizer) -> None:
    """A factory, not an optimiser."""
    if not callable(optimizer):
        raise SettingError(
            given=f"optimizer={type(optimizer).__name__}(...)",
            needed="a factory: it is called with the parameters, once for every run",
            remedy="write optimizer=functools.partial(torch.optim.Adam, lr=0.01)",
        )


def check_clip(clip: float | None) -> None:
    """A norm above 0, or none."""
    if clip is not None and not clip > 0:
        raise SettingError(f"clip={clip}", "a norm above 0", "write clip=10.0, or None for no limit")


def built(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a run."""
    made = optimizer(list(parameters.values()))
    if isinstance(made, torch.optim.LBFGS):
        raise SettingError(
            given="optimizer=torch.optim.LBFGS, which asks for the objective several times a step",
            needed="an optimiser that steps along one gradient: the objective is random",
            remedy="use torch.optim.Adam, or lv.EM() for an exact maximum",
        )
    fuse(made)
    return made


def ascend(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    total: Gradient,
    clip: float | None,
) -> None:
    """One step of the optimiser along the gradient per row."""
    trained = {p: found for p, found in zip(parameters.values(), total.gradients, strict=True) if found is not None}
    each: Any = vars(torch)
    if not total.per_row:
        trained = dict(zip(trained, each["_foreach_div"](list(trained.values()), float(total.rows)), strict=True))
    if clip is None and schedule is None and stepped(optimizer, trained):
        return
    down = dict(zip(trained, each["_foreach_neg"](list(trained.values())), strict=True))
    for parameter in parameters.values():
        parameter.grad = down.get(parameter)
    if clip is not None:
        nn.utils.clip_grad_norm_(list(parameters.values()), clip)
    optimizer.step()
    if schedule is not None:
        schedule.step()


def check_gradients(space: GlobalSpace, parameters: Iterable[str], total: Gradient, updates: int) -> None:
    """A step along a gradient that is not finite would spoil all that was learnt."""
    if total.finite:
        return
    sums = [gradient.sum() for gradient in total.gradients if gradient is not None]
    if not sums or bool(torch.stack(sums).sum().isfinite()):
        return
    for name, gradient in zip(parameters, total.gradients, strict=True):
        if gradient is not None and not bool(gradient.isfinite().all()):
            raise NumericalError(
                given=f"the gradient of {_described(space, name, gradient)} is not finite at update {updates + 1}",
                needed="finite gradients",
                remedy="set clip= or a smaller learning rate, start elsewhere (seed=, start=), or look for a square "
                "root or logarithm at zero in the model",
            )


def _described(space: GlobalSpace, name: str, gradient: Tensor) -> str:
    """The globals whose coordinates of a guide are to blame, or the weight of a network."""
    if not name.startswith("guide.") or gradient.shape[:1] != (space.size,):
        return f"the weight {name!r}"
    bad = ~gradient.reshape(space.size, -1).isfinite().all(-1)
    parts = bad.split([site.free for site in space.sites])
    sites = [site.name for site, part in zip(space.sites, parts, strict=True) if bool(part.any())]
    return f"the globals {sites}"
