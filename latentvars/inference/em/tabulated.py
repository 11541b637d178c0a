"""The E-step of collapsed mixtures and chains over one exponential family, as products with a table of features.

Such a model is known by its plan: one observed site, all of whose arguments are selections of globals. Its densities
are worked out for all points and components by one matrix product, and so are its expected statistics; what the globals
are is read off a run of the model on two rows. The statistics are those of the general E-step, so is everything after
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Independent

from latentvars.distributions import Flat, HiddenMarkov, Mixture
from latentvars.families import Arguments, Statistics, without_wrappers
from latentvars.families.tables import WIDEST, Form, Packed, Table, is_normal, table_of
from latentvars.inference.em.expected import Expected
from latentvars.inference.em.lifted import Lifted, padded
from latentvars.inference.em.m_step_plan import Leaf, Plan
from latentvars.inference.em.mixture_step import MixtureStep, mixture_step
from latentvars.inference.em.normal_rules import NormalRules
from latentvars.inference.em.points import Points
from latentvars.kernels.chains import Chains, Expectation, Observed, Posterior, expected, posterior
from latentvars.kernels.mixtures import Normals, natural_of
from latentvars.program import Program
from latentvars.program.run import Run
from latentvars.rows import Batch


@dataclass
class Held:
    """What was met before.

    Attributes:
        batch, points: the last batch of all rows and its observations: every pass of an unbatched run meets it again.
        apart: whether there were chains that cannot be worked on side by side.
    """

    batch: Batch | None = None
    points: Points | None = None
    apart: bool = False


@dataclass(frozen=True)
class Tabulated:
    """A site whose E-step goes by a table.

    Attributes:
        program: the model.
        plan: its M-step.
        start: any globals.
        site: name of the site.
        leaf: its emission.
        table: the table of the emission.
        direct: whether all arguments are selections of globals with flat priors, so that no run of the model is needed.
        rules: means and spreads that are globals of their own; None where there are none.
        held: observations that were read before.
    """

    program: Program
    plan: Plan
    start: Mapping[str, Tensor]
    site: str
    leaf: Leaf
    table: Table
    direct: bool
    rules: NormalRules | None
    held: Held = field(default_factory=Held, compare=False)

    @staticmethod
    def of(program: Program, plan: Plan, start: Mapping[str, Tensor], run: Run) -> Tabulated | None:
        """The tabulated E-step of a model, or None where it does not have one; of rows without gaps and known labels.

        Args:
            program, plan: the model and its M-step, which keeps no factor.
            start: any globals.
            run: the model at them, on its sketch.
        """
        if program.dtype != torch.float64 or len(run.local) != 1:
            return None
        (site,) = run.local.values()
        fn = _collapsed(site.fn)
        if fn is None or site.mask is not None:
            return None
        leaf = next((one for one in plan.leaves if one.paths == (f"{site.name}.{_part(fn)}",)), None)
        if leaf is None or leaf.target[:1] != Size([fn.labels]) or not _is_shared(fn):
            return None
        lengths = program.sketch.lengths if isinstance(fn, HiddenMarkov) else None
        law, value = without_wrappers(_emission(fn)), _flat(site.value, lengths)
        table = table_of(leaf.family, leaf.family.arguments(law), law, value, leaf.target)
        if table is None or value.device.type != "cpu":
            return None
        direct, rules = _is_direct(program, plan, fn, run), NormalRules.of(plan, leaf, table)
        return Tabulated(program, plan, start, site.name, leaf, table, direct, rules)

    def lifted(self, starts: int) -> Lifted | None:
        """The M-step of several starts; None where it has more than closed forms."""
        return Lifted.of(self.program, self.plan, starts, self.rules)

    def points(self, batch: Batch) -> Points:
        """The observations of a batch; those of all rows are kept."""
        if self.held.batch is batch and self.held.points is not None:
            return self.held.points
        with torch.no_grad():
            site = self.program.trace(self.start, batch).sites[self.site]
        fn = _collapsed(site.fn)
        assert fn is not None
        lengths = batch.lengths if isinstance(fn, HiddenMarkov) else None
        reference = self.plan.references[self.leaf.name]
        found = Points.of(_flat(site.value, lengths), self.table, reference, batch.weights, lengths)
        if len(batch) == batch.total:
            self.held.batch, self.held.points = batch, found
        return found

    def expected(self, values: Mapping[str, Tensor], batch: Batch, *, with_prior: bool) -> Expected | None:
        """What :func:`latentvars.inference.em.expected.expected` gives of a batch; None where products lose digits."""
        points = self.points(batch)
        with torch.no_grad():
            arguments, laws, prior = self._selected(values) if self.direct else self._traced(values)
            if "weights" in laws:
                total = self._mixture(points, arguments, **laws)
            else:
                natural = self._natural(points, arguments)
                total = None if natural is None else self._chains(points, natural, laws)
        if total is None or not math.isfinite(total.objective):
            return None
        return replace(total, objective=total.objective + (prior if with_prior else 0.0))

    def many(self, lifted: Lifted, values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """An EM step of a mixture at S sets of globals.

        Args:
            lifted: its M-step.
            values: globals, ``[S, *shape]``.
            batch: rows.

        Returns:
            Objectives without priors ``[S]``, nats, and the globals after the step.
        """
        points = self.points(batch)
        if self.rules is None:
            arguments = self._padded(lifted.arguments(self.leaf, values), lifted.starts)
        else:
            arguments = self.rules.given(values)
        (law,) = (leaf for leaf in self.plan.leaves if leaf is not self.leaf)
        weights = lifted.arguments(law, values)["probs"].reshape(lifted.starts, -1)
        step = self._step(points, arguments, weights)
        statistics = {self.leaf.name: step.statistics, law.name: {"counts": step.counts}}
        offsets = {} if step.offset is None else {self.leaf.name: step.offset}
        return step.objective, lifted.maximise(values, statistics, offsets)

    def _step(self, points: Points, arguments: Arguments | Normals, weights: Tensor) -> MixtureStep:
        leaf = self.leaf
        return mixture_step(
            leaf.family, self.table, points, arguments, weights, leaf.target, self.plan.references[leaf.name]
        )

    def _mixture(self, points: Points, arguments: Arguments | Normals, weights: Tensor) -> Expected:
        arguments = arguments if isinstance(arguments, Normals) else self._padded(arguments, 1)
        step = self._step(points, arguments, weights.reshape(1, -1))
        own = replace(step.statistics, lead=step.statistics.lead[1:])
        offsets = {} if step.offset is None else {self.leaf.name: step.offset[0]}
        statistics = {self.leaf.name: own} | self._counts({"weights": step.counts[0]})
        return Expected(float(step.objective), statistics, offsets=offsets)

    def _padded(self, arguments: Arguments, starts: int) -> Arguments:
        rank, events = len(self.leaf.target), self.leaf.family.events
        return {name: padded(value, events[name], rank, starts) for name, value in arguments.items()}

    def _natural(self, points: Points, arguments: Arguments | Normals) -> Tensor | None:
        """Coefficients of all features, ``[K, F]``; None where products lose digits."""
        at = self.plan.references[self.leaf.name]
        if isinstance(arguments, Normals):
            natural, sharpest = natural_of(arguments, at.centre.reshape(-1))
            return natural if sharpest * points.reach < WIDEST else None
        if not self.table.precise(arguments, points.farthest):
            return None
        return self.table.natural(arguments, self.leaf.target, at)

    def _chains(self, points: Points, natural: Tensor, laws: Mapping[str, Tensor]) -> Expected | None:
        own, shared = self._parted(natural)
        found = self._observed_chain(points, own, **laws)
        if found is None and not bool(natural.isfinite().all()):
            return None
        objective, sums, counts = found or self._chain(points, own, **laws)
        sums = self._completed(points, sums, len(own))
        packed = Packed(self.table, sums, self.leaf.target[:1], self.leaf.target)
        statistics: dict[str, Statistics] = {self.leaf.name: packed} | self._counts(counts)
        return Expected(objective + float(points.shared @ shared[0]) + points.base, statistics)

    def _parted(self, natural: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of own and of shared features."""
        own = natural.shape[1] if self.table.own is None else self.table.own
        return natural[:, :own], natural[:, own:]

    def _completed(self, points: Points, sums: Tensor, components: int) -> Tensor:
        """Sums of all features; those that all components share are divided evenly among them."""
        if not len(points.shared):
            return sums
        return torch.cat([sums, (points.shared / components).expand(len(sums), -1)], -1)

    def _selected(self, values: Mapping[str, Tensor]) -> tuple[Arguments | Normals, dict[str, Tensor], float]:
        """Arguments of the emission (the normals themselves, where they are globals), laws of the local and log prior,
        without a run of the model: all priors are flat.
        """
        laws = {
            leaf.name.removeprefix(f"{self.site}."): leaf.taken(values)["probs"]
            for leaf in self.plan.leaves
            if leaf is not self.leaf
        }
        if self.rules is not None:
            return (
                self.rules.given({name: values[name][None] for name in (self.rules.loc, self.rules.spread)}),
                laws,
                0.0,
            )
        return self.leaf.taken(values), laws, 0.0

    def _traced(self, values: Mapping[str, Tensor]) -> tuple[Arguments, dict[str, Tensor], float]:
        """The same, read off a run of the model on two rows."""
        run = self.program.trace(values, self.program.sketch)
        fn = _collapsed(run.sites[self.site].fn)
        assert fn is not None
        laws = (
            {"weights": fn.weights} if isinstance(fn, Mixture) else {"initial": fn.initial, "transition": fn.transition}
        )
        arguments = self.leaf.family.arguments(without_wrappers(_emission(fn)))
        return arguments, laws, float(run.outside(self.program.dtype))

    def _counts(self, counts: Mapping[str, Tensor]) -> dict[str, Statistics]:
        """The counts of the leaves besides the emission."""
        found: dict[str, Statistics] = {}
        for leaf in self.plan.leaves:
            if leaf is not self.leaf:
                value = counts[leaf.name.removeprefix(f"{self.site}.")]
                found[leaf.name] = {"counts": value.reshape(*leaf.target, value.shape[-1])}
        return found

    def _observed_chain(
        self, points: Points, natural: Tensor, initial: Tensor, transition: Tensor
    ) -> tuple[float, Tensor, dict[str, Tensor]] | None:
        """Chains whose densities are worked out where they are needed; None where some have to go another way."""
        codes = self.table.form == Form.CODES
        finite = natural if not codes else natural.nan_to_num(neginf=0.0)  # a symbol may be impossible
        if self.table.form == Form.TABLE or self.held.apart or not np.isfinite(finite.numpy()).all():
            return None
        centre = self.plan.references[self.leaf.name].centre if is_normal(self.table) else natural.new_zeros(())
        given = Observed(
            self.table.form,
            points.matrix.numpy(),
            centre.reshape(-1).expand(points.matrix.shape[1]).contiguous().numpy(),
            (natural[:, 1:].mT if codes else natural).contiguous().numpy(),
            initial.reshape(-1).contiguous().numpy(),
            transition.reshape(len(natural), -1).contiguous().numpy(),
            *points.ranges,
        )
        found = expected(given, points.by_row.numpy())
        if found is None:
            self.held.apart = True
            return None
        sums = torch.from_numpy(found.sums)
        if codes:
            sums = torch.cat([sums.sum(0)[:, None], sums.mT], 1)
        return self._chain_counts(points, found, sums, initial, transition)

    def _chain(
        self, points: Points, natural: Tensor, initial: Tensor, transition: Tensor
    ) -> tuple[float, Tensor, dict[str, Tensor]]:
        reference = self.plan.references[self.leaf.name]
        (begins, lengths), states, at = points.ranges, len(natural), 0
        zeros = np.zeros(len(lengths), dtype=np.int64)
        emission = natural.new_empty((len(points.weights), states))
        for features, _ in points.chunks(self.table, reference, states):
            torch.mm(features.mT, natural.mT, out=emission[at : at + features.shape[1]])
            at += features.shape[1]
        chains = Chains(
            np.ascontiguousarray(initial.reshape(1, states).numpy()),
            zeros,
            np.ascontiguousarray(transition.reshape(1, 1, states, states).numpy()),
            zeros,
            emission.numpy(),
            begins,
            lengths,
        )
        found = posterior(chains, points.by_row.numpy(), by_chain=False)
        marginals = torch.from_numpy(found.marginals)
        sums, at = torch.zeros_like(natural), 0
        for features, _ in points.chunks(self.table, reference, states):
            sums += (features @ marginals[at : at + features.shape[1]]).mT
            at += features.shape[1]
        return self._chain_counts(points, found, sums, initial, transition)

    @staticmethod
    def _chain_counts(
        points: Points, found: Posterior | Expectation, sums: Tensor, initial: Tensor, transition: Tensor
    ) -> tuple[float, Tensor, dict[str, Tensor]]:
        first = found.initial_slopes.sum(0) * initial.numpy().reshape(-1)
        moves = found.slopes.reshape(transition.shape[-2:]) * transition.numpy().reshape(len(first), -1)
        objective = float(points.by_row.numpy() @ found.total)
        return objective, sums, {"initial": torch.from_numpy(first), "transition": torch.from_numpy(moves)}


