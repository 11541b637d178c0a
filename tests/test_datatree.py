"""What ArviZ reads of a fit: each number against scipy, scikit-learn or a formula, and ArviZ's functions run on it."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import arviz_plots
import arviz_stats
import matplotlib
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
import xarray as xr
from scipy import stats

import latentvars as lv
from latentvars.distributions import Mixture
from latentvars.errors import ModelError, SettingError
from latentvars.posterior import datatree, observations
from latentvars.posterior.axes import row_labels

matplotlib.use("Agg")


class KnownScale:
    """mu ~ N(0, 10²), x_n ~ N(mu, 1)."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, 1.0), obs=rows.x)


class Grid:
    """Names of axes that ArviZ, other sites or other sizes forbid; a plate beside the rows."""

    def model(self, rows: lv.Batch) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([3, 3]).to_event(2))
        with rows.plate(), pyro.plate("place", 3, dim=-2):
            pyro.sample("x", dist.Normal(a.sum() + b.sum(), 1.0), obs=rows.x.T)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"a": ("sample",), "b": ("side", "side")}

    def coords(self, rows: lv.Rows) -> dict[str, list[str]]:
        return {"side": ["left", "middle", "right"]}


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """Draws of a mixture's globals with the components in another order."""

    inner: object
    order: tuple[int, ...]

    @property
    def point(self) -> dict[str, torch.Tensor]:
        return {name: value[list(self.order)] for name, value in self.inner.point.items()}

    def draws(self, size: int, seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        values, log_q = self.inner.draws(size, seed)
        return {name: value[:, list(self.order)] for name, value in values.items()}, log_q

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.inner.tensors()


def two_groups(size: int = 60) -> pd.DataFrame:
    noise = np.random.default_rng(5)
    x = noise.normal(size=(size, 2)) + 4.0 * (np.arange(size) % 3 == 0)[:, None] * [1.0, -1.0]
    return pd.DataFrame(x, columns=["height", "width"], index=[f"plant {k}" for k in range(size)])


@pytest.fixture(scope="module")
def at_point() -> lv.Fit:
    return lv.fit(lv.models.GaussianMixture(2), two_groups(), lv.EM(), progress=False)


@pytest.fixture(scope="module")
def in_draws() -> lv.Fit:
    model = lv.models.GaussianMixture(2, covariance="diag")
    return lv.fit(model, two_groups(), lv.SVI(passes=150), progress=False)


@pytest.fixture(scope="module")
def line() -> lv.Fit:
    noise = np.random.default_rng(7)
    t = np.linspace(-1, 1, 40)
    rows = lv.Rows({"y": 1.0 + 2.0 * t + 0.5 * noise.normal(size=40), "t": t}, weights=np.arange(40) % 3 + 0.5)
    return lv.fit(user_models.Regression(), rows, lv.SVI(passes=100), progress=False)


def test_axes_carry_the_names_of_the_model_and_of_the_data(at_point: lv.Fit) -> None:
    tree = at_point.to_datatree(5)
    assert tree["point_estimate/covariance"].dims == ("component", "feature", "feature_bis")
    assert list(tree["point_estimate"].feature.values) == ["height", "width"]
    assert tree["log_likelihood/x"].dims == ("chain", "draw", "row")
    assert tree["log_likelihood/x"].sizes == {"chain": 1, "draw": 1, "row": 60}
    assert list(tree["observed_data"].row.values) == list(two_groups().index)
    assert tree["posterior_predictive/x"].dims == ("chain", "draw", "row", "feature")
    assert tree["latent_mean/z"].dims == ("row", "component")
    np.testing.assert_array_equal(tree["point_estimate/loc"], at_point.point["loc"])
    np.testing.assert_array_equal(tree["observed_data/x"], two_groups())
    np.testing.assert_array_equal(tree["latent_mean/z"], at_point.latent().mean("z"))
    np.testing.assert_array_equal(tree["optimization/objective"], at_point.history)
    assert {"posterior", "sample_stats", "constant_data"}.isdisjoint(tree.children)


def test_unusable_names_of_axes_are_replaced() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 3))
    fit = lv.fit(Grid(), rows, lv.SVI(passes=2), progress=False)
    with pytest.warns(UserWarning, match="'sample' of 'a' is called 'a_dim_0'"):
        tree = fit.to_datatree(4)
    assert tree["posterior/a"].dims == ("chain", "draw", "a_dim_0")
    assert tree["posterior/b"].dims == ("chain", "draw", "side", "side_bis")
    assert list(tree["posterior"].side_bis.values) == ["left", "middle", "right"]
    assert tree["observed_data/x"].dims == ("row", "place")
    np.testing.assert_array_equal(tree["observed_data/x"], rows)
    assert tree["posterior_predictive/x"].dims == ("chain", "draw", "row", "place")


