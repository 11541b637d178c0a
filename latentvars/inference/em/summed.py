"""EM with discrete globals: latents that all rows share, summed out exactly over their joint values g.

The objective is log Σ_g p(θ, g) Π_n p(xₙ | θ, g)^{wₙ}. Given g the rows are independent, so the E-step of a batch is
one E-step for each g, and what a pass adds up stays apart for each g. The posterior p(g | x, θ) is known at the end of
the pass only; it weighs the parts in Q(θ′) = Σ_g p(g | x, θ) Q_g(θ′), which the M-step maximises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Size, Tensor

from latentvars.families import Reference, Selection
from latentvars.inference.em.ascent import Ascent, climb
from latentvars.inference.em.expected import Expected, expected
from latentvars.inference.em.m_step import Standing, collapsed, complete_objective, solved
from latentvars.inference.em.m_step_plan import PROBE_SEEDS, Leaf, Plan, Rule, make_plan, probe
from latentvars.inference.running.algorithm import Problem
from latentvars.program import Program
from latentvars.rows import Batch

ROUNDING = 1e-13  # share of the posterior below which a value of g moves no digit of the M-step
NOWHERE = "–"


@dataclass(frozen=True)
class SummedExpected:
    """What the E-step of some rows leaves behind for each joint value of the discrete globals; adds up.

    Attributes:
        parts: for each g, with log p(θ, g) + Σ w log p(x | θ, g) as its objective.
    """

    parts: tuple[Expected, ...]

    @property
    def objectives(self) -> np.ndarray:
        return np.array([part.objective for part in self.parts])

    @property
    def objective(self) -> float:
        """The logarithm of the sum over g, nats: that of all rows once all batches are added."""
        return float(np.logaddexp.reduce(self.objectives))

    @property
    def shares(self) -> np.ndarray:
        """The posterior of g."""
        return np.exp(self.objectives - self.objective)

    def __add__(self, other: SummedExpected) -> SummedExpected:
        return SummedExpected(tuple(map(add, self.parts, other.parts)))


@dataclass(frozen=True)
class SummedPlan:
    """The M-step of a model with discrete globals.

    Attributes:
        programs: the model given each joint value of them.
        plans: the M-step of each.
        rules: one for each continuous global, over all of them.
    """

    programs: tuple[Program, ...]
    plans: tuple[Plan, ...]
    rules: tuple[Rule, ...]

    @property
    def numeric(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.rules if not rule.closed and rule.possible)

    @property
    def retained(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for plan in self.plans for name in plan.retained))

    def expected(self, values: Mapping[str, Tensor], batch: Batch, *, with_prior: bool) -> SummedExpected:
        """The E-step of a batch for each value of the discrete globals."""
        found = [
            expected(program, plan, values, batch, with_prior=with_prior)
            for program, plan in zip(self.programs, self.plans, strict=True)
        ]
        return SummedExpected(tuple(found))

    def maximise(self, values: Mapping[str, Tensor], total: SummedExpected) -> dict[str, Tensor]:
        """One M-step: closed forms one global at a time, then L-BFGS on the rest together."""
        current = dict(values)
        for rule in self.rules:
            if rule.leaf is not None:
                current[rule.name] = self._closed(rule, current, total)
        if not self.numeric:
            return current
        floors = {name: least for plan in self.plans for name, least in plan.floors.items() if name in self.numeric}
        ascent = Ascent(lambda found, _: self.complete(found, total))
        return climb(self.programs[0], self.numeric, ascent, current, floors=floors)

    def complete(self, values: Mapping[str, Tensor], total: SummedExpected) -> Tensor:
        """Q(θ′) + log prior(θ′), scalar, nats, up to a constant; differentiable in the globals."""
        parts = [
            float(total.shares[k]) * complete_objective(self.programs[k], self.plans[k], values, total.parts[k])
            for k in _used(total)
        ]
        return reduce(torch.add, parts)

    def lowering(self, values: Mapping[str, Tensor], total: SummedExpected) -> list[str]:
        """The globals whose part of an M-step lowers Q + log prior: none, if every rule is right."""
        current, found = dict(values), []
        with torch.no_grad():
            before = float(self.complete(current, total))
            for rule in (rule for rule in self.rules if rule.closed):
                current[rule.name] = self._closed(rule, current, total)
                after = float(self.complete(current, total))
                if not after >= before - 1e-9 * abs(before):
                    found.append(rule.name)
                before = after
        return found

    def collapsed(self, values: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Components whose variance stands at the floor."""
        return tuple(dict.fromkeys(name for plan in self.plans for name in collapsed(plan, values)))

    def _closed(self, rule: Rule, current: Mapping[str, Tensor], total: SummedExpected) -> Tensor:
        """The closed form of one global from its places under every g, laid side by side."""
        places, shares, references = [], [], []
        for k in _used(total):
            own = _rule_of(self.plans[k], rule.name)
            if own.leaf is not None:
                places.append(Standing.of(self.programs[k], own, own.leaf, current, total.parts[k]))
                references.append(self.plans[k].references[own.leaf.name])
                shares.append(float(total.shares[k]))
        if not places:  # it stands nowhere under any g that is possible
            return current[rule.name]
        assert rule.leaf is not None
        family = rule.leaf.family
        standing = _side_by_side(places, shares, family.events)
        return solved(self.programs[0], rule, family, references[0], standing, current)


