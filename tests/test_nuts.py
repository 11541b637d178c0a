"""NUTS: published posteriors, exact draws of locals, what a fit by it can do, and what is refused."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from published_models import Schools, TwoNormals, TwoStates, numbers, published

import latentvars as lv
from latentvars.errors import KindError, ModelError, NumericalError, SettingError, SupportError
from latentvars.inference.sampling import Draws, chains

pytest.importorskip("nutpie")


def check(table: Any, expected: dict[str, tuple[float, float]]) -> None:
    """Means within .15 sd and three Monte Carlo errors, deviations within 15 %, chains that agree."""
    for name, (mean, sd) in expected.items():
        line = table.loc[name]
        assert abs(line["mean"] - mean) <= 0.15 * sd + 3 * line["mcse_mean"], name
        assert line["sd"] == pytest.approx(sd, rel=0.15), name
        assert line["r_hat"] < 1.01, name


def test_pdb1_a_mixture_with_ordered_means(truth: Path) -> None:
    y = np.array(published(truth, "low_dim_gauss_mix-low_dim_gauss_mix")["y"])
    fit = lv.fit(TwoNormals(), {"y": y}, lv.NUTS(draws=500, tune=500), progress=False)
    expected = {
        "mu[0]": (-2.7335, 0.0420),
        "mu[1]": (2.8698, 0.0546),
        "sigma[0]": (1.0281, 0.0314),
        "sigma[1]": (1.0238, 0.0405),
        "theta": (0.6215, 0.0155),
    }
    check(fit.summary(), expected)
    assert fit.status is lv.Status.DRAWN
    assert "4 chains of 500 draws" in str(fit)


@pytest.mark.long
def test_pdb2_a_hidden_markov_model(truth: Path) -> None:
    y = np.array(published(truth, "hmm_example-hmm_example")["y"])
    fit = lv.fit(TwoStates(), lv.Rows({"y": y}, lengths=[100]), lv.NUTS(draws=400, tune=300), progress=False)
    expected = {
        "moves[0, 0]": (0.6666, 0.1012),
        "moves[1, 0]": (0.0731, 0.0284),
        "mu[0, 0]": (3.0215, 0.2245),
        "mu[1, 0]": (8.8273, 0.1106),
    }
    check(fit.summary(), expected)
    paths = fit.draw_latents(draws=200)["z"]
    assert paths.shape == (200, 1, 100)
    means = fit.globals.draws(200, 0)[0]["mu"][:, :, 0]
    near = (torch.tensor(y) - means.mean(0)[:, None]).abs().argmin(0)
    assert float((paths[:, 0].double().mean(0).round() == near).double().mean()) > 0.97


def test_pdb3_eight_schools(truth: Path) -> None:
    data = published(truth, "eight_schools-eight_schools_noncentered")
    columns = {"y": np.array(data["y"], float), "sigma": np.array(data["sigma"], float)}
    fit = lv.fit(Schools(), columns, lv.NUTS(draws=500, tune=300, chains=3, target_accept=0.9), progress=False)
    check(fit.summary(), {"mu": (4.4105, 3.31), "tau": (3.6021, 3.20)})
    values = fit.globals.draws(1_500, 0)[0]
    theta = (values["mu"][:, None] + values["tau"][:, None] * values["effects"]).mean(0)
    np.testing.assert_allclose(theta, [6.151, 4.940, 3.906, 4.796, 3.614, 4.051, 6.317, 4.884], atol=0.6)


def small(seed: int = 0) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed)
    return {"y": np.concatenate([noise.normal(-2, 1, 30), noise.normal(2, 1, 20)])}


SHORT = lv.NUTS(draws=60, tune=100, chains=2)


@pytest.fixture(scope="module")
def fitted() -> lv.Fit:
    return lv.fit(TwoNormals(), small(), SHORT, progress=False)


def test_a_run_repeats_to_the_bit_and_another_seed_is_another_run() -> None:
    brief = lv.NUTS(draws=12, tune=15, chains=2)
    fits = [lv.fit(TwoNormals(), small(), brief, seed=seed, progress=False) for seed in (0, 0, 1)]
    one, again, other = (fit.globals.free for fit in fits if isinstance(fit.globals, Draws))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (2, 12, 5)


def test_locals_are_drawn_given_each_draw_of_the_globals(fitted: lv.Fit) -> None:
    """Their shares are the probabilities, averaged over the draws of the globals, and not those at one point."""
    drawn = fitted.draw_latents(draws=120)["z"]
    assert drawn.shape == (120, 50)
    values = fitted.globals.draws(120, 0)[0]
    batch = fitted.rows.batch(dtype=torch.float64)
    beliefs = [fitted.program.beliefs({n: v[k] for n, v in values.items()}, batch)["z"] for k in range(120)]
    probs = torch.stack([belief.probs[:, 1] for belief in beliefs])
    spread = (probs * (1 - probs)).sum(0).sqrt() / 120
    assert bool(((drawn.double().mean(0) - probs.mean(0)).abs() <= 5 * spread + 1e-9).all())
    assert torch.equal(drawn, fitted.draw_latents(draws=120)["z"])


def test_the_datatree_has_chains_and_what_the_sampler_says(fitted: lv.Fit) -> None:
    tree = fitted.to_datatree()
    assert dict(tree["posterior"].sizes) == {"chain": 2, "draw": 60, "mu_dim_0": 2, "sigma_dim_0": 2}
    assert tree["log_likelihood"]["y"].shape == (2, 60, 50)
    assert tree["posterior_predictive"]["y"].shape == (2, 60, 50)
    stats = tree["sample_stats"]
    assert {"lp", "energy", "diverging", "tree_depth", "step_size", "n_steps", "acceptance_rate"} <= set(stats)
    assert isinstance(fitted.globals, Draws)
    point = {name: value[1, 7] for name, value in fitted.globals.values.items()}
    at = lv.from_point(TwoNormals(), small(), point)
    expected = at.log_likelihood + float(at.program.prior(point))
    assert float(stats["lp"][1, 7]) == pytest.approx(expected, rel=1e-10)
    few = fitted.to_datatree(draws=20)
    assert few["posterior"].sizes["draw"] == few["sample_stats"].sizes["draw"] == 10
    np.testing.assert_array_equal(few["sample_stats"]["energy"], stats["energy"][:, ::6])


def test_the_summary_tells_whether_chains_agree(fitted: lv.Fit) -> None:
    table = fitted.summary()
    assert {"mean", "sd", "ess_bulk", "ess_tail", "r_hat"} <= set(table.columns)
    values = fitted.globals.draws(120, 0)[0]["theta"]
    assert table.loc["theta", "mean"] == pytest.approx(float(values.mean()))


def test_a_fit_comes_back_from_disk(fitted: lv.Fit, tmp_path: Path) -> None:
    back = lv.load(fitted.save(tmp_path / "fit", datatree=False), model=TwoNormals())
    assert isinstance(back.globals, Draws)
    assert isinstance(fitted.globals, Draws)
    assert torch.equal(back.globals.free, fitted.globals.free)
    assert all(torch.equal(value, fitted.globals.stats[name]) for name, value in back.globals.stats.items())
    assert back.status is lv.Status.DRAWN
    assert torch.equal(back.draw_latents(draws=10)["z"], fitted.draw_latents(draws=10)["z"])


def test_an_interrupted_run_keeps_the_chains_that_have_most_draws() -> None:
    """Of 50, 2 and 50 draws after tuning, the two chains of 50."""
    left = []
    for size in (50, 2, 50):
        columns = {name: np.arange(3.0, 3.0 + size) for name in chains.NAMES}
        left.append(columns | {"free": np.arange(3.0, 3.0 + size)[:, None] * np.ones(2)})
    free, stats = chains.joined(left)
    assert free.shape == (2, 50, 2)
    assert stats["energy"].shape == (2, 50)
    assert float(free[0, 0, 0]) == 3.0


def test_locals_of_a_model_without_globals() -> None:
    drawn = lv.from_point(OnlyStates(), small(), {}).draw_latents(draws=3)["z"]
    assert drawn.shape == (3, 50)


def test_chains_begin_where_they_are_told() -> None:
    point = {"mu": [-2.0, 2.0], "sigma": [1.0, 1.0], "theta": 0.6}
    fit = lv.fit(TwoNormals(), small(), lv.NUTS(draws=20, tune=50, chains=3), start=point, progress=False)
    assert fit.globals.draws(60, 0)[0]["mu"].shape == (60, 2)


def test_built_in_models_and_fixed_values() -> None:
    priors = {
        "loc": dist.Normal(torch.zeros(2, 1), 5.0).to_event(2),
        "scale": dist.LogNormal(torch.zeros(2, 1), 1.0).to_event(2),
        "weights": dist.Dirichlet(torch.ones(2)),
    }
    model = lv.models.GaussianMixture(2, covariance="diag", priors=priors)
    fixed = {"loc": [[-2.0], [np.nan]]}
    fit = lv.fit(model, small()["y"][:, None], SHORT, fixed=fixed, progress=False)
    loc = fit.globals.draws(120, 0)[0]["loc"]
    assert bool((loc[:, 0] == -2.0).all())
    assert float(loc[:, 1].std()) > 0


def test_missing_entries_are_integrated_out() -> None:
    x = np.random.default_rng(0).normal(1.0, 1.0, (60, 2))
    x[:20, 1] = np.nan
    model = lv.models.GaussianMixture(1, covariance="diag")
    with pytest.warns(UserWarning, match="entries are missing"):
        fit = lv.fit(model, x, lv.NUTS(draws=60, tune=50, chains=1), progress=False)
    # a posterior deviation is 0.13, so that the error of some 60 draws is 0.02
    np.testing.assert_allclose(fit.point["loc"][0], np.nanmean(x, 0), atol=0.15)


def test_an_interrupt_leaves_the_draws_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, honest = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT)), chains.Chains.run

    def run(*given: Any) -> chains.Trace:
        timer.start()
        return honest(*given)

    monkeypatch.setattr(chains.Chains, "run", run)
    try:
        fit = lv.fit(TwoNormals(), small(), lv.NUTS(draws=1_000_000, tune=50, chains=2, compile=False), progress=False)
    finally:
        timer.cancel()
    assert fit.status is lv.Status.INTERRUPTED
    assert isinstance(fit.globals, Draws)
    assert fit.globals.free.shape[1] > 1
    assert len(fit.summary()) == 5


class Idle:
    """A global that the density does not use."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(numbers(0)[0], 1.0))
        pyro.sample("unused", lv.flat(()))
        with rows.plate():
            pyro.sample("y", dist.Normal(mu, 1.0), obs=rows["y"])


