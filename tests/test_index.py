"""Index: what it finds is what brute force finds, and it stays what it was when it is added to, saved or refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits, load_wine
from sklearn.neighbors import NearestNeighbors

import latentvars as lv
from latentvars.embedding.search import engines, faiss_engines
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError, StorageError

DIGITS = load_digits()
X = DIGITS.data.astype(float)
IDS = np.array([f"digit {i}" for i in range(len(X))])
VECTORS = lv.Vectors(X, IDS, metadata={"label": DIGITS.target, "half": np.where(np.arange(len(X)) < 900, "a", "b")})
METRICS = ("cosine", "euclidean", "inner")
APPROXIMATE = (lv.FlatFaiss(), lv.HNSW(), lv.IVF())
ENGINES = (lv.Exact(), *APPROXIMATE)


def brute(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Distances by scipy, pair by pair."""
    return -(queries @ rows.T) if metric == "inner" else cdist(queries, rows, metric)  # type: ignore[call-overload]


def first(far: np.ndarray, k: int) -> np.ndarray:
    """The k smallest of each line, ties by position."""
    return np.lexsort((np.broadcast_to(np.arange(far.shape[1]), far.shape), far), axis=1)[:, :k]


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_is_brute_force(metric: str) -> None:
    found = lv.Index(VECTORS.take(slice(0, 1500)), metric).search(X[1500:], 12)
    far = brute(X[1500:], X[:1500], metric)
    at = first(far, 12)
    np.testing.assert_array_equal(found.positions, at)
    np.testing.assert_array_equal(found.ids, IDS[at])
    np.testing.assert_allclose(found.distances, np.take_along_axis(far, at, 1), rtol=1e-10, atol=1e-12)


def test_exact_search_agrees_with_scikit_learn() -> None:
    peer = NearestNeighbors(n_neighbors=8, algorithm="ball_tree").fit(X[:1000])
    far, _ = peer.kneighbors(X[1000:])  # its order of ties is not by position
    found = lv.Index(X[:1000], "euclidean").search(X[1000:], 8)
    np.testing.assert_allclose(found.distances, far, rtol=1e-12)


