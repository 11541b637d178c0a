"""Latent spaces: decoding, draws, ways, directions and measures, beside closed forms, scipy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided_models import Factors
from matplotlib.figure import Figure
from scipy import stats
from scipy.spatial import geometric_slerp
from sklearn.decomposition import PCA
from torch import Tensor, nn
from user_models import ExplicitMixture, Hierarchy, TwoLevels

import latentvars as lv
from latentvars.errors import (
    DataError,
    KindError,
    ModelError,
    NameUnknownError,
    SettingError,
    ShapeError,
    SupportError,
)

FLOAT = torch.float64
IRIS = lv.datasets.iris()
QUAKES = lv.datasets.earthquakes()


def normal(size: int) -> Any:
    return dist.Normal(torch.zeros(size, dtype=FLOAT), torch.ones(size, dtype=FLOAT)).to_event(1)


def space_of(module: nn.Module, size: int, noise: Any = None) -> lv.LatentSpace:
    return lv.LatentSpace.of_generator(module, normal(size), noise=noise)


class Sphere(nn.Module):
    """(latitude, longitude) ↦ the point on the unit sphere."""

    def forward(self, z: Tensor) -> Tensor:
        up, round_ = z[:, 0], z[:, 1]
        return torch.stack([up.cos() * round_.cos(), up.cos() * round_.sin(), up.sin()], 1)


class Cylinder(nn.Module):
    """(angle, height) ↦ the point on the cylinder: flat, so that straight lines are the shortest."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], 1)


class Dose:
    """x ~ Normal(a + slope[z] dose, 1): a covariate beside a discrete local."""

    def model(self, rows: lv.Batch) -> None:
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2, dtype=FLOAT), 5.0).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5], dtype=FLOAT)))
            pyro.sample("x", dist.Normal(slope[z] * rows["dose"], 1.0), obs=rows["x"])


@pytest.fixture(scope="module")
def factors() -> lv.Fit:
    return lv.fit(lv.models.FactorAnalysis(2), IRIS.x, lv.EM(passes=50), progress=False)


@pytest.fixture(scope="module")
def users() -> lv.Fit:
    model = Factors(4, 2, isotropic=True)
    return lv.fit(model, IRIS.x - IRIS.x.mean(0), lv.VariationalEM(passes=30), progress=False)


@pytest.fixture(scope="module")
def levels() -> lv.Fit:
    return lv.fit(TwoLevels(), QUAKES.x.astype(float) / 5, lv.EM(passes=50), progress=False)


# decoding


def test_factors_decode_to_their_line(factors: lv.Fit) -> None:
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=FLOAT)
    decoded = lv.LatentSpace(factors).decode(z)
    loc, loadings, scale = (factors.point[name].numpy() for name in ("loc", "loadings", "scale"))
    assert np.allclose(decoded.mean(), loc + z.numpy() @ loadings.T)
    assert np.allclose(decoded.std(), np.broadcast_to(scale, (5, 4)))
    assert np.allclose(decoded.quantile(0.2), stats.norm.ppf(0.2, decoded.mean(), decoded.std()))
    low, high = decoded.band(0.9)
    assert np.allclose(high - low, 2 * stats.norm.ppf(0.95) * scale)
    draws = decoded.sample(20_000, seed=1).numpy()
    assert np.allclose(draws.mean(0), decoded.mean(), atol=0.02) and np.allclose(draws.std(0), scale, rtol=0.03)
    assert torch.equal(decoded.sample(3, seed=1), decoded.sample(3, seed=1))
    assert len(decoded) == 5 and not decoded.spread().any()


def test_a_users_factors_decode_likewise(users: lv.Fit) -> None:
    z = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=FLOAT)
    decoded = lv.LatentSpace(users).decode(z)
    assert np.allclose(decoded.mean(), z @ users.point["loadings"])
    assert np.allclose(decoded.std(), float(users.point["noise"]))


