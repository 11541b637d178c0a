"""Guides that are made for continuous locals: exact posteriors, supports, gaps, dependence, storage, refusals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided_models import lognormal_counts, of_counts, of_normal, one_factor
from scipy import stats
from torch import Tensor, nn
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import KindError, ModelError, SettingError, ShapeError, SupportError
from latentvars.randomness import derive

FLOAT = torch.float64


class Factors:
    """z ~ N(0, I), x ~ N(z W, noise²): probabilistic PCA, without a guide."""

    def __init__(self, features: int, latents: int) -> None:
        self.features, self.latents = features, latents

    def model(self, rows: lv.Batch) -> None:
        loadings = pyro.sample("loadings", lv.flat((self.latents, self.features)))
        noise = pyro.sample("noise", lv.flat((), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latents), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, noise).to_event(1), obs=rows.x)


class LognormalCounts:
    """x ~ Poisson(exp(z)), z ~ Normal(mu, sigma)."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", lv.flat(()))
        sigma = pyro.sample("sigma", lv.flat((), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(mu, sigma))
            pyro.sample("x", dist.Poisson(z.exp()), obs=rows.x)


class Chained:
    """a ~ N(0, 1), b ~ N(a, 0.5), x ~ N(a + b + shift, 0.3): a and b depend on one another given x."""

    def model(self, rows: lv.Batch) -> None:
        shift = pyro.sample("shift", lv.flat(()))
        with rows.plate():
            a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 0.5))
            pyro.sample("x", dist.Normal(a + b + shift, 0.3), obs=rows.x)


class Supports:
    """A gamma rate, a probability and shares of a row, each with a conjugate posterior; a network for a number."""

    def __init__(self) -> None:
        self.shift = nn.Linear(1, 1, dtype=FLOAT)

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            rate = pyro.sample("rate", dist.Gamma(torch.full((), 2.0), 1.0))
            chance = pyro.sample("chance", dist.Beta(torch.full((), 2.0), 2.0))
            shares = pyro.sample("shares", dist.Dirichlet(torch.full((3,), 1.5)))
            pyro.sample("count", dist.Poisson(rate), obs=rows["count"])
            pyro.sample("wins", dist.Binomial(10, chance), obs=rows["wins"])
            pyro.sample("parts", dist.Multinomial(12, shares, validate_args=False), obs=rows["parts"])


def supports(size: int = 150) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(2)
    return {
        "count": noise.poisson(noise.gamma(2.0, 1.0, size)).astype(float),
        "wins": noise.binomial(10, noise.beta(2, 2, size)).astype(float),
        "parts": np.stack([noise.multinomial(12, one) for one in noise.dirichlet([1.5] * 3, size)]).astype(float),
    }


def falling(steps: int) -> Any:
    return partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.03 ** (1 / steps))


def trained(passes: int = 600, particles: int = 2, rate: float = 0.02, **settings: Any) -> lv.SVI:
    return lv.SVI(
        passes=passes,
        particles=particles,
        guide=lv.Delta(),
        optimizer=partial(torch.optim.Adam, lr=rate),
        schedule=falling(passes),
        stop=lv.Never(),
        **settings,
    )


def bound(fit: lv.Fit, draws: int = 40) -> Tensor:
    """The ELBO of each row, averaged over draws."""
    batch = fit.rows.batch(dtype=fit.program.dtype)
    with torch.no_grad():
        return torch.stack([fit.program.score(fit.point, batch, derive(9, k)).rows for k in range(draws)]).mean(0)


@pytest.fixture(scope="module")
def pca() -> lv.Fit:
    return lv.fit(Factors(3, 2), planes(), trained(), guide="auto", progress=False)


def planes(size: int = 200) -> np.ndarray:
    noise = np.random.default_rng(7)
    loadings = np.array([[1.5, 1.0, -0.8], [0.2, 0.9, 1.1]])
    x = noise.normal(size=(size, 2)) @ loadings + 0.5 * noise.normal(size=(size, 3))
    return 40 * (x - x.mean(0))  # units in which no first guess of a network is right