class Broken:
    """A scale that may be negative."""

    def model(self, rows: lv.Batch) -> None:
        scale = pyro.sample("scale", dist.Normal(numbers(0)[0], 1.0))
        with rows.plate():
            pyro.sample("y", dist.Normal(0 * scale, scale, validate_args=False), obs=rows["y"])


class OnlyStates:
    """No globals."""

    def model(self, rows: lv.Batch) -> None:
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(numbers(0.3, 0.7)))
            pyro.sample("y", dist.Normal(z.double(), 1.0), obs=rows["y"])


class Line:
    """A network whose weights are no globals."""

    def __init__(self) -> None:
        self.network = torch.nn.Linear(1, 1)

    def model(self, rows: lv.Batch) -> None:
        scale = pyro.sample("scale", dist.HalfNormal(torch.ones(())))
        with rows.plate():
            pyro.sample("y", dist.Normal(self.network(rows["y"][:, None])[:, 0], scale), obs=rows["y"])


def test_what_cannot_be_drawn_is_refused_with_the_way_out() -> None:
    with pytest.raises(SupportError, match=r"no continuous globals[\s\S]*lv\.from_point[\s\S]*lv\.EM"):
        lv.fit(OnlyStates(), small(), SHORT, progress=False)
    with pytest.raises(SupportError, match=r"network weights[\s\S]*lv\.SVI"):
        lv.fit(Line(), small(), SHORT, progress=False)
    with pytest.raises(NumericalError, match=r"chain 0 begins where the log density is[\s\S]*start="):
        lv.fit(Broken(), small(), SHORT, start={"scale": -1.0}, progress=False)
    with pytest.raises(NumericalError, match=r"does not change with \['unused'\]"):
        lv.fit(Idle(), small(), SHORT, progress=False)
    with pytest.raises(ModelError, match=r"'sigma' on the edge of its support"):
        lv.fit(TwoNormals(), small(), SHORT, start={"sigma": [0.0, 1.0]}, progress=False)


@pytest.mark.parametrize(
    "settings", [{"draws": 0}, {"tune": 0}, {"chains": 0}, {"target_accept": 1.0}, {"max_tree_depth": 0}]
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        lv.NUTS(**settings)


def test_one_go_in_one_process(fitted: lv.Fit, tmp_path: Path) -> None:
    for name, value in {"resume": fitted, "backend": lv.Distributed(), "checkpoint": tmp_path / "x"}.items():
        with pytest.raises(SettingError, match=f"{name}="):
            lv.fit(TwoNormals(), small(), SHORT, **{name: value})
    with pytest.raises(KindError, match=r"lv\.EM\(\)"):
        lv.fit(TwoNormals(), small(), lv.NUTS)  # type: ignore[arg-type]
    with pytest.raises(KindError, match="are a distribution"):
        fitted.standard_errors()
    with pytest.raises(SettingError, match="draws=0"):
        fitted.draw_latents(draws=0)
    with pytest.raises(KindError, match="a fit by NUTS"):
        lv.bootstrap(fitted)
