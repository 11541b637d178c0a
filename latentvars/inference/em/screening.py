"""Many starts of EM at once: by products with one table of features, or by an EM step that is captured as a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from latentvars.capture import capture
from latentvars.inference.em.m_step import collapsed, em_step
from latentvars.inference.em.m_step_plan import Plan
from latentvars.inference.em.tabulated import Tabulated
from latentvars.inference.running.algorithm import OneByOne, Problem, Screened

LARGEST = 20_000_000  # numbers that the starts may take together in one intermediate result
LONGEST = 150  # steps of a chain beyond which its captured graph would be too long
FEWEST = 5  # starts below which recording costs more than it saves


def cannot_screen(problem: Problem, plan: Plan, starts: int) -> OneByOne | None:
    """Why the starts cannot be run together: it takes closed forms only, and data that fit into memory several times.

    None where they can.
    """
    rows = problem.rows
    width = sum(value.shape[1:].numel() for value in rows.columns.values())
    largest = rows.steps * max(width**2, problem.program.space.size)
    if rows.observed is not None:  # each row of each start has the covariances of what it observes
        largest *= starts
    if starts < FEWEST:
        return OneByOne(f"fewer than {FEWEST} are not worth recording a step")
    if plan.numeric:
        return OneByOne(f"no closed form for {', '.join(plan.numeric)}")
    if plan.retained or any(rule.hierarchical for rule in plan.rules):
        return OneByOne("the M-step needs more than sums of statistics")
    if rows.lengths is not None and problem.program.roles.discrete and int(rows.lengths.max()) > LONGEST:
        return OneByOne(f"chains of more than {LONGEST} steps that are written step by step")
    return OneByOne("the data are too large to be held once for each") if largest > LARGEST else None


Step = Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], Tensor]]


def screen(
    problem: Problem, plan: Plan, starts: Sequence[Mapping[str, Tensor]], passes: int, per_row: float
) -> list[Screened]:
    """Short runs of all starts together, by a step that is captured as one graph.

    Args:
        problem: model and data.
        plan: its M-step, closed forms only.
        starts: constrained globals of each start.
        passes: most EM steps of a short run.
        per_row: change of the objective below which a start is left alone, nats per row.
    """
    program = problem.program
    batch = problem.rows.batch(dtype=program.dtype)

    def step(values: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        return em_step(program, plan, values, batch)

    graph = torch.vmap(capture(step, dict(starts[0]), dtype=program.dtype))
    return short_runs(graph, plan, starts, passes, per_row, float(problem.rows.weights.sum()))


def tabulated_step(problem: Problem, table: Tabulated, starts: int) -> Step | None:
    """A step of starts of a mixture whose E-step goes by a table; None where its M-step is more than closed forms."""
    batch, lifted = problem.rows.batch(dtype=problem.program.dtype), {starts: table.lifted(starts)}
    if lifted[starts] is None or not table.direct or table.points(batch).lengths is not None:
        return None

    def step(values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        size = len(next(iter(values.values())))
        if size not in lifted:
            lifted[size] = table.lifted(size)
        m_step = lifted[size]
        assert m_step is not None
        objective, updated = table.many(m_step, values, batch)
        return updated, objective

    return step


def short_runs(
    step: Step, plan: Plan, starts: Sequence[Mapping[str, Tensor]], passes: int, per_row: float, weight: float
) -> list[Screened]:
    """Runs of all starts together; one that has ended or failed is left out of the steps that follow.

    Args:
        step: globals ``[S, *shape]`` → those after an EM step and the objectives before it ``[S]``, nats.
        plan: the M-step.
        starts: constrained globals of each start.
        passes: most steps.
        per_row: change of the objective below which a start is left alone, nats per row.
        weight: of all rows together.
    """
    ends = [dict(start) for start in starts]
    histories: list[list[float]] = [[] for _ in starts]
    sound, moving = [True] * len(starts), [True] * len(starts)
    at = list(range(len(starts)))
    values = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    with torch.no_grad():
        for _ in range(passes):
            updated, objective = step(values)
            going = []
            for place, (k, now) in enumerate(zip(at, (objective / weight).tolist(), strict=True)):
                before = histories[k][-1] if histories[k] else -math.inf
                sound[k] = math.isfinite(now)
                if sound[k]:
                    histories[k].append(now)
                moving[k] = sound[k] and abs(now - before) > per_row
                if moving[k]:
                    going.append(place)
                else:
                    ends[k] = {name: value[place] for name, value in (updated if sound[k] else values).items()}
            if len(going) < len(at):
                at = [at[place] for place in going]
                updated = {name: value[going] for name, value in updated.items()}
            values = updated
            if not at:
                break
    for place, k in enumerate(at):
        ends[k] = {name: value[place] for name, value in values.items()}
    return [
        Screened(
            own,
            weight * history[-1] if good and history else math.nan,
            good and bool(collapsed(plan, own)),
            not left,
            tuple(history),
        )
        for own, history, good, left in zip(ends, histories, sound, moving, strict=True)
    ]
