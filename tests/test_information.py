"""Standard errors against finite differences, statsmodels and closed forms; what they refuse to say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import statsmodels.api as sm
import torch
from torch import Tensor
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import KindError, NumericalError, SettingError, SupportError
from latentvars.posterior.information import _differenced, derivatives, inner_point

TIGHT = lv.EM(stop=lv.Tolerance(1e-13))
RANDOM = np.random.default_rng(71)


class Linear:
    """A normal regression with flat priors. Columns ``y`` and ``x``."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def model(self, rows: lv.Batch) -> None:
        beta = pyro.sample("beta", lv.flat((self.columns,)))
        sigma = pyro.sample("sigma", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("y", dist.Normal(rows["x"] @ beta, sigma), obs=rows["y"])


class Counts:
    """A Poisson regression with flat priors. Columns ``y`` and ``x``."""

    def model(self, rows: lv.Batch) -> None:
        beta = pyro.sample("beta", lv.flat((2,)))
        with rows.plate():
            pyro.sample("y", dist.Poisson((rows["x"] @ beta).exp()), obs=rows["y"])


class Normal:
    """Mean and standard deviation of a sample."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat(()))
        scale = pyro.sample("scale", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, scale), obs=rows.x)


def line(size: int = 80) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(1)
    x = sm.add_constant(noise.normal(size=(size, 2)))
    return x, x @ [0.5, 1.0, -2.0] + noise.normal(size=size) * (0.5 + x[:, 1] ** 2)


def tight_linear() -> tuple[np.ndarray, np.ndarray, lv.Fit]:
    x, y = line()
    ols = sm.OLS(y, x).fit()
    point = {"beta": ols.params, "sigma": np.sqrt(np.mean(ols.resid**2))}
    return x, y, lv.from_point(Linear(3), {"y": y, "x": x}, point)


def blobs() -> np.ndarray:
    noise = np.random.default_rng(2)
    return np.concatenate([noise.normal(size=(70, 2)), noise.normal(size=(50, 2)) * [1.0, 0.5] + [3.0, 1.0]])


def chains() -> lv.Rows:
    noise = np.random.default_rng(3)
    lengths = [12, 9, 20, 15, 7, 11, 14, 10, 18, 6, 13, 16]
    states = np.concatenate([(np.cumsum(noise.random(n) < 0.2) + k) % 2 for k, n in enumerate(lengths)])
    return lv.Rows(noise.poisson(np.where(states == 1, 9.0, 3.0)), lengths=lengths)


MODELS = {
    "mixture": (lambda: lv.models.GaussianMixture(2), blobs),
    "hmm": (lambda: lv.models.HiddenMarkov(2, lv.emissions.Poisson()), chains),
    "hmm-stationary": (lambda: lv.models.HiddenMarkov(2, lv.emissions.Poisson(), initial="stationary"), chains),
    "regression": (Counts, lambda: {"x": sm.add_constant(line()[0][:, 1]), "y": np.abs(line()[1]).round()}),
}


def total(program: lv.Fit, rows: lv.Rows, u: Tensor) -> float:
    """The objective, from the score alone."""
    with torch.no_grad():
        found = program.score(program.space.constrain(u)[0], rows.batch(dtype=torch.float64))
        return float(found.prior + (found.rows * rows.weights).sum())


def second_differences(function, u: Tensor, step: float = 3e-4) -> Tensor:
    """Hessian of a scalar by differences of its values."""
    found = torch.zeros(len(u), len(u), dtype=u.dtype)
    unit = torch.eye(len(u), dtype=u.dtype) * step
    for i in range(len(u)):
        for j in range(i + 1):
            along, across = unit[i] + unit[j], unit[i] - unit[j]
            value = function(u + along) - function(u + across) - function(u - across) + function(u - along)
            found[i, j] = found[j, i] = value / (4 * step**2)
    return found


@cache
def near_fit(name: str) -> lv.Fit:
    make, data = MODELS[name]
    return lv.fit(make(), data(), lv.EM(passes=20), progress=False)


@pytest.mark.parametrize("name", MODELS)
def test_information_is_minus_the_second_differences_of_the_score(name: str) -> None:
    fit = near_fit(name)
    program, rows = fit.program, fit.rows
    u = inner_point(program, fit.point) + 0.05  # away from the maximum, so that nothing vanishes
    point = program.space.constrain(u)[0]
    found = derivatives(program, point, rows)
    expected = -second_differences(lambda v: total(program, rows, v), u)
    assert found.exact
    assert (found.information - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_row_gradients_are_those_of_each_row_alone(name: str) -> None:
    fit = near_fit(name)
    program, rows = fit.program, fit.rows.subset(range(6))
    u = inner_point(program, fit.point)
    found = derivatives(program, fit.point, rows)
    for n in range(len(rows)):
        v = u.clone().requires_grad_()
        score = program.score(program.space.constrain(v)[0], rows.subset([n]).batch(dtype=torch.float64)).rows
        assert torch.allclose(found.rows[n], torch.autograd.grad(score.sum(), v)[0], atol=1e-10)


def test_pieces_of_the_data_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = near_fit("mixture")
    whole = derivatives(fit.program, fit.point, fit.rows)
    monkeypatch.setattr("latentvars.posterior.information.STEPS_AT_ONCE", 7)
    pieces = derivatives(fit.program, fit.point, fit.rows)
    for name in ("gradient", "information", "rows"):
        assert torch.allclose(getattr(whole, name), getattr(pieces, name), rtol=1e-10, atol=1e-9)


def test_regression_equals_statsmodels() -> None:
    x, y, fit = tight_linear()
    ols = sm.OLS(y, x).fit()
    found = fit.standard_errors()
    ml = np.sqrt(ols.df_resid / len(y))  # statsmodels divides by n − p
    assert np.allclose(found["beta"], ols.bse * ml, rtol=1e-9)
    assert np.allclose(found["sigma"], fit.point["sigma"] / np.sqrt(2 * len(y)), rtol=1e-9)
    assert np.allclose(found.covariance("beta"), ols.cov_params() * ml**2, rtol=1e-8, atol=1e-12)
    assert np.allclose(found.covariance("beta", "sigma"), 0, atol=1e-10)
    assert found.remaining < 1e-12
    z = 1.959963984540054
    assert np.allclose(found.interval()["beta"][:, 1], ols.params + z * ols.bse * ml, rtol=1e-9)


def test_sandwich_equals_statsmodels_hc0() -> None:
    x, y, fit = tight_linear()
    assert np.allclose(fit.standard_errors("sandwich")["beta"], sm.OLS(y, x).fit(cov_type="HC0").bse, rtol=1e-9)


def test_poisson_regression_equals_statsmodels_with_weights_too() -> None:
    x, _ = line()
    x = x[:, :2]
    y = np.random.default_rng(4).poisson(np.exp(x @ [0.3, 0.5])).astype(float)
    weights = np.random.default_rng(5).integers(1, 4, len(y)).astype(float)
    glm = sm.GLM(y, x, family=sm.families.Poisson(), freq_weights=weights).fit(tol=1e-14)
    fit = lv.from_point(Counts(), lv.Rows({"x": x, "y": y}, weights=weights), {"beta": glm.params})
    assert np.allclose(fit.standard_errors()["beta"], glm.bse, rtol=1e-8)
    for reading in ("frequency", "sampling"):
        given = {"freq_weights" if reading == "frequency" else "var_weights": weights}
        robust = sm.GLM(y, x, family=sm.families.Poisson(), **given).fit(cov_type="HC0", tol=1e-14)
        assert np.allclose(fit.standard_errors("sandwich", weights=reading)["beta"], robust.bse, rtol=1e-8)


def test_weight_two_is_the_row_twice() -> None:
    x = blobs()
    weights = np.arange(len(x)) % 3
    once = lv.fit(lv.models.GaussianMixture(2), lv.Rows(x, weights=weights), TIGHT, progress=False)
    twice = lv.from_point(lv.models.GaussianMixture(2), np.repeat(x, weights, 0), once.point)
    for kind in ("information", "sandwich"):
        a, b = once.standard_errors(kind), twice.standard_errors(kind)
        for name in once.point:
            assert torch.allclose(a[name], b[name], rtol=1e-9)
    assert not torch.allclose(once.standard_errors("sandwich", weights="sampling")["loc"], a["loc"], rtol=1e-2)


def test_normal_sample_has_the_closed_forms() -> None:
    x = np.random.default_rng(6).normal(2.0, 3.0, 50)
    fit = lv.fit(Normal(), x, TIGHT, progress=False)
    found = fit.standard_errors()
    scale = x.std()
    assert float(found["loc"]) == pytest.approx(scale / np.sqrt(50), rel=1e-9)
    assert float(found["scale"]) == pytest.approx(scale / np.sqrt(100), rel=1e-9)
    # the sandwich of a standard deviation knows the fourth moment
    kurtosis = np.mean((x - x.mean()) ** 4) / scale**4
    expected = scale * np.sqrt((kurtosis - 1) / 4 / 50)
    assert float(fit.standard_errors("sandwich")["scale"]) == pytest.approx(expected, rel=1e-8)
    z = 1.6448536269514722
    low, high = found.interval(0.9)["scale"].tolist()
    assert low == pytest.approx(scale * np.exp(-z / np.sqrt(100))) and high == pytest.approx(scale**2 / low)


def test_covariances_have_the_closed_form_of_wishart() -> None:
    noise = np.random.default_rng(7)
    x = noise.normal(size=(60, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    found = lv.fit(lv.models.GaussianMixture(1), x, TIGHT, progress=False).standard_errors()
    s = np.cov(x.T, bias=True)
    expected = np.sqrt((s**2 + np.outer(np.diag(s), np.diag(s))) / 60)  # Var s_ij = (σ_ij² + σ_ii σ_jj) / n
    assert np.allclose(found["covariance"][0], expected, rtol=1e-8)
    assert float(found["weights"]) == 0.0 and not found.withheld
    intervals = found.interval()
    assert bool((intervals["covariance"][0].diagonal(dim1=0, dim2=1)[0] > 0).all())


def test_shares_of_a_sample_are_binomial() -> None:
    codes = np.repeat([0, 1, 2, 3], [20, 13, 40, 0])
    fit = lv.fit(lv.models.Mixture(1, lv.emissions.Categorical(4)), codes, lv.EM(), progress=False)
    found = fit.standard_errors()
    p = np.array([20, 13, 40]) / 73
    assert np.allclose(found["probs"][0, :3], np.sqrt(p * (1 - p) / 73), rtol=1e-9)
    assert bool(found["probs"][0, 3].isnan()) and "edge" in found.withheld["probs[0, 3]"]
    assert list(found.withheld) == ["probs[0, 3]"]
    ends = found.interval()["probs"][0, :3].logit()
    width = 1.959963984540054 / np.sqrt(73 * p * (1 - p))  # of a logit
    assert np.allclose(ends, np.log(p / (1 - p))[:, None] + width[:, None] * np.array([-1, 1]), rtol=1e-9)
    covariance = found.covariance("probs")
    assert np.allclose(covariance[:3, :3], (np.diag(p) - np.outer(p, p)) / 73, rtol=1e-8)
    assert bool(covariance[3].isnan().all())


def test_a_rate_of_zero_is_held_and_named() -> None:
    x = np.array([[0.0, 3.0], [0.0, 5.0], [0.0, 1.0], [0.0, 2.0]])
    fit = lv.fit(lv.models.Mixture(1, lv.emissions.Poisson(2)), x, lv.EM(), progress=False)
    found = fit.standard_errors()
    assert bool(found["rate"][0, 0].isnan()) and "edge" in found.withheld["rate[0, 0]"]
    assert float(found["rate"][0, 1]) == pytest.approx(np.sqrt(2.75 / 4), rel=1e-6)
    assert "no standard error" in str(found)


def test_a_small_rate_in_small_units_is_not_at_the_edge() -> None:
    x = 1e-9 * np.random.default_rng(8).normal(size=40)
    found = lv.fit(Normal(), x, lv.EM(variance_floor=0.0), progress=False).standard_errors()
    assert not found.withheld
    assert float(found["scale"]) == pytest.approx(x.std() / np.sqrt(80), rel=1e-6)


def test_left_right_chain_keeps_its_zeros_and_has_errors_elsewhere() -> None:
    rows = lv.Rows(np.tile([1, 1, 0, 8, 9, 7, 8, 20, 22], 8) + RANDOM.integers(0, 2, 72), lengths=[9] * 8)
    transition = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]], dtype=torch.float64)
    model = lv.models.HiddenMarkov(3, lv.emissions.Poisson())
    start = {"transition": transition, "initial": [1.0, 0.0, 0.0], "rate": [[1.0], [8.0], [21.0]]}
    fit = lv.fit(model, rows, TIGHT, start=start, progress=False)
    found = fit.standard_errors()
    assert bool((found["transition"].isnan() == (transition.round() == transition)).all())
    # the states are plain to see: eight runs of three steps in state 0, of which each ends
    p = float(fit.point["transition"][0, 1])
    assert float(found["transition"][0, 1]) == pytest.approx(np.sqrt(p * (1 - p) / 24), rel=0.02)


def test_fixed_entries_have_no_error_and_are_not_withheld() -> None:
    rows = lv.Rows(np.tile([1, 1, 0, 8, 9, 7, 8, 20, 22], 8) + RANDOM.integers(0, 2, 72), lengths=[9] * 8)
    nan = float("nan")
    fixed = {"transition": [[nan, nan, 0.0], [0.0, nan, nan], [0.0, 0.0, 1.0]], "initial": [1.0, 0.0, 0.0]}
    model, start = lv.models.HiddenMarkov(3, lv.emissions.Poisson()), {"rate": [[1.0], [8.0], [21.0]]}
    fit = lv.fit(model, rows, TIGHT, fixed=fixed, start=start, progress=False)
    found = fit.standard_errors()
    assert not found.withheld
    assert torch.equal(found["initial"], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(found["transition"] == 0, ~torch.tensor(fixed["transition"]).isnan())
    p = float(fit.point["transition"][0, 1])
    assert float(found["transition"][0, 1]) == pytest.approx(np.sqrt(p * (1 - p) / 24), rel=0.02)


def test_tied_entries_share_an_error() -> None:
    noise = np.random.default_rng(13)
    x = noise.normal(size=(50, 2))
    settings = {"fixed": {"loc": [[0.0, 0.0]]}, "tied": {"scale": [[0, 0]]}}
    fit = lv.fit(lv.models.GaussianMixture(1, 2, "diag"), x, TIGHT, progress=False, **settings)
    scale = np.sqrt((x**2).mean())
    assert torch.allclose(fit.point["scale"], torch.tensor(scale), rtol=1e-8)
    assert np.allclose(fit.standard_errors()["scale"], scale / np.sqrt(2 * 100), rtol=1e-6)
    assert not fit.standard_errors("sandwich").withheld


def test_missing_entries_lose_their_information_only() -> None:
    x = np.random.default_rng(14).normal(size=(60, 2))
    x[:20, 1] = np.nan
    found = lv.fit(lv.models.GaussianMixture(1, 2, "diag"), x, TIGHT, progress=False).standard_errors()
    sizes = np.array([60, 40])
    assert np.allclose(found["loc"][0], np.nanstd(x, 0) / np.sqrt(sizes), rtol=1e-7)
    assert np.allclose(found["scale"][0], np.nanstd(x, 0) / np.sqrt(2 * sizes), rtol=1e-7)


def test_unidentified_globals_are_named() -> None:
    codes = np.repeat([0, 1, 2], [20, 13, 40])
    fit = lv.fit(lv.models.Mixture(2, lv.emissions.Categorical(3)), codes, lv.EM(), progress=False)
    with pytest.warns(UserWarning, match="do not identify weights, probs"):
        found = fit.standard_errors()
    assert bool(found["probs"].isnan().all() and found["weights"].isnan().all())
    assert set(found.withheld.values()) == {"not identified by the data"}


class Twice:
    """Two numbers of which the data see the sum, and one that they see alone."""

    def model(self, rows: lv.Batch) -> None:
        a = pyro.sample("a", lv.flat(()))
        b = pyro.sample("b", lv.flat((2,)))
        scale = pyro.sample("scale", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("x", dist.Normal(a + b[0], scale), obs=rows["x"])
            pyro.sample("y", dist.Normal(b[1], 1.0), obs=rows["y"])


def test_what_is_identified_keeps_its_error_beside_what_is_not() -> None:
    noise = np.random.default_rng(9)
    data = {"x": noise.normal(size=40), "y": noise.normal(size=40)}
    point = {"a": 1.0, "b": [data["x"].mean() - 1.0, data["y"].mean()], "scale": data["x"].std()}
    with pytest.warns(UserWarning, match="do not identify a, b"):
        found = lv.from_point(Twice(), data, point).standard_errors()
    assert bool(found["a"].isnan() and found["b"][0].isnan())
    assert float(found["b"][1]) == pytest.approx(1 / np.sqrt(40)) and not bool(found["scale"].isnan())


def test_a_saddle_is_refused_and_a_slope_warned_of() -> None:
    x = blobs()
    centre = {
        "weights": [0.5, 0.5],
        "loc": np.tile(x.mean(0), (2, 1)),
        "covariance": np.tile(np.cov(x.T, bias=True), (2, 1, 1)),
    }
    with pytest.raises(NumericalError, match="saddle"):
        lv.from_point(lv.models.GaussianMixture(2), x, centre).standard_errors()
    sample = np.random.default_rng(10).normal(size=50)
    off = lv.from_point(Normal(), sample, {"loc": sample.mean() + 0.3, "scale": sample.std()})
    with pytest.warns(UserWarning, match=r"no maximum.*loc"):
        assert off.standard_errors().remaining > 1


def test_refusals() -> None:
    x = blobs()
    fit = lv.fit(lv.models.GaussianMixture(2), x, lv.EM(passes=50), progress=False)
    with pytest.raises(SettingError, match="information"):
        fit.standard_errors("fisher")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="level"):
        fit.standard_errors().interval(95)
    with pytest.raises(SettingError, match="sandwich from 1 rows for 4"):
        chain = lv.models.HiddenMarkov(2, lv.emissions.Poisson())
        lv.fit(chain, chains().columns["x"].numpy(), lv.EM(), progress=False).standard_errors("sandwich")
    with pytest.raises(KindError, match="distribution"):
        lv.fit(Normal(), x[:, 0], lv.SVI(passes=3), progress=False).standard_errors()
    vae = lv.models.VAE.mlp(2, 1, hidden=(3,), likelihood="gaussian", dtype=torch.float64)
    fitted = lv.fit(vae, x, lv.SVI(passes=2, guide=lv.Delta()), progress=False)
    with pytest.raises(SupportError, match="continuous locals"):
        fitted.standard_errors()


class _Cube(torch.autograd.Function):
    """x³ with a right first derivative that autograd takes for a constant: a trap for second derivatives."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.slope = 3 * x.detach() ** 2
        return x**3

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * ctx.slope


class _Once(torch.autograd.Function):
    """x³ that refuses to be differentiated twice."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * 3 * ctx.saved_tensors[0] ** 2


class Cubed:
    """x ~ N(a³, 1)."""

    def __init__(self, cube) -> None:
        self.cube = cube

    def model(self, rows: lv.Batch) -> None:
        a = pyro.sample("a", lv.flat(()))
        with rows.plate():
            pyro.sample("x", dist.Normal(self.cube(a), 1.0), obs=rows.x)


@pytest.mark.parametrize("cube", [_Cube.apply, _Once.apply], ids=["wrong", "refused"])
def test_where_second_derivatives_fail_differences_take_their_place(cube) -> None:
    x = np.random.default_rng(11).normal(8.0, 1.0, 30)
    a = 0.98 * np.cbrt(x.mean())  # a little off the maximum, where the second derivative of the cube has no part
    with pytest.warns(UserWarning, match="differences"):
        found = lv.from_point(Cubed(cube), x, {"a": a}).standard_errors()
    assert not found.exact
    assert float(found.information) == pytest.approx(30 * 9 * a**4 - 6 * a * (x - a**3).sum(), rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_differences_of_gradients_equal_exact_second_derivatives(name: str) -> None:
    fit = near_fit(name)
    exact = derivatives(fit.program, fit.point, fit.rows)
    rough = _differenced(fit.program, inner_point(fit.program, fit.point), fit.rows)
    assert torch.allclose(exact.information, rough.information, atol=1e-4 * float(exact.information.abs().max()))
    assert torch.allclose(exact.rows, rough.rows, atol=1e-4 * float(exact.rows.abs().max()))


def test_prior_counts_in_the_information() -> None:
    class Shrunk:
        def model(self, rows: lv.Batch) -> None:
            loc = pyro.sample("loc", dist.Normal(0.0, 0.5))
            with rows.plate():
                pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)

    x = np.random.default_rng(12).normal(size=20)
    fit = lv.from_point(Shrunk(), x, {"loc": x.sum() / (20 + 4)})
    found = fit.standard_errors()
    assert float(found["loc"]) == pytest.approx(1 / np.sqrt(24)) and found.exact


def test_summary_has_errors_and_intervals() -> None:
    fit = lv.fit(lv.models.GaussianMixture(2), blobs(), TIGHT, progress=False)
    table, found = fit.summary(probability=0.95), fit.standard_errors()
    assert list(table.columns) == ["estimate", "sd", "ci95_lb", "ci95_ub"]
    assert np.allclose(table["sd"], torch.cat([found[name].flatten() for name in fit.point]))
    assert np.allclose(table["ci95_ub"][:2], found.interval(0.95)["weights"][:, 1])
    assert list(fit.summary(errors=None).columns) == ["estimate"]
    robust = fit.summary(errors="sandwich")
    assert np.allclose(robust["sd"][:2], fit.standard_errors("sandwich")["weights"])


def test_earthquakes_errors_agree_with_differences_of_the_published_likelihood(truth: Path) -> None:
    x = np.loadtxt(truth / "earthquakes" / "earthquakes.csv", delimiter=",", skiprows=1, usecols=1)
    model = lv.models.HiddenMarkov(2, lv.emissions.Poisson(), initial="stationary")
    fit = lv.from_point(model, x, {"transition": [[0.934, 0.066], [0.1285, 0.8715]], "rate": [[15.472], [26.125]]})
    found, program = fit.standard_errors(), fit.program
    u = inner_point(program, found.point)
    hessian = -second_differences(lambda v: total(program, fit.rows, v), u)
    covariance = found.jacobian @ torch.linalg.inv(hessian) @ found.jacobian.mT
    errors = torch.cat([found["transition"].flatten(), found["rate"].flatten()])
    assert program.space.names == ("transition", "rate")
    assert torch.allclose(errors, covariance.diagonal().sqrt(), rtol=1e-6)
    # an independent program (autograd of a filter written out by hand) gave these
    assert torch.allclose(errors, torch.tensor([0.0354, 0.0354, 0.0638, 0.0638, 0.7026, 1.3601]).double(), rtol=2e-3)
