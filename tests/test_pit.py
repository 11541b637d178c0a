"""Probability integral transforms: against scipy's distribution functions, in and out of sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import DataError, KindError, SettingError, SupportError
from latentvars.posterior.criticism.uniformity import uniformity


@dataclass(frozen=True)
class Normal:
    """x ~ N(mu, 1), mu ~ N(0, 10)."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 10.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, 1.0), obs=rows["x"])


def data(size: int = 12) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).normal(0.7, 1.0, size)
    x[0] = 3.0
    return {"x": x}


def predictive(x: np.ndarray, left_out: bool) -> np.ndarray:
    """P(X <= x_n) of the closed-form predictive law, with or without x_n."""
    total, size = x.sum() - (x if left_out else 0), len(x) - left_out
    precision = 0.01 + size
    return stats.norm(total / precision, np.sqrt(1 + 1 / precision)).cdf(x)


@pytest.fixture(scope="module")
def fitted() -> lv.Fit:
    pytest.importorskip("nutpie")
    return lv.fit(Normal(), data(), lv.NUTS(draws=500, tune=300, chains=2), progress=False)


@pytest.mark.parametrize("left_out", [False, True])
def test_of_a_conjugate_model_it_is_the_closed_form(fitted: lv.Fit, left_out: bool) -> None:
    found = lv.pit(fitted, loo=left_out, unit="row" if left_out else None)
    assert found.exact and found.kind == ("leave-one-out" if left_out else "posterior")
    np.testing.assert_allclose(found["x"], predictive(data()["x"], left_out), atol=0.01)
    assert abs(predictive(data()["x"], True)[0] - predictive(data()["x"], False)[0]) > 0.003  # so that it can fail
    assert abs(found["x"][0] - predictive(data()["x"], not left_out)[0]) > 0.002
    assert (found.pareto_k is not None) == left_out


def test_draws_of_a_guide_are_weighted_towards_the_posterior_without_the_row() -> None:
    fit = lv.fit(Normal(), data(), lv.SVI(passes=1, guide=lv.MeanField(0.6)), start={"mu": 0.9}, progress=False)
    found = lv.pit(fit, loo=True, unit="row", draws=1_500)
    # weights leave some 700 draws of a mean of deviation 0.3: an error of 0.004
    np.testing.assert_allclose(found["x"], predictive(data()["x"], True), atol=0.015)


class Counts:
    """Two kinds of Poisson counts with an exposure, the kind summed out by hand or enumerated; and a normal beside."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((2,), constraints.simplex))
        rate = pyro.sample("rate", lv.flat((2,), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("count", dist.Poisson(rate[z] * rows["exposure"]), obs=rows["count"])
            pyro.sample("size", dist.Normal(torch.tensor([0.0, 3.0])[z], 1.0), obs=rows["size"])


def test_locals_are_averaged_by_their_law_and_covariates_are_kept() -> None:
    rng = np.random.default_rng(1)
    columns = {"count": rng.poisson(4.0, 9).astype(float), "exposure": rng.random(9) + 0.5, "size": rng.normal(1, 2, 9)}
    columns["count"][4] = np.nan
    fit = lv.from_point(Counts(), columns, {"weights": [0.3, 0.7], "rate": [2.0, 6.0]})
    found = lv.pit(fit)
    assert found.kind == "plug-in" and found.features == ("count", "size")
    shares, count, exposure = np.array([0.3, 0.7]), columns["count"], columns["exposure"]
    law = stats.poisson(np.array([2.0, 6.0]) * exposure[:, None])
    below, upto = (law.cdf(count[:, None] - k) @ shares for k in (1, 0))
    np.testing.assert_allclose(found.mid("count"), (below + upto) / 2, atol=1e-7)
    assert np.isnan(found["count"][4]) and np.isnan(found.mid("count")).sum() == 1
    drawn = np.delete(found["count"], 4)
    assert ((drawn >= np.delete(below, 4) - 1e-7) & (drawn <= np.delete(upto, 4) + 1e-7)).all()
    expected = stats.norm.cdf(columns["size"][:, None], [0.0, 3.0]) @ shares
    np.testing.assert_allclose(found["size"], expected, atol=1e-7)
    given_size = shares * stats.norm.pdf(columns["size"][:, None], [0.0, 3.0])
    given_size /= given_size.sum(1, keepdims=True)
    others = lv.pseudo_residuals(fit, kind="ordinary")  # given the other site of the row
    expected = stats.norm.ppf(((law.cdf(count[:, None] - 1) + law.cdf(count[:, None])) / 2 * given_size).sum(1))
    np.testing.assert_allclose(others["count"], expected, atol=1e-6)


class Turned:
    """A law without a known distribution function."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", lv.flat())
        with rows.plate():
            pyro.sample("x", dist.VonMises(mu, torch.tensor(2.0)), obs=rows["x"])


def test_other_laws_are_done_by_draws() -> None:
    x = np.array([-2.0, -0.5, 0.4, np.nan, 1.5])
    fit = lv.from_point(Turned(), {"x": x}, {"mu": 0.3})
    found = lv.pit(fit, draws=20_000)
    assert not found.exact and "by draws of new rows" in str(found)
    np.testing.assert_allclose(
        found["x"], stats.vonmises(2.0, loc=0.3).cdf(x) - stats.vonmises(2.0, loc=0.3).cdf(-np.pi), atol=0.012
    )
    with pytest.raises(SupportError, match=r"VonMises[\s\S]*lv\.pit"):
        lv.pseudo_residuals(fit)


