"""BeliefIndex: distances beside closed forms, probabilities beside exact ones, and whether they come true."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import linalg, stats
from scipy.integrate import quad
from scipy.spatial.distance import cdist, jensenshannon
from torch.distributions import MultivariateNormal, kl_divergence

import latentvars as lv
from latentvars.embedding.search.beliefs import CategoricalBeliefs, DrawnBeliefs, NormalBeliefs
from latentvars.embedding.search.nearer import nearer
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError
from latentvars.posterior.latent import LatentPosterior

noise = np.random.default_rng(11)
SIZE, WIDTH = 7, 3
LOC = noise.normal(size=(SIZE, WIDTH))
ROOT = noise.normal(size=(SIZE, WIDTH, WIDTH))
COV = ROOT @ ROOT.swapaxes(1, 2) + 0.1 * np.eye(WIDTH)
STD = noise.uniform(0.2, 1.5, size=(SIZE, WIDTH))
PROBS = noise.dirichlet(np.ones(4), size=SIZE)


def posterior(belief: Any, size: int = SIZE) -> LatentPosterior:
    return LatentPosterior({"z": [belief]}, tuple(f"row {n}" for n in range(size)))


def full() -> LatentPosterior:
    return posterior(dist.MultivariateNormal(torch.as_tensor(LOC), torch.as_tensor(COV)))


def independent() -> LatentPosterior:
    return posterior(dist.Normal(torch.as_tensor(LOC), torch.as_tensor(STD)).to_event(1))


def categories() -> LatentPosterior:
    return posterior(dist.Categorical(torch.as_tensor(PROBS)))


def off_diagonal(table: np.ndarray) -> np.ndarray:
    return table[~np.eye(len(table), dtype=bool)]


@pytest.mark.parametrize("latent", [full(), independent()], ids=["full", "independent"])
def test_distances_of_normals_are_those_of_their_definitions(latent: LatentPosterior) -> None:
    index, every = lv.BeliefIndex(latent), [f"row {n}" for n in range(SIZE)]
    cov = COV if isinstance(latent.belief(), MultivariateNormal) else np.stack([np.diag(one**2) for one in STD])
    laws = [MultivariateNormal(torch.as_tensor(m), torch.as_tensor(c)) for m, c in zip(LOC, cov, strict=True)]
    for i, j in itertools.combinations(range(SIZE), 2):
        half = linalg.sqrtm(cov[i])
        moved = np.trace(cov[i] + cov[j] - 2 * linalg.sqrtm(half @ cov[j] @ half).real)
        gap = np.square(LOC[i] - LOC[j]).sum()
        wanted = {
            "mean": np.sqrt(gap),
            "wasserstein": np.sqrt(gap + moved),
            "expected": np.sqrt(gap + np.trace(cov[i]) + np.trace(cov[j])),
            "kl": float(kl_divergence(laws[i], laws[j]) + kl_divergence(laws[j], laws[i])),
        }
        for kind, value in wanted.items():
            assert index.distances(every, kind)[i, j] == pytest.approx(value, rel=1e-9), kind
    for kind in ("mean", "wasserstein", "expected", "kl"):
        found = index.distances(every, kind)
        np.testing.assert_allclose(found, found.T, atol=1e-9)
        assert (np.diag(found) == 0).all()
        other = index.distances(latent, kind)  # the same beliefs of other rows
        np.testing.assert_allclose(off_diagonal(other), off_diagonal(found))
    assert (index.distances(every, "mean") <= index.distances(every, "wasserstein") + 1e-9).all()
    assert (index.distances(every, "wasserstein") <= index.distances(every, "expected") + 1e-9).all()


def test_the_expected_distance_is_that_of_draws() -> None:
    latent = full()
    index = lv.BeliefIndex(latent)
    one, other = (latent.sample("z", 40_000, seed).numpy() for seed in (1, 2))
    squared = np.square(one[:, 0] - other[:, 3]).sum(1)
    assert index.distances(latent)[0, 3] == pytest.approx(np.sqrt(squared.mean()), rel=0.02)
    drawn = lv.BeliefIndex(one)
    np.testing.assert_allclose(
        off_diagonal(drawn.distances(drawn.ids)), off_diagonal(index.distances(index.ids)), rtol=0.02
    )


def test_wasserstein_in_one_dimension_is_between_quantiles() -> None:
    vectors = lv.Vectors(np.array([[0.0], [1.3]]), std=np.array([[0.5], [2.0]]))
    gap = lambda u: (stats.norm.ppf(u, 0, 0.5) - stats.norm.ppf(u, 1.3, 2.0)) ** 2  # noqa: E731
    assert lv.BeliefIndex(vectors).distances("0", "wasserstein")[0, 1] ** 2 == pytest.approx(
        quad(gap, 0, 1)[0], rel=1e-6
    )


def test_distances_of_categories_are_scipy_s() -> None:
    index = lv.BeliefIndex(categories())
    for i, j in itertools.combinations(range(SIZE), 2):
        p, q = PROBS[i], PROBS[j]
        wanted = {
            "expected": sum(p[k] * q[m] for k in range(4) for m in range(4) if k != m),
            "total-variation": stats.wasserstein_distance_nd(np.eye(4) / np.sqrt(2), np.eye(4) / np.sqrt(2), p, q),
            "hellinger": np.sqrt(1 - np.sqrt(p * q).sum()),
            "jensen-shannon": jensenshannon(p, q),
            "kl": stats.entropy(p, q) + stats.entropy(q, p),
            "mean": np.linalg.norm(p - q),
        }
        for kind, value in wanted.items():
            assert index.distances(f"row {i}", kind)[0, j] == pytest.approx(value, rel=1e-6), kind


def triple(width: int, seed: int) -> list[NormalBeliefs]:
    own = np.random.default_rng(seed)
    root = own.normal(size=(3, 1, width, width)) * own.uniform(0.1, 2, (3, 1, 1, 1))
    return [NormalBeliefs(own.normal(size=(1, width)), one @ one.swapaxes(1, 2)) for one in root]


@pytest.mark.parametrize("seed", range(12))
def test_nearer_in_one_dimension_is_a_quadrant(seed: int) -> None:
    """|q − a| < |q − b| where (a − b)(a + b − 2q) < 0: two quadrants of a bivariate normal."""
    q, a, b = triple(1, seed)
    mean = np.array([a.loc - b.loc, a.loc + b.loc - 2 * q.loc]).ravel()
    s, t, u = (one.spread.item() for one in (a, b, q))
    law = stats.multivariate_normal(mean, [[s + t, s - t], [s - t, s + t + 4 * u]])
    both = law.cdf([0, 0], rng=0)
    below = [stats.norm.cdf(0, m, np.sqrt(v)) for m, v in zip(mean, (s + t, s + t + 4 * u), strict=True)]
    found = nearer(q, a, b)
    assert float(found) == pytest.approx(below[0] + below[1] - 2 * both, abs=1e-6)
    assert found.error.item() < 1e-6 and found.draws == 0


@pytest.mark.parametrize(("width", "shift"), [(1, 0.0), (2, 0.7), (5, 0.0), (5, 3.0), (40, 2.0)])
def test_nearer_to_a_point_is_a_ratio_of_chi_squares(width: int, shift: float) -> None:
    point = NormalBeliefs(np.zeros((1, width)), np.zeros((1, width)))
    away = np.full((1, width), shift / np.sqrt(width))
    a, b = NormalBeliefs(away, np.full((1, width), 0.6)), NormalBeliefs(np.zeros((1, width)), np.full((1, width), 1.7))
    ratio = stats.ncf(width, width, shift**2 / 0.6) if shift else stats.f(width, width)
    assert float(nearer(point, a, b)) == pytest.approx(ratio.cdf(1.7 / 0.6), abs=1e-7)
    assert float(nearer(point, b, a)) == pytest.approx(1 - ratio.cdf(1.7 / 0.6), abs=1e-7)


@pytest.mark.parametrize("gap", [0.01, 1.0, 30.0, 3000.0])
def test_an_uncertain_query_between_points_is_a_half_space(gap: float) -> None:
    """Only the query is uncertain: D is linear and normal, the quadratic form has no eigenvalue left."""
    q = NormalBeliefs(np.array([[0.3, -0.2]]), np.array([[[1.0, 0.4], [0.4, 0.5]]]))
    a, b = (NormalBeliefs(np.array([[at, 0.0]]), np.zeros((1, 2))) for at in (0.0, gap))
    assert float(nearer(q, a, b)) == pytest.approx(stats.norm.cdf(gap / 2, 0.3, 1.0), abs=1e-8)
    almost = NormalBeliefs(b.loc, np.full((1, 2), 1e-8))
    assert float(nearer(q, a, almost)) == pytest.approx(stats.norm.cdf(gap / 2, 0.3, 1.0), abs=1e-3)


@pytest.mark.parametrize(("width", "seed"), [(2, 0), (3, 1), (8, 2)])
def test_nearer_is_what_draws_say(width: int, seed: int) -> None:
    beliefs, own = triple(width, seed), np.random.default_rng(seed)
    q, a, b = (own.multivariate_normal(one.loc[0], one.spread[0], 400_000) for one in beliefs)
    share = (np.square(q - a).sum(1) < np.square(q - b).sum(1)).mean()
    assert float(nearer(*beliefs)) == pytest.approx(share, abs=4 * np.sqrt(0.25 / 400_000))
    drawn = nearer(*(DrawnBeliefs(one[:5000, None]) for one in (q, a, b)))
    assert drawn.draws == 5000 and abs(float(drawn) - share) < 4 * drawn.error.item()


def test_points_and_ties() -> None:
    points = lv.BeliefIndex(lv.Vectors(np.array([[0.0], [1.0], [-1.0], [3.0]]), std=np.zeros((4, 1))))
    found = points.probability_nearer("0", ["1", "1", "3", "1", "0", "1"], ["3", "2", "1", "1", "1", "0"])
    assert found.probability.tolist() == [1.0, 0.5, 0.0, 0.5, 1.0, 0.0] and (found.error == 0).all()
    assert "1.000 ± 0" in str(found)
    wide = lv.BeliefIndex(full())  # a row is one variable, however wide: nothing is nearer to it than itself
    itself = wide.probability_nearer(
        ["row 2", "row 2", "row 2"], ["row 2", "row 4", "row 4"], ["row 4", "row 2", "row 5"]
    )
    assert itself.probability[:2].tolist() == [1.0, 0.0] and 0 < itself.probability[2] < 1


def test_categories_in_all_combinations() -> None:
    index = lv.BeliefIndex(categories())
    q, a, b = PROBS[0], PROBS[1], PROBS[2]
    wins = 0.0
    for i, j, k in itertools.product(range(4), repeat=3):
        wins += q[i] * a[j] * b[k] * (0.5 if (i == j) == (i == k) else float(i == j))
    assert float(index.probability_nearer("row 0", "row 1", "row 2")) == pytest.approx(wins)
    few = lv.BeliefIndex(posterior(dist.Categorical(torch.as_tensor(PROBS[:5])), 5))
    wanted = np.zeros(5)  # two nearest of row 0: by every combination of the others, ties shared
    for drawn in itertools.product(range(4), repeat=5):
        same = np.array([0] + [drawn[n] == drawn[0] for n in range(1, 5)], float)
        m = same.sum()
        share = same * min(1, 2 / m) if m >= 2 else same + (1 - same) * (np.arange(5) > 0) * (2 - m) / (4 - m)
        wanted += np.prod([PROBS[n, drawn[n]] for n in range(5)]) * share
    found = few.probability_among_nearest("row 0", 2, draws=8_000)[0]
    np.testing.assert_allclose(found, wanted, atol=4 * np.sqrt(0.25 / 8_000))


def test_among_points_the_nearest_is_the_cell_of_the_query() -> None:
    """A normal query on a line of known points: each is nearest with the mass of its cell."""
    points = np.array([-1.0, 0.2, 0.5, 2.0])
    index = lv.BeliefIndex(lv.Vectors(points[:, None], list("abcd"), std=np.zeros((4, 1))))
    query = lv.Vectors(np.array([[0.3]]), ["q"], std=np.array([[0.8]]))
    cuts = np.array([-np.inf, *((points[1:] + points[:-1]) / 2), np.inf])
    one = np.diff(stats.norm.cdf(cuts, 0.3, 0.8))
    found = index.probability_among_nearest(query, 1, draws=8_000, seed=3)
    np.testing.assert_allclose(found[0], one, atol=4 * np.sqrt(0.25 / 8_000))
    pairs = np.array([-np.inf, -0.25, 1.1, np.inf])  # ab | bc | cd, cut where a and c, b and d are equally far
    mass = np.diff(stats.norm.cdf(pairs, 0.3, 0.8))
    two = index.search(query, 2, draws=8_000, seed=3)
    assert two.ids.tolist() == [["b", "c"]] and two.queries.tolist() == ["q"]
    np.testing.assert_allclose(two.probability[0], [mass[0] + mass[1], mass[1] + mass[2]], atol=0.025)
    assert two.confidence[0] == pytest.approx(two.probability[0].mean())
    assert (np.abs(two.probability[0] - [mass[0] + mass[1], mass[1] + mass[2]]) < 4 * two.error[0]).all()


def test_of_two_the_nearer_is_the_nearest() -> None:
    index = lv.BeliefIndex(full())
    pair = lv.BeliefIndex(NormalLatent([1, 2]), ids=["a", "b"])
    share = pair.probability_among_nearest(NormalLatent([0]), 1, draws=8_000)[0, 0]
    exact = float(index.probability_nearer("row 0", "row 1", "row 2"))
    assert share == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 8_000))


def NormalLatent(at: list[int]) -> LatentPosterior:
    return posterior(dist.MultivariateNormal(torch.as_tensor(LOC[at]), torch.as_tensor(COV[at])), len(at))


def test_probabilities_add_up_to_k_and_where_nothing_is_known_all_are_alike() -> None:
    index = lv.BeliefIndex(full())
    share = index.probability_among_nearest(index.ids, 3)
    np.testing.assert_allclose(share.sum(1), 3)
    assert (np.diag(share) == 0).all()
    same = lv.BeliefIndex(lv.Vectors(np.zeros((30, 4)), std=np.ones((30, 4))))
    wide = same.search(lv.Vectors(np.zeros((2, 4)), std=np.full((2, 4), 1e-9)), 3, draws=4000, abstain=0.5)
    assert wide.abstained.all() and (wide.ids == "").all() and (wide.positions == -1).all()
    np.testing.assert_allclose(wide.confidence, 0.1, atol=0.02)
    assert len(wide.table()) == 0 and "abstains" in str(wide)


def test_draws_of_one_seed_are_independent_of_those_of_queries() -> None:
    """Beliefs without a closed form are drawn from one seed; a query with a row's belief is not that row."""
    law = lambda: posterior(dist.LogNormal(torch.zeros(SIZE, 2), torch.ones(SIZE, 2)).to_event(1))  # noqa: E731
    index = lv.BeliefIndex(law(), draws=2000)
    share = index.probability_among_nearest(law(), 1, draws=2000)
    np.testing.assert_allclose(share, 1 / SIZE, atol=0.05)
    share = index.probability_among_nearest(lv.BeliefIndex(law(), draws=2000), 1, draws=2000)
    np.testing.assert_allclose(share, 1 / SIZE, atol=0.05)
    assert (index.distances(law()) > 0).all()


