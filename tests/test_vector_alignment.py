"""Vectors over time: alignment against maps that were planted, drift against scipy, concordance against formulas."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from scipy.stats import binom, energy_distance, hypergeom, ks_2samp, kstest, spearmanr, special_ortho_group
from sklearn.metrics.pairwise import rbf_kernel

import latentvars as lv
from latentvars.embedding.alignment.two_samples import Samples, energy, kolmogorov_smirnov, median_kernel
from latentvars.errors import DataError, NameUnknownError, SettingError, ShapeError

OLD = lv.Provenance("mean of z", model="m", data="d", fit="old")
NEW = lv.Provenance("mean of z", model="m", data="d", fit="new")
CHANCE = np.random.default_rng(0)
POINTS = CHANCE.normal(size=(60, 4)) * [3.0, 2.0, 1.0, 0.5] + [0.5, 0.0, -0.5, 0.2]
IDS = [f"row {n}" for n in range(60)]


def vectors(values: Any, ids: Any = IDS, provenance: lv.Provenance = OLD, **more: Any) -> lv.Vectors:
    return lv.Vectors(values, ids, provenance=provenance, **more)


def planted(kind: str) -> np.ndarray:
    """The matrix that an alignment of this kind should find."""
    chance = np.random.default_rng(5)
    signs, order = np.diag([1.0, -1.0, -1.0, 1.0]), np.eye(4)[[2, 0, 3, 1]]
    turn = special_ortho_group.rvs(4, random_state=chance) @ np.diag([1.0, 1.0, 1.0, -1.0])
    return {
        "sign": signs,
        "permutation": order,
        "signed permutation": order @ signs,
        "rotation": turn,
        "rotation+scale": 2.5 * turn,
    }[kind]


@pytest.mark.parametrize("kind", ["sign", "permutation", "signed permutation", "rotation", "rotation+scale"])
@pytest.mark.parametrize("shift", [False, True])
def test_a_planted_map_is_found_from_some_rows_and_applied_to_all(kind: str, shift: bool) -> None:
    matrix, offset = planted(kind), np.array([1.0, -2.0, 0.5, 3.0]) * shift
    moved = (POINTS - offset) @ np.linalg.inv(matrix)
    order = np.random.default_rng(1).permutation(60)
    new = vectors(moved[order], np.array(IDS)[order], NEW, metadata={"n": order})
    old = vectors(POINTS[:30], IDS[:30], names="abcd")
    found = lv.vector_alignment(new, old, kind, shift=shift)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-10)
    np.testing.assert_allclose(found.offset, offset, atol=1e-10)
    assert found.rows == 30 and found.residual < 1e-20
    aligned = lv.align_vectors(new, old, kind, shift=shift)
    np.testing.assert_allclose(aligned[IDS], POINTS, atol=1e-10)
    assert aligned.names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(aligned.metadata["n"], order)
    assert aligned.metadata["aligned"][0] == f"{kind} from {NEW}"
    old.check_comparable(aligned)  # an index of old vectors takes them
    with pytest.raises(DataError, match="align_vectors"):
        old.check_comparable(new)


@pytest.mark.parametrize("kind", ["permutation", "signed permutation"])
def test_with_noise_the_permutation_is_the_best_of_all(kind: str) -> None:
    chance = np.random.default_rng(2)
    new, old = chance.normal(size=(25, 4)), chance.normal(size=(25, 4))
    signs = [np.diag(s) for s in itertools.product([1.0, -1.0], repeat=4)] if kind != "permutation" else [np.eye(4)]
    maps = [np.eye(4)[list(order)] @ sign for order in itertools.permutations(range(4)) for sign in signs]
    best = min(maps, key=lambda matrix: ((new @ matrix - old) ** 2).sum())
    np.testing.assert_array_equal(lv.vector_alignment(new, old, kind).matrix, best)


def test_no_turn_leaves_less_than_the_one_found() -> None:
    chance = np.random.default_rng(3)
    new, old = chance.normal(size=(20, 3)), chance.normal(size=(20, 3))
    found = lv.vector_alignment(new, old, "rotation+scale").matrix
    left = ((new @ found - old) ** 2).sum()
    for turn in special_ortho_group.rvs(3, size=200, random_state=chance):
        near = found @ np.linalg.matrix_power(turn, 1)
        assert ((new @ near - old) ** 2).sum() >= left
    for scale in (0.99, 1.01):
        assert ((scale * new @ found - old) ** 2).sum() > left


def test_standard_deviations_of_independent_errors_turn_with_the_vectors() -> None:
    std = np.random.default_rng(4).uniform(0.1, 1.0, (60, 4))
    matrix = planted("rotation+scale")
    new = vectors(POINTS @ np.linalg.inv(matrix), provenance=NEW, std=std)
    aligned = lv.align_vectors(new, vectors(POINTS), "rotation+scale")
    expected = [np.sqrt(np.diag(matrix.T @ np.diag(row**2) @ matrix)) for row in std]
    np.testing.assert_allclose(aligned.std, expected, rtol=1e-10)
    flipped = vectors(POINTS @ planted("permutation").T, provenance=NEW, std=std)
    exact = lv.align_vectors(flipped, vectors(POINTS), "permutation")
    np.testing.assert_allclose(exact.std, std @ planted("permutation"), rtol=1e-15)


def test_the_residual_is_honest_about_noise() -> None:
    """Of rows that were left out it is the variance of the noise beside the spread; within it would be far less."""
    chance = np.random.default_rng(6)
    truth = chance.normal(size=(2000, 3))
    new = truth @ special_ortho_group.rvs(3, random_state=chance)
    found = lv.vector_alignment(new, truth + 0.5 * chance.normal(size=truth.shape))
    assert found.residual == pytest.approx(0.25 / 1.25, rel=0.03)
    x, y = chance.normal(size=(2, 40, 15))
    nothing = lv.vector_alignment(x, y, "rotation+scale")
    within = ((x @ nothing.matrix - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert within < 0.9 and nothing.residual > 1
    assert str(found).startswith("rotation of 3 coordinates")


def test_a_refit_that_learnt_something_else_is_not_stamped_as_the_old() -> None:
    chance = np.random.default_rng(7)
    new, old = vectors(chance.normal(size=(60, 4)), provenance=NEW), vectors(POINTS)
    with pytest.raises(DataError, match="learnt something"):
        lv.align_vectors(new, old)
    forced = lv.align_vectors(new, old, tolerance=10.0).provenance
    assert forced == replace(OLD, aligned=f"rotation from {NEW}") and forced.space == OLD.space


def test_a_factor_analysis_refitted_speaks_the_old_axes_again() -> None:
    """Two starts of one model differ by a turn, which rows of one half tell and rows of the other confirm."""
    x = lv.datasets.iris().x
    model = lv.models.FactorAnalysis(2, noise="spherical")
    fits = [lv.fit(model, x, lv.EM(passes=100), seed=seed, progress=False) for seed in (0, 3)]
    first, second = (fit.latent().mean().numpy() for fit in fits)
    turn = special_ortho_group.rvs(2, random_state=np.random.default_rng(8))
    old, new = vectors(first, range(150)), vectors(second @ turn, range(150), NEW)
    assert np.abs(new.values - old.values).max() > 0.5
    aligned = lv.align_vectors(new, old, ids=range(75))
    np.testing.assert_allclose(aligned.values[75:], old.values[75:], atol=0.01)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet", ".h5ad"])
def test_what_was_aligned_says_so_in_files_and_an_index_of_the_old_takes_it(suffix: str, tmp_path: Path) -> None:
    old, new = vectors(POINTS), vectors(np.vstack([POINTS, -POINTS]), [*IDS, *(f"new {n}" for n in range(60))], NEW)
    now = lv.align_vectors(new, old, "sign")
    note = f"sign from {NEW}"
    assert now.provenance.aligned == note and note in str(now) and not old.provenance.aligned
    assert lv.load_vectors(now.save(tmp_path / f"v{suffix}")).provenance == now.provenance
    index = lv.Index(old, "euclidean").add(now.take(slice(60, 80)))
    assert index.vectors.metadata["aligned"].tolist() == [None] * 60 + [note] * 20
    assert index.vectors.provenance == OLD
    again = lv.load_index(index.save(tmp_path / "index"))
    assert again.vectors.metadata["aligned"].tolist() == [None] * 60 + [note] * 20
    assert index.search(["new 3"], k=5, where={"aligned": note}).positions.min() >= 60
    assert (
        index.add(vectors(-POINTS[20:] - 9, [f"late {n}" for n in range(40)])).vectors.metadata["aligned"][-1] is None
    )


def test_what_cannot_be_aligned_is_said() -> None:
    old = vectors(POINTS)
    with pytest.raises(ShapeError, match="3 coordinates beside 4"):
        lv.align_vectors(POINTS[:, :3], old)
    with pytest.raises(DataError, match="0 ids in common"):
        lv.align_vectors(vectors(POINTS, [f"x{n}" for n in range(60)]), old)
    with pytest.raises(DataError, match="at least 4"):
        lv.align_vectors(vectors(POINTS[:3], IDS[:3]), old)
    with pytest.raises(NameUnknownError):
        lv.align_vectors(old, old, ids=["row 0", "nobody"])
    with pytest.raises(SettingError, match="kind"):
        lv.align_vectors(old, old, "affine")
    with pytest.raises(SettingError, match="tolerance"):
        lv.align_vectors(old, old, tolerance=0.0)
    learnt = lv.vector_alignment(vectors(POINTS, provenance=NEW), old)
    with pytest.raises(DataError, match="refit"):
        learnt.apply(old)
    with pytest.raises(ShapeError):
        learnt.apply(POINTS[:, :2])


# ---- concordance


def test_concordance_is_what_the_formulas_say() -> None:
    chance = np.random.default_rng(9)
    x, y = chance.normal(size=(40, 3)), chance.normal(size=(40, 5))
    y[:, :3] += x
    found = lv.concordance(x, y, neighbours=4)
    gram = [(v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y)]
    assert found.cka == pytest.approx(np.trace(gram[0] @ gram[1]) / np.prod([np.linalg.norm(g) for g in gram]))
    padded = np.concatenate([x, np.zeros((40, 2))], 1)
    assert found.procrustes == pytest.approx(np.sqrt(1 - procrustes(padded, y)[2]))
    assert found.distances == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic)
    near = []
    for n in range(40):
        sets = [set(np.argsort(np.linalg.norm(v - v[n], axis=1))[1:5].tolist()) for v in (x, y)]
        near.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert found.overlap == pytest.approx(np.mean(near))
    assert "40 common rows" in str(found)


@given(seed=st.integers(0, 10_000), width=st.integers(1, 5), scale=st.floats(1e-6, 1e6))
def test_concordance_knows_no_axes_origins_or_units(seed: int, width: int, scale: float) -> None:
    chance = np.random.default_rng(seed)
    x, y = chance.normal(size=(30, width)), chance.normal(size=(30, 3))
    turn = np.linalg.qr(chance.normal(size=(width, width)))[0]
    before, after = lv.concordance(x, y, neighbours=5), lv.concordance(-scale * (x @ turn + 3.0), y, neighbours=5)
    mirrored, same = lv.concordance(y, x, neighbours=5), lv.concordance(x, scale * x @ turn, neighbours=5)
    for name in ("cka", "procrustes", "overlap", "distances"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-6)
        assert getattr(mirrored, name) == pytest.approx(getattr(before, name), abs=1e-9)
        assert getattr(same, name) == pytest.approx(1, abs=1e-6)
        assert getattr(before, name) < 1


def test_independent_embeddings_agree_as_far_as_chance_has_it() -> None:
    chance = np.random.default_rng(10)
    x, y = chance.normal(size=(2, 1500, 5))
    found = lv.concordance(x, y, neighbours=20, most=300)
    common = np.arange(21)
    expected = (hypergeom(1499, 20, 20).pmf(common) * common / (40 - common)).sum()
    assert found.chance == pytest.approx(expected, rel=0.05)
    assert found.overlap == pytest.approx(expected, rel=0.15)
    assert found.cka < 0.02 and abs(found.distances) < 0.05
    assert found == lv.concordance(x, y, neighbours=20, most=300)


def test_concordance_refuses_what_has_no_answer() -> None:
    with pytest.raises(SettingError, match="neighbours"):
        lv.concordance(POINTS, POINTS, neighbours=60)
    with pytest.raises(DataError, match="all the same"):
        lv.concordance(POINTS, np.full((60, 2), 0.1))


# ---- drift


@pytest.mark.parametrize("width", [1, 3])
def test_the_discrepancy_is_the_double_sum_of_its_definition(width: int) -> None:
    chance = np.random.default_rng(3)
    old, new = chance.normal(size=(40, width)), chance.normal(0.5, size=(30, width))
    new[:3] = old[:3]  # equal points have no part in the median
    apart = pdist(np.vstack([old, new]))
    gamma = 1 / (2 * np.median(apart[apart > 0]) ** 2)
    expected = rbf_kernel(old, gamma=gamma).mean() + rbf_kernel(new, gamma=gamma).mean()
    expected -= 2 * rbf_kernel(old, new, gamma=gamma).mean()
    other = vectors(new, [f"n{n}" for n in range(30)])
    found = lv.drift(vectors(old, [f"o{n}" for n in range(40)]), other, draws=19)
    assert found.shift.mmd == pytest.approx(expected) and "MMD²" in str(found)


def test_the_discrepancy_has_its_level_and_sees_what_the_means_do_not() -> None:
    chance, null, wide, pairs = np.random.default_rng(4), [], [], []
    for seed in range(120):
        old, same = (vectors(chance.normal(size=(25, 2)), [f"{k}{n}" for n in range(25)]) for k in "on")
        null.append(lv.drift(old, same, draws=99, neighbours=3, seed=seed).shift.mmd_p_value)
        base = chance.normal(size=(25, 2))
        both = [vectors(base + chance.normal(0, 0.3, (25, 2)), IDS[:25]) for _ in range(2)]
        pairs.append(lv.drift(*both, draws=99, neighbours=3, seed=seed).shift.mmd_p_value)
    for seed in range(20):
        apart = chance.normal(size=(150, 2)) * 0.5 + chance.choice([-1.2, 1.2], (150, 2))  # two heaps a coordinate
        old = vectors(chance.normal(size=(150, 2)), [f"o{n}" for n in range(150)])
        wide.append(lv.drift(old, vectors(apart, [f"n{n}" for n in range(150)]), draws=99, seed=seed).shift)
    for found in (null, pairs):
        assert kstest(np.asarray(found) - chance.random(120) / 100, "uniform").pvalue > 0.01
    assert np.mean([one.mmd_p_value <= 0.05 for one in wide]) > 0.9


def test_points_that_are_all_but_one_the_same_have_a_kernel() -> None:
    assert np.array_equal(median_kernel(np.zeros((3, 3))), np.ones((3, 3)))


def test_statistics_are_scipys() -> None:
    chance = np.random.default_rng(11)
    x, y = chance.normal(size=(30, 1)).round(1), chance.normal(0.1, 1.1, size=(45, 1)).round(1)
    samples = Samples(np.concatenate([x, y]), 30, 0)
    distances = np.abs(samples.points - samples.points.T)
    assert energy(distances, samples.weights) == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2)
    assert kolmogorov_smirnov(samples.points, samples.weights) == pytest.approx(ks_2samp(x[:, 0], y[:, 0]).statistic)


def test_drift_of_one_shifted_coordinate() -> None:
    chance = np.random.default_rng(12)
    old, new = chance.normal(size=(200, 3)), chance.normal(size=(150, 3))
    new[:, 1] += 1.0
    found = lv.drift(vectors(old, [f"o{n}" for n in range(200)]), vectors(new, [f"n{n}" for n in range(150)]))
    table = found.table()
    assert found.shift.p_value == 1 / 500 == table["p"].iloc[1]
    assert table["p"].iloc[[0, 2]].min() > 0.05
    assert table["distance"].iloc[1] == pytest.approx(ks_2samp(old[:, 1], new[:, 1]).statistic)
    assert (len(found.ids), len(found.new), len(found.lost)) == (0, 150, 200) and found.overlap is None
    assert "0 common ids, 150 new, 200 lost" in str(found) and "most: 1," in str(found)


@pytest.mark.parametrize("pairs, most", [(0, 2000), (30, 2000), (40, 2000), (40, 20), (30, 35)])
def test_p_values_are_uniform_where_nothing_differs_pairs_or_not(pairs: int, most: int) -> None:
    """Pairs are noisy measurements of one row: a test that took them for strangers would never reject."""
    found = []
    for seed in range(300):
        chance = np.random.default_rng([13, seed])
        rows = chance.normal(size=(40, 2))
        again = np.concatenate([rows[:pairs], chance.normal(size=(40 - pairs, 2))])
        old, new = (v + 0.3 * chance.normal(size=v.shape) for v in (rows, again))
        names = [f"a{n}" for n in range(40)]
        other = [*names[:pairs], *(f"b{n}" for n in range(40 - pairs))]
        old, new = vectors(old, names), vectors(new, other)
        report = lv.drift(old, new, neighbours=3, draws=99, most=most, seed=seed).shift
        found.append((report.p_value, report.p_values.min()))
    joint, least = np.array(found).T
    assert kstest(joint - np.random.default_rng(14).uniform(0, 0.01, 300), "uniform").pvalue > 0.005
    # distances of distribution functions tie often, and ties count as being as large
    assert 3 <= (least <= 0.1).sum() <= binom(300, 0.1).ppf(0.999)


def test_moves_of_common_rows() -> None:
    chance = np.random.default_rng(15)
    new = POINTS.copy()
    new[7] += [0.0, 30.0, 0.0, 0.0]
    order = chance.permutation(60)
    std = np.full(POINTS.shape, 0.5)
    found = lv.drift(
        vectors(POINTS, std=std), vectors(new[order], np.array(IDS)[order], std=std[order]), neighbours=3, draws=19
    )
    spread = np.sqrt(((POINTS - POINTS.mean(0)) ** 2).sum(1).mean())
    far = found.farthest(2)
    assert far.index[0] == "row 7" and far["moved"].tolist() == pytest.approx([30 / spread, 0])
    assert far["standardised"].iloc[0] == pytest.approx(30 / np.sqrt(4 * 0.5))
    same = lv.drift(vectors(POINTS), vectors(POINTS), draws=19)
    assert same.moved.max() == 0 and same.overlap is not None and same.overlap.min() == 1
    assert same.shift.p_value == 1 and same.shift.energy == pytest.approx(0, abs=1e-12)
    assert same.standardised is None and "overlap 1.000" in str(same)


def test_large_samples_are_cut_pairs_with_pairs() -> None:
    chance = np.random.default_rng(16)
    old, new = chance.normal(size=(500, 2)), chance.normal(size=(400, 2))
    found = lv.drift(old, new, most=100, draws=19)
    assert found.tested == (100, 100) and len(found.ids) == 400
    again = lv.drift(old, new, most=100, draws=19)
    assert again.shift.p_value == found.shift.p_value and again.shift.energy == found.shift.energy
    assert lv.drift(old, new, most=100, draws=19, seed=1).shift.energy != found.shift.energy


def test_a_few_rows_of_today_are_all_tested_beside_a_large_store() -> None:
    chance = np.random.default_rng(17)
    store = chance.normal(size=(5000, 2))
    shifted = lv.Vectors(chance.normal(2, size=(8, 2)), [f"today {n}" for n in range(8)])
    found = lv.drift(store, shifted, most=1000, draws=199)
    assert found.tested == (1000, 8) and found.shift.p_value <= 0.01
    assert lv.drift(shifted, store, most=1000, draws=19).tested == (8, 1000)
    # rows that are in both, of which the sample of the store has few
    same = lv.drift(store, store[:8], most=1000, draws=199, neighbours=3)
    assert same.tested == (1000, 8) and len(same.ids) == 8 and same.shift.p_value > 0.01


def test_drift_between_spaces_is_refused() -> None:
    with pytest.raises(DataError, match="align_vectors"):
        lv.drift(vectors(POINTS), vectors(POINTS, provenance=NEW))
    with pytest.raises(SettingError, match="draws"):
        lv.drift(POINTS, POINTS, draws=0)
    with pytest.raises(DataError, match="at least two"):
        lv.drift(POINTS, POINTS[:1])
