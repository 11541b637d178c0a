"""Information criteria against published tables and other programs; classification entropy by enumeration."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import statsmodels.api as sm
import torch
from chain_brute_force import enumerate_paths
from hmmlearn.hmm import GaussianHMM
from scipy import stats
from sklearn import mixture
from user_models import ExplicitChain, FactorAnalysis, FlatMixture, TwoLevels

import latentvars as lv
from latentvars.errors import SupportError

FORMS = ("full", "tied", "diag", "spherical")
IRIS = lv.datasets.iris().x


def point_of(**values: Any) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_criteria_of_published_log_likelihoods(truth: Path) -> None:
    """Carcinoma, three classes: log-likelihood, AIC and BIC of Linzer & Lewis (2011); the others by their formulas."""
    answers = pd.read_csv(truth / "carcinoma" / "carcinoma.csv").to_numpy() - 1
    fit = lv.fit(lv.models.Mixture(3, lv.emissions.Bernoulli(7)), answers, lv.EM(restarts=5), progress=False)
    assert fit.aic == pytest.approx(633.41, abs=5e-3) and fit.bic == pytest.approx(697.1357, abs=5e-4)
    assert fit.sabic == pytest.approx(2 * 293.705 + 23 * math.log(120 / 24), abs=1e-3)
    assert fit.caic == pytest.approx(697.1357 + 23, abs=5e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("components", [1, 3])
def test_mixtures_are_those_of_scikit_learn(form: str, components: int) -> None:
    """Criteria and free parameters; ICL from its posterior probabilities (scikit-learn has no ICL of its own)."""
    other = mixture.GaussianMixture(components, covariance_type=form, random_state=0, reg_covar=0).fit(IRIS)  # type: ignore[arg-type]
    fit = lv.from_point(*_with_data(other))
    assert fit.free_parameters == other._n_parameters()  # type: ignore[attr-defined]
    assert fit.aic == pytest.approx(other.aic(IRIS), abs=1e-7) and fit.bic == pytest.approx(other.bic(IRIS), abs=1e-7)
    probs = other.predict_proba(IRIS)
    entropy = float(stats.entropy(probs, axis=1).sum())
    assert fit.entropy == pytest.approx(entropy, abs=1e-9)
    assert fit.icl == pytest.approx(other.bic(IRIS) + 2 * entropy, abs=1e-7)
    if components == 1:
        assert fit.entropy == 0.0 and math.isnan(fit.normalised_entropy)
    else:
        assert fit.normalised_entropy == pytest.approx(1 - entropy / (150 * np.log(3)), abs=1e-12)


def _with_data(other: Any) -> tuple[Any, np.ndarray, dict[str, torch.Tensor]]:
    model, point = lv.models.GaussianMixture.from_sklearn(other)
    return model, IRIS, point


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_chains_are_those_of_hmmlearn(form: str) -> None:
    noise = np.random.default_rng(0)
    x = noise.normal(size=(60, 2)) + 4 * (np.arange(60) // 10 % 2)[:, None]
    other = GaussianHMM(2, form, covars_prior=0.0, min_covar=0.0, random_state=0, n_iter=5).fit(x, [25, 35])
    model, point = lv.models.HiddenMarkov.from_hmmlearn(other)
    fit = lv.from_point(model, lv.Rows(x, lengths=[25, 35]), point)
    assert fit.aic == pytest.approx(other.aic(x, [25, 35]), abs=1e-6)
    assert fit.bic == pytest.approx(other.bic(x, [25, 35]), abs=1e-6)


class Counts:
    """Poisson regression of ``y`` on ``t``, without priors."""

    def model(self, rows: lv.Batch) -> None:
        beta = pyro.sample("beta", lv.flat((2,)))
        with rows.plate():
            pyro.sample("y", dist.Poisson((beta[0] + beta[1] * rows["t"]).exp()), obs=rows["y"])


def test_regressions_are_those_of_statsmodels() -> None:
    noise = np.random.default_rng(1)
    t = np.linspace(-1, 1, 80)
    y = noise.poisson(np.exp(0.5 + t))
    fit = lv.fit(Counts(), {"y": y, "t": t}, progress=False)
    other = sm.GLM(y, sm.add_constant(t), family=sm.families.Poisson()).fit()
    assert fit.free_parameters == 2
    assert fit.aic == pytest.approx(other.aic, abs=1e-5) and fit.bic == pytest.approx(other.bic_llf, abs=1e-5)
    with pytest.raises(SupportError, match="without discrete locals"):
        _ = fit.icl


def count(model: Any, x: Any, **known: Any) -> int:
    return lv.fit(model, x, lv.EM(passes=1), progress=False, **known).free_parameters


def test_what_is_fixed_tied_ordered_or_stationary_is_counted_rightly() -> None:
    """By hand: a simplex of K has K − 1, a group of equals one, what is fixed none, an order takes none away."""
    x = np.random.default_rng(2).poisson(4.0, 50)
    nan = np.nan
    poisson = lv.emissions.Poisson()
    chain = lv.models.HiddenMarkov(3, poisson)
    assert count(chain, x) == 2 + 6 + 3
    assert count(lv.models.HiddenMarkov(3, poisson, initial="stationary"), x) == 6 + 3
    left_right = {"transition": [[nan, nan, 0.0], [0.0, nan, nan], [0.0, 0.0, 1.0]]}
    assert count(chain, x, fixed=left_right) == 2 + 2 + 3
    assert count(chain, x, fixed={"initial": [1.0, 0.0, 0.0]}) == 6 + 3
    assert count(chain, x, tied={"rate": [[0], [0], [-1]]}) == 2 + 6 + 2
    assert count(chain, x, fixed={"rate": [[4.0], [nan], [nan]]}) == 2 + 6 + 2
    mixed = lv.models.Mixture(3, lv.emissions.Categorical(4))
    assert count(mixed, x % 4) == 2 + 3 * 3
    assert count(mixed, x % 4, fixed={"weights": [0.5, nan, nan]}) == 1 + 3 * 3
    ordered = lv.models.GaussianMixture(3, 2, priors={"loc": lv.ordered((3, 2))})
    assert count(ordered, IRIS[:, :2]) == 2 + 6 + 9
    tied = {"scale": [[0, 1], [0, 1], [0, 1]]}
    assert count(lv.models.GaussianMixture(3, 2, "diag"), IRIS[:, :2], tied=tied) == 2 + 6 + 2


def test_the_entropy_of_chains_is_that_of_their_paths(truth: Path) -> None:
    """All 2^T paths of sequences of several lengths, weighted; Zucchini & MacDonald's AIC with a stationary law."""
    initial, transition = np.array([0.3, 0.7]), np.array([[0.8, 0.2], [0.35, 0.65]])
    rate, lengths, weights = np.array([2.0, 6.0]), [5, 1, 8], np.array([1.0, 2.0, 3.0])
    x = np.random.default_rng(3).poisson(4.0, sum(lengths))
    rows = lv.Rows(x, lengths=lengths, weights=weights)
    model = lv.models.HiddenMarkov(2, lv.emissions.Poisson())
    fit = lv.from_point(model, rows, point_of(initial=initial, transition=transition, rate=rate[:, None]))
    parts = np.split(x, np.cumsum(lengths)[:-1])
    each = [enumerate_paths(initial, transition, stats.poisson.pmf(p[:, None], rate)).entropy for p in parts]
    assert fit.entropy == pytest.approx(float(weights @ each), abs=1e-10)
    most = float(weights @ np.array(lengths)) * np.log(2)
    assert fit.normalised_entropy == pytest.approx(1 - float(weights @ each) / most, abs=1e-12)
    quakes = np.loadtxt(truth / "earthquakes" / "earthquakes.csv", delimiter=",", skiprows=1, usecols=1)
    three = lv.models.HiddenMarkov(3, lv.emissions.Poisson(), initial="stationary")
    start = {"rate": [[13.0], [20.0], [30.0]]}
    best = lv.fit(three, quakes, lv.EM(accelerate=True), start=start, progress=False)
    assert best.aic == pytest.approx(676.9206, abs=5e-3) and best.bic == pytest.approx(700.976, abs=5e-3)


