"""What is taken of beliefs: statistics, deviations, globals averaged over, guides refined row by row."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_iris

import latentvars as lv
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError, SupportError
from latentvars.posterior.averaged import Averaged

IRIS = load_iris().data
SCALED = (IRIS - IRIS.mean(0)) / IRIS.std(0)
POINT = {"W": np.random.default_rng(3).normal(size=(4, 2)), "s": 0.7}
COUNTS = np.random.default_rng(4).poisson(4.0, 30).astype(float)


class Factors:
    """x = W z + noise."""

    def model(self, rows: lv.Batch) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        weights = pyro.sample("W", dist.Normal(zero, 1.0).expand([4, 2]).to_event(2))
        scale = pyro.sample("s", dist.LogNormal(zero, 1.0))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(zero, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z @ weights.T, scale).to_event(1), obs=rows.x)


class Rates:
    """x ~ Poisson(z), z ~ Gamma(a, 1): the posterior of z is Gamma(a + x, 2)."""

    def model(self, rows: lv.Batch) -> None:
        a = pyro.sample("a", dist.Gamma(torch.tensor(3.0).double(), 1.0))
        with rows.plate():
            z = pyro.sample("z", dist.Gamma(a, 1.0))
            pyro.sample("x", dist.Poisson(z), obs=rows.x)


def exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior means ``[N, 2]``, covariance and log-likelihoods of factor analysis in closed form."""
    weights, scale = POINT["W"], POINT["s"]
    covariance = np.linalg.inv(weights.T @ weights / scale**2 + np.eye(2))
    law = stats.multivariate_normal(np.zeros(4), weights @ weights.T + scale**2 * np.eye(4))
    return x @ weights @ covariance / scale**2, covariance, law.logpdf(x)


def untrained() -> lv.Fit:
    """Factor analysis with a guide that has learnt nothing."""
    return lv.from_point(lv.Amortised(hidden=()).attached(Factors(), SCALED), SCALED, POINT)


def test_refinement_of_a_linear_normal_model_is_its_exact_posterior() -> None:
    fit = untrained()
    means, covariance, scores = exact(SCALED)
    assert np.abs(fit.latent().mean().numpy() - means).max() > 0.1
    found = fit.refine(steps=300)
    assert np.allclose(found.latent().mean(), means, atol=1e-4)
    belief = found.latent().belief()
    assert np.allclose(belief.covariance_matrix[3], covariance, atol=1e-4)
    assert np.allclose(found.score_rows(), scores, atol=2e-3)  # the bound is tight: each draw gives the evidence
    new = np.random.default_rng(0).normal(size=(5, 4))
    assert np.allclose(fit.refine(new, 300).latent().mean(), exact(new)[0], atol=1e-4)


def test_refinement_is_a_function_of_the_row() -> None:
    fit, rows = untrained(), SCALED[:40]
    embedding = lv.Embedding(fit, refine=20)
    whole = embedding.transform(rows)
    assert np.array_equal(embedding.transform(rows[::-1])[::-1], whole)
    assert np.array_equal(embedding.transform(rows[7:8])[0], whole[7])
    assert np.allclose(lv.Embedding(fit, refine=80).transform(rows), exact(rows)[0], atol=5e-2)


def test_refinement_takes_rows_that_a_guide_has_never_met() -> None:
    """A sampler leaves a guide of its own rows alone."""
    fit = lv.fit(Rates(), COUNTS, lv.NUTS(draws=50, tune=100, chains=1), fixed={"a": 3.0}, progress=False)
    with pytest.raises(SupportError, match="not drawn"):
        fit.latent(np.array([20.0]))
    found = fit.refine(np.array([20.0, 0.0]), 300).latent()
    law = stats.gamma(np.array([23.0, 3.0]), scale=0.5)
    assert np.allclose(found.mean("z"), law.mean(), rtol=0.02)
    assert np.allclose(found.std("z"), law.std(), rtol=0.16)  # a log-normal is not a gamma
    assert np.allclose(found.median("z"), law.median(), rtol=0.06)


def test_what_cannot_be_refined_is_refused() -> None:
    mixture = lv.fit(lv.models.GaussianMixture(2), IRIS, progress=False)
    with pytest.raises(SupportError, match="summed out exactly"):
        mixture.refine()
    with pytest.raises(SettingError, match="steps=0"):
        untrained().refine(steps=0)
    for settings, message in (
        ({"refine": 5, "globals_draws": 3}, "leave one out"),
        ({"refine": -1}, "from 0"),
        ({"globals_draws": 0}, "at least one"),
        ({"statistic": "middle"}, "'mean', 'median' or 'mode'"),
    ):
        with pytest.raises(SettingError, match=message):
            lv.Embedding(mixture, **settings).transform(IRIS)


