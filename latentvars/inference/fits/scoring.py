"""The marginal log-likelihood of every row at a point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from latentvars.errors import NumericalError
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows

TOGETHER = 4  # blocks of rows in memory whose exact scores are worked out together: a run of a model takes milliseconds


def row_scores(program: Program, values: Mapping[str, Tensor], rows: Rows, seed: int) -> Tensor:
    """The score of every row, in batches, ``[N]``, nats."""
    scores = torch.cat([scores for _, scores in _parts(program, values, rows, seed)])
    _check(scores, torch.arange(len(scores)))
    return scores


def total_score(
    program: Program, values: Mapping[str, Tensor], rows: Rows, seed: int, scores: Tensor | None = None
) -> float:
    """Σ wₙ rows[n], nats; of rows in files batch by batch."""
    if scores is None and not rows.streamed:
        scores = row_scores(program, values, rows, seed)
    if scores is not None:
        return float((rows.weights.to(program.dtype) * scores).sum())
    total = 0.0
    for batch, found in _parts(program, values, rows, seed):
        _check(found, batch.index)
        total += float((batch.weights * found).sum())
    return total


def _parts(program: Program, values: Mapping[str, Tensor], rows: Rows, seed: int) -> Iterator[tuple[Batch, Tensor]]:
    size = rows.block
    if size is not None and not rows.streamed and not program.roles.continuous:
        size *= TOGETHER
    with torch.no_grad():
        for position, batch in enumerate(rows.batches(size, shuffle=False, dtype=program.dtype)):
            yield batch, program.row_scores(values, batch, derive(seed, 7, position))


def _check(scores: Tensor, index: Tensor) -> None:
    if not bool(scores.isfinite().all()):
        raise NumericalError(
            given=f"a non-finite log-likelihood on rows {index[~scores.isfinite()][:5].tolist()}",
            needed="finite values at every row",
            remedy="check these rows against the support of the model",
        )
