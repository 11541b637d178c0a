"""Rubin's rules against statsmodels and theory: what draws of latents can and cannot carry into a regression."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy.stats import binom
from sklearn.linear_model import LinearRegression, LogisticRegression
from statsmodels.imputation.bayes_mi import MI

import latentvars as lv
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError

CHANCE = np.random.default_rng(0)
MEANS = CHANCE.normal(size=(80, 2))
DRAWS = MEANS + 0.5 * CHANCE.normal(size=(12, 80, 2))
Y = MEANS @ [1.0, -0.5] + CHANCE.normal(size=80)


def ols(z: np.ndarray, y: Any) -> Any:
    return sm.OLS(y, sm.add_constant(z)).fit()


class Handed:
    """An imputer for statsmodels whose imputed data sets are given."""

    def __init__(self, draws: np.ndarray) -> None:
        self.draws, self.at = draws, -1

    def update(self) -> None:
        self.at += 1

    @property
    def data(self) -> np.ndarray:
        return self.draws[self.at]


@pytest.mark.parametrize("model", [sm.OLS, sm.Logit])
def test_totals_are_those_of_statsmodels(model: Any) -> None:
    y = Y if model is sm.OLS else (Y > 0).astype(float)
    quiet = {} if model is sm.OLS else {"disp": 0}
    oracle = MI(
        Handed(DRAWS), model, lambda z: (y, sm.add_constant(z)), burn=0, skip=0, nrep=12, fit_kwds=lambda z: quiet
    ).fit()
    found = lv.propagate(DRAWS, lambda z, y: model(y, sm.add_constant(z)).fit(**quiet), y)
    np.testing.assert_allclose(found.params, oracle.params, rtol=1e-10)
    np.testing.assert_allclose(found.standard_errors, oracle.bse, rtol=1e-10)
    np.testing.assert_allclose(found.covariance, oracle.cov_params(), rtol=1e-10)
    np.testing.assert_allclose(found.share, oracle.fmi, rtol=1e-10)
    plug_in = model(y, sm.add_constant(DRAWS.mean(0))).fit(**quiet)
    np.testing.assert_allclose(found.plug_in, plug_in.params)
    np.testing.assert_allclose(found.plug_in_errors, plug_in.bse)
    assert found.complete == (77 if model is sm.OLS else np.inf)


def test_degrees_of_freedom_by_hand() -> None:
    """m = 3 estimates 1, 2, 3 with variance 2: B = 1, W = 2, T = 2 + 4/3, r = 2/3."""
    estimates = iter([1.0, 2.0, 3.0, 9.0])
    found = lv.propagate(np.zeros((3, 5)), lambda z, y: (next(estimates), 2.0))
    assert found.params == 2 and found.plug_in == 9
    assert found.covariance[0, 0] == pytest.approx(10 / 3)
    assert found.share[0] == pytest.approx(0.4)
    assert found.degrees[0] == pytest.approx(2 * (1 + 3 / 2) ** 2)  # (m − 1)(1 + 1/r)²
    r, degrees = 2 / 3, 12.5
    assert found.missing[0] == pytest.approx((r + 2 / (degrees + 3)) / (r + 1))
    results = iter([SimpleNamespace(params=[v], cov_params=lambda: [[2.0]], df_resid=10) for v in (1.0, 2.0, 3.0, 9.0)])
    small = lv.propagate(np.zeros((3, 5)), lambda z, y: next(results))
    observed = 11 / 13 * 10 * 0.6  # (ν + 1)/(ν + 3) ν (1 − share), Barnard & Rubin 1999
    assert small.degrees[0] == pytest.approx(12.5 * observed / (12.5 + observed))
    low, high = small.interval()[0]
    assert (low + high) / 2 == pytest.approx(2) and high - low > 2 * 1.96 * np.sqrt(10 / 3)


def test_latents_that_are_known_add_nothing() -> None:
    found = lv.propagate(np.stack([MEANS] * 5), ols, Y)
    oracle = ols(MEANS, Y)
    np.testing.assert_allclose(found.params, oracle.params)
    np.testing.assert_allclose(found.standard_errors, oracle.bse)
    # Barnard & Rubin: (ν + 1)/(ν + 3) ν where nothing is missing
    np.testing.assert_allclose(found.degrees, 78 / 80 * 77)
    np.testing.assert_allclose(found.missing, 2 / (78 / 80 * 77 + 3))


def gibbs(w: np.ndarray, x: np.ndarray, keep: int, chance: np.random.Generator) -> np.ndarray:
    """Posterior draws of z ``[keep, R, N]`` in z = a + b w + N(0, τ²), x_j = z + N(0, σ²), for R data sets at once."""
    runs, rows, items = x.shape
    z, design = x.mean(-1), np.stack([np.ones_like(w), w], -1)
    root = np.linalg.cholesky(np.linalg.inv(design.mT @ design))
    kept = []
    for step in range(60 + 8 * keep):
        fitted = np.linalg.solve(design.mT @ design, design.mT @ z[..., None])
        rest = z - (design @ fitted)[..., 0]
        tau = (rest**2).sum(-1) / chance.chisquare(rows - 2, runs)
        beta = fitted + np.sqrt(tau)[:, None, None] * (root @ chance.normal(size=(runs, 2, 1)))
        sigma = ((x - z[..., None]) ** 2).sum((-1, -2)) / chance.chisquare(rows * items - 2, runs)
        precision = 1 / tau + items / sigma
        mean = ((design @ beta)[..., 0] / tau[:, None] + x.sum(-1) / sigma[:, None]) / precision[:, None]
        z = mean + chance.normal(size=z.shape) / np.sqrt(precision)[:, None]
        if step >= 60 and (step - 60) % 8 == 7:
            kept.append(z)
    return np.stack(kept)


def test_intervals_cover_where_the_model_knew_the_regression_and_those_of_means_do_not() -> None:
    """Latents regressed on a variable of their own model: means have the right slope and too small an error."""
    chance, runs, rows = np.random.default_rng(1), 400, 60
    w = chance.normal(size=(runs, rows))
    z = 0.3 + 0.7 * w + chance.normal(size=w.shape)
    x = z[..., None] + 1.5 * chance.normal(size=(*w.shape, 2))
    draws = gibbs(w, x, 20, chance)
    inside, plug_in, errors = 0, 0, []
    for run in range(runs):
        found = lv.propagate(draws[:, run], lambda z, w: ols(w, z[:, 0]), w[run])
        low, high = found.interval()[1]
        inside += low <= 0.7 <= high
        plug_in += abs(found.plug_in[1] - 0.7) <= 2.0 * found.plug_in_errors[1]
        errors.append((found.params[1], found.standard_errors[1], found.plug_in_errors[1]))
    low, high = binom(runs, 0.95).ppf([0.001, 0.999])
    assert low <= inside <= high
    assert plug_in < binom(runs, 0.95).ppf(1e-9)
    slopes, own, naive = np.array(errors).T
    assert slopes.mean() == pytest.approx(0.7, abs=4 * slopes.std() / runs**0.5)
    assert own.mean() == pytest.approx(slopes.std(), rel=0.12) and naive.mean() < 0.75 * slopes.std()


def test_draws_that_do_not_know_the_outcome_attenuate_by_the_reliability_and_means_do_not() -> None:
    """The caveat of the docstring, in numbers: x = z + e, slope 1, reliability 1 / (1 + 1)."""
    chance, rows = np.random.default_rng(2), 20_000
    z = chance.normal(size=rows)
    x, y = z + chance.normal(size=rows), z + 0.5 * chance.normal(size=rows)
    blind = x / 2 + np.sqrt(0.5) * chance.normal(size=(20, rows))  # q(z | x)
    found = lv.propagate(blind, ols, y)
    assert found.params[1] == pytest.approx(0.5, abs=0.02)
    assert ols(x / 2, y).params[1] == pytest.approx(1, abs=0.03)  # regression calibration
    precision = 1 + 1 + 4  # q(z | x, y): prior, x, y
    mean = (x + 4 * y) / precision
    told = lv.propagate(mean + chance.normal(size=(20, rows)) / precision**0.5, ols, y)
    assert told.params[1] == pytest.approx(1, abs=0.02)
    # Cov(y, mean) = Cov(y, z) = 1 and Var(mean) = Var(z) − 1/6: means hold y, and their slope comes out too large
    assert ols(mean, y).params[1] == pytest.approx(1.2, abs=0.02)
    low, high = told.interval()[1]
    assert low <= 1 <= high and told.missing[1] > 0.1


def test_a_factor_analysis_carries_its_uncertainty_into_a_regression() -> None:
    """One model of indicators and outcome: fit.draw_latents gives draws that know both."""
    chance = np.random.default_rng(3)
    z = chance.normal(size=300)
    x = z[:, None] * [1.0, 0.8, 1.2] + chance.normal(size=(300, 3))
    y = 0.8 * z + 0.6 * chance.normal(size=300)
    fit = lv.fit(lv.models.FactorAnalysis(1), np.c_[x, y], lv.EM(passes=100), progress=False)
    latent = fit.latent()
    found = lv.propagate(latent, ols, y, seed=1)
    sign = np.sign(found.params[1])
    assert abs(sign * found.params[1] - 0.8) < 3 * found.standard_errors[1]
    assert found.standard_errors[1] > found.plug_in_errors[1]
    assert len(found.draws) == 20 and "Rubin" in str(found) and found.table().shape == (2, 9)
    again, other = lv.propagate(latent, ols, y, seed=1), lv.propagate(latent, ols, y, seed=2)
    assert np.array_equal(again.params, found.params) and not np.array_equal(other.params, found.params)
    drawn = lv.propagate(fit.draw_latents(draws=7), ols, y)
    assert len(drawn.draws) == 7 and abs(drawn.params[1]) == pytest.approx(sign * found.params[1], abs=0.1)


def test_probabilities_of_a_classifier_are_averaged_over_the_draws() -> None:
    labels = np.where(Y > 0, "high", "low")
    found = lv.propagate(DRAWS, LogisticRegression(), labels)
    fits = [LogisticRegression().fit(z, labels).predict_proba(z) for z in DRAWS]
    np.testing.assert_allclose(found.predictions, np.mean(fits, 0))
    np.testing.assert_allclose(found.spread, np.std(fits, 0, ddof=1))
    mean = DRAWS.mean(0)
    np.testing.assert_allclose(found.plug_in, LogisticRegression().fit(mean, labels).predict_proba(mean))
    assert found.labels.tolist() == np.array(["high", "low"])[np.mean(fits, 0).argmax(1)].tolist()
    new = CHANCE.normal(size=(12, 9, 2))
    values = lv.propagate(DRAWS, LinearRegression(), Y, new=new)
    expected = [LinearRegression().fit(z, Y).predict(at) for z, at in zip(DRAWS, new, strict=True)]
    np.testing.assert_allclose(values.predictions, np.mean(expected, 0))
    assert "9 rows" in str(values)
    with pytest.raises(SettingError, match="regression"):
        _ = values.labels
    with pytest.raises(ShapeError, match="draws of the new rows"):
        lv.propagate(DRAWS, LinearRegression(), Y, new=new[:5])


def test_components_are_indicators_and_means_their_probabilities() -> None:
    iris = lv.datasets.iris()
    fit = lv.fit(lv.models.GaussianMixture(3), iris.x[:, :2], lv.EM(passes=30), progress=False)
    y = iris.x[:, 3]

    def group_means(z: np.ndarray, y: np.ndarray) -> Any:
        return sm.OLS(y, z).fit()

    found = lv.propagate(fit.latent(), group_means, y, draws=8, seed=4)
    labels = fit.latent().sample("z", 8, lv.randomness.derive(4, 81)).numpy()
    means = [[y[one == k].mean() for k in range(3)] for one in labels]
    np.testing.assert_allclose(found.draws, means)
    np.testing.assert_allclose(found.plug_in, group_means(fit.latent().mean().numpy(), y).params)


def test_what_cannot_be_propagated_is_said() -> None:
    with pytest.raises(DataError, match="draws that are not finite"):
        lv.propagate(np.where(DRAWS > 2, np.nan, DRAWS), LinearRegression(), Y)
    with pytest.raises(KindError, match="estimator"):
        lv.propagate(DRAWS, LinearRegression, Y)
    with pytest.raises(ShapeError, match="length 7"):
        lv.propagate(DRAWS, ols, Y[:7])
    with pytest.raises(SettingError, match="at least two draws"):
        lv.propagate(DRAWS[:1], ols, Y)
    with pytest.raises(KindError, match="estimator"):
        lv.propagate(DRAWS, "ols", Y)  # type: ignore[call-overload]
    with pytest.raises(KindError, match="returned"):
        lv.propagate(DRAWS, lambda z, y: 3.0, Y)
    with pytest.raises(ShapeError, match=r"\[P\] and \[P, P\]"):
        lv.propagate(DRAWS, lambda z, y: (np.zeros(2), np.zeros(2)), Y)
    with pytest.raises(DataError, match="collinear"):
        lv.propagate(DRAWS, lambda z, y: (np.zeros(2), np.full((2, 2), np.nan)), Y)
    with pytest.raises(NameUnknownError, match="site"):
        lv.propagate({"a": DRAWS, "b": DRAWS}, ols, Y)
    with pytest.raises(KindError, match="sequences"):
        lv.propagate(torch.zeros(3, 4, 5, 6), ols, Y[:4])
    with pytest.raises(SettingError, match="level"):
        lv.propagate(DRAWS, ols, Y).interval(95)
