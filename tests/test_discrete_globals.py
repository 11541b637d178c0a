"""Discrete globals are summed out exactly: against sums over their values with scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm, poisson

import latentvars as lv
from latentvars.errors import SupportError

TIMES = np.arange(20.0)
COUNTS = np.random.default_rng(8).poisson(np.where(TIMES < 12, 3.0, 5.5))


class ChangePoint:
    """Counts whose rate changes once, after one of the first 19 times."""

    def model(self, rows: lv.Batch) -> None:
        last = pyro.sample("last", dist.Categorical(torch.ones(19)))
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
        with rows.plate():
            after = (rows["t"] > last).long()
            pyro.sample("x", dist.Poisson(rate[after]), obs=rows["x"])


def change_point_by_hand(rates: np.ndarray) -> np.ndarray:
    """log p(θ, g, x) for each g, nats."""
    prior = (2 * np.log(0.5) + np.log(rates) - 0.5 * rates).sum() - np.log(19)
    return np.array([prior + poisson.logpmf(COUNTS, np.where(g < TIMES, rates[1], rates[0])).sum() for g in range(19)])


@pytest.mark.long
def test_a_change_point_against_a_sum_over_its_values() -> None:
    found = minimize(lambda u: -logsumexp(change_point_by_hand(np.exp(u))), [1.0, 1.5], options={"gtol": 1e-7})
    rates = np.exp(found.x)
    fit = lv.fit(
        ChangePoint(), {"x": COUNTS.astype(float), "t": TIMES}, lv.EM(accelerate=True), start={"rate": [3.0, 6.0]}
    )
    np.testing.assert_allclose(fit.point["rate"], rates, rtol=1e-4)
    joint = change_point_by_hand(fit.point["rate"].numpy())
    assert fit.shared is not None
    np.testing.assert_allclose(fit.shared.probs, np.exp(joint - logsumexp(joint)), atol=1e-10)
    assert 0.05 < float(fit.shared.probs.max()) < 0.9  # no value is nearly certain, so that the sum matters
    assert fit.history[-1] * 20 == pytest.approx(-found.fun, abs=1e-6)
    prior = float((2 * np.log(0.5) + fit.point["rate"].log() - 0.5 * fit.point["rate"]).sum())
    assert fit.log_likelihood == pytest.approx(logsumexp(joint) - prior, abs=1e-9)


NUMBERS = np.random.default_rng(4).normal(size=30) * 0.9 + np.where(np.arange(30) % 3 == 0, 1.6, -0.4)
SHIFTS = np.array([[0.0, 1.0], [0.0, 2.0], [-1.0, 2.5]])


class Layouts:
    """Two components whose distance is one of three, unknown and shared; the share of each depends on it as well."""

    def model(self, rows: lv.Batch) -> None:
        g = pyro.sample("g", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        weights = pyro.sample("weights", dist.Dirichlet(2 * torch.ones(3, 2)).to_event(1))
        scale = pyro.sample("scale", lv.flat((), constraints.positive))
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights[g]))
            pyro.sample("x", dist.Normal(level + torch.as_tensor(SHIFTS)[g][z], scale), obs=rows.x)


def layouts_by_hand(weights: np.ndarray, scale: float, level: float, x: np.ndarray = NUMBERS) -> np.ndarray:
    """log p(θ, g, x) for each g, nats."""
    prior = np.log(6.0 * weights.prod(1)).sum() + norm.logpdf(level, 0, 2)
    parts = [
        logsumexp(np.log(weights[g])[:, None] + norm.logpdf(x, level + SHIFTS[g][:, None], scale), axis=0).sum()
        for g in range(3)
    ]
    return np.log([0.5, 0.3, 0.2]) + np.array(parts) + prior


def test_a_mixture_with_an_unknown_layout_against_brute_force() -> None:
    """Closed forms, L-BFGS, locals given a discrete global, and weights of which two thirds stand nowhere."""

    def negative(u: np.ndarray) -> float:
        shares = 1 / (1 + np.exp(-u[:3]))
        return -float(logsumexp(layouts_by_hand(np.stack([shares, 1 - shares], 1), np.exp(u[3]), u[4])))

    start = {"weights": np.full((3, 2), 0.5), "scale": 1.0, "level": 0.0}
    fit = lv.fit(Layouts(), NUMBERS, lv.EM(stop=lv.Tolerance(1e-11)), start=start)
    found = minimize(negative, np.zeros(5), options={"gtol": 1e-7})
    assert fit.history[-1] * 30 == pytest.approx(-found.fun, abs=1e-6)
    np.testing.assert_allclose(fit.point["weights"][:, 0], 1 / (1 + np.exp(-found.x[:3])), atol=1e-4)
    np.testing.assert_allclose([fit.point["scale"], fit.point["level"]], [np.exp(found.x[3]), found.x[4]], atol=1e-4)
    assert (np.diff(fit.history) > -1e-12).all()
    text = fit.explain()
    assert "weights" in text and "closed form: Categorical" in text and "summed out over 3 joint values" in text
    assert fit.shared is not None and fit.shared.probs.max() < 0.98
    # row by row: given the most probable value
    g = int(fit.shared.mode["g"])
    by_row = norm.logpdf(NUMBERS, float(fit.point["level"]) + SHIFTS[g][:, None], float(fit.point["scale"]))
    joint = by_row + np.log(fit.point["weights"][g].numpy())[:, None]
    np.testing.assert_allclose(fit.score_rows(), logsumexp(joint, axis=0), atol=1e-10)
    np.testing.assert_allclose(fit.latent().mean("z"), np.exp(joint - logsumexp(joint, axis=0)).T, atol=1e-10)


def test_batches_weights_and_zero_weights_change_nothing() -> None:
    start = {"weights": np.full((3, 2), 0.5), "scale": 1.0, "level": 0.0}
    whole = lv.fit(Layouts(), NUMBERS, lv.EM(passes=6, stop=lv.Never()), start=start)
    pieces = lv.fit(Layouts(), NUMBERS, lv.EM(passes=6, stop=lv.Never(), batch_size=7), start=start)
    torch.testing.assert_close(pieces.point, whole.point, rtol=1e-9, atol=1e-9)
    twice = np.concatenate([NUMBERS, NUMBERS[:10], [50.0]])
    weights = np.concatenate([np.ones(40), [0.0]])
    repeated = lv.fit(Layouts(), lv.Rows(twice, weights=weights), lv.EM(passes=6, stop=lv.Never()), start=start)
    double = np.where(np.arange(30) < 10, 2.0, 1.0)
    weighted = lv.fit(Layouts(), lv.Rows(NUMBERS, weights=double), lv.EM(passes=6, stop=lv.Never()), start=start)
    torch.testing.assert_close(weighted.point, repeated.point, rtol=1e-6, atol=1e-6)
    assert weighted.shared is not None and repeated.shared is not None
    torch.testing.assert_close(weighted.shared.probs, repeated.shared.probs, rtol=1e-6, atol=1e-8)


class Switches:
    """Which of three features share one location: a vector of indicators, under a flat prior, all in closed form."""

    def model(self, rows: lv.Batch) -> None:
        own = pyro.sample("own", dist.Bernoulli(torch.tensor([0.2, 0.5, 0.5])).to_event(1))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(4), 3.0).to_event(1))
        index = torch.where(own > 0, torch.tensor([1, 2, 3]), torch.tensor([0, 0, 0]))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc[index], torch.ones(3)).to_event(1), obs=rows.x)


def test_a_vector_of_indicators_in_closed_form_is_the_maximum() -> None:
    x = np.random.default_rng(9).normal(size=(8, 3)) + np.array([0.0, 0.3, 1.0])
    own = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, -1).T

    def joint(loc: np.ndarray) -> np.ndarray:
        chance = np.where(own == 1, [0.2, 0.5, 0.5], [0.8, 0.5, 0.5])
        means = np.where(own == 1, loc[1:], loc[0])
        scores = norm.logpdf(x[None], means[:, None]).sum((1, 2))
        return np.log(chance).sum(1) + scores + norm.logpdf(loc, 0, 3).sum()

    fit = lv.fit(Switches(), x, lv.EM(stop=lv.Tolerance(1e-13)), start={"loc": [0.0, 0.1, 0.2, 0.9]})
    assert "closed form: Normal loc, Normal prior" in fit.explain() and "L-BFGS" not in fit.explain()
    loc = fit.point["loc"].numpy()
    found = minimize(lambda u: -logsumexp(joint(u)), loc, options={"gtol": 1e-8})
    np.testing.assert_allclose(loc, found.x, atol=1e-5)
    assert fit.shared is not None
    np.testing.assert_allclose(fit.shared.probs, np.exp(joint(loc) - logsumexp(joint(loc))), atol=1e-10)
    values, probs = fit.shared.marginal("own")
    assert values.shape == (8, 3) and float(probs.sum()) == pytest.approx(1)
    table = fit.shared.table()
    assert list(table.columns) == ["own", "probability"] and table["probability"].is_monotonic_decreasing


def test_impossible_values_have_probability_zero() -> None:
    class Bounds:
        def model(self, rows: lv.Batch) -> None:
            top = pyro.sample("top", dist.Categorical(torch.ones(3)))
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            with rows.plate():
                pyro.sample("x", dist.Binomial(4, rate / (1 + rate)).mask(torch.tensor(True)), obs=rows["x"])
                pyro.sample("y", dist.Uniform(0.0, torch.tensor([0.5, 1.0, 2.0])[top]), obs=rows["y"])

    data = {"x": np.array([1.0, 2.0, 1.0]), "y": np.array([0.3, 0.8, 0.6])}
    fit = lv.fit(Bounds(), data)
    assert fit.shared is not None
    np.testing.assert_allclose(fit.shared.probs, [0, 8 / 9, 1 / 9], atol=1e-12)
    assert np.isfinite(fit.log_likelihood)


def test_a_fit_is_saved_resumed_and_read(tmp_path: Path) -> None:
    start = {"weights": np.full((3, 2), 0.5), "scale": 1.0, "level": 0.0}
    whole = lv.fit(Layouts(), NUMBERS, lv.EM(passes=6, stop=lv.Never()), start=start)
    half = lv.fit(Layouts(), NUMBERS, lv.EM(passes=4, stop=lv.Never()), start=start)
    resumed = lv.fit(Layouts(), NUMBERS, lv.EM(passes=6, stop=lv.Never()), resume=half)
    torch.testing.assert_close(resumed.point, whole.point, rtol=1e-7, atol=1e-7)
    again = lv.load(whole.save(tmp_path / "fit", datatree=False), Layouts())
    assert again.shared is not None and whole.shared is not None
    torch.testing.assert_close(again.shared.probs, whole.shared.probs, rtol=0, atol=0)
    assert again.log_likelihood == whole.log_likelihood
    torch.testing.assert_close(again.latent().mean("z"), whole.latent().mean("z"), rtol=0, atol=0)
    on = lv.fit(Layouts(), NUMBERS, lv.EM(passes=10, stop=lv.Never()), resume=again)
    assert on.shared is not None and on.history[-1] >= whole.history[-1] - 1e-12
    given = lv.from_point(Layouts(), NUMBERS, whole.point)
    assert given.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-12)
    assert "g = " in str(whole) and "with probability" in str(whole)
    assert list(whole.summary().columns) == ["estimate"]
    assert whole.to_datatree(draws=3)["log_likelihood"]["x"].shape[-1] == 30
    starts = lv.fit(Layouts(), NUMBERS, lv.EM(restarts=2, passes=15, stop=lv.Tolerance(1e-3)))
    ruled = lv.fit(Layouts(), NUMBERS, lv.EM(passes=3, degenerate=lv.Refuse()), start=start)
    assert not ruled.empty and not ruled.collapsed
    assert starts.optima is not None and len(starts.optima.objectives) == 2 and starts.shared is not None


class Endless:
    def model(self, rows: lv.Batch) -> None:
        n = pyro.sample("n", dist.Poisson(3.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(n, 1.0), obs=rows.x)


class Many:
    def model(self, rows: lv.Batch) -> None:
        g = pyro.sample("g", dist.Bernoulli(0.5 * torch.ones(12)).to_event(1))
        with rows.plate():
            pyro.sample("x", dist.Normal(g.sum(), 1.0), obs=rows.x)


@pytest.mark.parametrize(
    ("model", "algorithm", "words"),
    [
        (Endless(), lv.EM(), ("'n'", "Poisson", "infinitely many", "Categorical")),
        (Many(), lv.EM(), ("'g'", "4096", "1000")),
        (Layouts(), lv.SVI(), ("'g'", "lv.EM()")),
        (Layouts(), lv.OnlineEM(batch_size=10), ("'g'", "lv.EM()")),
    ],
    ids=["infinite", "too many", "svi", "online"],
)
def test_what_cannot_be_summed_out_is_refused(model: Any, algorithm: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(SupportError) as caught:
        lv.fit(model, NUMBERS, algorithm)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_standard_errors_are_refused() -> None:
    start = {"weights": np.full((3, 2), 0.5), "scale": 1.0, "level": 0.0}
    fit = lv.fit(Layouts(), NUMBERS, lv.EM(passes=3), start=start)
    with pytest.raises(SupportError, match="bootstrap"):
        fit.standard_errors()
