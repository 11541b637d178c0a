"""fit.impute: expectations and draws of missing entries against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from chain_brute_force import enumerate_paths
from gaps import EMISSIONS, FEATURES, arrays, covariances, emission_laws, observations, punched, table
from scipy.special import softmax
from torch import Tensor

import latentvars as lv
from latentvars.errors import SettingError, SupportError
from latentvars.posterior import imputation

LENGTHS = [4, 1, 3]


def component_means(emission: str, point: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """E[x | x_o, component] ``[S, K, D]``; probabilities of codes ``[S, K, C]``."""
    if emission == "categorical":
        known = np.eye(4)[np.nan_to_num(x).astype(int)]
        return np.where(np.isnan(x)[:, None, None], point["probs"], known[:, None])
    if emission in ("poisson", "bernoulli"):
        return np.where(np.isnan(x)[:, None], point["rate" if emission == "poisson" else "probs"], x[:, None])
    if emission == "product":
        first = component_means("full", {"loc": point["loc_0"], "covariance": point["covariance_0"]}, x[:, :2])
        second = component_means("bernoulli", {"probs": point["probs_1"]}, x[:, 2:])
        return np.concatenate([first, second], -1)
    found = np.repeat(x[:, None], len(point["loc"]), 1)
    for k, (m, c) in enumerate(zip(point["loc"], covariances(emission, point, x.shape[1]), strict=True)):
        for n, row in enumerate(x):
            o, u = ~np.isnan(row), np.isnan(row)
            found[n, k, u] = m[u] + c[np.ix_(u, o)] @ np.linalg.solve(c[np.ix_(o, o)], row[o] - m[o])
    return found


def expectation(emission: str, weights: np.ndarray, means: np.ndarray) -> np.ndarray:
    average = np.einsum("nk,nkd->nd", weights, means)
    return average.argmax(-1).astype(float) if emission == "categorical" else average


def point_of(model: Any, rows: Any) -> lv.Fit:
    return lv.fit(model, rows, lv.EM(passes=4, stop=lv.Never()), progress=False)


# --- expectations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_expectations_of_a_mixture_are_averages_over_its_belief(emission: str) -> None:
    x = punched(observations(emission, 40), 0.4)
    found = point_of(lv.models.Mixture(2, EMISSIONS[emission]()), x)
    point = arrays(found.point)
    belief = softmax(np.log(point["weights"]) + table(emission_laws(emission, point, FEATURES), x), axis=1)
    theirs = expectation(emission, belief, component_means(emission, point, x))
    ours = found.impute()["x"].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)
    assert np.array_equal(ours[~np.isnan(x)], x[~np.isnan(x)])


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_expectations_of_a_chain_are_averages_over_its_smoothed_states(emission: str) -> None:
    found = point_of(
        lv.models.HiddenMarkov(2, EMISSIONS[emission]()), lv.Rows(observations(emission, 40), lengths=[20, 20])
    )
    x = punched(observations(emission, sum(LENGTHS), seed=3), 0.4)
    point = arrays(found.point)
    likelihood = np.exp(table(emission_laws(emission, point, FEATURES), x))
    pieces = np.split(likelihood, np.cumsum(LENGTHS)[:-1])
    smoothed = [enumerate_paths(point["initial"], point["transition"], piece).marginals for piece in pieces]
    theirs = expectation(emission, np.concatenate(smoothed), component_means(emission, point, x))
    ours = found.impute(lv.Rows(x, lengths=LENGTHS))["x"].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)
    assert np.array_equal(ours[~np.isnan(x)], x[~np.isnan(x)])


def test_enumerated_and_collapsed_components_impute_alike() -> None:
    x = punched(observations("diag", 30), 0.4)
    collapsed = point_of(lv.models.GaussianMixture(2, FEATURES, "diag"), x)
    enumerated = lv.from_point(user_models.FlatMixture(2, FEATURES), x, collapsed.point)
    torch.testing.assert_close(enumerated.impute()["x"], collapsed.impute()["x"], rtol=1e-10, atol=1e-10)


def test_sites_that_observe_parts_of_a_column_fill_their_parts() -> None:
    """A loop over the columns of a matrix, a site for each, against the same chain as sequences."""
    noise = np.random.default_rng(4)
    x = punched(noise.normal(size=(8, 5)) + 3 * (noise.random((8, 5)) < 0.5), 0.3)
    chain = point_of(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(1, "diag")), list(x[:, :, None]))
    point = {name: value.squeeze(-1) if name in ("loc", "scale") else value for name, value in chain.point.items()}
    loop = lv.from_point(user_models.ExplicitChain(), x, point)
    torch.testing.assert_close(loop.row_log_likelihood, chain.row_log_likelihood, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loop.impute()["x"].reshape(-1, 1), chain.impute()["x"], rtol=1e-9, atol=1e-9)


class Turned:
    """Two sites on one column: its last feature, and the first two in the other order."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat((3,)))
        with rows.plate():
            pyro.sample("last", dist.Normal(loc[2], 1.0), obs=rows["x"][:, 2])
            pyro.sample("first", dist.Normal(loc[:2], 1.0).to_event(1), obs=rows["x"][:, :2].flip(-1))
            pyro.sample("log", dist.Normal(0.0, 1.0), obs=rows["v"].log())


