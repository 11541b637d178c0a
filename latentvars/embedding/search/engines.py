"""How neighbours are found: what an engine is, and exact search by scikit-learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import numpy as np

from latentvars.embedding.search.metrics import AT_A_TIME, distances, nearest

SLACK = 8  # candidates beyond k
ROUNDING = 16 * float(np.finfo(np.float64).eps)


class Built(ABC):
    """Rows that an engine has taken in. A value: adding and removing make another one, which shares what it can.

    Attributes:
        rows: ``[N, W]`` prepared.
        metric: for which.
    """

    rows: np.ndarray
    metric: str

    @abstractmethod
    def candidates(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> np.ndarray:
        """Positions ``[Q, C]`` among which the k nearest are looked for, −1 for none.

        Args:
            queries: ``[Q, W]`` prepared.
            k: how many are wanted, at most as many as are allowed.
            allowed: ``[N]`` the rows that may be found; None: all.
        """

    @abstractmethod
    def added(self, rows: np.ndarray) -> Built:
        """With more rows ``[M, W]`` prepared, behind the others."""

    @abstractmethod
    def kept(self, positions: np.ndarray) -> Built:
        """With the rows at these positions only, in this order (which rises)."""


class Engine(ABC):
    """Settings of a way to find neighbours."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether it finds the nearest for certain."""

    @abstractmethod
    def build(self, rows: np.ndarray, metric: str) -> Built:
        """Take in rows ``[N, W]``, prepared for a metric."""


@final
@dataclass(frozen=True)
class Exact(Engine):
    """Every row is measured, by scikit-learn in float64.

    Its products of matrices lose digits where rows lie close together. What they say is therefore checked against
    the error they can have, and measured again by differences where it could matter: the result is that of brute force,
    ties by position, in every batch.
    """

    @property
    def exact(self) -> bool:
        return True

    def build(self, rows: np.ndarray, metric: str) -> ExactRows:
        return ExactRows(rows, metric)


@final
@dataclass(frozen=True, eq=False)
class ExactRows(Built):
    """Rows as they are."""

    rows: np.ndarray = field(repr=False)
    metric: str

    def candidates(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> np.ndarray:
        places = np.arange(len(self.rows)) if allowed is None else np.flatnonzero(allowed)
        wide = min(k + SLACK, len(places))
        longest = float(self._lengths[places].max()) if self.metric == "inner" else 0.0
        table = self._lifted(places, longest)
        asked = queries if self.metric != "inner" else np.column_stack([queries, np.zeros(len(queries))])
        squared, at = _by_products(asked, table, wide)
        found, far = nearest(queries, self.rows, places[at], k, self.metric)
        if wide < len(places):
            sure = self._sure(queries, far[:, -1], squared[:, -1], longest)
            for row in np.flatnonzero(~sure):
                found[row] = self._measured(queries[row], places, k)
        return found

    def added(self, rows: np.ndarray) -> ExactRows:
        return ExactRows(np.concatenate([self.rows, rows]), self.metric)

    def kept(self, positions: np.ndarray) -> ExactRows:
        return ExactRows(self.rows[positions], self.metric)

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Squared lengths ``[N]``."""
        return np.square(self.rows).sum(1)

    def _lifted(self, places: np.ndarray, longest: float) -> np.ndarray:
        """The rows at places; with a coordinate that makes them equally long where products are compared, so that
        the largest product is the nearest."""
        rows = self.rows if len(places) == len(self.rows) else self.rows[places]
        if self.metric != "inner":
            return rows
        return np.column_stack([rows, np.sqrt(np.maximum(longest - self._lengths[places], 0.0))])

    def _sure(self, queries: np.ndarray, kth: np.ndarray, last: np.ndarray, longest: float) -> np.ndarray:
        """Whether all that were not measured lie farther than the k-th, whatever the rounding ``[Q]``."""
        own = np.square(queries).sum(1)
        if self.metric == "euclidean":
            limit = np.square(kth)
        else:
            limit = 2 * kth if self.metric == "cosine" else own + longest + 2 * kth
        size = own + max(float(self._lengths.max()), longest)
        return limit + ROUNDING * (self.rows.shape[1] + 4) * size < last

    def _measured(self, query: np.ndarray, places: np.ndarray, k: int) -> np.ndarray:
        """The k nearest of all by differences."""
        step = max(1, AT_A_TIME // self.rows.shape[1])
        parts = [places[start : start + step] for start in range(0, len(places), step)]
        far = np.concatenate([distances(query, self.rows[part], self.metric) for part in parts])
        return places[np.lexsort((places, far))[:k]]


def _by_products(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and positions of the k nearest, ``[Q, k]`` each, to the accuracy of products of matrices."""
    from sklearn.neighbors import NearestNeighbors

    search: Any = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(rows)
    return search.kneighbors(queries)
