"""Named ways to start: groups against scipy and scikit-learn, gaps, weights, sequences, inputs; built-in and user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import latentvars as lv
from latentvars import distributions
from latentvars.errors import KindError, ModelError, NumericalError, SettingError, ShapeError, SupportError
from latentvars.inference.running.binding import bind
from latentvars.inference.starting.values import starting_point
from latentvars.starts import Points, blurred
from latentvars.starts.centres import lloyd, nearest, seeds
from latentvars.starts.ward import ward

STARTS = {
    "k-means++": lv.KMeansPlusPlus(),
    "random rows": lv.RandomRows(),
    "hierarchical": lv.Hierarchical(),
    "prior draws": lv.PriorDraws(),
}
GROUPINGS = [name for name in STARTS if name != "prior draws"]
EM_CASES = [name for name, case in cases.CASES.items() if case.em]


def cloud(seed: int = 0, size: int = 60) -> np.ndarray:
    noise = np.random.default_rng(seed)
    return noise.normal(size=(size, 3)) + 4.0 * (np.arange(size)[:, None] % 4 == np.arange(3))


def points(x: np.ndarray, weights: np.ndarray | None = None) -> Points:
    weights = np.ones(len(x)) if weights is None else weights
    return Points(torch.tensor(x), torch.tensor(weights), torch.arange(len(x)), len(x))


# --- the groupings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 5, 17, 60])
def test_wards_groups_are_those_of_scipy(groups: int) -> None:
    x = cloud()
    theirs = cut_tree(linkage(x, "ward"), groups)[:, 0]
    assert adjusted_rand_score(ward(x, np.ones(60), groups), theirs) == 1.0
    assert len(set(ward(x, np.ones(60), groups))) == groups


def test_wards_tree_takes_weight_two_for_a_point_that_stands_there_twice() -> None:
    x = cloud(1, 30)
    times = np.random.default_rng(3).integers(1, 4, size=30)
    for groups in (2, 3, 6):
        whole = cut_tree(linkage(np.repeat(x, times, axis=0), "ward"), groups)[:, 0]
        first = np.concatenate([[0], np.cumsum(times)[:-1]])
        assert adjusted_rand_score(ward(x, times, groups), whole[first]) == 1.0


def test_wards_tree_of_points_that_coincide() -> None:
    x = np.repeat(np.arange(3.0), 7)[:, None]
    assert adjusted_rand_score(ward(x, np.ones(21), 3), np.repeat(np.arange(3), 7)) == 1.0
    assert set(ward(x, np.ones(21), 6)) == set(range(6))


def test_k_means_plus_plus_comes_near_the_best_of_scikit_learn() -> None:
    x = cloud(2, 200)
    theirs: Any = KMeans(4, n_init=10, random_state=0)  # type: ignore[arg-type]
    best = theirs.fit(x).inertia_
    reached = []
    for seed in range(20):
        members = lv.KMeansPlusPlus().memberships(points(x), 4, torch.Generator().manual_seed(seed)).numpy()
        centres = members.T @ x / members.sum(0)[:, None]
        reached.append(((x - members @ centres) ** 2).sum())
    assert min(reached) == pytest.approx(best, rel=1e-3)
    assert np.median(reached) < 1.1 * best


@pytest.mark.parametrize("name", GROUPINGS)
def test_observations_without_weight_have_no_say(name: str) -> None:
    x, weights = cloud(), np.ones(60)
    weights[::3] = 0.0
    other = x.copy()
    other[::3] += 100.0
    used = weights > 0
    for seed in range(5):
        found = [
            STARTS[name].memberships(points(y, weights), 4, torch.Generator().manual_seed(seed)) for y in (x, other)
        ]
        assert torch.equal(found[0][used], found[1][used])


def test_random_rows_are_drawn_in_proportion_to_weight() -> None:
    x, weights = np.array([[0.0], [10.0], [30.0]]), np.array([1.0, 2.0, 5.0])
    source, together = torch.Generator().manual_seed(0), 0
    for _ in range(2_000):
        members = lv.RandomRows().memberships(points(x, weights), 2, source)
        together += int(torch.equal(members[1], members[2]))
    assert together / 2_000 == pytest.approx(1 / 8 * 2 / 7 + 2 / 8 * 1 / 6, abs=0.02)  # the first two were drawn


def test_memberships_are_labels_or_shares() -> None:
    x = points(cloud(size=4))
    source = torch.Generator().manual_seed(0)
    found = lv.Memberships([0, 2, -1, 1]).memberships(x, 3, source)
    assert found.tolist() == [[1, 0, 0], [0, 0, 1], [1 / 3] * 3, [0, 1, 0]]
    shares = [[2.0, 2.0], [np.nan, np.nan], [0.0, 0.0], [1.0, 3.0]]
    found = lv.Memberships(shares).memberships(x, 2, source)
    assert found.tolist() == [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75]]
    assert torch.equal(blurred(lv.Memberships(shares), x, 2, 0.5, source), found)


# --- every model, every way ------------------------------------------------------------------------------------------


def started(model: Any, data: Any, start: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    rows, program = bind(model, data)
    return starting_point(program, rows, seed, start)


def check_start(model: Any, data: Any, start: Any) -> None:
    """A start is finite, inside its support, repeats by its seed, and EM rises from it."""
    rows, program = bind(model, data)
    values = starting_point(program, rows, 0, start)
    for site in program.space.sites:
        assert values[site.name].isfinite().all()
        assert site.support.check(values[site.name]).all()
    again = starting_point(program, rows, 0, start)
    for name, value in values.items():  # to rounding: addresses decide the last bit of a product
        torch.testing.assert_close(again[name], value, rtol=1e-12, atol=1e-12)
    fit = lv.fit(model, data, lv.EM(passes=3, stop=lv.Never()), start=start, progress=False)
    assert np.isfinite(fit.history).all() and (np.diff(fit.history) > -1e-8).all()


def holed(data: lv.Rows, all_of: int = 2) -> lv.Rows:
    """A fifth of the numbers missing, and the first observations wholly."""
    name = "x" if "x" in data.columns else next(iter(data.columns))
    x = data.columns[name].double().clone()
    gaps = torch.from_numpy(np.random.default_rng(5).random(tuple(x.shape)) < 0.2)
    gaps[:all_of] = True
    return data.with_columns({name: x.masked_fill(gaps, torch.nan)})


STARTED = [  # all that have groups
    name
    for name in EM_CASES
    if name in ("user-mixture", "user-student") or not (cases.CASES[name].user or name == "factors")
]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", STARTED)
def test_every_model_starts_in_every_way_with_gaps(name: str, start: str) -> None:
    """Emissions of every kind, ragged sequences, inputs, a user's own mixtures."""
    case = cases.CASES[name]
    data = case.data() if name == "user-student" else holed(case.data())  # its law has no conditional given a part
    check_start(case.model(), data, STARTS[start])


