"""Many starts of EM at once: the EM step is captured as one graph and mapped over the starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latentvars.capture import capture
from latentvars.inference.algorithm import OneByOne, Problem, Screened
from latentvars.inference.m_step import collapsed, em_step
from latentvars.inference.m_step_plan import Plan

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


def screen(
    problem: Problem, plan: Plan, starts: Sequence[Mapping[str, Tensor]], passes: int, per_row: float
) -> list[Screened]:
    """Short runs of all starts together.

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
    values = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    least = per_row * float(problem.rows.weights.sum())
    before = torch.full((len(starts),), -torch.inf, dtype=program.dtype)
    active = torch.ones(len(starts), dtype=torch.bool)
    failed = torch.zeros(len(starts), dtype=torch.bool)
    with torch.no_grad():
        for _ in range(passes):
            updated, objective = graph(values)
            failed |= active & ~objective.isfinite()
            active &= objective.isfinite() & ((objective - before).abs() > least)
            before = torch.where(active | before.isinf(), objective, before)
            if not bool(active.any()):
                break
            values = {name: _chosen(active, updated[name], value) for name, value in values.items()}
    ends = torch.where(before.isfinite() & ~failed, before, torch.nan).tolist()
    split = [{name: value[k] for name, value in values.items()} for k in range(len(starts))]
    return [
        Screened(own, end, end == end and bool(collapsed(plan, own)), not moving)
        for own, end, moving in zip(split, ends, active.tolist(), strict=True)
    ]


def _chosen(active: Tensor, updated: Tensor, value: Tensor) -> Tensor:
    return torch.where(active.reshape((-1,) + (1,) * (value.dim() - 1)), updated, value)
