"""EM whose continuous locals are drawn by the model's guide: steps of the guide, draws for the E-step, the M-step.

The states and steps of :class:`latentvars.inference.guided_em.settings.GuidedEM`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from latentvars.errors import SupportError
from latentvars.inference.em.ascent import Effort
from latentvars.inference.em.em import check_finite, plan_of
from latentvars.inference.em.expected import Expected
from latentvars.inference.em.m_step import maximise
from latentvars.inference.em.m_step_plan import Plan
from latentvars.inference.guided_em.guide_steps import GuideSteps, evaluating, guide_gradient
from latentvars.inference.guided_em.weighed_draws import Weigh, expected_by_draws
from latentvars.inference.running.algorithm import Problem
from latentvars.inference.running.flattening import HERE
from latentvars.inference.svi.svi import Gradient, ascend, built, check_gradients
from latentvars.program import Bound, Program, model_parameters
from latentvars.randomness import derive
from latentvars.rows import Batch

WINDOW = 10  # M-steps over which a drift of the globals is told from noise
ENOUGH = Effort(steps=25, tolerance=1e-8)  # of one M-step: more than that its draws do not say


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
        trail: unconstrained globals after the last M-steps, as many as :func:`drift` looks at.
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
    index: Tensor = field(metadata=HERE)
    gradient: Gradient | None = None
    expected: Expected | None = None
    effective: Tensor | None = field(default=None, metadata=HERE)

    def __add__(self, other: Share) -> Share:
        return Share(
            self.objective + other.objective,
            torch.cat([self.index, other.index]),
            None if self.gradient is None or other.gradient is None else self.gradient + other.gradient,
            None if self.expected is None or other.expected is None else self.expected + other.expected,
            None if self.effective is None or other.effective is None else torch.cat([self.effective, other.effective]),
        )


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
        problem.own_seed,
        steps.passes + 1 if parameters else 1,
        steps.warmup if parameters else 0,
        torch.zeros(total, dtype=torch.bool),
        torch.ones(total, dtype=torch.float64),
    )


def share(state: GuidedState, batch: Batch, steps: GuideSteps, bound: Bound, weigh: Weigh, draws: int) -> Share:
    """The contribution of a batch to the pass that is under way."""
    if state.waiting:
        seed = derive(state.seed, 40, state.updates)
        gradient = guide_gradient(state.program, state.values, state.parameters, batch, steps.particles, bound, seed)
        return Share(gradient.objective, batch.index, gradient=gradient)
    seed = derive(state.seed, 41, state.updates)
    found, effective = expected_by_draws(state.program, state.plan, state.values, batch, draws, weigh, seed)
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


def _step(state: GuidedState, gradient: Gradient, steps: GuideSteps) -> None:
    assert state.optimizer is not None
    check_gradients(state.program.space, state.parameters, gradient, state.updates - 1)
    ascend(state.parameters, state.optimizer, state.schedule, gradient, steps.clip)