def test_point_log_likelihood_is_that_of_scikit_learn(at_point: lv.Fit) -> None:
    oracle = at_point.model.to_sklearn(at_point.point).score_samples(two_groups().to_numpy())
    np.testing.assert_allclose(at_point.to_datatree(1)["log_likelihood/x"][0, 0], oracle, atol=1e-10)


def test_log_likelihood_at_draws_is_that_of_scikit_learn(in_draws: lv.Fit) -> None:
    tree = in_draws.to_datatree(10)
    for draw in range(10):
        point = {name: torch.tensor(tree["posterior"][name].values[0, draw]) for name in ("weights", "loc", "scale")}
        oracle = in_draws.model.to_sklearn(point).score_samples(two_groups().to_numpy())
        np.testing.assert_allclose(tree["log_likelihood/x"][0, draw], oracle, atol=1e-9)


def test_densities_of_a_weighted_regression_are_those_of_scipy(line: lv.Fit) -> None:
    tree = line.to_datatree(50)
    post = {name: tree["posterior"][name].values[0] for name in ("intercept", "slope", "sigma")}
    y, t = line.rows["y"].numpy(), line.rows["t"].numpy()
    loc = post["intercept"][:, None] + post["slope"][:, None] * t
    log_likelihood = stats.norm(loc, post["sigma"][:, None]).logpdf(y)
    np.testing.assert_allclose(tree["log_likelihood/y"][0], log_likelihood, atol=1e-9)
    prior = stats.norm(0, 10).logpdf(post["intercept"]) + stats.norm(0, 10).logpdf(post["slope"])
    weights = line.rows.weights.numpy()
    np.testing.assert_allclose(tree["sample_stats/lp"][0], prior + log_likelihood @ weights, atol=1e-9)
    loc, scale = (line.globals.guide.loc.detach(), line.globals.guide.log_scale.detach().exp())
    free = np.stack([post["intercept"], post["slope"], np.log(post["sigma"])], -1)
    log_q = stats.norm(loc, scale).logpdf(free).sum(-1) - np.log(post["sigma"])
    np.testing.assert_allclose(tree["sample_stats/log_q"][0], log_q, atol=1e-9)
    assert set(tree["constant_data"].data_vars) == {"t", "weights"}
    np.testing.assert_array_equal(tree["constant_data/weights"], weights)
    np.testing.assert_array_equal(tree["constant_data/t"], t)


def test_draws_have_the_moments_of_the_guide(line: lv.Fit) -> None:
    tree = line.to_datatree(400, predictive=False)
    loc, scale = line.globals.guide.loc.detach(), line.globals.guide.log_scale.detach().exp()
    for k, name in enumerate(("intercept", "slope")):
        drawn = tree["posterior"][name].values.ravel()
        assert abs(drawn.mean() - loc[k]) < 4 * scale[k] / np.sqrt(400)
        assert abs(drawn.std() / scale[k] - 1) < 4 / np.sqrt(800)
    assert "posterior_predictive" not in tree.children


