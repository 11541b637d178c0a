"""Named ways to start, as values: ``lv.fit(model, data, start=lv.Hierarchical())``.

A grouping says which observations begin together; the model estimates its globals from the groups. Missing entries are
filled in by whoever makes the points, so that no grouping meets any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import SettingError, ShapeError
from latentvars.starts.centres import lloyd, means, nearest, sample, seeds
from latentvars.starts.ward import ward

SAMPLE = 20_000  # observations that centres are sought among
TREE = 2_000  # observations that a tree is built of
LEAST_NOISE = 1e-12


@dataclass(frozen=True)
class Points:
    """Observations to be grouped: rows, or the steps of sequences.

    Attributes:
        at: ``[S, P]``, in a space whose distances make sense, without gaps.
        weights: ``[S]``, nonnegative, not all zero.
        index: ``[S]`` positions of these observations among all of the data.
        total: number of all observations of the data.
    """

    at: Tensor
    weights: Tensor
    index: Tensor
    total: int


class Grouping(Protocol):
    """A way to group observations.

    Attributes:
        chance: whether some chance is to be mixed into the groups, so that none is empty and equal ones can part.
    """

    @property
    def chance(self) -> bool: ...

    def memberships(self, points: Points, groups: int, generator: torch.Generator) -> Tensor:
        """``[S, K]``, rows sum to one; ``generator`` is the only source of chance."""
        ...

    def again(self) -> Grouping:
        """How further starts of the same fit group the observations."""
        ...


@final
@dataclass(frozen=True)
class KMeansPlusPlus:
    """Groups around k-means++ seeds (Arthur & Vassilvitskii 2007) after a few k-means steps. The default."""

    @property
    def chance(self) -> bool:
        return True

    def memberships(self, points: Points, groups: int, generator: torch.Generator) -> Tensor:
        some = sample(points.weights, SAMPLE, generator)
        at, weights = points.at[some], points.weights[some]
        return _around(points.at, lloyd(at, weights, seeds(at, weights, groups, generator)))

    def again(self) -> KMeansPlusPlus:
        return self


@final
@dataclass(frozen=True)
class RandomRows:
    """Each observation goes with the nearest of K observations that were drawn at random, in proportion to weight."""

    @property
    def chance(self) -> bool:
        return True

    def memberships(self, points: Points, groups: int, generator: torch.Generator) -> Tensor:
        some = sample(points.weights, SAMPLE, generator)
        enough = len(some) >= groups
        drawn = torch.multinomial(points.weights[some], groups, replacement=not enough, generator=generator)
        return _around(points.at, points.at[some][drawn])

    def again(self) -> RandomRows:
        return self


@final
@dataclass(frozen=True)
class Hierarchical:
    """Groups of Ward's tree (Ward 1963), as model-based clustering often starts (Fraley & Raftery 2002, section 2.2).

    A tree is not random: with ``restarts`` the first start has the tree of all observations, each further one that of a
    random half. Observations beyond those in the tree go with the nearest group.

    Attributes:
        share: of the observations that the tree is built of, at random where below 1.
        most: number of observations beyond which a random part of them makes the tree.
    """

    share: float = 1.0
    most: int = TREE

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingError(f"share={self.share}", "a share in (0, 1]", "write Hierarchical(share=0.5)")
        if self.most < 1:
            raise SettingError(f"most={self.most}", "at least 1 observation", f"write Hierarchical(most={TREE})")

    @property
    def chance(self) -> bool:
        return True

    def memberships(self, points: Points, groups: int, generator: torch.Generator) -> Tensor:
        used = int((points.weights > 0).sum())
        size = min(self.most, max(groups, int(np.ceil(self.share * used))))
        some = sample(points.weights, size, generator)
        at, weights = points.at[some], points.weights[some]
        label = torch.from_numpy(ward(at.double().numpy(), weights.double().numpy(), groups))
        members = torch.nn.functional.one_hot(label, groups).to(at.dtype)
        found = _around(points.at, means(at, members * weights[:, None], at[:1]))
        found[some] = members
        return found

    def again(self) -> Hierarchical:
        return Hierarchical(min(self.share, 0.5), self.most)


@final
@dataclass(frozen=True, eq=False)
class Memberships:
    """The user's own groups. With ``restarts`` they are the first start; further ones are :class:`KMeansPlusPlus`.

    Attributes:
        values: labels ``[S]`` from 0, −1 where there is none; or shares ``[S, K]`` of each group, which are divided by
            their sum, NaN where they are not known. S: all rows, or the steps of all sequences in order.
    """

    values: Any = field(repr=False)

    def __post_init__(self) -> None:
        given = np.asarray(self.values, dtype=float)
        wrong = given.ndim not in (1, 2) or not given.size or np.isinf(given).any()
        if wrong or (given.ndim == 2 and (given < 0).any()) or (given.ndim == 1 and (given < -1).any()):
            raise ShapeError(
                given=f"memberships of shape {list(given.shape)}",
                needed="labels [S] from 0 (−1: none), or shares [S, K] of at least 0",
                remedy="pass one label or one row of shares for each observation",
            )

    @property
    def chance(self) -> bool:
        return False

    def memberships(self, points: Points, groups: int, generator: torch.Generator) -> Tensor:
        """Errors: ShapeError where they are not those of the data or the model."""
        given = torch.as_tensor(np.asarray(self.values, dtype=float), dtype=points.at.dtype)
        wide = given.dim() == 2 and given.shape[1] != groups
        high = given.dim() == 1 and bool((given >= groups).any())
        if len(given) != points.total or wide or high:
            shown = f", labels up to {int(given.max())}" if high else ""
            raise ShapeError(
                given=f"memberships of shape {list(given.shape)}{shown}",
                needed=f"{points.total} observations in {groups} groups",
                remedy="give every row (or step of a sequence) a label below the number of groups, or its shares",
            )
        given = given[points.index]
        if given.dim() == 1:
            given = torch.where(
                (given >= 0)[:, None],
                torch.nn.functional.one_hot(given.nan_to_num(nan=-1.0).clamp(min=0).long(), groups).to(given.dtype),
                1.0,
            )
        total = given.sum(-1, keepdim=True)
        return torch.where(total > 0, given / torch.where(total > 0, total, 1.0), 1 / groups)

    def again(self) -> KMeansPlusPlus:
        return KMeansPlusPlus()


@final
@dataclass(frozen=True)
class PriorDraws:
    """The draw of the priors with the highest score. Globals with a flat prior, which cannot be drawn, begin as the
    model's ``initial`` has them, else at random.

    Attributes:
        candidates: number of draws.
    """

    candidates: int = 10

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise SettingError(f"candidates={self.candidates}", "at least one draw", "write PriorDraws()")

    def again(self) -> PriorDraws:
        return self


@runtime_checkable
class Search(Protocol):
    """A way to start that looks for the mass of the density of the globals, as :class:`latentvars.Pathfinder`."""

    @property
    def paths(self) -> int:
        """Points that it begins from."""
        ...

    def points(self, program: Any, rows: Any, begins: Sequence[Tensor], count: int, seed: int) -> list[Tensor]:
        """``count`` unconstrained starting values ``[P]``, from as many begins as :attr:`paths`."""
        ...

    def again(self) -> Search:
        """How further starts of the same fit begin."""
        ...


Start = Grouping | PriorDraws | Search


def blurred(grouping: Grouping, points: Points, groups: int, blur: float, generator: torch.Generator) -> Tensor:
    """Memberships ``[S, K]``, mixed with a share ``blur`` of a uniform draw from the simplex where chance is wanted."""
    found = grouping.memberships(points, groups, generator)
    if not grouping.chance:
        return found
    noise = LEAST_NOISE - torch.log1p(-torch.rand(found.shape, dtype=found.dtype, generator=generator))
    return (1 - blur) * found + blur * noise / noise.sum(-1, keepdim=True)


def _around(points: Tensor, centres: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(nearest(points, centres), len(centres)).to(points.dtype)
