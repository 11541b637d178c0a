"""A start from groups of the observations for any model with one discrete local: M-steps in which they are its labels.

The groups stand in the place of the posterior of that local, the M-step is that of EM, so nothing has to be known of
the model: McLachlan & Peel (2000, section 2.12) start EM from a partition in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from latentvars.errors import ShapeError, SupportError
from latentvars.inference.em.em import plan_of
from latentvars.inference.em.expected import Expected, expected
from latentvars.inference.em.m_step import maximise
from latentvars.inference.em.m_step_plan import Plan
from latentvars.inference.running.algorithm import Problem
from latentvars.program import Program, model_parameters
from latentvars.randomness import generator
from latentvars.rows import Batch, Rows
from latentvars.starts import Grouping, Points, blurred

BLUR = 0.05
STEPS = 3  # location before spread, and missing entries given both
FLOOR = 1e-6
INWARDS = 0.01


def start_of_groups(
    program: Program, rows: Rows, grouping: Grouping, seed: int, before: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Globals from groups of rows, or of steps where the local is a chain.

    Args:
        program: a model with one discrete local and no continuous ones.
        rows: all data.
        grouping: which observations begin together.
        seed: of the groups.
        before: any valid globals; kept where no observation bears on them.

    Raises:
        SupportError: another number of discrete locals, continuous locals, networks.
    """
    local, count, chain = _local(program, before, grouping)
    points = _points(program, rows, before, chain)
    source = generator(seed, 1)
    members = blurred(grouping, points, count, BLUR, source)
    plan = plan_of(Problem(program, rows, before, seed), FLOOR)
    labelled = _labelled(rows, local, members, chain, source, program.dtype)
    values = dict(before)
    for _ in range(STEPS):
        values = maximise(program, plan, values, _total(program, plan, values, labelled))
    return _interior(program, values, before)


def _local(program: Program, values: Mapping[str, Tensor], grouping: Grouping) -> tuple[str, int, bool]:
    """The discrete local, its number of values, and whether it has one for each step."""
    sites = program.trace(values, program.sketch).local
    found = {name: (sites[name].fn.enumerate_support(expand=False).shape[0], False) for name in program.roles.discrete}
    for site in sites.values():
        fn: Any = site.fn
        if site.observed and hasattr(fn, "given"):
            found[fn.local] = (fn.labels, hasattr(fn, "lengths"))
    if len(found) != 1 or program.roles.continuous or model_parameters(program.model):
        raise SupportError(
            given=f"start={grouping!r} for {type(program.model).__name__} with the discrete locals {sorted(found)}"
            + (f", the continuous ones {list(program.roles.continuous)}" if program.roles.continuous else ""),
            needed="one discrete local, whose values the groups are, and no networks",
            remedy="start from lv.PriorDraws() or from values, or give the model a method "
            "grouped_start(rows, grouping, generator)",
        )
    name, (count, chain) = next(iter(found.items()))
    return name, count, chain


def _points(program: Program, rows: Rows, values: Mapping[str, Tensor], chain: bool) -> Points:
    """The observed columns, standardised, the mean in the place of what is missing; of rows or of steps."""
    names = _observed_columns(program, rows, values)
    weights = rows.weights
    if rows.lengths is not None:
        weights = weights.repeat_interleave(rows.lengths)
    whole = torch.cat([rows.columns[name].double().reshape(rows.steps, -1) for name in names], -1)
    used = whole[weights > 0]
    spread = (used - used.nanmean(0)).square().nanmean(0).sqrt()
    at = ((whole - used.nanmean(0)) / torch.where(spread > 0, spread, 1.0)).nan_to_num(nan=0.0)
    if rows.lengths is not None and not chain:  # a sequence lies at the mean of its steps
        row = torch.repeat_interleave(torch.arange(len(rows)), rows.lengths)
        at = at.new_zeros(len(rows), at.shape[1]).index_add(0, row, at) / rows.lengths[:, None]
        weights = rows.weights
    return Points(at, weights.double(), torch.arange(len(at)), len(at))


def _observed_columns(program: Program, rows: Rows, values: Mapping[str, Tensor]) -> list[str]:
    """The columns whose numbers are those of an observed site; all where none is."""
    sketch = program.sketch
    seen = [site.value.flatten().double() for site in program.trace(values, sketch).local.values() if site.observed]
    seen = [value.sort().values for value in seen]
    found = []
    for name in rows.columns:
        own = sketch.columns[name].flatten().double().sort().values
        if any(own.shape == value.shape and torch.equal(own, value) for value in seen):
            found.append(name)
    return found or list(rows.columns)


def _labelled(
    rows: Rows, local: str, members: Tensor, chain: bool, source: torch.Generator, dtype: torch.dtype
) -> list[Batch]:
    """The data with labels: once for each label with that share of each row's weight, or a path drawn for chains."""
    batch, given = rows.batch(dtype=dtype), rows.known.get(local)
    if given is not None:
        known = torch.nn.functional.one_hot(given.clamp(min=0), members.shape[1]).to(members.dtype)
        members = torch.where((given >= 0)[:, None], known, members)
    if not chain:
        shares = members.to(dtype)
        return [
            replace(
                batch,
                weights=batch.weights * shares[:, k],
                known={**batch.known, local: torch.full((len(rows),), k)},
            )
            for k in range(members.shape[1])
        ]
    drawn = torch.multinomial(members, 1, generator=source)[:, 0]
    assert rows.lengths is not None
    path = torch.nn.utils.rnn.pad_sequence(list(drawn.split(rows.lengths.tolist())), True, -1.0)
    return [replace(batch, known={**batch.known, local: path.long()})]


def _total(program: Program, plan: Plan, values: Mapping[str, Tensor], batches: list[Batch]) -> Expected:
    try:
        parts = [expected(program, plan, values, batch, with_prior=k == 0) for k, batch in enumerate(batches)]
    except ShapeError as error:
        raise SupportError(
            given=f"groups of observations for a local that lies otherwise: {error.given}",
            needed="a local with one value for each row, or for each step of a chain",
            remedy="start from lv.PriorDraws() or from values",
        ) from error
    return reduce(add, parts)


def _interior(program: Program, values: dict[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values on an edge of their support, which no algorithm leaves again, a little towards the interior."""
    found = dict(values)
    for site in program.space.sites:
        if site.free and not bool(program.space.subset((site.name,)).unconstrain(values).isfinite().all()):
            found[site.name] = (1 - INWARDS) * values[site.name] + INWARDS * before[site.name]
    return program.space.project(found)
