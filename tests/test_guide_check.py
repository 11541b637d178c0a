"""What importance weights and NUTS say about a guide, against a conjugate posterior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import latentvars as lv
from latentvars.errors import KindError, SettingError
from latentvars.inference.guides.posteriors import Variational

ONE = torch.ones((), dtype=torch.float64)


class Mean:
    """x ~ N(mu, 1), mu ~ N(0, 1)."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(0 * ONE, ONE))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, ONE), obs=rows.x)


X = np.random.default_rng(0).normal(0.5, 1.0, 24)
PRECISION = len(X) + 1.0
EVIDENCE = -0.5 * (len(X) * np.log(2 * np.pi) + np.log(PRECISION) + X @ X - X.sum() ** 2 / PRECISION)


def guided(shift: float, width: float) -> lv.Fit:
    """A normal guide: the posterior's mean plus ``shift`` of its deviations, ``width`` times as wide."""
    fit = lv.fit(Mean(), X, lv.SVI(passes=2))
    assert isinstance(fit.globals, Variational)
    guide = fit.globals.guide
    with torch.no_grad():
        guide.loc.fill_(X.sum() / PRECISION + shift / PRECISION**0.5)  # type: ignore[operator]
        guide.log_scale.fill_(np.log(width / PRECISION**0.5))  # type: ignore[operator]
    return replace(fit, globals=Variational(guide))


def test_the_posterior_itself_has_no_gap() -> None:
    found = lv.check_guide(guided(0.0, 1.0), draws=500)
    assert found.elbo == pytest.approx(EVIDENCE, abs=1e-8)
    assert found.log_evidence == pytest.approx(EVIDENCE, abs=1e-8)
    assert found.good and found.effective == pytest.approx(500, rel=1e-6)


@pytest.mark.parametrize(("shift", "width"), [(0.3, 1.0), (0.0, 1.3), (-0.2, 0.8)])
def test_gap_shift_and_variance_are_the_closed_forms(shift: float, width: float) -> None:
    found = lv.check_guide(guided(shift, width), draws=3_000)
    gap = 0.5 * (width**2 + shift**2 - 1) - np.log(width)
    assert found.log_evidence == pytest.approx(EVIDENCE, abs=0.05)
    assert found.gap == pytest.approx(gap, abs=0.05)
    assert float(found.shift["mu"]) == pytest.approx(-shift, abs=0.1)
    assert float(found.ratio["mu"]) == pytest.approx(width**2, rel=0.15)
    assert "gap" in str(found) and found.table().loc["mu", "variance_ratio"] == pytest.approx(width**2, rel=0.15)


def test_a_guide_that_misses_the_posterior_is_named() -> None:
    found = lv.check_guide(guided(0.0, 0.3), draws=4_000)
    assert not found.good and "misses" in str(found)


def test_beside_nuts() -> None:
    pytest.importorskip("nutpie")
    fit = lv.fit(Mean(), X, lv.SVI(passes=1_500))
    found = lv.against_nuts(fit, rows=12, sampler=lv.NUTS(draws=600, tune=300, chains=2))
    assert len(found.fit.rows) == 12
    assert abs(float(found.shift["mu"])) < 0.2
    assert 0.6 < float(found.ratio["mu"]) < 1.4
    assert "beside NUTS on 12 rows" in str(found)


def test_bad_input() -> None:
    with pytest.raises(KindError, match="density"):
        lv.check_guide(lv.fit(Mean(), X, lv.EM()))
    with pytest.raises(SettingError, match="100"):
        lv.check_guide(guided(0.0, 1.0), draws=10)
    with pytest.raises(KindError, match="no algorithm"):
        lv.against_nuts(lv.from_point(Mean(), X, {"mu": 0.0}))
