"""The M-step: closed forms one global at a time, then L-BFGS on Q + log prior for those without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Size, Tensor

from latentvars.contract import Factor
from latentvars.families import (
    Arguments,
    Family,
    MStep,
    Reference,
    Selection,
    Statistics,
    laws,
    without_wrappers,
)
from latentvars.inference.em.ascent import EXHAUSTIVE, Ascent, Effort, climb
from latentvars.inference.em.expected import Expected, Inputs, reference_of, statistics_of
from latentvars.inference.em.m_step_plan import Leaf, Plan, Rule, all_leaves
from latentvars.program import Program, Restriction
from latentvars.rows import Batch

NEAR_FLOOR = 1.005  # scales this near to their floor stand on it


@dataclass(frozen=True)
class Standing:
    """An argument of a family in which a global stands: what a closed form is computed from.

    Attributes:
        selection: the global's blocks in the argument.
        arguments: all arguments of the family, un-broadcast.
        statistics: expected statistics, ``target + event``.
        target: joint batch shape of the arguments.
    """

    selection: Selection
    arguments: Arguments
    statistics: Statistics
    target: Size

    @staticmethod
    def of(program: Program, rule: Rule, leaf: Leaf, current: Mapping[str, Tensor], total: Expected) -> Standing:
        """Where the global of a rule stands in a leaf."""
        selection = leaf.sources[rule.argument]
        assert isinstance(selection, Selection)
        return Standing(selection, _arguments(program, leaf, current), total.statistics[leaf.name], leaf.target)


def em_step(
    program: Program, plan: Plan, values: Mapping[str, Tensor], batch: Batch
) -> tuple[dict[str, Tensor], Tensor]:
    """One whole step on one batch as tensors only: the next globals, and the objective before them, nats.

    For plans of closed forms alone; nothing in it depends on values, so that it can be captured.
    """
    expectation = program.expectation(values, batch)
    total = Expected(0.0, statistics_of(plan, all_leaves(expectation.factors)))
    objective = (expectation.score.rows * batch.weights).sum() + expectation.score.prior
    return maximise(program, plan, values, total), objective


def maximise(
    program: Program, plan: Plan, values: Mapping[str, Tensor], total: Expected, effort: Effort = EXHAUSTIVE
) -> dict[str, Tensor]:
    """One M-step: closed forms one global at a time, then L-BFGS on the rest together."""
    current = dict(values)
    for rule in plan.rules:
        if rule.leaf is not None:
            current[rule.name] = _closed(program, plan, rule, rule.leaf, current, total)
    return _numeric(program, plan, current, total, effort) if plan.numeric else current


def lowering(program: Program, plan: Plan, values: Mapping[str, Tensor], total: Expected) -> list[str]:
    """The globals whose part of an M-step lowers Q + log prior: none, if every rule is right."""
    current = dict(values)
    found = []
    with torch.no_grad():
        before = float(complete_objective(program, plan, current, total))
        for rule in plan.rules:
            if rule.leaf is None:
                continue
            current[rule.name] = _closed(program, plan, rule, rule.leaf, current, total)
            after = float(complete_objective(program, plan, current, total))
            if not after >= before - 1e-9 * abs(before):
                found.append(rule.name)
            before = after
    return found


def _closed(
    program: Program, plan: Plan, rule: Rule, leaf: Leaf, current: Mapping[str, Tensor], total: Expected
) -> Tensor:
    """The closed-form maximum of one global."""
    standing = Standing.of(program, rule, leaf, current, total)
    return solved(program, rule, leaf.family, reference_of(plan, leaf.name, total), standing, current)


def solved(
    program: Program,
    rule: Rule,
    family: Family,
    reference: Reference,
    standing: Standing,
    current: Mapping[str, Tensor],
) -> Tensor:
    """The maximum of Q + log prior in one global that stands in an argument of a family."""
    selection = standing.selection
    prior = without_wrappers(program.global_sites(current)[rule.name]) if rule.hierarchical else rule.prior
    restriction, value = program.space[rule.name].restriction, current[rule.name]
    if restriction is not None and restriction.tied:
        selection, value = _merged(selection, restriction, value)
    step = MStep(rule.argument, standing.arguments, standing.statistics, standing.target, selection, value, prior)
    found = family.maximise(step, reference)
    if restriction is None:
        return found
    whole = found[restriction.code] if restriction.tied else found
    return restriction.project(whole, current[rule.name])


def _merged(selection: Selection, restriction: Restriction, value: Tensor) -> tuple[Selection, Tensor]:
    """A selection of single numbers as one of the values that they share, and these values."""
    values, code = value.flatten()[restriction.first], restriction.code.flatten()
    return Selection(selection.name, values.shape, selection.event, code[selection.index]), values


def collapsed(plan: Plan, values: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The elements of globals that stand at the least variance, as ``covariance[2]``: collapsed components."""
    found = []
    for rule in plan.rules:
        if rule.leaf is None:
            continue
        selection = rule.leaf.sources[rule.argument]
        assert isinstance(selection, Selection)
        low = rule.leaf.family.at_floor(rule.argument, selection.take(values), plan.references[rule.leaf.name])
        for dim, size in enumerate(selection.index.shape):
            low = low if size > 1 else low.all(dim, keepdim=True)
        blocks = selection.index[low].unique().tolist()
        lead = selection.shape[: len(selection.shape) - len(selection.event)]
        for block in blocks:
            place = [int(axis) for axis in np.unravel_index(block, tuple(lead))] if lead else []
            found.append(f"{rule.name}{place}" if place else rule.name)
    for name, least in plan.floors.items():
        low = values[name] <= NEAR_FLOOR * least
        found += [f"{name}{place}" if place else name for place in low.nonzero().tolist()]
    return tuple(found)