@pytest.mark.parametrize("explicit", [False, True])
def test_new_rows_have_the_moments_of_the_mixture(explicit: bool) -> None:
    """Of *each* row: a component that stayed with its row would give it the moments of that component."""
    point = {"weights": [0.3, 0.7], "loc": [[-2.0, 1.0], [3.0, 0.0]], "scale": [[0.5, 1.0], [1.0, 0.25]]}
    model = user_models.FlatMixture(2, 2) if explicit else lv.models.GaussianMixture(2, 2, "diag")
    fit = lv.from_point(model, two_groups(4), point)
    drawn = fit.to_datatree(4_000)["posterior_predictive/x"].values[0]
    assert drawn.shape == (4_000, 4, 2)
    weights, loc, scale = (np.array(point[name]) for name in ("weights", "loc", "scale"))
    mean = weights @ loc
    variance = weights @ (scale**2 + loc**2) - mean**2
    error = np.sqrt(variance / 4_000)
    assert (np.abs(drawn.mean(0) - mean) < 4.5 * error).all()
    np.testing.assert_allclose(drawn.var(0), np.broadcast_to(variance, (4, 2)), rtol=0.12)
    centred = drawn - mean
    covariance = (weights[:, None] * loc).T @ loc - np.outer(mean, mean)
    found = (centred[:, :, 0] * centred[:, :, 1]).mean(0)
    np.testing.assert_allclose(found, covariance[0, 1], atol=0.25)
    assert abs(np.corrcoef(centred[:, 0, 0], centred[:, 1, 0])[0, 1]) < 0.07  # rows are independent


def test_new_rows_at_draws_follow_their_own_draw(line: lv.Fit) -> None:
    tree = line.to_datatree(150)
    loc = tree["posterior/intercept"] + tree["posterior/slope"] * tree["constant_data/t"]
    standardised = ((tree["posterior_predictive/y"] - loc) / tree["posterior/sigma"]).values.ravel()
    assert stats.kstest(standardised, "norm").pvalue > 1e-3
    assert abs(standardised.std() - 1) < 4 / np.sqrt(2 * standardised.size)


def test_fewer_predictions_keep_the_numbers_of_their_draws(line: lv.Fit) -> None:
    tree = line.to_datatree(40, predictive=4)
    assert list(tree["posterior_predictive"].draw.values) == [0, 10, 20, 30]
    assert tree["log_likelihood"].sizes["draw"] == 40


def test_predictions_of_many_rows_are_fewer(line: lv.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datatree, "PREDICTED_NUMBERS", 40 * 6)
    assert line.to_datatree(12)["posterior_predictive"].sizes["draw"] == 6
    assert line.to_datatree(12, predictive=12)["posterior_predictive"].sizes["draw"] == 12


