"""The E-step of collapsed mixtures and chains over one exponential family, as products with a table of features.

Such a model is known by its plan: one observed site, all of whose arguments are selections of globals. Its densities
are worked out for all points and components by one matrix product, and so are its expected statistics; what the globals
are is read off a run of the model on two rows. The statistics are those of the general E-step, so is everything after
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Independent

from latentvars.distributions import Flat, HiddenMarkov, Mixture
from latentvars.families import Arguments, Reference, Selection, Statistics, without_wrappers
from latentvars.families.tables import Table, table_of
from latentvars.inference.lifted import Lifted
from latentvars.inference.m_step import Expected
from latentvars.inference.m_step_plan import Leaf, Plan
from latentvars.program import Program
from latentvars.rows import Batch, Rows

KEPT = 2**22  # numbers: larger tables of features are made anew, chunk by chunk, in each pass
CHUNK = 2**18  # numbers of features and responsibilities at a time: what a cache holds


class ImpreciseError(Exception):
    """Components are so far apart, or so narrow, that products lose digits."""


@dataclass(frozen=True)
class Points:
    """Observations without padding.

    Attributes:
        value: ``[M, *E]``.
        weights: ``[M]``, of the rows that they belong to.
        base: Σ w h(x), the part of the log density that no argument enters, nats.
        farthest: ``[F]``, the largest size of each feature.
        kept: features ``[F, M]`` where they are small enough.
        shared: Σ w t(x) of the features that enter all components alike.
        lengths: ``[N]`` steps of each sequence; None where points are rows.
        by_row: weights ``[N]``.
    """

    value: Tensor
    weights: Tensor
    base: float
    farthest: Tensor
    kept: Tensor | None
    shared: Tensor
    lengths: Tensor | None
    by_row: Tensor


@dataclass
class Held:
    """The observations of the last batch of all rows: every pass of an unbatched run meets it again."""

    batch: Batch | None = None
    points: Points | None = None


@dataclass(frozen=True)
class Tabulated:
    """A site whose E-step goes by a table.

    Attributes:
        program: the model.
        plan: its M-step.
        site: name of the site.
        leaf: its emission.
        table: the table of the emission.
        direct: whether all arguments are selections of globals with flat priors, so that no run of the model is needed.
        held: observations that were read before.
    """

    program: Program
    plan: Plan
    site: str
    leaf: Leaf
    table: Table
    direct: bool
    held: Held = field(default_factory=Held, compare=False)

    @staticmethod
    def of(program: Program, plan: Plan, rows: Rows) -> Tabulated | None:
        """The tabulated E-step of a model, or None where it does not have one."""
        if rows.observed is not None or rows.known or plan.retained or program.roles.choices:
            return None
        if program.dtype != torch.float64:
            return None
        sketch = program.sketch
        with torch.no_grad():
            run = program.trace(program.prior_draw(0), sketch)
        if len(run.local) != 1:
            return None
        (site,) = run.local.values()
        fn = _collapsed(site.fn)
        if fn is None or site.mask is not None:
            return None
        leaf = next((one for one in plan.leaves if one.paths == (f"{site.name}.{_part(fn)}",)), None)
        if leaf is None or leaf.target[:1] != Size([fn.labels]) or not _is_shared(fn):
            return None
        lengths = sketch.lengths if isinstance(fn, HiddenMarkov) else None
        law, value = without_wrappers(_emission(fn)), _flat(site.value, lengths)
        table = table_of(leaf.family, leaf.family.arguments(law), law, value, leaf.target)
        if table is None or value.device.type != "cpu":
            return None
        return Tabulated(program, plan, site.name, leaf, table, _is_direct(program, plan, fn))

    def points(self, batch: Batch) -> Points:
        """The observations of a batch; those of all rows are kept."""
        if self.held.batch is batch and self.held.points is not None:
            return self.held.points
        with torch.no_grad():
            site = self.program.trace(self.program.prior_draw(0), batch).sites[self.site]
        fn = _collapsed(site.fn)
        assert fn is not None
        lengths = batch.lengths if isinstance(fn, HiddenMarkov) else None
        reference = self.plan.references[self.leaf.name]
        found = _points(_flat(site.value, lengths), self.table, reference, batch.weights, lengths)
        if len(batch) == batch.total:
            self.held.batch, self.held.points = batch, found
        return found

    def expected(self, values: Mapping[str, Tensor], batch: Batch, *, with_prior: bool) -> Expected | None:
        """What :func:`latentvars.inference.m_step.expected` gives of a batch; None where products lose digits."""
        points = self.points(batch)
        with torch.no_grad():
            arguments, laws, prior = self._selected(values) if self.direct else self._traced(values)
            if not self.table.precise(arguments, points.farthest):
                return None
            natural = self.table.natural(arguments, self.leaf.target, self.plan.references[self.leaf.name])
            if not bool(natural.isfinite().all()):
                return None
            own, shared = self._parted(natural)
            way = self._mixture if "weights" in laws else self._chain
            objective, sums, counts = way(points, own, **laws)
            sums = self._completed(points, sums, len(own))
            statistics = {self.leaf.name: self.table.statistics(sums, self.leaf.target)} | self._counts(counts)
        objective += float(points.shared @ shared[0]) + points.base
        return Expected(objective + (prior if with_prior else 0.0), statistics)

    def many(self, lifted: Lifted, values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Statistics]]:
        """The E-step of a mixture at S sets of globals.

        Args:
            lifted: its M-step.
            values: globals, ``[S, *shape]``.
            batch: rows.

        Returns:
            Objectives without priors ``[S]``, nats, and leaf → statistics ``[S, *target, *event]``.

        Raises:
            ImpreciseError: products would lose digits.
        """
        points, starts, target = self.points(batch), lifted.starts, self.leaf.target
        every = Size((starts * target[0], *target[1:]))
        arguments = {
            name: value.expand((starts, *target, *value.shape[value.dim() - events :])).flatten(0, 1)
            for name, value in lifted.arguments(self.leaf, values).items()
            for events in [self.leaf.family.events[name]]
        }
        if not self.table.precise(arguments, points.farthest):
            raise ImpreciseError
        (weights,) = (lifted.arguments(leaf, values)["probs"] for leaf in self.plan.leaves if leaf is not self.leaf)
        natural = self.table.natural(arguments, every, self.plan.references[self.leaf.name])
        natural, shared = self._parted(natural)
        objective, sums = self._sums(points, natural, weights.reshape(starts, -1))
        counts = {f"{self.site}.weights": {"counts": sums[:, 0].reshape(starts, target[0])}}
        own = self.table.statistics(self._completed(points, sums, target[0]), every)
        statistics = {name: value.reshape(starts, target[0], *value.shape[1:]) for name, value in own.items()}
        objective = objective + shared.reshape(starts, target[0], -1)[:, 0] @ points.shared + points.base
        return objective, {self.leaf.name: statistics} | counts

    def _parted(self, natural: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of own and of shared features."""
        own = natural.shape[1] if self.table.own is None else self.table.own
        return natural[:, :own], natural[:, own:]

    def _completed(self, points: Points, sums: Tensor, components: int) -> Tensor:
        """Sums of all features; those that all components share are divided evenly among them."""
        if not len(points.shared):
            return sums
        return torch.cat([sums, (points.shared / components).expand(len(sums), -1)], -1)

    def _selected(self, values: Mapping[str, Tensor]) -> tuple[Arguments, dict[str, Tensor], float]:
        """Arguments of the emission, laws of the local and log prior, without a run of the model: all priors are
        flat.
        """
        laws = {
            leaf.name.removeprefix(f"{self.site}."): _taken(leaf, values)["probs"]
            for leaf in self.plan.leaves
            if leaf is not self.leaf
        }
        return _taken(self.leaf, values), laws, 0.0

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

    def _mixture(self, points: Points, natural: Tensor, weights: Tensor) -> tuple[float, Tensor, dict[str, Tensor]]:
        objective, sums = self._sums(points, natural, weights.reshape(1, -1))
        return float(objective), sums, {"weights": sums[:, 0]}

    def _sums(self, points: Points, natural: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Σ w log p(x) of S mixtures, ``[S]``, nats, and Σ w r t(x), ``[S·K, F]``.

        Args:
            natural: of the components of all, ``[S·K, F]``.
            weights: ``[S, K]``.
        """
        natural = torch.cat([natural[:, :1] + weights.reshape(-1, 1).log(), natural[:, 1:]], 1)
        objective, sums = natural.new_zeros(len(weights)), torch.zeros_like(natural)
        for features, by_point in self._chunks(points, len(natural)):
            joint = (natural @ features).reshape(*weights.shape, -1)
            top = joint.amax(1, keepdim=True)
            joint.sub_(top).exp_()
            total = joint.sum(1, keepdim=True)
            objective += (total.log() + top)[:, 0] @ by_point
            sums += joint.mul_(by_point / total).flatten(0, 1) @ features.mT
        return objective, sums

    def _chain(
        self, points: Points, natural: Tensor, initial: Tensor, transition: Tensor
    ) -> tuple[float, Tensor, dict[str, Tensor]]:
        import numpy as np

        from latentvars.kernels.chains import Chains, posterior

        assert points.lengths is not None
        lengths, states, at = points.lengths.numpy(), len(natural), 0
        zeros = np.zeros(len(lengths), dtype=np.int64)
        emission = natural.new_empty((len(points.weights), states))
        for features, _ in self._chunks(points, states):
            torch.mm(features.mT, natural.mT, out=emission[at : at + features.shape[1]])
            at += features.shape[1]
        chains = Chains(
            np.ascontiguousarray(initial.reshape(1, states).numpy()),
            zeros,
            np.ascontiguousarray(transition.reshape(1, 1, states, states).numpy()),
            zeros,
            emission.numpy(),
            np.cumsum(lengths) - lengths,
            lengths,
        )
        found = posterior(chains, points.by_row.numpy(), by_chain=False)
        marginals = torch.from_numpy(found.marginals)
        sums, at = torch.zeros_like(natural), 0
        for features, _ in self._chunks(points, states):
            sums += (features @ marginals[at : at + features.shape[1]]).mT
            at += features.shape[1]
        first = torch.from_numpy(found.initial_slopes).sum(0) * initial.reshape(-1)
        moves = torch.from_numpy(found.slopes)[0, 0] * transition.reshape(states, states)
        objective = float(points.by_row @ torch.from_numpy(found.total))
        return objective, sums, {"initial": first, "transition": moves}

    def _chunks(self, points: Points, states: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features ``[F, C]`` and weights ``[C]``, some points at a time."""
        reference = self.plan.references[self.leaf.name]
        size = max(1024, CHUNK // (len(points.farthest) + states))
        size = len(points.value) if points.kept is not None and points.lengths is not None else size
        for low in range(0, len(points.value), size):
            part = slice(low, low + size)
            if points.kept is not None:
                yield points.kept[:, part], points.weights[part]
            else:
                yield self.table.features(points.value[part], reference), points.weights[part]


def _collapsed(fn: Any) -> Mixture | HiddenMarkov | None:
    """The collapsed distribution of a site."""
    while isinstance(fn, Independent) or type(fn).__name__ == "ExpandedDistribution":
        fn = fn.base_dist
    return fn if isinstance(fn, Mixture | HiddenMarkov) and fn.known is None else None


def _taken(leaf: Leaf, values: Mapping[str, Tensor]) -> Arguments:
    """The arguments of a leaf, all of which are selections of globals or constants."""
    sources = leaf.sources.items()
    return {name: one.take(values) if isinstance(one, Selection) else one for name, one in sources if one is not None}


def _is_direct(program: Program, plan: Plan, fn: Mixture | HiddenMarkov) -> bool:
    parts = 2 if isinstance(fn, Mixture) else 3
    chosen = all(source is not None for leaf in plan.leaves for source in leaf.sources.values())
    priors = program.global_sites(program.prior_draw(0)).values()
    return len(plan.leaves) == parts and chosen and all(isinstance(without_wrappers(one), Flat) for one in priors)


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


def _points(value: Tensor, table: Table, reference: Reference, by_row: Tensor, lengths: Tensor | None) -> Points:
    weights = by_row if lengths is None else by_row.repeat_interleave(lengths)
    value = value.to(torch.float64)
    farthest, base, kept, shared = torch.zeros(0), 0.0, [], torch.zeros(0, dtype=torch.float64)
    for low in range(0, len(value), 4096):
        part = slice(low, low + 4096)
        features, rest = table.features(value[part], reference), table.shared(value[part], reference)
        here = features.abs().amax(1)
        farthest = torch.maximum(farthest, here) if len(farthest) else here
        if rest is not None:
            shared = shared + rest @ weights[part] if len(shared) else rest @ weights[part]
        constant = table.base(value[part])
        base += 0.0 if constant is None else float(weights[part] @ constant)
        if len(features) * len(value) <= KEPT:
            kept.append(features)
    features = torch.cat(kept, 1) if kept else None
    return Points(value, weights, base, farthest, features, shared, lengths, by_row)
