"""Published latent class analyses, by a user's own model and by the built-in mixture; and t laws by three ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import t as student
from torch.distributions import constraints

import latentvars as lv


class LatentClass:
    """K classes of independent binary items, the class drawn at each row, flat priors."""

    def __init__(self, classes: int, items: int) -> None:
        self.classes, self.items = classes, items

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((self.classes,), constraints.simplex))
        probs = pyro.sample("probs", lv.flat((self.classes, self.items), constraints.unit_interval))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=rows.x)


def built_in(classes: int, items: int) -> Any:
    return lv.models.Mixture(classes, lv.emissions.Bernoulli(items))


BOTH = pytest.mark.parametrize("model", [LatentClass, built_in], ids=["user", "built-in"])


def patterns(truth: Path, name: str) -> lv.Rows:
    """Answers 0 and 1: each pattern once, weighted by how often it was given."""
    answers = pd.read_csv(truth / name / f"{name}.csv").to_numpy() - 1
    found, often = np.unique(answers, axis=0, return_counts=True)
    return lv.Rows(found, weights=often.astype(float))


def by_share(fit: lv.Fit) -> tuple[np.ndarray, np.ndarray]:
    """Shares and item probabilities, the smallest class first."""
    order = fit.point["weights"].argsort()
    return fit.point["weights"][order].numpy(), fit.point["probs"][order].numpy()


# Agresti (2002), Categorical Data Analysis, table 13.3; shares, AIC and BIC of Linzer & Lewis (2011)
SHARES = [0.1817, 0.3736, 0.4447]
ITEMS = [
    [0.513, 1.000, 0.000, 0.058, 0.751, 0.000, 0.631],
    [0.057, 0.138, 0.000, 0.000, 0.055, 0.000, 0.000],
    [1.000, 0.981, 0.858, 0.586, 1.000, 0.476, 1.000],
]


@BOTH
def test_lca1_carcinoma(truth: Path, model: Any) -> None:
    rows = patterns(truth, "carcinoma")
    assert len(rows) == 20 and float(rows.weights.sum()) == 118
    two = lv.fit(model(2, 7), rows, lv.EM(restarts=5))
    assert two.log_likelihood == pytest.approx(-317.2568, abs=5e-4)
    fit = lv.fit(model(3, 7), rows, lv.EM(restarts=5))
    assert fit.log_likelihood == pytest.approx(-293.705, abs=5e-4)
    shares, items = by_share(fit)
    np.testing.assert_allclose(shares, SHARES, atol=6e-5)
    np.testing.assert_allclose(items, ITEMS, atol=6e-4)
    assert fit.free_parameters == 23
    assert (fit.aic, fit.bic) == (pytest.approx(633.41, abs=5e-3), pytest.approx(697.1357, abs=5e-4))


@pytest.mark.parametrize(
    "model", [pytest.param(LatentClass, marks=pytest.mark.long), built_in], ids=["user", "built-in"]
)
def test_lca1_four_classes(truth: Path, model: Any) -> None:
    """The best optimum has a small basin: about every third start ends there."""
    algorithm = lv.EM(restarts=10, accelerate=True, stop=lv.Tolerance(1e-7))
    fit = lv.fit(model(4, 7), patterns(truth, "carcinoma"), algorithm)
    assert fit.log_likelihood == pytest.approx(-289.2858, abs=0.001)


@BOTH
def test_probabilities_on_the_boundary_are_read_out_finite(truth: Path, model: Any) -> None:
    """Ten of the published probabilities are 0 or 1: they have no standard error, everything else has one."""
    fit = lv.fit(model(3, 7), patterns(truth, "carcinoma"), lv.EM(restarts=5))
    table = fit.summary()
    values = table["estimate"].to_numpy()
    inside = (values > 1e-6) & (values < 1 - 1e-6)
    assert inside.sum() == 3 + 21 - 10
    assert (table["sd"].notna() == inside).all()
    assert bool(fit.score_rows().isfinite().all()) and bool(fit.latent().mean("z").isfinite().all())


@BOTH
def test_lca2_values(truth: Path, model: Any) -> None:
    """Goodman (1974), table 3: the probabilities of the particularistic answers are one minus his."""
    rows = patterns(truth, "values")
    assert len(rows) == 16 and float(rows.weights.sum()) == 216
    one = lv.fit(model(1, 4), rows)
    assert one.log_likelihood == pytest.approx(-543.6498, abs=5e-5)
    two = lv.fit(model(2, 4), rows, lv.EM(restarts=5))
    assert two.log_likelihood == pytest.approx(-504.4677, abs=5e-5)
    shares, items = by_share(two)
    np.testing.assert_allclose(shares, [0.2793, 0.7207], atol=6e-5)
    np.testing.assert_allclose(items, [[0.993, 0.940, 0.927, 0.769], [0.714, 0.330, 0.354, 0.132]], atol=6e-4)
    three = lv.fit(model(3, 4), rows, lv.EM(accelerate=True))
    assert three.log_likelihood == pytest.approx(-503.3011, abs=0.001)


def test_items_as_categories_are_the_same_classes(truth: Path) -> None:
    rows = patterns(truth, "carcinoma")
    items = lv.emissions.Product(*[lv.emissions.Categorical(2)] * 7)
    fit = lv.fit(lv.models.Mixture(3, items), rows, lv.EM(restarts=5))
    assert fit.log_likelihood == pytest.approx(-293.705, abs=5e-4)
    order = fit.point["weights"].argsort()
    found = np.stack([fit.point[f"probs_{k}"][order, 1].numpy() for k in range(7)], 1)
    np.testing.assert_allclose(found, ITEMS, atol=6e-4)
    assert fit.free_parameters == 23


class StudentMixture:
    """Two t laws, all of it unknown, under proper priors: nothing in it but the weights has a closed form."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 2.0])))
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
        df = pyro.sample("df", dist.Gamma(4.0, 0.5))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.StudentT(df, loc[z], scale[z]), obs=rows.x)