@given(
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(1, 12),
    st.sampled_from(["euclidean", "inner"]),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_ties_go_by_position(size: int, width: int, k: int, metric: str, seed: int) -> None:
    """On a grid of whole numbers all distances are exact and most are tied."""
    noise = np.random.default_rng(seed)
    rows, queries = noise.integers(-2, 3, (size, width)), noise.integers(-2, 3, (5, width))
    found = lv.Index(rows.astype(float), metric).search(queries.astype(float), k)
    at = first(brute(queries, rows, metric), k)
    np.testing.assert_array_equal(found.positions[:, : at.shape[1]], at)
    assert (found.positions[:, size:] == -1).all() and np.isinf(found.distances[:, size:]).all()
    assert found.positions.shape == found.ids.shape == (5, k)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_products_cannot_tell_apart(metric: str) -> None:
    """Far from the origin |x|² − 2xy + |y|² has no digit left; every row is nearer to one query than all others."""
    noise = np.random.default_rng(1)
    rows = 1e6 + 1e-3 * noise.normal(size=(400, 3))
    queries = rows[::7] + 1e-5
    found = lv.Index(rows, metric).search(queries, 5)
    if metric == "euclidean":
        np.testing.assert_array_equal(found.positions, first(cdist(queries, rows), 5))
    elif metric == "cosine":  # in 50 digits
        mpmath = pytest.importorskip("mpmath")
        mpmath.mp.dps = 50
        line = [mpmath.matrix(row.tolist()) for row in rows]
        asked = mpmath.matrix(queries[3].tolist())
        dot = lambda a, b: sum(a[i] * b[i] for i in range(3))  # noqa: E731
        exact = np.array([float(1 - dot(asked, r) / mpmath.sqrt(dot(asked, asked) * dot(r, r))) for r in line])
        np.testing.assert_allclose(found.distances[3], np.sort(exact)[:5], rtol=1e-3, atol=1e-22)
    else:
        np.testing.assert_array_equal(found.distances, np.sort(-(queries[:, None] * rows).sum(-1), axis=1)[:, :5])


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_finds_the_same_to_the_bit_in_any_batch(metric: str) -> None:
    index = lv.Index(VECTORS, metric)
    whole = index.search(X[:300] + 0.5, 7)
    for at in ([5], [299, 5, 17], range(300)):
        part = index.search(X[list(at)] + 0.5, 7)
        np.testing.assert_array_equal(part.distances, whole.distances[list(at)])
        np.testing.assert_array_equal(part.ids, whole.ids[list(at)])
    alone = index.search(X[5] + 0.5, 7)
    np.testing.assert_array_equal(alone.ids, whole.ids[[5]])


def test_float32_is_measured_as_it_is() -> None:
    rows = X[:200].astype(np.float32) / 3
    found = lv.Index(rows, "euclidean").search(rows[:20], 3)
    far = cdist(rows[:20].astype(float), rows.astype(float))
    np.testing.assert_array_equal(found.positions, first(far, 3))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_queries_by_id_leave_themselves_out(engine: Any) -> None:
    index = lv.Index(VECTORS, "cosine", engine)
    found = index.search(IDS[:50], 3)
    assert (found.queries == IDS[:50]).all()
    assert not (found.ids == IDS[:50, None]).any()
    with_itself = index.search(IDS[:50].tolist(), 4, itself=True)
    np.testing.assert_array_equal(with_itself.ids[:, 0], IDS[:50])
    np.testing.assert_array_equal(with_itself.ids[:, 1:], found.ids)
    assert index.search("digit 7", 2).ids.shape == (1, 2)
    assert index.search(np.array(["digit 7", "digit 7"], dtype=object), 2).ids.shape == (2, 2)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
@pytest.mark.parametrize(
    "where",
    [
        {"label": 3},
        {"label": [3, 5], "half": "a"},
        lambda columns: (columns["label"] == 3) & (columns["half"] == "b"),
        np.arange(len(X)) % 400 == 7,  # 5 rows are left
    ],
    ids=["value", "values", "function", "mask"],
)
def test_a_filter_comes_before_the_search(engine: Any, where: Any) -> None:
    label, half = VECTORS.metadata["label"], VECTORS.metadata["half"]
    mask = {
        "dict": lambda: (label == 3) if len(where) == 1 else np.isin(label, [3, 5]) & (half == "a"),
        "function": lambda: (label == 3) & (half == "b"),
        "ndarray": lambda: where,
    }[type(where).__name__]()
    found = lv.Index(VECTORS, "euclidean", engine).search(X[:40] + 0.1, 5, where=where)
    far = np.where(mask, cdist(X[:40] + 0.1, X), np.inf)
    assert (found.positions >= 0).all() and mask[found.positions].all()
    np.testing.assert_array_equal(found.positions, first(far, 5))


@pytest.mark.parametrize("engine", APPROXIMATE, ids=lambda engine: type(engine).__name__)
def test_large_filters_are_faiss_s_own(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_engines, "FEW", 0)
    index = lv.Index(VECTORS, "euclidean", engine)
    mask = np.random.default_rng(0).random(len(X)) < 0.5
    found = index.search(X[:100] + 0.1, 5, where=mask)
    assert mask[found.positions].all()
    truth = first(np.where(mask, cdist(X[:100] + 0.1, X), np.inf), 5)
    assert (found.positions == truth).mean() > 0.97
    few = index.search(X[:100] + 0.1, 30, where=np.arange(len(X)) % 60 == 0)  # 30 rows, which no graph connects
    assert (np.sort(few.positions, 1) == np.arange(0, len(X), 60)).all()


def test_excluded_ids_are_not_found_and_fewer_than_k_are_filled() -> None:
    index = lv.Index(VECTORS)
    usual = index.search("digit 7", 5)
    rest = index.search("digit 7", 3, exclude=usual.ids[0, :2].tolist())
    np.testing.assert_array_equal(rest.ids[0], usual.ids[0, 2:])
    few = index.search(["digit 3", "digit 0"], 4, where=np.arange(len(X)) < 3)
    assert (few.ids != "").sum(1).tolist() == [3, 2]
    assert np.isinf(few.distances[1, 2:]).all() and len(few.table()) == 5
    assert (index.search("digit 0", 2, where={"label": 11}).ids == "").all()


def test_the_table_has_what_is_known_of_the_neighbours() -> None:
    found = lv.Index(VECTORS, "euclidean").search(["digit 7", "digit 9"], 2)
    table = found.table()
    assert list(table.columns) == ["query", "rank", "id", "distance", "label", "half"]
    assert table["query"].tolist() == ["digit 7"] * 2 + ["digit 9"] * 2 and table["rank"].tolist() == [1, 2, 1, 2]
    assert table["label"].tolist() == DIGITS.target[found.positions.ravel()].tolist()
    assert "digit 7: " in str(found) and "2 nearest of 2 queries among 1797 rows" in str(found)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("engine", APPROXIMATE, ids=lambda engine: type(engine).__name__)
def test_recall_is_the_share_that_brute_force_finds_too(engine: Any, metric: str) -> None:
    index = lv.Index(VECTORS.take(slice(0, 1500)), metric, engine)
    far = brute(X[1500:], X[:1500], metric)
    found = index.search(X[1500:], 10)
    last = np.sort(far, 1)[:, 9:10]
    by_hand = (np.take_along_axis(far, found.positions, 1) <= last * (1 + 1e-12 * np.sign(last)) + 1e-14).mean()
    assert index.recall(X[1500:], 10) == pytest.approx(by_hand, abs=1e-3)
    assert by_hand > 0.9
    assert "recall of 10 nearest" in str(index) and "recall" not in str(replace(index, engine=lv.Exact(), _built=None))


def test_recall_falls_where_little_is_searched() -> None:
    noise = np.random.default_rng(0).normal(size=(3000, 24))
    few, all_ = (lv.Index(noise, "euclidean", lv.IVF(cells=50, probes=probes)) for probes in (1, 50))
    far = cdist(noise[:100], noise)
    np.fill_diagonal(far, np.inf)
    found, near = few.search(few.vectors.ids[:100], 10), first(far, 10)
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.positions, near, strict=True)])
    assert few.recall(few.vectors.ids[:100], 10) == pytest.approx(by_hand) and by_hand < 0.6
    assert all_.recall() == 1


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
@pytest.mark.parametrize("metric", METRICS)
def test_adding_and_removing_make_a_new_index(engine: Any, metric: str) -> None:
    start = lv.Index(VECTORS.take(slice(0, 1200)), metric, engine)
    before = start.search(X[1200:1220], 5)
    gone = before.ids[:, 0]
    more = start.add(VECTORS.take(slice(1200, 1797))).remove(np.unique(gone))
    left = VECTORS.take(~np.isin(IDS, gone))
    assert len(more) == len(left) and (more.vectors.ids == left.ids).all()
    assert (more.vectors.metadata["label"] == left.metadata["label"]).all()
    found = more.search(X[1200:1220], 5)
    truth = first(brute(X[1200:1220], left.values, metric), 5)
    assert not np.isin(found.ids, gone).any()
    share = (found.ids == left.ids[truth]).mean()
    assert share == 1 if isinstance(engine, lv.Exact) else share > 0.9
    after = start.search(X[1200:1220], 5)
    np.testing.assert_array_equal(before.ids, after.ids)  # the first is what it was
    few = more.remove(more.vectors.ids[20:].tolist())
    assert len(few) == 20 and (few.search(X[:3], 20).positions >= 0).all()


