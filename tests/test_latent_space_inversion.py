"""The posterior of a latent through a decoder: beside quadrature, closed forms and generators with two modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

import latentvars as lv
from latentvars.errors import KindError, SettingError, ShapeError, SupportError
from latentvars.latent_space.chains import together
from latentvars.latent_space.inversion import search
from latentvars.latent_space.variational import normals

FLOAT = torch.float64
GRID = np.linspace(-4, 4, 40_001)


class Square(nn.Module):
    """z ↦ z²: every x above zero has two pre-images."""

    def forward(self, z: Tensor) -> Tensor:
        return z.square()


class Fold(nn.Module):
    """(a, b) ↦ (|a| + b / 2, b): a network of ReLUs with two pre-images."""

    def forward(self, z: Tensor) -> Tensor:
        a, b = z[:, :1], z[:, 1:]
        return torch.cat([torch.relu(a) + torch.relu(-a) + b / 2, b], 1)


class Doubled:
    """x ~ Normal(log z · slope, .3), z ~ LogNormal(0, 1), and a coin c that shifts x by 3: a user's model."""

    def model(self, rows: lv.Batch) -> None:
        slope = pyro.sample("slope", dist.Normal(torch.tensor(1.0, dtype=FLOAT), 0.1))
        with rows.plate():
            z = pyro.sample("z", dist.LogNormal(torch.zeros((), dtype=FLOAT), 1.0))
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7], dtype=FLOAT)))
            pyro.sample("x", dist.Normal(slope * z.log() + 3.0 * c, 0.3), obs=rows.x)


def normal(loc: float = 0.0, size: int = 1) -> Any:
    return dist.Normal(torch.full((size,), loc, dtype=FLOAT), torch.ones(size, dtype=FLOAT)).to_event(1)