def test_explicit_locals_have_the_entropy_of_collapsed_ones() -> None:
    x = np.random.default_rng(4).normal(size=(12, 3))
    parts = point_of(weights=[0.3, 0.7], loc=np.arange(6.0).reshape(2, 3) / 3, scale=np.full((2, 3), 0.8))
    collapsed = lv.from_point(lv.models.GaussianMixture(2, 3, "diag"), x, parts)
    explicit = lv.from_point(FlatMixture(2, 3), x, parts)
    assert explicit.entropy == pytest.approx(collapsed.entropy, abs=1e-10) and explicit.entropy > 1
    assert explicit.normalised_entropy == pytest.approx(collapsed.normalised_entropy, abs=1e-12)
    move, loc, scale = [[0.8, 0.2], [0.35, 0.65]], np.array([-1.0, 1.0]), np.array([1.0, 0.7])
    chain = point_of(initial=[0.3, 0.7], transition=move, loc=loc, scale=scale)
    looped = lv.from_point(ExplicitChain(), x, chain)
    each = [
        enumerate_paths(np.array([0.3, 0.7]), np.array(move), stats.norm.pdf(row[:, None], loc, scale)).entropy
        for row in x
    ]
    assert looped.entropy == pytest.approx(sum(each), abs=1e-10)
    assert looped.normalised_entropy == pytest.approx(1 - sum(each) / (36 * np.log(2)), abs=1e-12)


