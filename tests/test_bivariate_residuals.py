"""Bivariate residuals: against the formula of a latent class model, with gaps, weights, covariates and refits."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import latentvars as lv
from latentvars.errors import DataError, KindError, MissingDataError, SettingError, SupportError


class LatentClass:
    """K classes of independent binary items, each a site of its own column."""

    def __init__(self, classes: int, items: int) -> None:
        self.classes, self.items = classes, items

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((self.classes,), constraints.simplex))
        probs = pyro.sample("probs", lv.flat((self.classes, self.items), constraints.unit_interval))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            for k in range(self.items):
                name = f"item{k}"
                pyro.sample(name, dist.Bernoulli(probs[z, k]), obs=rows[name])


def answers(truth: Path, name: str) -> np.ndarray:
    return pd.read_csv(truth / name / f"{name}.csv").to_numpy() - 1


def by_hand(x: np.ndarray, counts: np.ndarray, shares: np.ndarray, probs: np.ndarray) -> dict[tuple[int, int], float]:
    """Pearson's χ² of each pair of binary items: E = n Σ_k π_k p_ka p_kb."""
    found = {}
    for a, b in combinations(range(x.shape[1]), 2):
        chi2 = 0.0
        for u in (0, 1):
            for v in (0, 1):
                expected = counts.sum() * (shares * np.abs(1 - u - probs[:, a]) * np.abs(1 - v - probs[:, b])).sum()
                observed = counts[(x[:, a] == u) & (x[:, b] == v)].sum()
                chi2 += (observed - expected) ** 2 / expected
        found[a, b] = chi2
    return found


@pytest.mark.parametrize(("name", "classes"), [("values", 1), ("values", 2), ("carcinoma", 2), ("carcinoma", 3)])
def test_of_published_data_they_are_the_formula(truth: Path, name: str, classes: int) -> None:
    x = answers(truth, name)
    model = lv.models.Mixture(classes, lv.emissions.Bernoulli(x.shape[1]))
    patterns, often = np.unique(x, axis=0, return_counts=True)
    fit = lv.fit(model, lv.Rows(patterns, weights=often.astype(float)), lv.EM(restarts=5), progress=False)
    shares, probs = fit.point["weights"].numpy(), fit.point["probs"].numpy()
    expected = by_hand(x, np.ones(len(x)), shares, probs)
    columns = {f"item{k}": x[:, k].astype(float) for k in range(x.shape[1])}
    user = lv.from_point(LatentClass(classes, x.shape[1]), columns, fit.point)
    for one in (lv.bivariate_residuals(fit), lv.bivariate_residuals(user)):
        assert len(one) == len(expected)
        assert all(pair.df == 1 for pair in one.pairs)
        np.testing.assert_allclose([pair.chi2 for pair in one.pairs], list(expected.values()), rtol=1e-6, atol=1e-7)
        for pair in one.pairs:
            assert pair.expected.sum() == pytest.approx(len(x)) and pair.observed.sum() == len(x)


def test_one_class_of_the_values_is_a_test_of_independence(truth: Path) -> None:
    """With one class χ² of a pair is scipy's for independence; two classes leave nothing of it."""
    x = answers(truth, "values")
    model = [lv.models.Mixture(k, lv.emissions.Bernoulli(4)) for k in (1, 2)]
    one, two = (lv.bivariate_residuals(lv.fit(m, x, lv.EM(restarts=5), progress=False)) for m in model)
    for pair, (a, b) in zip(one.pairs, combinations(range(4), 2), strict=True):
        table = np.array([[((x[:, a] == u) & (x[:, b] == v)).sum() for v in (0, 1)] for u in (0, 1)])
        assert pair.chi2 == pytest.approx(stats.chi2_contingency(table, correction=False)[0], rel=1e-4)
    assert one.summary()["residual"].min() > 5
    assert two.summary()["residual"].max() < 1.5
    assert one.summary().index[0] == max(one.pairs, key=lambda pair: pair.chi2).names
    assert "has no known distribution" in str(one)


def three_columns(size: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a": rng.integers(0, 3, size).astype(float),
        "b": rng.integers(0, 2, size).astype(float),
        "dose": rng.random(size),
    }


class Dosed:
    """A code of three values and a bit that depends on a covariate, given one of two kinds."""

    def model(self, rows: lv.Batch) -> None:
        slope = pyro.sample("slope", lv.flat((2,)))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
            pyro.sample("a", dist.Categorical(CODES[z]), obs=rows["a"])
            pyro.sample("b", dist.Bernoulli(logits=slope[z] * rows["dose"]), obs=rows["b"])


CODES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]], dtype=torch.float64)


def test_gaps_are_left_out_pair_by_pair_weights_count_and_covariates_are_averaged_over() -> None:
    columns = three_columns()
    columns["a"][:7], columns["b"][5:12] = np.nan, np.nan
    weights = np.random.default_rng(1).random(60) + 0.5
    fit = lv.from_point(Dosed(), lv.Rows(columns, weights=weights), {"slope": [1.0, -2.0]})
    (pair,) = lv.bivariate_residuals(fit).pairs
    assert pair.names == ("a", "b") and pair.df == 2
    seen = np.arange(60) >= 12
    bit = 1 / (1 + np.exp(-np.outer(columns["dose"][seen], [1.0, -2.0])))
    joint = np.einsum("k,ka,nk->na", [0.4, 0.6], CODES.numpy(), bit)
    other = np.einsum("k,ka,nk->na", [0.4, 0.6], CODES.numpy(), 1 - bit)
    np.testing.assert_allclose(pair.expected, np.stack([weights[seen] @ other, weights[seen] @ joint], 1))
    for a in range(3):
        for b in range(2):
            cell = seen & (columns["a"] == a) & (columns["b"] == b)
            assert pair.observed[a, b] == pytest.approx(weights[cell].sum())


