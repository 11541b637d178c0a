"""Pseudo-residuals: against forward and backward passes written out in numpy, and what the textbook reports."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import latentvars as lv
from latentvars.distributions import HiddenMarkov, Mixture, Product, tails
from latentvars.errors import DataError, NameUnknownError, SettingError, SupportError

QUAKES = lv.datasets.earthquakes()


class Chain:
    """A Poisson chain written by hand, its initial law free."""

    def __init__(self, states: int) -> None:
        self.states = states

    def model(self, rows: lv.Batch) -> None:
        initial = pyro.sample("initial", lv.flat((self.states,), constraints.simplex))
        transition = pyro.sample("transition", lv.flat((self.states, self.states), constraints.simplex))
        rate = pyro.sample("rate", lv.flat((self.states,), constraints.positive))
        with rows.plate():
            law = HiddenMarkov(initial, transition, dist.Poisson(rate), rows.lengths, rows.x.shape[1])
            pyro.sample("x", law, obs=rows.x)


def built_in(states: int) -> Any:
    return lv.models.HiddenMarkov(states, lv.emissions.Poisson())


def by_hand(point: dict[str, np.ndarray], x: np.ndarray, forecast: bool) -> tuple[np.ndarray, np.ndarray]:
    """P(X_t < x_t | others) and P(X_t <= x_t | others): the state probabilities of Zucchini & MacDonald's scaled
    forward and backward variables without the emission at t."""
    pi, a, rate = point["initial"], point["transition"], point["rate"].reshape(-1)
    f = stats.poisson.pmf(x[:, None], rate)
    steps, states = f.shape
    ahead = np.ones((steps, states))
    for t in range(steps - 2, -1, -1):
        ahead[t] = a @ (f[t + 1] * ahead[t + 1])
        ahead[t] /= ahead[t].sum()
    behind = np.empty((steps, states))
    behind[0] = pi
    for t in range(1, steps):
        behind[t] = (behind[t - 1] * f[t - 1]) @ a
        behind[t] /= behind[t].sum()
    weights = behind if forecast else behind * ahead
    weights = weights / weights.sum(1, keepdims=True)
    return tuple((weights * stats.poisson.cdf(x[:, None] - k, rate)).sum(1) for k in (1, 0))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def fits() -> dict[int, lv.Fit]:
    algorithm = lv.EM(restarts=5, stop=lv.Tolerance(1e-7))
    return {k: lv.fit(built_in(k), QUAKES.x, algorithm, progress=False) for k in (1, 2, 3, 4)}


@pytest.mark.parametrize("states", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["ordinary", "forecast"])
def test_of_the_earthquakes_they_are_those_by_hand(fits: dict[int, lv.Fit], states: int, kind: Any) -> None:
    fit = fits[states]
    point = {name: value.numpy() for name, value in fit.point.items()}
    below, upto = by_hand(point, QUAKES.x.astype(float), kind == "forecast")
    user = lv.from_point(Chain(states), fit.rows, {**fit.point, "rate": fit.point["rate"][:, 0]})
    for one, name in ((fit, "x"), (user, "x")):
        found = lv.pseudo_residuals(one, kind=kind)
        assert found.features == (name,)
        low, high = found.segment(name)
        np.testing.assert_allclose(low[0], stats.norm.ppf(below), atol=1e-7)
        np.testing.assert_allclose(high[0], stats.norm.ppf(upto), atol=1e-7)
        np.testing.assert_allclose(found[name][0], stats.norm.ppf((below + upto) / 2), atol=1e-7)


def test_one_state_is_rejected_and_three_are_not(fits: dict[int, lv.Fit]) -> None:
    """Zucchini & MacDonald (2009), section 6.2.2: "it is clear that the one-state model does not fit"; three do."""
    p = {k: lv.pseudo_residuals(fit).summary().loc["x"] for k, fit in fits.items()}
    assert p[1]["p_value"] < 0.001 and p[1]["sd"] > 1.4 and p[1]["lag_1"] > 0.4
    assert p[3]["p_value"] > 0.1 and p[3]["sd"] == pytest.approx(1, abs=0.15)
    assert p[1]["beyond_2.58"] > 5 > p[3]["beyond_2.58"]
    ahead = lv.pseudo_residuals(fits[3], kind="forecast").summary().loc["x"]
    assert ahead["p_value"] > 0.1 and abs(ahead["lag_1"]) < 0.25


def joint(pi: np.ndarray, a: np.ndarray, densities: np.ndarray) -> np.ndarray:
    """p(path) Π f over all paths but without the density at each step, by enumeration: ``[T, K]`` weights of z_t."""
    steps, states = densities.shape
    weights = np.zeros((steps, states))
    for path in product(range(states), repeat=steps):
        prior = pi[path[0]] * np.prod([a[i, j] for i, j in pairwise(path)])
        each = densities[np.arange(steps), path]
        for t in range(steps):
            weights[t, path[t]] += prior * np.prod(np.delete(each, t))
    return weights / weights.sum(1, keepdims=True)


def test_several_features_lengths_and_gaps_by_enumeration() -> None:
    """Two sequences, two features of a full normal: each feature given all other steps, gaps summed out."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(8, 2)) * 2
    x[2, 0] = x[6] = np.nan
    point = {
        "initial": [0.3, 0.7],
        "transition": [[0.8, 0.2], [0.0, 1.0]],
        "loc": [[-1.0, 0.5], [1.0, 2.0]],
        "covariance": [[[1.0, 0.6], [0.6, 2.0]], [[0.5, -0.2], [-0.2, 1.0]]],
    }
    model = lv.models.HiddenMarkov(2, lv.emissions.Gaussian(2))
    rows = lv.Rows(x, lengths=[5, 3])
    fit = lv.from_point(model, rows, {n: torch.tensor(v, dtype=torch.float64) for n, v in point.items()})
    loc, cov = np.array(point["loc"]), np.array(point["covariance"])
    found = lv.pseudo_residuals(fit)
    assert found.features == ("x0", "x1") and found["x0"].shape == (2, 5)
    for n, part in enumerate((x[:5], x[5:])):
        density = np.ones((len(part), 2))
        for t, one in enumerate(part):
            seen = ~np.isnan(one)
            for k in range(2):
                if seen.any():
                    density[t, k] = stats.multivariate_normal(loc[k][seen], cov[k][np.ix_(seen, seen)]).pdf(one[seen])
        weights = joint(np.array(point["initial"]), np.array(point["transition"]), density)
        for d in range(2):
            cdf = stats.norm.cdf(part[:, d][:, None], loc[:, d], np.sqrt(cov[:, d, d]))
            expected = stats.norm.ppf((weights * cdf).sum(1))
            np.testing.assert_allclose(found[f"x{d}"][n, : len(part)], expected, atol=1e-8)
    assert np.isnan(found["x0"][1, 3:]).all()