def quadrature(log_density: Any, grid: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities of the cells of a grid, and the log of the integral."""
    values = log_density(grid)
    top = values.max()
    shares = np.exp(values - top)
    return shares / shares.sum(), float(top + np.log(shares.sum() * (grid[1] - grid[0])))


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_a_generator_with_two_modes_is_inverted_at_both(shift: float) -> None:
    space = lv.LatentSpace.of_generator(Square(), normal(shift), noise=0.3)
    x = np.array([1.0, 2.0, 0.2])
    found = space.invert(x[:, None], draws=4_000, seed=1)
    grid = np.linspace(-4, 4, 40_001)
    for row, value in enumerate(x):
        shares, evidence = quadrature(
            lambda z, value=value: stats.norm.logpdf(value, z**2, 0.3) + stats.norm.logpdf(z, shift), grid
        )
        assert float(found.log_evidence[row]) == pytest.approx(evidence, abs=0.02)
        draws = found.draws[:, row, 0].numpy()
        upto = np.interp(draws, grid, shares.cumsum())
        assert stats.kstest(upto, "uniform").statistic < 0.03
    for row in (0, 1):
        modes = np.sort(found.modes[:, row, 0].numpy())[:2]
        assert modes[0] == pytest.approx(-np.sqrt(x[row]), abs=0.1) and modes[1] == pytest.approx(
            np.sqrt(x[row]), abs=0.1
        )
        shares, _ = quadrature(
            lambda z, value=x[row]: stats.norm.logpdf(value, z**2, 0.3) + stats.norm.logpdf(z, shift), grid
        )
        upper = found.masses[found.modes[:, row, 0] > 0, row].sum()
        assert float(upper) == pytest.approx(shares[grid > 0].sum(), abs=0.02)
    assert found.k_hat.max() < 0.7 and torch.allclose(found.masses.sum(0), torch.ones(3, dtype=FLOAT))
    assert torch.equal(space.invert(x[:, None], draws=4_000, seed=1).draws, found.draws)
    assert not torch.equal(space.invert(x[:, None], draws=4_000, seed=2).draws, found.draws)


def test_a_network_of_relus_is_inverted_at_both_modes() -> None:
    space = lv.LatentSpace.of_generator(Fold(), normal(0.0, 2), noise=0.1)
    found = space.invert([[1.0, 0.4], [1.5, -1.0]], draws=2_000)
    assert found.mode_count.tolist() == [2, 2]
    first = found.modes[:2, :, 0].sort(0).values
    expected = torch.tensor([0.8, 2.0], dtype=FLOAT)
    assert torch.allclose(first, torch.stack([-expected, expected]), atol=0.05)
    assert torch.allclose(found.masses[:2], torch.full((2, 2), 0.5, dtype=FLOAT), atol=0.03)
    # one mode alone would stand between the two pre-images, where nothing is
    assert float(found.mean[:, 0].abs().max()) < 0.15 and float(found.std[:, 0].min()) > 0.7


def a_line() -> tuple[nn.Linear, Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """A linear generator under noise .5, rows, and the means, the covariance and the evidence of its posteriors."""
    layer = nn.Linear(3, 5, dtype=FLOAT)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=FLOAT))
        layer.bias.copy_(torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=FLOAT))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    covariance = np.linalg.inv(np.eye(3) + w.T @ w / 0.25)
    mean = (x.numpy() - b) @ w @ covariance / 0.25
    evidence = stats.multivariate_normal(b, w @ w.T + 0.25 * np.eye(5)).logpdf(x.numpy())
    return layer, x, mean, covariance, evidence


def test_a_line_is_inverted_to_its_exact_posterior() -> None:
    layer, x, mean, covariance, evidence = a_line()
    space = lv.LatentSpace.of_generator(layer, normal(0.0, 3), noise=0.5)
    found = space.invert(x, draws=8_000)
    assert found.masses.shape[0] == 1 and np.allclose(found.modes[0], mean, atol=1e-5)
    assert np.allclose(found.mean, mean, atol=0.02)
    assert np.allclose(torch.cov(found.draws[:, 0].T), covariance, atol=0.02)
    assert np.allclose(found.log_evidence, evidence, atol=0.01)


def test_a_user_model_with_a_bounded_latent_beside_a_discrete_one() -> None:
    x = np.random.default_rng(0).normal(1.5, 2.0, 60)
    fit = lv.fit(Doubled(), x, lv.SVI(passes=5), guide="auto", progress=False)
    space = lv.LatentSpace(fit, "z")
    found = space.invert(x[:5], draws=4_000)
    slope = float(fit.point["slope"])
    grid = np.linspace(-6, 6, 20_001)  # log z
    for row in range(5):

        def log_density(u: np.ndarray, row: int = row) -> np.ndarray:
            parts = [np.log(p) + stats.norm.logpdf(x[row], slope * u + 3 * c, 0.3) for c, p in ((0, 0.3), (1, 0.7))]
            return np.logaddexp(*parts) + stats.norm.logpdf(u)

        shares, evidence = quadrature(log_density, grid)
        assert float(found.log_evidence[row]) == pytest.approx(evidence, abs=0.02)
        assert float(found.draws[:, row].log().mean()) == pytest.approx((shares * grid).sum(), abs=0.06)
    assert int(found.mode_count.max()) == 2 and bool((found.draws > 0).all())
    assert found.draws.shape == (4_000, 5)


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_chains_from_each_mode_are_put_together_by_mass() -> None:
    space = lv.LatentSpace.of_generator(Square(), normal(0.4), noise=0.3)
    x = [1.0, 0.2]
    found = space.invert([[one] for one in x], draws=800, method="nuts", seed=1)
    grid = np.linspace(-4, 4, 40_001)
    for row, value in enumerate(x):
        shares, _ = quadrature(
            lambda z, value=value: stats.norm.logpdf(value, z**2, 0.3) + stats.norm.logpdf(z, 0.4), grid
        )
        upto = np.interp(found.draws[:, row, 0].numpy(), grid, shares.cumsum())
        assert stats.kstest(upto, "uniform").statistic < 0.08
    assert found.method == "nuts"


def test_chains_through_a_users_model() -> None:
    x = np.random.default_rng(0).normal(1.5, 2.0, 60)
    fit = lv.fit(Doubled(), x, lv.SVI(passes=5), guide="auto", progress=False)
    space = lv.LatentSpace(fit, "z")
    chains, importance = (space.invert(x[:2], draws=400, method=way) for way in ("nuts", "importance"))
    for row in range(2):
        assert stats.ks_2samp(chains.draws[:, row], importance.draws[:, row]).statistic < 0.12


def best_normal(log_density: Any, start: float, grid: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of the normal of largest ELBO about a mode, by quadrature."""
    values = log_density(grid)

    def loss(at: np.ndarray) -> float:
        q = stats.norm.logpdf(grid, at[0], np.exp(at[1]))
        return -float((np.exp(q) * (values - q)).sum() * (grid[1] - grid[0]))

    best = optimize.minimize(loss, [start, np.log(0.15)], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9})
    return float(best.x[0]), float(np.exp(best.x[1]))