def test_beliefs_are_averaged_over_the_globals() -> None:
    model = lv.models.GaussianMixture(2, covariance="diag")
    fit = lv.fit(model, IRIS[:, :2], lv.SVI(passes=30), progress=False)
    draws = fit.knowledge(25).draws
    parts = []
    for s in range(25):
        weights, loc, scale = (draws[name][s].numpy() for name in ("weights", "loc", "scale"))
        log = np.log(weights) + stats.norm.logpdf(IRIS[:, None, :2], loc, scale).sum(-1)
        parts.append(np.exp(log - np.logaddexp.reduce(log, 1, keepdims=True)))
    expected = np.mean(parts, 0)
    latent = fit.latent(draws=25)
    assert np.allclose(latent.mean(), expected, atol=1e-10) and "25 draws" in repr(latent)
    assert np.allclose(latent.std(), np.sqrt(expected * (1 - expected)))
    embedding = lv.Embedding(fit, globals_draws=25)
    assert np.allclose(embedding.transform(IRIS[:, :2]), expected, atol=1e-10)
    assert "over 25 draws of the globals" in repr(embedding) and "at the point" in repr(lv.Embedding(fit))
    assert not np.allclose(expected, fit.latent().mean(), atol=1e-4)


def test_an_average_of_normals() -> None:
    parts = [dist.Normal(torch.tensor([0.0, 1.0]).double(), 1.0), dist.Normal(torch.tensor([4.0, 1.0]).double(), 0.5)]
    found = Averaged(parts)
    assert torch.allclose(found.mean, torch.tensor([2.0, 1.0]).double())
    assert torch.allclose(found.variance, torch.tensor([0.625 + 4.0, 0.625]).double())
    value = torch.tensor([0.5, 0.5]).double()
    expected = np.log(0.5 * stats.norm.pdf(0.5, [0, 1], 1) + 0.5 * stats.norm.pdf(0.5, [4, 1], 0.5))
    assert np.allclose(found.log_prob(value), expected)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = found.sample((40_000,))
    assert torch.allclose(drawn.mean(0), found.mean, atol=0.05)
    assert torch.allclose(drawn.var(0), found.variance, rtol=0.03)


def test_a_point_is_not_averaged_over_nor_are_switched_labels() -> None:
    fit = lv.fit(lv.models.GaussianMixture(2), IRIS, progress=False)
    with pytest.raises(KindError, match="globals that are a point"):
        fit.latent(draws=10)
    with pytest.raises(KindError, match="globals that are a point"):
        lv.Embedding(fit, globals_draws=10).transform(IRIS)


def test_deviations_stand_beside_the_vectors() -> None:
    fit = lv.fit(lv.models.GaussianMixture(3), IRIS, progress=False)
    values, deviations = lv.Embedding(fit).transform(IRIS, return_std=True)
    assert np.array_equal(values, lv.Embedding(fit).transform(IRIS))
    assert np.allclose(deviations, np.sqrt(values * (1 - values)), atol=1e-8)
    frame = lv.Embedding(fit).set_output(transform="pandas").transform(IRIS, return_std=True)[1]
    assert list(frame.columns) == ["z_component_0", "z_component_1", "z_component_2"]


def test_the_deviation_of_a_mean_over_steps_is_that_of_whole_paths() -> None:
    """Against all paths of a short chain; neighbouring steps agree, which marginals alone do not see."""
    sequences = [np.array([0.3, 0.9, 0.4, 1.2, 0.1, 0.6])[:, None], np.array([0.5, 0.5, 0.5])[:, None]]
    point = {
        "initial": [0.5, 0.5],
        "transition": [[0.9, 0.1], [0.1, 0.9]],
        "loc": [[0.0], [1.0]],
        "covariance": [[[1.0]], [[1.0]]],
    }
    fit = lv.from_point(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(1)), sequences, point)
    values, deviations = lv.Embedding(fit).transform(sequences, return_std=True)
    for number, x in enumerate(sequences):
        paths = np.array(list(itertools.product([0, 1], repeat=len(x))))
        log = np.log(0.5) + np.log(np.array(point["transition"]))[paths[:, :-1], paths[:, 1:]].sum(1)
        log += stats.norm.logpdf(x[:, 0], paths.astype(float), 1.0).sum(1)
        weights = np.exp(log - np.logaddexp.reduce(log))
        share = paths.mean(1)
        mean = (weights * share).sum()
        spread = np.sqrt((weights * (share - mean) ** 2).sum())
        assert np.allclose(values[number], [1 - mean, mean], atol=1e-10)
        assert np.allclose(deviations[number], spread, rtol=0.12)
    back = lv.Embedding(fit).transform(sequences[::-1], return_std=True)[1]
    assert np.array_equal(back[::-1], deviations)


