"""A few rows in memory that stand for many: what starts are made from, and what plans are probed with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import LatentVarsError
from latentvars.rows.column import CHUNK, Column
from latentvars.rows.layout import check_values, has_nan

if TYPE_CHECKING:
    from latentvars.rows.rows import Rows

SEEN = 2**21  # numbers in a sample
FIRST = 1_000


@dataclass(frozen=True)
class Overview:
    """Rows in memory that stand for more.

    Attributes:
        first: the first rows of positive weight, 1,000 at most.
        sample: all rows where they are few, otherwise some at random, in their order; the same ones each time.
        extremes: rows that hold the least and the largest number of each feature.
        index: positions of the sample.
        total: number of rows.
    """

    first: Rows
    sample: Rows
    extremes: Rows
    index: Tensor
    total: int

    @property
    def whole(self) -> bool:
        """Whether the sample is all rows."""
        return len(self.sample) == self.total

    def thinned(self, size: int) -> Overview:
        """With a sample of about ``size`` rows at most."""
        if size >= len(self.sample):
            return self
        at = torch.arange(size) * len(self.sample) // size
        return replace(self, sample=self.sample.picked(at), index=self.index[at])


def overview_of(rows: Rows) -> Overview:
    """The overview of rows that have been checked."""
    return _surveyed(rows, check=False)


def checked(rows: Rows) -> Overview:
    """The overview of rows in files, all of which are read once and checked.

    Raises:
        DataError: infinite values, with their column and where they lie.
    """
    for value in rows.columns.values():
        if isinstance(value, Column):
            value.missing = 0
    return _surveyed(rows, check=True)


def _surveyed(rows: Rows, check: bool) -> Overview:
    size = max(1, SEEN // max(1, round(_numbers(rows) / len(rows))))
    few = len(rows) <= size
    chosen = np.arange(len(rows)) if few else np.unique(np.random.default_rng(0).integers(len(rows), size=size))
    sample, first, extremes = _Filled(rows, torch.from_numpy(chosen)), [], _Extremes()
    for low, part in rows.parts(CHUNK):
        if check:
            _check(rows, part, low)
        extremes.look(part, low)
        if len(first) < FIRST:
            first += (low + (part.weights > 0).nonzero()[: FIRST - len(first), 0]).tolist()
        own = chosen[np.searchsorted(chosen, low) : np.searchsorted(chosen, low + len(part))]
        sample.add(part, torch.from_numpy(own - low))
    ends = torch.tensor(sorted(extremes.positions)) if extremes.positions else torch.tensor(first[:1])
    beginning = rows.picked(torch.tensor(first))
    held = rows.holding(sample.columns, torch.from_numpy(chosen))
    return Overview(beginning, held, rows.picked(ends), torch.from_numpy(chosen), len(rows))


class _Filled:
    """Rows whose place in memory is taken at once: small pieces between large ones would break memory up."""

    def __init__(self, rows: Rows, at: Tensor) -> None:
        steps = len(at) if rows.lengths is None else int(rows.lengths[at].sum())
        self.columns = {
            name: torch.empty((steps, *value.shape[1:]), dtype=value.dtype) for name, value in rows.columns.items()
        }
        self.filled = 0

    def add(self, part: Rows, at: Tensor) -> None:
        """The rows ``at`` of a part come next."""
        if len(at):
            some = part.picked(at)
            for name, value in some.columns.items():
                self.columns[name][self.filled : self.filled + some.steps] = value
            self.filled += some.steps


def joined(parts: Sequence[Overview]) -> Overview:
    """Overviews of shares of the data as one of all, in their order."""
    join = type(parts[0].sample).joined
    first = join([part.first for part in parts])
    starts = np.cumsum([0, *(part.total for part in parts[:-1])])
    return Overview(
        first.picked(torch.arange(min(FIRST, len(first)))),
        join([part.sample for part in parts]),
        join([part.extremes for part in parts]),
        torch.cat([part.index + int(start) for part, start in zip(parts, starts, strict=True)]),
        sum(part.total for part in parts),
    )


def _numbers(rows: Rows) -> int:
    return sum(len(value) * value.shape[1:].numel() for value in rows.columns.values())


def _check(rows: Rows, part: Rows, low: int) -> None:
    for name, value in part.columns.items():
        try:
            check_values(name, value)
        except LatentVarsError as error:
            error.add_note(f"positions count from row {low}")
            raise
        column = rows.columns[name]
        if isinstance(column, Column) and has_nan(value):
            column.missing += int(value.isnan().sum())


class _Extremes:
    """The rows with the least and the largest number of each feature, of positive weight, so far."""

    def __init__(self) -> None:
        self.best: dict[tuple[str, int], Tensor] = {}
        self.held: dict[tuple[str, int], Tensor] = {}

    @property
    def positions(self) -> set[int]:
        return {at for held in self.held.values() for at in held.tolist() if at >= 0}

    def look(self, part: Rows, low: int) -> None:
        owner = torch.arange(low, low + len(part))
        used = part.weights > 0
        if part.lengths is not None:
            owner, used = owner.repeat_interleave(part.lengths), used.repeat_interleave(part.lengths)
        for name, value in part.columns.items():
            flat = value.reshape(len(value), -1).double()
            for sign in (1, -1):
                least, at = torch.where(used[:, None] & ~flat.isnan(), sign * flat, torch.inf).min(0)
                key = name, sign
                before = self.best.get(key, torch.full_like(least, torch.inf))
                held = self.held.get(key, torch.full_like(at, -1))
                self.held[key] = torch.where(least < before, owner[at], held)
                self.best[key] = torch.minimum(before, least)