def test_continuous_locals_are_drawn_anew() -> None:
    """A guide that knows nothing of z does no harm: z comes from the model, x has mean .5 and variance 2."""

    class Effects:
        def model(self, rows: lv.Batch) -> None:
            with rows.plate():
                z = pyro.sample("z", dist.Normal(0.5, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=rows["x"])

        def guide(self, rows: lv.Batch) -> None:
            with rows.plate():
                pyro.sample("z", dist.Normal(40.0, 1.0).expand([len(rows)]))

    x = np.array([-2.0, 0.5, 3.0])
    found = lv.pit(lv.from_point(Effects(), {"x": x}, {}), draws=20_000)
    np.testing.assert_allclose(found["x"], stats.norm(0.5, np.sqrt(2)).cdf(x), atol=0.012)


def test_steps_of_a_chain_are_given_those_before() -> None:
    values = {"initial": [0.5, 0.5], "transition": [[0.9, 0.1], [0.2, 0.8]], "rate": [[2.0], [9.0]]}
    model = lv.models.HiddenMarkov(2, lv.emissions.Poisson())
    fit = lv.from_point(model, lv.datasets.earthquakes().x[:20], values)
    forecast = lv.pseudo_residuals(fit, kind="forecast")
    np.testing.assert_allclose(lv.pit(fit).mid("x"), stats.norm.cdf(forecast["x"]), atol=1e-9)


def test_randomised_values_are_uniform_where_the_model_is_right_and_not_elsewhere() -> None:
    x = np.random.default_rng(2).negative_binomial(3, 0.4, 400)
    right = lv.from_point(Counted(False), {"x": x}, {"rate": 4.5})
    wrong = lv.from_point(Counted(True), {"x": x}, {"rate": 4.5})
    assert lv.pit(right, seed=1).uniformity("x").p_value > 0.05
    assert lv.pit(wrong, seed=1).uniformity("x").p_value < 0.001
    again = lv.pit(right, seed=1)["x"]
    np.testing.assert_array_equal(again, lv.pit(right, seed=1)["x"])
    assert (again != lv.pit(right, seed=2)["x"]).any()


@dataclass(frozen=True)
class Counted:
    """Counts of mean ``rate``, Poisson or three times as spread."""

    poisson: bool

    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", lv.flat((), constraints.positive))
        law = dist.Poisson(rate) if self.poisson else dist.NegativeBinomial(3.0, rate / (3.0 + rate))
        with rows.plate():
            pyro.sample("x", law, obs=rows["x"])


def test_the_test_has_its_level_and_agrees_with_kolmogorov() -> None:
    rng = np.random.default_rng(4)
    found = np.array([uniformity(rng.random(60), seed=k).p_value for k in range(100)])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    shifted = [rng.beta(1.0, 1.3, 150) for _ in range(20)]
    ours = np.array([uniformity(one).p_value for one in shifted])
    theirs = np.array([stats.kstest(one, "uniform").pvalue for one in shifted])
    assert stats.spearmanr(ours, theirs).statistic > 0.7
    assert abs((ours < 0.05).mean() - (theirs < 0.05).mean()) < 0.3


def test_the_band_is_arvizs() -> None:
    from arviz_stats.ecdf_utils import ecdf_pit

    sample = np.random.default_rng(5).random(150)
    found = uniformity(sample)
    points, share, low, high = ecdf_pit(sample, 0.95, 4_000)
    np.testing.assert_allclose(found.points, points)
    np.testing.assert_allclose(found.distribution, share)
    np.testing.assert_allclose(found.low, low, atol=0.015)
    np.testing.assert_allclose(found.high, high, atol=0.015)


def test_what_cannot_be_transformed_is_refused(fitted: lv.Fit) -> None:
    point = lv.from_point(Normal(), data(), {"mu": 0.5})
    with pytest.raises(KindError, match=r"a point[\s\S]*lv\.NUTS"):
        lv.pit(point, loo=True, unit="row")
    with pytest.raises(SettingError, match='write unit="row"'):
        lv.pit(fitted, loo=True)
    with pytest.raises(SettingError, match="draws=0"):
        lv.pit(fitted, draws=0)
    with pytest.raises(DataError, match="weights"):
        lv.pit(lv.from_point(Normal(), lv.Rows(data(), weights=np.arange(1.0, 13.0)), {"mu": 0.5}))
    with pytest.raises(DataError, match="no number"):
        uniformity(np.array([np.nan]))
    with pytest.raises(SettingError, match="level=1"):
        uniformity(np.array([0.5]), level=1.0)


def test_the_picture_has_a_panel_for_each_feature() -> None:
    fit = lv.from_point(Normal(), data(), {"mu": 0.5})
    found = lv.pit(fit)
    (axis,) = lv.plots.pit(found).axes
    test = found.uniformity("x")
    np.testing.assert_allclose(axis.lines[1].get_ydata(), test.distribution - test.points)
    assert f"n = {test.size}" in axis.get_title(loc="left")