def moments_of(fit: lv.Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of x, and the linear map and covariance of the exact posterior of z."""
    loadings, noise = fit.point["loadings"].numpy(), float(fit.point["noise"])
    precision = np.eye(len(loadings)) + loadings @ loadings.T / noise**2
    covariance = loadings.T @ loadings + noise**2 * np.eye(loadings.shape[1])
    return covariance, np.linalg.solve(precision, loadings) / noise**2, np.linalg.inv(precision)


def test_probabilistic_pca_is_met_exactly(pca: lv.Fit) -> None:
    """ELBO and marginal likelihood are one, beliefs the closed form, off-diagonal entries included."""
    covariance, line, spread = moments_of(pca)
    x = pca.rows["x"].numpy()
    exact = stats.multivariate_normal(np.zeros(3), covariance).logpdf(x)
    gap = exact - bound(pca).numpy()
    assert abs(gap.mean()) < 0.01
    assert not pca.exact
    latent = pca.latent()
    np.testing.assert_allclose(latent.mean("z"), x @ line.T, atol=0.1)
    found: Any = latent.belief("z")
    np.testing.assert_allclose(found.covariance_matrix.mean(0), spread, atol=0.02)


def test_other_rows_and_embeddings_are_read_by_the_network(pca: lv.Fit) -> None:
    other = planes(30)[:20] * 1.1
    _, line, _ = moments_of(pca)
    np.testing.assert_allclose(pca.latent(other).mean("z"), other @ line.T, atol=0.15)
    vectors = lv.Embedding(pca).transform(other)
    np.testing.assert_array_equal(lv.Embedding(pca).transform(other[3:5]), vectors[3:5])
    np.testing.assert_allclose(vectors, pca.latent(other).mean("z"), atol=1e-6)


def test_a_fit_comes_back_from_disk(pca: lv.Fit, tmp_path: Path) -> None:
    """The model alone is passed; the network is made again, with its constants and weights."""
    back = lv.load(pca.save(tmp_path / "fit", datatree=False), model=Factors(3, 2))
    assert torch.equal(back.latent().mean("z"), pca.latent().mean("z"))
    assert torch.equal(back.score_rows(planes(9)), pca.score_rows(planes(9)))
    other = lv.Amortised().attached(Factors(3, 2), planes(30))
    given = lv.load(tmp_path / "fit", model=other)
    assert torch.equal(given.latent().mean("z"), pca.latent().mean("z"))
    with pytest.raises(ShapeError, match="weights are not those that were stored"):
        lv.load(tmp_path / "fit", model=lv.Amortised(hidden=(3,)).attached(Factors(3, 2), planes(30)))


def test_a_posterior_that_is_not_normal() -> None:
    """Within a few hundredths of a nat a row of quadrature."""
    counts = lognormal_counts().astype(int)
    fit = lv.fit(LognormalCounts(), counts, trained(), guide="auto", progress=False)
    exact = of_counts(counts, float(fit.point["mu"]), float(fit.point["sigma"]))
    gap = float(exact.mean() - bound(fit).mean())
    assert -0.005 < gap < 0.03


def chained(size: int = 120) -> np.ndarray:
    return 0.7 + np.random.default_rng(3).normal(size=size) * (1 + 1 + 2 + 0.25 + 0.09) ** 0.5


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_locals_that_depend_on_one_another(covariance: Any) -> None:
    """x = a + b + noise with cov(a, b) = 1: exact marginal, means, and the correlation of joint draws."""
    x = chained()
    guide = lv.Amortised(hidden=(16,), covariance=covariance)
    fit = lv.fit(Chained(), x, trained(600, rate=0.04), guide=guide, progress=False)
    prior = np.array([[1.0, 1.0], [1.0, 1.25]])
    both = np.ones(2)
    variance = both @ prior @ both + 0.09
    shift = float(fit.point["shift"])
    gap = float(stats.norm.logpdf(x, shift, variance**0.5).mean() - bound(fit).mean())
    posterior = prior - np.outer(prior @ both, prior @ both) / variance
    latent = fit.latent()
    for k, name in enumerate(("a", "b")):
        np.testing.assert_allclose(latent.mean(name), (prior @ both)[k] / variance * (x - shift), atol=0.15)
    drawn = fit.draw_latents(draws=400)
    away = [drawn[name] - latent.mean(name) for name in ("a", "b")]
    covaried = float((away[0] * away[1]).mean())
    if covariance == "diagonal":
        # the best independent normals: precisions of the posterior's own, at this cost (Bishop 2006, eq. 10.13)
        precision = np.linalg.inv(posterior)
        cost = 0.5 * (np.log(precision.diagonal()).sum() - np.linalg.slogdet(precision)[1])
        assert gap == pytest.approx(cost, abs=0.06)
        assert abs(covaried) < 0.01
        return
    assert abs(gap) < 0.06
    assert covaried == pytest.approx(posterior[0, 1], abs=0.02)
    for k, name in enumerate(("a", "b")):  # of one local alone, the other integrated out
        np.testing.assert_allclose(latent.std(name).mean(), posterior[k, k] ** 0.5, atol=0.03)
        np.testing.assert_allclose(away[k].std(), posterior[k, k] ** 0.5, atol=0.03)


def test_bounded_locals() -> None:
    """Conjugate posteriors of a rate, a probability and shares: means within a share of their deviations."""
    data = supports()
    fit = lv.fit(Supports(), data, trained(500), guide="auto", progress=False)
    latent = fit.latent()
    laws = {
        "rate": ((2 + data["count"]) / 2, (2 + data["count"]) ** 0.5 / 2),
        "chance": ((2 + data["wins"]) / 14, stats.beta(2 + data["wins"], 12 - data["wins"]).std()),
        "shares": ((1.5 + data["parts"]) / 16.5, 0.1),
    }
    for name, (mean, deviation) in laws.items():
        found = latent.mean(name).numpy()
        assert found.shape == mean.shape
        assert float(np.mean(abs(found - mean) / deviation)) < 0.12, name
    np.testing.assert_allclose(latent.std("chance"), laws["chance"][1], rtol=0.25)
    drawn = fit.draw_latents(draws=50)
    assert bool((drawn["rate"] > 0).all())
    assert bool(((drawn["chance"] > 0) & (drawn["chance"] < 1)).all())
    torch.testing.assert_close(drawn["shares"].sum(-1), torch.ones(50, 150, dtype=FLOAT))
    quantities = drawn["shares"].mean(0)  # the moments of a belief are those of its draws
    np.testing.assert_allclose(quantities, latent.mean("shares"), atol=0.08)


def test_missing_entries_are_told_apart() -> None:
    """The exact marginal of what is observed, whatever is not."""
    x = one_factor(150)
    x[np.random.default_rng(0).random(x.shape) < 0.25] = np.nan
    x[:3] = one_factor(3)
    fit = lv.fit(Factors(3, 1), x, trained(450), guide="auto", progress=False)
    covariance, _, _ = moments_of(fit)
    exact = np.zeros(len(x))
    for n, row in enumerate(x):
        at = ~np.isnan(row)
        if at.any():
            exact[n] = of_normal(row[at][None], covariance[np.ix_(at, at)])
    gap = float(exact.mean() - bound(fit).mean())
    assert -0.01 < gap < 0.06
    # nothing is known of z without entries; entries at their means, which a gap is read as too, say a lot
    hollow, centre = fit.latent(np.full((1, 3), np.nan)), fit.latent(np.nanmean(x, 0)[None])
    assert float(hollow.std("z")) > 2 * float(centre.std("z"))
    network: Any = fit.model.guide_network  # type: ignore[attr-defined]
    assert network.line.shape == (1, 6)  # three numbers and what is missing of them


def test_em_in_turns_with_the_guide() -> None:
    """Both kinds of EM end at the exact maximum (Tipping & Bishop)."""
    x = one_factor()
    values, _ = np.linalg.eigh(x.T @ x / len(x))
    noise = values[:-1].mean() ** 0.5
    steps = lv.GuideSteps(warmup=200, passes=5)
    for algorithm in (
        lv.VariationalEM(passes=450, guide_steps=steps, most_draws=60),
        lv.MonteCarloEM(passes=320, guide_steps=steps, most_draws=60),
    ):
        fit = lv.fit(Factors(3, 1), x, algorithm, guide="auto", progress=False)
        assert float(fit.point["noise"]) == pytest.approx(noise, rel=0.04)
        assert float(fit.point["loadings"].square().sum()) == pytest.approx(values[-1] - noise**2, rel=0.06)


def test_a_run_repeats_and_the_users_model_stays_as_it_is() -> None:
    model = Factors(3, 1)
    short = lv.SVI(passes=5)
    one, again = (lv.fit(model, one_factor(20), short, guide="auto", progress=False) for _ in range(2))
    assert torch.equal(one.point["loadings"], again.point["loadings"])
    assert torch.equal(one.latent().mean("z"), again.latent().mean("z"))
    assert not hasattr(model, "guide")
    resumed = lv.fit(model, one_factor(20), lv.SVI(passes=10), resume=one, progress=False)
    whole = lv.fit(model, one_factor(20), lv.SVI(passes=10), guide="auto", progress=False)
    assert torch.equal(resumed.latent().mean("z"), whole.latent().mean("z"))
    called = lv.Fitter(model, short, guide="auto")(one_factor(20))
    assert torch.equal(called.point["loadings"], one.point["loadings"])
    recorded = lv.fit(model, one_factor(20), lv.SVI(passes=5, capture=lv.Capture(wait=0, least=0)), guide="auto")
    assert torch.equal(recorded.point["loadings"], one.point["loadings"])
    assert "own code" not in str(recorded)


class Module(nn.Module):
    """A model that is itself a module, of single precision, with a plate in the way on request."""

    def __init__(self, plate: bool = False) -> None:
        super().__init__()
        self.plate, self.decoder = plate, nn.Linear(2, 3)

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            if self.plate:
                with pyro.plate("parts", 2, dim=-2):
                    z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0)).mT
            else:
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=rows.x)


class Guided(Factors):
    """With a guide of its own."""

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", dist.Normal(torch.zeros(len(rows), self.latents), 1.0).to_event(1))


class Slotted:
    """No attributes can be added."""

    __slots__ = ()

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=rows.x)


def test_a_module_keeps_its_precision() -> None:
    fit = lv.fit(Module(), one_factor(30), lv.SVI(passes=3), guide="auto", progress=False)
    assert fit.latent().mean("z").dtype == torch.float32
    assert fit.latent().mean("z").shape == (30, 2)


def test_a_model_without_continuous_locals_needs_none() -> None:
    model = lv.models.GaussianMixture(1, covariance="diag")
    fit = lv.fit(model, one_factor(30), lv.EM(), guide="auto")
    assert fit.exact


def test_what_cannot_be_done_is_said() -> None:
    x = one_factor(20)
    with pytest.raises(ModelError, match=r"have no guide[\s\S]*guide=\"auto\""):
        lv.fit(Factors(3, 1), x, lv.SVI())
    with pytest.raises(SettingError, match=r"guide of its own[\s\S]*leave guide= out"):
        lv.fit(Guided(3, 1), x, lv.SVI(), guide="auto")
    with pytest.raises(SupportError, match=r"rows that are sequences[\s\S]*write guide"):
        lv.fit(Factors(3, 1), lv.Rows(x, lengths=[10, 10]), lv.SVI(), guide="auto")
    with pytest.raises(SupportError, match=r"'z' in the plate 'parts'[\s\S]*to_event"):
        lv.fit(Module(plate=True), x, lv.SVI(), guide="auto")
    with pytest.raises(ModelError, match=r"Slotted cannot be given a guide"):
        lv.fit(Slotted(), x[:, 0], lv.SVI(), guide="auto")
    with pytest.raises(SettingError, match=r"guide='full'[\s\S]*lv\.Amortised"):
        lv.fit(Factors(3, 1), x, lv.SVI(), guide="full")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"guide='auto'[\s\S]*lv\.fit\(\.\.\., guide=\"auto\"\)"):
        lv.SVI(guide="auto")  # type: ignore[arg-type]
    for settings in ({"hidden": (0,)}, {"covariance": "none"}):
        with pytest.raises(SettingError, match=next(iter(settings))):
            lv.Amortised(**settings)  # type: ignore[arg-type]
    made = lv.fit(Factors(3, 1), x, lv.SVI(passes=1), guide="auto", progress=False)
    with pytest.raises(SettingError, match="guide= together with resume="):
        lv.fit(Factors(3, 1), x, lv.SVI(passes=2), resume=made, guide="auto")
    with pytest.raises(KindError, match="x is Rows already"):
        lv.Rows(lv.Rows(x))