def test_a_graph_is_shared_by_an_index_with_fewer_rows() -> None:
    start = lv.Index(VECTORS, "euclidean", lv.HNSW())
    assert start.remove(IDS[3]).built.index is start.built.index  # type: ignore[attr-defined]
    assert start.add(lv.Vectors(X[:1], ["new"], metadata={"label": [1], "half": ["a"]})).built.index.ntotal == 1798  # type: ignore[attr-defined]
    assert start.built.index.ntotal == 1797  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", APPROXIMATE, ids=lambda engine: type(engine).__name__)
def test_building_repeats(engine: Any) -> None:
    noise = np.random.default_rng(3).normal(size=(2000, 16))
    one, two = (lv.Index(noise, "cosine", engine) for _ in range(2))
    np.testing.assert_array_equal(one.built.stored(), two.built.stored())  # type: ignore[attr-defined]
    if hasattr(engine, "seed"):
        other = lv.Index(noise, "cosine", replace(engine, seed=1))
        assert one.built.stored().tobytes() != other.built.stored().tobytes()  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_a_saved_index_finds_the_same(engine: Any, tmp_path: Path) -> None:
    dates = np.datetime64("2024-01-01") + np.arange(300)
    origin = lv.Provenance("mean of z", "model", "data", "fit")
    metadata = {"date": dates, "weight": np.linspace(0, 1, 300), "name": IDS[:300], "kept": np.arange(300) % 2 == 0}
    vectors = lv.Vectors(X[:300], IDS[:300], [f"pixel {k}" for k in range(64)], np.ones((300, 64)), metadata, origin)
    index = lv.Index(vectors, "euclidean", engine).remove("digit 3")
    again = lv.load_index(index.save(tmp_path / "index"))
    one, two = index.search(X[300:400], 6, where={"kept": True}), again.search(X[300:400], 6, where={"kept": True})
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_array_equal(one.distances, two.distances)
    assert again.vectors.provenance == origin and again.vectors.names == vectors.names
    assert again.engine == engine and again.metric == "euclidean"
    assert (again.vectors.std == 1).all()
    for name, column in index.vectors.metadata.items():
        assert again.vectors.metadata[name].dtype == column.dtype
        np.testing.assert_array_equal(again.vectors.metadata[name], column)
    assert len(again.add(vectors.take([3]))) == 300
    assert {part.name for part in (tmp_path / "index").iterdir()} == {"index.json", "tensors.safetensors"}


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = lv.Index(VECTORS.take(slice(0, 20)))
    path = small.save(tmp_path / "index")
    with pytest.raises(StorageError, match="exists"):
        small.save(path)
    odd = np.array([object()] * 20, dtype=object)
    with pytest.raises(KindError, match=r"metadata\.odd"):
        lv.Index(lv.Vectors(X[:20], metadata={"odd": odd})).save(tmp_path / "other")
    assert not (tmp_path / "other").exists() and [one.name for one in tmp_path.iterdir()] == ["index"]
    small.remove("digit 4").save(path, overwrite=True)
    assert len(lv.load_index(path)) == 19
    with pytest.raises(StorageError, match=r"no fit\.json"):
        lv.load(path)
    tensors = path / "tensors.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StorageError, match="altered"):
        lv.load_index(path)
    tensors.write_bytes(whole)
    document = path / "index.json"
    known = json.loads(document.read_text())
    document.write_text(json.dumps({**known, "metric": "manhattan"}))
    with pytest.raises(StorageError, match="altered"):
        lv.load_index(path)
    with pytest.raises(StorageError, match="no such folder"):
        lv.load_index(tmp_path / "nothing")


