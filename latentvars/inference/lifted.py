"""The closed forms of a plan for many sets of globals at once, which lie along a leading axis.

An M-step of S starts is that of one model with S times as many blocks: where a global stands in an argument, those of
all starts stand in an argument with one more axis, and no statistic is shared between starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Size, Tensor

from latentvars.families import Arguments, MStep, Selection, Statistics
from latentvars.inference.m_step_plan import Leaf, Plan, Rule
from latentvars.program import Program


@dataclass(frozen=True)
class Lifted:
    """The M-step of S starts.

    Attributes:
        plan: that of one start: closed forms of globals that are neither fixed nor tied.
        leaves: name → the leaf of all starts.
        starts: S.
    """

    plan: Plan
    leaves: Mapping[str, Leaf]
    starts: int

    @staticmethod
    def of(program: Program, plan: Plan, starts: int) -> Lifted | None:
        """The M-step of several starts, None where a plan has more than closed forms."""
        plain = all(rule.closed and not rule.hierarchical for rule in plan.rules)
        known = any(site.restriction is not None for site in program.space.sites)
        computed = any(source is None for leaf in plan.leaves for source in leaf.sources.values())
        if not plain or known or computed or plan.retained:
            return None
        return Lifted(plan, {leaf.name: _lifted(leaf, starts) for leaf in plan.leaves}, starts)

    def arguments(self, leaf: Leaf, values: Mapping[str, Tensor]) -> Arguments:
        """The arguments of a leaf of one start for all of them, ``[S, *batch, *event]``."""
        found: Arguments = {}
        for name, source in self.leaves[leaf.name].sources.items():
            assert source is not None
            found[name] = source.take(values) if isinstance(source, Selection) else source
        return found

    def maximise(self, values: Mapping[str, Tensor], statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
        """One M-step.

        Args:
            values: globals, ``[S, *shape]``.
            statistics: leaf → expected statistics, ``[S, *target, *event]``.
        """
        current = dict(values)
        for rule in self.plan.rules:
            current[rule.name] = self._closed(rule, current, statistics)
        return current

    def _closed(self, rule: Rule, current: Mapping[str, Tensor], statistics: Mapping[str, Statistics]) -> Tensor:
        assert rule.leaf is not None
        leaf = self.leaves[rule.leaf.name]
        selection = leaf.sources[rule.argument]
        assert isinstance(selection, Selection)
        arguments, own = self.arguments(rule.leaf, current), statistics[rule.leaf.name]
        value = current[rule.name]
        step = MStep(rule.argument, arguments, own, leaf.target, selection, value, rule.prior)
        return leaf.family.maximise(step, self.plan.references[rule.leaf.name])


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
