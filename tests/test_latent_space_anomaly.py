"""Anomaly scores: likelihoods beside closed forms, p-values on held-out rows, a class of digits left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guided_models import Factors
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.svm import OneClassSVM

import latentvars as lv
from latentvars.errors import DataError, KindError, MissingDataError, SettingError
from latentvars.latent_space.anomaly import as_high
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.folds import Folds
from latentvars.randomness import derive

FLOAT = torch.float64


def rows_of(size: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(size, 2)) @ np.array([[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 1.0, 0.5]]) + random.normal(
        0, 0.5, (size, 4)
    )


@pytest.fixture(scope="module")
def users() -> lv.Fit:
    """A user's probabilistic PCA, whose guide contains the posterior."""
    return lv.fit(Factors(4, 2, isotropic=True), rows_of(300, 0), lv.VariationalEM(passes=60), progress=False)


def marginal(fit: lv.Fit, x: np.ndarray) -> np.ndarray:
    loadings, noise = fit.point["loadings"].numpy(), float(fit.point["noise"])
    return stats.multivariate_normal(np.zeros(4), loadings.T @ loadings + noise**2 * np.eye(4)).logpdf(x)


@pytest.mark.parametrize("search", [False, True])
def test_likelihoods_by_importance_are_the_closed_form(users: lv.Fit, search: bool) -> None:
    x = rows_of(20, 1) * np.linspace(1, 2, 20)[:, None]
    space = lv.LatentSpace(users)
    found = space.anomaly(x, reference=rows_of(30, 2), draws=300, search=search)
    assert np.allclose(found.log_likelihood, marginal(users, x), atol=0.05 if search else 0.3)
    assert np.allclose(found.scores["likelihood"], -found.log_likelihood)
    level = marginal(users, rows_of(30, 2)).mean()
    assert np.allclose(found.scores["typicality"], np.abs(marginal(users, x) - level), atol=0.4)
    assert float(found.k_hat.max()) < (0.3 if search else 1.0)


def test_likelihoods_of_factors_are_exact() -> None:
    fit = lv.fit(lv.models.FactorAnalysis(2), rows_of(300, 0), lv.EM(), progress=False)
    x = rows_of(50, 1)
    found = lv.LatentSpace(fit).anomaly(x)
    loc, w, scale = (fit.point[name].numpy() for name in ("loc", "loadings", "scale"))
    exact = stats.multivariate_normal(loc, w @ w.T + np.diag(scale**2)).logpdf(x)
    assert np.allclose(found.log_likelihood, exact) and bool(torch.isneginf(found.k_hat).all())
    gaps = np.where(np.arange(4) == 1, np.nan, x)
    keep = [0, 2, 3]
    part = stats.multivariate_normal(loc[keep], (w @ w.T + np.diag(scale**2))[np.ix_(keep, keep)]).logpdf(x[:, keep])
    assert np.allclose(lv.LatentSpace(fit).anomaly(gaps).log_likelihood, part)
    with pytest.raises(MissingDataError, match="leave it out"):
        lv.LatentSpace(fit).anomaly(gaps, scores=("predictive",))


def test_p_values_are_ranks_among_the_reference() -> None:
    random = np.random.default_rng(0)
    score, reference = random.integers(0, 9, 40), random.integers(0, 9, 30)
    found = as_high(torch.from_numpy(score).to(FLOAT), torch.from_numpy(reference).to(FLOAT))
    assert found.tolist() == [(reference >= one).sum() for one in score]


def test_p_values_are_uniform_on_rows_that_were_held_out(users: lv.Fit) -> None:
    """Each reference set leaves its own mark on all p-values beside it, so several are drawn."""
    space, p = lv.LatentSpace(users), {"likelihood": [], "typicality": [], "predictive": []}
    for seed in range(4):
        found = space.anomaly(
            rows_of(60, 10 + seed), reference=rows_of(199, 40 + seed), scores=tuple(p), draws=30, seed=seed
        )
        for name, values in p.items():
            values.append(found.p_values[name].numpy())
    for values in p.values():
        assert stats.kstest(np.concatenate(values), "uniform").pvalue > 0.005
    strange = space.anomaly(rows_of(60, 10) * 4, reference=rows_of(199, 40), scores=tuple(p), draws=30)
    for name in p:
        assert float(strange.p_values[name].median()) < 0.05
    assert len(strange.flagged(0.05)) > 30 and strange.table().shape == (60, 6)
    order = strange.scores["likelihood"][strange.flagged(0.05)]
    assert bool((order[1:] <= order[:-1]).all())


