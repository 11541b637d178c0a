"""Monte-Carlo EM: its optimum against exact maximum likelihood, by quadrature or in closed form.

Each E-step has S draws a row. They move the M-step by about sqrt(share of missing information / S) standard errors of a
global, which the iteration enlarges by less than a factor of 3: with S = 200 an end lies within 0.2 standard errors,
and 0.5 · 0.2² = 0.02 nats a global below the top. Tolerances leave room for half as much again, and twice as many nats.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import guided_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.decomposition import FactorAnalysis
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import NumericalError, SettingError
from latentvars.inference.guided_em.weighed_draws import average, by_importance
from latentvars.inference.running.algorithm import Problem

QUICK = functools.partial(torch.optim.Adam, lr=0.05)
STEPS = lv.GuideSteps(passes=3, warmup=60, optimizer=QUICK, particles=4)
LONG = lv.MonteCarloEM(guide_steps=STEPS, growth=1.3, most_draws=200, stop=lv.Plateau(window=8, per_row=1e-5))
FIXED = lv.GuideSteps(passes=0, warmup=0)
ERRORS = 0.3  # standard errors
NATS = 0.04  # for each global


def top(log_likelihood: Callable[[np.ndarray], float], start: list[float]) -> tuple[np.ndarray, np.ndarray, float]:
    """Maximum, standard errors there, and its value."""
    found = minimize(lambda p: -log_likelihood(p), start)
    return found.x, np.sqrt(np.diag(found.hess_inv)), -found.fun


# --- where it ends ---------------------------------------------------------------------------------------------------


def test_a_logistic_regression_with_random_intercepts_reaches_the_quadrature_maximum() -> None:
    rows = models.intercepts()

    def value(p: np.ndarray) -> float:
        return float(models.of_intercepts(rows, p[:2], np.exp(p[2])).sum())

    best, errors, height = top(value, [0.0, 0.0, 0.0])
    found = lv.fit(models.RandomIntercepts(50), rows, LONG, start={"beta": [0.4, 0.4], "tau": 0.6}, progress=False)
    ours = np.array([*found.point["beta"].tolist(), float(found.point["tau"].log())])
    assert (np.abs(ours - best) < ERRORS * errors).all()
    assert height - 3 * NATS < value(ours) <= height
    assert found.history[-1] * 50 == pytest.approx(value(ours), abs=0.5)  # what it reports is that log-likelihood
    assert "closed form: Normal scale" in found.explain()
    assert "L-BFGS" in found.explain()


def test_counts_with_lognormal_rates_reach_the_quadrature_maximum() -> None:
    x = models.lognormal_counts()

    def value(p: np.ndarray) -> float:
        return float(models.of_counts(x, p[0], np.exp(p[1])).sum())

    best, errors, height = top(value, [0.0, 0.0])
    model = models.LognormalCounts(len(x))
    found = lv.fit(model, x.astype(float), LONG, start={"mu": 0.0, "sigma": 1.0}, progress=False)
    ours = np.array([float(found.point["mu"]), float(found.point["sigma"].log())])
    assert (np.abs(ours - best) < ERRORS * errors).all()
    assert height - 2 * NATS < value(ours) <= height


def test_a_discrete_and_a_continuous_local_reach_the_maximum_of_the_marginal_mixture() -> None:
    x = models.blurred()

    def value(p: np.ndarray) -> float:
        return float(models.of_blurred(x, expit(np.array([p[0], -p[0]])), p[1:3], np.exp(p[3:])).sum())

    _, _, height = top(value, [0.0, -1.0, 2.0, -0.5, -0.5])
    start = {"weights": [0.5, 0.5], "loc": [-1.0, 2.0], "scale": [0.7, 0.7]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a normal guide for a posterior with two modes
        found = lv.fit(models.BlurredMixture(len(x)), x, LONG, start=start, progress=False)
    weight = float(found.point["weights"][0])
    spread = found.point["scale"].log().tolist()
    ours = np.array([np.log(weight / (1 - weight)), *found.point["loc"].tolist(), *spread])
    assert height - 5 * NATS < value(ours) <= height


def test_factor_analysis_reaches_the_maximum_of_scikit_learn() -> None:
    x = models.one_factor()
    theirs = FactorAnalysis(1, tol=1e-10, max_iter=10_000).fit(x)
    start = {"loadings": theirs.components_ + 0.2, "noise": np.sqrt(theirs.noise_variance_) + 0.2}
    found = lv.fit(models.Factors(3, 1, isotropic=False), x, replace(LONG, most_draws=100), start=start, progress=False)
    loadings, noise = found.point["loadings"].numpy(), found.point["noise"].numpy()
    ours = models.of_normal(x, loadings.T @ loadings + np.diag(noise**2))
    best = models.of_normal(x, theirs.get_covariance())
    assert best - 2 * 6 * NATS / 100 < ours <= best + 1e-9  # half the draws


def test_a_poor_guide_that_is_not_trained_biases_nothing() -> None:
    """Variational EM with the same guide, the starting one, has another fixed point."""
    rows = models.effects()

    def value(p: list[float]) -> float:
        return float(models.of_effects(rows, p[0], np.exp(p[1])).sum())

    _, _, height = top(value, [0.0, 0.0])  # type: ignore[arg-type]
    start = {"mu": 0.0, "tau": 1.0}
    ours = lv.fit(Wide(), rows, replace(LONG, guide_steps=FIXED), start=start, progress=False)
    variational = lv.VariationalEM(passes=40, guide_steps=FIXED)
    theirs = lv.fit(Wide(), rows, variational, start=start, progress=False)
    ends = [value([float(f.point["mu"]), float(f.point["tau"].log())]) for f in (ours, theirs)]
    assert height - 2 * NATS < ends[0] <= height
    assert ends[1] < height - 10


class Wide(models.Effects):
    """The guide is Normal(0, 2) at every row."""

    def __init__(self) -> None:
        super().__init__(1)
        self.posterior.requires_grad_(False)
        self.posterior.log_scale.fill_(float(np.log(2.0)))

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", self.posterior(torch.zeros_like(rows.index)))


# --- the E-step ------------------------------------------------------------------------------------------------------


def test_weights_are_those_of_self_normalised_importance_sampling() -> None:
    ratios = torch.tensor([[0.0, np.log(3.0)], [-800.0, -800.0]], dtype=torch.float64)
    found = by_importance(ratios)
    torch.testing.assert_close(found.shares, torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(found.rows, torch.tensor([np.log(2.0), -800.0], dtype=torch.float64))
    assert torch.equal(average(ratios).shares, torch.full((2, 2), 0.5, dtype=torch.float64))


def test_expected_statistics_are_posterior_moments() -> None:
    """Against the moments of the normal posterior, from 20,000 draws of the prior."""
    rows = models.effects()
    found = lv.from_point(models.Effects(60), rows, {"mu": 0.0, "tau": 1.0})
    algorithm = lv.MonteCarloEM(guide_steps=FIXED, draws=20_000, most_draws=20_000)
    state = algorithm.init(Problem(found.program, rows, found.point, 0))
    state.waiting = 0
    total = algorithm.contribution(state, rows.batch(dtype=torch.float64), 0)
    x, known = rows.columns["x"], rows.columns["known"]
    variance = 1 / (1 + known**-2)
    mean = variance * x / known**2
    (leaf,) = total.expected.statistics
    centre = state.plan.references[leaf].centre
    first = float(total.expected.statistics[leaf]["first"] + 60 * centre)
    assert first == pytest.approx(
        float(mean.sum()), abs=4 * float((variance / (20_000 * total.effective)).sum().sqrt())
    )
    marginal = torch.distributions.Normal(0.0, (1 + known**2).sqrt()).log_prob(x)
    assert total.objective == pytest.approx(float(marginal.sum()), abs=0.3)
    assert bool((total.effective < 1).all())
    # E_q[r²] of a normal likelihood under its prior, in closed form
    squared = torch.distributions.Normal(0.0, (1 + known**2 / 2).sqrt()).log_prob(x) - (2 * known * np.pi**0.5).log()
    share = (2 * marginal - squared).exp()
    torch.testing.assert_close(total.effective, share, rtol=0.15, atol=0.02)


def test_an_e_step_in_pieces_has_as_many_draws_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = models.effects()
    found = lv.from_point(models.Effects(60), rows, {"mu": 0.0, "tau": 1.0})
    algorithm = lv.MonteCarloEM(guide_steps=FIXED, draws=2_000, most_draws=2_000)
    state = algorithm.init(Problem(found.program, rows, found.point, 0))
    state.waiting = 0
    batch = rows.batch(dtype=torch.float64)
    whole = algorithm.contribution(state, batch, 0)
    monkeypatch.setattr("latentvars.inference.guided_em.weighed_draws.DRAWN_AT_ONCE", 14_000)
    parts = algorithm.contribution(state, batch, 0)
    assert parts.objective == pytest.approx(whole.objective, abs=1.0)
    (leaf,) = whole.expected.statistics
    for name, value in whole.expected.statistics[leaf].items():
        torch.testing.assert_close(parts.expected.statistics[leaf][name], value, rtol=0.05, atol=1.0)


# --- effective sample sizes ------------------------------------------------------------------------------------------


def test_the_report_has_effective_sample_sizes() -> None:
    found = fit_effects(short())
    assert "draws 40 of each row, effective" in str(found)
    assert found.state.effective.shape == (60,)
    assert float(found.state.effective.min()) > 0.025


def test_degenerate_weights_are_a_warning() -> None:
    """The rows lie far from a narrow guide, which is not trained."""
    rows = lv.Rows({"x": np.linspace(5.0, 9.0, 20), "known": np.full(20, 0.1)})
    narrow = models.Effects(20)
    narrow.posterior.log_scale.data.fill_(-2.0)
    algorithm = lv.MonteCarloEM(passes=2, guide_steps=lv.GuideSteps(passes=0, warmup=0), growth=1.0)
    with pytest.warns(RuntimeWarning, match=r"of 20 rows have degenerated[\s\S]*guide_steps="):
        lv.fit(Frozen(narrow), rows, algorithm, start={"mu": 0.0, "tau": 1.0}, progress=False)


class Frozen:
    """A model whose networks are not trained."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.posterior = inner.posterior.requires_grad_(False)

    def model(self, rows: lv.Batch) -> None:
        self.inner.model(rows)

    def guide(self, rows: lv.Batch) -> None:
        self.inner.guide(rows)


