"""The marginal log-likelihood of every row at a point."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latentvars.errors import NumericalError
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Rows

READ_ROWS = 4_096


def row_scores(program: Program, values: Mapping[str, Tensor], rows: Rows, seed: int) -> Tensor:
    """The score of every row, in batches, ``[N]``, nats."""
    parts = []
    with torch.no_grad():
        size = READ_ROWS if rows.lengths is None else None
        for position, batch in enumerate(rows.batches(size, shuffle=False, dtype=program.dtype)):
            parts.append(program.score(values, batch, derive(seed, 7, position)).rows)
    scores = torch.cat(parts)
    if not bool(scores.isfinite().all()):
        bad = (~scores.isfinite()).nonzero().flatten()[:5].tolist()
        raise NumericalError(
            given=f"a non-finite log-likelihood on rows {bad}",
            needed="finite values at every row",
            remedy="check these rows against the support of the model",
        )
    return scores
