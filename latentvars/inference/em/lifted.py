"""The closed forms of a plan for many sets of globals at once, which lie along a leading axis.

An M-step of S starts is that of one model with S times as many blocks: where a global stands in an argument, those of
all starts stand in an argument with one more axis, and no statistic is shared between starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Size, Tensor

from latentvars.families import Arguments, MStep, Reference, Selection, Statistics
from latentvars.families.discrete import CategoricalFamily
from latentvars.families.tables import Packed
from latentvars.inference.em.expected import Expected
from latentvars.inference.em.m_step_plan import Leaf, Plan, Rule
from latentvars.inference.em.normal_rules import NormalRules
from latentvars.program import Program


@dataclass(frozen=True)
class Lifted:
    """The M-step of S starts.

    Attributes:
        plan: that of one start: closed forms of globals that are neither fixed nor tied.
        leaves: name → the leaf of all starts.
        starts: S.
        normal: means and spreads of normals that the compiled core maximises; None where there are none.
        shares: global that is the probabilities of categorical laws, under a flat prior → the leaf of those laws.
    """

    plan: Plan
    leaves: Mapping[str, Leaf]
    starts: int
    normal: NormalRules | None = None
    shares: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(program: Program, plan: Plan, starts: int, normal: NormalRules | None) -> Lifted | None:
        """The M-step of several starts, None where a plan has more than closed forms."""
        plain = all(rule.closed and not rule.hierarchical for rule in plan.rules)
        known = any(site.restriction is not None for site in program.space.sites)
        computed = any(source is None for leaf in plan.leaves for source in leaf.sources.values())
        if not plain or known or computed or plan.retained:
            return None
        leaves = {one.name: _lifted(one, starts) for one in plan.leaves}
        shares = {
            rule.name: rule.leaf.name for rule in plan.rules if rule.leaf is not None and _is_share(rule, rule.leaf)
        }
        return Lifted(plan, leaves, starts, normal, shares)

    def one(self, values: Mapping[str, Tensor], total: Expected) -> dict[str, Tensor]:
        """The M-step of a single start."""
        statistics = {leaf: _among(own) for leaf, own in total.statistics.items()}
        offsets = {leaf: offset[None] for leaf, offset in total.offsets.items()}
        found = self.maximise({name: value[None] for name, value in values.items()}, statistics, offsets)
        return {name: value[0] for name, value in found.items()}

    def arguments(self, leaf: Leaf, values: Mapping[str, Tensor]) -> Arguments:
        """The arguments of a leaf of one start for all of them, ``[S, *batch, *event]``."""
        return self.leaves[leaf.name].taken(values)

    def maximise(
        self,
        values: Mapping[str, Tensor],
        statistics: Mapping[str, Statistics],
        offsets: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One M-step.

        Args:
            values: globals, ``[S, *shape]``.
            statistics: leaf → expected statistics, ``[S, *target, *event]``.
            offsets: leaf → how far the centre of its statistics lies from that of its reference.
        """
        current, references = dict(values), dict(self.plan.references)
        for leaf, offset in (offsets or {}).items():
            references[leaf] = references[leaf]._replace(centre=references[leaf].centre + offset)
        fused = self.normal
        if fused is not None:
            current |= fused.maximise(values, statistics[fused.leaf.name], references[fused.leaf.name])
        for rule in self.plan.rules:
            assert rule.leaf is not None
            if fused is not None and rule.name in (fused.loc, fused.spread):
                continue
            if rule.name in self.shares:
                current[rule.name] = _shares(statistics[rule.leaf.name]["counts"], current[rule.name])
                continue
            own, at = statistics[rule.leaf.name], references[rule.leaf.name]
            current[rule.name] = self._closed(rule, rule.leaf, current, own, at)
        return current

    def _closed(
        self, rule: Rule, of: Leaf, current: Mapping[str, Tensor], statistics: Statistics, at: Reference
    ) -> Tensor:
        leaf = self.leaves[of.name]
        selection = leaf.sources[rule.argument]
        assert isinstance(selection, Selection)
        arguments, value = self.arguments(of, current), current[rule.name]
        step = MStep(rule.argument, arguments, statistics, leaf.target, selection, value, rule.prior)
        return leaf.family.maximise(step, at)


def _is_share(rule: Rule, leaf: Leaf) -> bool:
    """Whether a global is the probabilities of laws, as they are: one for each place of their leaf."""
    source = leaf.sources[rule.argument]
    if not isinstance(source, Selection) or rule.prior is not None or not isinstance(leaf.family, CategoricalFamily):
        return False
    return source.ordered and source.blocks == leaf.target.numel()


def _shares(counts: Tensor, otherwise: Tensor) -> Tensor:
    """Counts as shares ``[S, ..., K]``; a law without any keeps what it has."""
    found = counts.reshape(otherwise.shape)
    total = found.sum(-1, keepdim=True)
    return found / total if bool((total > 0).all()) else torch.where(total > 0, found / total, otherwise)


def _among(own: Statistics) -> Statistics:
    """The statistics of one start as those of one among several."""
    if isinstance(own, Packed):
        return replace(own, lead=Size((1, *own.lead)))
    return {name: value[None] for name, value in own.items()}


def padded(value: Tensor, events: int, rank: int, starts: int) -> Tensor:
    """An argument with the batch rank of its target, ``[starts, *batch, *event]``."""
    lead = value.dim() - events
    value = value.reshape((1,) * (rank + 1 - lead) + tuple(value.shape))
    return value.expand(starts, *value.shape[1:])


def _lifted(leaf: Leaf, starts: int) -> Leaf:
    target = Size((starts, *leaf.target))
    sources = {
        name: _all(source, starts, len(leaf.target)) if isinstance(source, Selection) else source
        for name, source in leaf.sources.items()
    }
    return replace(leaf, sources=sources, targets=(target,))


def _all(selection: Selection, starts: int, rank: int) -> Selection:
    """The blocks of all starts, those of each after those of the one before."""
    own = selection.index.reshape((1,) * (rank - selection.index.dim()) + tuple(selection.index.shape))
    first = selection.blocks * torch.arange(starts).reshape((starts,) + (1,) * rank)
    return Selection(selection.name, Size((starts, *selection.shape)), selection.event, first + own)
