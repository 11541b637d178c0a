"""Marginal leave-one-out of a mixture of Old Faithful's waiting times is what refits without each row give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base.array import array_stats
from scipy import stats
from scipy.special import logsumexp

import latentvars as lv

PRIORS = {
    "weights": dist.Dirichlet(torch.full((2,), 2.0, dtype=torch.float64)),
    "loc": dist.Normal(torch.zeros((), dtype=torch.float64), 2.0),
    "scale": dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 2.0),
}
REFITTED = 3


class TwoKinds:
    """The built-in mixture by hand, the component drawn row by row."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", PRIORS["weights"])
        loc = pyro.sample("loc", PRIORS["loc"].expand([2, 1]).to_event(2))
        scale = pyro.sample("scale", PRIORS["scale"].expand([2, 1]).to_event(2))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=rows.x)


def log_mean(scores: np.ndarray) -> tuple[float, float]:
    """Log mean of exp of ``[C, S]``, and its Monte Carlo standard error."""
    values = np.exp(scores - scores.max())
    error = float(array_stats.mcse(values, chain_axis=0, draw_axis=1, method="mean"))
    return float(logsumexp(scores) - np.log(scores.size)), error / values.mean()


def without(model: Any, x: np.ndarray, n: int, start: Any) -> tuple[float, float]:
    """log p(x_n | x without n) by a sampler that never saw the row; the density by scipy."""
    sampler = lv.NUTS(draws=200, tune=80, chains=1)
    fit = lv.fit(model, np.delete(x, n, 0), sampler, start=start, seed=n, progress=False)
    draws = fit.knowledge(200).draws
    assert draws is not None
    weights, loc, scale = (draws[name].numpy().reshape(200, 2) for name in ("weights", "loc", "scale"))
    return log_mean(np.log((weights * stats.norm.pdf(x[n], loc, scale)).sum(1))[None])


def test_the_most_influential_rows_agree_with_exact_refits(truth: Path) -> None:
    """The sum within two standard errors, each row within four; a model of one's own has the same from the draws."""
    pytest.importorskip("nutpie")
    x = np.loadtxt(truth / "faithful" / "faithful.csv", delimiter=",", skiprows=1, usecols=2)
    x = ((x - x.mean()) / x.std())[:, None]
    built_in = lv.models.GaussianMixture(2, covariance="diag", priors=PRIORS)
    best = lv.fit(built_in, x, lv.EM(), progress=False).point
    fit = lv.fit(built_in, x, lv.NUTS(draws=400, tune=150, chains=2), start=best, progress=False)
    found = lv.loo(fit, unit="row")
    by_hand = replace(lv.from_point(TwoKinds(), x, best), globals=fit.globals, status=fit.status)
    np.testing.assert_allclose(lv.loo(by_hand, unit="row").elpd_i, found.elpd_i, atol=1e-8)
    worst = np.argsort(-found.pareto_k.values)[:REFITTED]
    exact = np.array([without(built_in, x, int(n), best) for n in worst])
    scores = fit.to_datatree(predictive=False, latents=False)["log_likelihood"]["x"].values
    own = np.array([log_mean(-scores[:, :, n])[1] for n in worst])
    difference, error = found.elpd_i.values[worst] - exact[:, 0], np.hypot(own, exact[:, 1])
    # rows share the draws of one fit, so that its errors add up; those of the refits are independent
    assert abs(difference.sum()) < 2 * np.hypot(own.sum(), np.sqrt((exact[:, 1] ** 2).sum()))
    assert (np.abs(difference) < 4 * error).all()
    in_sample = logsumexp(scores[:, :, worst], (0, 1)) - np.log(scores[:, :, 0].size)
    assert (in_sample - exact[:, 0]).sum() > 3 * np.abs(difference.sum())  # what is not left out predicts too well
