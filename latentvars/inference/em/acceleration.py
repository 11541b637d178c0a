"""SQUAREM: two EM updates, one extrapolation, taken back where it lowers the objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentvars.program import GlobalSpace

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """Progress of one cycle (Varadhan & Roland 2008, scheme S3, table 1).

    Attributes:
        points: unconstrained globals of the cycle so far: θ₀, θ₁.
        fallback: θ₂, to return to where the extrapolation lowers the objective.
        extrapolated: whether the current globals are an extrapolation, not yet judged.
        longest: largest step length allowed; doubled where it is reached, halved after a rejection.
    """

    points: tuple[Tensor, ...] = ()
    fallback: Values = field(default_factory=dict)
    extrapolated: bool = False
    longest: float = 4.0

    def rejected(self) -> Trial:
        """Start a new cycle with shorter steps."""
        return Trial(longest=max(1.0, self.longest / 2))

    def step(self, space: GlobalSpace, before: Values, after: Values) -> tuple[Trial, dict[str, Tensor]]:
        """Take note of an EM update; after the second of a cycle, extrapolate.

        Args:
            space: all globals.
            before, after: constrained globals around the update.
        """
        start = space.unconstrain(before)
        if len(self.points) < 1:
            return replace(self, points=(start,), extrapolated=False), dict(after)
        zero, one, two = self.points[0], start, space.unconstrain(after)
        first, second = one - zero, two - 2 * one + zero
        usable = first.isfinite() & second.isfinite()
        if not bool(usable.any()) or float(second[usable].norm()) == 0:
            return Trial(longest=self.longest), dict(after)
        length = float(first[usable].norm() / second[usable].norm())
        reached = length >= self.longest
        length = min(max(length, 1.0), self.longest)
        if length == 1.0:
            return Trial(longest=self.longest * (2 if reached else 1)), dict(after)
        moved = torch.where(usable, zero + 2 * length * first + length**2 * second, two)
        values, _ = space.constrain(moved)
        kept = {name: _edge(values[name], after[name]) for name in space.names}
        longest = self.longest * (2 if reached else 1)
        return Trial(fallback=dict(after), extrapolated=True, longest=longest), kept


def _edge(extrapolated: Tensor, updated: Tensor) -> Tensor:
    """Globals with an entry on the edge of their support are not extrapolated."""
    return extrapolated if bool(extrapolated.isfinite().all()) else updated