def test_what_does_not_belong_is_refused() -> None:
    here, there = lv.Provenance("mean", fit="one"), lv.Provenance("mean", fit="two")
    index = lv.Index(lv.Vectors(X[:50], IDS[:50], provenance=here))
    with pytest.raises(DataError, match="align_vectors"):
        index.search(lv.Vectors(X[:5], provenance=there))
    with pytest.raises(DataError, match="vectors of one fit"):
        index.add(lv.Vectors(X[50:55], IDS[50:55], provenance=there))
    for narrow in (X[:5, :8], lv.Vectors(X[:5, :8], provenance=here), X[0, :8]):
        with pytest.raises(ShapeError, match="64 coordinates"):
            index.search(narrow)
    with pytest.raises(DataError, match="repeat"):
        index.add(lv.Vectors(X[:1], IDS[:1], provenance=here))
    with pytest.raises(DataError, match="repeat"):
        lv.Index(lv.Vectors(X[:2], ["a", "a"]))
    with pytest.raises(DataError, match="metadata"):
        index.add(lv.Vectors(X[50:52], IDS[50:52], metadata={"label": [1, 2]}, provenance=here))
    for ids in ("nobody", ["digit 1", "nobody"]):
        with pytest.raises(NameUnknownError, match="nobody"):
            index.search(ids)
        with pytest.raises(NameUnknownError, match="nobody"):
            index.remove(ids)
    with pytest.raises(DataError, match="all 50"):
        index.remove(IDS[:50])
    assert len(index) == 50


