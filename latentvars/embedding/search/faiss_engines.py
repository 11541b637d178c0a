"""Approximate and compressed-precision search by FAISS (extra ``ann``; Douze et al. 2024, arXiv 2401.08281)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from latentvars.embedding.search.engines import SLACK, Built, Engine, ExactRows
from latentvars.errors import DataError, KindError, SettingError
from latentvars.randomness import derive

FEW = 10_000  # rows left by a filter that are all measured: graphs and cells lose their way among them
SPARSE = 0.5  # share of rows in use below which an index is built anew


class FaissEngine(Engine):
    """An index of FAISS over float32 copies of the rows. What it finds is measured again in float64 and sorted anew.

    Where a filter leaves at most 10,000 rows, or the index finds fewer than k, the exact search steps in: k are found
    wherever there are k.
    """

    @property
    def exact(self) -> bool:
        return False

    def build(self, rows: np.ndarray, metric: str) -> FaissRows:
        """As :meth:`Engine.build`.

        Raises:
            KindError: FAISS is not installed.
            DataError: numbers beyond the range of float32.
        """
        made = FaissRows(rows, metric, self._trained(_single(rows), metric), np.arange(len(rows)), self)
        made.insert(made.index, rows)
        return made

    def restored(self, rows: np.ndarray, metric: str, stored: np.ndarray, slots: np.ndarray) -> FaissRows:
        """From the bytes of :meth:`FaissRows.stored`.

        Raises:
            DataError: bytes that are not those of these rows.
        """
        index = faiss().deserialize_index(stored)
        if index.d != rows.shape[1] or len(slots) != len(rows) or (len(slots) and index.ntotal <= slots.max()):
            raise DataError("an index of other rows", "the one that was saved", "build it anew.")
        return FaissRows(rows, metric, index, slots, self)

    @abstractmethod
    def _trained(self, rows: np.ndarray, metric: str) -> Any:
        """An empty index of FAISS that can take in rows like these ``[N, W]`` float32."""

    @abstractmethod
    def parameters(self, k: int, selector: Any) -> Any:
        """How FAISS searches for k; ``selector`` is None or says which rows may be found."""

    @abstractmethod
    def seeded(self, index: Any) -> int:
        """Seed an index before it takes in more rows; the number of threads that work on it."""


@final
@dataclass(frozen=True)
class FlatFaiss(FaissEngine):
    """Every row is measured, in float32: exact but for neighbours whose distances agree to seven digits."""

    def _trained(self, rows: np.ndarray, metric: str) -> Any:
        return faiss().IndexFlat(rows.shape[1], _measure(metric))

    def parameters(self, k: int, selector: Any) -> Any:
        return faiss().SearchParameters(sel=selector) if selector else None

    def seeded(self, index: Any) -> int:
        return 1


@final
@dataclass(frozen=True)
class HNSW(FaissEngine):
    """A graph of near neighbours in layers (Malkov & Yashunin 2020): fast, approximate, more memory.

    Attributes:
        links: of a row, at least 2; more need memory and find more.
        build_width: candidates while it is built.
        width: candidates while it is searched: the recall grows with it, and the time.
        threads: that build it. With more than one the graph depends on which is first: it does not repeat.
        seed: of the layers.
    """

    links: int = 32
    build_width: int = 200
    width: int = 64
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(links=(self.links, 2), build_width=(self.build_width, 1))
        _at_least(width=(self.width, 1), threads=(self.threads, 1), seed=(self.seed, 0))

    def _trained(self, rows: np.ndarray, metric: str) -> Any:
        index = faiss().IndexHNSWFlat(rows.shape[1], self.links, _measure(metric))
        index.hnsw.efConstruction = self.build_width
        return index

    def parameters(self, k: int, selector: Any) -> Any:
        return faiss().SearchParametersHNSW(efSearch=max(self.width, k), sel=selector)

    def seeded(self, index: Any) -> int:
        index.hnsw.rng = faiss().RandomGenerator(derive(self.seed, index.ntotal) % (1 << 31))
        return self.threads


@final
@dataclass(frozen=True)
class IVF(FaissEngine):
    """Rows in cells around centres of k-means, of which the nearest cells are searched (Jégou et al. 2011).

    Attributes:
        cells: how many, where there are as many rows; None: √N.
        probes: cells that are searched: the recall grows with it, and the time. With all cells it is that of
            :class:`FlatFaiss`.
        seed: of k-means.
    """

    cells: int | None = None
    probes: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(cells=(1 if self.cells is None else self.cells, 1), probes=(self.probes, 1), seed=(self.seed, 0))

    def _trained(self, rows: np.ndarray, metric: str) -> Any:
        library, width = faiss(), rows.shape[1]
        cells = min(self.cells or max(1, round(len(rows) ** 0.5)), len(rows))
        measure = _measure(metric)
        index = library.IndexIVFFlat(library.IndexFlat(width, measure), width, cells, measure)
        index.cp.seed = derive(self.seed) % (1 << 31)
        index.cp.min_points_per_centroid = 1  # fewer make it print a warning
        with _threads(1):
            index.train(rows)
        return index

    def parameters(self, k: int, selector: Any) -> Any:
        return faiss().SearchParametersIVF(nprobe=self.probes, sel=selector)

    def seeded(self, index: Any) -> int:
        return 1


@final
@dataclass(frozen=True, eq=False)
class FaissRows(Built):
    """Rows in an index of FAISS, which is never changed: rows that were removed stay in it unseen.

    Attributes:
        rows: as they are.
        metric: of which they were prepared.
        index: of FAISS, over slots.
        slots: ``[N]`` the slot of each row, rising.
        engine: the settings.
    """

    rows: np.ndarray = field(repr=False)
    metric: str
    index: Any = field(repr=False)
    slots: np.ndarray = field(repr=False)
    engine: FaissEngine

    def candidates(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> np.ndarray:
        exact = ExactRows(self.rows, self.metric)
        if allowed is not None and allowed.sum() <= FEW:
            return exact.candidates(queries, k, allowed)
        seen = np.zeros(self.index.ntotal, bool)
        seen[self.slots if allowed is None else self.slots[allowed]] = True
        selector = None if seen.all() else faiss().IDSelectorBitmap(np.packbits(seen, bitorder="little"))
        wide = min(k + SLACK, int(seen.sum()))
        parameters = self.engine.parameters(wide, selector)
        _, found = self.index.search(_single(queries), wide, params=parameters)
        at = np.where(found < 0, -1, np.searchsorted(self.slots, found))
        short = (at >= 0).sum(1) < k
        if short.any():
            at[short] = -1
            at[short, :k] = exact.candidates(queries[short], k, allowed)
        return at

    def added(self, rows: np.ndarray) -> FaissRows:
        index = faiss().clone_index(self.index)
        slots = np.concatenate([self.slots, index.ntotal + np.arange(len(rows))])
        made = FaissRows(np.concatenate([self.rows, rows]), self.metric, index, slots, self.engine)
        made.insert(index, rows)
        return made

    def kept(self, positions: np.ndarray) -> FaissRows:
        left = self.rows[positions]
        if len(positions) < SPARSE * self.index.ntotal:
            return self.engine.build(left, self.metric)
        return FaissRows(left, self.metric, self.index, self.slots[positions], self.engine)

    def insert(self, index: Any, rows: np.ndarray) -> None:
        """Have a new index take in rows, before anyone else knows it."""
        with _threads(self.engine.seeded(index)):
            index.add(_single(rows))

    def stored(self) -> np.ndarray:
        """The index as bytes."""
        return faiss().serialize_index(self.index)


def faiss() -> Any:
    """The library.

    Raises:
        KindError: it is not installed.
    """
    try:
        import faiss as library
    except ImportError as error:
        raise KindError(
            given="an engine of FAISS, which is not installed",
            needed="faiss-cpu",
            remedy='pip install "latentvars[ann]", or use engine=lv.Exact()',
        ) from error
    return library


def _measure(metric: str) -> int:
    """Of prepared rows: those of length 1 are as near as their directions."""
    return faiss().METRIC_INNER_PRODUCT if metric == "inner" else faiss().METRIC_L2


def _single(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        short = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(short).all():
        raise DataError("numbers beyond the range of float32", "up to 3e38", "scale them, or use engine=lv.Exact().")
    return short


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Lend FAISS a number of threads."""
    before = faiss().omp_get_max_threads()
    try:
        faiss().omp_set_num_threads(number)
        yield
    finally:
        faiss().omp_set_num_threads(before)


def _at_least(**settings: tuple[int, int]) -> None:
    for name, (value, least) in settings.items():
        if value < least:
            raise SettingError(f"{name}={value}", f"at least {least}", f"change {name}.")