class Loop:
    """The same chain as a loop of sites, enumerated by Pyro."""

    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", lv.flat((2,), constraints.positive))
        move = pyro.sample("move", lv.flat((2, 2), constraints.simplex))
        with rows.plate():
            z = pyro.sample("z_0", dist.Categorical(torch.tensor([0.4, 0.6])))
            pyro.sample("x_0", dist.Poisson(rate[z]), obs=rows["x"][:, 0])
            for t in range(1, 4):
                z = pyro.sample(f"z_{t}", dist.Categorical(move[z]))
                pyro.sample(f"x_{t}", dist.Poisson(rate[z]), obs=rows["x"][:, t])


@pytest.mark.parametrize("kind", ["ordinary", "forecast"])
def test_a_loop_of_sites_gives_the_same_as_a_chain(kind: Any) -> None:
    x = np.array([[3, 9, 1, 0], [7, 8, 2, 5]])
    move = [[0.9, 0.1], [0.3, 0.7]]
    loop = lv.from_point(Loop(), lv.Rows(x), {"rate": [2.0, 8.0], "move": move})
    values = {"initial": [0.4, 0.6], "transition": move, "rate": [[2.0], [8.0]]}
    chain = lv.from_point(built_in(2), lv.Rows(x.reshape(-1, 1), lengths=[4, 4]), values)
    by_site, by_step = lv.pseudo_residuals(loop, kind=kind), lv.pseudo_residuals(chain, kind=kind)
    np.testing.assert_allclose(np.stack([by_site[f"x_{t}"] for t in range(4)], 1), by_step["x"], atol=1e-9)