def test_settings_and_filters_that_make_no_sense() -> None:
    index = lv.Index(VECTORS)
    with pytest.raises(SettingError, match="euclidean"):
        lv.Index(VECTORS, "manhattan")
    with pytest.raises(SettingError, match="k=0"):
        index.search("digit 1", 0)
    with pytest.raises(NameUnknownError, match="'label', 'half'"):
        index.search("digit 1", where={"colour": "red"})
    with pytest.raises(ShapeError, match="mask"):
        index.search("digit 1", where=np.ones(5, bool))
    with pytest.raises(KindError, match="boolean mask"):
        index.search("digit 1", where=lambda columns: columns["label"])
    with pytest.raises(NameUnknownError, match="nobody"):
        index.search("digit 1", exclude="nobody")
    with pytest.raises(KindError, match="HNSW"):
        lv.Index(VECTORS, engine="hnsw")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="links"):
        lv.HNSW(links=1)
    with pytest.raises(SettingError, match="cells"):
        lv.IVF(cells=0)


def test_more_cells_than_rows_are_as_many_as_rows() -> None:
    index = lv.Index(VECTORS.take(slice(0, 60)), "euclidean", lv.IVF(cells=50, probes=50))
    few = index.remove(IDS[:45])
    assert few.built.index.nlist == 15  # type: ignore[attr-defined]
    np.testing.assert_array_equal(few.search(X[:9], 15).ids, IDS[45:60][first(cdist(X[:9], X[45:60]), 15)])


def test_zero_vectors_have_no_direction() -> None:
    rows = np.vstack([X[:5], np.zeros((1, 64))])
    with pytest.raises(DataError, match=r"1 zero vectors.*'5'"):
        lv.Index(rows)
    with pytest.raises(DataError, match="zero vector"):
        lv.Index(X[:5]).search(np.zeros(64))
    assert len(lv.Index(rows, "euclidean")) == 6
    tiny = lv.Index(np.array([[1e-300, 0.0], [0.0, 1e300]])).search(np.array([1e-200, 1e-200]), 2)
    np.testing.assert_allclose(tiny.distances, 1 - np.sqrt(0.5))


def test_beliefs_are_no_vectors() -> None:
    wine = load_wine().data
    fit = lv.fit(lv.models.FactorAnalysis(2), wine, lv.EM(passes=20), progress=False)
    latent = fit.latent()
    with pytest.raises(KindError, match="BeliefIndex"):
        lv.Index(latent)  # type: ignore[arg-type]
    with pytest.raises(KindError, match="BeliefIndex"):
        lv.Index(wine[:, :2]).search(latent)
    index = lv.Index(lv.Embedding(fit).transform(wine), "euclidean")
    assert index.search("0", 3).ids.shape == (1, 3)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(KindError, match=r"pip install \"latentvars\[ann\]\""):
        lv.Index(X, engine=lv.HNSW())
    assert lv.Index(X[:10]).search(X[0], 1).ids[0, 0] == "0"


def test_long_tables_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lv.Index(VECTORS, "euclidean").search(X[:30] + 0.3, 4)
    monkeypatch.setattr(engines, "AT_A_TIME", 64 * 100)
    monkeypatch.setattr("latentvars.embedding.search.metrics.AT_A_TIME", 64 * 24)
    monkeypatch.setattr(engines, "ROUNDING", 1e6)  # nothing is sure: all is measured by differences
    parts = lv.Index(VECTORS, "euclidean").search(X[:30] + 0.3, 4)
    np.testing.assert_array_equal(parts.ids, whole.ids)
    np.testing.assert_array_equal(parts.distances, whole.distances)


@pytest.mark.parametrize("metric", METRICS)
def test_of_many_that_are_equally_near_the_first_are_found(metric: str) -> None:
    """Rows along the axes, whole ranks of them the same: products find any, the first are wanted."""
    noise = np.random.default_rng(5)
    rows = np.repeat(np.vstack([np.eye(4), -np.eye(4)]), 25, axis=0)[noise.permutation(200)]
    queries = np.array([[2.0, 1.0, 0.5, 0.25], [0.25, -2.0, 1.0, 0.0]])
    scale = np.linalg.norm(queries, axis=1, keepdims=True) if metric == "cosine" else 1.0
    far = -(queries / scale) @ rows.T if metric != "euclidean" else cdist(queries, rows)
    found = lv.Index(rows, metric).search(queries, 40)
    np.testing.assert_array_equal(found.positions, first(far.round(12), 40))
