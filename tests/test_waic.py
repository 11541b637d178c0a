"""WAIC: against its formula on the log-likelihoods, and the closed form of a conjugate model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

import latentvars as lv
from latentvars.errors import KindError, SettingError, SupportError


@dataclass(frozen=True)
class Normal:
    """x ~ N(mu, 1), mu ~ N(0, 10)."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 10.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, 1.0), obs=rows["x"])


def data(size: int = 40) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(0.7, 1.0, size)}


def closed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log predictive density and Var[log p(x_n | mu)] under mu ~ N(m, v), by hand: the log-likelihood is
    −(x − mu)² / 2, whose variance is v (x − m)² + v² / 2."""
    v = 1 / (0.01 + len(x))
    m = v * x.sum()
    return stats.norm(m, np.sqrt(1 + v)).logpdf(x), v * (x - m) ** 2 + v**2 / 2


@pytest.fixture(scope="module")
def fitted() -> lv.Fit:
    pytest.importorskip("nutpie")
    return lv.fit(Normal(), data(), lv.NUTS(draws=1_000, tune=200, chains=2), progress=False)


def test_it_is_the_formula_on_the_log_likelihoods(fitted: lv.Fit) -> None:
    found = lv.waic(fitted, unit="row", draws=2_000)
    scores = fitted.to_datatree(predictive=False, latents=False)["log_likelihood"]["x"].values.reshape(-1, 40)
    p = scores.var(0, ddof=1)
    np.testing.assert_allclose(found.p_i, p, rtol=1e-9)
    np.testing.assert_allclose(found.elpd_i, logsumexp(scores, 0) - np.log(len(scores)) - p, rtol=1e-9)
    assert found.se == pytest.approx(np.sqrt(40) * found.elpd_i.std())


def test_it_is_the_closed_form_and_near_leave_one_out(fitted: lv.Fit) -> None:
    found = lv.waic(fitted, unit="row", draws=2_000)
    density, p = closed(data()["x"])
    np.testing.assert_allclose(found.elpd_i, density - p, atol=0.02)
    assert found.p == pytest.approx(p.sum(), rel=0.1)
    assert found.elpd == pytest.approx(lv.loo(fitted, unit="row").elpd, abs=0.1)
    assert "only for comparison" in str(found) and "lv.loo" in str(found)


def test_draws_of_a_guide_are_weighted_towards_the_posterior() -> None:
    fit = lv.fit(Normal(), data(), lv.SVI(passes=1, guide=lv.MeanField(0.32)), start={"mu": 0.65}, progress=False)
    found = lv.waic(fit, unit="row", draws=2_000)
    density, p = closed(data()["x"])
    np.testing.assert_allclose(found.elpd_i, density - p, atol=0.02)
    assert found.p == pytest.approx(p.sum(), rel=0.1)  # of the draws as they are it is four times as large


def test_where_it_fails_it_says_so() -> None:
    pytest.importorskip("nutpie")
    x = {"x": np.r_[np.linspace(-1, 1, 11), 6.0]}
    fit = lv.fit(Normal(), x, lv.NUTS(draws=300, tune=200, chains=2), progress=False)
    with pytest.warns(UserWarning, match=r"1 of 12 rows[\s\S]*lv\.loo"):
        found = lv.waic(fit, unit="row")
    assert found.unreliable.tolist() == [11] and "1 rows with p above 0.4" in str(found)


def test_what_has_none_is_refused(fitted: lv.Fit) -> None:
    with pytest.raises(KindError, match="a point"):
        lv.waic(lv.from_point(Normal(), data(), {"mu": 0.5}), unit="row")
    with pytest.raises(SettingError, match='write unit="row"'):
        lv.waic(fitted, unit="sequence")
    x = (np.random.default_rng(0).random((30, 4)) > 0.5).astype(float)
    vae = lv.fit(lv.models.VAE.mlp(4, 2, (3,)), x, lv.SVI(passes=1), progress=False)
    with pytest.raises(SupportError, match="lower bounds"):
        lv.waic(vae, unit="row")
