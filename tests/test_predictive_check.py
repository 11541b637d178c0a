"""Predictive checks: against predictive laws in closed form, right and wrong models, and data of every layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import DataError, KindError, ModelError, NameUnknownError, SettingError

ZERO = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Normal:
    """x ~ N(mu, 1), mu ~ N(0, spread)."""

    spread: float = 2.0

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(ZERO, self.spread))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, 1.0), obs=rows["x"])


def posterior(x: np.ndarray, spread: float = 2.0) -> tuple[float, float]:
    """Mean and standard deviation of mu."""
    precision = spread**-2 + len(x)
    return x.sum() / precision, precision**-0.5


def exact_guide(x: np.ndarray) -> lv.Fit:
    """A fit whose guide is the exact posterior."""
    mean, deviation = posterior(x)
    still = partial(torch.optim.SGD, lr=0.0)
    algorithm = lv.SVI(passes=1, guide=lv.MeanField(deviation), optimizer=still)
    fit = lv.fit(Normal(), {"x": x}, algorithm, start={"mu": mean}, progress=False)
    assert float(fit.point["mu"]) == pytest.approx(mean, abs=1e-9)
    return fit


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(0.7, 1.0, 20)


def test_replicates_have_the_closed_form_predictive_law(x: np.ndarray) -> None:
    found = lv.predictive_check(exact_guide(x), {"mean": np.mean, "first": lambda x: x[0]}, draws=4_000)
    mean, deviation = posterior(x)
    law = stats.norm(mean, np.sqrt(deviation**2 + 1 / 20))
    assert found.kind == "posterior" and found.replicated["mean"].shape == (4_000,)
    assert stats.kstest(found.replicated["mean"], law.cdf).pvalue > 0.001
    assert found.p_value("mean") == pytest.approx(law.sf(x.mean()), abs=0.03)
    one = stats.norm(mean, np.sqrt(deviation**2 + 1))
    assert stats.kstest(found.replicated["first"], one.cdf).pvalue > 0.001
    line = found.summary().loc["mean"]
    assert line["observed"] == x.mean()
    assert line["q95"] == pytest.approx(law.ppf(0.95), abs=0.05)


def test_at_a_point_the_uncertainty_of_the_globals_is_left_out(x: np.ndarray) -> None:
    fit = lv.from_point(Normal(), {"x": x}, {"mu": 0.5})
    found = lv.predictive_check(fit, {"mean": np.mean}, draws=4_000)
    assert found.kind == "plug-in" and "uncertainty is left out" in str(found)
    assert stats.kstest(found.replicated["mean"], stats.norm(0.5, 20**-0.5).cdf).pvalue > 0.001


def test_before_the_data_the_globals_come_from_their_priors(x: np.ndarray) -> None:
    fit = lv.from_point(Normal(), {"x": x}, {"mu": 50.0})
    found = lv.predictive_check(fit, {"mean": np.mean}, draws=1_000, prior=True)
    assert found.kind == "prior"
    assert stats.kstest(found.replicated["mean"], stats.norm(0, np.sqrt(4 + 1 / 20)).cdf).pvalue > 0.001


def test_with_flat_priors_there_is_nothing_to_draw(x: np.ndarray) -> None:
    fit = lv.fit(lv.models.GaussianMixture(2), x, progress=False)
    with pytest.raises(ModelError, match=r"flat priors[\s\S]*loc"):
        lv.predictive_check(fit, prior=True)


def test_a_discrepancy_reads_the_globals_of_each_draw(x: np.ndarray) -> None:
    """Σ (x − μ)² of replicates is χ² with N degrees of freedom, whatever μ (Gelman, Meng & Stern 1996)."""

    def chi2(x: np.ndarray, values: Any) -> float:
        return float(((x - values["mu"]) ** 2).sum())

    found = lv.predictive_check(exact_guide(x), [chi2], draws=3_000)
    assert found.observed["chi2"].shape == (3_000,)
    assert stats.kstest(found.replicated["chi2"], stats.chi2(20).cdf).pvalue > 0.001
    mu = np.random.default_rng(1).normal(*posterior(x), 20_000)
    expected = stats.chi2(20).sf(((x - mu[:, None]) ** 2).sum(1)).mean()
    assert found.p_value("chi2") == pytest.approx(expected, abs=0.03)


def test_p_values_are_uniform_under_the_model() -> None:
    """Data from the prior predictive law, checked by the same: exactly uniform, ties of counts split at random."""

    class Counts:
        def model(self, rows: lv.Batch) -> None:
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0))
            with rows.plate():
                pyro.sample("x", dist.Poisson(rate), obs=rows["x"])

    rng, found = np.random.default_rng(3), []
    for k in range(100):
        x = rng.poisson(rng.gamma(2.0, 1.0), 5)
        fit = lv.from_point(Counts(), {"x": x}, {"rate": 1.0}, seed=k)
        check = lv.predictive_check(fit, {"max": np.max}, draws=19, prior=True)
        found.append(check.p_value("max", ties="random"))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_poisson_for_overdispersed_counts_is_found_and_the_right_model_is_not() -> None:
    x = np.random.default_rng(5).negative_binomial(2, 0.3, 200)

    def dispersion(x: np.ndarray) -> float:
        return float(x.var() / x.mean())

    one = lv.fit(lv.models.Mixture(1, lv.emissions.Poisson()), x, progress=False)
    four = lv.fit(lv.models.Mixture(4, lv.emissions.Poisson()), x, lv.EM(restarts=3), progress=False)
    wrong, right = (lv.predictive_check(fit, [dispersion], draws=200) for fit in (one, four))
    assert wrong.p_value("dispersion") == 0.0
    assert 0.1 < right.p_value("dispersion") < 0.9
    default = lv.predictive_check(one, draws=200).p_values
    assert default["share of zeros of x"] < 0.01 and default["sd of x"] < 0.01
    assert 0.1 < default["mean of x"] < 0.9


def test_defaults_of_chains_gaps_and_lengths() -> None:
    quakes = lv.datasets.earthquakes().x.astype(float)
    quakes[[3, 50]] = np.nan
    rows = lv.Rows(quakes, lengths=[50, 57])
    algorithm = lv.EM(restarts=3)
    one = lv.fit(lv.models.HiddenMarkov(1, lv.emissions.Poisson()), rows, algorithm, progress=False)
    three = lv.fit(lv.models.HiddenMarkov(3, lv.emissions.Poisson()), rows, algorithm, progress=False)
    found = [lv.predictive_check(fit, draws=150) for fit in (one, three)]
    name = "lag-1 correlation of x"
    assert found[0].p_value(name) < 0.01 < 0.1 < found[1].p_value(name) < 0.9
    centred = [part - np.nanmean(quakes) for part in (quakes[:50], quakes[50:])]
    expected = sum(np.nansum(part[1:] * part[:-1]) for part in centred) / sum(np.nansum(part**2) for part in centred)
    assert found[0].observed[name][0] == pytest.approx(expected)
    assert {key.removesuffix(" of x") for key in found[0].names} == {
        "mean",
        "sd",
        "min",
        "max",
        "share of zeros",
        "lag-1 correlation",
    }
    gaps = lv.predictive_check(three, {"missing": lambda x: np.isnan(x).sum()}, draws=3)
    assert (gaps.replicated["missing"] == gaps.observed["missing"]).all()
    assert gaps.observed["missing"][0] == 2 + 7  # and the steps past the end of the shorter one
    assert gaps.p_value("missing") == 0.5


def test_quantities_of_several_sites_and_of_several_numbers() -> None:
    class Two:
        def model(self, rows: lv.Batch) -> None:
            loc = pyro.sample("loc", lv.flat((2,)))
            with rows.plate():
                pyro.sample("a", dist.Normal(loc, 1.0).to_event(1), obs=rows["a"])
                pyro.sample("b", dist.Poisson(rows["exposure"]), obs=rows["b"])

    columns = {"a": np.ones((4, 2)), "b": np.arange(4.0), "exposure": np.array([0.5, 50.0, 0.5, 0.5])}
    fit = lv.from_point(Two(), columns, {"loc": [0.0, 100.0]})
    found = lv.predictive_check(fit, {"centre": lambda d: d["a"].mean(0), "second": lambda d: d["b"][1]}, draws=100)
    assert found.names == ("centre[0]", "centre[1]", "second")
    assert found.replicated["centre[1]"].mean() == pytest.approx(100, abs=0.5)
    assert found.replicated["second"].mean() == pytest.approx(50, abs=3)  # the covariate is kept
    assert {"mean of a0", "mean of a1", "mean of b"} <= set(lv.predictive_check(fit, draws=3).names)


def test_whole_weights_are_repeated_rows_and_the_same_seed_repeats() -> None:
    class Coin:
        def model(self, rows: lv.Batch) -> None:
            p = pyro.sample("p", lv.flat((), constraints.unit_interval))
            with rows.plate():
                pyro.sample("x", dist.Bernoulli(p), obs=rows["x"])

    fit = lv.from_point(Coin(), lv.Rows({"x": np.array([0.0, 1.0])}, weights=[3.0, 2.0]), {"p": 0.4})
    found = lv.predictive_check(fit, {"sum": np.sum, "size": np.size}, draws=500)
    assert found.observed["sum"][0] == 2 and (found.replicated["size"] == 5).all()
    assert found.p_value("sum") == pytest.approx(stats.binom(5, 0.4).sf(2) + stats.binom(5, 0.4).pmf(2) / 2, abs=0.05)
    again = lv.predictive_check(fit, {"sum": np.sum}, draws=500)
    np.testing.assert_array_equal(found.replicated["sum"], again.replicated["sum"])
    other = lv.predictive_check(fit, {"sum": np.sum}, draws=500, seed=9)
    assert (found.replicated["sum"] != other.replicated["sum"]).any()
    half = lv.from_point(Coin(), lv.Rows({"x": np.array([0.0, 1.0])}, weights=[0.5, 2.0]), {"p": 0.4})
    with pytest.raises(SettingError, match="not whole numbers"):
        lv.predictive_check(half)


def test_what_is_no_quantity_is_refused(x: np.ndarray) -> None:
    fit = lv.from_point(Normal(), {"x": x}, {"mu": 0.5})
    with pytest.raises(KindError, match="gives str"):
        lv.predictive_check(fit, {"name": lambda x: "a"})
    with pytest.raises(SettingError, match="3 arguments"):
        lv.predictive_check(fit, {"q": lambda x, y, z: 0.0})
    with pytest.raises(SettingError, match="functions of the data"):
        lv.predictive_check(fit, {})
    with pytest.raises(SettingError, match="one name"):
        lv.predictive_check(fit, [lambda x: 0.0, lambda x: 1.0])
    with pytest.raises(DataError, match=r"'q' of the observed data[\s\S]*nanmean"):
        lv.predictive_check(fit, {"q": lambda x: np.nan})
    with pytest.raises(NameUnknownError, match="'sd'"):
        lv.predictive_check(fit, {"mean": np.mean}, draws=2).p_value("sd")
    with pytest.raises(SettingError, match="ties="):
        lv.predictive_check(fit, {"mean": np.mean}, draws=2).p_value("mean", ties="up")  # type: ignore[arg-type]


def test_the_picture_has_a_line_where_the_data_are(x: np.ndarray) -> None:
    fit = lv.from_point(Normal(), {"x": x}, {"mu": 0.5})
    found = lv.predictive_check(fit, {"mean": np.mean, "off": lambda x, v: x.mean() - v["mu"], "n": np.size}, draws=30)
    figure = lv.plots.predictive_check(found)
    figure.draw_without_rendering()
    first, second, third = figure.axes
    assert first.lines[0].get_xdata()[0] == pytest.approx(x.mean())  # type: ignore[index]
    assert sum(bar.get_height() for bar in first.patches) == 30  # type: ignore[attr-defined]
    assert "p = 0.5" in third.get_title(loc="left") and second.get_visible()
    with pytest.raises(NameUnknownError, match="'sd'"):
        lv.plots.predictive_check(found, ["sd"])
