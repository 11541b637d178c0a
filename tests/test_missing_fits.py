"""Fits to data with missing entries: EM climbs to the maximum of the likelihood of what was observed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CASES, EM_CASES, over, with_weights
from gaps import EMISSIONS, FEATURES, arrays, emission_laws, observations, punched, table, with_gaps
from scipy.special import logsumexp
from torch import Tensor

import latentvars as lv
from latentvars.inference.running.algorithm import Problem
from latentvars.program import Bound, Program

COVARIATES = ("t", "group", "inputs")
INTERIOR = [  # optima on no edge of a support
    "gmm-full",
    "gmm-tied",
    "gmm-diag",
    "gmm-spherical",
    "mixture-poisson",
    "hmm-gaussian",
    "hmm-poisson-stationary",
    "user-mixture",
    "user-two-levels",
    "user-student",
    "user-hierarchy",
    "user-regression",
]


def gappy(name: str) -> lv.Rows:
    return with_gaps(CASES[name].data(), COVARIATES)


@functools.cache
def climbed(name: str) -> lv.Fit:
    em = lv.EM(passes=600, stop=lv.Tolerance(1e-12), accelerate=True)
    return lv.fit(CASES[name].model(), gappy(name), em, progress=False)


def anderson(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of two normal columns of which the second has gaps (Anderson 1957, section 2)."""
    seen = ~np.isnan(x[:, 1])
    loc, variance = x[:, 0].mean(), x[:, 0].var()
    both = np.cov(x[seen].T, bias=True)
    slope = both[0, 1] / both[0, 0]
    second = x[seen, 1].mean() + slope * (loc - x[seen, 0].mean())
    residual = both[1, 1] - slope * both[0, 1]
    covariance = np.array([[variance, slope * variance], [slope * variance, residual + slope**2 * variance]])
    return np.array([loc, second]), covariance


# --- the maximum of the observed likelihood --------------------------------------------------------------------------


def test_a_normal_with_a_monotone_gap_has_andersons_estimate() -> None:
    noise = np.random.default_rng(0)
    first = noise.normal(size=80)
    x = np.column_stack([first, 0.8 * first + 0.5 * noise.normal(size=80) + 3.0])
    x[first > 0.3, 1] = np.nan  # missing at random, not completely at random: the mean of what is there is biased
    found = lv.fit(lv.models.GaussianMixture(1, 2), x, lv.EM(stop=lv.Tolerance(1e-14)), progress=False)
    loc, covariance = anderson(x)
    np.testing.assert_allclose(found.point["loc"][0], loc, atol=1e-5)
    np.testing.assert_allclose(found.point["covariance"][0], covariance, atol=1e-5)
    assert abs(np.nanmean(x[:, 1]) - loc[1]) > 0.2