class KindsOfChains:
    """A class of each sequence, which its chain's rates depend on: enumerated around a collapsed chain."""

    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", lv.flat((2, 2), constraints.positive))
        with rows.plate():
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7])))
            law = dist.Poisson(rate[kind])
            chain = HiddenMarkov(torch.tensor([0.5, 0.5]), MOVE, law, rows.lengths, rows.x.shape[1])
            pyro.sample("x", chain, obs=rows.x)


MOVE = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["ordinary", "forecast"])
def test_a_mixture_of_chains_weighs_them_by_the_other_steps(kind: Any) -> None:
    x = np.array([2.0, 0.0, 5.0, 9.0])
    rates = np.array([[1.0, 4.0], [3.0, 10.0]])
    fit = lv.from_point(KindsOfChains(), lv.Rows(x, lengths=[4]), {"rate": rates})
    # one chain of four states that never changes its class
    big = np.kron(np.eye(2), MOVE.numpy())
    point = {"initial": np.kron([0.3, 0.7], [0.5, 0.5]), "transition": big, "rate": rates.reshape(-1)}
    below, upto = by_hand(point, x, kind == "forecast")
    np.testing.assert_allclose(
        lv.pseudo_residuals(fit, kind=kind)["x"][0], stats.norm.ppf((below + upto) / 2), atol=1e-8
    )


LAWS = {
    "binomial": (dist.Binomial(7, torch.tensor(0.3)), stats.binom(7, 0.3), [0.0, 3.0, 7.0]),
    "negative binomial": (dist.NegativeBinomial(2.5, torch.tensor(0.6)), stats.nbinom(2.5, 0.4), [0.0, 4.0, 20.0]),
    "geometric": (dist.Geometric(torch.tensor(0.2)), stats.geom(0.2, loc=-1), [0.0, 1.0, 9.0]),
    "bernoulli": (dist.Bernoulli(torch.tensor(0.2)), stats.bernoulli(0.2), [0.0, 1.0]),
    "beta-binomial": (dist.BetaBinomial(2.0, 3.0, 6), stats.betabinom(6, 2.0, 3.0), [0.0, 2.0, 6.0]),
    "categorical": (
        dist.Categorical(torch.tensor([0.2, 0.5, 0.3])),
        stats.rv_discrete(values=([0, 1, 2], [0.2, 0.5, 0.3])),
        [0.0, 1.0, 2.0],
    ),
    "t": (dist.StudentT(3.0, 1.0, 2.0), stats.t(3.0, 1.0, 2.0), [-4.0, 1.5]),
    "beta": (dist.Beta(2.0, 3.0), stats.beta(2.0, 3.0), [0.1, 0.7]),
    "gamma": (dist.Gamma(2.0, 0.5), stats.gamma(2.0, scale=2.0), [0.3, 7.0]),
    "log-normal": (dist.LogNormal(0.3, 0.8), stats.lognorm(0.8, scale=np.exp(0.3)), [0.3, 7.0]),
    "laplace": (dist.Laplace(1.0, 2.0), stats.laplace(1.0, 2.0), [-3.0, 2.0]),
}


@pytest.mark.parametrize("name", LAWS)
def test_distribution_functions_are_scipys(name: str) -> None:
    law, other, points = LAWS[name]
    below, upto = tails(law, torch.tensor(points))
    np.testing.assert_allclose(upto, other.cdf(points), atol=2e-6)
    left = other.cdf(np.array(points) - 1) if law.support.is_discrete else other.cdf(points)
    np.testing.assert_allclose(below, left, atol=2e-6)


