"""Draws whose labels, signs or rotations differ: found, refused by summary, and brought into one labelling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from user_models import ExplicitMixture

import latentvars as lv
from latentvars.errors import KindError, LabelSwitchingError, SettingError, SupportError
from latentvars.inference.sampling import Draws
from latentvars.posterior.relabelling import ecr, permuted, stephens
from latentvars.posterior.rotation import procrustes

METHODS = ("stephens", "ecr", "pivot")


def around(fit: lv.Fit, spread: float, chains: int = 2, size: int = 40, seed: int = 0) -> lv.Fit:
    """A fit whose draws are spread about the point of another."""
    noise = torch.randn(chains, size, fit.program.space.size, dtype=torch.float64, generator=generator(seed))
    free = fit.program.space.unconstrain(fit.point) + spread * noise
    stats = {"lp": torch.randn(chains, size, generator=generator(seed + 1)), "diverging": torch.zeros(chains, size) > 0}
    return replace(fit, globals=Draws(fit.program.space, free, stats), status=lv.Status.DRAWN)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_values(fit: lv.Fit, values: dict[str, Tensor]) -> lv.Fit:
    """The fit with other constrained draws ``[C, S, *shape]``."""
    assert isinstance(fit.globals, Draws)
    free = fit.program.space.unconstrain(values)
    return replace(fit, globals=replace(fit.globals, free=free))


def shuffled(fit: lv.Fit, axes: dict[str, tuple[int, ...]], seed: int = 3) -> tuple[lv.Fit, Tensor]:
    """The fit with the labels of each draw permuted by an order of its own, and the orders ``[C, S, K]``."""
    assert isinstance(fit.globals, Draws)
    values, (chains, size) = dict(fit.globals.values), fit.globals.free.shape[:2]
    labels = next(values[name].shape[2 + at[0]] for name, at in axes.items())
    noise = np.random.default_rng(seed)
    orders = torch.from_numpy(np.array([[noise.permutation(labels) for _ in range(size)] for _ in range(chains)]))
    found = {name: value.clone() for name, value in values.items()}
    for chain in range(chains):
        for draw in range(size):
            for name, at in axes.items():
                one = values[name][chain, draw]
                for axis in at:
                    one = one.index_select(axis, orders[chain, draw])
                found[name][chain, draw] = one
    return with_values(fit, found), orders


@pytest.fixture(scope="module")
def mixture() -> lv.Fit:
    noise = np.random.default_rng(0)
    x = noise.normal(size=(90, 2)) + np.array([[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]])[np.arange(90) % 3]
    return around(lv.fit(lv.models.GaussianMixture(3), x, lv.EM(restarts=5)), 0.05)


@pytest.fixture(scope="module")
def chain() -> lv.Fit:
    noise = np.random.default_rng(1)
    states = np.cumsum(noise.random((6, 30)) < 0.2, 1) % 3
    x = noise.normal(size=(6, 30)) * np.array([0.5, 1.0, 2.0])[states] + 6.0 * states
    rows = lv.Rows(x.reshape(-1), lengths=[30] * 6)
    return around(lv.fit(lv.models.HiddenMarkov(3, lv.emissions.Gaussian(1)), rows, lv.EM(restarts=5)), 0.05)


AXES: dict[str, dict[str, tuple[int, ...]]] = {
    "mixture": {"weights": (0,), "loc": (0,), "covariance": (0,)},
    "chain": {"initial": (0,), "transition": (0, 1), "loc": (0,), "covariance": (0,)},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", AXES)
def test_planted_orders_are_undone(name: str, method: Any, request: pytest.FixtureRequest) -> None:
    straight = request.getfixturevalue(name)
    switched, orders = shuffled(straight, AXES[name])
    with pytest.raises(LabelSwitchingError, match="align"):
        switched.summary()
    found = lv.align(switched, method=method)
    assert isinstance(found.fit.globals, Draws) and isinstance(straight.globals, Draws)
    combined = orders.gather(2, found.orders["z"])
    assert (combined == combined[0, 0]).all(), "one labelling in all draws"
    for site, value in straight.globals.values.items():
        expected = value
        for axis in AXES[name][site]:
            expected = expected.index_select(2 + axis, combined[0, 0])
        torch.testing.assert_close(found.fit.globals.values[site], expected, rtol=1e-9, atol=1e-9)
    assert max(float(v.nan_to_num(1.0).max()) for v in found.r_hat.values()) < 1.2
    assert max(float(v.nan_to_num(1.0).max()) for v in found.r_hat_before.values()) > 1.0
    assert float(found.ambiguity["z"].max()) < 1e-3
    assert 0.5 < found.moved["z"] <= 1.0
    found.fit.summary()


def test_what_does_not_depend_on_names_is_unchanged(mixture: lv.Fit) -> None:
    switched, _ = shuffled(mixture, AXES["mixture"])
    aligned = lv.align(switched).fit
    before, after = lv.loo(switched, unit="row"), lv.loo(aligned, unit="row")
    assert after.elpd == pytest.approx(before.elpd, abs=1e-8)
    one, two = (
        f.to_datatree(predictive=False, latents=False)["log_likelihood"]["x"].values for f in (switched, aligned)
    )
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_one_labelling_is_left_alone(mixture: lv.Fit) -> None:
    mixture.summary()
    found = lv.align(mixture)
    assert found.moved["z"] == 0.0
    assert "largest R-hat" in str(found)


def test_chains_that_stand_in_other_orders_are_found(mixture: lv.Fit) -> None:
    assert isinstance(mixture.globals, Draws)
    values = {name: value.clone() for name, value in mixture.globals.values.items()}
    for name in values:
        values[name][1] = values[name][1].flip(1)
    switched = with_values(mixture, values)
    found = lv.align(switched)
    assert float(found.r_hat_before["loc"].max()) > 1.5
    assert float(found.r_hat["loc"].max()) < 1.1
    assert found.moved["z"] == pytest.approx(0.5)


def test_a_users_model_needs_no_dims() -> None:
    noise = np.random.default_rng(2)
    x = noise.normal(size=60) + np.where(np.arange(60) % 3 == 0, 4.0, 0.0)
    straight = around(lv.fit(ExplicitMixture(2), x, lv.EM(restarts=3)), 0.1)
    switched, _ = shuffled(straight, {"weights": (0,), "loc": (0,), "scale": (0,)})
    with pytest.raises(LabelSwitchingError):
        switched.summary()
    assert lv.align(switched).fit.summary().loc["loc[0]", "sd"] < 1.0
    assert switched.summary(check_labels=False).loc["loc[0]", "sd"] > 1.0


class NamedByPrior:
    """Two components whose priors differ: their names mean something."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor([-3.0, 3.0]), 1.0).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


