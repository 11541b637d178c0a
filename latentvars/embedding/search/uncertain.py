"""Who is nearest, and how probably: shares of draws in which a row is among the k nearest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from latentvars.embedding.search.apart import squared_gaps
from latentvars.embedding.search.beliefs import Beliefs, CategoricalBeliefs, DrawnBeliefs
from latentvars.embedding.search.nearer import standard_error
from latentvars.randomness import derive

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5
APART = 1e-9  # of the mean squared distance: less than that is a tie of draws


@final
@dataclass(frozen=True, eq=False)
class UncertainNeighbours:
    """For each of Q queries the k rows that are most probably among its k nearest.

    Attributes:
        ids: ``[Q, k]`` text, the most probable first; "" where nothing is named.
        positions: ``[Q, k]`` of the rows in the index; −1 where nothing is named.
        probability: ``[Q, k]`` that the row is among the k nearest of the query; 0 where nothing is named.
        error: ``[Q, k]`` its Monte Carlo standard error.
        confidence: ``[Q]`` mean of the k probabilities: the share of the k rows that is expected to be right; k / N
            where nothing is known, 1 where all is. Kept where the query abstains.
        abstained: ``[Q]`` whether the confidence is below the threshold: such a query names nothing.
        threshold: what was asked for as ``abstain=``.
        queries: ``[Q]`` ids of the queries.
        draws: how many were taken.
    """

    ids: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)
    probability: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    confidence: np.ndarray = field(repr=False)
    abstained: np.ndarray = field(repr=False)
    threshold: float
    queries: np.ndarray
    draws: int

    def __len__(self) -> int:
        return len(self.queries)

    def table(self) -> pd.DataFrame:
        """One line for each neighbour: query, rank (from 1), id, probability, its error, confidence of the query."""
        import pandas as pd

        query, rank = np.nonzero(self.positions >= 0)
        columns = {"id": self.ids, "probability": self.probability, "error": self.error}
        return pd.DataFrame(
            {"query": self.queries[query], "rank": rank + 1}
            | {name: column[query, rank] for name, column in columns.items()}
            | {"confidence": self.confidence[query]}
        )

    def __str__(self) -> str:
        silent = f", {int(self.abstained.sum())} abstained below {self.threshold:g}" if self.threshold else ""
        lines = [f"{self.ids.shape[1]} most probable neighbours of {len(self)} queries{silent} ({self.draws} draws)"]
        for number, query in enumerate(self.queries[:SHOWN]):
            named = zip(self.ids[number], self.probability[number], strict=True)
            said = ", ".join(f"{one} {p:.2f}" for one, p in named if one) or "abstains"
            lines.append(f"  {query} ({self.confidence[number]:.2f}): {said}")
        return "\n".join(lines + ["  ..."] * (len(self) > SHOWN))


def among_nearest(
    queries: Beliefs,
    rows: Beliefs,
    k: int,
    own: np.ndarray | None,
    draws: int,
    seed: int,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Share of draws in which each row is among the k nearest of each query ``[Q, N]``, and the number of draws.

    A draw is one of all rows and of all queries at once; rows that are equally near take turns.

    Args:
        queries: Q.
        rows: N.
        k: at most N, or N − 1 where queries are rows.
        own: positions of queries that are rows themselves, which then are one draw, and not their own neighbours.
        draws: how many; of joint draws at most as many as there are.
        seed: of the draws.
        allowed: which rows may be found ``[N]``; None: all. At least k of them besides a query itself.
    """
    if isinstance(rows, DrawnBeliefs):
        draws = min(draws, len(rows.draws))
    size = len(queries.means)
    counts = np.zeros((size, len(rows.means)))
    each = np.arange(size)
    of_rows, of_queries, of_ties = (np.random.default_rng(derive(seed, part)) for part in range(3))
    for number in range(draws):
        drawn = rows.draw(number, of_rows)
        asked = queries.draw(number, of_queries) if own is None else drawn[own]
        gaps = _gaps(asked, drawn, rows, of_ties)
        if own is not None:
            gaps[each, own] = np.inf
        if allowed is not None:
            gaps[:, ~allowed] = np.inf
        counts[each[:, None], np.argpartition(gaps, k - 1, axis=1)[:, :k]] += 1
    return counts / draws, draws


def _gaps(asked: np.ndarray, drawn: np.ndarray, rows: Beliefs, noise: np.random.Generator) -> np.ndarray:
    """Squared distances ``[Q, N]`` with ties broken at random."""
    if isinstance(rows, CategoricalBeliefs):
        return (asked[:, None] != drawn) + 0.5 * noise.random((len(asked), len(drawn)))
    gaps = squared_gaps(asked, drawn)
    return gaps + APART * gaps.mean() * noise.random(gaps.shape) if isinstance(rows, DrawnBeliefs) else gaps


def neighbours(
    probability: np.ndarray, scores: np.ndarray, own: np.ndarray | None, k: int, draws: int, abstain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, probabilities, errors ``[Q, k]``, confidence and abstention ``[Q]``, by scores ``[Q, N]``.

    Smaller scores come first, equal ones by position.
    """
    if own is not None:
        scores = scores.copy()
        scores[np.arange(len(own)), own] = np.inf
    at = np.argsort(scores, axis=1, kind="stable")[:, :k]
    share = np.take_along_axis(probability, at, 1)
    confidence = share.mean(1)
    silent = confidence < abstain
    error = standard_error(share * draws, draws)
    blank = silent[:, None]
    return np.where(blank, -1, at), np.where(blank, 0.0, share), np.where(blank, 0.0, error), confidence, silent