def test_entries_are_found_wherever_a_site_puts_them_and_only_where_they_stand_as_they_are() -> None:
    x = observations("diag", 10)
    x[3, 0] = x[4, 1] = x[5, 2] = np.nan
    v = np.where(np.arange(10) == 7, np.nan, np.arange(1.0, 11.0))
    point = {"loc": torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)}
    found = lv.from_point(Turned(), {"x": x, "v": v}, point).impute()
    assert [float(found["x"][k]) for k in ((3, 0), (4, 1), (5, 2))] == [20.0, 10.0, 30.0]
    assert bool(found["v"][7].isnan()) and not found["x"].isnan().any()


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = punched(observations("full", 30), 0.4)
    found = point_of(lv.models.GaussianMixture(2, FEATURES), x)
    whole = found.impute()["x"]
    monkeypatch.setattr(imputation, "READ_ROWS", 7)
    torch.testing.assert_close(found.impute()["x"], whole, rtol=1e-12, atol=1e-12)
    assert found.impute(draws=3)["x"].shape == (3, 30, FEATURES)


def test_rows_of_weight_zero_are_imputed_too() -> None:
    x = punched(observations("full", 30), 0.4)
    found = point_of(lv.models.GaussianMixture(2, FEATURES), x)
    rows = lv.Rows(x, weights=np.arange(30) % 3)
    torch.testing.assert_close(found.impute(rows)["x"], found.impute(x)["x"])


# --- draws -----------------------------------------------------------------------------------------------------------


def test_draws_of_a_mixture_have_the_moments_of_the_conditional_law() -> None:
    x = observations("full", 40)
    x[5, :2] = np.nan
    x[6] = np.nan
    found = point_of(lv.models.GaussianMixture(2, FEATURES), x)
    point = arrays(found.point)
    draws = found.impute(draws=8000, seed=1)["x"].numpy()
    belief = softmax(np.log(point["weights"]) + table(emission_laws("full", point, FEATURES), x), axis=1)
    means = component_means("full", point, x)
    for row, missing in ((5, [0, 1]), (6, [0, 1, 2])):
        o, u = ~np.isnan(x[row]), np.isnan(x[row])
        mean, second = belief[row] @ means[row][:, u], 0.0
        for k, c in enumerate(point["covariance"]):
            gain = c[np.ix_(u, o)] @ np.linalg.pinv(c[np.ix_(o, o)])
            m = means[row, k, u]
            second = second + belief[row, k] * (c[np.ix_(u, u)] - gain @ c[np.ix_(o, u)] + np.outer(m, m))
        covariance = second - np.outer(mean, mean)
        scale = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(draws[:, row, missing].mean(0), mean, atol=0.05 * scale.max())
        np.testing.assert_allclose(np.cov(draws[:, row, missing].T), covariance, atol=0.06 * scale.max() ** 2)