def complete_objective(program: Program, plan: Plan, values: Mapping[str, Tensor], total: Expected) -> Tensor:
    """Q(θ′) + log prior(θ′), scalar, nats, up to a constant; differentiable in the globals."""
    objective = program.prior(values)
    computed = _computed(program, plan, values)
    for leaf in plan.leaves:
        arguments = _arguments(program, leaf, values, computed)
        statistics, reference = total.statistics[leaf.name], reference_of(plan, leaf.name, total)
        objective = objective + leaf.family.log_likelihood(arguments, statistics, reference)
    for kept in total.retained:
        sites = program.factor_distributions(values, kept.batch, kept.guide)
        found = {path: fn for name, factor in sites.items() for path, fn in laws(name, factor)}
        for path, weights in kept.weights.items():
            log_prob = found[path].log_prob(kept.values[path])
            objective = objective + torch.where(weights > 0, weights * log_prob, torch.zeros_like(weights)).sum()
    return objective


def _computed(program: Program, plan: Plan, values: Mapping[str, Tensor]) -> dict[str, Factor]:
    """Factors at the sketch, run only where some argument is computed from globals."""
    if all(source is not None for leaf in plan.leaves for source in leaf.sources.values()):
        return {}
    return all_leaves(program.factor_distributions(values, program.sketch))


def _arguments(
    program: Program, leaf: Leaf, values: Mapping[str, Tensor], computed: Mapping[str, Factor] | None = None
) -> Arguments:
    """The arguments of a leaf at given globals."""
    found: Arguments = {}
    if any(source is None for source in leaf.sources.values()):
        computed = computed or all_leaves(program.factor_distributions(values, program.sketch))
        found = leaf.family.arguments(computed[leaf.name].fn)
    return {**found, **leaf.taken(values)}


def _numeric(
    program: Program, plan: Plan, current: dict[str, Tensor], total: Expected, effort: Effort
) -> dict[str, Tensor]:
    """L-BFGS on Q + log prior over the globals without a closed form."""

    def objective(values: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        return complete_objective(program, plan, values, total.holding(inputs))

    ascent = Ascent(objective, total.inputs, (program, plan, *total.constants), plan.repeated)
    return climb(program, plan.numeric, ascent, current, effort, plan.floors)
