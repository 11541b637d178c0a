"""Laplace's approximation: exact normals, analytic curvature, what a fit by it can do, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from published_models import TwoNormals, numbers
from scipy import stats
from scipy.special import gammaln

import latentvars as lv
from latentvars.capture import Potential, Way
from latentvars.errors import KindError, NumericalError, SettingError, SupportError
from latentvars.inference.density import Normals, laplace

LOG_TWO_PI = np.log(2 * np.pi)


class Regression:
    """y ~ Normal(x beta, 0.5), beta ~ Normal(0, 2): everything is normal."""

    def model(self, rows: lv.Batch) -> None:
        beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 2.0).to_event(1))
        with rows.plate():
            pyro.sample("y", dist.Normal(rows["x"] @ beta, 0.5), obs=rows["y"])


class Counts:
    """y ~ Poisson(rate), rate ~ Gamma(3, 2): log rate has the density of the logarithm of a gamma variable."""

    def model(self, rows: lv.Batch) -> None:
        rate = pyro.sample("rate", dist.Gamma(numbers(3)[0], 2.0))
        with rows.plate():
            pyro.sample("y", dist.Poisson(rate), obs=rows["y"])


class Twice:
    """The data say nothing of the difference of two globals."""

    def model(self, rows: lv.Batch) -> None:
        a, b = pyro.sample("a", lv.flat(())), pyro.sample("b", lv.flat(()))
        with rows.plate():
            pyro.sample("y", dist.Normal(a + b, 1.0), obs=rows["y"])


class Local:
    """A continuous local."""

    def model(self, rows: lv.Batch) -> None:
        scale = pyro.sample("scale", dist.HalfNormal(numbers(1)[0]))
        with rows.plate():
            b = pyro.sample("b", dist.Normal(0 * scale, scale))
            pyro.sample("y", dist.Normal(b, 1.0), obs=rows["y"])

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("b", dist.Normal(rows["y"] / 2, 0.7))


class Network:
    """A network whose weights are no globals."""

    def __init__(self) -> None:
        self.network = torch.nn.Linear(1, 1)

    def model(self, rows: lv.Batch) -> None:
        scale = pyro.sample("scale", dist.HalfNormal(torch.ones(())))
        with rows.plate():
            pyro.sample("y", dist.Normal(self.network(rows["y"][:, None])[:, 0], scale), obs=rows["y"])


class Switch:
    """A discrete global."""

    def model(self, rows: lv.Batch) -> None:
        on = pyro.sample("on", dist.Bernoulli(numbers(0.5)[0]))
        loc = pyro.sample("loc", dist.Normal(numbers(0)[0], 1.0))
        with rows.plate():
            pyro.sample("y", dist.Normal(loc * on, 1.0), obs=rows["y"])


def line(size: int = 25) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(3)
    x = noise.normal(size=(size, 3))
    return {"x": x, "y": x @ [1.0, -0.5, 0.2] + 0.5 * noise.normal(size=size)}


def two(seed: int = 0) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed)
    return {"y": np.concatenate([noise.normal(-2, 1, 60), noise.normal(2, 1, 40)])}


def normals(fit: lv.Fit) -> Normals:
    assert isinstance(fit.globals, Normals)
    return fit.globals


def test_a_normal_posterior_is_met_exactly_with_its_evidence() -> None:
    data = line()
    fit = lv.fit(Regression(), data, lv.Laplace())
    precision = data["x"].T @ data["x"] / 0.25 + np.eye(3) / 4
    np.testing.assert_allclose(fit.point["beta"], np.linalg.solve(precision, data["x"].T @ data["y"] / 0.25), rtol=1e-7)
    factor = normals(fit).factors[0].numpy()
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(precision), rtol=1e-7)
    marginal = stats.multivariate_normal(np.zeros(25), 4 * data["x"] @ data["x"].T + 0.25 * np.eye(25))
    assert normals(fit).log_evidence == pytest.approx(marginal.logpdf(data["y"]), abs=1e-6)
    assert f"log evidence about {marginal.logpdf(data['y']):.4f} nats" in str(fit)
    values, log_q = fit.globals.draws(5, 3)
    exact = stats.multivariate_normal(fit.point["beta"].numpy(), np.linalg.inv(precision))
    assert log_q is not None
    np.testing.assert_allclose(log_q, exact.logpdf(values["beta"].numpy()), rtol=1e-6)


def test_the_maximum_is_that_on_the_unconstrained_scale() -> None:
    """u = log rate has the density a u − b exp(u) with a = 3 + Σ y, b = 2 + N: û = log(a / b), curvature a."""
    y = np.array([2.0, 4, 1, 3, 3, 0, 5])
    fit = lv.fit(Counts(), {"y": y}, lv.Laplace())
    a, b = 3 + y.sum(), 2 + len(y)
    assert float(fit.point["rate"]) == pytest.approx(a / b, rel=1e-7)
    assert float(normals(fit).factors[0, 0, 0]) == pytest.approx(a**-0.5, rel=1e-7)
    at_top = 3 * np.log(2) - gammaln(3) + a * np.log(a / b) - a - gammaln(y + 1).sum()
    assert normals(fit).log_evidence == pytest.approx(at_top + 0.5 * LOG_TWO_PI - 0.5 * np.log(a), abs=1e-8)
    exact = 3 * np.log(2) - gammaln(3) + gammaln(a) - a * np.log(b) - gammaln(y + 1).sum()
    assert normals(fit).log_evidence == pytest.approx(exact, abs=0.1 / a)
    rate, log_q = fit.globals.draws(4, 0)
    assert log_q is not None
    exact_q = stats.lognorm(a**-0.5, scale=a / b).logpdf(rate["rate"].numpy())
    np.testing.assert_allclose(log_q, exact_q, rtol=1e-6)


def test_curvature_of_a_mixture_is_that_of_differences() -> None:
    """Ordered means, scales, a probability; labels summed out; the gradient is zero at the top."""
    fit = lv.fit(TwoNormals(), two(), lv.Laplace(), start={"mu": [-1.5, 1.0], "sigma": [1.0, 1.0], "theta": 0.5})
    batch = fit.rows.batch(dtype=torch.float64)
    potential = Potential.of(fit.program, batch, fastest=Way.MODEL)
    top = normals(fit).locs[0]
    assert float(potential(top)[1].abs().max()) < 1e-3
    step = 1e-5 * torch.eye(5, dtype=torch.float64)
    hessian = torch.stack([(potential(top + h)[1] - potential(top - h)[1]) / 2e-5 for h in step])
    factor = normals(fit).factors[0]
    torch.testing.assert_close(factor @ factor.mT @ hessian, torch.eye(5, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def fitted() -> lv.Fit:
    return lv.fit(TwoNormals(), two(), lv.Laplace(), start={"mu": [-1.5, 1.0], "sigma": [1.0, 1.0], "theta": 0.5})


def test_everything_is_read_off_it(fitted: lv.Fit) -> None:
    table = fitted.summary()
    assert list(table.index) == ["mu[0]", "mu[1]", "sigma[0]", "sigma[1]", "theta"]
    deviation = float(normals(fitted).factors[0, 0].norm())
    assert table.loc["mu[0]", "sd"] == pytest.approx(deviation, rel=0.1)
    tree = fitted.to_datatree(draws=50)
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 50, "mu_dim_0": 2, "sigma_dim_0": 2}
    stats_ = tree["sample_stats"]
    assert set(stats_.data_vars) == {"lp", "log_q"}
    ratios = (stats_["lp"] - stats_["log_q"]).values
    assert abs(float(np.log(np.exp(ratios - ratios.max()).mean()) + ratios.max()) - normals(fitted).log_evidence) < 0.5
    assert fitted.draw_latents(draws=20)["z"].shape == (20, 100)
    assert fitted.status is lv.Status.CONVERGED
    with pytest.raises(KindError, match="Laplace"):
        lv.bootstrap(fitted)


def test_rows_left_out_of_a_normal_model() -> None:
    """Closed form: each row given the others is normal."""
    data = line()
    fit = lv.fit(Regression(), data, lv.Laplace())
    covariance = 4 * data["x"] @ data["x"].T + 0.25 * np.eye(25)
    precision = np.linalg.inv(covariance)
    variance = 1 / precision.diagonal()
    exact = stats.norm.logpdf(variance * (precision @ data["y"]), 0, variance**0.5).sum()
    assert float(lv.loo(fit, unit="row", draws=4_000).elpd) == pytest.approx(exact, abs=0.15)


def test_it_comes_back_from_disk_and_repeats(fitted: lv.Fit, tmp_path: Path) -> None:
    back = lv.load(fitted.save(tmp_path / "fit", datatree=False), model=TwoNormals())
    assert normals(back).log_evidence == normals(fitted).log_evidence
    one, other = fitted.globals.draws(7, 1), back.globals.draws(7, 1)
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1] is not None and other[1] is not None
    assert torch.equal(one[1], other[1])
    assert isinstance(back.algorithm, lv.Laplace)
    assert not torch.equal(fitted.globals.draws(7, 2)[0]["mu"], one[0]["mu"])


def test_partly_known_globals() -> None:
    fit = lv.fit(Regression(), line(), lv.Laplace(), fixed={"beta": [1.0, np.nan, np.nan]})
    assert normals(fit).locs.shape == (1, 2)
    assert bool((fit.globals.draws(9, 0)[0]["beta"][:, 0] == 1.0).all())


def test_flat_directions_and_saddles_are_named() -> None:
    with pytest.raises(NumericalError, match=r"flat at its maximum in a direction that moves a, b[\s\S]*prior"):
        lv.fit(Twice(), two(), lv.Laplace())
    # two components alike: a saddle, at which every gradient that would part them is zero
    model = lv.models.GaussianMixture(2, covariance="diag")
    start = {"weights": [0.5, 0.5], "loc": [[0.0], [0.0]], "scale": [[2.0], [2.0]]}
    with pytest.raises(NumericalError, match=r"rises from the point along|flat at its maximum"):
        lv.fit(model, two()["y"][:, None], lv.Laplace(), start=start)


class Separated:
    """Logistic regression of data that a threshold separates: the likelihood rises to one for ever."""

    def model(self, rows: lv.Batch) -> None:
        slope = pyro.sample("slope", lv.flat(()))
        loc = pyro.sample("loc", dist.Normal(numbers(0)[0], 1.0))
        with rows.plate():
            pyro.sample("y", dist.Bernoulli(logits=loc + slope * rows["x"]), obs=rows["y"])


def test_a_density_that_rises_for_ever_has_no_maximum() -> None:
    x = np.array([-2.0, -1, 1, 2, 3])
    with pytest.raises(NumericalError, match=r"flat at its maximum in a direction that moves slope|rise"):
        lv.fit(Separated(), {"x": x, "y": (x > 0).astype(float)}, lv.Laplace())


def test_a_climb_that_is_cut_short_is_no_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laplace, "NEWTON", 1)
    start = {"mu": [-9.0, 8.0], "sigma": [1.0, 9.0], "theta": 0.1}
    with pytest.raises(NumericalError, match=r"could still rise by|rises from the point"):
        lv.fit(TwoNormals(), two(), lv.Laplace(steps=1), start=start)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (Local(), r"Laplace on a model with the continuous locals \['b'\]"),
        (Network(), "Laplace on a model with network weights"),
        (Switch(), r"Laplace on a model with the discrete globals \['on'\]"),
    ],
)
def test_what_has_no_density_of_globals_is_refused(model: Any, problem: str) -> None:
    with pytest.raises(SupportError, match=problem):
        lv.fit(model, two(), lv.Laplace())


def test_settings_and_one_go(fitted: lv.Fit, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="steps"):
        lv.Laplace(steps=0)
    for name, value in {"resume": fitted, "backend": lv.Distributed(), "checkpoint": tmp_path / "x"}.items():
        with pytest.raises(SettingError, match=rf"lv\.Laplace with {name}="):
            lv.fit(TwoNormals(), two(), lv.Laplace(), **{name: value})
