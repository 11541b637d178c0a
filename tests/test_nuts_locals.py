"""NUTS over continuous locals: closed forms, discrete locals beside them, files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import latentvars as lv
from latentvars.errors import SupportError
from latentvars.inference.sampling import Draws

pytest.importorskip("nutpie")

ZERO, ONE = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)


class Effects:
    """y_n ~ N(mu + z_n, 1), z_n ~ N(0, 1), mu ~ N(0, 10): everything is normal. No guide."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(ZERO, 10 * ONE))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
            pyro.sample("y", dist.Normal(mu + z, ONE), obs=rows["y"])

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"z": ("row",)}


Y = np.array([-1.2, 0.3, 2.5, 4.0, 0.1, 1.9])


def exact() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (mu, z) given y."""
    size = len(Y)
    design = np.column_stack([np.ones(size), np.eye(size)])
    precision = design.T @ design + np.diag([0.01, *np.ones(size)])
    covariance = np.linalg.inv(precision)
    return covariance @ design.T @ Y, covariance


@pytest.fixture(scope="module")
def effects() -> lv.Fit:
    return lv.fit(Effects(), {"y": Y}, lv.NUTS(draws=1000, tune=500, chains=2), seed=1, progress=False)


def test_globals_and_locals_have_their_joint_posterior(effects: lv.Fit) -> None:
    mean, covariance = exact()
    drawn = effects.draw_latents(draws=2000)["z"].numpy()
    assert isinstance(effects.globals, Draws)
    mu = effects.globals.values["mu"].flatten().numpy()
    both = np.column_stack([mu, drawn])
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(both.mean(0), mean, atol=0.12 * spread.max())
    np.testing.assert_allclose(np.cov(both.T), covariance, atol=0.12)
    assert effects.status is lv.Status.DRAWN
    assert float(effects.summary().loc["mu", "r_hat"]) < 1.02


def test_beliefs_are_those_of_the_draws(effects: lv.Fit) -> None:
    mean, covariance = exact()
    latent = effects.latent()
    np.testing.assert_allclose(latent.mean("z").numpy(), mean[1:], atol=0.1)
    np.testing.assert_allclose(latent.std("z").numpy(), np.sqrt(np.diag(covariance))[1:], rtol=0.1)
    assert not effects.exact
    with pytest.raises(SupportError, match="were not drawn"):
        effects.latent({"y": Y + 1.0})


def test_the_tree_has_the_locals(effects: lv.Fit) -> None:
    tree = effects.to_datatree(draws=100, latents="draws", predictive=False)
    z = tree["latent_draws"]["z"]
    assert z.dims == ("chain", "draw", "row") and z.shape == (2, 50, 6)
    np.testing.assert_array_equal(z.values.reshape(100, 6), effects.draw_latents(draws=100)["z"].numpy())


def test_saved_and_loaded(effects: lv.Fit, tmp_path: Path) -> None:
    effects.save(tmp_path / "fit", datatree=False)
    again = lv.load(tmp_path / "fit", model=Effects())
    torch.testing.assert_close(again.draw_latents(draws=50)["z"], effects.draw_latents(draws=50)["z"], rtol=0, atol=0)
    torch.testing.assert_close(again.latent().mean("z"), effects.latent().mean("z"), rtol=0, atol=0)
    assert again.log_likelihood == effects.log_likelihood


class Both:
    """A group and a continuous effect in each row: x_n ~ N(1.5 g_n + z_n, 1), z_n ~ N(0, 1)."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(2 * torch.ones(2, dtype=torch.float64)))
        with rows.plate():
            g = pyro.sample("g", dist.Categorical(weights))
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
            pyro.sample("x", dist.Normal(1.5 * g + z, ONE), obs=rows["x"])


