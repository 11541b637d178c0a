"""How often 95 % intervals hold the truth that the data were simulated from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from calibration_check import Check, Settings
from torch import Tensor
from torch.distributions import constraints

import latentvars as lv
from latentvars.studies.parallel import spread

LEVEL, LOW, HIGH = 0.95, 0.92, 0.98
KINDS = ("information", "sandwich")


class Regression:
    """y ~ N(x β, σ²). Columns ``y`` and ``x``."""

    def model(self, rows: lv.Batch) -> None:
        beta = pyro.sample("beta", lv.flat((3,)))
        sigma = pyro.sample("sigma", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("y", dist.Normal(rows["x"] @ beta, sigma), obs=rows["y"])


class Counts:
    """y ~ Poisson(exp(x β)). Columns ``y`` and ``x``."""

    def model(self, rows: lv.Batch) -> None:
        beta = pyro.sample("beta", lv.flat((2,)))
        with rows.plate():
            pyro.sample("y", dist.Poisson((rows["x"] @ beta).exp()), obs=rows["y"])


@dataclass(frozen=True)
class Case:
    """A model, its true globals, and data from them that this file draws by itself."""

    model: Callable[[], Any]
    truth: Mapping[str, Any]
    data: Callable[[np.random.Generator], lv.Rows]

    def point(self) -> dict[str, Tensor]:
        return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in self.truth.items()}


def mixture(noise: np.random.Generator) -> lv.Rows:
    z = noise.random(500) < 0.6
    return lv.Rows(np.where(z, noise.normal(3.0, 1.2, 500), noise.normal(0.0, 0.8, 500))[:, None])


def chains(noise: np.random.Generator, rows: int = 40, steps: int = 15) -> lv.Rows:
    states = np.zeros((rows, steps), dtype=int)
    states[:, 0] = noise.random(rows) < 0.4
    for t in range(1, steps):
        stay = noise.random(rows) < np.where(states[:, t - 1] == 1, 0.7, 0.85)
        states[:, t] = np.where(stay, states[:, t - 1], 1 - states[:, t - 1])
    return lv.Rows(noise.poisson(np.array([2.0, 7.0])[states]).flatten(), lengths=[steps] * rows)


def line(noise: np.random.Generator) -> lv.Rows:
    x = np.column_stack([np.ones(100), noise.normal(size=(100, 2))])
    return lv.Rows({"x": x, "y": x @ [0.5, 1.0, -2.0] + 1.5 * noise.normal(size=100)})


def counts(noise: np.random.Generator) -> lv.Rows:
    x = np.column_stack([np.ones(120), noise.normal(size=120)])
    return lv.Rows({"x": x, "y": noise.poisson(np.exp(x @ [0.3, 0.5])).astype(float)})


CASES = {
    "mixture, 500 rows": Case(
        lambda: lv.models.GaussianMixture(2, 1, "spherical"),
        {"weights": [0.4, 0.6], "loc": [[0.0], [3.0]], "scale": [0.8, 1.2]},
        mixture,
    ),
    "hidden Markov, 40 sequences of 15 steps": Case(
        lambda: lv.models.HiddenMarkov(2, lv.emissions.Poisson()),
        {"initial": [0.6, 0.4], "transition": [[0.85, 0.15], [0.3, 0.7]], "rate": [[2.0], [7.0]]},
        chains,
    ),
    "normal regression, 100 rows": Case(Regression, {"beta": [0.5, 1.0, -2.0], "sigma": 1.5}, line),
    "Poisson regression, 120 rows": Case(Counts, {"beta": [0.3, 0.5]}, counts),
}


def simulate(name: str, seed: int, numbers: Sequence[int]) -> list[dict[str, dict[str, Tensor]]]:
    """For each data set: kind → global → whether the interval of each number held the truth, NaN without interval."""
    case, found = CASES[name], []
    for number in numbers:
        rows = case.data(np.random.default_rng((seed, number)))
        fit = lv.fit(case.model(), rows, lv.EM(accelerate=True), seed=number, start=case.point(), progress=False)
        held = {}
        for kind in KINDS:
            held[kind] = {
                site: torch.where(
                    interval.isnan().any(-1),
                    torch.nan,
                    ((interval[..., 0] <= true) & (true <= interval[..., 1])).double(),
                )
                for site, interval in fit.standard_errors(kind).interval(LEVEL).items()
                for true in [case.point()[site]]
            }
        found.append(held)
    return found


def checks(settings: Settings) -> list[Check]:
    found = []
    for name in CASES:
        work = partial(simulate, name, settings.seed)
        held = [one for part in spread(work, range(settings.simulations), settings.workers) for one in part]
        for kind in KINDS:
            pooled = {site: torch.stack([one[kind][site] for one in held]) for site in held[0][kind]}
            every = torch.cat([value.flatten() for value in pooled.values()])
            by_site = ", ".join(f"{site} {float(value.nanmean()):.3f}" for site, value in pooled.items())
            withheld = int(every.isnan().sum())
            note = by_site + (f"; {withheld} of {len(every)} withheld" if withheld else "")
            found.append(Check(f"{name}: {kind}", float(every.nanmean()), LOW, HIGH, note))
    return found
