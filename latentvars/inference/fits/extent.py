"""Counts and log-likelihood of the rows of all processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from latentvars.inference.fits.scoring import row_scores, total_score
from latentvars.inference.running.degenerate import masses, without_rows
from latentvars.inference.running.whole import Whole
from latentvars.program import Program


@dataclass(frozen=True)
class Extent:
    """What a fit over several processes was fitted to.

    Attributes:
        processes: their number.
        rows: in all of them, N.
        weight, size: of the rows; of the rows, or of steps.
        log_likelihood: of all rows at the point, nats.
        empty: values of discrete locals that no row of any process has.
    """

    processes: int
    rows: int
    weight: float
    size: float
    log_likelihood: float
    empty: tuple[str, ...]

    @staticmethod
    def of(whole: Whole, program: Program, point: Mapping[str, Tensor], seed: int) -> tuple[Extent, Tensor | None]:
        """Read the rows of all processes at a point; also the scores of the rows of this one, where they are kept."""

        def own() -> tuple[Tensor | None, tuple[float, dict[str, Tensor]]]:
            scores = None if whole.own.streamed else row_scores(program, point, whole.own, seed)
            total = total_score(program, point, whole.own, seed, scores)
            return scores, (total, masses(program, point, whole.own))

        scores, share = whole.backend.together(own)
        shares = whole.backend.gather(share)
        total, none = sum(total for total, _ in shares), without_rows([mass for _, mass in shares])
        found = Extent(whole.backend.size, whole.rows, whole.weight, whole.size, total, none)
        return found, scores
