"""Factor analysis against scikit-learn, and probabilistic principal components against their closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Reference

import latentvars as lv
from latentvars.distributions import FactorNormal
from latentvars.errors import MissingDataError, SettingError, ShapeError
from latentvars.inference.em.fixed_statistics import FixedStatistics
from latentvars.inference.running.algorithm import Problem
from latentvars.inference.running.binding import bind
from latentvars.inference.starting.values import starting_point

pytestmark = pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")


def data(rows: int = 400, features: int = 8, latents: int = 3, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed)
    loadings = noise.normal(size=(latents, features))
    own = noise.normal(size=(rows, features)) * noise.uniform(0.5, 2.0, features)
    return noise.normal(size=(rows, latents)) @ loadings + own + noise.normal(size=features)


def start_of(x: np.ndarray, latents: int) -> dict[str, np.ndarray]:
    """That of scikit-learn."""
    size = x.shape[1]
    return {"loc": x.mean(0), "scale": np.ones(size), "loadings": np.zeros((size, latents))}


@pytest.mark.parametrize("passes", [1, 7, 60])
def test_every_iteration_is_that_of_scikit_learn(passes: int) -> None:
    x = data()
    wanted = Reference(3, max_iter=passes, tol=0.0, svd_method="lapack").fit(x)
    em = lv.EM(passes=passes, stop=lv.Never(), variance_floor=0.0)
    fit = lv.fit(lv.models.FactorAnalysis(3), x, em, start=start_of(x, 3), progress=False)
    assert fit.log_likelihood / len(x) == pytest.approx(wanted.score(x), rel=1e-9)
    np.testing.assert_allclose(fit.point["scale"].square(), wanted.noise_variance_, rtol=1e-6)
    ours = fit.point["loadings"].numpy()
    np.testing.assert_allclose(ours @ ours.T, wanted.components_.T @ wanted.components_, rtol=1e-6, atol=1e-8)
    assert (np.diff(fit.history) > -1e-12).all()


def test_what_is_read_of_the_factors_is_theirs_too() -> None:
    x = data()
    wanted = Reference(3, max_iter=50, tol=0.0, svd_method="lapack").fit(x)
    em = lv.EM(passes=50, stop=lv.Never(), variance_floor=0.0)
    fit = lv.fit(lv.models.FactorAnalysis(3), x, em, start=start_of(x, 3), progress=False)
    assert fit.exact
    np.testing.assert_allclose(fit.latent().mean("z").abs(), np.abs(wanted.transform(x)), atol=1e-7)
    vectors = lv.Embedding(fit).fit_transform(x)
    np.testing.assert_allclose(vectors, fit.latent().mean("z"), atol=1e-6)
    white = fit.point["loadings"] / fit.point["scale"][:, None]
    precision = torch.eye(3, dtype=torch.float64) + white.mT @ white
    belief: Any = fit.latent(x[:5]).belief("z")
    torch.testing.assert_close(belief.covariance_matrix[0], torch.linalg.inv(precision))
    assert fit.free_parameters == 8 + 8 * 3 + 8 - 3


def test_equal_noise_is_the_closed_form_of_tipping_and_bishop() -> None:
    x = data(features=6, latents=2)
    fit = lv.fit(lv.models.FactorAnalysis(2, noise="spherical"), x, lv.EM(stop=lv.Tolerance(1e-13)), progress=False)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = values[:-2].mean()  # eq. 8
    axes = vectors[:, -2:] * np.sqrt(values[-2:] - noise)  # eq. 7
    assert float(fit.point["scale"]) ** 2 == pytest.approx(noise, rel=1e-6)
    ours = fit.point["loadings"].numpy()
    np.testing.assert_allclose(ours @ ours.T, axes @ axes.T, rtol=1e-5, atol=1e-7)
    covariance = axes @ axes.T + noise * np.eye(6)
    density = dist.MultivariateNormal(torch.from_numpy(x.mean(0)), torch.from_numpy(covariance))
    assert fit.log_likelihood == pytest.approx(float(density.log_prob(torch.from_numpy(x)).sum()), rel=1e-9)
    scikit = PCA(2).fit(x)  # of the covariance with N - 1
    assert noise * len(x) / (len(x) - 1) == pytest.approx(scikit.noise_variance_, rel=1e-9)


def test_loadings_that_are_known_stay() -> None:
    """Confirmatory factor analysis: the maximum with zeros is that of L-BFGS on the likelihood of the same normal."""
    x = data(500, 6, 2, seed=3)
    fixed = np.full((6, 2), np.nan)
    fixed[:3, 1] = fixed[3:, 0] = 0.0
    model = lv.models.FactorAnalysis(2)
    fit = lv.fit(model, x, lv.EM(passes=60, stop=lv.Tolerance(1e-8)), fixed={"loadings": fixed}, progress=False)
    assert (fit.point["loadings"].numpy()[~np.isnan(fixed)] == 0).all()
    free = lv.fit(model, x, lv.EM(passes=200), progress=False)
    assert fit.log_likelihood < free.log_likelihood and fit.free_parameters == 6 + 6 + 6
    slope = {name: value.clone().requires_grad_() for name, value in fit.point.items()}
    law = FactorNormal(slope["loc"], slope["loadings"], slope["scale"])
    law.log_prob(torch.from_numpy(x)).mean().backward()
    gradient = slope["loadings"].grad
    assert gradient is not None and float(gradient[torch.from_numpy(np.isnan(fixed))].abs().max()) < 1e-4


def test_weights_are_rows_that_stand_there_several_times() -> None:
    x, weights = data(60, 5, 1), np.arange(60) % 3
    model, em = lv.models.FactorAnalysis(1), lv.EM(passes=30, stop=lv.Never())
    one = lv.fit(model, lv.Rows(x, weights=weights), em, start=start_of(x, 1), progress=False)
    other = lv.fit(model, np.repeat(x, weights, axis=0), em, start=start_of(x, 1), progress=False)
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-10)
    torch.testing.assert_close(one.point["loadings"], other.point["loadings"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_the_distribution_is_the_normal_that_it_stands_for(shared: bool) -> None:
    noise = torch.Generator().manual_seed(0)
    loc, loadings = (torch.randn(*shape, generator=noise, dtype=torch.float64) for shape in ((3, 4), (3, 4, 2)))
    scale = torch.rand((3,) if shared else (3, 4), generator=noise, dtype=torch.float64) + 0.3
    own = FactorNormal(loc, loadings, None if shared else scale, scale if shared else None)
    wide = scale[:, None].expand(3, 4) if shared else scale
    covariance = loadings @ loadings.mT + torch.diag_embed(wide.square())
    normal = dist.MultivariateNormal(loc, covariance)
    x = torch.randn(5, 3, 4, generator=noise, dtype=torch.float64)
    torch.testing.assert_close(own.log_prob(x), normal.log_prob(x))
    torch.testing.assert_close(own.variance, normal.variance)
    gain = loadings.mT @ torch.linalg.inv(covariance)  # of the joint normal of z and x
    belief = own.posterior(x)
    torch.testing.assert_close(belief.mean, (gain @ (x - loc)[..., None])[..., 0])
    eye = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(belief.covariance_matrix, (eye - gain @ loadings).expand(5, 3, 2, 2))
    torch.manual_seed(1)
    drawn = own.expand((3,)).sample((20_000,))
    torch.testing.assert_close(torch.cov(drawn[:, 0].mT), covariance[0], rtol=0.1, atol=0.1)


# --- statistics once: a law of plans, not of a family ---------------------------------------------------------------


class Normals:
    """Two columns, each one normal law of all rows."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", lv.flat((), dist.constraints.positive))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, scale), obs=rows["x"])
            pyro.sample("k", dist.Poisson(rate), obs=rows["k"])