def test_joint_draws_keep_what_rows_share() -> None:
    """A shift that all rows share moves no neighbour; drawn one by one it would."""
    shift = 10 * noise.normal(size=(500, 1, 2))
    places = noise.normal(size=(12, 2))
    index = lv.BeliefIndex(places + shift)
    far = cdist(places, places)
    np.fill_diagonal(far, np.inf)
    found = index.search(index.ids, 3, draws=500)
    assert (np.sort(found.positions, 1) == np.sort(np.argsort(far, 1)[:, :3], 1)).all()
    assert (found.probability == 1).all() and (found.error > 0).all() and found.draws == 500


def test_draws_by_site_are_taken_as_a_fit_gives_them() -> None:
    fit = lv.fit(lv.models.FactorAnalysis(2), np.random.default_rng(5).normal(size=(30, 4)), progress=False)
    drawn = fit.draw_latents(draws=8)
    plain = lv.BeliefIndex(np.asarray(drawn["z"]))
    for index in (lv.BeliefIndex(drawn), lv.BeliefIndex({**drawn, "other": drawn["z"] + 1}, site="z")):
        assert np.array_equal(index.distances("3"), plain.distances("3"))
    with pytest.raises(NameUnknownError, match="site="):
        lv.BeliefIndex({**drawn, "other": drawn["z"]})
    with pytest.raises(KindError, match="numbers"):
        lv.BeliefIndex(np.array([["a"]]))
    with pytest.raises(ShapeError, match="2 queries, 3 and 1 ids"):
        plain.probability_nearer(["1", "2"], ["3", "4", "5"], "6")