def test_components_and_states_decode_to_their_laws() -> None:
    mixture = lv.fit(lv.models.GaussianMixture(3), IRIS.x, lv.EM(), progress=False)
    space = lv.LatentSpace(mixture)
    decoded = space.decode(range(3))
    assert torch.allclose(decoded.mean(), mixture.point["loc"])
    variances = mixture.point["covariance"].diagonal(dim1=1, dim2=2)
    assert torch.allclose(decoded.std().square(), variances)
    drawn = decoded.sample(5_000).numpy()
    for k in range(3):
        assert np.allclose(np.cov(drawn[:, k].T), mixture.point["covariance"][k], atol=0.03)
    chain = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), QUAKES.x, lv.EM(), progress=False)
    path = lv.LatentSpace(chain).decode([[0, 1, 1], [1, 0, 0]])
    rates = chain.point["rate"].numpy().ravel()
    assert np.allclose(path.mean().reshape(2, 3), rates[[[0, 1, 1], [1, 0, 0]]])
    assert np.allclose(path.std().square().reshape(2, 3), rates[[[0, 1, 1], [1, 0, 0]]])
    assert (
        np.abs(path.quantile(0.9).reshape(2, 3).numpy() - stats.poisson.ppf(0.9, path.mean().reshape(2, 3))).max() <= 1
    )


def test_other_discrete_locals_are_summed_out(levels: lv.Fit) -> None:
    """Beside the law of total variance, written out."""
    decoded = lv.LatentSpace(levels, "z1").decode([0, 1])
    weights, loc, scale = (levels.point[name].numpy() for name in ("weights", "loc", "scale"))
    mean = (weights * loc).sum(1)
    variance = scale**2 + (weights * loc**2).sum(1) - mean**2
    assert np.allclose(decoded.mean(), mean) and np.allclose(decoded.std() ** 2, variance)
    drawn = decoded.sample(20_000).numpy()
    assert np.allclose(drawn.mean(0), mean, atol=0.05) and np.allclose(drawn.var(0), variance, rtol=0.05)
    inner = lv.LatentSpace(levels, "z2").decode([0, 1, 2])
    joint = levels.point["classes"].numpy()[:, None] * weights
    given = joint / joint.sum(0)
    assert np.allclose(inner.mean(), (given * loc).sum(0))


def test_draws_of_globals_widen_what_is_decoded() -> None:
    fit = lv.fit(ExplicitMixture(), QUAKES.x.astype(float)[:40], lv.SVI(passes=100), progress=False)
    space = lv.LatentSpace(fit)
    plug_in, averaged = space.decode([0, 1]), space.decode([0, 1], draws=200, seed=3)
    drawn = fit.globals.draws(4_000, 1)[0]
    assert np.allclose(averaged.mean(), drawn["loc"].mean(0), atol=0.3)
    assert np.allclose(averaged.spread(), drawn["loc"].std(0), rtol=0.2)
    total = (drawn["scale"].square().mean(0) + drawn["loc"].var(0)).sqrt()
    assert np.allclose(averaged.std(), total, rtol=0.1)
    assert bool((averaged.spread() > 0).all()) and not plug_in.spread().any()


def test_covariates_are_read_from_given_rows() -> None:
    random = np.random.default_rng(0)
    dose = random.uniform(0, 2, 80)
    x = np.where(random.random(80) < 0.5, 3.0, -3.0) * dose + random.normal(0, 1, 80)
    fit = lv.fit(Dose(), {"x": x, "dose": dose}, lv.EM(), progress=False)
    space = lv.LatentSpace(fit)
    with pytest.raises(SupportError, match="dose"):
        space.decode([0, 1])
    decoded = space.decode([0, 1, 1], given={"x": [0.0, 0.0, 0.0], "dose": [1.0, 2.0, 0.5]})
    slope = fit.point["slope"].numpy()
    assert np.allclose(decoded.mean(), slope[[0, 1, 1]] * np.array([1.0, 2.0, 0.5]))


# draws


def test_draws_have_the_law_of_the_prior(factors: lv.Fit) -> None:
    z = lv.LatentSpace(factors).sample(4_000, seed=1).numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.001
    inside = lv.LatentSpace(factors).sample(2_000, region=lambda z: z[:, 0] > 1, seed=2).numpy()
    assert stats.kstest(inside[:, 0], stats.truncnorm(1, np.inf).cdf).pvalue > 0.001
    assert stats.kstest(inside[:, 1], "norm").pvalue > 0.001
    chain = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), QUAKES.x, lv.EM(), progress=False)
    paths = lv.LatentSpace(chain).sample(300, seed=1)
    pairs = np.zeros((2, 2))
    np.add.at(pairs, (paths[:, :-1].flatten().numpy(), paths[:, 1:].flatten().numpy()), 1)
    assert np.allclose(pairs / pairs.sum(1, keepdims=True), chain.point["transition"], atol=0.02)