def test_normals_fitted_from_both_modes() -> None:
    space = lv.LatentSpace.of_generator(Square(), normal(0.4), noise=0.3)
    found = space.invert([[1.0], [2.0]], draws=4_000, method="svi", seed=1)
    grid = np.linspace(-4, 4, 40_001)
    for row, value in enumerate([1.0, 2.0]):

        def log_density(z: np.ndarray, value: float = value) -> np.ndarray:
            return stats.norm.logpdf(value, z**2, 0.3) + stats.norm.logpdf(z, 0.4)

        shares, evidence = quadrature(log_density, grid)
        assert float(found.log_evidence[row]) == pytest.approx(evidence, abs=0.02)
        upper = float(found.masses[found.modes[:, row, 0] > 0, row].sum())
        assert upper == pytest.approx(shares[grid > 0].sum(), abs=0.01)
        draws, elbo = found.draws[:, row, 0].numpy(), 0.0
        for sign, mass in ((1.0, upper), (-1.0, 1 - upper)):
            loc, scale = best_normal(log_density, sign * np.sqrt(value), grid)
            part = draws[sign * draws > 0.0]
            assert len(part) / 4_000 == pytest.approx(mass, abs=0.005)
            # the normal that is nearest is narrower than the mode, and not Laplace's: .958, not .987 for the first
            assert part.mean() == pytest.approx(loc, abs=0.01) and part.std() == pytest.approx(scale, rel=0.08)
            q = stats.norm.logpdf(grid, loc, scale)
            elbo += mass * float((np.exp(q) * (log_density(grid) - q - np.log(mass))).sum() * (grid[1] - grid[0]))
        assert float(found.elbo[row]) == pytest.approx(elbo, abs=0.01) and elbo < evidence
        assert float(found.gap[row]) == pytest.approx(evidence - elbo, abs=0.02)
    assert found.method == "svi" and "nats from the posterior" in str(found)
    assert torch.equal(space.invert([[1.0], [2.0]], draws=4_000, method="svi", seed=1).draws, found.draws)


def test_a_normal_of_a_line_is_its_posterior() -> None:
    layer, x, mean, covariance, evidence = a_line()
    space = lv.LatentSpace.of_generator(layer, normal(0.0, 3), noise=0.5)
    found = space.invert(x, draws=8_000, method="svi")
    assert found.masses.shape[0] == 1 and np.allclose(found.elbo, evidence, atol=1e-6)
    assert np.allclose(found.gap, 0, atol=0.01)
    target = space.source.target(x)
    assert np.allclose(normals(target, search(target, 4, 2, 0), 0).log_mass[0], evidence, atol=1e-6)
    assert np.allclose(found.mean, mean, atol=0.02)
    assert np.allclose(torch.cov(found.draws[:, 0].T), covariance, atol=0.02)


