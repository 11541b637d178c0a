"""Emissions: densities against scipy, starts inside the support, axes that match sites, checks of data and priors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from latentvars.errors import DataError, LatentVarsError, NameUnknownError, SettingError, ShapeError, SupportError
from latentvars.models import Mixture, emissions
from latentvars.program import Program
from latentvars.rows import Rows

K, N = 3, 40
Densities = Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]


def normals(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    scale = p["scale"] if p["scale"].ndim == 2 else p["scale"][:, None]
    return stats.norm.logpdf(x[:, None], p["loc"], np.broadcast_to(scale, p["loc"].shape)).sum(-1)


def multivariate_normals(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    covariance = np.broadcast_to(p["covariance"], (K, *p["covariance"].shape[-2:]))
    laws = [stats.multivariate_normal(p["loc"][k], covariance[k]) for k in range(K)]
    return np.stack([np.atleast_1d(law.logpdf(x)) for law in laws], -1)


def poissons(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return stats.poisson.logpmf(x[:, None], p["rate"]).sum(-1)


def categoricals(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.log(p["probs"].T[x[:, 0].astype(int)])


def bernoullis(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return stats.bernoulli.logpmf(x[:, None], p["probs"]).sum(-1)


def product(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    parts: list[dict[str, np.ndarray]] = [
        {name[:-2]: value for name, value in p.items() if name.endswith(f"_{i}")} for i in range(4)
    ]
    return (
        multivariate_normals(parts[0], x[:, :2])
        + categoricals(parts[1], x[:, 2:3])
        + poissons(parts[2], x[:, 3:4])
        + bernoullis(parts[3], x[:, 4:])
    )


def real(features: int) -> np.ndarray:
    return np.random.default_rng(1).normal(3.0, 2.0, (N, features))


def counts(features: int) -> np.ndarray:
    return np.random.default_rng(2).poisson(4.0, (N, features))


def codes() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4, (N, 1))


def binary(features: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 2, (N, features))


CASES: dict[str, tuple[emissions.Emission, np.ndarray, Densities, dict[str, tuple[int, ...]]]] = {
    "full": (emissions.Gaussian(2), real(2), multivariate_normals, {"loc": (K, 2), "covariance": (K, 2, 2)}),
    "full of one": (emissions.Gaussian(), real(1), multivariate_normals, {"loc": (K, 1), "covariance": (K, 1, 1)}),
    "tied": (emissions.Gaussian(3, "tied"), real(3), multivariate_normals, {"loc": (K, 3), "covariance": (3, 3)}),
    "diag": (emissions.Gaussian(None, "diag"), real(2), normals, {"loc": (K, 2), "scale": (K, 2)}),
    "spherical": (emissions.Gaussian(2, "spherical"), real(2), normals, {"loc": (K, 2), "scale": (K,)}),
    "Poisson": (emissions.Poisson(), counts(1), poissons, {"rate": (K, 1)}),
    "Poissons": (emissions.Poisson(2), counts(2), poissons, {"rate": (K, 2)}),
    "Categorical": (emissions.Categorical(4), codes(), categoricals, {"probs": (K, 4)}),
    "Bernoulli": (emissions.Bernoulli(3), binary(3), bernoullis, {"probs": (K, 3)}),
    "Product": (
        emissions.Product(emissions.Gaussian(2), emissions.Categorical(4), emissions.Poisson(), emissions.Bernoulli(2)),
        np.concatenate([real(2), codes(), counts(1), binary(2)], 1),
        product,
        {"loc_0": (K, 2), "covariance_0": (K, 2, 2), "probs_1": (K, 4), "rate_2": (K, 1), "probs_3": (K, 2)},
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def started(
    emission: emissions.Emission, x: np.ndarray, seed: int = 0
) -> tuple[Mixture, Rows, dict[str, torch.Tensor]]:
    model, rows = Mixture(K, emission), Rows(x)
    return model, rows, model.initial(rows, torch.Generator().manual_seed(seed))


@cases
def test_the_score_is_the_mixture_of_scipys_densities(name: str) -> None:
    emission, x, densities, _ = CASES[name]
    model, rows, point = started(emission, x)
    score = Program.of(model, rows).score(point, rows.batch(dtype=torch.float64))
    arrays = {site: value.numpy() for site, value in point.items()}
    expected = np.logaddexp.reduce(np.log(arrays["weights"]) + densities(arrays, x), -1)
    np.testing.assert_allclose(score.rows.numpy(), expected, rtol=1e-11)
    assert score.prior == 0


@cases
def test_sites_have_their_shapes_and_the_start_lies_in_their_supports(name: str) -> None:
    emission, x, _, shapes = CASES[name]
    model, rows, point = started(emission, x)
    space = Program.of(model, rows).space
    assert {site.name: tuple(site.shape) for site in space.sites} == {"weights": (K,)} | shapes
    assert {site: tuple(value.shape) for site, value in point.items()} == {"weights": (K,)} | shapes
    for site in space.sites:
        assert bool(site.support.check(point[site.name]).all()), site.name
        assert bool(torch.isfinite(site.transform.inv(point[site.name])).all()), site.name  # not on the boundary


@cases
def test_dims_and_coords_name_every_axis_of_every_site(name: str) -> None:
    emission, x, _, _ = CASES[name]
    model, rows, point = started(emission, x)
    dims, coords = model.dims(), model.coords(rows)
    assert set(dims) == set(point) | {"z"}
    for site, value in point.items():
        assert [len(coords[axis]) for axis in dims[site]] == list(value.shape)


@cases
def test_a_start_repeats_with_its_generator_and_differs_between_generators(name: str) -> None:
    emission, x, _, _ = CASES[name]
    _, _, first = started(emission, x)
    _, _, again = started(emission, x)
    _, _, other = started(emission, x, seed=1)
    assert all(torch.equal(first[site], again[site]) for site in first)
    assert any(not torch.equal(first[site], other[site]) for site in first)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical", "Poisson", "Categorical", "Bernoulli"])
def test_a_start_tolerates_rows_that_are_all_but_the_same(name: str) -> None:
    emission, x, _, _ = CASES[name]
    x = np.repeat(x[:2], 15, axis=0)
    x[1] = x[0] + (1 if x.dtype.kind == "f" else 0)
    model, rows, point = started(emission, x)
    score = Program.of(model, rows).score(point, rows.batch(dtype=torch.float64))
    assert bool(torch.isfinite(score.rows).all())


@pytest.mark.parametrize("emission", [emissions.Gaussian(1, c) for c in ("full", "tied", "diag", "spherical")])
def test_plain_numbers_and_one_column_give_the_same_score(emission: emissions.Emission) -> None:
    x = real(1)
    model, rows, point = started(emission, x)
    flat = Rows(x[:, 0])
    one, two = (Program.of(model, r).score(point, r.batch(dtype=torch.float64)).rows for r in (rows, flat))
    torch.testing.assert_close(one, two, rtol=1e-13, atol=0)
    assert all(torch.equal(a, point[s]) for s, a in model.initial(flat, torch.Generator().manual_seed(0)).items())
    counted = Mixture(2, emissions.Poisson())
    point = counted.initial(Rows(counts(1)), torch.Generator().manual_seed(0))
    scores = [Program.of(counted, r).score(point, r.batch()).rows for r in (Rows(counts(1)), Rows(counts(1)[:, 0]))]
    torch.testing.assert_close(*scores, rtol=1e-13, atol=0)


def test_starts_are_weighted_moments_but_for_one_row_of_the_whole() -> None:
    x = torch.tensor(real(2)).repeat(2000, 1)
    belongs = torch.rand(len(x), K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = emissions.Gaussian(2).start(x, belongs)
    for k in range(K):
        weights = belongs[:, k].numpy()
        expected = np.cov(x.numpy().T, aweights=weights, bias=True)
        np.testing.assert_allclose(full["loc"][k], np.average(x, axis=0, weights=weights), rtol=1e-10)
        np.testing.assert_allclose(full["covariance"][k], expected, rtol=1e-3)
    diagonal = full["covariance"].diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(
        emissions.Gaussian(2, "diag").start(x, belongs)["scale"] ** 2, diagonal, rtol=1e-3, atol=0
    )
    spherical = emissions.Gaussian(2, "spherical").start(x, belongs)["scale"] ** 2
    torch.testing.assert_close(spherical, diagonal.mean(-1), rtol=1e-3, atol=0)
    share = belongs.sum(0) / belongs.sum()
    tied = emissions.Gaussian(2, "tied").start(x, belongs)["covariance"]
    torch.testing.assert_close(tied, (share[:, None, None] * full["covariance"]).sum(0), rtol=1e-3, atol=0)


BAD: dict[str, tuple[emissions.Emission, np.ndarray, type[LatentVarsError], str]] = {
    "too few features": (emissions.Gaussian(3), real(2), ShapeError, "2 features in the data"),
    "one number": (emissions.Gaussian(3), real(1)[:, 0], ShapeError, "1 feature in the data"),
    "a cube": (emissions.Gaussian(3), np.zeros((5, 3, 2)), ShapeError, r"shape \[3, 2\]"),
    "constant column": (emissions.Gaussian(2), real(2) * [0, 1], DataError, "constant feature 'x0'"),
    "constant column, diag": (emissions.Gaussian(2, "diag"), real(2) * [1, 0], DataError, "constant feature 'x1'"),
    "all the same": (emissions.Gaussian(2, "spherical"), real(2) * 0, DataError, "constant features 'x0', 'x1'"),
    "negative count": (emissions.Poisson(2), counts(2) - [0, 9], DataError, "in feature 'x1'"),
    "fractional count": (emissions.Poisson(1), counts(1) + 0.5, DataError, "whole numbers"),
    "code too large": (emissions.Categorical(3), codes(), DataError, r"codes 0 … 2"),
    "negative code": (emissions.Categorical(4), codes() - 1, DataError, r"-1 in feature 'x'"),
    "two columns of codes": (emissions.Categorical(4), counts(2), ShapeError, "2 features"),
    "not binary": (emissions.Bernoulli(2), counts(2), DataError, "0 or 1"),
    "second part": (
        emissions.Product(emissions.Gaussian(1), emissions.Bernoulli(1)),
        np.concatenate([real(1), counts(1)], 1),
        DataError,
        "in feature 'x1'",
    ),
    "constant in a part": (
        emissions.Product(emissions.Poisson(1), emissions.Gaussian(1)),
        np.ones((N, 2)),
        DataError,
        "constant feature 'x1'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_the_emission_cannot_have_made_are_refused_by_name(name: str) -> None:
    emission, x, error, message = BAD[name]
    with pytest.raises(error, match=message):
        Mixture(K, emission).check(Rows(x))


def test_settings_out_of_range_are_refused() -> None:
    for make in (
        lambda: emissions.Gaussian(0),
        lambda: emissions.Gaussian(2, "banded"),
        lambda: emissions.Poisson(-1),
        lambda: emissions.Categorical(0),
        lambda: emissions.Product(),
        lambda: emissions.Product(emissions.Gaussian()),
    ):
        with pytest.raises(SettingError):
            make()


def test_priors_expand_to_their_site_and_count_in_the_score() -> None:
    priors = {
        "loc": dist.Normal(0.0, 10.0),
        "scale": dist.Gamma(2.0, 1.0),
        "weights": dist.Dirichlet(2 * torch.ones(K)),
    }
    model, rows = Mixture(K, emissions.Gaussian(2, "diag"), priors), Rows(real(2))
    point = model.initial(rows, torch.Generator().manual_seed(0))
    prior = Program.of(model, rows).score(point, rows.batch()).prior
    expected = stats.norm(0, 10).logpdf(point["loc"]).sum() + stats.gamma(2).logpdf(point["scale"]).sum()
    expected += stats.dirichlet([2.0] * K).logpdf(point["weights"] / point["weights"].sum())
    assert float(prior) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("priors", "error"),
    [
        ({"location": dist.Normal(0.0, 1.0)}, NameUnknownError),
        ({"z": dist.Normal(0.0, 1.0)}, NameUnknownError),
        ({"loc": dist.Normal(torch.zeros(5), 1.0)}, ShapeError),
        ({"weights": dist.Dirichlet(torch.ones(2))}, ShapeError),
        ({"scale": dist.Normal(0.0, 1.0)}, SupportError),
    ],
)
def test_priors_that_do_not_fit_are_refused(priors: dict[str, dist.TorchDistribution], error: type[Exception]) -> None:
    rows = Rows(real(2))
    with pytest.raises(error):
        Program.of(Mixture(K, emissions.Gaussian(2, "diag"), priors), rows)
