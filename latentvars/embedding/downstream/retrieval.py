"""Scores of ranked lists: what was found against what should have been."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentvars.embedding.downstream.recommendation import Recommendations
from latentvars.embedding.search import Neighbours, UncertainNeighbours
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError


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


def retrieval_scores(
    found: Any, relevant: Sequence[Iterable[Any]] | Mapping[Any, Iterable[Any]], k: int = 10
) -> RetrievalScores:
    """Score ranked lists, of an index or of :func:`latentvars.recommend`.

    Args:
        found: ``[Q, k']`` ids, best first, k' ≥ k; "" or -1 where a list has ended; or what a search or ``recommend``
            gives.
        relevant: for each query the ids that should be found (the query itself is not to be among them); of what a
            search gives also a mapping from ids of queries, those that it does not name have nothing relevant.
        k: where lists are cut.

    Raises:
        NameUnknownError: relevant ids of a query that was not searched for.
        KindError: relevant ids by query beside lists that do not name theirs.
        ShapeError: lists shorter than k, or another number of queries.
        DataError: an id twice in a list, or no query with anything relevant.
    """
    lists, queries = _lists(found)
    if isinstance(relevant, Mapping):
        relevant = _in_order(relevant, queries)
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


def _lists(found: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Ids ``[Q, k]``, and those of the queries where they are known."""
    if isinstance(found, Neighbours | UncertainNeighbours):
        return found.ids, found.queries
    if isinstance(found, Recommendations):
        return found.items, found.users
    return np.asarray(found), None


def _in_order(relevant: Mapping[Any, Iterable[Any]], queries: np.ndarray | None) -> list[Iterable[Any]]:
    named = {str(query): ids for query, ids in relevant.items()}
    if queries is None:
        raise KindError(
            given="relevant ids by query beside lists that do not say whose they are",
            needed="relevant ids in the order of the lists",
            remedy="pass what index.search or lv.recommend gives, or relevant=[ids, ids, ...]",
        )
    unknown = [query for query in named if query not in set(queries.tolist())]
    if unknown:
        raise NameUnknownError(f"the query {unknown[0]!r}", f"one of {queries[:5].tolist()}", "search for it too")
    return [named.get(query, ()) for query in queries.tolist()]


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