def test_draws_of_a_chain_follow_one_path() -> None:
    """States that are seen: missing steps are drawn together, from the pairwise posterior."""
    probs = np.array([[0.999999, 0.000001], [0.000001, 0.999999]])
    point = {"initial": [0.5, 0.5], "transition": [[0.8, 0.2], [0.3, 0.7]], "probs": probs}
    x = np.array([0.0, np.nan, np.nan, 1.0, np.nan])
    found = lv.from_point(lv.models.HiddenMarkov(2, lv.emissions.Categorical(2)), lv.Rows(x, lengths=[5]), point)
    draws = found.impute(draws=6000, seed=2)["x"].long().numpy()
    likelihood = np.where(np.isnan(x)[:, None], 1.0, probs.T[np.nan_to_num(x).astype(int)])
    path = enumerate_paths(np.array(point["initial"]), np.array(point["transition"]), likelihood)
    share = np.zeros((2, 2))
    np.add.at(share, (draws[:, 1], draws[:, 2]), 1 / len(draws))
    np.testing.assert_allclose(share, path.pairwise[1], atol=0.025)


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_draws_are_in_the_support_and_average_to_the_expectation(emission: str) -> None:
    x = punched(observations(emission, 20), 0.4)
    gaps = np.isnan(x)
    found = point_of(lv.models.Mixture(2, EMISSIONS[emission]()), x)
    draws = found.impute(draws=1500, seed=3)["x"].numpy()
    assert draws.shape == (1500, *x.shape) and not np.isnan(draws).any()
    assert np.array_equal(draws[:, ~gaps], np.broadcast_to(x[~gaps], draws[:, ~gaps].shape))
    if emission in ("poisson", "bernoulli", "categorical"):
        assert (draws == draws.round()).all() and draws.min() >= 0
        assert emission == "poisson" or draws.max() <= (1 if emission == "bernoulli" else 3)
    if emission == "product":
        assert set(np.unique(draws[:, :, 2])) <= {0.0, 1.0}
    if emission == "categorical":
        counts = np.stack([(draws[:, gaps] == code).mean(0) for code in range(4)], -1)
        np.testing.assert_allclose(
            counts, np.broadcast_to(found.point["weights"] @ found.point["probs"], counts.shape), atol=0.07
        )
        return
    error = (draws.mean(0) - found.impute()["x"].numpy()) / (draws.std(0) + 1e-12) * np.sqrt(1500)
    assert np.abs(error[gaps]).max() < 4.5


