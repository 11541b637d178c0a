"""Simulation-based calibration: uniform ranks for the exact posterior, and the power to see one that is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import latentvars as lv
from latentvars.errors import KindError, ModelError, NameUnknownError, SettingError
from latentvars.inference.sampling import Draws
from latentvars.studies.calibration_result import Calibration

ZERO, ONE = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
SIZE = 12


class Mean:
    """x ~ N(mu, 1), mu ~ N(0, 1): the posterior is N(Σx / (N + 1), 1 / (N + 1))."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(ZERO, ONE))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, ONE), obs=rows.x)


class Flat:
    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", lv.flat(()))
        with rows.plate():
            pyro.sample("x", dist.Normal(mu, ONE), obs=rows.x)


def conjugate(model: Any, rows: lv.Rows, seed: int, narrow: float = 1.0, shift: float = 0.0) -> lv.Fit:
    """Exact draws, or draws that are too narrow, or moved by some of their deviation."""
    fit = lv.from_point(model, rows, {"mu": 0.0})
    precision = len(rows) + 1.0
    noise = torch.randn(1, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed % 2**31))
    free = rows["x"].sum() / precision + (narrow * noise + shift) / math.sqrt(precision)
    return replace(fit, globals=Draws(fit.program.space, free, {"lp": torch.zeros(1, 40)}), status=lv.Status.DRAWN)


def run(**settings: Any) -> Calibration:
    method = partial(conjugate, **settings)
    return lv.calibrate(Mean(), np.zeros(SIZE), method, simulations=80, draws=40, workers=1, progress=False)


def test_the_exact_posterior_has_uniform_ranks() -> None:
    found = run()
    assert set(found.ranks) == {"mu", "log_likelihood"}
    assert found.simulations == 80 and found.holds()
    table = found.table()
    assert abs(table.loc["mu", "shift"]) < 0.3 and table.loc["mu", "spread"] == pytest.approx(1.0, abs=0.2)
    assert stats.kstest((found.ranks["mu"] + 0.5) / 41, "uniform").pvalue > 0.01
    assert "not rejected" in str(found)


@pytest.mark.parametrize(
    ("settings", "column", "sign"), [({"narrow": 0.6}, "spread", 1), ({"shift": 0.7}, "shift", -1)]
)
def test_a_wrong_posterior_is_found(settings: dict[str, float], column: str, sign: int) -> None:
    found = run(**settings)
    assert not found.holds() and found.p_values["mu"] < 0.001
    assert sign * (found.table().loc["mu", column] - (column == "spread")) > 0.2
    assert "not uniform" in str(found)


def test_p_values_of_uniform_ranks_are_uniform() -> None:
    noise = np.random.default_rng(0)
    ranks = {f"q{k}": noise.integers(0, 21, 80) for k in range(120)}
    found = np.array(list(Calibration(ranks, 20).p_values.values()))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_the_band_holds_uniform_ranks() -> None:
    noise = np.random.default_rng(1)
    found = Calibration({f"q{k}": noise.integers(0, 21, 80) for k in range(150)}, 20)
    tests = list(found.tests.values())
    assert tests[0].points[0] == pytest.approx(1 / 21) and len(tests[0].points) == 20
    inside = [((test.distribution >= test.low) & (test.distribution <= test.high)).all() for test in tests]
    assert np.mean(inside) > 0.9


def test_the_picture_shows_the_ranks() -> None:
    noise = np.random.default_rng(2)
    found = Calibration({"mu": noise.integers(0, 21, 80), "sigma": noise.integers(0, 21, 80)}, 20)
    figure = lv.plots.calibration(found)
    axis = figure.axes[0]
    line = axis.lines[1].get_ydata()
    expected = (found.ranks["mu"][:, None] < np.arange(1, 21)).mean(0) - np.arange(1, 21) / 21
    np.testing.assert_allclose(line, expected, atol=1e-12)
    with pytest.raises(NameUnknownError, match="tau"):
        lv.plots.calibration(found, ["tau"])


@dataclass(frozen=True)
class Groups:
    """Two normals of equal weight."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(ZERO, 3 * ONE).expand([2]).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(loc[z], ONE), obs=rows.x)


def test_labels_are_put_in_order() -> None:
    pytest.importorskip("nutpie")
    sampler = lv.NUTS(draws=20, tune=30, chains=1)
    found = lv.calibrate(Groups(), np.zeros(20), sampler, simulations=10, draws=20, workers=1, progress=False)
    assert {"loc[0]", "loc[1]", "log_likelihood"} == set(found.ranks)
    assert found.simulations + len(found.failures) == 10


def test_bad_input() -> None:
    with pytest.raises(SettingError, match="at least 10"):
        lv.calibrate(Mean(), np.zeros(4), conjugate, simulations=5)
    with pytest.raises(ModelError, match="flat priors"):
        lv.calibrate(Flat(), np.zeros(4), conjugate)
    with pytest.raises(KindError, match="point"):
        lv.calibrate(Mean(), np.zeros(4), lv.EM(), simulations=10, workers=1, progress=False)


def test_ranks_are_among_exactly_as_many_draws_as_are_asked_for() -> None:
    def four_chains(model: Any, rows: lv.Rows, seed: int) -> lv.Fit:
        fit = conjugate(model, rows, seed)
        noise = torch.randn(4, 15, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed % 2**31))
        free = rows["x"].sum() / (len(rows) + 1.0) + noise / math.sqrt(len(rows) + 1.0)
        return replace(fit, globals=Draws(fit.program.space, free, {"lp": torch.zeros(4, 15)}))

    settings: dict[str, Any] = {"workers": 1, "progress": False}
    found = lv.calibrate(Mean(), np.zeros(SIZE), four_chains, simulations=40, draws=50, **settings)
    assert found.draws == 50 and max(int(ranks.max()) for ranks in found.ranks.values()) > 48
    with pytest.raises(SettingError, match="leaves 60"):
        lv.calibrate(Mean(), np.zeros(SIZE), four_chains, simulations=10, draws=70, **settings)