def test_the_order_of_a_distance_keeps_the_probabilities() -> None:
    index = lv.BeliefIndex(full())
    by = index.search(index.ids, 3, by="wasserstein")
    far = index.distances(index.ids, "wasserstein") + np.diag(np.full(SIZE, np.inf))
    np.testing.assert_array_equal(by.positions, np.argsort(far, 1)[:, :3])
    share = index.probability_among_nearest(index.ids, 3)
    np.testing.assert_array_equal(by.probability, np.take_along_axis(share, by.positions, 1))
    best = index.search(index.ids, 3)
    assert (best.confidence >= by.confidence - 1e-12).all() and (np.diff(best.probability) <= 0).all()
    table = by.table()
    assert len(table) == 3 * SIZE
    assert list(table.columns) == ["query", "rank", "id", "probability", "error", "confidence"]


def test_results_repeat_by_seed_and_leave_the_global_generator() -> None:
    index = lv.BeliefIndex(full())
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    one, two, other = (index.search(index.ids, 2, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.probability, two.probability)
    assert (one.probability != other.probability).any()
    alone = index.search("row 3", 2, seed=4)
    np.testing.assert_array_equal(alone.probability[0], one.probability[3])  # common draws: whatever is asked beside it
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]


class Latents:
    """z_n ~ N(0, 1), x_n ~ N(z_n, 1) on three columns; a user's model with its own guide."""

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            z = pyro.sample("z", dist.Normal(rows.x.new_zeros(len(rows)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), 1.0).to_event(1), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", dist.Normal(rows.x.sum(-1) / 4, 0.5))


def test_a_model_of_one_s_own() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    fit = lv.from_point(Latents(), x, {})
    index = lv.BeliefIndex(fit.latent())
    assert isinstance(index.known, NormalBeliefs) and index.known.loc.shape == (20, 1)
    np.testing.assert_allclose(index.known.loc[:, 0], x.sum(1) / 4, rtol=1e-6)
    np.testing.assert_allclose(index.known.spread, 0.25)
    mixture = lv.fit(lv.models.GaussianMixture(2), x, lv.EM(passes=5), progress=False)
    found = lv.BeliefIndex(mixture.latent(batch_size=7))
    assert isinstance(found.known, CategoricalBeliefs) and len(found) == 20
    analysis = lv.fit(lv.models.FactorAnalysis(1), x, lv.EM(passes=5), progress=False)
    parts = lv.BeliefIndex(analysis.latent(batch_size=7)).known
    assert isinstance(parts, NormalBeliefs) and parts.spread.shape == (20, 1, 1)


def test_what_does_not_belong_is_refused() -> None:
    latent, index = full(), lv.BeliefIndex(full())
    with pytest.raises(KindError, match=r"lv\.Index"):
        lv.BeliefIndex(lv.Vectors(LOC))
    with pytest.raises(KindError, match="no spread"):
        lv.BeliefIndex(LOC)
    with pytest.raises(ShapeError, match="draws of shape"):
        lv.BeliefIndex(np.zeros((2, 3, 4, 5)))
    with pytest.raises(DataError, match="not finite"):
        lv.BeliefIndex(np.full((2, 3, 4), np.nan))
    with pytest.raises(DataError, match="repeat"):
        lv.BeliefIndex(latent, ids=["a"] * SIZE)
    with pytest.raises(NameUnknownError, match="'y'"):
        lv.BeliefIndex(latent, site="y")
    with pytest.raises(KindError, match="one family"):
        index.distances(categories())
    with pytest.raises(ShapeError, match="width"):
        index.search(lv.Vectors(LOC[:, :2], std=STD[:, :2]), 2)
    with pytest.raises(KindError, match="wasserstein"):
        index.distances(latent, "hellinger")
    with pytest.raises(DataError, match="spread"):
        lv.BeliefIndex(lv.Vectors(LOC, std=0 * STD)).distances("0", "kl")
    for k in (0, SIZE):
        with pytest.raises(SettingError, match="from 1 to 6"):
            index.search("row 1", k)
    with pytest.raises(SettingError, match="share"):
        index.search("row 1", 2, abstain=1.5)
    chain = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(3)), [LOC, LOC], lv.EM(passes=2), progress=False)
    with pytest.raises(KindError, match="sequence of categories"):
        lv.BeliefIndex(chain.latent())
    draws = lv.BeliefIndex(noise.normal(size=(10, 4, 2)))
    with pytest.raises(ShapeError, match="9 draws beside 10"):
        draws.distances(noise.normal(size=(9, 4, 2)))
    with pytest.raises(KindError, match="no density"):
        draws.distances("0", "kl")