def test_draws_of_rows_and_their_aggregate(factors: lv.Fit) -> None:
    space = lv.LatentSpace(factors)
    belief = factors.latent()
    mean = belief.mean("z")
    covariance = np.cov(mean.T.numpy(), bias=True) + belief.belief().covariance_matrix[0].numpy()  # type: ignore[attr-defined]
    pooled = space.sample(30_000, data=IRIS.x, seed=1)
    assert np.allclose(np.cov(pooled.T.numpy()), covariance, atol=0.03)
    aggregate = space.aggregate(components=3, seed=0)
    drawn = aggregate.sample(20_000, seed=1).numpy()
    assert np.allclose(drawn.mean(0), mean.mean(0), atol=0.1) and np.allclose(np.cov(drawn.T), covariance, atol=0.15)
    grid = np.linspace(-6, 6, 121)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    mass = aggregate.log_prob(torch.from_numpy(points)).exp().sum() * 0.01
    assert float(mass) == pytest.approx(1, abs=1e-3)
    mixture = lv.fit(lv.models.GaussianMixture(3), IRIS.x, lv.EM(), progress=False)
    shares = lv.LatentSpace(mixture).aggregate()
    assert torch.allclose(shares.probs, mixture.latent().mean("z").mean(0))
    counts = torch.bincount(shares.sample(6_000, seed=1), minlength=3) / 6_000
    assert torch.allclose(counts.to(FLOAT), shares.probs, atol=0.02)


# ways


def test_a_geodesic_of_the_sphere_is_a_great_circle() -> None:
    space = space_of(Sphere(), 2)
    start, end = torch.tensor([0.9, -1.0], dtype=FLOAT), torch.tensor([0.8, 1.1], dtype=FLOAT)
    way = space.interpolate(start, end, 9, by="geodesic")
    straight = space.interpolate(start, end, 33)
    at = Sphere()(torch.stack([start, end])).numpy()
    arc = geometric_slerp(at[0], at[1], np.linspace(0, 1, 9))
    assert np.allclose(way.decoded.mean(), arc, atol=2e-3)
    angle = float(np.arccos(at[0] @ at[1]))
    assert way.length == pytest.approx(angle, rel=5e-3) and straight.length > 1.1 * angle
    # the same speed all along
    assert np.allclose(np.diff(way.lengths), way.length / 8, rtol=0.02)
    assert way.energy == pytest.approx(way.length**2, rel=1e-3)


def test_a_geodesic_of_the_cylinder_is_straight() -> None:
    space = space_of(Cylinder(), 2)
    start, end = torch.tensor([-1.0, 0.0], dtype=FLOAT), torch.tensor([1.2, 1.0], dtype=FLOAT)
    way = space.interpolate(start, end, 5, by="geodesic")
    assert torch.allclose(way.points, space.interpolate(start, end, 5).points, atol=1e-4)
    fine = space.interpolate(start, end, 400)
    assert fine.length == pytest.approx(float((end - start).norm()), rel=1e-4)


def test_standard_deviations_count_on_the_way() -> None:
    """x ~ Normal(0, exp(z)): only the spread moves."""
    space = space_of(nn.Identity(), 1, lambda out: dist.Normal(0 * out, out.exp()))
    way = space.interpolate([0.0], [1.0], 50)
    assert way.length == pytest.approx(np.e - 1, rel=1e-6)
    assert space.interpolate([0.0], [1.0], 50, spread=False).length == 0.0
    geodesic = space.interpolate([0.0], [1.0], 5, by="geodesic")
    assert np.allclose(geodesic.points.exp().numpy().ravel(), np.linspace(1, np.e, 5), atol=1e-3)


def test_circles_keep_their_distance_from_the_origin() -> None:
    space = space_of(nn.Identity(), 3)
    start, end = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.6, 0.8])
    way = space.interpolate(start, end, 7, by="circle")
    assert np.allclose(way.points, geometric_slerp(start, end, np.linspace(0, 1, 7)))
    longer = space.interpolate(start, 3 * end, 7, by="circle").points
    assert np.allclose(longer.norm(dim=1), np.linspace(1, 3, 7))
    with pytest.raises(DataError, match="opposite"):
        space.interpolate(start, -start, by="circle")
    with pytest.raises(DataError, match="origin"):
        space.interpolate(start, 0 * start, by="circle")


