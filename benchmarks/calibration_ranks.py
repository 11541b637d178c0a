"""Simulation-based calibration by NUTS: ranks are uniform for right posteriors, and not for one that is too narrow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from calibration_check import Check, Settings

import latentvars as lv
from latentvars.inference.sampling import Draws

SAMPLER = lv.NUTS(draws=400, tune=250, chains=1)
DRAWS = 49
LEVEL = 0.01
NARROW = 0.7
MOST = 200


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def mixture() -> Any:
    priors = {
        "weights": dist.Dirichlet(torch.full((2,), 4.0, dtype=torch.float64)),
        "loc": dist.Normal(number(0.0), 3.0),
        "scale": dist.LogNormal(number(0.0), 0.3),
    }
    return lv.models.GaussianMixture(2, 1, "diag", priors=priors)


def chain() -> Any:
    priors = {
        "initial": dist.Dirichlet(torch.full((2,), 2.0, dtype=torch.float64)),
        "transition": dist.Dirichlet(torch.full((2,), 3.0, dtype=torch.float64)),
        "rate": dist.Gamma(number(3.0), 0.5),
    }
    return lv.models.HiddenMarkov(2, lv.emissions.Poisson(), priors=priors)


@dataclass(frozen=True)
class Factors:
    """Factor analysis with one factor as a user writes it: x_n ~ N(0, ΛΛᵀ + diag(scale²)), integrated out by hand."""

    features: int = 4

    def model(self, rows: lv.Batch) -> None:
        size, one = self.features, number(1.0)
        loadings = pyro.sample("loadings", dist.Normal(0 * one, one).expand([size, 1]).to_event(2))
        scale = pyro.sample("scale", dist.LogNormal(-0.5 * one, 0.3 * one).expand([size]).to_event(1))
        with rows.plate():
            law = dist.LowRankMultivariateNormal(torch.zeros(size, dtype=torch.float64), loadings, scale.square())
            pyro.sample("x", law, obs=rows.x)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"loadings": ("feature", "factor"), "scale": ("feature",)}


CASES: dict[str, tuple[Any, lv.Rows]] = {
    "GaussianMixture": (mixture(), lv.Rows(np.linspace(-3.0, 3.0, 40)[:, None])),
    "HiddenMarkov": (chain(), lv.Rows(np.arange(60) % 7, lengths=[20] * 3)),
    "factor analysis, a user's": (Factors(), lv.Rows(np.random.default_rng(0).normal(size=(40, 4)))),
}


def narrow(model: Any, rows: lv.Rows, seed: int) -> lv.Fit:
    """Draws about the posterior mean with 70 % of their deviations, on the unconstrained scale."""
    fit = lv.fit(model, rows, SAMPLER, seed=seed, progress=False)
    assert isinstance(fit.globals, Draws)
    middle = fit.globals.free.mean((0, 1))
    return replace(fit, globals=replace(fit.globals, free=middle + NARROW * (fit.globals.free - middle)))


def checks(settings: Settings) -> Iterator[Check]:
    """For each model the p-value of all ranks under NUTS; for the factor analysis that of draws made too narrow."""
    size = min(settings.simulations, MOST)
    known: dict[str, Any] = {
        "simulations": size,
        "draws": DRAWS,
        "seed": settings.seed,
        "workers": settings.workers,
        "progress": False,
    }
    for name, (model, rows) in CASES.items():
        found = lv.calibrate(model, rows, SAMPLER, **known)
        note = f"{found.simulations} simulations, {len(found.ranks)} quantities, {len(found.failures)} failed"
        yield Check(f"{name}: p of uniform ranks", found.p_value, low=LEVEL, note=note)
    model, rows = CASES["factor analysis, a user's"]
    found = lv.calibrate(model, rows, narrow, **known)
    yield Check(f"draws with {NARROW} of their deviations: p", found.p_value, high=LEVEL)
