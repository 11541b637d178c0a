"""The bootstrap likelihood-ratio test: closed forms of nested normals, levels, power, and bad optima."""

from __future__ import annotations

import importlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import DataError, KindError, NumericalError, SettingError
from latentvars.randomness import derive
from latentvars.studies.resampling import resampling

# in the package the name of the module is that of its function
study = importlib.import_module("latentvars.studies.likelihood_ratio")


class Normal:
    """Mean and standard deviation of a sample."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat(()))
        scale = pyro.sample("scale", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, scale), obs=rows.x)


def sample(mean: float = 0.2, size: int = 40, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.5, size)


def nested(x: np.ndarray) -> tuple[lv.Fit, lv.Fit]:
    """A mean of zero, and a free one."""
    return (
        lv.fit(Normal(), x, fixed={"loc": 0.0}, progress=False),
        lv.fit(Normal(), x, progress=False),
    )


def closed(x: np.ndarray) -> float:
    """n log(Σ x² / Σ (x − x̄)²)."""
    return len(x) * float(np.log((x**2).sum() / ((x - x.mean()) ** 2).sum()))


def mixture(components: int, form: str = "tied") -> lv.models.GaussianMixture:
    return lv.models.GaussianMixture(components, covariance=form)


def fitted(model, x, restarts: int = 3) -> lv.Fit:
    return lv.fit(model, x, lv.EM(restarts=restarts, stop=lv.Tolerance(1e-6)), progress=False)


def run(small: lv.Fit, large, **settings) -> lv.LikelihoodRatio:
    return lv.likelihood_ratio(small, large, workers=1, progress=False, **settings)


def test_nested_normals_have_their_closed_form() -> None:
    """The ratio of the data and of every replicate; the p-value is that of a t test up to chance."""
    x = sample(0.45)
    small, large = nested(x)
    found = run(small, large, replicates=29, restarts=1, seed=3)
    assert found.statistic == pytest.approx(closed(x), abs=1e-6) and found.parameters == (1, 2)
    source = resampling(small, small.rows, "parametric", "frequency")
    for number in range(29):
        drawn = source.draw(derive(3, 21, number))["x"].numpy()
        assert float(found.replicates[number]) == pytest.approx(closed(drawn), abs=1e-6)
    exact = float(stats.ttest_1samp(x, 0.0).pvalue)
    assert found.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 29) + 0.01)
    count = int((found.replicates >= found.statistic).sum())
    assert found.p_value == (1 + count) / 30 and found.worse == 0 and found.failures == ()
    assert found.critical() == pytest.approx(np.quantile(found.replicates.numpy(), 0.95))
    assert "p = " in str(found) and "29 of 29" in str(found)


def test_components_that_are_there_are_found() -> None:
    x = np.random.default_rng(2).normal(size=60) + 5.0 * (np.arange(60) % 3 == 0)
    found = run(fitted(mixture(1), x), mixture(2), replicates=9, restarts=1)
    assert found.p_value == 1 / 10 and found.worse == 0 and found.large.model.components == 2  # type: ignore[attr-defined]
    again = run(fitted(mixture(2), x), fitted(mixture(3), x), replicates=9, restarts=2)
    assert again.p_value > 0.1


@pytest.mark.long
def test_of_data_without_them_p_is_about_uniform() -> None:
    """A small check of the level; benchmarks/calibrate.py has more."""
    found = []
    for number in range(5):
        x = np.random.default_rng(100 + number).normal(size=40)
        found.append(run(fitted(mixture(1), x, 1), mixture(2), replicates=9, restarts=1, seed=number).p_value)
    assert stats.kstest(np.array(found) - 0.05, "uniform").pvalue > 0.01  # steps of 0.1, their middles


def test_eruptions_have_two_groups_and_quakes_more_than_one_state(truth: Path) -> None:
    """Faithful: one normal is refuted (McLachlan & Peel 2000 find two groups), as is one Poisson law of the quakes."""
    x = np.loadtxt(truth / "faithful" / "faithful.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    assert x.shape == (272, 2)
    found = run(fitted(mixture(1), x), mixture(2), replicates=4, restarts=1)
    assert found.p_value == 0.2 and found.statistic > 10 * float(found.replicates.max())
    quakes = np.loadtxt(truth / "earthquakes" / "earthquakes.csv", delimiter=",", skiprows=1, usecols=1)
    chain = [lv.models.HiddenMarkov(k, lv.emissions.Poisson()) for k in (1, 2)]
    states = run(fitted(chain[0], quakes, 1), fitted(chain[1], quakes), replicates=4, restarts=1)
    assert states.p_value == 0.2 and states.statistic == pytest.approx(2 * (391.9189 - 341.8787), abs=0.01)


class Groups:
    """A user's own mixture of unit variance."""

    def __init__(self, components: int) -> None:
        self.components = components

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((self.components,), constraints.simplex))
        loc = pyro.sample("loc", lv.flat((self.components,)))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