@pytest.mark.parametrize("asked", ["distance", "distances", "index", "nearest"])
def test_a_posterior_is_not_asked_for_a_distance(asked: str) -> None:
    with pytest.raises(KindError, match=r"lv\.BeliefIndex.*lv\.Index"):
        getattr(full(), asked)("row 1", "row 2")


def factors(seed: int, k: int) -> tuple[Any, Any, np.ndarray]:
    """Known globals, 70 % of the entries of queries missing: rows, queries, and who is truly among the k nearest."""
    own = np.random.default_rng(seed)
    loadings, scale, z = own.normal(size=(15, 2)), own.uniform(0.5, 1.5, 15), own.normal(size=(400, 2))
    x = z @ loadings.T + scale * own.normal(size=(400, 15))
    point = {"loc": torch.zeros(15).double(), "loadings": torch.as_tensor(loadings), "scale": torch.as_tensor(scale)}
    fit = lv.from_point(lv.models.FactorAnalysis(2), x[:150], point)
    gaps = np.where(own.random((250, 15)) < 0.7, np.nan, x[150:])
    far = cdist(z[150:], z[:150])
    return fit.latent(), fit.latent(gaps), far <= np.sort(far, 1)[:, k - 1 : k]


def calibration_error(p: np.ndarray, truth: np.ndarray) -> float:
    parts = np.array_split(np.argsort(p.ravel(), kind="stable"), 20)
    return float(np.mean([abs(p.ravel()[part].mean() - truth.ravel()[part].mean()) for part in parts]))