def test_a_mixture_of_products_is_averaged_column_by_column() -> None:
    parts = Product([dist.Normal(torch.tensor([0.0, 3.0]), 1.0), dist.Poisson(torch.tensor([1.0, 6.0]))])
    law = Mixture(torch.tensor([0.25, 0.75]), parts)
    _, upto = tails(law, torch.tensor([[0.5, 2.0]]))
    shares = np.array([0.25, 0.75])
    expected = [shares @ stats.norm.cdf(0.5, [0.0, 3.0]), shares @ stats.poisson.cdf(2, [1.0, 6.0])]
    np.testing.assert_allclose(upto[0], expected, atol=1e-6)


def test_what_has_no_pseudo_residuals_is_refused(fits: dict[int, lv.Fit]) -> None:
    with pytest.raises(SettingError, match="kind='past'"):
        lv.pseudo_residuals(fits[1], kind="past")  # type: ignore[arg-type]
    with pytest.raises(NameUnknownError, match=r"one of"):
        lv.pseudo_residuals(fits[1])["y"]
    point = {name: value for name, value in fits[2].point.items()}
    two = lv.Rows(np.tile(QUAKES.x, 2), lengths=[107, 107], weights=[1.0, 2.0])
    with pytest.raises(DataError, match="weights"):
        lv.pseudo_residuals(lv.from_point(built_in(2), two, point))
    x = (np.random.default_rng(0).random((30, 4)) > 0.5).astype(float)
    vae = lv.fit(lv.models.VAE.mlp(4, 2, (3,)), x, lv.SVI(passes=1), progress=False)
    with pytest.raises(SupportError, match=r"continuous locals[\s\S]*lv\.pit"):
        lv.pseudo_residuals(vae)


def test_far_from_any_state_they_stay_finite_numbers() -> None:
    """An observation a thousand standard deviations away tells nothing of the steps beside it but itself."""
    x = np.array([0.1, -0.4, 1000.0, 0.3, 5.2])
    point = {
        "initial": [0.5, 0.5],
        "transition": [[0.9, 0.1], [0.1, 0.9]],
        "loc": [[0.0], [5.0]],
        "scale": [[1.0], [1.0]],
    }
    model = lv.models.HiddenMarkov(2, lv.emissions.Gaussian(1, "diag"))
    below, upto = lv.pseudo_residuals(lv.from_point(model, x, point)).entries["x"]
    assert upto[0, 2] > 1 - 1e-12 and np.isfinite(below).all()
    assert upto[0, 0] == pytest.approx(0.9 * stats.norm.cdf(0.1) + 0.1 * stats.norm.cdf(-4.9), abs=1e-4)


def test_the_picture_shows_the_residuals(fits: dict[int, lv.Fit]) -> None:
    found = lv.pseudo_residuals(fits[3])
    figure = lv.plots.pseudo_residuals(found)
    figure.draw_without_rendering()
    index, histogram, quantiles, correlations = figure.axes
    np.testing.assert_allclose(index.lines[0].get_ydata(), found["x"][0])
    heights = {round(float(np.asarray(line.get_ydata())[0]), 2) for line in index.lines[1:]}
    assert heights == {0.0, 1.96, -1.96, 2.58, -2.58}
    assert sum(bar.get_height() * bar.get_width() for bar in histogram.patches) == pytest.approx(1)  # type: ignore[attr-defined]
    np.testing.assert_allclose(quantiles.lines[1].get_ydata(), np.sort(found["x"][0]))
    first = correlations.collections[-1].get_segments()[0][1][1]  # type: ignore[attr-defined]
    centred = found["x"][0] - found["x"][0].mean()
    assert first == pytest.approx((centred[1:] * centred[:-1]).mean() / (centred**2).mean())
    with pytest.raises(NameUnknownError, match="correct feature="):
        lv.plots.pseudo_residuals(found, "y")
