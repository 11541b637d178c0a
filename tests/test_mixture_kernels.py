"""The compiled E-step of mixtures against sums in numpy, and what it may not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentvars.kernels.mixtures import Form, Normals, expected, maximum_of_sums, natural_of, normal_expected

SHAPES = [(1, 1, 1, 1), (13, 3, 2, 4), (5000, 2, 3, 5), (777, 7, 1, 13)]


def features(form: Form, x: np.ndarray) -> np.ndarray:
    """``[M, F]``."""
    i, j = np.triu_indices(x.shape[1])
    own = {
        Form.LINEAR: np.empty((len(x), 0)),
        Form.DIAGONAL: x**2,
        Form.SPHERICAL: (x**2).sum(1, keepdims=True),
        Form.FULL: x[:, i] * x[:, j],
    }
    return np.hstack([np.ones((len(x), 1)), x, own[form]])


def posterior(joint: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objectives ``[S]`` and w r ``[M, S·K]`` of log joints ``[M, S, K]``."""
    top = joint.max(2, keepdims=True)
    each = np.exp(joint - top)
    total = each.sum(2, keepdims=True)
    objective = (weights[:, None] * (np.log(total) + top)[:, :, 0]).sum(0)
    return objective, (weights[:, None, None] * each / total).reshape(len(joint), -1)


@pytest.mark.parametrize("form", [Form.LINEAR, Form.DIAGONAL, Form.SPHERICAL, Form.FULL])
@pytest.mark.parametrize(("rows", "size", "mixtures", "components"), SHAPES)
def test_products_are_those_of_numpy(form: Form, rows: int, size: int, mixtures: int, components: int) -> None:
    noise = np.random.default_rng(0)
    x, centre, weights = noise.normal(size=(rows, size)), noise.normal(size=size), noise.random(rows)
    table = features(form, x - centre)
    natural = noise.normal(size=(mixtures * components, table.shape[1]))
    objective, share = posterior((table @ natural.T).reshape(rows, mixtures, components), weights)
    given = [torch.from_numpy(value) for value in (x, centre, weights, natural)]
    found = expected(form, *given, mixtures)
    np.testing.assert_allclose(found[0], objective, rtol=1e-12)
    np.testing.assert_allclose(found[1], share.T @ table, rtol=1e-10, atol=1e-12 * rows)
    as_table = expected(Form.TABLE, torch.from_numpy(table.T.copy()), *given[1:], mixtures)
    np.testing.assert_allclose(as_table[0], objective, rtol=1e-12)