@pytest.mark.parametrize("start", STARTS)
def test_rows_of_no_weight_do_not_move_a_start(start: str) -> None:
    x, weights = cases.blobs(3), np.ones(40)
    weights[::4] = 0.0
    moved = x.copy()
    moved[::4] = 1e3
    for model in (lv.models.GaussianMixture(2), user_models.FlatMixture(2, 2)):
        one, other = (started(model, lv.Rows(y, weights=weights), STARTS[start]) for y in (x, moved))
        for name, value in one.items():
            torch.testing.assert_close(other[name], value)


# --- starts from groups find the groups ------------------------------------------------------------------------------


class Explicit:
    """A mixture of normals written with an explicit z, its spread by a prior."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(4)))
        loc = pyro.sample("loc", lv.flat((4, 3)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale).to_event(1), obs=rows.x)  # type: ignore[attr-defined]


LABELS = np.arange(60) % 4


@pytest.mark.parametrize("start", [lv.KMeansPlusPlus(), lv.Hierarchical(), lv.Memberships(LABELS)], ids=str)
def test_a_users_mixture_starts_at_the_groups(start: Any) -> None:
    x = cloud()
    means = np.stack([x[k::4].mean(0) for k in range(4)])
    loc = started(Explicit(), x, start)["loc"].numpy()
    nearest = ((loc[:, None] - means) ** 2).sum(-1).argmin(1)
    assert sorted(nearest) == [0, 1, 2, 3]
    assert np.abs(loc - means[nearest]).max() < 0.6


def test_the_start_of_a_users_mixture_from_shares_is_their_weighted_mean() -> None:
    x, shares = cloud(), np.random.default_rng(8).dirichlet(np.ones(4), size=60)
    weights = np.random.default_rng(9).integers(0, 3, size=60)
    found = started(Explicit(), lv.Rows(x, weights=weights), lv.Memberships(shares))
    mass = weights[:, None] * shares
    np.testing.assert_allclose(found["loc"], mass.T @ x / mass.sum(0)[:, None], rtol=1e-10)
    np.testing.assert_allclose(found["weights"], mass.sum(0) / mass.sum(), rtol=1e-10)


class Switching:
    """A user's model with a collapsed chain."""

    def model(self, rows: lv.Batch) -> None:
        start = pyro.sample("start", dist.Dirichlet(torch.ones(2)))
        move = pyro.sample("move", dist.Dirichlet(torch.ones(2, 2)).to_event(1))  # type: ignore[attr-defined]
        rate = pyro.sample("rate", dist.Gamma(torch.full((2,), 2.0), 0.2).to_event(1))  # type: ignore[attr-defined]
        with rows.plate():
            law = dist.Poisson(rate)
            chain = distributions.HiddenMarkov(start, move, law, rows.lengths, rows.x.shape[1])
            pyro.sample("x", chain, obs=rows.x.to(rate.dtype))


