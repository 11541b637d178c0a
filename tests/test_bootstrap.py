"""The bootstrap against closed forms, standard errors and itself in several processes."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import DataError, ModelError, NumericalError, SettingError
from latentvars.posterior.alignment import Labels
from latentvars.posterior.information import inner_point
from latentvars.randomness import derive
from latentvars.studies.parallel import spread
from latentvars.studies.resampling import ByRows, resampling

# in the package the name of the module is that of its function
study = importlib.import_module("latentvars.studies.bootstrap")


class Normal:
    """Mean and standard deviation of a sample: its estimates are closed."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat(()))
        scale = pyro.sample("scale", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, scale), obs=rows.x)


class Line:
    """A regression. Columns ``y`` and ``t``."""

    def model(self, rows: lv.Batch) -> None:
        slope = pyro.sample("slope", lv.flat(()))
        scale = pyro.sample("scale", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("y", dist.Normal(slope * rows["t"], scale), obs=rows["y"])


class Unnamed:
    """A mixture that does not name its axes."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((2,), constraints.simplex))
        loc = pyro.sample("loc", lv.flat((2,)))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


class Named(Unnamed):
    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"weights": ("component",), "loc": ("component",)}


def sample(size: int = 60) -> np.ndarray:
    return np.random.default_rng(91).normal(1.0, 2.0, size)


def two_groups() -> np.ndarray:
    return np.random.default_rng(92).normal(size=80) + 4.0 * (np.arange(80) % 4 == 0)


def chains() -> lv.Rows:
    noise = np.random.default_rng(93)
    lengths = [12, 9, 20, 15, 7, 11, 14, 10]
    states = np.concatenate([(np.cumsum(noise.random(n) < 0.2) + k) % 2 for k, n in enumerate(lengths)])
    return lv.Rows(noise.poisson(np.where(states == 1, 12.0, 3.0)), lengths=lengths)


def fitted(model, data, algorithm: lv.EM | None = None) -> lv.Fit:
    return lv.fit(model, data, algorithm or lv.EM(), progress=False)


def run(fit: lv.Fit, **settings) -> lv.Bootstrap:
    return lv.bootstrap(fit, workers=1, progress=False, **settings)


def test_resampled_weights_are_counts_and_the_refit_is_that_of_the_drawn_rows() -> None:
    x = sample()
    found = run(fitted(Normal(), x), replicates=5, seed=3)
    source = ByRows(lv.Rows(x), sampling=False)
    for number in range(5):
        weights = source.draw(derive(3, 20, number)).weights.numpy()
        assert weights.sum() == 60 and np.array_equal(weights, weights.round())
        drawn = np.repeat(x, weights.astype(int))
        assert float(found["loc"][number]) == pytest.approx(drawn.mean(), abs=1e-6)
        assert float(found["scale"][number]) == pytest.approx(drawn.std(), rel=1e-6)


def test_errors_and_intervals_are_those_of_the_replicates() -> None:
    x = sample()
    fit = fitted(Normal(), x)
    found = run(fit, replicates=60)
    draws = found["scale"].numpy()
    assert float(found.standard_errors()["scale"]) == pytest.approx(draws.std(ddof=1))
    # 60 replicates: relative error 9 %
    assert float(found.standard_errors()["loc"]) == pytest.approx(x.std() / np.sqrt(60), rel=0.3)
    assert float(found.bias()["scale"]) == pytest.approx(draws.mean() - x.std(), abs=1e-6)
    assert np.allclose(found.interval()["scale"], np.quantile(draws, [0.025, 0.975]))
    error = draws.std(ddof=1) / x.std()
    assert float(found.interval(kind="normal")["scale"][1]) == pytest.approx(
        x.std() * np.exp(1.959964 * error), rel=1e-5
    )
    shift = norm.ppf(np.mean(draws < float(fit.point["scale"])))
    ends = norm.cdf(2 * shift + norm.ppf([0.025, 0.975]))
    assert np.allclose(found.interval(kind="bias-corrected")["scale"], np.quantile(draws, ends))
    assert found.failed == 0 and found.unconverged == 0 and found.aligned and not found.interrupted


def test_parametric_draws_come_from_the_model_and_covariates_stay() -> None:
    t = np.linspace(-1, 1, 50)
    data = {"y": 2.0 * t + np.random.default_rng(94).normal(size=50), "t": t}
    fit = fitted(Line(), data)
    source = resampling(fit, fit.rows, "parametric", "frequency")
    found = run(fit, replicates=3, kind="parametric", seed=4)
    for number in range(3):
        drawn = source.draw(derive(4, 20, number))
        assert torch.equal(drawn["t"], fit.rows["t"])
        slope = float((drawn["y"] * drawn["t"]).sum() / drawn["t"].square().sum())
        assert float(found["slope"][number]) == pytest.approx(slope, abs=1e-5)
    noise = torch.stack([source.draw(seed)["y"] for seed in range(100)]) - fit.point["slope"] * fit.rows["t"]
    assert float(noise.std() / fit.point["scale"]) == pytest.approx(1.0, abs=0.04)  # 5,000 numbers: error 1 %
    assert abs(float(noise.mean() / fit.point["scale"])) < 0.06


def test_parametric_sequences_keep_lengths_and_kinds() -> None:
    fit = fitted(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), chains())
    source = resampling(fit, fit.rows, "parametric", "frequency")
    drawn = source.draw(5)
    assert torch.equal(drawn.lengths, fit.rows.lengths) and drawn["x"].dtype == fit.rows["x"].dtype
    assert drawn["x"].shape == fit.rows["x"].shape and not torch.equal(drawn["x"], fit.rows["x"])
    assert torch.equal(drawn["x"], source.draw(5)["x"])
    found = run(fit, replicates=3, kind="parametric")
    assert found["transition"].shape == (3, 2, 2)


def test_weights_two_ways() -> None:
    x, weights = sample(40), np.arange(40) % 3
    rows = lv.Rows(x, weights=weights)
    fit = fitted(Normal(), rows)
    frequency = resampling(fit, rows, "rows", "frequency").draw(1).weights
    sampling = resampling(fit, rows, "rows", "sampling").draw(1).weights
    assert float(frequency.sum()) == weights.sum() and bool((frequency[weights == 0] == 0).all())
    assert (
        bool((sampling[weights == 2] % 2 == 0).all()) and float((sampling.numpy() / np.maximum(weights, 1)).sum()) == 26
    )
    drawn = resampling(fit, rows, "parametric", "frequency").draw(1)
    assert len(drawn) == weights.sum() and bool((drawn.weights == 1).all())
    with pytest.raises(SettingError, match="whole numbers"):
        resampling(fit, lv.Rows(x, weights=np.full(40, 0.5)), "parametric", "frequency")


def test_another_seed_gives_other_replicates() -> None:
    fit = fitted(Named(), two_groups())
    here, again, other = (run(fit, replicates=2, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(here["loc"], again["loc"]) and not torch.equal(here["loc"], other["loc"])


def test_labels_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted(Named(), two_groups())
    swap = Labels("z", {"weights": (0,), "loc": (0,)})
    honest = study.again

    def switched(*given, **settings) -> lv.Fit:
        found = honest(*given, **settings)
        return lv.from_point(found.model, found.rows, swap.permuted(found.point, torch.tensor([1, 0])))

    expected = run(fit, replicates=4)
    monkeypatch.setattr(study, "again", switched)
    found = run(fit, replicates=4)
    assert found.aligned
    assert torch.allclose(found["loc"], expected["loc"])
    assert torch.allclose(found["weights"], expected["weights"])
    unnamed = lv.from_point(Unnamed(), two_groups(), fit.point)
    with pytest.warns(UserWarning, match="not aligned for label switching of z"):
        blind = run(unnamed, replicates=4)
    assert not blind.aligned and "not aligned" in str(blind)
    assert torch.allclose(blind["loc"], expected["loc"].flip(-1), atol=1e-3)


def test_chains_are_resampled_whole_and_aligned() -> None:
    fit = fitted(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), chains())
    found = run(fit, replicates=6, restarts=1)
    assert found.aligned and len(found) == 6
    order = fit.point["rate"].flatten().argsort()
    assert bool((found["rate"][:, order, 0].diff(dim=1) > 0).all())


def test_what_was_estimated_as_zero_can_return() -> None:
    """Replicates start with probabilities of at least 0.001; exact zeros of a simplex may be structure, and stay."""
    starts = []

    def noted(fitter, *given, **settings) -> lv.Fit:
        starts.append(fitter.start)
        raise NumericalError("noted", "", "")

    transition = torch.tensor([[1.0, 1e-30], [0.0, 1.0]], dtype=torch.float64)
    point = {"initial": [0.5, 0.5], "transition": transition, "probs": [[1e-18, 0.5], [1.0, 1e-3]]}
    rows = lv.Rows(np.random.default_rng(95).integers(0, 2, (12, 2)).astype(float), lengths=[4, 4, 4])
    fit = lv.from_point(lv.models.HiddenMarkov(2, lv.emissions.Bernoulli(2)), rows, point)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(NumericalError):
        patch.setattr(study, "again", noted)
        run(fit, replicates=2)
    for start in starts:
        assert start["probs"].tolist() == [[1e-3, 0.5], [0.999, 1e-3]]
        assert torch.allclose(start["transition"], torch.tensor([[1.0, 1e-3], [0.0, 1.001]]).double() / 1.001)
        assert float(start["transition"][1, 0]) == 0.0


def test_failures_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = study.again

    def fragile(fitter, data, *given, **settings) -> lv.Fit:
        if float(data.weights[0]) > 0:
            raise NumericalError("it broke", "whole", "mend it")
        return honest(fitter, data, *given, **settings)

    monkeypatch.setattr(study, "again", fragile)
    fit = fitted(Normal(), sample(20))
    found = run(fit, replicates=30)
    assert 0 < found.failed < 30 and len(found) + found.failed == 30
    assert found.failures[0] == "NumericalError: it broke"
    assert f"{found.failed} failed" in str(found)
    limited = run(fitted(Named(), two_groups(), lv.EM(passes=1)), replicates=4)
    assert limited.unconverged == len(limited)


def test_that_all_fail_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given, **settings) -> lv.Fit:
        raise NumericalError("it broke", "whole", "mend it")

    fit = fitted(Normal(), sample(20))
    monkeypatch.setattr(study, "again", broken)
    with pytest.raises(NumericalError, match="it broke"):
        run(fit, replicates=3)


def test_an_interrupt_leaves_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, count = study.again, []

    def slow(*given, **settings) -> lv.Fit:
        count.append(1)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(*given, **settings)

    fit = fitted(Normal(), sample(20))
    monkeypatch.setattr(study, "again", slow)
    found = run(fit, replicates=50)
    assert found.interrupted and len(found) == 3 and "interrupted" in str(found)


def test_long_work_moves_to_processes_and_keeps_every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentvars.studies.parallel.TRIED_SECONDS", -1.0)
    monkeypatch.setattr("latentvars.studies.parallel.LONG_SECONDS", -1.0)
    monkeypatch.setattr("latentvars.studies.parallel.joblib.cpu_count", lambda: 2)
    found = [value for chunk in spread(sum_each, range(7), None) for value in chunk]
    assert sorted(found) == [0, 1, 4, 9, 16, 25, 36]


def sum_each(pieces) -> list[int]:
    return [piece**2 for piece in pieces]


def test_a_tree_for_arviz() -> None:
    import arviz_stats

    fit = fitted(lv.models.GaussianMixture(2, 1, "spherical"), two_groups())
    found = run(fit, replicates=10)
    tree = found.to_datatree()
    assert tree["bootstrap"]["loc"].dims == ("chain", "draw", "component", "feature")
    assert tree["bootstrap"].attrs["failed"] == 0
    table = arviz_stats.summary(tree, group="bootstrap", kind="stats", round_to="none")
    assert float(table["sd"].iloc[0]) == pytest.approx(float(found["weights"][:, 0].std(correction=0)), rel=1e-6)


def test_refusals() -> None:
    fit = fitted(Normal(), sample(20))
    for settings, message in (
        ({"replicates": 1}, "at least 2"),
        ({"kind": "jackknife"}, "rows"),
        ({"weights": "other"}, "frequency"),
    ):
        with pytest.raises(SettingError, match=message):
            run(fit, **settings)
    with pytest.raises(SettingError, match="workers=0"):
        lv.bootstrap(fit, workers=0)
    with pytest.raises(SettingError, match="level"):
        run(fit, replicates=2).interval(95)
    chain = fitted(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), chains()["x"].numpy(), lv.EM(passes=5))
    with pytest.raises(SettingError, match=r"(?s)one sequence.*parametric"):
        run(chain)

    class Halves:
        def model(self, rows: lv.Batch) -> None:
            loc = pyro.sample("loc", lv.flat(()))
            with rows.plate():
                pyro.sample("a", dist.Normal(loc, 1.0), obs=rows.x[:, 0])
                pyro.sample("b", dist.Normal(loc, 1.0), obs=rows.x[:, 1])

    halves = lv.from_point(Halves(), sample(20).reshape(10, 2), {"loc": 0.0})
    with pytest.raises(ModelError, match="not each a column"):
        run(halves, kind="parametric")
    assert len(run(halves, replicates=3)) == 3


def test_earthquakes_replicates_lie_within_the_claimed_errors(truth: Path) -> None:
    """A small check; benchmarks/calibrate.py compares the errors with the spread of hundreds of replicates."""
    x = np.loadtxt(truth / "earthquakes" / "earthquakes.csv", delimiter=",", skiprows=1, usecols=1)
    model = lv.models.HiddenMarkov(2, lv.emissions.Poisson(), initial="stationary")
    fit = fitted(model, x, lv.EM(accelerate=True))
    found = run(fit, replicates=6, kind="parametric")
    errors = fit.standard_errors().covariance_free.diagonal().sqrt()
    points = [{name: value[k] for name, value in found.draws.items()} for k in range(6)]
    free = torch.stack([inner_point(fit.program, point) for point in points])
    z = (free - inner_point(fit.program, fit.point)) / errors
    assert bool((z.abs() < 4).all())
    assert 0.4 < float(z.square().mean().sqrt()) < 1.8  # 24 numbers: error 15 %


def test_replicates_stand_beside_the_point_in_one_tree() -> None:
    fit = fitted(Normal(), sample(20))
    found = run(fit, replicates=5)
    tree = fit.to_datatree(draws=3, bootstrap=found)
    assert np.array_equal(tree["bootstrap"]["loc"].to_numpy()[0], found["loc"])
    assert {"point_estimate", "log_likelihood", "bootstrap", "bootstrap_stats"} <= set(tree.children)
    assert "bootstrap" not in fit.to_datatree(draws=3).children
    with pytest.raises(DataError, match="another fit"):
        fitted(Normal(), sample(21)).to_datatree(draws=3, bootstrap=found)
