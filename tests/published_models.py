"""Models of posteriordb as a user would write them, and where their data are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

import latentvars as lv
from latentvars.distributions import HiddenMarkov


class Ordered(TorchDistribution):
    """Normals restricted to an order."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, loc: Tensor, scale: Tensor, support: constraints.Constraint) -> None:
        self.normal, self._support = dist.Normal(loc, scale), support
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return self._support

    def log_prob(self, value: Tensor) -> Tensor:
        return self.normal.log_prob(value).flatten().sum()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.normal.sample(torch.Size(sample_shape)).abs().sort(0).values


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class TwoNormals:
    """posteriordb low_dim_gauss_mix: ordered means."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", Ordered(numbers(0, 0), numbers(2, 2), constraints.ordered_vector))
        sigma = pyro.sample("sigma", dist.HalfNormal(numbers(2, 2)).to_event(1))
        theta = pyro.sample("theta", dist.Beta(numbers(5)[0], numbers(5)[0]))
        weights = torch.stack([theta, 1 - theta])
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=rows["y"])


@dataclass(frozen=True)
class TwoStates:
    """posteriordb hmm_example: positive ordered means, unit deviations."""

    def model(self, rows: lv.Batch) -> None:
        support = lv.ordered((2, 1), positive=True).support
        mu = pyro.sample("mu", Ordered(numbers(3, 10)[:, None], numbers(1, 1)[:, None], support))
        moves = pyro.sample("moves", lv.flat((2, 2), constraints.simplex))
        with rows.plate():
            law = HiddenMarkov(numbers(0.5, 0.5), moves, dist.Normal(mu[:, 0], numbers(1)[0]), rows.lengths, steps=100)
            pyro.sample("y", law, obs=rows["y"])


@dataclass(frozen=True)
class Schools:
    """posteriordb eight_schools_noncentered."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(numbers(0)[0], 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(numbers(5)[0]))
        effects = pyro.sample("effects", dist.Normal(torch.zeros(8, dtype=torch.float64), 1.0).to_event(1))
        with rows.plate():
            pyro.sample("y", dist.Normal(mu + tau * effects[rows.index], rows["sigma"]), obs=rows["y"])


def published(truth: Path, name: str) -> dict[str, Any]:
    return json.loads((truth / "posteriordb" / name / "data.json").read_text())