def test_traversals_walks_and_arithmetic(factors: lv.Fit) -> None:
    space = lv.LatentSpace(factors)
    way = space.traverse(1, [0.5, 0.0], values=[-1.0, 0.0, 2.0])
    assert way.points.tolist() == [[0.5, -1.0], [0.5, 0.0], [0.5, 2.0]]
    moved = way.decoded.mean()[2] - way.decoded.mean()[0]
    assert torch.allclose(moved, 3 * factors.point["loadings"][:, 1])
    z = space.locate()
    assert torch.equal(z, factors.latent().mean("z"))
    assert torch.allclose(space.arithmetic(z[:2], z[2:3]), z[0] + z[1] - z[2])
    direction = space.directions.attribute(IRIS.target == 0)
    expected = z[IRIS.target == 0].mean(0) - z[IRIS.target != 0].mean(0)
    assert torch.allclose(direction.vector, expected)
    along = (z @ direction.vector).numpy()
    assert direction.strength == pytest.approx(np.corrcoef(along, IRIS.target == 0)[0, 1] ** 2)
    walk = space.walk(direction, z[100], amounts=[0.0, 1.0])
    assert torch.allclose(walk.points[1], z[100] + expected)
    axes = space.directions.principal()
    oracle = PCA().fit(z.numpy())
    assert np.allclose([axis.strength for axis in axes], oracle.explained_variance_ratio_)
    assert np.allclose([float(axis.vector.norm() ** 2) for axis in axes], oracle.explained_variance_)
    assert abs(float(axes[0].vector / axes[0].vector.norm() @ torch.from_numpy(oracle.components_[0]))) > 1 - 1e-9
    gains = [found.strength for found in space.directions.jacobian([0.3, -0.2])]
    assert np.allclose(gains, np.linalg.svd(factors.point["loadings"].numpy())[1])


# measures


def test_smoothness_of_a_line_is_known() -> None:
    """E |W (b − a)|² = 2 tr(Wᵀ W) of two draws of a standard normal."""
    layer = nn.Linear(3, 4, dtype=FLOAT)
    found = space_of(layer, 3).measures.smoothness(4_000)
    expected = 2 * float(layer.weight.detach().square().sum())
    assert abs(found.path_length - expected) < 4 * found.error
    jumpy = space_of(nn.Sequential(nn.Linear(3, 4, dtype=FLOAT), nn.Hardtanh(-1e-3, 1e-3)), 3)
    assert jumpy.measures.smoothness(4_000).largest_jump > 2 * found.largest_jump


def test_units_are_active_where_means_vary(users: lv.Fit) -> None:
    found = lv.LatentSpace(users).measures.units(threshold=0.0)
    mean = users.latent().mean("z").numpy()
    assert np.allclose(found.variance, mean.var(0, ddof=1))
    covariance = np.cov(mean.T) + np.diag(users.latent().std("z").square().mean(0))
    expected = 0.5 * (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])
    assert found.total_correlation == pytest.approx(expected)
    assert not lv.LatentSpace(users).measures.units(threshold=1e9).active.any()