def test_predictive_p_values_of_known_components() -> None:
    """Given its component a row of a normal mixture has a chi-square distance, whose tail is the p-value."""
    random = np.random.default_rng(0)
    z = random.integers(0, 2, 400)
    x = random.normal(size=(400, 3)) + 20.0 * z[:, None]
    fit = lv.fit(lv.models.GaussianMixture(2), x, lv.EM(), progress=False)
    found = lv.LatentSpace(fit).anomaly(x[:50], reference=x[50:150], scores=("predictive",), draws=120)
    which = fit.latent(x[:50]).mode("z")
    apart = torch.from_numpy(x[:50]) - fit.point["loc"][which]
    distance = (apart[:, None] @ torch.linalg.inv(fit.point["covariance"])[which] @ apart[..., None]).ravel()
    assert found.predictive_p is not None
    assert np.allclose(found.predictive_p, stats.chi2(3).sf(distance.numpy()), atol=0.12)


def test_chains_of_different_lengths_have_scores() -> None:
    """A sequence of one state: the predictive p-value adds up its steps and no padding."""
    random = np.random.default_rng(0)
    lengths = random.integers(5, 30, 60)
    x = random.poisson(4.0, lengths.sum())
    fit = lv.fit(lv.models.HiddenMarkov(1, lv.emissions.Poisson()), lv.Rows(x, lengths=lengths), progress=False)
    found = lv.LatentSpace(fit).anomaly(fit.rows, scores=("likelihood", "predictive"), draws=120)
    parts = np.split(x, lengths.cumsum()[:-1])
    rate = float(fit.point["rate"])
    exact = [stats.poisson(rate).logpmf(part).sum() for part in parts]
    assert np.allclose(found.log_likelihood, exact)
    law = stats.poisson(rate)
    for row in range(5):
        drawn = -law.logpmf(law.rvs((4_000, lengths[row]), random_state=row)).sum(1)
        assert found.predictive_p is not None
        assert float(found.predictive_p[row]) == pytest.approx((drawn >= -exact[row]).mean(), abs=0.1)


def test_a_generator_needs_reference_rows() -> None:
    layer = torch.nn.Linear(2, 4, bias=False, dtype=FLOAT)
    prior = torch.distributions.Normal(torch.zeros(2, dtype=FLOAT), torch.ones(2, dtype=FLOAT))
    space = lv.LatentSpace.of_generator(layer, prior, noise=0.5)
    with pytest.raises(KindError, match="reference"):
        space.anomaly(rows_of(3, 0))
    with pytest.raises(SettingError, match="scores"):
        space.anomaly(rows_of(3, 0), scores=("odd",))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="draws=20"):
        space.anomaly(rows_of(3, 0), reference=rows_of(9, 1), draws=20)
    random = np.random.default_rng(1)
    w = layer.weight.detach().numpy()
    x = random.normal(size=(30, 2)) @ w.T + random.normal(0, 0.5, (30, 4))
    found = space.anomaly(x[:10], reference=x[10:], scores=("likelihood", "predictive"), draws=100)
    exact = stats.multivariate_normal(np.zeros(4), w @ w.T + 0.25 * np.eye(4)).logpdf(x[:10])
    assert np.allclose(found.log_likelihood, exact, atol=0.05)
    assert found.predictive_p is not None and 0.2 < float(found.predictive_p.mean()) < 0.8


def test_a_digit_that_was_left_out_is_found() -> None:
    digits = lv.datasets.digits()
    x, odd = digits.x / 16, digits.target == 0
    normal = np.random.default_rng(0).permutation(np.flatnonzero(~odd))
    train, reference, new = np.split(normal, [900, 1200])
    model = lv.models.VAE.mlp(64, 10, hidden=(64,), likelihood="gaussian")
    fit = lv.fit(model, x[train], lv.SVI(passes=40, batch_size=100), progress=False)
    rows = np.concatenate([x[new], x[odd]])
    truth = np.arange(len(rows)) >= len(new)
    found = lv.LatentSpace(fit).anomaly(rows, reference=x[reference], draws=25)
    pca = PCA(10).fit(x[train])
    others = {
        "isolation forest": -IsolationForest(random_state=0).fit(x[train]).score_samples(rows),
        "one-class SVM": -OneClassSVM(gamma="scale").fit(x[train]).score_samples(rows),
        "PCA": np.square(rows - pca.inverse_transform(pca.transform(rows))).sum(1),
    }
    own = roc_auc_score(truth, found.scores["likelihood"].numpy())
    assert own > 0.9 and own > max(roc_auc_score(truth, score) for score in others.values())
    assert stats.kstest(found.p_values["likelihood"][: len(new)].numpy(), "uniform").statistic < 0.13