def make_summed_plan(problem: Problem, first: Batch, floor: float) -> SummedPlan:
    """Plan the M-step for each value of the discrete globals, and what can be done for all of them together."""
    program = problem.program
    programs = tuple(program.given(chosen) for chosen in program.roles.choices)
    plans = _with_common_references([make_plan(given, first, problem.start, floor) for given in programs])
    same = _same_priors(programs)
    rules = [_rule_over(program, rule.name, plans, rule.name in same) for rule in plans[0].rules]
    return SummedPlan(programs, plans, tuple(rules))


def _used(total: SummedExpected) -> list[int]:
    return np.flatnonzero(total.shares > ROUNDING).tolist()


def _rule_of(plan: Plan, name: str) -> Rule:
    return next(rule for rule in plan.rules if rule.name == name)


def _with_common_references(plans: list[Plan]) -> tuple[Plan, ...]:
    """Statistics of one factor are taken about one point whatever g is, so that they can be laid side by side."""
    common: dict[tuple, Reference] = {}
    found = []
    for plan in plans:
        own = {leaf.name: common.setdefault(_key(leaf), plan.references[leaf.name]) for leaf in plan.leaves}
        found.append(replace(plan, references=own))
    return tuple(found)


def _key(leaf: Leaf) -> tuple:
    return leaf.name, type(leaf.family), leaf.target, tuple(leaf.sources)


def _same_priors(programs: tuple[Program, ...]) -> set[str]:
    """The globals whose priors do not depend on g, told by their densities at two random points."""
    names = set(programs[0].space.names)
    for seed in PROBE_SEEDS:
        values = {name: value.detach() for name, value in probe(programs[0], seed).items()}
        first = None
        for program in programs:
            found = {name: prior.log_prob(values[name]).sum() for name, prior in program.global_sites(values).items()}
            first = found if first is None else first
            names = {name for name in names if torch.allclose(found[name], first[name], rtol=1e-12, atol=0)}
    return names


def _rule_over(program: Program, name: str, plans: tuple[Plan, ...], same_prior: bool) -> Rule:
    """Closed form where the global has the same one under every g under which it stands in a factor."""
    rules = [_rule_of(plan, name) for plan in plans]
    standing = [rule for rule in rules if rule.enters != NOWHERE]
    if not standing:
        return rules[0]
    shared = ", ".join(program.roles.choices.names)
    enters = ", ".join(dict.fromkeys(rule.enters for rule in standing))
    open_form = next((rule for rule in standing if not rule.closed), None)
    if open_form is not None:
        return replace(open_form, enters=enters)
    keys = {(_key(rule.leaf), rule.argument, rule.hierarchical) for rule in standing if rule.leaf is not None}
    if len(keys) > 1 or not same_prior:
        reason = f"its prior depends on {shared}" if not same_prior else f"enters otherwise under each {shared}"
        return replace(standing[0], enters=enters, leaf=None, argument="", reason=reason)
    return replace(standing[0], enters=enters)


def _side_by_side(places: list[Standing], shares: list[float], events: Mapping[str, int]) -> Standing:
    """Places of one global under several g as one place, their statistics weighted by the posterior of g."""
    target, first = places[0].target, places[0]
    rank = len(target)
    statistics = {
        name: torch.stack(
            [
                share * place.statistics[name].expand(target + place.statistics[name].shape[rank:])
                for place, share in zip(places, shares, strict=True)
            ]
        )
        for name in first.statistics
    }
    index = torch.stack([place.selection.index.expand(target) for place in places])
    selection = Selection(first.selection.name, first.selection.shape, first.selection.event, index)
    arguments = {
        name: torch.stack([_expanded(place.arguments[name], target, events[name]) for place in places])
        for name in first.arguments
    }
    return Standing(selection, arguments, statistics, Size((len(places), *target)))


def _expanded(argument: Tensor, target: Size, events: int) -> Tensor:
    """An argument over the whole batch shape."""
    return argument.expand(target + argument.shape[argument.dim() - events :])
