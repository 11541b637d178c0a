"""Batch: some rows of the data, padded and on their device, as a model sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import pyro
import torch
from torch import Tensor

from latentvars.rows.layout import positions_of, unknown_column

ROWS_PLATE = "rows"


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of the data, as a model sees them.

    Attributes:
        columns: ``[B, ...]`` each, or for sequences ``[B, T, ...]``, padded with the row's own last step so that
            padded values stay in every support.
        index: ``[B]`` int64, positions of the rows in the data.
        total: rows in the data, N.
        weights: ``[B]``, nonnegative.
        lengths: ``[B]`` int64, steps of each sequence; None where a row is an observation.
        observed: True where an entry was observed, shapes as ``columns``, False on padding; None where nothing is
            missing.
        known: local → its labels ``[B]``, or ``[B, T]`` of each step; −1 where they are not known, and on padding.
    """

    columns: Mapping[str, Tensor]
    index: Tensor
    total: int
    weights: Tensor
    lengths: Tensor | None = None
    observed: Mapping[str, Tensor] | None = None
    known: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.index.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.columns:
            raise unknown_column(name, self.columns)
        return self.columns[name]

    @property
    def x(self) -> Tensor:
        """The column ``"x"``, or the only column there is."""
        if "x" not in self.columns and len(self.columns) == 1:
            return next(iter(self.columns.values()))
        return self["x"]

    @property
    def mask(self) -> Tensor | None:
        """``[B, T]`` bool, True on steps that are not padding; None where a row is an observation."""
        if self.lengths is None:
            return None
        steps = next(iter(self.columns.values())).shape[1]
        return torch.arange(steps, device=self.lengths.device) < self.lengths[:, None]

    def plate(self) -> Any:
        """The rows plate, ``dim=-1``: log densities inside are scaled by N / B under plain ``pyro.infer``."""
        return pyro.plate(ROWS_PLATE, self.total, subsample=self.index, dim=-1)

    def select(self, positions: Any) -> Batch:
        """The rows at ``positions`` of this batch; sequences are trimmed to the longest that is left."""
        at = positions_of(positions, len(self)).to(self.index.device)
        lengths = None if self.lengths is None else self.lengths[at]
        steps = slice(None) if lengths is None else slice(int(lengths.max()))

        def take(value: Tensor) -> Tensor:
            return value[at] if lengths is None else value[at, steps]

        columns = {name: take(value) for name, value in self.columns.items()}
        observed = None if self.observed is None else {name: take(value) for name, value in self.observed.items()}
        known = {name: take(value) if value.ndim > 1 else value[at] for name, value in self.known.items()}
        return Batch(columns, self.index[at], self.total, self.weights[at], lengths, observed, known)

    def steps(self, value: Tensor) -> Tensor:
        """A padded ``[B, T, ...]`` result without its padding, ``[S, ...]`` (unchanged for observations)."""
        return value if self.mask is None else value[self.mask]
