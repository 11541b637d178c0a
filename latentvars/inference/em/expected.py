"""What the E-step of some rows leaves behind: expected sufficient statistics, and what has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from latentvars.contract import Factor
from latentvars.families import Reference, Statistics
from latentvars.inference.em.m_step_plan import Plan, all_leaves
from latentvars.inference.running.flattening import HERE
from latentvars.program import Expectation, Program
from latentvars.program.run import Run
from latentvars.rows import Batch

# statistics, offsets, and weights and values of what is retained
Inputs = tuple[Mapping[str, Statistics], Mapping[str, Tensor], list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]]


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
    statistics = statistics_of(plan, found)
    kept = {path: found[path].weights for path in plan.retained}
    held = {path: found[path].value for path in plan.retained}
    return Expected(objective, statistics, (Retained(batch, kept, held, guide),) if kept else ())


def statistics_of(plan: Plan, found: Mapping[str, Factor]) -> dict[str, Statistics]:
    """Expected sufficient statistics of the leaves of a plan, from factors with their posterior weights."""
    return {leaf.name: leaf.statistics(found, plan.references[leaf.name]) for leaf in plan.leaves}
