"""Discrete globals: latents that all rows share, with the finitely many values that they can take together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latentvars.errors import SupportError
from latentvars.families import without_wrappers
from latentvars.program.run import Site

MOST = 1_000  # joint values: each costs an E-step


@dataclass(frozen=True)
class Choices:
    """The joint values of all discrete globals.

    Attributes:
        values: name → ``[G, *shape]``; one of G joint values stands at the same place of each.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    def __len__(self) -> int:
        """G; 0 where there are no discrete globals."""
        return next((len(value) for value in self.values.values()), 0)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return {name: value[number] for name, value in self.values.items()}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[number] for number in range(len(self)))


def choices_of(sites: Mapping[str, Site]) -> Choices:
    """The joint values of these sites outside the rows plate.

    Raises:
        SupportError: infinitely many, or more than 1,000.
    """
    supports = {name: _values(site) for name, site in sites.items()}
    if not supports:
        return Choices()
    sizes = [support.shape[0] ** count for support, count in supports.values()]
    if math.prod(sizes) > MOST:
        raise SupportError(
            given=f"the discrete globals {list(supports)} with {math.prod(sizes)} joint values",
            needed=f"at most {MOST}, since each costs an E-step over all rows",
            remedy="make those that differ between groups of rows locals of a row, or narrow their supports",
        )
    own = [_joint(support, count, sites[name].value) for name, (support, count) in supports.items()]
    grid = list(itertools.product(*(range(size) for size in sizes)))
    return Choices({name: own[k][torch.tensor([place[k] for place in grid])] for k, name in enumerate(supports)})


def _values(site: Site) -> tuple[Tensor, int]:
    """The values ``[M, *event]`` of one draw of a site, and how many independent draws stand in it."""
    fn: Any = without_wrappers(site.fn)
    if not fn.has_enumerate_support:
        raise SupportError(
            given=f"global {site.name!r} ~ {type(fn).__name__} has infinitely many values",
            needed="a discrete global with finitely many values, which can be summed out",
            remedy="truncate it to a Categorical over its first values",
        )
    support = fn.enumerate_support(expand=False)
    event = tuple(fn.event_shape)
    return support.reshape((-1, *event)), site.value.numel() // max(1, math.prod(event))


def _joint(support: Tensor, count: int, value: Tensor) -> Tensor:
    """All values of ``count`` independent draws, ``[M ** count, *shape]``."""
    places = torch.tensor(list(itertools.product(range(len(support)), repeat=count)), dtype=torch.long)
    return support[places].reshape((-1, *value.shape)).to(value.dtype)