def test_any_model_of_sums_alone_reads_its_rows_once() -> None:
    noise = np.random.default_rng(0)
    rows = lv.Rows({"x": noise.normal(3.0, 2.0, 200), "k": noise.poisson(4.0, 200)})
    bound, program = bind(Normals(), rows)
    start = starting_point(program, bound, 0)
    state = lv.EM().init(Problem(program, bound, start, 0))
    assert isinstance(state.table, FixedStatistics)
    batch = bound.batch(dtype=program.dtype)
    first = state.table.expected(start, batch, with_prior=True)
    for factor in (1.0, 1.3):
        values = {name: factor * value for name, value in start.items()}
        found = state.table.expected(values, batch, with_prior=True)
        general = state.steps.expected(values, batch, with_prior=True)
        assert found.objective == pytest.approx(general.objective, rel=1e-12)
        assert found.statistics is first.statistics
    fit = lv.fit(Normals(), rows, progress=False)
    assert float(fit.point["rate"]) == pytest.approx((rows["k"].sum() + 1) / 201)  # posterior mode
    assert float(fit.point["scale"]) == pytest.approx(float(rows["x"].std(correction=0)), rel=1e-3)


@pytest.mark.parametrize("noise", ["diag", "spherical"])
@pytest.mark.parametrize("floor", [0.0, 0.4])
def test_a_step_in_one_go_is_that_of_the_rules_in_turn(noise: str, floor: float) -> None:
    bound, program = bind(lv.models.FactorAnalysis(2, noise=noise), lv.Rows(data(200, 6, 2)))
    em = lv.EM(variance_floor=floor)
    state = em.init(Problem(program, bound, starting_point(program, bound, 3), 0))
    assert state.closed is not None
    values, batch = dict(state.values), bound.batch(dtype=program.dtype)
    for _ in range(3):
        total = state.table.expected(values, batch, with_prior=False)
        wanted, found = state.steps.maximise(values, total), state.closed.one(values, total)
        assert found is not None and found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12)
        values = found