def test_normals_through_a_users_model_with_a_bounded_latent() -> None:
    x = np.random.default_rng(0).normal(1.5, 2.0, 60)
    fit = lv.fit(Doubled(), x, lv.SVI(passes=5), guide="auto", progress=False)
    space = lv.LatentSpace(fit, "z")
    fitted, importance = (space.invert(x[:3], draws=2_000, method=way) for way in ("svi", "importance"))
    assert bool((fitted.draws > 0).all())
    assert np.allclose(fitted.log_evidence, importance.log_evidence, atol=0.03)
    assert np.allclose(fitted.masses, importance.masses, atol=0.03)
    for row in range(3):
        assert stats.ks_2samp(fitted.draws[:, row].log(), importance.draws[:, row].log()).statistic < 0.07


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_chains_that_cross_are_weighed_by_modes() -> None:
    space = lv.LatentSpace.of_generator(Square(), normal(0.4), noise=0.7)  # a low barrier
    found = space.invert([[1.0], [4.0]], draws=1_000, method="nuts", seed=3)
    grid = np.linspace(-4, 4, 40_001)
    for row, value in enumerate([1.0, 4.0]):
        shares, _ = quadrature(
            lambda z, value=value: stats.norm.logpdf(value, z**2, 0.7) + stats.norm.logpdf(z, 0.4), grid
        )
        upto = np.interp(found.draws[:, row, 0].numpy(), grid, shares.cumsum())
        assert stats.kstest(upto, "uniform").statistic < 0.07
    assert float(found.crossed[0]) > 0.1 and "crossed between modes" in str(found)
    still = space.invert([[4.0]], draws=200, method="nuts")
    assert float(still.crossed[0]) == 0.0 and "crossed" not in str(still)


def test_a_chain_that_leaves_for_good_does_not_take_its_mode_along() -> None:
    space = lv.LatentSpace.of_generator(Square(), normal(0.4), noise=0.3)
    target = space.source.target([[2.0]])
    modes = search(target, 16, 8, 0)
    heavy, light = (modes.loc[r] + 0.1 * torch.randn(400, 1, 1, dtype=FLOAT) for r in (0, 1))
    escaped = torch.cat([light[:100], heavy[:300]])
    free, crossed = together(target, modes, torch.stack([heavy, escaped]), 1_000, 0)
    upper = float((free[:, 0, 0] > 0).double().mean())
    shares, _ = quadrature(lambda z: stats.norm.logpdf(2.0, z**2, 0.3) + stats.norm.logpdf(z, 0.4), GRID)
    assert upper == pytest.approx(shares[GRID > 0].sum(), abs=0.01)  # by chains alone it would be .94
    assert float(crossed[0]) == pytest.approx(300 / 800)
    with pytest.warns(UserWarning, match="left modes of mass up to 0.25"):
        together(target, modes, torch.stack([heavy, heavy]), 1_000, 0)


def test_what_cannot_be_inverted_says_why() -> None:
    fit = lv.fit(lv.models.FactorAnalysis(1), lv.datasets.iris().x, lv.EM(passes=50), progress=False)
    with pytest.raises(SupportError, match="known exactly"):
        lv.LatentSpace(fit).invert()
    with pytest.raises(KindError, match="without noise"):
        lv.LatentSpace.of_generator(Square(), normal()).invert([[1.0]])
    space = lv.LatentSpace.of_generator(Square(), normal(), noise=0.3)
    with pytest.raises(ShapeError, match="as the generator gives"):
        space.invert([[1.0, 2.0]])
    with pytest.raises(ShapeError, match="gaps"):
        space.invert([[1.0], [np.nan]])
    with pytest.raises(SettingError, match="restarts=0"):
        space.invert([[1.0]], restarts=0)
    mixture = lv.fit(lv.models.GaussianMixture(2), lv.datasets.iris().x, lv.EM(), progress=False)
    with pytest.raises(KindError, match="discrete"):
        lv.LatentSpace(mixture).invert()


def test_a_generator_is_frozen_and_left_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    before = [p.clone() for p in module.parameters()]
    space = lv.LatentSpace.of_generator(module, normal(0.0, 2), noise=0.1)
    space.invert(torch.zeros(2, 3), draws=100)
    assert module.training and all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
    z = space.sample(3)
    assert torch.equal(space.decode(z).mean(), space.decode(z).mean())
    with torch.no_grad():
        module[0].weight.add_(1.0)  # type: ignore[operator]
    assert not torch.equal(module.eval()(z), space.decode(z).mean())