def test_discrete_locals_beside_continuous_ones() -> None:
    x = np.array([0.1, 2.9, -0.6, 2.2, 1.4])
    fit = lv.fit(Both(), {"x": x}, lv.NUTS(draws=400, tune=200, chains=2), seed=2, progress=False)
    drawn = fit.draw_latents(draws=800)  # errors: 0.018 of a share, 0.03 of z, 0.01 of a weight
    likelihood = stats.norm.pdf(x, np.array([[0.0], [1.5]]), np.sqrt(2.0))
    share = np.linspace(0.0005, 0.9995, 2000)
    density = share * (1 - share) * np.prod(np.outer(share, likelihood[1]) + np.outer(1 - share, likelihood[0]), 1)
    chance = np.outer(share, likelihood[1]) / (np.outer(share, likelihood[1]) + np.outer(1 - share, likelihood[0]))
    expected = (density[:, None] * chance).sum(0) / density.sum()
    np.testing.assert_allclose(drawn["g"].double().mean(0).numpy(), expected, atol=0.07)
    assert float(fit.point["weights"][1]) == pytest.approx((density * share).sum() / density.sum(), abs=0.04)
    given = np.stack([x / 2, (x - 1.5) / 2])
    both = expected * given[1] + (1 - expected) * given[0]
    np.testing.assert_allclose(drawn["z"].mean(0).numpy(), both, atol=0.12)


def test_what_is_refused() -> None:
    rows = lv.Rows({"y": Y}, weights=np.arange(1.0, 7.0))
    with pytest.raises(SupportError, match="weights"):
        lv.fit(Effects(), rows, lv.NUTS(draws=10, tune=10, chains=1), progress=False)

    class Bounded:
        """z_n below a global."""

        def model(self, rows: lv.Batch) -> None:
            top = pyro.sample("top", dist.LogNormal(ZERO, ONE))
            with rows.plate():
                z = pyro.sample("z", dist.Uniform(ZERO, top))
                pyro.sample("y", dist.Normal(z, ONE), obs=rows["y"])

    with pytest.raises(SupportError, match="bounds depend"):
        lv.fit(Bounded(), {"y": Y}, lv.NUTS(draws=10, tune=10, chains=1), progress=False)


def test_readouts_use_the_locals_that_were_drawn(effects: lv.Fit) -> None:
    assert isinstance(effects.globals, Draws)
    mu = effects.globals.values["mu"][:, ::10].flatten().numpy()
    z = effects.globals.locals["z"][:, ::10].flatten(0, 1).numpy()
    found = lv.contrast(effects, lambda sites: sites["mu"] + sites["z"].mean(), latents=True, draws=200)
    np.testing.assert_allclose(next(iter(found.draws.values())).numpy(), mu + z.mean(1), atol=1e-12)
    tree = effects.to_datatree(200, predictive=False, latents=False, conditional=True)
    expected = stats.norm.logpdf(Y, mu[:, None] + z, 1.0)
    np.testing.assert_allclose(tree["log_likelihood_conditional"]["y"].values.reshape(200, 6), expected, atol=1e-9)
    joint = expected.sum(1) + stats.norm.logpdf(z).sum(1) + stats.norm.logpdf(mu, 0, 10)
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values.flatten(), joint, atol=1e-6)


def test_rows_of_the_fit_are_known_by_what_they_hold(effects: lv.Fit) -> None:
    whole = effects.latent().mean("z")
    some = effects.latent(effects.rows.subset(torch.tensor([4, 1])))
    torch.testing.assert_close(some.mean("z"), whole[[4, 1]])


def test_missing_entries_beside_locals() -> None:
    y = np.column_stack([Y, Y + 0.3])
    y[2, 1] = np.nan

    class Twice:
        """Two observations of each effect."""

        def model(self, rows: lv.Batch) -> None:
            mu = pyro.sample("mu", dist.Normal(ZERO, 10 * ONE))
            with rows.plate():
                z = pyro.sample("z", dist.Normal(ZERO, ONE))
                pyro.sample("y", dist.Normal((mu + z)[:, None].expand(-1, 2), ONE).to_event(1), obs=rows["y"])

    with pytest.warns(UserWarning, match="entries are missing"):
        fit = lv.fit(Twice(), {"y": y}, lv.NUTS(draws=60, tune=100, chains=1), progress=False)
    assert fit.latent().mean("z").shape == (6,)