class Impossible(models.Effects):
    """Row 3 has the density zero."""

    def model(self, rows: lv.Batch) -> None:
        mu, tau = pyro.sample("mu", lv.flat(())), pyro.sample("tau", lv.flat((), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(mu, tau))
            pyro.sample("x", dist.Normal(z, rows["known"]), obs=rows["x"])
            pyro.factor("never", torch.where(rows.index == 3, -torch.inf, 0.0))


def test_draws_that_are_all_impossible_are_an_error() -> None:
    for algorithm in (short(), replace(short(), guide_steps=FIXED)):
        with pytest.raises(NumericalError, match=r"never.*rows \[3\]"):
            fit_effects(algorithm, model=Impossible(60))


# --- what every algorithm keeps to -----------------------------------------------------------------------------------


def test_a_seed_repeats_to_the_bit_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    ours, theirs, other = fit_effects(short(), seed=1), fit_effects(short(), seed=1), fit_effects(short(), seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(ours, theirs)
    assert not torch.equal(ours.point["mu"], other.point["mu"])


@pytest.mark.parametrize("passes", [2, 4, 7])
def test_stopped_and_resumed_is_one_run(passes: int) -> None:
    first = fit_effects(replace(short(), passes=passes))
    resumed = lv.fit(models.Effects(60), models.effects(), short(), resume=first, progress=False)
    assert_same(resumed, fit_effects(short()))


def test_saved_and_loaded(tmp_path: Any) -> None:
    found = fit_effects(replace(short(), guide_steps=lv.GuideSteps(passes=2, warmup=3)))
    loaded = lv.load(found.save(tmp_path / "fit", datatree=False), model=models.Effects(60))
    assert loaded.algorithm == found.algorithm
    assert torch.equal(loaded.row_log_likelihood, found.row_log_likelihood)
    assert str(loaded).splitlines()[0] == str(found).splitlines()[0]


def test_weight_zero_is_absence_and_weights_scale_the_objective() -> None:
    rows = models.effects()
    x = rows.columns["x"].clone()
    weights = np.ones(60)
    weights[:9] = 0.0
    x[:9] = 50.0
    ours, theirs = (
        fit_effects(short(), rows=lv.Rows({"x": column, "known": rows.columns["known"]}, weights=weights))
        for column in (rows.columns["x"], x)
    )
    for name, value in theirs.point.items():
        torch.testing.assert_close(ours.point[name], value, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.history, theirs.history, rtol=1e-9)


def test_settings_outside_their_range_are_refused() -> None:
    for settings in ({"draws": 1}, {"growth": 0.5}, {"most_draws": 3}, {"restarts": 0}):
        with pytest.raises(SettingError):
            lv.MonteCarloEM(**settings)


# --- helpers ---------------------------------------------------------------------------------------------------------


def short() -> lv.MonteCarloEM:
    steps = lv.GuideSteps(passes=2, warmup=3, optimizer=QUICK, particles=3)
    return lv.MonteCarloEM(passes=12, guide_steps=steps, draws=10, growth=2.0, most_draws=40, stop=lv.Never())


def fit_effects(algorithm: lv.MonteCarloEM, *, rows: lv.Rows | None = None, model: Any = None, seed: int = 0) -> lv.Fit:
    rows, model = rows or models.effects(), model or models.Effects(60)
    return lv.fit(model, rows, algorithm, seed=seed, start={"mu": 0.0, "tau": 1.0}, progress=False)


def assert_same(ours: lv.Fit, theirs: lv.Fit) -> None:
    """Equal to the bit."""
    assert np.array_equal(ours.history, theirs.history)
    assert all(torch.equal(ours.point[name], value) for name, value in theirs.point.items())
    assert torch.equal(ours.row_log_likelihood, theirs.row_log_likelihood)