def test_a_users_chain_starts_from_labels_of_its_steps() -> None:
    states, lengths = cases.switching(12)
    x = np.random.default_rng(13).poisson(np.where(states == 1, 9.0, 3.0))
    found = started(Switching(), lv.Rows(x, lengths=lengths), lv.Memberships(states))
    expected = [(x[states == k].sum() + 1) / ((states == k).sum() + 0.2) for k in range(2)]
    np.testing.assert_allclose(found["rate"], expected, rtol=1e-10)
    inside = np.ones(len(x), dtype=bool)
    inside[np.cumsum(lengths) - 1] = False
    at = np.flatnonzero(inside)
    moves = np.zeros((2, 2))
    np.add.at(moves, (states[at], states[at + 1]), 1)
    np.testing.assert_allclose(found["move"], moves / moves.sum(1, keepdims=True), rtol=1e-10)
    check_start(Switching(), lv.Rows(x, lengths=lengths), lv.Hierarchical())


def test_built_in_models_start_at_the_users_groups() -> None:
    x = cloud()
    found = started(lv.models.GaussianMixture(4), x, lv.Memberships(LABELS))
    means = np.stack([x[k::4].mean(0) for k in range(4)])
    np.testing.assert_allclose(found["loc"], means, rtol=1e-10)
    chain = lv.models.HiddenMarkov(2, lv.emissions.Poisson())
    states, lengths = cases.switching(12)
    counts = np.where(states == 1, 9, 3)
    rate = started(chain, lv.Rows(counts, lengths=lengths), lv.Memberships(states))["rate"]
    assert rate[1, 0] > rate[0, 0] + 4


def test_svi_takes_the_same_starts() -> None:
    x = cloud()
    for start in (lv.Hierarchical(), lv.Memberships(LABELS)):
        fit = lv.fit(Explicit(), x, lv.SVI(passes=3, guide=lv.Delta()), start=start, progress=False)
        assert np.isfinite(fit.history).all()
        assert adjusted_rand_score(fit.latent().mode("z"), LABELS) > 0.8


# --- restarts --------------------------------------------------------------------------------------------------------


def test_further_starts_are_drawn_anew() -> None:
    """What is the same each time would be "replicated 6 of 6"."""
    x = np.random.default_rng(4).normal(size=(80, 2))
    model = lv.models.GaussianMixture(4, covariance="diag")
    once = lv.fit(model, x, lv.EM(passes=30), progress=False)
    own: list[Any] = [lv.Hierarchical(), lv.Memberships(np.arange(80) % 4), once.point]
    for start in own:
        alone = lv.fit(model, x, lv.EM(passes=3, stop=lv.Never()), start=start, progress=False)
        many = lv.fit(model, x, lv.EM(passes=3, stop=lv.Never(), restarts=4), start=start, progress=False)
        assert many.optima is not None
        assert many.optima.objectives[0] == pytest.approx(alone.history[-1], abs=1e-10)
        assert len({round(end, 10) for end in many.optima.objectives}) == 4


class Fragile:
    """Its start fails now and then."""

    def __init__(self, failing: Callable[[float], Exception | float]) -> None:
        self.failing = failing

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)

    def initial(self, rows: lv.Rows, generator: torch.Generator) -> dict[str, torch.Tensor]:
        found = self.failing(float(torch.rand((), generator=generator)))
        if isinstance(found, Exception):
            raise found
        return {"loc": torch.tensor(found)}