def two_t_laws() -> np.ndarray:
    noise = np.random.default_rng(5)
    return np.where(np.arange(120) % 3 == 0, 4.0, -1.0) + noise.standard_t(4, 120) * 0.8


def by_hand(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Posterior mode (share of the first, locations, scales, df) and its log density by scipy alone, nats."""

    def unpacked(free: np.ndarray) -> np.ndarray:
        return np.concatenate([[1 / (1 + np.exp(-free[0]))], free[1:3], np.exp(free[3:])])

    def negative(free: np.ndarray) -> float:
        share, a, b, s, r, df = unpacked(free)
        first = np.log(share) + np.asarray(student.logpdf(x, df, a, s))
        second = np.log1p(-share) + np.asarray(student.logpdf(x, df, b, r))
        rates = np.log(s) + np.log(r) - s - r  # Gamma(2, 1), whose normaliser is 1
        shape = 4 * np.log(0.5) - np.log(6.0) + 3 * np.log(df) - 0.5 * df  # Gamma(4, 0.5)
        normal = (-0.5 * (np.array([a, b]) / 5) ** 2 - np.log(5 * np.sqrt(2 * np.pi))).sum()
        dirichlet = np.log(6.0) + np.log(share) + np.log1p(-share)
        return -float(np.logaddexp(first, second).sum() + rates + shape + normal + dirichlet)

    start = np.array([0.0, -1.0, 4.0, 0.0, 0.0, 1.5])
    found = minimize(negative, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 2_000})
    return unpacked(found.x), -float(found.fun)


def flattened(point: Any) -> np.ndarray:
    """Share of the first, locations, scales, df; the lower location first."""
    order = point["loc"].argsort()
    return np.concatenate(
        [point["weights"][order][:1], point["loc"][order], point["scale"][order], point["df"].reshape(1)]
    )


def test_t_laws_by_em_by_svi_with_a_point_and_by_hand() -> None:
    """Three ways to one posterior mode: L-BFGS within EM, gradients of the marginal with a point guide, scipy."""
    x = two_t_laws()
    mode, density = by_hand(x)
    start = {"weights": [0.5, 0.5], "loc": [-2.0, 3.0], "scale": [1.0, 1.0], "df": 5.0}
    em = lv.fit(StudentMixture(), x, lv.EM(stop=lv.Tolerance(1e-12)), start=start)
    assert "L-BFGS" in em.explain()
    svi = lv.fit(StudentMixture(), x, lv.SVI(250, torch.optim.Rprop, guide=lv.Delta(), stop=lv.Never()), start=start)
    np.testing.assert_allclose(flattened(em.point), mode, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(flattened(svi.point), mode, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(flattened(svi.point), flattened(em.point), atol=1e-4, rtol=1e-4)
    for fit in (em, svi):
        total = fit.log_likelihood + float(fit.program.prior(fit.point))
        assert total == pytest.approx(density, abs=1e-4)