def test_disentanglement_tells_axes_from_a_mixture() -> None:
    from latentvars.latent_space.measures import disentanglement

    random = np.random.default_rng(0)
    factors = np.column_stack([random.integers(0, 4, 600), random.normal(size=600)])
    z = factors + random.normal(0, 0.02, (600, 2))
    turned = z @ np.array([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2)
    good, bad = disentanglement(z, factors), disentanglement(turned, factors)
    assert good.mig > 0.5 and good.disentanglement > 0.75 and good.completeness > 0.75 and good.informativeness > 0.95
    assert bad.mig < 0.2 and bad.disentanglement < 0.4 and bad.completeness < 0.4
    # four classes that a number tells apart: its information is their entropy
    entropy = stats.entropy(np.bincount(factors[:, 0].astype(int)))
    assert good.information[0, 0] == pytest.approx(entropy, rel=0.02)


# what is refused


def test_bad_input_says_what_to_do(factors: lv.Fit, levels: lv.Fit) -> None:
    space = lv.LatentSpace(factors)
    random = np.random.default_rng(0)
    data = {"y": random.normal(size=20), "group": np.arange(20) % 2}
    no_locals = lv.fit(Hierarchy(2), data, lv.EM(passes=3), progress=False)
    for call, error, match in (
        (lambda: lv.LatentSpace(no_locals), KindError, "no locals"),
        (lambda: lv.LatentSpace(IRIS.x), KindError, "needed: a fit"),
        (lambda: lv.LatentSpace(levels), NameUnknownError, "z1"),
        (lambda: lv.LatentSpace(factors, "y"), NameUnknownError, "'z'"),
        (lambda: space.decode([1.0, 2.0, 3.0]), ShapeError, "points, 2"),
        (lambda: space.decode([[1.0, np.nan]]), DataError, "support"),
        (lambda: space.decode([0.0, 0.0], draws=5), KindError, "point"),
        (lambda: space.distance([0.0, 0.0], [1.0, 1.0]), KindError, "Embedding"),
        (lambda: space.interpolate([0.0, 0.0], [1.0, 1.0], 1), SettingError, "two points"),
        (lambda: space.interpolate([0.0, 0.0], [1.0, 1.0], by="arc"), SettingError, "geodesic"),  # type: ignore[arg-type]
        (lambda: space.traverse(2), ShapeError, "dimension=2"),
        (lambda: space.sample(0), SettingError, "draws=0"),
        (lambda: space.sample(5, region=lambda z: z[:, 0] > 50, tries=2), SettingError, "widen"),
        (lambda: space.sample(5, region=lambda z: z), ShapeError, "bool"),
        (lambda: space.directions.attribute(np.ones(150)), DataError, "constant"),
        (lambda: space.directions.attribute(np.arange(3)), ShapeError, "150"),
        (lambda: space.decode([0.0, 0.0]).mean("y"), NameUnknownError, "'x'"),
        (lambda: space.decode([0.0, 0.0]).band(1.5), SettingError, "between 0 and 1"),
        (lambda: lv.LatentSpace(levels, "z1").decode([0, 2]), DataError, "0 to 1"),
        (lambda: lv.LatentSpace(levels, "z1").interpolate(0, 1), KindError, "discrete"),
        (lambda: space_of(nn.Linear(3, 2), 2), ModelError, "draws of the prior"),
        (lambda: space_of(nn.Identity(), 2, -1.0), SettingError, "positive"),
        (lambda: lv.LatentSpace.of_generator(IRIS, normal(2)), KindError, "nn.Module"),  # type: ignore[arg-type]
        (lambda: space_of(nn.Identity(), 2).locate(), KindError, "generator"),
        (lambda: space_of(nn.Identity(), 2).aggregate(), KindError, "generator"),
    ):
        with pytest.raises(error, match=match):
            call()


# pictures


def test_pictures_show_what_is_decoded(factors: lv.Fit) -> None:
    space = lv.LatentSpace(factors)
    way = space.interpolate([0.0, 0.0], [1.0, 1.0], 3)
    figure = lv.plots.strip([way, space.traverse(0, steps=3)], (2, 2), std=True)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert isinstance(figure, Figure) and shown.shape == (4 * 3 - 1, 3 * 3 - 1)
    means = [w.decoded.mean().numpy() for w in (way, space.traverse(0, steps=3))]
    low, high = min(m.min() for m in means), max(m.max() for m in means)
    assert np.allclose(shown[:2, :2].ravel(), (means[0][0] - low) / (high - low))
    band = lv.plots.band(way, [0, 2], names=["a", "b"])
    assert np.allclose(band.axes[0].lines[1].get_ydata(), means[0][:, 2])
    assert [text.get_text().strip() for text in band.axes[0].texts][:2] == ["a", "b"]
    with pytest.raises(ShapeError, match="pixels"):
        lv.plots.strip(way, (2, 3))
    points = space.decode(space.sample(2))
    named = lv.plots.strip([points, points], (2, 2), names=["a", "b"], columns=["x", "y"]).axes[0]
    assert [one.get_text() for one in named.get_xticklabels()] == ["x", "y"]
    with pytest.raises(ShapeError, match="3 columns"):
        lv.plots.strip(points, (2, 2), columns=["x", "y", "z"])
    with pytest.raises(ShapeError, match="features"):
        lv.plots.band(way, [4])