def _collapsed(fn: Any) -> Mixture | HiddenMarkov | None:
    """The collapsed distribution of a site."""
    while isinstance(fn, Independent) or type(fn).__name__ == "ExpandedDistribution":
        fn = fn.base_dist
    return fn if isinstance(fn, Mixture | HiddenMarkov) and fn.known is None else None


def _is_direct(program: Program, plan: Plan, fn: Mixture | HiddenMarkov, run: Run) -> bool:
    parts = 2 if isinstance(fn, Mixture) else 3
    chosen = all(source is not None for leaf in plan.leaves for source in leaf.sources.values())
    priors = [without_wrappers(run.sites[name].fn) for name in program.space.names]
    return len(plan.leaves) == parts and chosen and all(isinstance(one, Flat) for one in priors)


def _emission(fn: Mixture | HiddenMarkov) -> Any:
    return fn.components if isinstance(fn, Mixture) else fn.emission


def _part(fn: Mixture | HiddenMarkov) -> str:
    return "components" if isinstance(fn, Mixture) else "emission"


def _is_shared(fn: Mixture | HiddenMarkov) -> bool:
    """Whether all rows have one law."""
    if isinstance(fn, Mixture):
        return fn.weights.dim() == 1 and len(fn.components.batch_shape) == 1
    return not (fn.moving or fn.emitting) and fn.initial.dim() == 1 and fn.transition.dim() == 2 and fn.is_shared


def _flat(value: Tensor, lengths: Tensor | None) -> Tensor:
    """Observations ``[M, *E]`` of rows ``[B, *E]`` or padded sequences ``[B, T, *E]``."""
    if lengths is None:
        return value
    valid = torch.arange(value.shape[1]) < lengths[:, None]
    return value.flatten(0, 1) if bool(valid.all()) else value[valid]