FAILURES: dict[str, Callable[[float], Exception | float]] = {
    "an error of ours": lambda u: NumericalError("a bad draw", "luck", "wait") if u < 0.5 else u,
    "arithmetic": lambda u: ZeroDivisionError("a bad draw") if u < 0.5 else u,
    "linear algebra": lambda u: torch.linalg.LinAlgError("a bad draw") if u < 0.5 else u,  # type: ignore[attr-defined]
    "not a number": lambda u: float("nan") if u < 0.5 else u,
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize(
    "algorithm", [lv.EM(restarts=12), lv.SVI(passes=2, guide=lv.Delta(), restarts=12)], ids=["EM", "SVI"]
)
def test_starts_that_cannot_be_made_are_counted_and_reported(kind: str, algorithm: Any) -> None:
    fit = lv.fit(Fragile(FAILURES[kind]), np.arange(5.0), algorithm, progress=False)
    assert fit.optima is not None
    assert 1 < fit.optima.failed < 11
    assert np.isnan(fit.optima.objectives).sum() == fit.optima.failed
    assert f"{fit.optima.failed} starts failed (the first: " in str(fit)
    assert fit.optima.replicated <= 12 - fit.optima.failed


def test_all_starts_failing_is_the_first_error() -> None:
    with pytest.raises(NumericalError, match="a bad draw"):
        lv.fit(Fragile(lambda _: NumericalError("a bad draw", "luck", "wait")), np.arange(5.0), lv.EM(restarts=3))
    with pytest.raises(ModelError, match="outside its support"):
        lv.fit(Fragile(lambda _: float("nan")), np.arange(5.0), lv.EM(restarts=3))


# --- bad input -------------------------------------------------------------------------------------------------------


def test_starts_that_cannot_be_say_what_to_do() -> None:
    x = cloud()
    with pytest.raises(KindError, match="KMeansPlusPlus"):
        lv.fit(lv.models.GaussianMixture(2), x, start=lv.Hierarchical)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="60 observations in 2 groups"):
        lv.fit(lv.models.GaussianMixture(2), x, start=lv.Memberships([0, 1]))
    with pytest.raises(ShapeError, match="labels up to 3"):
        lv.fit(lv.models.GaussianMixture(2), x, start=lv.Memberships(LABELS))
    for wrong in ([[[0]]], [-2, 0], [[-0.5, 1.5]], [], [np.inf]):
        with pytest.raises(ShapeError, match="memberships of shape"):
            lv.Memberships(wrong)
    with pytest.raises(SettingError, match="share=0"):
        lv.Hierarchical(share=0.0)
    with pytest.raises(SettingError, match="candidates=0"):
        lv.PriorDraws(0)
    two = cases.CASES["user-two-levels"]
    with pytest.raises(SupportError, match=r"discrete locals \['z1', 'z2'\]"):
        lv.fit(two.model(), two.data(), start=lv.Hierarchical())
    vae = lv.models.VAE.mlp(3, 2, hidden=(4,), likelihood="gaussian")
    with pytest.raises(SupportError, match="one discrete local"):
        lv.fit(vae, x, lv.SVI(passes=1), start=lv.KMeansPlusPlus())


def test_seeds_are_drawn_by_weight_and_then_by_squared_distance() -> None:
    """k-means++ of four points, one without weight: exact probabilities of every ordered pair (Arthur & Vassilvitskii
    2007), at the 0.1 % point of χ² with 5 degrees of freedom."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    squares = torch.tensor([[0.0, 1.0, 50.0], [1.0, 0.0, 41.0], [50.0, 41.0, 0.0]], dtype=torch.float64)
    exact = squares / squares.sum(1, keepdim=True) / 3
    generator, size = torch.Generator().manual_seed(0), 20_000
    counts = torch.zeros(3, 3, dtype=torch.float64)
    for _ in range(size):
        pair = seeds(points, torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64), 2, generator)
        counts[tuple(pair[:, 0].clamp(max=2).long().tolist())] += 1
    off = ~torch.eye(3, dtype=torch.bool)
    assert counts[~off].sum() == 0
    assert float(((counts - size * exact).square() / (size * exact))[off].sum()) < 20.5
    assert torch.equal(seeds(points[:1], torch.ones(1, dtype=torch.float64), 2, generator), points[[0, 0]])


def test_k_means_steps_are_weighted_means_of_the_nearest() -> None:
    """Against scipy's distances; a centre without points stays, ties go to the first."""
    noise = np.random.default_rng(0)
    x, weights = noise.normal(size=(500, 3)), noise.random(500)
    at = np.concatenate([x[:5], [[50.0, 50.0, 50.0]]])
    found = lloyd(torch.from_numpy(x), torch.from_numpy(weights), torch.from_numpy(at)).numpy()
    wanted = at.copy()
    for _ in range(5):
        labels = cdist(x, wanted).argmin(1)
        for k in range(5):
            wanted[k] = np.average(x[labels == k], axis=0, weights=weights[labels == k])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_array_equal(found[5], at[5])
    np.testing.assert_array_equal(nearest(torch.from_numpy(x), torch.from_numpy(found)), cdist(x, found).argmin(1))
    pair = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    assert nearest(torch.tensor([[0.0], [2.0]], dtype=torch.float64), pair).tolist() == [0, 0]
