"""Leave-one-out: against its closed form in a conjugate model, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import latentvars as lv
from latentvars.errors import DataError, KindError, NumericalError, SettingError, SupportError

NUTS = lv.NUTS(draws=500, tune=300, chains=2)


@dataclass(frozen=True)
class Normal:
    """x ~ N(mu, 1), mu ~ N(0, spread)."""

    spread: float = 10.0

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), self.spread))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, 1.0), obs=rows["x"])


def data(seed: int = 0, size: int = 40) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(0.7, 1.0, size)}


def exact(x: np.ndarray, spread: float = 10.0) -> np.ndarray:
    """log p(x_n | x without n), by hand."""
    precision = spread**-2 + len(x) - 1
    mean = (x.sum() - x) / precision
    return stats.norm(mean, np.sqrt(1 + 1 / precision)).logpdf(x)


@pytest.fixture(scope="module")
def fitted() -> lv.Fit:
    pytest.importorskip("nutpie")
    return lv.fit(Normal(), data(), NUTS, progress=False)


def test_by_draws_it_is_the_closed_form(fitted: lv.Fit) -> None:
    found = lv.loo(fitted, unit="row")
    np.testing.assert_allclose(found.elpd_i, exact(data()["x"]), atol=0.02)
    assert found.elpd == pytest.approx(exact(data()["x"]).sum(), abs=0.1)
    assert float(np.max(found.pareto_k)) < 0.7
    in_sample = stats.norm(data()["x"].mean(), 1).logpdf(data()["x"]).sum()
    assert found.elpd < in_sample - 0.5


def test_draws_of_a_guide_are_weighted_towards_the_posterior() -> None:
    """A guide twice as wide as the posterior gives the same."""
    fit = lv.fit(Normal(), data(), lv.SVI(passes=1, guide=lv.MeanField(0.32)), start={"mu": 0.65}, progress=False)
    found = lv.loo(fit, unit="row", draws=4_000)
    np.testing.assert_allclose(found.elpd_i, exact(data()["x"]), atol=0.03)


def test_the_model_that_predicts_better_comes_first(fitted: lv.Fit) -> None:
    narrow = lv.fit(Normal(0.05), data(), NUTS, progress=False)
    table = lv.compare({"narrow": narrow, "wide": fitted}, unit="row")
    assert list(table.index) == ["wide", "narrow"]
    assert table.loc["wide", "weight"] > 0.9
    expected = exact(data()["x"]).sum() - exact(data()["x"], 0.05).sum()
    assert abs(table.loc["narrow", "elpd_diff"]) == pytest.approx(expected, abs=0.3)


def test_a_sequence_is_left_out_as_a_whole() -> None:
    pytest.importorskip("nutpie")
    x = np.random.default_rng(1).poisson(3.0, 60)
    priors = {
        "rate": dist.Gamma(torch.full((2, 1), 2.0), 0.5).to_event(2),
        "transition": dist.Dirichlet(torch.ones(2, 2)).to_event(1),
        "initial": dist.Dirichlet(torch.ones(2)),
    }
    model = lv.models.HiddenMarkov(2, lv.emissions.Poisson(), priors=priors)
    rows = lv.Rows(x[:, None], lengths=[10] * 6)
    fit = lv.fit(model, rows, lv.NUTS(draws=30, tune=40, chains=2), progress=False)
    found = lv.loo(fit, unit="sequence")
    assert found.n_data_points == 6
    with pytest.raises(SettingError, match='write unit="sequence"'):
        lv.loo(fit, unit="row")


def test_what_cannot_be_left_out_is_refused(fitted: lv.Fit) -> None:
    point = lv.from_point(Normal(), data(), {"mu": 0.5})
    with pytest.raises(KindError, match=r"a point[\s\S]*lv\.NUTS"):
        lv.loo(point, unit="row")
    with pytest.raises(SettingError, match='unit="row"'):
        lv.loo(fitted, unit="sequence")
    with pytest.raises(SettingError, match="unit='step'"):
        lv.loo(fitted, unit="step")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one row"):
        lv.loo(lv.from_point(Normal(), data(size=1), {"mu": 0.5}), unit="row")
    weighted = lv.Rows(data(), weights=np.arange(1.0, 41.0))
    with pytest.raises(DataError, match="weights"):
        lv.loo(lv.from_point(Normal(), weighted, {"mu": 0.5}), unit="row")
    with pytest.raises(DataError, match=r"'a' and 'b' of different data"):
        lv.compare({"a": fitted, "b": lv.from_point(Normal(), data(1), {"mu": 0.5})}, unit="row")
    with pytest.raises(SettingError, match="1 fits"):
        lv.compare({"a": fitted}, unit="row")
    with pytest.raises(SettingError, match="weights='x'"):
        lv.compare({"a": fitted, "b": fitted}, unit="row", weights="x")  # type: ignore[arg-type]
    broken = replace(fitted.globals, free=fitted.globals.free.clone().fill_(torch.nan))  # type: ignore[type-var]
    with pytest.raises(NumericalError, match=r"not finite|non-finite"):
        lv.loo(replace(fitted, globals=broken), unit="row")


@dataclass(frozen=True)
class Other:
    """Scores another column of the same rows."""

    column: str

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with rows.plate():
            pyro.sample(self.column, dist.Normal(mu, 1.0), obs=rows[self.column])


def test_models_of_other_columns_are_not_compared() -> None:
    pytest.importorskip("nutpie")
    rows = lv.Rows({"a": data()["x"], "b": data(1)["x"]})
    short = lv.NUTS(draws=20, tune=30, chains=1)
    fits = {name: lv.fit(Other(name), rows, short, progress=False) for name in ("a", "b")}
    with pytest.raises(DataError, match="the same columns"):
        lv.compare(fits, unit="row")


def test_bounds_are_no_likelihoods() -> None:
    x = (np.random.default_rng(0).random((30, 4)) > 0.5).astype(float)
    fit = lv.fit(lv.models.VAE.mlp(4, 2, (3,)), x, lv.SVI(passes=1), progress=False)
    with pytest.raises(SupportError, match="lower bounds"):
        lv.loo(fit, unit="row")