@pytest.mark.parametrize("kind", ["covariance", "scales", "one scale"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_normals_are_those_of_numpy_by_products_and_by_residuals(kind: str, shared: bool, apart: bool) -> None:
    if shared and kind == "one scale" and not apart:
        pytest.skip("no model has one scale for all of its components")
    noise = np.random.default_rng(1)
    rows, size, mixtures, components = 300, 3, 2, 4
    count = mixtures if shared else mixtures * components
    x, loc, weights = noise.normal(size=(rows, size)), noise.normal(size=(8, size)), noise.random(rows)
    root = noise.normal(size=(count, size, size))
    spread = {
        "covariance": root @ root.swapaxes(1, 2) + np.eye(size),
        "scales": noise.uniform(0.5, 2, (count, size)),
        "one scale": noise.uniform(0.5, 2, count),
    }[kind]
    whole = np.repeat(spread, 8 // count, 0)
    full = whole if kind == "covariance" else np.stack([np.diag(np.broadcast_to(s, size) ** 2) for s in whole])
    d = x[:, None] - loc
    distance = np.einsum("nki,kij,nkj->nk", d, np.linalg.inv(full), d)
    weight, centre = noise.dirichlet(np.ones(components), mixtures), noise.normal(size=size)
    density = -0.5 * (distance + size * np.log(2 * np.pi) + np.linalg.slogdet(full)[1])
    objective, share = posterior(density.reshape(rows, mixtures, components) + np.log(weight), weights)
    form = {"covariance": Form.FULL, "scales": Form.DIAGONAL, "one scale": Form.SPHERICAL}[kind]
    all_over = (features(form, x - centre) * weights[:, None]).sum(0)[1 + size :]
    given = [torch.from_numpy(value) for value in (weight, x, weights, centre, all_over)]
    normals = Normals(torch.from_numpy(loc), torch.from_numpy(spread))
    found = normal_expected(normals, *given, reach=1.0, widest=0.0 if apart else 1e9)
    about = loc if apart else np.broadcast_to(centre, loc.shape)
    sums = np.stack([share[:, k] @ features(form, x - about[k]) for k in range(8)])
    wanted, sums_found = sums, found.sums.numpy()
    if shared and not apart:  # what components share is known of all of them together
        wanted, sums_found = (one.reshape(mixtures, components, -1).sum(1)[:, 1 + size :] for one in (sums, sums_found))
        np.testing.assert_allclose(found.sums[:, : 1 + size], sums[:, : 1 + size], rtol=1e-10, atol=1e-10)
    assert found.apart == apart
    assert found.sharpest == pytest.approx(np.sqrt(np.diagonal(np.linalg.inv(full), axis1=1, axis2=2).max()))
    np.testing.assert_allclose(found.objective, objective, rtol=1e-12)
    np.testing.assert_allclose(sums_found, wanted, rtol=1e-10, atol=1e-10)
    check_maximum(normals, found.sums, torch.from_numpy(about.copy()), share, x)
    natural, sharpest = natural_of(normals, torch.from_numpy(centre))
    assert sharpest == found.sharpest
    np.testing.assert_allclose(features(form, x - centre) @ natural.numpy().T, density, rtol=1e-10)


def test_normals_without_a_spread_have_no_coefficients() -> None:
    flat = Normals(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    assert natural_of(flat, torch.zeros(2, dtype=torch.float64))[1] == np.inf


def check_maximum(normals: Normals, sums: torch.Tensor, about: torch.Tensor, share: np.ndarray, x: np.ndarray) -> None:
    """The maximum is weighted means, and moments about them, pooled over components that share a spread."""
    found, _ = maximum_of_sums(normals, sums, about, None)
    total = share.sum(0)
    loc = share.T @ x / total[:, None]
    np.testing.assert_allclose(found.loc, loc, rtol=1e-9, atol=1e-10)
    d = x[:, None] - loc
    second = np.einsum("nk,nki,nkj->kij", share, d, d).reshape(len(normals.spread), -1, *2 * (x.shape[1],)).sum(1)
    second /= total.reshape(len(normals.spread), -1).sum(1)[:, None, None]
    squares = np.diagonal(second, axis1=1, axis2=2)
    wanted = {3: second, 2: np.sqrt(squares), 1: np.sqrt(squares.mean(1))}[normals.spread.dim()]
    np.testing.assert_allclose(found.spread, wanted, rtol=1e-8, atol=1e-10)


def test_threads_and_the_place_of_weightless_rows_change_nothing() -> None:
    noise = np.random.default_rng(2)
    x, natural = torch.from_numpy(noise.normal(size=(60_000, 3))), torch.from_numpy(noise.normal(size=(6, 10)))
    centre, weights = torch.zeros(3, dtype=torch.float64), torch.from_numpy(noise.integers(0, 2, 60_000).astype(float))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(expected(Form.FULL, x, centre, weights, natural, 2))
    finally:
        torch.set_num_threads(before)
    for objective, sums in found[1:]:
        assert torch.equal(objective, found[0][0]) and torch.equal(sums, found[0][1])
    kept = weights > 0
    objective, sums = expected(Form.FULL, x[kept], centre, weights[kept], natural, 2)
    torch.testing.assert_close(objective, found[0][0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(sums, found[0][1], rtol=1e-10, atol=1e-9)


def test_a_component_without_weight_is_none_and_nan_is_no_number() -> None:
    x, weights = torch.zeros(5, 1, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    natural = torch.tensor([[-torch.inf, 0.0], [0.0, 0.0]], dtype=torch.float64)
    objective, sums = expected(Form.LINEAR, x, torch.zeros(1, dtype=torch.float64), weights, natural, 1)
    assert objective.tolist() == [0.0] and sums[:, 0].tolist() == [0.0, 5.0]
    x[3] = torch.nan
    assert expected(Form.LINEAR, x, torch.zeros(1, dtype=torch.float64), weights, natural, 1)[0].isnan()
