"""Functions of globals and locals: closed forms, grids, statsmodels and arviz beside what is read off a fit."""

from __future__ import annotations

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats._delta_method import NonlinearDeltaCov
from torch import Tensor
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import KindError, NameUnknownError, NumericalError, SettingError, ShapeError, SupportError

NORMAL = {"mean": 0.0, "sd": 3.0}
GENERATOR = np.random.default_rng(5)
FIRST, SECOND = GENERATOR.normal(1.0, 1.0, 12), GENERATOR.normal(0.6, 1.0, 9)
HUMPS = np.concatenate([GENERATOR.normal(-1.1, 1.0, 12), GENERATOR.normal(1.2, 1.0, 14)])


class TwoMeans:
    """y_n ~ N(mu_group, 1), mu_g ~ N(0, 3²): the posterior is normal."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2, dtype=torch.float64), NORMAL["sd"]).to_event(1))
        with rows.plate():
            pyro.sample("y", dist.Normal(mu[rows["group"].long()], 1.0), obs=rows["y"])


class Humps:
    """Half of the rows from each of two normals of unit deviation: the labels are interchangeable."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2, dtype=torch.float64), 2.0).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


class Line:
    """A line by least squares: flat priors."""

    def model(self, rows: lv.Batch) -> None:
        intercept, slope = pyro.sample("intercept", lv.flat(())), pyro.sample("slope", lv.flat(()))
        sigma = pyro.sample("sigma", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("y", dist.Normal(intercept + slope * rows["t"], sigma), obs=rows["y"])


def gap(sites: dict[str, Tensor]) -> Tensor:
    return sites["mu"][0] - sites["mu"][1]


def reach(sites: dict[str, Tensor]) -> Tensor:
    return sites["loc"].max() - sites["loc"].min()


def exact_gap() -> stats.rv_continuous:
    """The posterior of the difference of two normal means (conjugate, Gelman et al. 2013, eq. 2.10)."""
    precision = [len(group) + 1 / NORMAL["sd"] ** 2 for group in (FIRST, SECOND)]
    mean = FIRST.sum() / precision[0] - SECOND.sum() / precision[1]
    return stats.norm(mean, np.sqrt(1 / precision[0] + 1 / precision[1]))


@pytest.fixture(scope="module")
def means() -> lv.Fit:
    data = {"y": np.concatenate([FIRST, SECOND]), "group": np.repeat([0, 1], [len(FIRST), len(SECOND)])}
    return lv.fit(TwoMeans(), data, lv.NUTS(draws=400, tune=300, chains=4), seed=2, progress=False)


@pytest.fixture(scope="module")
def humps() -> lv.Fit:
    return lv.fit(Humps(), HUMPS, lv.NUTS(draws=400, tune=300, chains=4), seed=3, progress=False)


@pytest.fixture(scope="module")
def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The posterior of Humps on a grid: values of the two means, and probabilities ``[G, G]``."""
    at = np.linspace(-6, 6, 301)
    first, second = np.meshgrid(at, at, indexing="ij")
    density = stats.norm.logpdf(first, 0, 2) + stats.norm.logpdf(second, 0, 2)
    for x in HUMPS:
        density += np.log(0.5 * stats.norm.pdf(x, first) + 0.5 * stats.norm.pdf(x, second))
    weight = np.exp(density - density.max())
    return first, second, weight / weight.sum()


@pytest.fixture(scope="module")
def rates() -> lv.Fit:
    x = np.array([3, 5, 2, 4, 6, 1, 3], dtype=float)
    return lv.fit(lv.models.Mixture(1, lv.emissions.Poisson()), x, lv.EM(), progress=False)


def test_the_difference_of_two_normal_means_is_normal(means: lv.Fit) -> None:
    exact = exact_gap()
    found = lv.contrast(means, gap, regions={"above": lambda d: d > 0, "small": (-0.3, 0.3), "open": (None, 0.5)})
    error = float(found.summary().loc["gap", "mcse_mean"])
    assert abs(float(found.mean) - exact.mean()) < 4 * error < 0.1
    assert float(found.sd) == pytest.approx(exact.std(), rel=0.08)
    np.testing.assert_allclose(found.interval, exact.ppf([0.055, 0.945]), atol=0.08)
    chances = {"above": exact.sf(0), "small": exact.cdf(0.3) - exact.cdf(-0.3), "open": exact.cdf(0.5)}
    for name, (value, error) in found.regions.items():
        assert abs(float(value) - chances[name]) < 4 * float(error) < 0.08, name
    assert found.basis == "4 chains of 400 draws" and "P(above) = " in str(found)


def test_the_error_of_a_probability_is_that_of_arviz(means: lv.Fit) -> None:
    found = lv.contrast(means, gap)
    value, error = found.probability(lambda d: d > 0.4)
    inside = (found.draws["gap"] > 0.4).double().reshape(4, 400).numpy()
    assert float(value) == pytest.approx(inside.mean(), abs=1e-12)
    assert float(error) == pytest.approx(float(arviz_stats.mcse(inside, method="mean")), rel=1e-3)  # type: ignore
    assert float(error) != pytest.approx(inside.std() / np.sqrt(inside.size), rel=1e-3)
    certain, error = found.probability((-50, 50))
    assert float(certain) == 1 and 0 < float(error) < 1 / 1600


def test_globals_themselves_are_those_of_the_summary(means: lv.Fit) -> None:
    found = lv.contrast(means, lambda sites: {"mu": sites["mu"]}, probability=0.8).summary()
    expected = means.summary(probability=0.8)
    assert list(found.columns) == list(expected.columns) and list(found.index) == list(expected.index)
    np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())


def test_a_label_free_quantity_of_a_mixture_whose_labels_switch(humps: lv.Fit, grid: tuple) -> None:
    first, second, weight = grid
    away = np.abs(first - second)
    found = lv.contrast(humps, reach, regions={"far": lambda d: d > 2})
    mean = (weight * away).sum()
    assert abs(float(found.mean) - mean) < 4 * float(found.summary()["mcse_mean"].iloc[0])
    assert float(found.sd) == pytest.approx(np.sqrt((weight * (away - mean) ** 2).sum()), rel=0.1)
    value, error = found.regions["far"]
    assert abs(float(value) - weight[away > 2].sum()) < 4 * float(error) < 0.15
    assert float(found.summary()["r_hat"].iloc[0]) < 1.02


def test_locals_are_drawn_with_the_globals(humps: lv.Fit, grid: tuple) -> None:
    """P(z_i = z_j | x), and P(z_i is the component of the larger mean | x), averaged over the grid."""
    first, second, weight = grid
    near, far = 3, 14
    share = [1 / (1 + np.exp(stats.norm.logpdf(x, second) - stats.norm.logpdf(x, first))) for x in HUMPS[[near, far]]]
    same = (weight * (share[0] * share[1] + (1 - share[0]) * (1 - share[1]))).sum()
    upper = (weight * np.where(first > second, share[1], 1 - share[1])).sum()

    def facts(sites: dict[str, Tensor]) -> dict[str, Tensor]:
        z, larger = sites["z"], sites["loc"].argmax()
        return {"same": z[near] == z[far], "upper": z[far] == larger}

    found = lv.contrast(humps, facts, latents=True, draws=800)
    for name, exact in (("same", same), ("upper", upper)):
        error = found[name].probability((0.5, None)).error
        assert abs(float(found[name].mean) - exact) < 4 * float(error) < 0.1, name
    assert same < 0.4 and upper > 0.7  # else they would say nothing


def test_locals_at_a_point_have_its_posterior() -> None:
    fit = lv.fit(lv.models.GaussianMixture(2), HUMPS, lv.EM(restarts=5), seed=1, progress=False)
    found = lv.contrast(fit, lambda sites: (sites["z"] == 0).sum(), latents=True, draws=1000)
    belongs = fit.latent().mean()[:, 0]
    assert abs(float(found.mean - belongs.sum())) < 4 * float(found.sd) / np.sqrt(1000)
    assert float(found.sd) == pytest.approx(float((belongs * (1 - belongs)).sum().sqrt()), rel=0.1)
    assert "own spread is left out" in str(found)
    new = lv.contrast(fit, lambda sites: sites["z"].shape[0], latents=True, draws=3, data=HUMPS[:4])
    assert new.mean == 4


def test_the_delta_method_of_statsmodels() -> None:
    t = np.linspace(0, 4, 30)
    y = 1.0 + 0.7 * t + np.random.default_rng(8).normal(0, 0.8, 30)
    fit = lv.fit(Line(), {"y": y, "t": t}, lv.EM(stop=lv.Tolerance(1e-12)), progress=False)
    least = OLS(y, np.stack([np.ones(30), t], 1)).fit()
    covariance = least.cov_params() * least.ssr / 30 / least.scale  # of maximum likelihood: no degrees of freedom
    oracle = NonlinearDeltaCov(lambda p: np.array([-p[0] / p[1], p[0] * p[1]]), least.params, covariance)

    def root(sites: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"root": -sites["intercept"] / sites["slope"], "product": sites["intercept"] * sites["slope"]}

    found = lv.contrast(fit, root)
    assert float(found["root"].mean) == pytest.approx(-least.params[0] / least.params[1], rel=1e-5)
    np.testing.assert_allclose([float(found[n].sd) for n in found.names], oracle.se_vectorized(), rtol=1e-4)
    drawn = np.cov(found.draws["root"].numpy(), found.draws["product"].numpy())
    np.testing.assert_allclose(drawn, oracle.cov(), rtol=0.08)
    table = found.summary()
    assert list(table.index) == ["root", "product"] and list(table.columns) == ["estimate", "sd", "ci89_lb", "ci89_ub"]


def test_the_logarithm_of_a_rate(rates: lv.Fit) -> None:
    """Its standard error is 1 / √Σx, its regions normal."""
    found = lv.contrast(rates, lambda sites: sites["rate"].log(), probability=0.9)
    exact = stats.norm(np.log(24 / 7), 1 / np.sqrt(24))
    assert found.mean.shape == (1, 1) and float(found.sd) == pytest.approx(exact.std(), rel=1e-6)
    np.testing.assert_allclose(found.interval[0, 0], exact.interval(0.9), rtol=1e-6)
    value, error = found.probability((1.0, 1.5))
    assert float(value) == pytest.approx(exact.cdf(1.5) - exact.cdf(1.0), rel=1e-5) and float(error) == 0
    value, error = found.probability(lambda d: d > 1.2)
    assert abs(float(value) - exact.sf(1.2)) < 4 * float(error) < 0.02
    assert "normal approximation" in str(found)


def one_factor() -> tuple[lv.Fit, np.ndarray]:
    x = np.random.default_rng(4).normal(size=(80, 1)) @ [[1.0, 0.8, -0.7]]
    x = x + np.random.default_rng(6).normal(size=(80, 3)) * [0.6, 0.7, 0.5]
    fit = lv.fit(lv.models.FactorAnalysis(1), x, lv.EM(passes=5000, stop=lv.Tolerance(1e-13)), progress=False)
    return fit, np.cov(x.T, bias=True)


def test_a_squared_loading_has_the_error_of_its_covariances() -> None:
    """Three features and one factor: λ₀² = s₀₁ s₀₂ / s₁₂, with Cov(s_ij, s_kl) = (s_ik s_jl + s_il s_jk) / N (Anderson
    2003, theorem 3.4.4)."""
    fit, s = one_factor()
    pairs = [(0, 1), (0, 2), (1, 2)]
    wide = np.array([[s[i, k] * s[j, m] + s[i, m] * s[j, k] for k, m in pairs] for i, j in pairs]) / 80
    square = s[0, 1] * s[0, 2] / s[1, 2]
    slope = square * np.array([1 / s[0, 1], 1 / s[0, 2], -1 / s[1, 2]])
    found = lv.contrast(fit, lambda sites: sites["loadings"][0, 0] ** 2)
    assert float(found.mean) == pytest.approx(square, rel=1e-4)
    assert float(found.sd) == pytest.approx(np.sqrt(slope @ wide @ slope), rel=1e-3)


def test_communalities_are_identified_where_loadings_turn() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(200, 6))
    fit = lv.fit(lv.models.FactorAnalysis(2), x, lv.EM(passes=5000, stop=lv.Tolerance(1e-12)), progress=False)

    def both(sites: dict[str, Tensor]) -> dict[str, Tensor]:
        squares = sites["loadings"].square().sum(1)
        return {"communality": squares / (squares + sites["scale"].square()), "loading": sites["loadings"][0]}

    with pytest.warns(UserWarning, match="do not identify"):
        found = lv.contrast(fit, both)
    assert bool(found["communality"].sd.isfinite().all()) and bool(found["loading"].sd.isnan().all())
    assert found.withheld == {f"loading[{k}]": "not identified by the data" for k in range(2)}
    assert bool(found["loading"].probability(lambda d: d > 0).value.isnan().all())
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    turned = lv.from_point(lv.models.FactorAnalysis(2), x, fit.point | {"loadings": fit.point["loadings"] @ turn})
    with pytest.warns(UserWarning, match="do not identify"):
        again = lv.contrast(turned, both)
    torch.testing.assert_close(found["communality"].sd, again["communality"].sd, rtol=1e-4, atol=0)


def test_what_depends_on_the_edge_has_no_error() -> None:
    chain = lv.models.HiddenMarkov(3, lv.emissions.Poisson(), initial="stationary")
    fit = lv.fit(chain, lv.datasets.earthquakes().x, lv.EM(stop=lv.Tolerance(1e-9)), progress=False)
    edge = fit.point["transition"].flatten().argmin()

    def parts(sites: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"move": sites["transition"].flatten()[edge] * 2, "rise": sites["rate"].max() / sites["rate"].min()}

    found = lv.contrast(fit, parts)
    assert found.withheld == {"move": "it depends on a number at the edge of its support"}
    rate, spread = fit.point["rate"].flatten(), fit.standard_errors().covariance("rate")
    slope = torch.zeros(3, dtype=torch.float64)
    slope[rate.argmax()], slope[rate.argmin()] = 1 / rate.min(), -rate.max() / rate.min() ** 2
    assert float(found["rise"].sd) == pytest.approx(float((slope @ spread @ slope).sqrt()), rel=1e-6)


def test_draws_of_a_guide(rates: lv.Fit) -> None:
    model = lv.models.Mixture(
        1, lv.emissions.Poisson(), priors={"rate": dist.Gamma(2.0, 0.5).expand([1, 1]).to_event(2)}
    )
    fit = lv.fit(model, rates.rows, lv.SVI(passes=800), seed=1, progress=False)
    exact = stats.gamma(26, scale=1 / 7.5)
    found = lv.contrast(fit, lambda sites: sites["rate"][0, 0] > 3.5)
    assert found.basis == "1000 draws of the guide, an approximation"
    assert float(found.mean) == pytest.approx(exact.sf(3.5), abs=0.08)
    again = lv.contrast(fit, lambda sites: sites["rate"][0, 0] > 3.5)
    torch.testing.assert_close(found.draws["value"], again.draws["value"], rtol=0, atol=0)
    other = lv.contrast(fit, lambda sites: sites["rate"][0, 0], seed=9)
    assert not torch.equal(other.draws["value"], lv.contrast(fit, lambda sites: sites["rate"][0, 0]).draws["value"])


def test_several_quantities_are_read_one_by_one(means: lv.Fit) -> None:
    found = lv.contrast(means, lambda s: {"gap": gap(s), "mu": s["mu"]}, regions=lambda v: v["mu"] > v["gap"])
    assert found.names == ("gap", "mu") and found["mu"].mean.shape == (2,)
    assert found.regions["region"].value.shape == (2,)
    assert found.to_datatree()["posterior"]["mu"].shape == (4, 400, 2)
    with pytest.raises(KindError, match=r"found\[\"gap\"\]"):
        _ = found.mean
    with pytest.raises(NameUnknownError, match="depth"):
        _ = found["depth"]


def test_functions_cannot_change_the_fit(rates: lv.Fit, means: lv.Fit) -> None:
    before = [{name: value.clone() for name, value in fit.point.items()} for fit in (rates, means)]
    lv.contrast(means, lambda sites: sites["mu"].mul_(0).sum() + 1)
    with pytest.raises(SupportError):
        lv.contrast(rates, lambda sites: sites["rate"].detach().mul_(0))
    for fit, values in zip((rates, means), before, strict=True):
        assert all(torch.equal(fit.point[name], value) for name, value in values.items())


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (lambda s: s["depth"], NameUnknownError, "depth"),
        (lambda s: s["z"], NameUnknownError, "latents=True"),
        (lambda s: "large", KindError, "str"),
        (lambda s: {}, KindError, "empty"),
        (lambda s: None, KindError, "NoneType"),
        (lambda s: torch.zeros(int(s["loc"][0] * 1e6) % 2 + 1), ShapeError, "first draw"),
        (lambda s: {"a" if s["loc"][0] > s["loc"][0].round() else "b": 1.0}, ShapeError, "same quantities"),
        (lambda s: (s["loc"][0] - 20).log(), NumericalError, "not finite"),
    ],
)
def test_what_is_no_quantity_is_refused(humps: lv.Fit, function: object, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        lv.contrast(humps, function)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        lambda s: float(s["rate"][0, 0].detach()) * s["weights"][0],
        lambda s: s["rate"].detach().log(),
        lambda s: (s["rate"] > 1).sum(),
        lambda s: s["rate"] * s["rate"].detach(),
    ],
)
def test_what_torch_cannot_differentiate_is_refused(rates: lv.Fit, function: object) -> None:
    if function(rates.point).requires_grad:  # type: ignore[operator]
        pytest.fail("the function was meant to break the way to the globals")
    with pytest.raises(SupportError, match=r"by operations of torch|derivative"):
        lv.contrast(rates, function)  # type: ignore[arg-type]


def test_settings_and_regions_are_checked(rates: lv.Fit, means: lv.Fit) -> None:
    with pytest.raises(SettingError, match="probability"):
        lv.contrast(rates, lambda s: s["rate"], probability=1.2)
    with pytest.raises(SettingError, match="latents=True"):
        lv.contrast(rates, lambda s: s["rate"], data=[1.0])
    with pytest.raises(SettingError, match="region"):
        lv.contrast(means, gap, regions=(2.0, 1.0))
    with pytest.raises(KindError, match="yes or no"):
        lv.contrast(means, gap, regions=lambda d: d)
