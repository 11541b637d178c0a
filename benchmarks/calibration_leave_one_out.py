"""Leave-one-out of a mixture by importance sampling against refits without each row: Old Faithful."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from calibration_check import Check, Settings
from scipy.special import logsumexp

import latentvars as lv
from latentvars.randomness import derive
from latentvars.studies.parallel import spread

DATA = Path(__file__).resolve().parents[2] / "shared" / "truth" / "data" / "faithful" / "faithful.csv"
FULL = lv.NUTS(draws=1_000, tune=500, chains=4)
REFIT = lv.NUTS(draws=400, tune=250, chains=2)
PRIORS = {
    "weights": dist.Dirichlet(torch.full((2,), 2.0, dtype=torch.float64)),
    "loc": dist.Normal(torch.zeros((), dtype=torch.float64), 2.0),
    "scale": dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 2.0),
}


class TwoKinds:
    """The mixture of :func:`built_in`, its components drawn row by row."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", PRIORS["weights"])
        loc = pyro.sample("loc", PRIORS["loc"].expand([2, 2]).to_event(2))
        scale = pyro.sample("scale", PRIORS["scale"].expand([2, 2]).to_event(2))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=rows.x)


def built_in() -> Any:
    return lv.models.GaussianMixture(2, covariance="diag", priors=PRIORS)


def faithful() -> np.ndarray:
    """Duration and waiting time of 272 eruptions, standardised."""
    x = np.loadtxt(DATA, delimiter=",", skiprows=1, usecols=(1, 2))
    return (x - x.mean(0)) / x.std(0)


def log_mean(scores: np.ndarray) -> tuple[float, float]:
    """Log mean density of draws ``[C, S]`` and its Monte Carlo standard error, by the effective sample size."""
    from arviz_stats.base.array import array_stats

    density = np.exp(scores - scores.max())
    error = float(array_stats.mcse(density, chain_axis=0, draw_axis=1, method="mean")) / density.mean()
    return float(logsumexp(scores) - np.log(scores.size)), error


def refitted(model: Any, x: np.ndarray, start: Any, seed: int, rows: Sequence[int]) -> list[tuple[float, float]]:
    """log p(x_n | x without n) and its error, for some rows, by sampling without them."""
    found = []
    for n in rows:
        fit = lv.fit(model, np.delete(x, n, 0), REFIT, start=start, seed=derive(seed, n), progress=False)
        draws = fit.knowledge(800).draws
        assert draws is not None
        scores = [
            float(fit.program.score({k: v[s] for k, v in draws.items()}, lv.Rows(x[[n]]).batch()).rows[0].detach())
            for s in range(len(draws["loc"]))
        ]
        found.append(log_mean(np.reshape(scores, (REFIT.chains, -1))))
    return found


def by_importance(fit: lv.Fit) -> tuple[Any, np.ndarray]:
    """``lv.loo`` and the Monte Carlo error of each row: of a ratio of means over draws, 1 / p(x_n | θ) on average."""
    tree = fit.to_datatree(predictive=False, latents=False)
    scores = tree["log_likelihood"]["x"].values
    errors = np.array([log_mean(-scores[:, :, n])[1] for n in range(scores.shape[2])])
    return lv.loo(fit, unit="row"), errors


def checks(settings: Settings) -> list[Check]:
    """All 272 rows, or as many as simulations are asked for: the sum, in standard errors of the difference, and the
    share of rows within two of their own. Both models are one density, so that one set of refits is exact for both."""
    if not DATA.is_file():
        return []
    x, result = faithful(), []
    best = lv.fit(built_in(), x, lv.EM(restarts=5), seed=settings.seed, progress=False).point
    chosen = list(range(min(len(x), settings.simulations)))
    work = partial(_numbered, built_in(), x, best, settings.seed)
    exact = dict(pair for part in spread(work, chosen, settings.workers) for pair in part)
    for name, model in (("user-written", TwoKinds()), ("built-in", built_in())):
        fit = lv.fit(model, x, FULL, start=best, seed=settings.seed, progress=False)
        found, own = by_importance(fit)
        difference = np.array([float(found.elpd_i[n]) - exact[n][0] for n in chosen])
        error = np.hypot(own[chosen], [exact[n][1] for n in chosen])
        # errors of rows that share the draws of one fit add up, those of refits do not
        whole = np.hypot(own[chosen].sum(), np.sqrt(sum(exact[n][1] ** 2 for n in chosen)))
        note = f"loo {float(found.elpd_i[chosen].sum()):.4f}, exact {sum(exact[n][0] for n in chosen):.4f} nats"
        result += [
            Check(
                f"{name}: sum of {len(chosen)} rows, difference / error", float(difference.sum() / whole), -2, 2, note
            ),
            Check(f"{name}: rows within two standard errors", float((np.abs(difference) < 2 * error).mean()), 0.85),
            Check(f"{name}: largest difference, nats", float(np.abs(difference).max()), high=0.25),
            Check(f"{name}: difference / standard error of elpd", float(difference.sum() / found.se), -2.0, 2.0),
        ]
    return result


def _numbered(
    model: Any, x: np.ndarray, start: Any, seed: int, rows: Sequence[int]
) -> list[tuple[int, tuple[float, float]]]:
    return list(zip(rows, refitted(model, x, start, seed, rows), strict=True))