def test_a_product_of_codes_and_numbers_gives_the_pairs_of_codes() -> None:
    rng = np.random.default_rng(2)
    x = np.c_[rng.integers(0, 3, 80), rng.normal(size=80), rng.integers(0, 2, 80), rng.integers(0, 4, 80)]
    emission = lv.emissions.Product(
        lv.emissions.Categorical(3), lv.emissions.Gaussian(1), lv.emissions.Categorical(2), lv.emissions.Categorical(4)
    )
    fit = lv.fit(lv.models.Mixture(2, emission), x, lv.EM(passes=20), progress=False)
    found = lv.bivariate_residuals(fit)
    assert [(pair.names, pair.df) for pair in found.pairs] == [(("x0", "x2"), 2), (("x0", "x3"), 6), (("x2", "x3"), 3)]
    shares = fit.point["weights"].numpy()
    first, last = fit.point["probs_0"].numpy(), fit.point["probs_3"].numpy()
    np.testing.assert_allclose(found.pairs[1].expected, 80 * np.einsum("k,ka,kb->ab", shares, first, last), rtol=1e-9)


def dependent(size: int = 200) -> np.ndarray:
    """Two classes, and the last two items share what no class explains."""
    rng = np.random.default_rng(7)
    z = rng.random(size) < 0.5
    x = (rng.random((size, 8)) < np.where(z, 0.9, 0.15)[:, None]).astype(float)
    return np.c_[x[:, :7], np.where(rng.random(size) < 0.5, x[:, 6], x[:, 7])]


def test_refits_to_data_from_the_model_find_the_pair_that_hangs_together() -> None:
    fit = lv.fit(lv.models.Mixture(2, lv.emissions.Bernoulli(8)), dependent(), lv.EM(restarts=5), progress=False)
    found = lv.bivariate_residuals(fit, replicates=40, workers=1, progress=False)
    table = found.summary()
    assert table.index[0] == ("x6", "x7") and table["p_value"].iloc[0] == pytest.approx(1 / 41)
    assert (table["p_value"].iloc[1:] > 1 / 41).sum() >= 20
    few = [lv.bivariate_residuals(fit, replicates=4, workers=1, progress=False).p_values for _ in range(2)]
    np.testing.assert_array_equal(few[0], few[1])
    assert "40 refits" in str(found) and found.failed == 0


def test_of_a_right_model_the_refits_have_no_quarrel() -> None:
    """Residuals of the model itself are far below one: χ² of 1 degree of freedom would call them too small."""
    rng = np.random.default_rng(8)
    z = rng.random(300) < 0.4
    x = (rng.random((300, 4)) < np.where(z[:, None], 0.9, 0.25)).astype(float)
    fit = lv.fit(lv.models.Mixture(2, lv.emissions.Bernoulli(4)), x, lv.EM(restarts=5), progress=False)
    found = lv.bivariate_residuals(fit, replicates=30, workers=1, progress=False)
    assert found.p_values is not None and (found.p_values > 0.04).all()


class Uses:
    """Computes with an item."""

    def model(self, rows: lv.Batch) -> None:
        slope = pyro.sample("slope", lv.flat())
        with rows.plate():
            pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)), obs=rows["a"])
            pyro.sample("b", dist.Bernoulli(logits=slope * rows["a"]), obs=rows["b"])


def test_what_has_none_is_refused() -> None:
    x: Any = (np.random.default_rng(0).random((30, 4)) > 0.5).astype(float)
    numbers = lv.fit(lv.models.GaussianMixture(1), np.random.default_rng(0).normal(size=(20, 2)), progress=False)
    with pytest.raises(DataError, match="0 categorical items"):
        lv.bivariate_residuals(numbers)
    with pytest.raises(MissingDataError, match="'a'"):
        lv.bivariate_residuals(lv.from_point(Uses(), {"a": x[:, 0], "b": x[:, 1]}, {"slope": 1.0}))
    chain = lv.fit(lv.models.HiddenMarkov(1, lv.emissions.Bernoulli(4)), x, progress=False)
    with pytest.raises(DataError, match="sequences"):
        lv.bivariate_residuals(chain)
    vae = lv.fit(lv.models.VAE.mlp(4, 2, (3,)), x, lv.SVI(passes=1), progress=False)
    with pytest.raises(SupportError, match="bounds"):
        lv.bivariate_residuals(vae)
    fit = lv.fit(lv.models.Mixture(1, lv.emissions.Bernoulli(4)), x, progress=False)
    with pytest.raises(SettingError, match="replicates=-1"):
        lv.bivariate_residuals(fit, replicates=-1)


def test_draws_of_the_globals_are_averaged_over_and_not_refitted() -> None:
    pytest.importorskip("nutpie")
    x = dependent(80)[:, :3]
    priors = {"weights": dist.Dirichlet(torch.ones(2)), "probs": dist.Beta(torch.tensor(1.0), torch.tensor(1.0))}
    model = lv.models.Mixture(2, lv.emissions.Bernoulli(3), priors)
    fit = lv.fit(model, x, lv.NUTS(draws=60, tune=100, chains=1), progress=False)
    found = lv.bivariate_residuals(fit)
    values = fit.knowledge(100).draws
    assert values is not None
    weights, probs = values["weights"].numpy(), values["probs"].numpy()
    expected = len(x) * np.einsum("sk,sk,sk->", weights, probs[:, :, 0], probs[:, :, 2]) / len(weights)
    assert found.pairs[1].expected[1, 1] == pytest.approx(expected)
    with pytest.raises(KindError, match="NUTS"):
        lv.bivariate_residuals(fit, replicates=5)
