"""Statistics once: models whose likelihood knows the data through sums that do not depend on the globals.

Such a model is known by its plan: no discrete local is left, and each observed site is one distribution of a family
whose arguments are the same for all rows. Its sums and the part of its density that no argument enters are found in the
first pass; later ones cost nothing in the number of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor

from latentvars.contract import Factor
from latentvars.distributions import Flat
from latentvars.families import Selection, Statistics, without_wrappers
from latentvars.inference.em.expected import Expected, expected
from latentvars.inference.em.m_step_plan import Leaf, Plan, all_leaves
from latentvars.program import Program
from latentvars.program.run import Run
from latentvars.rows import ROWS_PLATE, Batch


@dataclass
class Held:
    """What was found before.

    Attributes:
        batch: the last one.
        place: its key.
        found: rows of a batch → its statistics, and the constant of its objective.
    """

    batch: Batch | None = None
    place: bytes = b""
    found: dict[bytes, tuple[Mapping[str, Statistics], float]] = field(default_factory=dict)

    def of(self, batch: Batch) -> bytes:
        """The key of a batch: its rows."""
        if self.batch is not batch:
            self.batch, self.place = batch, hashlib.sha256(batch.index.numpy().tobytes()).digest()
        return self.place


@dataclass(frozen=True)
class FixedStatistics:
    """The E-step of such a model.

    Attributes:
        program: the model.
        plan: its M-step.
        flat: whether all priors are.
        whole: whether the statistics give all of the density.
        held: statistics of the batches that were met.
    """

    program: Program
    plan: Plan
    flat: bool
    whole: bool
    held: Held = field(default_factory=Held, compare=False)

    @staticmethod
    def of(program: Program, plan: Plan, run: Run) -> FixedStatistics | None:
        """The E-step, or None where the model is another one; of rows without gaps and known labels.

        Args:
            program, plan: the model and its M-step, which keeps no factor.
            run: the model at any globals, on its sketch.
        """
        roles, local = program.roles, run.local
        if roles.discrete:
            return None
        sources = [source for leaf in plan.leaves for source in leaf.sources.values()]
        own = {path for leaf in plan.leaves for path in leaf.paths}
        plain = own <= local.keys() and all(site.mask is None for site in local.values())
        if not plain or roles.continuous or not plan.leaves or any(source is None for source in sources):
            return None
        flat = all(isinstance(without_wrappers(run.sites[name].fn), Flat) for name in program.space.names)
        rows_only = all(frozenset(site.frames.values()) == {ROWS_PLATE} for site in local.values())
        whole = rows_only and own == local.keys() and all(leaf.family.whole for leaf in plan.leaves)
        return FixedStatistics(program, plan, flat, whole)

    def expected(self, values: Mapping[str, Tensor], batch: Batch, *, with_prior: bool) -> Expected:
        """What :func:`latentvars.inference.em.expected.expected` gives of a batch."""
        place, known = self.held.of(batch), self.held.found
        with torch.no_grad():
            likelihood = None
            if place not in known:
                statistics, total = self._first(values, batch)
                likelihood = self._likelihood(values, statistics)
                known[place] = statistics, 0.0 if total is None else total - likelihood
            statistics, constant = known[place]
            objective = constant + (self._likelihood(values, statistics) if likelihood is None else likelihood)
            if with_prior and not self.flat:
                objective += float(self.program.prior(values))
        return Expected(objective, statistics)

    def _first(self, values: Mapping[str, Tensor], batch: Batch) -> tuple[Mapping[str, Statistics], float | None]:
        """Statistics of a batch, and its objective where they do not give it by themselves."""
        if not self.whole:
            found = expected(self.program, self.plan, values, batch, with_prior=False)
            return found.statistics, found.objective
        run = self.program.trace(values, batch)
        factors = {name: Factor(site.fn, site.value, batch.weights) for name, site in run.local.items()}
        found = all_leaves(factors)
        return {leaf.name: leaf.statistics(found, self.plan.references[leaf.name]) for leaf in self.plan.leaves}, None

    def _likelihood(self, values: Mapping[str, Tensor], statistics: Mapping[str, Statistics]) -> float:
        return sum(float(_likelihood(leaf, self.plan, values, statistics[leaf.name])) for leaf in self.plan.leaves)

    def lifted(self, starts: int) -> Together | None:
        """The M-step of one start in one go, where a family has such a thing; None: it is the general one."""
        return Together.of(self.program, self.plan) if starts == 1 else None


@dataclass(frozen=True)
class Together:
    """The M-step of a model that is one law whose arguments are its globals, all of them at once."""

    plan: Plan
    leaf: Leaf
    names: Mapping[str, str]

    @staticmethod
    def of(program: Program, plan: Plan) -> Together | None:
        """The M-step, or None where the model is another one: priors, fixed or tied numbers, several laws."""
        flat = all(rule.closed and rule.prior is None and not rule.hierarchical for rule in plan.rules)
        if not flat or len(plan.leaves) != 1 or any(site.restriction is not None for site in program.space.sites):
            return None
        (leaf,) = plan.leaves
        names = {argument: one.name for argument, one in leaf.sources.items() if _is_global(one)}
        whole = len(names) == len(leaf.sources) and {rule.name for rule in plan.rules} == set(names.values())
        return Together(plan, leaf, names) if whole and not leaf.target else None

    def one(self, values: Mapping[str, Tensor], total: Expected) -> dict[str, Tensor] | None:
        """The next globals; None where the general M-step has to find them."""
        arguments, statistics = self.leaf.taken(values), total.statistics[self.leaf.name]
        found = self.leaf.family.together(arguments, statistics, self.plan.references[self.leaf.name])
        return None if found is None else {name: found[argument] for argument, name in self.names.items()}


def _is_global(source: Selection | Tensor | None) -> TypeGuard[Selection]:
    """Whether an argument is a global as it is."""
    return isinstance(source, Selection) and source.blocks == 1


def _likelihood(leaf: Leaf, plan: Plan, values: Mapping[str, Tensor], statistics: Statistics) -> Tensor:
    return leaf.family.log_likelihood(leaf.taken(values), statistics, plan.references[leaf.name])
