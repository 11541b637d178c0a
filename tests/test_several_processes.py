"""Sweeps, bootstrap and likelihood-ratio tests give in several processes what they give in one.

They stand together because the processes, which take seconds to start, are kept from one to the next.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import latentvars as lv


class Groups:
    """A user's own mixture of unit variance."""

    def __init__(self, components: int) -> None:
        self.components = components

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((self.components,), constraints.simplex))
        loc = pyro.sample("loc", lv.flat((self.components,)))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"weights": ("component",), "loc": ("component",)}


def two_groups(size: int = 40) -> np.ndarray:
    return np.random.default_rng(3).normal(size=size) + 4.0 * (np.arange(size) % 2)


def fitted(components: int) -> lv.Fit:
    start = {"loc": [0.0, 4.0][:components]}
    return lv.fit(Groups(components), two_groups(), lv.EM(stop=lv.Tolerance(1e-6)), start=start, progress=False)


def test_of_a_sweep() -> None:
    here, there = (
        lv.sweep(lambda k: Groups(k), two_groups(), range(1, 4), lv.EM(restarts=2), workers=workers, progress=False)
        for workers in (1, 2)
    )
    assert list(there.fits) == [1, 2, 3]
    for value, fit in there.fits.items():
        assert fit.log_likelihood == pytest.approx(here[value].log_likelihood, rel=1e-10)
        assert fit.rows is next(iter(there.fits.values())).rows
    assert there[3].latent().mean("z").shape == (40, 3)


def test_of_a_bootstrap() -> None:
    here, there = (lv.bootstrap(fitted(2), replicates=4, seed=7, workers=workers, progress=False) for workers in (1, 2))
    for name in ("weights", "loc"):
        torch.testing.assert_close(here[name], there[name], rtol=1e-10, atol=0)


def test_of_a_likelihood_ratio() -> None:
    here, there = (
        lv.likelihood_ratio(
            fitted(1), fitted(2), replicates=3, restarts=1, seed=5, workers=workers, progress=False
        ).replicates
        for workers in (1, 2)
    )
    torch.testing.assert_close(here, there, rtol=1e-8, atol=1e-8)