def test_a_guide_that_is_no_proposal_is_told() -> None:
    x = lv.datasets.digits().x[:200] / 16
    fit = lv.from_point(
        lv.models.VAE.mlp(64, 6, hidden=(8,), likelihood="gaussian").taught(
            x, np.random.default_rng(0).normal(size=(200, 6)), steps=50
        ),
        x,
        {},
    )
    with pytest.warns(UserWarning, match="importance weights of k-hat above 0.7"):
        lv.LatentSpace(fit).anomaly(x[:20], reference=x[:60])
    with pytest.raises(DataError, match="no numbers"):
        lv.LatentSpace(fit).decode("abc")


def test_rows_that_were_learnt_from_are_no_reference_and_folds_are() -> None:
    """40 rows of 12 columns: beside rows of the fit a tenth of new rows, or more, would be called strange at .01."""
    naive, crossed = [], []
    for seed in range(6):
        random = np.random.default_rng(seed)
        x, new = random.normal(size=(40, 12)), random.normal(size=(100, 12))
        space = lv.LatentSpace(lv.fit(lv.models.GaussianMixture(1), x, lv.EM(), progress=False))
        beside, folded = space.anomaly(new), space.anomaly(new, folds=5, seed=seed)
        assert not beside.held_out and "too small" in str(beside)
        assert folded.held_out and "5 fits without" in str(folded) and "too small" not in str(folded)
        naive.append(beside.p_values["likelihood"].numpy())
        crossed.append(folded.p_values["likelihood"].numpy())
    strange, fair = (float((np.concatenate(each) <= 0.1).mean()) for each in (naive, crossed))
    assert strange > 0.3 and 0.04 < fair < 0.16


def test_p_values_of_folds_are_counted_over_all_of_them() -> None:
    random = np.random.default_rng(0)
    x, new = random.normal(size=(31, 3)), random.normal(size=(7, 3)) * 1.5
    fit = lv.fit(lv.models.GaussianMixture(1), x, lv.EM(), progress=False)
    source = lv.LatentSpace(fit).source
    assert isinstance(source, FittedSource)
    found = lv.LatentSpace(fit).anomaly(new, folds=4, seed=2)
    above, seen = np.zeros(7), []
    for held, own in Folds(4, None, derive(2, 4)).fits(source):
        ids = [int(name) for name in held.names]
        kept = np.delete(x, ids, 0)
        law = stats.multivariate_normal(kept.mean(0), np.cov(kept.T, bias=True) + 1e-6 * np.eye(3))
        assert np.allclose(own.fit.point["loc"][0], kept.mean(0))
        above += (law.logpdf(x[ids])[None] <= law.logpdf(new)[:, None]).sum(1)
        seen += ids
    assert sorted(seen) == list(range(31))
    assert np.allclose(found.p_values["likelihood"], (above + 1) / 32)
    assert np.allclose(found.log_likelihood, lv.LatentSpace(fit).anomaly(new).log_likelihood)


def test_folds_that_cannot_be_are_told(users: lv.Fit) -> None:
    fit = lv.fit(lv.models.GaussianMixture(1), rows_of(20, 0), lv.EM(), progress=False)
    space = lv.LatentSpace(fit)
    for wrong in (1, 21, 2.5):
        with pytest.raises(SettingError, match="folds="):
            space.anomaly(rows_of(3, 1), folds=wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="one of them"):
        space.anomaly(rows_of(3, 1), folds=2, reference=rows_of(3, 2))
    with pytest.raises(KindError, match="recipe="):
        lv.LatentSpace(users).anomaly(rows_of(3, 1), folds=2)
    recipe = lv.Fitter(Factors(4, 2, isotropic=True), lv.VariationalEM(passes=2))
    assert len(lv.LatentSpace(users).anomaly(rows_of(3, 1), folds=2, recipe=recipe, draws=30)) == 3