def test_models_of_ones_own() -> None:
    x = np.random.default_rng(3).normal(size=40) + 4.0 * (np.arange(40) % 2)
    small = fitted(Groups(1), x, 1)
    large = lv.fit(Groups(2), x, lv.EM(stop=lv.Tolerance(1e-6)), start={"loc": [0.0, 4.0]}, progress=False)
    here = run(small, large, replicates=3, restarts=1, seed=5)
    assert here.p_value == 0.25
    other = run(small, large, replicates=3, restarts=1, seed=6)
    assert not torch.equal(here.replicates, other.replicates)


def test_bad_optima_are_counted_and_said() -> None:
    """A larger model that is not fitted at all, and stands where its start is."""
    x = sample(0.0, 30)
    small, large = nested(x)
    stuck = replace(large, algorithm=lv.EM(passes=0))
    with pytest.warns(UserWarning, match=r"worse than the smaller one in \d+ of 20 replicates"):
        found = run(small, stuck, replicates=20, restarts=1)
    assert 0 < found.worse == int((found.replicates < -0.1).sum()) and found.unconverged == 20
    assert f"{found.worse} with a larger model that fits worse" in str(found)
    lower = lv.from_point(Normal(), x, {"loc": 9.0, "scale": 1.0})
    with pytest.warns(UserWarning, match="fits the data worse"):
        run(small, lower, replicates=1, restarts=1)


def test_failures_are_counted_and_an_interrupt_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = nested(sample(0.0, 20))
    honest, calls = study.again, []

    def fragile(fitter, data, *given, **settings) -> lv.Fit:
        if float(data["x"][0]) > 0:
            raise NumericalError("it broke", "whole", "mend it")
        return honest(fitter, data, *given, **settings)

    monkeypatch.setattr(study, "again", fragile)
    found = run(small, large, replicates=12, restarts=1)
    assert 0 < len(found.failures) < 12 and len(found) + len(found.failures) == 12
    assert found.failures[0] == "NumericalError: it broke" and "failed" in str(found)

    def slow(*given, **settings) -> lv.Fit:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(*given, **settings)

    monkeypatch.setattr(study, "again", slow)
    cut = run(small, large, replicates=20, restarts=1)
    assert cut.interrupted and len(cut) == 2 and "interrupted" in str(cut)

    def broken(*given, **settings) -> lv.Fit:
        raise NumericalError("it broke", "whole", "mend it")

    monkeypatch.setattr(study, "again", broken)
    with pytest.raises(NumericalError, match="it broke"):
        run(small, large, replicates=2)


def test_what_is_no_likelihood_ratio_is_refused() -> None:
    x = sample(0.0, 20)
    small, large = nested(x)
    with pytest.raises(SettingError, match="change their places"):
        run(large, small)
    with pytest.raises(DataError, match="different rows"):
        run(small, nested(sample(0.0, 21))[1])
    with pytest.raises(SettingError, match="replicates=0"):
        run(small, large, replicates=0)
    with pytest.raises(SettingError, match="level=5"):
        run(small, large, replicates=2, restarts=1).critical(5)
    guided = lv.fit(Normal(), x, lv.SVI(passes=1), progress=False)
    with pytest.raises(KindError, match=r"lv\.EM"):
        run(small, guided)
    with pytest.raises(KindError, match=r"lv\.EM"):
        run(guided, large)