def test_rows_in_batches_stay_in_their_places(line: lv.Fit, at_point: lv.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = line.to_datatree(60)
    monkeypatch.setattr("latentvars.rows.rows.READ_ROWS", 7)
    tree = line.to_datatree(60)
    xr.testing.assert_allclose(tree["log_likelihood"].dataset, whole["log_likelihood"].dataset)
    xr.testing.assert_allclose(tree["sample_stats"].dataset, whole["sample_stats"].dataset)
    xr.testing.assert_identical(tree["observed_data"].dataset, whole["observed_data"].dataset)
    loc = tree["posterior/intercept"] + tree["posterior/slope"] * tree["constant_data/t"]
    assert abs(((tree["posterior_predictive/y"] - loc) / tree["posterior/sigma"]).values.std() - 1) < 0.08
    monkeypatch.undo()
    monkeypatch.setattr(observations, "DRAWN_AT_ONCE", 500)
    drawn = at_point.to_datatree(100)["posterior_predictive/x"]
    assert drawn.shape == (1, 100, 60, 2) and len(np.unique(drawn.values)) == drawn.size


def test_sequences_end_where_they_end() -> None:
    counts = np.random.default_rng(2).poisson(6.0, size=30)
    rows = lv.Rows(counts, lengths=[12, 8, 10], names=["a", "b", "c"])
    fit = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), rows, lv.EM(passes=20), progress=False)
    tree = fit.to_datatree(300)
    ended = np.arange(12) >= np.array([12, 8, 10])[:, None]
    for name in ("observed_data/x", "posterior_predictive/x", "latent_mean/z"):
        missing = np.isnan(tree[name].values)
        missing = missing.any(-1) if name == "latent_mean/z" else missing
        assert (missing == ended).all(), name
    assert tree["latent_mean/z"].dims == ("row", "step", "state")
    assert tree["posterior_predictive/x"].dims == ("chain", "draw", "row", "step")
    np.testing.assert_array_equal(tree["constant_data/lengths"], [12, 8, 10])
    np.testing.assert_array_equal(tree["observed_data/x"].sel(row="b")[:8], counts[12:20])
    first = fit.point["initial"] @ fit.point["rate"][:, 0]
    drawn = tree["posterior_predictive/x"][0, :, :, 0].values
    assert abs(drawn.mean() - float(first)) < 5 * drawn.std() / np.sqrt(drawn.size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(tree["log_likelihood/x"].values).all()


def test_loo_of_a_normal_mean_is_the_exact_one() -> None:
    x = np.random.default_rng(3).normal(1.0, 1.0, size=25)
    fit = lv.fit(KnownScale(), x, lv.SVI(passes=1), progress=False)
    precision = len(x) + 0.01
    with torch.no_grad():  # the guide becomes the exact posterior
        fit.globals.guide.loc.fill_(x.sum() / precision)
        fit.globals.guide.log_scale.fill_(-0.5 * np.log(precision))
    tree = fit.to_datatree(1_200, predictive=False)
    others = precision - 1
    exact = stats.norm((x.sum() - x) / others, np.sqrt(1 + 1 / others)).logpdf(x)
    found = arviz_stats.loo(tree, pointwise=True)
    np.testing.assert_allclose(found.elpd_i.values, exact, atol=0.05)
    assert abs(found.elpd - exact.sum()) < 0.1
    full = stats.norm(x.sum() / precision, np.sqrt(1 + 1 / precision)).logpdf(x).sum()
    assert full - exact.sum() > 0.5  # leaving nothing out differs by five times the tolerance


def test_the_order_of_the_components_does_not_change_loo(in_draws: lv.Fit) -> None:
    other = dataclasses.replace(in_draws, globals=Relabelled(in_draws.globals, (1, 0)))
    one, two = in_draws.to_datatree(100, predictive=False), other.to_datatree(100, predictive=False)
    assert not np.allclose(one["posterior/loc"], two["posterior/loc"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = arviz_stats.loo(one, pointwise=True), arviz_stats.loo(two, pointwise=True)
    np.testing.assert_allclose(first.elpd_i, second.elpd_i, atol=1e-9)


def test_functions_of_arviz_run(in_draws: lv.Fit, line: lv.Fit) -> None:
    for fit in (in_draws, line):
        tree = fit.to_datatree(100, predictive=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(arviz_stats.summary(tree)) == sum(v[0, 0].size for v in tree["posterior"].data_vars.values())
            assert np.isfinite(arviz_stats.loo(tree).elpd)
            assert len(arviz_stats.compare({"one": tree, "two": tree})) == 2


@pytest.mark.parametrize("name", ["plot_dist", "plot_trace", "plot_trace_dist", "plot_forest", "plot_ppc_dist"])
def test_plots_of_arviz_run(line: lv.Fit, tmp_path: Path, name: str) -> None:
    getattr(arviz_plots, name)(
        line.to_datatree(100, predictive=100 if "ppc" in name else 0), backend="matplotlib"
    ).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1_000
    matplotlib.pyplot.close("all")


def test_predictive_plot_of_a_point(at_point: lv.Fit, tmp_path: Path) -> None:
    arviz_plots.plot_ppc_dist(at_point.to_datatree(50), backend="matplotlib").savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1_000
    matplotlib.pyplot.close("all")


def test_netcdf_gives_the_same_tree(line: lv.Fit, at_point: lv.Fit, tmp_path: Path) -> None:
    for k, fit in enumerate((line, at_point)):
        tree = fit.to_datatree(10)
        tree.to_netcdf(tmp_path / f"{k}.nc", engine="h5netcdf")
        with xr.open_datatree(tmp_path / f"{k}.nc", engine="h5netcdf") as read:
            xr.testing.assert_identical(read.load(), tree)


def test_provenance(line: lv.Fit) -> None:
    attributes = line.to_datatree(2, seed=9).attrs
    assert attributes["created_by"] == "latentvars"
    assert attributes["model"] == "user_models.Regression"
    assert attributes["algorithm"].startswith("SVI(passes=100") and " at 0x" not in attributes["algorithm"]
    assert attributes["data_digest"] == f"sha256:{line.rows.digest()}"
    assert (attributes["seed"], attributes["seed_of_draws"], attributes["rows"]) == (str(line.seed), "9", 40)
    assert attributes["torch_version"] == torch.__version__ and attributes["pyro_version"] == pyro.__version__
    assert attributes["status"].startswith(line.status.name)


def test_the_seed_decides_and_torch_is_left_alone(line: lv.Fit, at_point: lv.Fit) -> None:
    before = torch.get_rng_state()
    for fit in (line, at_point):
        one, again, other = fit.to_datatree(5, seed=1), fit.to_datatree(5, seed=1), fit.to_datatree(5, seed=2)
        xr.testing.assert_identical(one, again)
        site = next(iter(one["posterior_predictive"].data_vars))
        assert not np.allclose(one["posterior_predictive"][site], other["posterior_predictive"][site])
    assert torch.equal(before, torch.get_rng_state())


def test_summary_of_draws(line: lv.Fit) -> None:
    table, tree = line.summary(500, interval="hdi", probability=0.5), line.to_datatree(500, predictive=False)
    assert list(table.index) == ["intercept", "slope", "sigma"]
    drawn = tree["posterior/slope"].values
    np.testing.assert_allclose(table.loc["slope", ["mean", "sd"]].astype(float), [drawn.mean(), drawn.std()], rtol=2e-3)
    low, high = table.loc["slope"].filter(like="hdi50").astype(float)
    assert abs(((drawn > low) & (drawn < high)).mean() - 0.5) < 0.02


def test_summary_of_a_point(at_point: lv.Fit) -> None:
    estimates = at_point.summary()["estimate"]
    assert len(estimates) == 2 + 4 + 8
    assert estimates["loc[1, width]"] == float(at_point.point["loc"][1, 1])
    assert estimates["covariance[0, height, width]"] == float(at_point.point["covariance"][0, 0, 1])


def test_networks_without_globals() -> None:
    x = (np.random.default_rng(1).random((20, 5)) < 0.4).astype(float)
    fit = lv.fit(lv.models.VAE.mlp(5, 2, (4,)), x, lv.SVI(passes=3), progress=False)
    tree = fit.to_datatree(30)
    assert len(fit.summary()) == 0 and "point_estimate" not in tree.children
    assert tree["latent_mean/z"].dims == ("row", "latent")
    assert "lower bound" in tree["log_likelihood"].attrs["log_likelihood"]
    assert set(np.unique(tree["posterior_predictive/x"])) == {0.0, 1.0}


def test_no_draws_is_an_error(line: lv.Fit) -> None:
    with pytest.raises(SettingError, match="at least one draw"):
        line.to_datatree(0)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (range(3), "i"),
        ((3, 1), "i"),
        ((0.5, 1.0), "f"),
        (("a", "b"), "U"),
        ((1, "a"), "U"),
        ((("a", 1), ("b", 2)), "U"),
        ((True, False), "U"),
        ((None, 1.0), "U"),
        (tuple(pd.date_range("2020-01-01", periods=2)), "M"),
        (tuple(pd.date_range("2020-01-01", periods=2, tz="UTC")), "U"),
    ],
)
def test_labels_that_netcdf_can_hold(names: tuple, kind: str) -> None:
    labels = row_labels(names)
    assert labels.dtype.kind == kind and labels.shape == (len(names),)


class Pair:
    """Two normals under proper priors, a discrete local; ``collapsed`` or drawn."""

    def __init__(self, collapsed: bool) -> None:
        self.collapsed = collapsed

    def model(self, rows: lv.Batch) -> None:
        one = torch.ones((), dtype=torch.float64)
        weights = pyro.sample("weights", dist.Dirichlet(2 * one.expand(2)))
        loc = pyro.sample("loc", dist.Normal(0 * one, 3 * one).expand([2]).to_event(1))
        with rows.plate():
            if self.collapsed:
                pyro.sample("x", Mixture(weights, dist.Normal(loc, one)), obs=rows.x)
            else:
                z = pyro.sample("z", dist.Categorical(weights))
                pyro.sample("x", dist.Normal(loc[z], one), obs=rows.x)


X = np.array([-2.1, -1.8, -0.1, 0.4, 1.9, 2.5])
AT = {"weights": [0.4, 0.6], "loc": [-2.0, 2.0]}


@pytest.mark.parametrize("collapsed", [False, True])
def test_conditional_log_likelihoods_are_those_given_the_locals(collapsed: bool) -> None:
    fit = lv.from_point(Pair(collapsed), X, AT)
    found = fit.to_datatree(predictive=False, conditional=True)["log_likelihood_conditional"]["x"]
    assert found.dims == ("chain", "draw", "row") and found.shape == (1, 1, 6)
    given = stats.norm.logpdf(X[:, None], [-2.0, 2.0], 1.0)
    gap = np.abs(found.values[0, 0][:, None] - given)
    assert (gap.min(1) < 1e-9).all(), "each is the density of one of the components"
    assert (gap.argmin(1)[[0, 1, 4, 5]] == [0, 0, 1, 1]).all()


def test_prior_groups_are_drawn_from_the_priors() -> None:
    fit = lv.from_point(Pair(False), X, AT)
    tree = fit.to_datatree(predictive=False, prior=600)
    loc, x = tree["prior"]["loc"].values, tree["prior_predictive"]["x"].values
    assert loc.shape == (1, 600, 2) and x.shape == (1, 600, 6)
    assert loc.std() == pytest.approx(3.0, rel=0.08) and x.std() == pytest.approx(
        np.sqrt(10.0), rel=0.08
    )  # errors: 2 %
    assert stats.kstest(tree["prior"]["weights"].values[0, :, 0], stats.beta(2, 2).cdf).pvalue > 0.01
    with pytest.raises(ModelError, match="flat priors"):
        lv.fit(lv.models.GaussianMixture(2), X[:, None], lv.EM(passes=2)).to_datatree(prior=10)


def test_draws_of_locals_are_made_when_they_are_read() -> None:
    fit = lv.from_point(Pair(False), np.random.default_rng(0).normal(size=3_000), AT)
    z = fit.to_datatree(draws=5, predictive=False, latents="draws")["latent_draws"]["z"]
    assert z.shape == (1, 5, 3000) and not z._in_memory
    some = z[0, 3, 1020:1030].values
    np.testing.assert_array_equal(some, z[0, 3].values[1020:1030])
    np.testing.assert_array_equal(z[0, [1, 3], [2, 2500]].values, z.values[0][[1, 3]][:, [2, 2500]])
    chance = fit.latent().mean("z")[:, 1].mean()
    assert float(z.mean()) == pytest.approx(float(chance), abs=0.02)


def test_unconstrained_draws_stand_beside_the_constrained_ones() -> None:
    fit = lv.fit(Pair(False), X, lv.SVI(passes=20), start={"loc": torch.tensor([-2.0, 2.0])})
    tree = fit.to_datatree(draws=10, predictive=False)
    free, weights = tree["unconstrained_posterior"]["weights"].values, tree["posterior"]["weights"].values
    assert free.shape == (1, 10, 1)
    np.testing.assert_allclose(1 / (1 + np.exp(-free[..., 0])), weights[..., 0], rtol=1e-6)


def test_one_component_has_nothing_unconstrained_of_its_weight() -> None:
    fit = lv.fit(lv.models.GaussianMixture(1), X[:, None], lv.SVI(passes=5))
    tree = fit.to_datatree(draws=4, predictive=False)
    assert tree["unconstrained_posterior"]["weights"].shape == (1, 4, 0)
    assert tree["posterior"]["weights"].shape == (1, 4, 1)


class Shifted:
    """x ~ N(mu + 10 c, 1), c ~ Bernoulli(1/2): a discrete global."""

    def model(self, rows: lv.Batch) -> None:
        one = torch.ones((), dtype=torch.float64)
        c = pyro.sample("c", dist.Bernoulli(0.5 * one))
        mu = pyro.sample("mu", dist.Normal(0 * one, one))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu + 10 * c, one), obs=rows.x)


def test_discrete_globals_are_drawn_from_their_priors_too() -> None:
    fit = lv.fit(Shifted(), np.full(5, 10.0), lv.EM())
    low = fit.to_datatree(predictive=False, prior=300)["prior_predictive"]["x"].values.mean(-1) < 5
    assert 0.4 < low.mean() < 0.6
