"""Recommendations against brute force, scores of lists against counts by hand and scikit-learn, outliers' p-values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array
from scipy.stats import kstest
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, ndcg_score
from sklearn.neighbors import LocalOutlierFactor

import latentvars as lv
from latentvars.embedding.downstream import recommendation
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError

CHANCE = np.random.default_rng(0)


def brute(users: np.ndarray, items: np.ndarray, seen: np.ndarray, k: int, score: str) -> list[list[int]]:
    """Item by item, in Python."""
    found = []
    for u, user in enumerate(users):
        worth = []
        for i, item in enumerate(items):
            value = float(user @ item)
            if score == "cosine":
                value /= float(np.linalg.norm(user) * np.linalg.norm(item))
            if score == "euclidean":
                value = -float(np.linalg.norm(user - item))
            if not seen[u, i]:
                worth.append((-value, i))
        found.append([i for _, i in sorted(worth)[:k]])
    return found


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), score=st.sampled_from(["inner", "cosine", "euclidean"]))
def test_the_best_unseen_items_are_those_of_brute_force(seed: int, k: int, score: str) -> None:
    chance = np.random.default_rng(seed)
    users, items = chance.normal(size=(7, 3)), chance.normal(size=(10, 3))
    seen = chance.random((7, 10)) < 0.5
    found = lv.recommend(users, items, k, seen=seen, score=score)
    expected = brute(users, items, seen, k, score)
    for u, line in enumerate(expected):
        best = found.positions[u][found.positions[u] >= 0].tolist()
        assert best == line
        assert found[str(u)] == [str(i) for i in line]
        assert (found.scores[u, len(line) :] == -np.inf).all() and (found.items[u, len(line) :] == "").all()
    for other in (csr_array(seen), coo_array(seen.astype(float)), {str(u): np.flatnonzero(seen[u]) for u in range(7)}):
        np.testing.assert_array_equal(lv.recommend(users, items, k, seen=other, score=score).positions, found.positions)


def test_equal_scores_stand_in_the_order_of_the_items() -> None:
    items = np.array([[1.0], [2.0], [1.0], [2.0], [1.0]])
    found = lv.recommend(np.ones((1, 1)), items, 4, seen=[[0, 1, 0, 0, 0]])
    assert found.positions.tolist() == [[3, 0, 2, 4]] and found.scores.tolist() == [[2.0, 1.0, 1.0, 1.0]]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    users, items = CHANCE.normal(size=(50, 4)), CHANCE.normal(size=(30, 4))
    seen = CHANCE.random((50, 30)) < 0.5
    whole = lv.recommend(users, items, 5, seen=seen)
    monkeypatch.setattr(recommendation, "NUMBERS", 100)
    np.testing.assert_array_equal(lv.recommend(users, items, 5, seen=seen).positions, whole.positions)


def test_stored_zeros_are_not_seen_and_names_are_checked() -> None:
    stored = csr_array((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
    items = lv.Vectors([[3.0], [2.0], [1.0]], ["a", "b", "c"])
    users = lv.Vectors([[1.0]], ["anna"])
    assert lv.recommend(users, items, 3, seen=stored)["anna"] == ["a", "c"]
    assert stored.nnz == 2  # the caller's matrix is as it was
    with pytest.raises(NameUnknownError, match="berta"):
        lv.recommend(users, items, seen={"berta": ["a"]})
    with pytest.raises(NameUnknownError, match="'z'"):
        lv.recommend(users, items, seen={"anna": ["z"]})
    with pytest.raises(ShapeError, match="seen"):
        lv.recommend(users, items, seen=np.zeros((2, 3)))
    with pytest.raises(ShapeError, match="coordinates"):
        lv.recommend(users, np.zeros((3, 2)))
    with pytest.raises(SettingError, match="score"):
        lv.recommend(users, items, score="dot")
    with pytest.raises(DataError, match="length 0"):
        lv.recommend(users, np.zeros((3, 1)), score="cosine")
    with pytest.raises(NameUnknownError, match="berta"):
        _ = lv.recommend(users, items)["berta"]
    with pytest.raises(DataError, match="no items"):
        lv.recommend(users, items.take(slice(0, 0)))
    for wrong in (["a"], np.array(["a"])):
        with pytest.raises(KindError, match="mapping user id"):
            lv.recommend(users, items, seen=wrong)
    other = [lv.Vectors([[1.0]], ["x"], provenance=lv.Provenance("z", "m", "d", fit)) for fit in ("one", "two")]
    with pytest.raises(DataError, match="one fit"):
        lv.recommend(*other)


# ---- scores of lists


def test_scores_counted_by_hand() -> None:
    """Three queries that count: relevant at ranks 2 and 3 of four, none of one, at rank 1 of one."""
    found = [["x", "a", "b"], ["p", "q", "r"], ["m", "n", ""], ["y", "y2", "y3"]]
    scores = lv.retrieval_scores(found, [{"a", "b", "c", "d"}, {"z"}, {"m"}, set()], k=3)
    assert scores.queries == 3
    assert scores.recall == pytest.approx((0.5 + 0 + 1) / 3)
    assert scores.precision == pytest.approx((2 / 3 + 0 + 1 / 3) / 3)
    assert scores.hits == pytest.approx(2 / 3)
    assert scores.reciprocal_rank == pytest.approx((1 / 2 + 0 + 1) / 3)
    gains = 1 / np.log2([2, 3, 4])
    assert scores.ndcg == pytest.approx(((gains[1] + gains[2]) / gains.sum() + 0 + 1) / 3)
    assert scores.average_precision == pytest.approx(((1 / 2 + 2 / 3) / 3 + 0 + 1) / 3)
    assert "3 queries at k = 3" in str(scores)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 15))
def test_scores_are_scikit_learns(seed: int, k: int) -> None:
    chance = np.random.default_rng(seed)
    truth = chance.random((6, 15)) < 0.3
    truth[np.arange(6), chance.integers(15, size=6)] = True
    worth = chance.normal(size=(6, 15))
    lists = np.argsort(-worth, axis=1)
    relevant = [np.flatnonzero(line).tolist() for line in truth]
    scores = lv.retrieval_scores(lists, relevant, k)
    assert scores.ndcg == pytest.approx(ndcg_score(truth, worth, k=k))
    whole = lv.retrieval_scores(lists, relevant, 15)
    every = [average_precision_score(t, w) for t, w in zip(truth, worth, strict=True)]
    assert whole.average_precision == pytest.approx(np.mean(every))
    first = [1 + min(list(line).index(one) for one in ids) for line, ids in zip(lists, relevant, strict=True)]
    assert scores.reciprocal_rank == pytest.approx(np.mean([1 / rank if rank <= k else 0 for rank in first]))


def test_lists_that_cannot_be_scored() -> None:
    with pytest.raises(ShapeError, match="one list"):
        lv.retrieval_scores([["a"]], [{"a"}, {"b"}], 1)
    with pytest.raises(SettingError, match="k=2"):
        lv.retrieval_scores([["a"]], [{"a"}], 2)
    with pytest.raises(DataError, match="twice"):
        lv.retrieval_scores([["a", "a"]], [{"a"}], 2)
    with pytest.raises(DataError, match="relevant"):
        lv.retrieval_scores([["a"]], [set()], 1)


# ---- outliers

FOREST = IsolationForest(n_estimators=20)


@pytest.mark.parametrize("detector", ["neighbours", "mahalanobis", FOREST, LocalOutlierFactor(novelty=True)])
def test_p_values_of_normal_rows_are_uniform_and_outliers_are_flagged(detector: object) -> None:
    """One normal row for each of many references: p-values of one reference depend on one another."""
    found, runs = [], 60 if detector is FOREST else 250
    for seed in range(runs):
        chance = np.random.default_rng([1, seed])
        rows = chance.standard_t(3, size=(81, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
        found.append(lv.outliers(rows[:1], rows[1:], detector, seed=seed).p_values[0])
    jitter = np.random.default_rng(2).uniform(0, 1 / 41, runs)  # p-values stand on a grid
    assert kstest(np.array(found) - jitter, "uniform").pvalue > 0.005
    chance = np.random.default_rng(3)
    reference, planted = chance.normal(size=(400, 2)), chance.normal([9.0, -9.0], size=(5, 2))
    rows = lv.Vectors(np.concatenate([chance.normal(size=(45, 2)), planted]), [f"r{n}" for n in range(50)])
    seen = lv.outliers(rows, reference, detector)
    assert set(seen.flagged(0.2)) >= {f"r{n}" for n in range(45, 50)} and len(seen.flagged(0.2)) <= 10
    assert set(seen.table().index[:5]) == {f"r{n}" for n in range(45, 50)}


def test_scores_are_the_detectors_and_p_values_are_counts() -> None:
    chance = np.random.default_rng(4)
    learn, judge, rows = chance.normal(size=(60, 3)), chance.normal(size=(30, 3)), chance.normal(size=(8, 3)) * 2
    found = lv.outliers(rows, learn, "mahalanobis", calibration=judge)
    law = LedoitWolf().fit(learn)
    away = rows - law.location_
    np.testing.assert_allclose(found.scores, np.einsum("ni,ij,nj->n", away, np.linalg.inv(law.covariance_), away))
    assert found.p_values.tolist() == [(1 + (law.mahalanobis(judge) >= s).sum()) / 31 for s in found.scores]
    tied = lv.outliers(judge[:1], learn, "mahalanobis", calibration=judge[:1].repeat(9, 0))
    assert tied.p_values.tolist() == [1.0]  # a row that all of the calibration equals is not unusual
    near = lv.outliers(rows, learn, neighbours=4, calibration=judge)
    distances = np.sort(np.linalg.norm(rows[:, None] - learn, axis=-1), 1)[:, :4].mean(1)
    np.testing.assert_allclose(near.scores, distances)
    first, same = (lv.outliers(rows, learn, FOREST, seed=s).p_values for s in (1, 1))
    assert np.array_equal(first, same) and FOREST.random_state is None
    assert "30 for calibration" in str(found)


def test_the_false_discovery_rate_is_kept() -> None:
    """200 normal rows and 20 outliers, again and again: at most a fifth of what is flagged is normal, on average."""
    rates = []
    for seed in range(60):
        chance = np.random.default_rng([5, seed])
        rows = np.concatenate([chance.normal(size=(200, 2)), chance.normal(size=(20, 2)) + 4])
        seen = lv.outliers(rows, chance.normal(size=(1000, 2)), "mahalanobis", seed=seed)
        flagged = seen.flagged(0.2).astype(int)
        rates.append((flagged < 200).mean() if len(flagged) else 0)
        assert len(flagged) > 10
    assert 0.1 < np.mean(rates) < 0.2 + 3 * np.std(rates) / 60**0.5


def test_what_cannot_be_judged_is_said() -> None:
    rows = np.zeros((4, 2))
    with pytest.raises(KindError, match="novelty"):
        lv.outliers(rows, rows, LocalOutlierFactor())
    with pytest.raises(SettingError, match="detector"):
        lv.outliers(rows, rows, "forest")
    with pytest.raises(SettingError, match="calibration"):
        lv.outliers(rows, rows, calibration=1.5)
    with pytest.raises(SettingError, match="neighbours"):
        lv.outliers(rows, rows, neighbours=10)
    with pytest.raises(DataError, match="two of each"):
        lv.outliers(rows, rows[:2])
    with pytest.raises(ShapeError):
        lv.outliers(rows, rows[:, :1])
    with pytest.raises(SettingError, match="rate"):
        lv.outliers(rows, rows, neighbours=1).flagged(10)
    with pytest.raises(DataError, match="no rows"):
        lv.outliers(rows[:0], rows)