def test_modes_are_ones_and_medians_need_an_order() -> None:
    fit = lv.fit(lv.models.GaussianMixture(3), IRIS, progress=False)
    vectors = lv.Embedding(fit, statistic="mode").transform(IRIS)
    assert np.array_equal(vectors.argmax(1), fit.latent().mode()) and np.array_equal(vectors.sum(1), np.ones(150))
    with pytest.raises(KindError, match="without an order"):
        lv.Embedding(fit, statistic="median").transform(IRIS)
    chain = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(4)), [IRIS[:60], IRIS[60:]], progress=False)
    path = chain.latent().path()[0, :60]
    share = [float((path == k).float().mean()) for k in range(2)]
    assert np.allclose(lv.Embedding(chain, statistic="mode").transform([IRIS[:60]])[0], share)


def test_vectors_know_where_they_come_from(tmp_path: Path) -> None:
    fit = lv.fit(lv.models.GaussianMixture(3), IRIS, progress=False)
    vectors = lv.Embedding(fit).vectors(
        IRIS, ids=[f"flower {k}" for k in range(150)], metadata=pd.DataFrame({"n": range(150)})
    )
    assert np.array_equal(vectors["flower 7"], lv.Embedding(fit).transform(IRIS[7:8])[0])
    assert vectors.names == ("z_component_0", "z_component_1", "z_component_2")
    again = lv.load(fit.save(tmp_path / "fit"))
    vectors.check_comparable(lv.Embedding(again).vectors(IRIS[:3]))
    other = lv.fit(lv.models.GaussianMixture(3), IRIS[:149], progress=False)
    for embedding in (lv.Embedding(other), lv.Embedding(fit, statistic="mode")):
        with pytest.raises(DataError, match="one fit"):
            vectors.check_comparable(embedding.vectors(IRIS[:3]))
    with pytest.raises(ShapeError, match="3 coordinates"):
        vectors.check_comparable(lv.Vectors(np.zeros((2, 5))))
    with pytest.raises(NameUnknownError, match="tulip"):
        vectors["tulip"]
    with pytest.raises(DataError, match="'a' stands 2 times"):
        lv.Vectors(np.zeros((3, 1)), ids=["a", "b", "a"])
    with pytest.raises(KindError, match="one fixed vector"):
        vectors.sample(3)
    with pytest.raises(ValueError, match="read-only"):
        vectors.values[0, 0] = 1.0
    with pytest.raises(DataError, match="1 rows of values that are not finite"):
        lv.Vectors([[1.0], [np.nan]])


def test_settings_survive_a_clone() -> None:
    fit = lv.fit(lv.models.GaussianMixture(2), IRIS, progress=False)
    twin = clone(lv.Embedding(fit, statistic="mode", steps="each"))
    assert twin.get_params()["statistic"] == "mode" and twin.get_params()["globals_draws"] is None


def test_rows_are_searched() -> None:
    fit = lv.fit(lv.models.GaussianMixture(3), IRIS, progress=False)
    index = lv.Embedding(fit).index(IRIS, ids=[f"i{k}" for k in range(150)], metric="euclidean")
    found = index.search(lv.Embedding(fit).vectors(IRIS[:2]), 5)
    vectors = lv.Embedding(fit).transform(IRIS)
    expected = np.argsort(((vectors[:2, None] - vectors[None]) ** 2).sum(-1), kind="stable")[:, :5]
    assert np.allclose(
        ((vectors[found.positions] - vectors[:2, None]) ** 2).sum(-1),
        ((vectors[expected] - vectors[:2, None]) ** 2).sum(-1),
    )
    other = lv.fit(lv.models.GaussianMixture(3), IRIS[:140], progress=False)
    with pytest.raises(DataError, match="one fit"):
        index.search(lv.Embedding(other).vectors(IRIS[:2]), 5)


def test_vectors_are_decoded() -> None:
    means, _, _ = exact(SCALED)
    back = lv.Embedding(untrained()).inverse_transform(means)
    assert np.allclose(back, means @ POINT["W"].T)
    mixture = lv.fit(lv.models.GaussianMixture(3), IRIS, progress=False)
    probabilities = lv.Embedding(mixture).vectors(IRIS)
    assert np.allclose(
        lv.Embedding(mixture).inverse_transform(probabilities), probabilities.values @ mixture.point["loc"].numpy()
    )
    chain = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(4)), [IRIS[:60], IRIS[60:]], progress=False)
    for steps, size in (("each", 150), ("pooled", 2)):
        embedding = lv.Embedding(chain, steps=steps)
        vectors = embedding.transform([IRIS[:60], IRIS[60:]])
        assert len(vectors) == size
        assert np.allclose(embedding.inverse_transform(vectors), vectors @ chain.point["loc"].numpy())
    with pytest.raises(ShapeError, match=r"\[M, 3\]"):
        lv.Embedding(mixture).inverse_transform(np.zeros((2, 4)))
    with pytest.raises(DataError, match="decoded by mean of"):
        strange = replace(probabilities, provenance=replace(probabilities.provenance, fit="another"))
        lv.Embedding(mixture).inverse_transform(strange)
    with pytest.raises(KindError, match="a belief"):
        lv.Embedding(mixture).inverse_transform(mixture.latent())