def test_the_likelihood_at_the_end_needs_no_look_at_the_rows(tmp_path: Path) -> None:
    """It is Σ w log p(x) of the rows, which are scored only when they are asked for; a stored fit knows it as well."""
    noise = np.random.default_rng(4)
    rows = lv.Rows(data(300) + 1e3, weights=noise.random(300))
    fit = lv.fit(lv.models.FactorAnalysis(2), rows, lv.EM(passes=9), progress=False)
    assert fit.scores is None
    assert fit.log_likelihood == pytest.approx(float((rows.weights * fit.row_log_likelihood).sum()), rel=1e-12)
    assert fit.log_likelihood > fit.history[-1] * float(rows.weights.sum())
    again = lv.load(fit.save(tmp_path / "fit"))
    assert again.log_likelihood == fit.log_likelihood
    torch.testing.assert_close(again.row_log_likelihood, fit.row_log_likelihood, rtol=0, atol=0)
    parts = lv.fit(lv.models.FactorAnalysis(2), rows, lv.EM(passes=9, batch_size=70), progress=False)
    assert parts.scores is not None
    assert parts.log_likelihood == pytest.approx(fit.log_likelihood, rel=1e-10)


def test_with_priors_the_rules_go_in_turn() -> None:
    model = lv.models.FactorAnalysis(1, priors={"loc": dist.Normal(torch.zeros(4), 1.0).to_event(1)})
    bound, program = bind(model, lv.Rows(data(60, 4, 1)))
    assert lv.EM().init(Problem(program, bound, starting_point(program, bound, 0), 0)).closed is None


def test_batches_are_kept_apart() -> None:
    x = data(50, 4, 1)
    model = lv.models.FactorAnalysis(1)
    whole, parts = (
        lv.fit(model, x, lv.EM(passes=20, stop=lv.Never(), batch_size=size), start=start_of(x, 1), progress=False)
        for size in (None, 17)
    )
    np.testing.assert_allclose(whole.history, parts.history, rtol=1e-11)


@pytest.mark.parametrize("name", ["gmm", "regression"])
def test_other_models_do_not(name: str) -> None:
    import user_models

    x = data(30, 2, 1)
    model, rows = {
        "gmm": (lv.models.GaussianMixture(2), x),
        "regression": (user_models.Regression(), lv.Rows({"y": x[:, 0], "t": x[:, 1]})),
    }[name]
    bound, program = bind(model, rows)
    start = starting_point(program, bound, 0)
    assert not isinstance(lv.EM().init(Problem(program, bound, start, 0)).table, FixedStatistics)