def test_independent_columns_have_the_estimates_of_their_observed_entries() -> None:
    x = punched(observations("diag", 50))
    normal = lv.fit(lv.models.GaussianMixture(1, FEATURES, "diag"), x, progress=False).point
    np.testing.assert_allclose(normal["loc"][0], np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(normal["scale"][0], np.nanstd(x, 0), rtol=1e-9)
    counts = punched(observations("poisson", 50))
    rate = lv.fit(lv.models.Mixture(1, lv.emissions.Poisson(FEATURES)), counts, progress=False).point["rate"]
    np.testing.assert_allclose(rate[0], np.nanmean(counts, 0), rtol=1e-12)
    codes = punched(observations("categorical", 50))
    probs = lv.fit(lv.models.Mixture(1, lv.emissions.Categorical(4)), codes, progress=False).point["probs"]
    share = [(codes == code).sum() / (~np.isnan(codes)).sum() for code in range(4)]
    np.testing.assert_allclose(probs[0], share, rtol=1e-12)


@pytest.mark.parametrize("emission", ["full", "tied", "diag", "spherical", "poisson", "product"])
def test_no_direction_leads_up_from_the_end_of_em(emission: str) -> None:
    """Central differences of the likelihood written down by hand."""
    x = punched(observations(emission, 60), 0.2)
    model = lv.models.Mixture(2, EMISSIONS[emission]())
    found = lv.fit(model, x, lv.EM(passes=600, stop=lv.Tolerance(1e-13), accelerate=True), progress=False)
    space = found.program.space

    def likelihood(free: Tensor) -> float:
        point = arrays(space.constrain(free)[0])
        joint = np.log(point["weights"]) + table(emission_laws(emission, point, FEATURES), x)
        return float(logsumexp(joint, axis=1).sum())

    end = space.unconstrain(found.point)
    assert likelihood(end) == pytest.approx(found.log_likelihood, rel=1e-10)
    for direction in 1e-4 * torch.eye(space.size, dtype=torch.float64):
        slope = (likelihood(end + direction) - likelihood(end - direction)) / 2e-4
        assert abs(slope) < 2e-3


@over(EM_CASES)
def test_em_never_lowers_its_objective(name: str) -> None:
    for seed in (0, 1):
        found = lv.fit(CASES[name].model(), gappy(name), lv.EM(passes=12, stop=lv.Never()), seed=seed, progress=False)
        assert np.diff(found.history).min() >= -1e-9 * abs(found.history[-1])
        assert bool(found.row_log_likelihood.isfinite().all())


@over(INTERIOR)
def test_em_ends_where_the_gradient_is_zero(name: str) -> None:
    found = climbed(name)
    program, rows = found.program, found.rows
    free = program.space.unconstrain(found.point).requires_grad_()
    score = program.score(program.space.constrain(free)[0], rows.batch(dtype=program.dtype))
    (gradient,) = torch.autograd.grad(score.prior + (score.rows * rows.weights).sum(), free)
    assert float(gradient.abs().max()) / len(rows) < 1e-4


class TiltedPlane:
    """Two responses with correlated noise on one covariate: the argument of no leaf is free of the rows."""

    def model(self, rows: lv.Batch) -> None:
        intercept = pyro.sample("intercept", lv.flat((2,)))
        slope = pyro.sample("slope", lv.flat((2,)))
        covariance = pyro.sample("covariance", lv.flat((2, 2), dist.constraints.positive_definite))
        with rows.plate():
            loc = intercept + slope * rows["t"][:, None]
            pyro.sample("y", dist.MultivariateNormal(loc, covariance_matrix=covariance), obs=rows["y"])


def test_a_regression_with_a_gap_in_one_response_has_the_factored_estimate() -> None:
    """y₁ on t from all rows, y₂ on (t, y₁) from those where it was observed (Anderson 1957; Little & Rubin, 7.1)."""
    noise = np.random.default_rng(1)
    t = np.linspace(-1, 1, 40)
    error = noise.normal(size=(40, 2)) @ np.array([[1.0, 0.6], [0.0, 0.5]])
    y = np.column_stack([1 + 2 * t, -1 + t]) + error
    y[y[:, 0] > 1.5, 1] = np.nan
    found = lv.fit(TiltedPlane(), {"y": y, "t": t}, lv.EM(stop=lv.Tolerance(1e-12)), progress=False)
    assert np.diff(found.history).min() > -1e-10
    design, seen = np.column_stack([np.ones(40), t]), ~np.isnan(y[:, 1])
    first = np.linalg.lstsq(design, y[:, 0], rcond=None)[0]
    second = np.linalg.lstsq(np.column_stack([design, y[:, 0]])[seen], y[seen, 1], rcond=None)[0]
    expected = np.array([first, second[:2] + second[2] * first])
    np.testing.assert_allclose(torch.stack([found.point["intercept"], found.point["slope"]], -1), expected, atol=1e-4)


def test_starts_run_together_end_where_starts_one_by_one_do() -> None:
    for name in ("gmm-diag", "mixture-categorical", "gmm-tied"):
        together = lv.fit(CASES[name].model(), gappy(name), lv.EM(restarts=6), progress=False)
        assert together.log_likelihood >= climbed(name).log_likelihood - 1e-4
        assert together.optima is not None


def test_many_missing_entries_do_not_mislead_a_start() -> None:
    """Three far groups with four entries in ten missing are told apart from one start in most seeds."""
    noise = np.random.default_rng(2)
    group = np.arange(300) % 3
    centre = np.array([[0.0, 0.0, 0.0, 0.0], [6.0, 6.0, 0.0, 0.0], [0.0, 0.0, 6.0, 6.0]])
    x = np.where(noise.random((300, 4)) < 0.4, np.nan, centre[group] + noise.normal(size=(300, 4)))
    model = lv.models.GaussianMixture(3, 4, "diag")
    ends = np.array([lv.fit(model, x, lv.EM(passes=200), seed=s, progress=False).log_likelihood for s in range(8)])
    assert (ends > ends.max() - 1).sum() >= 5


# --- weights and shards ----------------------------------------------------------------------------------------------


@over(["gmm-full", "gmm-diag", "mixture-bernoulli", "hmm-gaussian", "hmm-product", "user-mixture", "user-student"])
def test_weight_zero_is_absence_and_weight_two_a_row_twice(name: str) -> None:
    rows = gappy(name)
    times = np.ones(len(rows), dtype=int)
    times[[0, 2]] = 0, 2
    weighted, repeated = with_weights(rows, times), rows.subset(np.repeat(np.arange(len(rows)), times))
    start = lv.fit(CASES[name].model(), repeated, lv.EM(passes=0), progress=False).point
    ours, theirs = (
        lv.fit(CASES[name].model(), data, lv.EM(passes=3, stop=lv.Never()), start=start, progress=False)
        for data in (weighted, repeated)
    )
    np.testing.assert_allclose(ours.history, theirs.history, rtol=1e-8)
    for site, value in ours.point.items():
        torch.testing.assert_close(value, theirs.point[site], rtol=1e-5, atol=1e-6)


def test_rows_of_weight_zero_have_no_say_in_a_start() -> None:
    x = punched(observations("full", 40))
    far = np.vstack([x, np.full((5, FEATURES), 1e6)])
    far[-2, 0] = np.nan
    weights = np.r_[np.ones(40), np.zeros(5)]
    for model in (lv.models.GaussianMixture(2, FEATURES), lv.models.Mixture(2, EMISSIONS["diag"]())):
        ours, theirs = (
            lv.fit(model, rows, lv.EM(passes=0), progress=False).point for rows in (lv.Rows(far, weights=weights), x)
        )
        for site, value in ours.items():
            torch.testing.assert_close(value, theirs[site])


@over(["gmm-full", "hmm-gaussian", "user-two-levels"])
def test_em_in_batches_is_em_on_all_rows(name: str) -> None:
    whole, parts = (
        lv.fit(CASES[name].model(), gappy(name), lv.EM(passes=4, stop=lv.Never(), batch_size=size), progress=False)
        for size in (None, 7 if name != "hmm-gaussian" else 2)
    )
    np.testing.assert_allclose(parts.history, whole.history, rtol=1e-8 if CASES[name].user else 1e-11)


@over(["gmm-full", "hmm-poisson-stationary", "user-mixture"])
def test_a_point_guide_has_nowhere_to_go_from_the_end_of_em(name: str) -> None:
    found = climbed(name)
    svi = lv.SVI(guide=lv.Delta())
    state = svi.init(Problem(found.program, found.rows, found.point, 0))
    total = svi.contribution(state, found.rows.batch(dtype=found.program.dtype), 0)
    assert total.objective / len(found.rows) == pytest.approx(found.history[-1], rel=1e-9)
    for gradient in total.gradients:
        assert gradient is not None and float(gradient.abs().max()) / len(found.rows) < 1e-4


# --- the variational autoencoder -------------------------------------------------------------------------------------


def linear_vae() -> tuple[lv.Fit, np.ndarray]:
    x = punched(observations("full", 12), 0.3)
    model = lv.models.VAE.mlp(FEATURES, 1, hidden=(), likelihood="gaussian", dtype=torch.float64)
    return lv.fit(model, x, lv.SVI(passes=300, stop=lv.Never()), progress=False), x


def test_a_linear_vae_bounds_the_normal_marginal_of_what_was_observed() -> None:
    found, x = linear_vae()
    model: Any = found.model
    with torch.no_grad():
        base = model.likelihood.mean(model.decoder(torch.zeros(1, dtype=torch.float64)))
        slope = model.likelihood.mean(model.decoder(torch.ones(1, dtype=torch.float64))) - base
        covariance = torch.outer(slope, slope) + model.likelihood.noise_scale.square() * torch.eye(FEATURES)
    exact = []
    for row in torch.tensor(x):
        o = ~row.isnan()
        law = dist.MultivariateNormal(base[o], covariance[o][:, o]) if bool(o.any()) else None
        exact.append(0.0 if law is None else float(law.log_prob(row[o])))
    with torch.no_grad():
        tight = found.program.score({}, found.rows.batch(), seed=1, bound=Bound(particles=600, importance=True)).rows
        loose = found.program.score({}, found.rows.batch(), seed=1, bound=Bound(particles=600)).rows
    np.testing.assert_allclose(tight, exact, atol=0.1)
    assert bool((loose < torch.tensor(exact) + 0.1).all())


def test_the_encoder_reads_the_observed_entries_only() -> None:
    found, x = linear_vae()
    model: Any = found.model
    typical = model.likelihood.typical().detach().numpy()
    np.testing.assert_allclose(typical, np.nanmean(x, 0), atol=0.6)
    filled = np.where(np.isnan(x), typical, x)
    torch.testing.assert_close(found.latent(x).mean(), found.latent(filled).mean())


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", lv.models.likelihoods.Categorical(FEATURES, 3)])
def test_a_vae_of_any_likelihood_trains_with_gaps(likelihood: Any) -> None:
    x = punched(np.clip(observations("bernoulli", 20), 0, 1), 0.3)
    model = lv.models.VAE.mlp(FEATURES, 2, hidden=(4,), likelihood=likelihood)
    found = lv.fit(model, x, lv.SVI(passes=5, stop=lv.Never()), progress=False)
    assert bool(found.row_log_likelihood.isfinite().all())
    assert found.program.dtype == torch.float32
    batch = found.rows.batch(dtype=torch.float32)
    values = Program.of(found.model, found.rows).site_log_probs({}, batch)
    assert float(values["x"][1]) == 0


# --- other readouts --------------------------------------------------------------------------------------------------


def test_a_datatree_of_rows_with_gaps_knows_what_was_observed() -> None:
    rows = lv.Rows({"u": punched(observations("full", 20)), "t": np.linspace(-1, 1, 20)})
    tree = lv.fit(Renamed(), rows, lv.EM(passes=2, stop=lv.Never()), progress=False).to_datatree(draws=4)
    np.testing.assert_array_equal(tree["observed_data"]["y"].values, rows["u"].numpy())
    assert set(tree["constant_data"].data_vars) == {"t"}
    for group in ("posterior_predictive", "log_likelihood"):
        assert bool(tree[group].to_dataset().notnull().all().to_array().all())


class Renamed:
    """A site of another name than the column that it observes, beside a covariate."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat((FEATURES,)))
        with rows.plate():
            mean = loc + rows["t"][:, None]
            pyro.sample("y", dist.MultivariateNormal(mean, torch.eye(FEATURES)), obs=rows["u"])


def test_a_saved_fit_of_rows_with_gaps_comes_back(tmp_path: Path) -> None:
    found = climbed("gmm-full")
    found.save(tmp_path / "fit", datatree=False)
    again = lv.load(tmp_path / "fit")
    assert torch.equal(again.row_log_likelihood, found.row_log_likelihood)
    assert torch.equal(again.impute()["x"], found.impute()["x"])
