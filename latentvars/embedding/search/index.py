"""Index: vectors that can be searched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np

from latentvars.embedding.search.engines import Built, Engine, Exact, ExactRows
from latentvars.embedding.search.filters import Where, allowed_rows
from latentvars.embedding.search.metrics import check_count, check_metric, nearest, prepared
from latentvars.embedding.search.neighbours import Neighbours
from latentvars.embedding.search.saving import save_index
from latentvars.embedding.vectors import Vectors, as_array, as_vectors
from latentvars.errors import DataError, KindError

ALIGNED = "aligned"  # metadata that aligned vectors have
SAMPLE, DEEP = 200, 10  # rows that are searched for themselves, and how many neighbours of each, for the printed recall


@final
@dataclass(frozen=True, eq=False)
class Index:
    """Vectors in which the nearest are looked up. A value: :meth:`add` and :meth:`remove` make another index.

    Args:
        vectors: :class:`latentvars.Vectors`, a frame, or an array ``[N, W]``; N from 1.
        metric: ``"cosine"`` (1 − cosine of the angle), ``"euclidean"`` or ``"inner"`` (minus the inner product).
        engine: :class:`latentvars.Exact`, or one of FAISS: ``FlatFaiss``, ``HNSW``, ``IVF``.

    Raises:
        SettingError: another metric.
        DataError: zero vectors under ``"cosine"``; ids that repeat.
        KindError: beliefs in the place of vectors; FAISS wanted and not installed.
    """

    vectors: Vectors
    metric: str = "cosine"
    engine: Engine = field(default_factory=Exact)
    _built: Built | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if not isinstance(self.engine, Engine):
            raise KindError(
                given=f"engine={self.engine!r}",
                needed="lv.Exact(), lv.FlatFaiss(), lv.HNSW(...) or lv.IVF(...)",
                remedy="pass one of them",
            )
        vectors = as_vectors(self.vectors)
        if not len(vectors):
            raise DataError("no vectors", "at least 1", "add rows.")
        object.__setattr__(self, "vectors", vectors)
        if self._built is None:
            rows = prepared(vectors.values, self.metric, vectors.ids)
            object.__setattr__(self, "_built", self.engine.build(rows, self.metric))

    @property
    def built(self) -> Built:
        """What the engine made of the rows."""
        assert self._built is not None
        return self._built

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, ids: Any) -> np.ndarray:
        """The vector of an id ``[W]``, or of several ``[M, W]``, as they were given."""
        return self.vectors[ids]

    def search(
        self, queries: Any, k: int = 10, *, where: Where | None = None, exclude: Any = None, itself: bool = False
    ) -> Neighbours:
        """The k nearest rows of each query.

        Args:
            queries: vectors ``[Q, W]`` or ``[W]``; or ids of rows of this index, as text.
            k: how many.
            where: which rows may be found: a mapping from names of metadata to the value or values they may have; a
                function of the columns that returns a mask; or a mask ``[N]``. It comes before the search: k are found
                where k are left.
            exclude: ids that may not be found.
            itself: whether a query by id may find itself.

        Raises:
            SettingError: k below 1, or no whole number.
            NameUnknownError: ids or metadata that do not exist.
            ShapeError: vectors of another width, or a mask of another length.
            DataError: vectors from elsewhere; zero vectors under ``"cosine"``.
        """
        k = check_count("k", k)
        mask = allowed_rows(self.vectors, where, exclude)
        table, names, own = self._asked(queries)
        found, far = self._found(prepared(table, self.metric, names), k, mask, None if itself else own)
        ids = np.where(found < 0, "", self.vectors.ids[found])
        return Neighbours(ids, found, far, names, self.metric, self.vectors)

    def add(self, vectors: Any) -> Index:
        """A new index with more rows behind these.

        Raises:
            ShapeError: another width.
            DataError: vectors from elsewhere, other metadata, or ids that are there already.
        """
        more = self._comparable(vectors)
        rows = prepared(more.values, self.metric, more.ids)
        return Index(joined(self.vectors, more), self.metric, self.engine, self.built.added(rows))

    def remove(self, ids: Any) -> Index:
        """A new index without some rows.

        Raises:
            NameUnknownError: ids that are not in it.
            DataError: nothing would be left.
        """
        mask = np.ones(len(self), bool)
        mask[self.vectors.positions(ids)] = False
        if not mask.any():
            raise DataError(f"all {len(self)} rows to be removed", "at least 1 that stays", "keep one.")
        return Index(self.vectors.take(mask), self.metric, self.engine, self.built.kept(np.flatnonzero(mask)))

    def recall(self, queries: Any = None, k: int = DEEP) -> float:
        """Share of the k nearest that the engine finds; a row that is as near as the k-th counts as found.

        Args:
            queries: as for :meth:`search`; None: 200 rows of the index, evenly spread, without themselves.
            k: how many.
        """
        if queries is None:
            queries = self.vectors.ids[np.unique(np.linspace(0, len(self) - 1, min(SAMPLE, len(self))).astype(int))]
        exact = ExactRows(self.built.rows, self.metric)
        truth = Index(self.vectors, self.metric, Exact(), exact).search(queries, k)
        found = self.search(queries, k)
        there = truth.positions >= 0
        last = np.where(there, truth.distances, -np.inf).max(1, keepdims=True)
        return float(((found.distances <= last) & there).sum() / max(1, there.sum()))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the index into the new folder ``path``, whole or not at all, as JSON and safetensors.

        Args:
            path: the folder; :func:`latentvars.load_index` reads it.
            overwrite: replace an earlier index there.

        Raises:
            StorageError: something is in the way.
            KindError: metadata that are no numbers, text or dates.
        """
        return save_index(self, Path(path), overwrite=overwrite)

    def __str__(self) -> str:
        head = f"index of {self.vectors}; {self.metric}, {self.engine}"
        if self.engine.exact:
            return head
        return f"{head}; recall of {DEEP} nearest {self._recall:.3f} among {min(SAMPLE, len(self))} of its own rows"

    @cached_property
    def _recall(self) -> float:
        return self.recall()

    def _found(
        self, table: np.ndarray, k: int, mask: np.ndarray | None, own: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions and distances ``[Q, k]``; ``own`` are the positions of the queries that may not find themselves."""
        most = min(k + (own is not None), len(self) if mask is None else int(mask.sum()))
        if not most or not len(table):
            return np.full((len(table), k), -1), np.full((len(table), k), np.inf)
        at = self.built.candidates(table, most, mask)
        if own is not None:
            at = np.where(at == own[:, None], -1, at)
        return nearest(table, self.built.rows, at, k, self.metric)

    def _asked(self, queries: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Queries ``[Q, W]`` and their ids; their positions where they are rows of this index."""
        if is_text(queries):
            own = self.vectors.positions(queries)
            return self.vectors.values[own], self.vectors.ids[own], own
        single = not isinstance(queries, Vectors) and as_array(queries).ndim == 1
        vectors = self._comparable(np.asarray(queries)[None] if single else queries)
        return vectors.values, vectors.ids, None

    def _comparable(self, given: Any) -> Vectors:
        vectors = as_vectors(given)
        if vectors is not given:  # an array says nothing of where it comes from
            if vectors.width != self.vectors.width:
                self.vectors.check_comparable(vectors)
            return Vectors(vectors.values, vectors.ids, self.vectors.names, provenance=self.vectors.provenance)
        self.vectors.check_comparable(vectors)
        return vectors


def is_text(queries: Any) -> bool:
    """Whether queries are ids."""
    if isinstance(queries, Vectors) or hasattr(queries, "columns"):
        return False
    array = as_array(queries)
    if array.dtype.kind == "O":
        return array.size > 0 and all(isinstance(one, str) for one in array.flat)
    return array.dtype.kind in "UT"


def joined(first: Vectors, second: Vectors) -> Vectors:
    """Both, one behind the other.

    Raises:
        DataError: other metadata, only some with standard deviations, or ids that repeat.
    """
    columns = [_columns(one, other) for one, other in ((first, second), (second, first))]
    if set(columns[0]) != set(columns[1]):
        raise DataError(
            given=f"vectors with the metadata {list(columns[1])} beside vectors with {list(columns[0])}",
            needed="the same metadata",
            remedy="give both the same: lv.Vectors(..., metadata={...})",
        )
    if (first.std is None) != (second.std is None):
        raise DataError(
            given="vectors with standard deviations beside vectors without",
            needed="both with, or both without",
            remedy="leave std out, or give it for both",
        )
    std = None if first.std is None or second.std is None else np.concatenate([first.std, second.std])
    metadata = {name: np.concatenate([column, columns[1][name]]) for name, column in columns[0].items()}
    where = first.provenance if first.provenance == second.provenance else replace(first.provenance, aligned="")
    values, ids = np.concatenate([first.values, second.values]), np.concatenate([first.ids, second.ids])
    return Vectors(values, ids, first.names, std, metadata, where)


def _columns(own: Vectors, other: Vectors) -> dict[str, np.ndarray]:
    """Metadata; beside rows that say whence they were aligned those that were not say None."""
    if ALIGNED in own.metadata or ALIGNED not in other.metadata:
        return dict(own.metadata)
    return {**own.metadata, ALIGNED: np.full(len(own), None)}
