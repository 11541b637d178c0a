"""EM step by step against scikit-learn and hmmlearn from the same start."""

from __future__ import annotations

import warnings

import hmmlearn.hmm
import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

import latentvars as lv

COVARIANCES = ["full", "tied", "diag", "spherical"]
STEPS = 12


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_mixture_trace_equals_scikit_learn(covariance: str) -> None:
    x = load_iris().data
    start = sklearn_mixture(x, covariance, 1)
    model, point = lv.models.GaussianMixture.from_sklearn(start)
    ours = lv.fit(model, x, lv.EM(passes=STEPS + 1, stop=lv.Never(), variance_floor=0), start=point)
    theirs = [sklearn_mixture(x, covariance, steps, start).lower_bound_ for steps in range(1, STEPS + 1)]
    np.testing.assert_allclose(ours.history[:STEPS], theirs, rtol=0, atol=1e-9)


def sklearn_mixture(x: np.ndarray, covariance: str, steps: int, start: GaussianMixture | None = None):
    settings = {"covariance_type": covariance, "max_iter": steps, "tol": 0, "reg_covar": 0, "random_state": 0}
    given = {}
    if start is not None:
        given = {
            "weights_init": start.weights_,
            "means_init": start.means_,
            "precisions_init": start.precisions_,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(3, **settings, **given).fit(x)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_chain_trace_equals_hmmlearn(covariance: str) -> None:
    x, lengths = sequences()
    start = hmmlearn_chain(x, lengths, covariance, 1)
    model, point = lv.models.HiddenMarkov.from_hmmlearn(start)
    rows = lv.Rows(x, lengths=lengths)
    ours = lv.fit(model, rows, lv.EM(passes=STEPS + 1, stop=lv.Never(), variance_floor=0), start=point)
    theirs = np.array(hmmlearn_chain(x, lengths, covariance, STEPS, start).monitor_.history)
    np.testing.assert_allclose(ours.history[: len(theirs)] * len(lengths), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["PoissonHMM", "CategoricalHMM"])
def test_discrete_chain_trace_equals_hmmlearn(kind: str) -> None:
    generator = np.random.default_rng(3)
    x, lengths = generator.integers(0, 6, (240, 1)), [100, 40, 100]
    start = discrete_chain(kind, x, lengths, 1)
    model, point = lv.models.HiddenMarkov.from_hmmlearn(start)
    values = x[:, 0] if kind == "CategoricalHMM" else x
    ours = lv.fit(model, lv.Rows(values, lengths=lengths), lv.EM(passes=STEPS + 1, stop=lv.Never()), start=point)
    theirs = np.array(discrete_chain(kind, x, lengths, STEPS, start).monitor_.history)
    np.testing.assert_allclose(ours.history[: len(theirs)] * len(lengths), theirs, rtol=0, atol=1e-6)


def sequences() -> tuple[np.ndarray, list[int]]:
    generator = np.random.default_rng(7)
    states = (np.arange(300) // 20) % 3
    x = generator.normal(size=(300, 2)) * (1 + 0.3 * states[:, None]) + 3 * states[:, None] * [1, -1]
    return x, [120, 80, 100]


def hmmlearn_chain(x, lengths, covariance: str, steps: int, start=None):
    chain = hmmlearn.hmm.GaussianHMM(
        3, covariance, min_covar=0, covars_prior=0, covars_weight=0, n_iter=steps, tol=-np.inf, random_state=0
    )
    if start is not None:
        chain.init_params = ""
        chain.startprob_, chain.transmat_, chain.means_ = start.startprob_, start.transmat_, start.means_
        chain.n_features = start.n_features
        chain._covars_ = start._covars_.copy()
    return chain.fit(x, lengths)


def discrete_chain(kind: str, x, lengths, steps: int, start=None):
    chain = getattr(hmmlearn.hmm, kind)(2, n_iter=steps, tol=-np.inf, random_state=0)
    if kind == "PoissonHMM":
        chain.lambdas_prior = chain.lambdas_weight = 0
    if start is not None:
        chain.init_params = ""
        chain.startprob_, chain.transmat_, chain.n_features = start.startprob_, start.transmat_, start.n_features
        name = "lambdas_" if kind == "PoissonHMM" else "emissionprob_"
        setattr(chain, name, getattr(start, name))
    return chain.fit(x, lengths)


def test_a_planted_fault_in_the_m_step_would_be_seen() -> None:
    x = load_iris().data
    start = sklearn_mixture(x, "full", 1)
    model, point = lv.models.GaussianMixture.from_sklearn(start)
    shifted = {**point, "loc": point["loc"] + torch.tensor(1e-3)}
    ours = lv.fit(model, x, lv.EM(passes=2, stop=lv.Never()), start=shifted)
    assert abs(ours.history[0] - sklearn_mixture(x, "full", 1, start).lower_bound_) > 1e-6
