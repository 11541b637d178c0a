"""Scores of ranked lists: what was found against what should have been."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentvars.errors import DataError, SettingError, ShapeError


@dataclass(frozen=True, eq=False)
class RetrievalScores:
    """Means over the queries of what each one's list is worth; a query without anything relevant is left out.

    Attributes:
        k: length at which lists are cut.
        queries: how many count.
        recall: share of what is relevant that is among the first k. At most k / (number relevant).
        precision: share of the first k that is relevant.
        hits: whether anything relevant is among the first k ("recall@k" of metric learning).
        reciprocal_rank: 1 / rank of the first relevant one in the first k, 0 where there is none (MRR).
        ndcg: Σ 1/log2(1 + rank) over the relevant ones, beside that of the best list (Järvelin & Kekäläinen 2002).
        average_precision: mean of the precision at each relevant rank, beside min(k, number relevant) (MAP).
    """

    k: int
    queries: int
    recall: float
    precision: float
    hits: float
    reciprocal_rank: float
    ndcg: float
    average_precision: float
    each: dict[str, np.ndarray] = field(repr=False, default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.queries} queries at k = {self.k}: recall {self.recall:.3f}, precision {self.precision:.3f}, "
            f"hits {self.hits:.3f}, MRR {self.reciprocal_rank:.3f}, NDCG {self.ndcg:.3f}, "
            f"MAP {self.average_precision:.3f}"
        )


def retrieval_scores(found: Any, relevant: Sequence[Iterable[Any]], k: int = 10) -> RetrievalScores:
    """Score ranked lists, of an index or of :func:`latentvars.recommend`.

    Args:
        found: ``[Q, k']`` ids, best first, k' ≥ k; "" or -1 where a list has ended.
        relevant: for each query the ids that should be found (the query itself is not to be among them).
        k: where lists are cut.

    Raises:
        ShapeError: lists shorter than k, or another number of queries.
        DataError: an id twice in a list, or no query with anything relevant.
    """
    lists = np.asarray(found)
    if lists.ndim != 2 or len(lists) != len(relevant):
        given = f"found of shape {list(lists.shape)} beside relevant ids of {len(relevant)} queries"
        raise ShapeError(given, "one list for each query", "pass found [Q, k] and Q sets.")
    if not 1 <= k <= lists.shape[1]:
        raise SettingError(f"k={k} of lists of {lists.shape[1]}", "at most their length", "search for more.")
    wanted = [set(map(str, ids)) for ids in relevant]
    texts = [[str(one) for one in line if str(one) not in ("", "-1")] for line in lists.tolist()]
    if any(len(set(line)) < len(line) for line in texts):
        raise DataError("an id that stands twice in a list", "each id once", "look at how the lists were made.")
    hits = np.zeros((len(lists), k), dtype=bool)
    for query, line in enumerate(texts):
        hits[query, : min(k, len(line))] = [one in wanted[query] for one in line[:k]]
    return scored(hits, np.array([len(ids) for ids in wanted]))


def scored(hits: np.ndarray, relevant: np.ndarray) -> RetrievalScores:
    """Scores of lists that are hits ``[Q, k]``, of queries with so many relevant ids ``[Q]``."""
    kept = relevant > 0
    if not kept.any():
        raise DataError("no query with anything relevant", "at least one", "pass relevant ids.")
    hits, relevant = hits[kept], relevant[kept]
    k = hits.shape[1]
    gains = 1 / np.log2(np.arange(2, k + 2))
    best = np.minimum(relevant, k)
    ranks = hits.argmax(1) + 1
    precisions = np.cumsum(hits, 1) / np.arange(1, k + 1)
    each = {
        "recall": hits.sum(1) / relevant,
        "precision": hits.mean(1),
        "hits": hits.any(1).astype(float),
        "reciprocal_rank": np.where(hits.any(1), 1 / ranks, 0.0),
        "ndcg": (hits * gains).sum(1) / np.cumsum(gains)[best - 1],
        "average_precision": (precisions * hits).sum(1) / best,
    }
    means = {name: float(values.mean()) for name, values in each.items()}
    return RetrievalScores(
        k,
        len(hits),
        means["recall"],
        means["precision"],
        means["hits"],
        means["reciprocal_rank"],
        means["ndcg"],
        means["average_precision"],
        each,
    )