@pytest.mark.parametrize("k", [1, 8])
def test_uncertain_neighbours_are_better_calibrated_than_plain_ones(k: int) -> None:
    """With 70 % of the entries missing: all scores are better, and what is said comes true as often as it is said."""
    gaps, wins = [], 0
    for seed in range(3):
        rows, queries, truth = factors(seed, k)
        index = lv.BeliefIndex(rows)
        said = index.probability_among_nearest(queries, k, draws=600, seed=seed)
        means = cdist(queries.mean().numpy(), rows.mean().numpy())
        plain = (means <= np.sort(means, 1)[:, k - 1 : k]).astype(float)
        assert np.square(said - truth).mean() < 0.8 * np.square(plain - truth).mean()
        assert calibration_error(said, truth) < 0.3 * calibration_error(plain, truth)
        found = index.search(queries, k, draws=600, seed=seed)
        right = np.take_along_axis(truth, found.positions, 1).mean(1)
        gaps.append(right - found.confidence)
        wins += right[found.confidence > np.median(found.confidence)].mean() > right.mean()
        usual = np.take_along_axis(truth, np.argsort(means, 1)[:, :k], 1).mean(1)
        assert right.mean() > usual.mean() - 2 * (right - usual).std() / np.sqrt(len(right))  # and no worse as a list
    off = np.concatenate(gaps)
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(len(off))
    assert wins == 3  # abstaining below a confidence keeps the better half


def test_beliefs_that_are_too_narrow_are_found_out() -> None:
    """The check above can fail: with half the spread the confidence is too high."""
    rows, queries, truth = factors(0, 8)
    law = queries.belief()
    narrow = posterior(dist.MultivariateNormal(law.mean, law.covariance_matrix / 16), len(truth))
    found = lv.BeliefIndex(rows).search(narrow, 8, draws=600)
    off = np.take_along_axis(truth, found.positions, 1).mean(1) - found.confidence
    assert off.mean() < -4 * off.std() / np.sqrt(len(off))
