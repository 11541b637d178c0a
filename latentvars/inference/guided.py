"""EM whose continuous locals are drawn by the model's guide: steps of the guide, draws for the E-step, the M-step.

What :class:`latentvars.VariationalEM` and :class:`latentvars.MonteCarloEM` have in common. They differ in how draws are
weighed (:data:`Weigh`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from latentvars.errors import SettingError, SupportError
from latentvars.inference.algorithm import Problem
from latentvars.inference.em import check_finite, plan_of
from latentvars.inference.m_step import Effort, Expected, maximise, reduced
from latentvars.inference.m_step_plan import Plan
from latentvars.inference.settings import check_at_least, check_share
from latentvars.inference.stopping import Status, StopRule
from latentvars.inference.svi import (
    BATCH_ROWS,
    FULL_BATCH_ROWS,
    Gradient,
    Optimizer,
    Schedule,
    adam,
    ascend,
    built,
    check_clip,
    check_gradients,
    check_optimizer,
)
from latentvars.program import Bound, Program, model_modules, model_parameters
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows

DRAWN_AT_ONCE = 100_000  # rows times draws in one run of the model
WINDOW = 10  # M-steps over which a drift of the globals is told from noise
ENOUGH = Effort(steps=25, tolerance=1e-8)  # of one M-step: more than that its draws do not say


class Weighed(NamedTuple):
    """Draws of some rows.

    Attributes:
        rows: ``[B]`` estimate of, or bound on, the log marginal of each row, nats.
        shares: ``[B, draws]``, which add up to 1 on each row.
    """

    rows: Tensor
    shares: Tensor


Weigh = Callable[[Tensor], Weighed]
"""From log p(x, z) − log q(z | x) of draws ``[B, draws]``."""


@dataclass(frozen=True)
class GuideSteps:
    """How the guide, and every other network of the model, is trained between M-steps: by gradients, globals held.

    Attributes:
        passes: passes over the data between one M-step and the next.
        warmup: passes before the first M-step, which a guide that knows nothing yet would lead astray.
        optimizer: a torch factory, parameters → optimiser.
        schedule: a torch factory, optimiser → learning-rate schedule, stepped after each update.
        particles: draws per row and update.
        clip: largest norm of the gradient per row; None: no limit.
    """

    passes: int = 10
    warmup: int = 200
    optimizer: Optimizer = adam
    schedule: Schedule | None = None
    particles: int = 5
    clip: float | None = None

    def __post_init__(self) -> None:
        check_at_least("passes", self.passes, 0)
        check_at_least("warmup", self.warmup, 0)
        check_at_least("particles", self.particles, 1)
        check_optimizer(self.optimizer)
        check_clip(self.clip)


@dataclass
class GuidedState:
    """Everything that changes in a run; the networks themselves are in the program's model.

    Attributes:
        program, plan: the model and its M-step.
        values: constrained globals.
        parameters: trainable weights of the model's networks, those of the guide among them.
        optimizer, schedule: theirs; None where there are no weights.
        seed: of the run.
        period: passes from one M-step to the next.
        waiting: passes of guide steps before the next M-step.
        seen: ``[N]`` bool, the rows that this pass has met.
        gathered: expected statistics of this pass so far.
        updates: batches so far.
        m_steps: M-steps so far.
        rested: whether the last thing done was an M-step.
        warned: whether a warning about these draws was given.
        trail: unconstrained globals after the last M-steps, as many as :func:`drifting` looks at.
        effective: ``[N]`` effective sample size of each row's draws as a share of their number, at the last E-step.
    """

    program: Program
    plan: Plan
    values: Mapping[str, Tensor]
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer | None
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    seed: int
    period: int
    waiting: int
    seen: Tensor
    effective: Tensor
    gathered: Expected | None = None
    updates: int = 0
    m_steps: int = 0
    rested: bool = False
    warned: bool = False
    trail: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Share:
    """What a batch contributes: a gradient in a pass of guide steps, expected statistics in a pass with an M-step.

    Attributes:
        objective: share of the objective, nats.
        index: positions of its rows.
        gradient, expected: one of them.
        effective: ``[rows]``, as that of the state; None beside a gradient.
    """

    objective: float
    index: Tensor
    gradient: Gradient | None = None
    expected: Expected | None = None
    effective: Tensor | None = None

    def __add__(self, other: Share) -> Share:
        return Share(
            self.objective + other.objective,
            torch.cat([self.index, other.index]),
            None if self.gradient is None or other.gradient is None else self.gradient + other.gradient,
            None if self.expected is None or other.expected is None else self.expected + other.expected,
            None if self.effective is None or other.effective is None else torch.cat([self.effective, other.effective]),
        )


@dataclass(frozen=True)
class Draws:
    """How many draws of each row an E-step takes: ``first · growthᵗ`` after t M-steps, at most ``most``.

    What the draws add to the error of the globals falls with the square root of their number.
    """

    first: int
    growth: float
    most: int

    def __post_init__(self) -> None:
        check_at_least("draws", self.first, 2)
        check_at_least("most_draws", self.most, self.first)
        if not 1 <= self.growth < math.inf:
            raise SettingError(f"growth={self.growth}", "a factor of at least 1", "write growth=1.1")

    def after(self, m_steps: int) -> int:
        steps = math.log(self.most / self.first) / math.log(self.growth) if self.growth > 1 else math.inf
        return self.most if m_steps >= steps else math.ceil(self.first * self.growth**m_steps)


class Settings(Protocol):
    """The settings that algorithms with a guide share."""

    @property
    def passes(self) -> int: ...

    @property
    def restarts(self) -> int: ...

    @property
    def batch_size(self) -> int | None: ...

    @property
    def variance_floor(self) -> float: ...

    @property
    def growing(self) -> Draws: ...

    @property
    def stop(self) -> StopRule: ...

    @property
    def drift(self) -> float | None: ...


def check_guided(settings: Settings) -> None:
    """Raise a SettingError where one of them is out of its range."""
    check_at_least("passes", settings.passes, 0)
    check_at_least("restarts", settings.restarts, 1)
    if settings.batch_size is not None:
        check_at_least("batch_size", settings.batch_size, 1)
    check_share("variance_floor", settings.variance_floor)
    settings.growing.after(0)
    if settings.drift is not None and not settings.drift > 0:
        raise SettingError(f"drift={settings.drift}", "a number above 0", "write drift=1.0, or None not to wait")


def guided_batch(batch_size: int | None, rows: Rows) -> int | None:
    """Rows per batch; None: all."""
    if batch_size is not None:
        return batch_size
    return None if len(rows) <= FULL_BATCH_ROWS else BATCH_ROWS


def start(problem: Problem, steps: GuideSteps, floor: float, name: str) -> GuidedState:
    """The state before the first pass.

    Raises:
        SupportError: no continuous locals, or no globals.
    """
    program = problem.program
    if not program.roles.continuous:
        raise SupportError(
            given=f"{name} on a model without continuous locals",
            needed="a local that the guide draws",
            remedy="fit it with lv.EM(), which is exact",
        )
    if not program.space.size:
        raise SupportError(
            given=f"{name} on a model without globals that are sample sites",
            needed="something for the M-step to maximise",
            remedy="fit it with lv.SVI(), which trains networks",
        )
    parameters = {key: weight for key, weight in model_parameters(program.model).items() if weight.numel()}
    optimizer = built(steps.optimizer, parameters) if parameters else None
    schedule = steps.schedule(optimizer) if steps.schedule and optimizer else None
    total = len(problem.rows)
    with evaluating(program):
        plan = plan_of(problem, floor)
    return GuidedState(
        program,
        plan,
        dict(problem.start),
        parameters,
        optimizer,
        schedule,
        problem.seed,
        steps.passes + 1 if parameters else 1,
        steps.warmup if parameters else 0,
        torch.zeros(total, dtype=torch.bool),
        torch.ones(total, dtype=torch.float64),
    )


def share(state: GuidedState, batch: Batch, steps: GuideSteps, bound: Bound, weigh: Weigh, draws: int) -> Share:
    """The contribution of a batch to the pass that is under way."""
    if state.waiting:
        gradient = _gradient(state, batch, steps.particles, bound)
        return Share(gradient.objective, batch.index, gradient=gradient)
    found, effective = gathered(state, batch, draws, weigh)
    return Share(found.objective, batch.index, expected=found, effective=effective)


def advance(state: GuidedState, total: Share, steps: GuideSteps) -> GuidedState:
    """One step of the guide, or a part of an E-step and, once all rows were met, the M-step.

    A run that was cut short in the midst of a pass begins that pass anew: its first rows are met again.

    Raises:
        NumericalError: a gradient or a global that is not finite.
    """
    again = bool(state.seen[total.index].any())
    seen = torch.zeros_like(state.seen) if again else state.seen.clone()
    seen[total.index] = True
    done = bool(seen.all())
    state = replace(state, updates=state.updates + 1, rested=False, seen=torch.zeros_like(seen) if done else seen)
    if total.gradient is not None:
        _step(state, total.gradient, steps)
        return replace(state, waiting=state.waiting - done)
    assert total.expected is not None and total.effective is not None
    state.effective[total.index] = total.effective
    expected = total.expected if state.gathered is None or again else state.gathered + total.expected
    if not done:
        return replace(state, gathered=expected)
    with evaluating(state.program):
        values = maximise(state.program, state.plan, state.values, expected, ENOUGH)
    check_finite(values)
    return replace(
        state,
        values=values,
        gathered=None,
        m_steps=state.m_steps + 1,
        rested=True,
        trail=(*state.trail, state.program.space.unconstrain(values).detach())[-2 * WINDOW :],
        waiting=state.period - 1,
    )


def ended(state: GuidedState, history: Sequence[float], seconds: float, settings: Settings) -> Status | None:
    """Whether the rule says so after a pass with an M-step, and no global drifts where it says converged."""
    if not state.rested:
        return None
    status = settings.stop(of_e_steps(history, state.period), seconds)
    still = settings.drift is None or drift(state) <= settings.drift
    return None if status is not None and status.converged and not still else status


def drift(state: GuidedState) -> float:
    """By how much the mean of a global moved between the last two windows of M-steps, in standard deviations of the
    last one; the largest of all globals, infinite before there are two windows.

    The noise of draws hides small gains of the objective from any rule that sees it alone.
    """
    if len(state.trail) < 2 * WINDOW:
        return math.inf
    before, last = torch.stack(state.trail).split(WINDOW)
    moved = (last.mean(0) - before.mean(0)).abs() / last.std(0)
    return float(moved[moved.isfinite()].max()) if bool(moved.isfinite().any()) else 0.0


def of_e_steps(history: Sequence[float], period: int) -> list[float]:
    """The objectives of the passes with an M-step, the last one among them."""
    return list(history[::-1][::period][::-1])


def expanded(batch: Batch, draws: int) -> Batch:
    """Every row ``draws`` times, one after the other."""
    return batch.select(torch.arange(len(batch)).repeat_interleave(draws))


def gathered(state: GuidedState, batch: Batch, draws: int, weigh: Weigh) -> tuple[Expected, Tensor]:
    """The E-step of a batch: expected statistics over weighed draws of the continuous locals, discrete ones exact.

    Returns:
        What the M-step needs, and the effective sample size of each row's draws as a share of their number.
    """
    parts, effective = [], []
    with evaluating(state.program):
        for number, at in enumerate(torch.arange(len(batch)).split(max(1, DRAWN_AT_ONCE // draws))):
            part = batch.select(at)
            found, shares = _drawn(state, part, draws, weigh, derive(state.seed, 41, state.updates, number))
            parts.append(found)
            effective.append(1 / (draws * shares.double().square().sum(1)))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total, torch.cat(effective)


def _drawn(state: GuidedState, batch: Batch, draws: int, weigh: Weigh, seed: int) -> tuple[Expected, Tensor]:
    program, copies = state.program, expanded(batch, draws)
    with torch.no_grad():
        guide = program.guided(copies, seed)
        assert guide is not None
        log_q = program.guide_log_prob(guide)
    kept: list[Weighed] = []

    def weights(log_joint: Tensor) -> Tensor:
        kept.append(weigh((log_joint - log_q).reshape(len(batch), draws)))
        return (batch.weights[:, None] * kept[0].shares).reshape(-1)

    expectation = program.expectation(state.values, copies, guide, weights)
    of_prior = float(expectation.score.prior) * len(batch) / len(state.seen)
    objective = float((kept[0].rows * batch.weights).sum()) + of_prior
    return reduced(state.plan, expectation, copies, objective, guide), kept[0].shares


def _gradient(state: GuidedState, batch: Batch, particles: int, bound: Bound) -> Gradient:
    """Objective and gradient in the weights of the networks, the globals held."""
    seed = derive(state.seed, 40, state.updates)
    score = state.program.score(state.values, expanded(batch, particles), seed, replace(bound, importance=False))
    rows = score.rows.reshape(len(batch), particles)
    value = rows.logsumexp(1) - torch.log(torch.tensor(float(particles))) if bound.importance else rows.mean(1)
    objective = (batch.weights * value).sum()
    parameters = list(state.parameters.values())
    gradients: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if objective.requires_grad:
        gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
    of_prior = float(score.prior) * len(batch) / len(state.seen)
    return Gradient(float(objective.detach()) + of_prior, gradients, len(batch))


def _step(state: GuidedState, gradient: Gradient, steps: GuideSteps) -> None:
    assert state.optimizer is not None
    check_gradients(state.program.space, state.parameters, gradient, state.updates - 1)
    ascend(state.parameters, state.optimizer, state.schedule, gradient, steps.clip)


@contextmanager
def evaluating(program: Program) -> Iterator[None]:
    """Networks as they are read out: no dropout, batch normalisation by its running averages."""
    parts = [part for module in model_modules(program.model).values() for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
