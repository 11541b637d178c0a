"""The E-step of collapsed mixtures and chains over one exponential family, as products with a table of features.

Such a model is known by its plan: one observed site, all of whose arguments are selections of globals. Its densities
are worked out for all points and components by one matrix product, and so are its expected statistics; what the globals
are is read off a run of the model on two rows. The statistics are those of the general E-step, so is everything after
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Independent

from latentvars.distributions import Flat, HiddenMarkov, Mixture
from latentvars.families import Arguments, Selection, Statistics, without_wrappers
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


@dataclass(frozen=True)
class Tabulated:
    """A site whose E-step goes by a table.

    Attributes:
        program: the model.
        site: name of the site.
        leaf: its emission.
        table: the table of the emission.
        plan: its M-step.
        points: the data.
        direct: whether all arguments are selections of globals with flat priors, so that no run of the model is needed.
    """

    program: Program
    plan: Plan
    site: str
    leaf: Leaf
    table: Table
    points: Points
    direct: bool

    @staticmethod
    def of(program: Program, plan: Plan, rows: Rows) -> Tabulated | None:
        """The tabulated E-step of a model, or None where it does not have one."""
        if rows.observed is not None or rows.known or plan.retained or program.roles.choices:
            return None
        start = program.prior_draw(0)
        with torch.no_grad():
            run = program.trace(start, rows.batch(dtype=program.dtype))
        if len(run.local) != 1:
            return None
        (site,) = run.local.values()
        fn = _collapsed(site.fn)
        if fn is None or site.mask is not None or site.scale != 1.0 or program.dtype != torch.float64:
            return None
        leaf = next((one for one in plan.leaves if one.paths == (f"{site.name}.{_part(fn)}",)), None)
        states = fn.labels
        if leaf is None or leaf.target[:1] != Size([states]) or not _is_shared(fn):
            return None
        value = _flat(fn, site.value, rows)
        law = without_wrappers(_emission(fn))
        table = table_of(leaf.family, leaf.family.arguments(law), law, value, leaf.target)
        if table is None or value.device.type != "cpu":
            return None
        return Tabulated(
            program,
            plan,
            site.name,
            leaf,
            table,
            _points(value, table, leaf, plan, rows),
            _is_direct(program, plan, fn),
        )

    def covers(self, batch: Batch) -> bool:
        """Whether a batch is the data of this table."""
        return len(batch) == len(self.points.by_row)

    def expected(self, values: Mapping[str, Tensor], *, with_prior: bool) -> Expected | None:
        """What :func:`latentvars.inference.m_step.expected` gives of all rows; None where products lose digits."""
        with torch.no_grad():
            arguments, laws, prior = self._selected(values) if self.direct else self._traced(values)
            if not self.table.precise(arguments, self.points.farthest):
                return None
            natural = self.table.natural(arguments, self.leaf.target, self.plan.references[self.leaf.name])
            if not bool(natural.isfinite().all()):
                return None
            own, constant = natural[:, : self.table.own], self.points.shared @ self._common(natural)[0]
            objective, sums, counts = self._mixture(own, **laws) if "weights" in laws else self._chain(own, **laws)
            sums = self._completed(sums)
            statistics = {self.leaf.name: self.table.statistics(sums, self.leaf.target)} | self._counts(counts)
        objective += float(constant) + self.points.base + (prior if with_prior else 0.0)
        return Expected(objective, statistics)

    def many(self, lifted: Lifted, values: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Statistics]]:
        """The E-step of a mixture at S sets of globals.

        Args:
            lifted: its M-step.
            values: globals, ``[S, *shape]``.

        Returns:
            Objectives without priors ``[S]``, nats, and leaf → statistics ``[S, *target, *event]``.

        Raises:
            ImpreciseError: products would lose digits.
        """
        starts, target = lifted.starts, self.leaf.target
        every = Size((starts * target[0], *target[1:]))
        arguments = {
            name: value.expand((starts, *target, *value.shape[value.dim() - events :])).flatten(0, 1)
            for name, value in lifted.arguments(self.leaf, values).items()
            for events in [self.leaf.family.events[name]]
        }
        if not self.table.precise(arguments, self.points.farthest):
            raise ImpreciseError
        (weights,) = (lifted.arguments(leaf, values)["probs"] for leaf in self.plan.leaves if leaf is not self.leaf)
        natural = self.table.natural(arguments, every, self.plan.references[self.leaf.name])
        shares = self._common(natural).reshape(starts, target[0], -1)[:, 0]
        objective, sums = self._sums(natural[:, : self.table.own], weights.reshape(starts, -1))
        counts = {f"{self.site}.weights": {"counts": sums[:, 0].reshape(starts, target[0])}}
        own = self.table.statistics(self._completed(sums), every)
        statistics = {name: value.reshape(starts, target[0], *value.shape[1:]) for name, value in own.items()}
        objective = objective + shares @ self.points.shared + self.points.base
        return objective, {self.leaf.name: statistics} | counts

    def _common(self, natural: Tensor) -> Tensor:
        """The coefficients of shared features."""
        return natural[:, natural.shape[1] - len(self.points.shared) :]

    def _completed(self, sums: Tensor) -> Tensor:
        """Sums of all features; what is the same for all components is divided among them by their weights."""
        share = sums[:, :1] / self.points.weights.sum()
        return torch.cat([sums, share * self.points.shared], -1) if len(self.points.shared) else sums

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

    def _mixture(self, natural: Tensor, weights: Tensor) -> tuple[float, Tensor, dict[str, Tensor]]:
        objective, sums = self._sums(natural, weights.reshape(1, -1))
        return float(objective), sums, {"weights": sums[:, 0]}

    def _sums(self, natural: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Σ w log p(x) of S mixtures, ``[S]``, nats, and Σ w r t(x), ``[S·K, F]``.

        Args:
            natural: of the components of all, ``[S·K, F]``.
            weights: ``[S, K]``.
        """
        natural = torch.cat([natural[:, :1] + weights.reshape(-1, 1).log(), natural[:, 1:]], 1)
        objective, sums = natural.new_zeros(len(weights)), torch.zeros_like(natural)
        for features, by_point in self._chunks(len(natural)):
            joint = (natural @ features).reshape(*weights.shape, -1)
            top = joint.amax(1, keepdim=True)
            joint.sub_(top).exp_()
            total = joint.sum(1, keepdim=True)
            objective += (total.log() + top)[:, 0] @ by_point
            sums += joint.mul_(by_point / total).flatten(0, 1) @ features.mT
        return objective, sums

    def _chain(self, natural: Tensor, initial: Tensor, transition: Tensor) -> tuple[float, Tensor, dict[str, Tensor]]:
        import numpy as np

        from latentvars.kernels.chains import Chains, posterior

        points = self.points
        emission = torch.cat([(natural @ features).mT for features, _ in self._chunks(len(natural))])
        assert points.lengths is not None
        lengths = points.lengths.numpy()
        zeros = np.zeros(len(lengths), dtype=np.int64)
        states = len(natural)
        chains = Chains(
            np.ascontiguousarray(initial.reshape(1, states).numpy()),
            zeros,
            np.ascontiguousarray(transition.reshape(1, 1, states, states).numpy()),
            zeros,
            emission.contiguous().numpy(),
            np.cumsum(lengths) - lengths,
            lengths,
        )
        found = posterior(chains, points.by_row.numpy(), by_chain=False)
        marginals = torch.from_numpy(found.marginals)
        sums, at = torch.zeros_like(natural), 0
        for features, _ in self._chunks(len(natural)):
            sums += (features @ marginals[at : at + features.shape[1]]).mT
            at += features.shape[1]
        first = torch.from_numpy(found.initial_slopes).sum(0) * initial.reshape(-1)
        moves = torch.from_numpy(found.slopes)[0, 0] * transition.reshape(states, states)
        objective = float(points.by_row @ torch.from_numpy(found.total))
        return objective, sums, {"initial": first, "transition": moves}

    def _chunks(self, states: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features ``[F, C]`` and weights ``[C]``, some points at a time."""
        points, reference = self.points, self.plan.references[self.leaf.name]
        size = max(1024, CHUNK // (len(points.farthest) + states))
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


def _flat(fn: Mixture | HiddenMarkov, value: Tensor, rows: Rows) -> Tensor:
    """Observations ``[M, *E]`` of rows ``[N, *E]`` or padded sequences ``[N, T, *E]``."""
    if isinstance(fn, Mixture) or rows.lengths is None:
        return value
    valid = torch.arange(value.shape[1]) < rows.lengths[:, None]
    return value.flatten(0, 1) if bool(valid.all()) else value[valid]


def _points(value: Tensor, table: Table, leaf: Leaf, plan: Plan, rows: Rows) -> Points:
    by_row = rows.weights.to(torch.float64)
    sequences = rows.lengths is not None and len(value) == rows.steps
    weights = by_row.repeat_interleave(rows.lengths) if sequences and rows.lengths is not None else by_row
    value = value.to(torch.float64)
    reference = plan.references[leaf.name]
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
    return Points(
        value,
        weights,
        base,
        farthest,
        torch.cat(kept, 1) if kept else None,
        shared,
        rows.lengths if sequences else None,
        by_row,
    )