def test_what_cannot_be_is_said() -> None:
    x = data(20, 3, 1)
    with pytest.raises(ShapeError, match="fewer latents than features"):
        lv.fit(lv.models.FactorAnalysis(3), x)
    with pytest.raises(SettingError, match="noise='full'"):
        lv.models.FactorAnalysis(1, noise="full")
    x[:, 1] = math.nan
    with pytest.raises(MissingDataError, match="missing in all 20"):
        lv.fit(lv.models.FactorAnalysis(1), x)


@pytest.mark.parametrize("noise", ["diag", "spherical"])
def test_gaps_are_integrated_out(noise: str) -> None:
    """Against the marginals of the normal that it stands for, row by row; the fit is a maximum of their sum."""
    x = data(200, 5, 1, seed=1)
    x[np.random.default_rng(1).random(x.shape) < 0.3] = math.nan
    x[:3] = math.nan
    em = lv.EM(passes=300, stop=lv.Tolerance(1e-10), variance_floor=0.0)
    fit = lv.fit(lv.models.FactorAnalysis(1, noise=noise), x, em, progress=False)
    assert (np.diff(fit.history) > -1e-11).all()
    point = {name: value.clone().requires_grad_() for name, value in fit.point.items()}
    loadings, variance = point["loadings"], point["scale"].square().expand(5)
    covariance, total, beliefs = loadings @ loadings.T + torch.diag(variance), torch.zeros(()), fit.latent()
    for row, mean, sd in zip(torch.from_numpy(x), beliefs.mean("z"), beliefs.std("z"), strict=True):
        seen = (~row.isnan()).nonzero()[:, 0]
        if not len(seen):
            np.testing.assert_allclose(mean, 0, atol=1e-12)
            np.testing.assert_allclose(sd, 1)
            continue
        law = dist.MultivariateNormal(point["loc"][seen], covariance[seen][:, seen])
        total = total + law.log_prob(row[seen])
        gain = torch.linalg.solve(covariance[seen][:, seen], loadings[seen]).T.detach()
        np.testing.assert_allclose(mean, gain @ (row - fit.point["loc"])[seen], atol=1e-9)
        left = torch.eye(1) - gain @ fit.point["loadings"][seen]
        np.testing.assert_allclose(sd, left.diagonal().sqrt(), atol=1e-9)
    assert fit.log_likelihood == pytest.approx(total.item(), rel=1e-12)
    for slope in torch.autograd.grad(total, list(point.values())):
        np.testing.assert_allclose(slope, 0, atol=0.1)  # of some 14, the spread of a score
    filled = fit.impute()["x"]
    row, seen = torch.from_numpy(x[5]), ~torch.from_numpy(x[5]).isnan()
    given = torch.linalg.solve(covariance[seen][:, seen], (row - fit.point["loc"])[seen])
    expected = fit.point["loc"][~seen] + covariance[~seen][:, seen] @ given
    np.testing.assert_allclose(np.asarray(filled)[5][~seen.numpy()], expected.detach(), atol=1e-9)
    draws = np.asarray(fit.impute(draws=4_000)["x"])[:, 5][:, ~seen.numpy()]
    left = covariance[~seen][:, ~seen] - covariance[~seen][:, seen] @ torch.linalg.solve(
        covariance[seen][:, seen], covariance[seen][:, ~seen]
    )
    np.testing.assert_allclose(draws.mean(0), expected.detach(), atol=0.1)
    np.testing.assert_allclose(np.cov(draws.T).reshape(left.shape), left.detach(), atol=0.15)


def test_many_rows_with_loadings_of_their_own() -> None:
    """Rows are only scored block by block where they share one law."""
    noise = torch.Generator().manual_seed(0)
    loadings, x = torch.randn(1_500, 3, 2, generator=noise), torch.randn(1_500, 3, generator=noise)
    law = FactorNormal(torch.zeros(3), loadings, torch.ones(3))
    expected = dist.MultivariateNormal(torch.zeros(3), covariance_matrix=law.covariance).log_prob(x)
    torch.testing.assert_close(law.log_prob(x), expected, rtol=1e-4, atol=1e-4)
