"""The M-step: closed forms from expected sufficient statistics, L-BFGS for what has none.

L-BFGS works on Q(θ′) = Σ w log f(θ′) + log prior(θ′) in unconstrained space, which costs nothing in the number of rows
wherever the factors have sufficient statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor

from latentvars.contract import Factor
from latentvars.errors import NumericalError
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
from latentvars.inference.flattening import HERE
from latentvars.inference.m_step_plan import Leaf, Plan, Rule, all_leaves
from latentvars.inference.repeated import Objective, Repeated, Slope
from latentvars.program import Expectation, GlobalSpace, Program, Restriction
from latentvars.program.run import Run
from latentvars.rows import Batch

# statistics, offsets, and weights and values of what is retained
Inputs = tuple[Mapping[str, Statistics], Mapping[str, Tensor], list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]]
Evaluated = Callable[[Tensor], tuple[Tensor, Tensor]]

STUCK = 1e-3  # slope relative to Q at which L-BFGS must find a way up
NEAR_FLOOR = 1.005  # scales this near to their floor stand on it
EDGE = 60.0  # where a value on the edge of its support is put on the unconstrained scale


@dataclass(frozen=True)
class Effort:
    """How far L-BFGS goes in one M-step.

    Attributes:
        steps: most steps.
        tolerance: relative gain of Q below which it ends.
    """

    steps: int
    tolerance: float


EXHAUSTIVE = Effort(steps=100, tolerance=1e-15)


@dataclass(frozen=True)
class Retained:
    """A batch with the posterior weights of its factors, and their values: expected counts follow from the posterior.

    A value and its weights are those of one set of globals, whatever the globals are that the factor is scored at.
    Continuous locals stand where a run of the guide drew them.
    """

    batch: Batch
    weights: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    guide: Run | None = None


@dataclass(frozen=True)
class Expected:
    """What the E-step of some rows leaves behind; adds up.

    Attributes:
        objective: Σ w log p(x), nats; with the log prior of the globals once.
        statistics: leaf → expected sufficient statistics.
        retained: batches with weights, for factors without statistics.
        offsets: leaf of normals → how far the centre of its statistics lies from that of the reference, where it does.
    """

    objective: float
    statistics: Mapping[str, Statistics]
    retained: tuple[Retained, ...] = field(default=(), metadata=HERE)
    offsets: Mapping[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: Expected) -> Expected:
        one, two = (self, other) if _alike(self.offsets, other.offsets) else (self.moved_back(), other.moved_back())
        statistics = {
            leaf: {name: value + two.statistics[leaf][name] for name, value in own.items()}
            for leaf, own in one.statistics.items()
        }
        return Expected(self.objective + other.objective, statistics, self.retained + other.retained, one.offsets)

    def moved_back(self) -> Expected:
        """The same with all statistics about the centres of the references."""
        moved = {leaf: about(self.statistics[leaf], offset) for leaf, offset in self.offsets.items()}
        return replace(self, statistics={**self.statistics, **moved}, offsets={})

    @property
    def inputs(self) -> Inputs:
        """All numbers that the M-step reads of it."""
        statistics = {leaf: dict(own) for leaf, own in self.statistics.items()}
        return statistics, self.offsets, [(kept.weights, kept.values) for kept in self.retained]

    @property
    def constants(self) -> tuple[Any, ...]:
        """What the M-step reads of it besides."""
        return tuple(held for kept in self.retained for held in (kept.batch, kept.guide))

    def holding(self, inputs: Inputs) -> Expected:
        """The same with other :attr:`inputs`."""
        statistics, offsets, kept = inputs
        retained = tuple(
            replace(one, weights=weights, values=values)
            for one, (weights, values) in zip(self.retained, kept, strict=True)
        )
        return Expected(self.objective, statistics, retained, offsets)

    def scaled(self, factor: float) -> Expected:
        """Statistics and objective times a factor; for plans that retain nothing."""
        statistics = {
            leaf: {name: factor * value for name, value in own.items()} for leaf, own in self.statistics.items()
        }
        return Expected(factor * self.objective, statistics, offsets=self.offsets)


def _alike(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[leaf]) for leaf, value in one.items())


def about(statistics: Statistics, offset: Tensor) -> Statistics:
    """Statistics of normals about another centre: the old one less ``offset``."""
    weight, first, second = (statistics[name] for name in ("weight", "first", "second"))
    if second.dim() == first.dim():
        moved = second + 2 * offset * first + offset.square() * weight
        return {"weight": weight, "first": first + offset * weight, "second": moved}
    cross = offset[..., :, None] * first[..., None, :]
    square = offset[..., :, None] * offset[..., None, :] * weight[..., None, None]
    moved = second + cross + cross.mT + square
    return {"weight": weight, "first": first + offset * weight[..., None], "second": moved}


def reference_of(plan: Plan, leaf: str, total: Expected) -> Reference:
    """The reference of a leaf, with the centre that its statistics have."""
    found = plan.references[leaf]
    return found._replace(centre=found.centre + total.offsets[leaf]) if leaf in total.offsets else found


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


def expected(program: Program, plan: Plan, values: Mapping[str, Tensor], batch: Batch, *, with_prior: bool) -> Expected:
    """The E-step of a batch, reduced to what the M-step needs; the log prior is counted where it is asked for."""
    expectation = program.expectation(values, batch)
    objective = float((expectation.score.rows * batch.weights).sum())
    if with_prior:
        objective += float(expectation.score.prior)
    return reduced(plan, expectation, batch, objective)


def reduced(plan: Plan, expectation: Expectation, batch: Batch, objective: float, guide: Run | None = None) -> Expected:
    """What the M-step needs of an E-step whose share of the objective is known, nats."""
    found = all_leaves(expectation.factors)
    statistics = _statistics(plan, found)
    kept = {path: found[path].weights for path in plan.retained}
    held = {path: found[path].value for path in plan.retained}
    return Expected(objective, statistics, (Retained(batch, kept, held, guide),) if kept else ())


def em_step(
    program: Program, plan: Plan, values: Mapping[str, Tensor], batch: Batch
) -> tuple[dict[str, Tensor], Tensor]:
    """One whole step on one batch as tensors only: the next globals, and the objective before them, nats.

    For plans of closed forms alone; nothing in it depends on values, so that it can be captured.
    """
    expectation = program.expectation(values, batch)
    total = Expected(0.0, _statistics(plan, all_leaves(expectation.factors)))
    objective = (expectation.score.rows * batch.weights).sum() + expectation.score.prior
    return maximise(program, plan, values, total), objective


def _statistics(plan: Plan, found: Mapping[str, Factor]) -> dict[str, Statistics]:
    return {leaf.name: leaf.statistics(found, plan.references[leaf.name]) for leaf in plan.leaves}


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


@dataclass(frozen=True)
class Ascent:
    """What L-BFGS climbs.

    Attributes:
        objective: of all globals and the inputs, scalar, nats.
        inputs: what changes between passes.
        constants: what the objective reads besides, and does not change.
        repeated: what is known of it from earlier passes; None: it is not asked for often.
    """

    objective: Objective
    inputs: Any = ()
    constants: tuple[Any, ...] = ()
    repeated: Repeated | None = None

    def slope(self, program: Program, space: GlobalSpace, current: Mapping[str, Tensor]) -> Evaluated:
        """The function over some globals in unconstrained space."""
        rest = {name: value for name, value in current.items() if name not in space.names}
        slope = Slope(program, space, self.objective, rest, self.inputs)
        if self.repeated is None:
            return slope.plain
        return partial(self.repeated.evaluated, slope, self.constants)


def climb(
    program: Program,
    names: tuple[str, ...],
    ascent: Ascent,
    current: dict[str, Tensor],
    effort: Effort = EXHAUSTIVE,
    floors: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """L-BFGS over some globals in unconstrained space; a step that does not improve is not taken.

    ``floors`` has least values of positive globals; one that begins lower does not fall further.

    Raises:
        NumericalError: the objective or its slope is not finite, or the slope leads nowhere.
    """
    from scipy.optimize import Bounds, minimize  # a quarter of a second, for models without closed forms alone

    space = program.space.subset(names)
    slope_at = ascent.slope(program, space, current)

    def negative(free: np.ndarray) -> tuple[float, np.ndarray]:
        found, gradient = slope_at(torch.tensor(free, dtype=program.dtype))
        value = float(found)
        return (-value, -gradient.double().numpy()) if np.isfinite(value) else (np.inf, np.zeros_like(free))

    free = space.unconstrain({name: current[name] for name in space.names}).double()
    start = free.nan_to_num().clamp(-EDGE, EDGE).numpy()
    before, slope = negative(start)
    _check_slope(space, before, slope)
    least = np.minimum(_lowest(space, floors or {}), start)
    slope = np.where((start <= least) & (slope > 0), 0.0, slope)  # downwards there is no way on
    options = {"maxiter": effort.steps, "ftol": effort.tolerance, "gtol": 1e-9}
    bounds = Bounds(least, np.inf) if floors else None  # type: ignore[arg-type]
    found = minimize(negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    if not found.fun < before:
        if np.abs(slope).max() > STUCK * max(1.0, abs(before)) and np.abs(start).max() < EDGE:
            raise _stuck(space, before, slope, str(found.message))
        return current
    values, _ = space.constrain(torch.tensor(found.x, dtype=program.dtype))
    # storage of their own: parts of one vector lie at odd addresses, on which the last bit of a product can depend
    return {**current, **{name: value.clone() for name, value in values.items()}}


def _lowest(space: GlobalSpace, floors: Mapping[str, Tensor]) -> np.ndarray:
    """Lower bounds on the unconstrained scale, ``[size]``."""
    found = []
    for site in space.sites:
        low = torch.full((site.free,), -torch.inf, dtype=torch.float64)
        if site.name in floors and bool((floors[site.name] > 0).all()):
            low = space.subset((site.name,)).unconstrain({site.name: floors[site.name]}).double()
        found.append(low)
    return torch.cat(found).numpy()


def _check_slope(space: GlobalSpace, value: float, slope: np.ndarray) -> None:
    """Q has a finite value and slope where L-BFGS begins.

    Raises:
        NumericalError: with the globals.
    """
    broken = _at(space, ~np.isfinite(slope))
    if np.isfinite(value) and not broken:
        return
    raise NumericalError(
        given=f"an M-step by L-BFGS in which Q is {-value:.6g} nats"
        + (f" and its derivatives with respect to {broken} are not finite" if broken else f", of {list(space.names)}"),
        needed="a finite Q with finite derivatives at the current globals",
        remedy="keep these globals away from where their density has no derivative (a prior, or start=), "
        "or write the density without roots and quotients that vanish there",
    )


def _stuck(space: GlobalSpace, value: float, slope: np.ndarray, message: str) -> NumericalError:
    steep = _at(space, np.abs(slope) >= 0.1 * np.abs(slope).max())
    return NumericalError(
        given=f"an M-step in which L-BFGS found no step up from Q = {-value:.6g} nats, although its largest derivative "
        f"is {np.abs(slope).max():.3g}, with respect to {steep} ({message})",
        needed="a density whose derivatives are those of its values",
        remedy="remove detach(), rounding and draws from the model, and check own distributions with "
        "torch.autograd.gradcheck",
    )


def _at(space: GlobalSpace, chosen: np.ndarray) -> list[str]:
    """The globals to which some chosen unconstrained number belongs."""
    parts = np.split(chosen, np.cumsum([site.free for site in space.sites])[:-1])
    return [site.name for site, part in zip(space.sites, parts, strict=True) if part.any()]