class PairsOfColumns:
    """An enumerated component that two columns share."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((2,), dist.constraints.simplex))
        centre = torch.tensor([-3.0, 5.0], dtype=torch.float64)
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("a", dist.Normal(centre[z], 0.1), obs=rows["a"])
            pyro.sample("b", dist.Normal(centre[z], 0.1), obs=rows["b"])


def test_draws_of_two_sites_share_their_enumerated_local() -> None:
    a, b = np.array([-3.0, 5.0, np.nan, 5.1]), np.array([-3.1, np.nan, np.nan, np.nan])
    found = lv.from_point(PairsOfColumns(), {"a": a, "b": b}, {"weights": [0.3, 0.7]})
    drawn = found.impute(draws=300, seed=1)
    assert bool((drawn["a"][:, 2].sign() == drawn["b"][:, 2].sign()).all())
    assert float((drawn["a"][:, 2] > 0).double().mean()) == pytest.approx(0.7, abs=0.08)
    assert bool((drawn["b"][:, 3] > 0).all())
    assert float(found.impute()["b"][2]) == pytest.approx(0.7 * 5 - 0.3 * 3)


def test_a_seed_repeats_its_draws_and_leaves_the_global_generator_alone() -> None:
    found = point_of(lv.models.GaussianMixture(2, FEATURES), punched(observations("full", 20), 0.3))
    before = torch.get_rng_state()
    first, again, other = (found.impute(draws=2, seed=seed)["x"] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


# --- continuous locals -----------------------------------------------------------------------------------------------


def test_a_linear_vae_imputes_its_decoders_mean_at_the_posterior() -> None:
    x = punched(observations("full", 12), 0.3)
    model = lv.models.VAE.mlp(FEATURES, 1, hidden=(), likelihood="gaussian", dtype=torch.float64)
    found = lv.fit(model, x, lv.SVI(passes=100, stop=lv.Never()), progress=False)
    trained: Any = found.model
    latent = found.latent(x)
    with torch.no_grad():
        theirs = trained.likelihood.mean(trained.decoder(latent.mean("z")))
        reach = trained.likelihood.mean(trained.decoder(latent.mean("z") + latent.std("z"))) - theirs
    ours, gaps = found.impute()["x"], torch.tensor(np.isnan(x))
    assert float(((ours - theirs).abs() / (reach.abs() / 10))[gaps].max()) < 4.5
    assert torch.equal(ours[~gaps], torch.tensor(x)[~gaps])
    draws = found.impute(draws=400, seed=1)["x"]
    spread = (reach.square() + trained.likelihood.noise_scale.detach().square()).sqrt()
    assert float(((draws.mean(0) - theirs).abs() / (spread / 20))[gaps].max()) < 4.5
    np.testing.assert_allclose((draws.std(0) / spread)[gaps], 1.0, atol=0.2)


def test_single_precision_leaves_observed_entries_to_the_bit() -> None:
    x = punched(np.random.default_rng(0).random((15, FEATURES)), 0.3)
    model = lv.models.VAE.mlp(FEATURES, 1, hidden=(3,), likelihood="gaussian")
    found = lv.fit(model, x, lv.SVI(passes=3, stop=lv.Never()), progress=False)
    for filled in (found.impute()["x"], *found.impute(draws=2)["x"]):
        assert filled.dtype == torch.float64
        assert np.array_equal(filled.numpy()[~np.isnan(x)], x[~np.isnan(x)])


# --- what comes back, and what does not ------------------------------------------------------------------------------


def test_complete_columns_and_whole_numbers_come_back_as_they_are() -> None:
    y = np.arange(10.0)
    y[2] = np.nan
    rows = lv.Rows({"y": y, "group": np.arange(10) % 2})
    found = lv.fit(user_models.Hierarchy(2), rows, lv.EM(passes=2, stop=lv.Never()), progress=False)
    filled = found.impute()
    assert torch.equal(filled["group"], rows["group"]) and filled["group"].dtype == torch.int64
    assert float(filled["y"][2]) == pytest.approx(float(found.point["theta"][0]))
    complete = lv.Rows({"y": np.arange(10.0), "group": np.arange(10) % 2})
    assert torch.equal(found.impute(complete)["y"], complete["y"])
    assert found.impute(complete, draws=3)["y"].shape == (3, 10)


class HeavyTails:
    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat(()))
        with rows.plate():
            pyro.sample("x", dist.Cauchy(loc, 1.0), obs=rows.x)


def test_a_law_without_a_mean_gives_draws_only() -> None:
    found = lv.from_point(HeavyTails(), [0.0, np.nan, 1.0], {"loc": 0.5})
    with pytest.raises(SupportError, match="'x' ~ Cauchy, which has no mean"):
        found.impute()
    draws = found.impute(draws=2000)["x"][:, 1]
    assert float(draws.median()) == pytest.approx(0.5, abs=0.15)
    with pytest.raises(SettingError, match="draws=0"):
        found.impute(draws=0)


class Composition:
    def model(self, rows: lv.Batch) -> None:
        weight: Tensor = pyro.sample("weight", lv.flat((3,), dist.constraints.positive))
        with rows.plate():
            pyro.sample("x", dist.Dirichlet(weight), obs=rows.x)


def test_a_vector_that_is_missing_as_a_whole_is_imputed_as_a_whole() -> None:
    x = np.random.default_rng(0).dirichlet([2.0, 3.0, 5.0], 20)
    x[0] = np.nan
    found = lv.from_point(Composition(), x, {"weight": [2.0, 3.0, 5.0]})
    np.testing.assert_allclose(found.impute()["x"][0], [0.2, 0.3, 0.5])
    draws = found.impute(draws=5)["x"][:, 0]
    torch.testing.assert_close(draws.sum(-1), torch.ones(5, dtype=torch.float64))
