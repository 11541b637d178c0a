"""The tensors of a batch as arguments of a graph, and a batch of tensors again."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from latentvars.rows import Batch


def flat(batch: Batch) -> list[Tensor]:
    """The tensors of a batch in a fixed order; of one without missing entries."""
    lengths = [] if batch.lengths is None else [batch.lengths]
    return [*batch.columns.values(), batch.index, batch.weights, *lengths, *batch.known.values()]


def like(batch: Batch, given: Iterator[Tensor]) -> Batch:
    """A batch with these tensors in the places of its own."""
    columns = {name: next(given) for name in batch.columns}
    index, weights = next(given), next(given)
    lengths = None if batch.lengths is None else next(given)
    return Batch(columns, index, batch.total, weights, lengths, None, {name: next(given) for name in batch.known})
