"""Observations of a batch without padding, and what is fixed of their features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from latentvars.families import Reference
from latentvars.families.tables import Form, Table, is_normal

KEPT = 2**22  # numbers: larger tables of features are made anew, chunk by chunk, in each pass
CHUNK = 2**18  # numbers of features at a time: what a cache holds


@dataclass(frozen=True)
class Points:
    """Observations without padding.

    Attributes:
        value: ``[M, *E]``.
        weights: ``[M]``, of the rows that they belong to.
        base: Σ w h(x), the part of the log density that no argument enters, nats.
        farthest: ``[F]``, the largest size of each own feature; ``[1 + D]`` where features are not tabulated.
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

    @staticmethod
    def of(value: Tensor, table: Table, reference: Reference, by_row: Tensor, lengths: Tensor | None) -> Points:
        """The points of a batch.

        Args:
            value: ``[M, *E]``.
            table: of the family.
            reference: about which features are taken.
            by_row: weights of rows, ``[N]``.
            lengths: steps of sequences ``[N]``, which lie one after another in ``value``.
        """
        weights = by_row if lengths is None else by_row.repeat_interleave(lengths)
        value = value.to(torch.float64).contiguous()
        fused = table.form != Form.TABLE and (is_normal(table) or lengths is not None)  # the core makes their features
        farthest, base, kept, shared = torch.zeros(0), 0.0, [], torch.zeros(0, dtype=torch.float64)
        for low in range(0, len(value), 4096):
            part = slice(low, low + 4096)
            features = (table.firsts if fused and is_normal(table) else table.features)(value[part], reference)
            rest = table.shared(value[part], reference)
            here = features.abs().amax(1)
            farthest = torch.maximum(farthest, here) if len(farthest) else here
            if rest is not None:
                shared = shared + rest @ weights[part] if len(shared) else rest @ weights[part]
            constant = table.base(value[part])
            base += 0.0 if constant is None else float(weights[part] @ constant)
            if not fused and len(features) * len(value) <= KEPT:
                kept.append(features)
        features = torch.cat(kept, 1) if kept else None
        return Points(value, weights.contiguous(), base, farthest, features, shared, lengths, by_row)

    @cached_property
    def reach(self) -> float:
        """The largest distance of a number from the centre of its feature, of features that are not tabulated."""
        return float(self.farthest[1 : 1 + self.matrix.shape[1]].max())

    @cached_property
    def matrix(self) -> Tensor:
        """``[M, D]``."""
        return self.value.reshape(len(self.value), -1)

    @cached_property
    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """First point of each sequence and number of its points, ``[N]`` int64."""
        assert self.lengths is not None
        lengths = self.lengths.numpy()
        return np.cumsum(lengths) - lengths, lengths

    def chunks(self, table: Table, reference: Reference, beside: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Features ``[F, C]`` and weights ``[C]``, some points at a time, so that with ``beside`` more numbers of each
        they stay in a cache."""
        if self.kept is not None:
            yield self.kept, self.weights
            return
        size = max(1024, CHUNK // (len(self.farthest) + beside))
        for low in range(0, len(self.value), size):
            part = slice(low, low + size)
            yield table.features(self.value[part], reference), self.weights[part]