def test_dependent_locals_have_their_joint_entropy() -> None:
    """A class and a component within it: six joint values; the sum of the two marginal entropies would be larger."""
    classes, weights = np.array([0.4, 0.6]), np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    loc, scale = np.array([[-2.0, 0.0, 2.0], [-1.0, 1.0, 3.0]]), np.array([0.8, 1.2])
    x = np.random.default_rng(5).normal(size=9)
    fit = lv.from_point(TwoLevels(), x, point_of(classes=classes, weights=weights, loc=loc, scale=scale))
    joint = np.array(
        [
            [
                classes[a] * weights[a, b] * stats.norm.pdf(one, loc[a, b], scale[a])
                for a, b in itertools.product(range(2), range(3))
            ]
            for one in x
        ]
    )
    assert fit.entropy == pytest.approx(float(stats.entropy(joint, axis=1).sum()), abs=1e-10)
    assert fit.normalised_entropy == pytest.approx(1 - fit.entropy / (9 * np.log(6)), abs=1e-12)
    latent = fit.latent()
    assert fit.entropy < float(latent.entropy("z1").sum() + latent.entropy("z2").sum()) - 0.1


def test_weights_are_repeated_rows_and_known_labels_are_certain() -> None:
    x = np.random.default_rng(6).normal(size=10)
    point = point_of(weights=[0.5, 0.5], loc=[[-0.5], [0.5]], scale=[1.0, 1.0])
    model = lv.models.GaussianMixture(2, 1, "spherical")
    often = np.arange(10) % 3
    weighted = lv.from_point(model, lv.Rows(x, weights=often), point)
    repeated = lv.from_point(model, np.repeat(x, often), point)
    for name in ("entropy", "normalised_entropy", "icl", "sabic", "caic"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), abs=1e-10)
    labels = np.where(np.arange(10) < 4, 1, -1)
    known = lv.from_point(model, lv.Rows(x, known={"z": labels}), point)
    rest = lv.from_point(model, x[4:], point)
    assert known.entropy == pytest.approx(rest.entropy, abs=1e-10)


def test_rows_without_observations_are_as_uncertain_as_the_prior() -> None:
    x = np.array([[np.nan, np.nan], [0.2, np.nan], [np.nan, np.nan]])
    point = point_of(weights=[0.25, 0.75], loc=[[0.0, 0.0], [1.0, 1.0]], scale=[1.0, 1.0])
    fit = lv.from_point(lv.models.GaussianMixture(2, 2, "spherical"), x, point)
    joint = np.array([0.25, 0.75]) * stats.norm.pdf(0.2, [0.0, 1.0])
    expected = 2 * stats.entropy([0.25, 0.75]) + stats.entropy(joint)
    assert fit.entropy == pytest.approx(float(expected), abs=1e-10)
    same = point_of(weights=[0.5, 0.5], loc=[[0.0, 0.0], [0.0, 0.0]], scale=[1.0, 1.0])
    blind = lv.from_point(lv.models.GaussianMixture(2, 2, "spherical"), x, same)
    assert blind.normalised_entropy == pytest.approx(0.0, abs=1e-12)


def test_certain_rows_have_no_entropy() -> None:
    x = np.array([-500.0, -500.5, 500.0, 501.0])
    point = point_of(weights=[0.5, 0.5], loc=[[-500.0], [500.0]], scale=[1.0, 1.0])
    for model in (lv.models.GaussianMixture(2, 1, "spherical"), Levels()):
        fit = lv.from_point(model, x, point)
        assert fit.entropy == pytest.approx(0.0, abs=1e-9) and fit.entropy >= 0
        assert fit.normalised_entropy == pytest.approx(1.0, abs=1e-9)
        assert fit.icl == pytest.approx(fit.bic, abs=1e-8)


class Levels:
    """The same, its component drawn at each row."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("loc", lv.flat((2, 1)))
        scale = pyro.sample("scale", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z, 0], scale[z]), obs=rows.x)


def test_continuous_locals_are_refused() -> None:
    fit = lv.fit(FactorAnalysis(3, 1), np.random.default_rng(7).normal(size=(8, 3)), lv.SVI(passes=1), progress=False)
    with pytest.raises(SupportError, match=r"(?s)continuous locals \['z'\].*exact"):
        _ = fit.entropy
    assert math.isfinite(fit.sabic) and math.isfinite(fit.caic)
