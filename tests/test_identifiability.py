"""What the data do not determine is named: directions, labels, dimensions."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import latentvars as lv


class Sum:
    """y ~ N(a + b, sigma): only the sum is known."""

    def __init__(self, proper: bool = False) -> None:
        self.proper = proper

    def model(self, rows: lv.Batch) -> None:
        one = torch.tensor(1.0, dtype=torch.float64)
        prior = dist.Normal(0 * one, one) if self.proper else lv.flat(())
        a, b = pyro.sample("a", prior), pyro.sample("b", prior)
        sigma = pyro.sample("sigma", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("y", dist.Normal(a + b, sigma), obs=rows["y"])


Y = {"y": np.random.default_rng(0).normal(size=50)}


@pytest.mark.parametrize("proper", [False, True])
def test_a_direction_is_named_whatever_the_prior(proper: bool) -> None:
    found = lv.identifiability(lv.from_point(Sum(proper), Y, {"a": 0.1, "b": -0.1, "sigma": 1.0}))
    assert found.rank == 2 and found.parameters == 3 and not found.identified
    (direction,) = found.flat
    assert set(direction.moves) == {"a", "b"}
    assert direction.moves["a"] == pytest.approx(-direction.moves["b"])
    assert "not identified" in str(found)


def test_a_regression_is_identified_unless_collinear() -> None:
    noise = np.random.default_rng(1)
    x = noise.normal(size=(60, 2))

    class Line:
        def model(self, rows: lv.Batch) -> None:
            beta = pyro.sample("beta", lv.flat((rows["x"].shape[1],)))
            with rows.plate():
                pyro.sample("y", dist.Normal(rows["x"] @ beta, torch.tensor(1.0).double()), obs=rows["y"])

    good = lv.identifiability(lv.from_point(Line(), {"x": x, "y": x[:, 0]}, {"beta": [0.5, 0.5]}))
    assert good.identified and good.rank == 2
    doubled = np.column_stack([x, x[:, 0] + 2 * x[:, 1]])
    found = lv.identifiability(lv.from_point(Line(), {"x": doubled, "y": x[:, 0]}, {"beta": [0.5, 0.5, 0.1]}))
    (direction,) = found.flat
    moves = np.array([direction.moves.get(f"beta[{k}]", 0.0) for k in range(3)])
    assert found.rank == 2
    np.testing.assert_allclose(np.abs(moves), [0.5, 1.0, 0.5], atol=1e-6)


def test_turns_of_factors_are_expected() -> None:
    noise = np.random.default_rng(2)
    x = noise.normal(size=(300, 3)) @ noise.normal(size=(3, 7)) + 0.5 * noise.normal(size=(300, 7))
    fit = lv.fit(lv.models.FactorAnalysis(3), x, lv.EM(stop=lv.Tolerance(1e-10)))
    found = lv.identifiability(fit)
    assert found.rank is not None and found.parameters - found.rank == 3
    assert [direction.known for direction in found.flat] == ["a turn of factors"] * 3
    assert found.identified


def test_unused_and_duplicate_components_are_named() -> None:
    noise = np.random.default_rng(3)
    x = np.concatenate([noise.normal(-4, 1, 50), noise.normal(4, 1, 50)])[:, None]
    point = {
        "weights": [0.25, 0.25, 0.5 - 1e-9, 1e-9],
        "loc": [[-4.0], [-4.0], [4.0], [90.0]],
        "scale": [[1.0], [1.0], [1.0], [1.0]],
    }
    found = lv.identifiability(lv.from_point(lv.models.GaussianMixture(4, covariance="diag"), x, point))
    assert found.unused == ("z[3]",)
    assert found.duplicates == (("z[0]", "z[1]"),)
    assert float(found.separation["z"][0, 2]) > 0.99
    assert "nothing tells them apart" in str(found)


def test_inactive_dimensions_of_a_vae() -> None:
    noise = np.random.default_rng(4)
    z = noise.normal(size=(400, 1))
    x = z @ noise.normal(size=(1, 6)) * 2 + 0.3 * noise.normal(size=(400, 6))
    model = lv.models.VAE.mlp(6, 4, hidden=(16,), likelihood="gaussian")
    fit = lv.fit(model, x, lv.SVI(passes=400, batch_size=400))
    found = lv.identifiability(fit)
    means = fit.latent().mean("z")
    torch.testing.assert_close(found.active["z"], means.var(0))
    belief = fit.latent().belief("z").base_dist
    closed = 0.5 * (belief.loc.square() + belief.scale.square() - 1) - belief.scale.log()
    torch.testing.assert_close(found.divergence["z"], closed.detach().mean(0))
    assert found.active_units["z"] + len(found.inactive) == 4
    assert 1 <= found.active_units["z"] < 4


def test_rows_of_no_weight_say_nothing_about_active_dimensions() -> None:
    noise = np.random.default_rng(5)
    x = noise.normal(size=(200, 3)) @ noise.normal(size=(3, 3))
    weights = np.where(np.arange(200) < 100, 1.0, 1e-9)
    fit = lv.fit(lv.models.FactorAnalysis(1), lv.Rows(x, weights=weights), lv.EM(passes=20))
    found = lv.identifiability(fit)
    expected = fit.latent().mean("z")[:100].var(0)
    torch.testing.assert_close(found.active["z"], expected, rtol=1e-5, atol=1e-8)


class OneNumber:
    """A positive scalar local of each row."""

    def model(self, rows: lv.Batch) -> None:
        one = torch.ones((), dtype=torch.float64)
        mu = pyro.sample("mu", dist.Normal(0 * one, one))
        with rows.plate():
            z = pyro.sample("z", dist.HalfNormal(one))
            pyro.sample("y", dist.Normal(mu + z, one), obs=rows["y"])


def test_a_scalar_local_has_one_dimension_and_no_closed_divergence() -> None:
    fit = lv.fit(OneNumber(), {"y": Y["y"]}, lv.SVI(passes=10), guide=lv.Amortised(covariance="diagonal"))
    found = lv.identifiability(fit)
    torch.testing.assert_close(found.active["z"], fit.latent().mean("z").var()[None])
    assert "z" not in found.divergence  # not normal
