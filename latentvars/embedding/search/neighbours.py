"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from latentvars.embedding.vectors import Vectors

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5


@final
@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest rows of Q queries, the nearest first; equal distances in the order of the rows.

    Attributes:
        ids: ``[Q, k]`` text; "" where there are fewer than k.
        positions: ``[Q, k]`` of the rows in the index; −1 where there are fewer.
        distances: ``[Q, k]``, smaller is nearer: Euclidean; 1 − cosine; or minus the inner product; inf where there are
            fewer.
        queries: ``[Q]`` ids of the queries.
        metric: of the distances.
        rows: what was searched.
    """

    ids: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)
    distances: np.ndarray = field(repr=False)
    queries: np.ndarray
    metric: str
    rows: Vectors = field(repr=False)

    def __len__(self) -> int:
        return len(self.queries)

    def table(self) -> pd.DataFrame:
        """One line for each neighbour: query, rank (from 1), id, distance, and the metadata of the neighbour."""
        import pandas as pd

        query, rank = np.nonzero(self.positions >= 0)
        at = self.positions[query, rank]
        columns = {
            "query": self.queries[query],
            "rank": rank + 1,
            "id": self.ids[query, rank],
            "distance": self.distances[query, rank],
        }
        known = {name: column[at] for name, column in self.rows.metadata.items() if name not in columns}
        return pd.DataFrame({**columns, **known})

    def __str__(self) -> str:
        lines = [f"{self.ids.shape[1]} nearest of {len(self)} queries among {len(self.rows)} rows ({self.metric})"]
        for query, ids, far in zip(self.queries[:SHOWN], self.ids, self.distances, strict=False):
            lines.append(f"  {query}: " + ", ".join(f"{one} {d:.4g}" for one, d in zip(ids, far, strict=True) if one))
        return "\n".join(lines + ["  ..."] * (len(self) > SHOWN))