class InOrder:
    """Two components in order."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.ordered((2, 1)))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z, 0], 1.0), obs=rows.x)


@pytest.mark.parametrize(("model", "start"), [(NamedByPrior(), [-2.0, 2.0]), (InOrder(), [[-2.0], [2.0]])])
def test_labels_with_a_meaning_are_not_aligned(model: Any, start: list[Any]) -> None:
    noise = np.random.default_rng(3)
    x = noise.normal(size=60) + np.where(np.arange(60) % 2 == 0, -2.0, 2.0)
    fit = around(lv.fit(model, x, lv.EM(), start={"loc": start}), 0.05)
    fit.summary()
    with pytest.raises(SupportError, match="density changes"):
        lv.align(fit)


def test_labels_that_nothing_tells_apart_are_ambiguous() -> None:
    noise = torch.Generator().manual_seed(0)
    probs = torch.rand(50, 40, 2, dtype=torch.float64, generator=noise)
    probs = 0.5 + 0.01 * (probs / probs.sum(-1, keepdim=True) - 0.5)
    assert float(stephens(probs, probs[0]).ambiguity.max()) > 0.4


@pytest.mark.parametrize("relabel", [stephens, ecr])
def test_orders_are_the_best_of_all(relabel: Any) -> None:
    noise = np.random.default_rng(4)
    base = noise.dirichlet(np.full(4, 0.2), 60)
    drawn = [0.9 * base + 0.1 * noise.dirichlet(np.ones(4), 60) for _ in range(20)]
    probs = torch.from_numpy(np.array([one[:, noise.permutation(4)] for one in drawn]))
    found = permuted(probs, relabel(probs, probs[0]).order)
    assert float((found - found.mean(0)).abs().mean()) < 0.05


@dataclass(frozen=True)
class Factors:
    """Factor analysis as a user would write it, its factors integrated out by hand; ``prior`` of the loadings."""

    prior: Any

    def model(self, rows: lv.Batch) -> None:
        loadings = pyro.sample("loadings", self.prior.expand([5, 2]).to_event(2))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(5, dtype=torch.float64), 0.5).to_event(1))
        with rows.plate():
            law = dist.LowRankMultivariateNormal(torch.zeros(5, dtype=torch.float64), loadings, scale.square())
            pyro.sample("x", law, obs=rows.x)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"loadings": ("feature", "factor"), "scale": ("feature",)}


ONE = torch.ones((), dtype=torch.float64)


@pytest.mark.parametrize("prior", [dist.Normal(0 * ONE, ONE), dist.Laplace(0 * ONE, ONE)], ids=["turns", "signs"])
def test_factors_are_turned_back(prior: Any) -> None:
    noise = np.random.default_rng(5)
    truth = np.array([[1.5, 0.0], [1.2, 0.3], [0.1, 1.0], [0.0, -1.1], [0.6, 0.6]])
    x = noise.normal(size=(200, 2)) @ truth.T + 0.4 * noise.normal(size=(200, 5))
    fit = around(lv.fit(Factors(prior), x, lv.EM(), start={"loadings": torch.from_numpy(truth)}), 0.03)
    fit.summary()
    assert isinstance(fit.globals, Draws)
    loadings = fit.globals.values["loadings"]
    signed = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(2, 40, 2, 2, dtype=torch.float64, generator=generator(9))).Q
    if isinstance(prior, dist.Laplace):
        turn = torch.stack([torch.linalg.matrix_power(signed, k % 4) for k in range(80)]).reshape(2, 40, 2, 2)
    turned = with_values(fit, {**fit.globals.values, "loadings": loadings @ turn})
    with pytest.raises(LabelSwitchingError, match="factor"):
        turned.summary()
    found = lv.align(turned)
    assert isinstance(found.fit.globals, Draws)
    values = found.fit.globals.values["loadings"]
    assert float(values.std((0, 1)).max()) < 0.06
    products = [v.flatten(0, 1) @ v.flatten(0, 1).mT for v in (values, turned.globals.values["loadings"])]  # type: ignore[union-attr]
    torch.testing.assert_close(*products, rtol=1e-9, atol=1e-9)
    found.fit.summary()


def test_procrustes_is_scipys() -> None:
    from scipy.linalg import orthogonal_procrustes

    noise = np.random.default_rng(6)
    loadings, reference = noise.normal(size=(3, 7, 3)), noise.normal(size=(7, 3))
    found = procrustes(torch.from_numpy(loadings), torch.from_numpy(reference), signs=False, fixed=True)
    for one, turn in zip(loadings, found.turn.numpy(), strict=True):
        np.testing.assert_allclose(turn, orthogonal_procrustes(one, reference)[0], atol=1e-10)


def test_points_take_the_names_of_another_fit(mixture: lv.Fit) -> None:
    first = lv.from_point(mixture.model, mixture.rows, mixture.point)
    order = torch.tensor([2, 0, 1])
    second = lv.from_point(mixture.model, mixture.rows, {name: value[order] for name, value in mixture.point.items()})
    found = lv.align(second, to=first)
    for name, value in first.point.items():
        torch.testing.assert_close(found.fit.point[name], value)
    with pytest.raises(KindError, match="to="):
        lv.align(second)


def test_bad_input(mixture: lv.Fit) -> None:
    with pytest.raises(SettingError, match="stephens"):
        lv.align(mixture, method="other")  # type: ignore[arg-type]
    guided = lv.fit(lv.models.GaussianMixture(2), mixture.rows, lv.SVI(passes=5))
    with pytest.raises(KindError, match="guide"):
        lv.align(guided)
