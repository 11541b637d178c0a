"""Passes over many draws of the globals: the graph gives what the model's own code gives, chance included."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models

import latentvars as lv
from latentvars.capture import over_draws
from latentvars.posterior.datatree import draw_scores
from latentvars.posterior.observations import _layouts, predictions

SIZE = 40
MODULE = sys.modules[over_draws.__module__]  # the function hides it
NOISE = np.random.default_rng(0)
CASES: dict[str, tuple[Any, Any]] = {
    "gmm": (lv.models.GaussianMixture(2), NOISE.normal(size=(12, 2))),
    "user mixture": (user_models.ExplicitMixture(), lv.Rows({"x": NOISE.normal(size=12)})),
    "regression": (user_models.Regression(), lv.Rows({"y": NOISE.normal(size=9), "t": NOISE.normal(size=9)})),
    "chain": (
        lv.models.HiddenMarkov(2, lv.emissions.Poisson()),
        lv.Rows(NOISE.poisson(3.0, 11).astype(float), lengths=[5, 6]),
    ),
}


def fitted(name: str) -> tuple[lv.Fit, dict[str, torch.Tensor]]:
    """A fit, and draws around its point."""
    model, rows = CASES[name]
    fit = lv.fit(model, rows, lv.EM(passes=3, stop=lv.Never()), progress=False)
    free = fit.program.space.unconstrain(fit.point)
    noise = 0.1 * torch.from_numpy(np.random.default_rng(1).normal(size=(SIZE, len(free))))
    drawn = [fit.program.space.constrain(free + step)[0] for step in noise.to(free.dtype)]
    return fit, {key: torch.stack([one[key] for one in drawn]) for key in drawn[0]}


@pytest.mark.parametrize("name", CASES)
def test_recorded_passes_are_those_of_the_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, draws = fitted(name)
    found = {}
    for often in (SIZE, SIZE + 1):
        monkeypatch.setattr(MODULE, "OFTEN", often)
        drawn = predictions(fit.program, fit.rows, _layouts(fit.program, fit.point), draws, SIZE, 5)
        found[often] = drawn, draw_scores(fit.program, fit.rows, draws, 0)
    (drawn, scores), (wanted, wanted_scores) = found.values()
    assert drawn.keys() == wanted.keys() and drawn
    for site, value in drawn.items():
        np.testing.assert_allclose(value, wanted[site], rtol=1e-12, equal_nan=True)
        assert len(np.unique(value.reshape(SIZE, -1), axis=0)) > 1
    for one, other in zip(scores, wanted_scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


class OneNormal:
    """A normal of unknown mean."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()), 1.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)


def test_what_a_graph_would_freeze_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "OFTEN", 5)
    fit = lv.fit(OneNormal(), NOISE.normal(size=6), progress=False)
    batch, draws = fit.rows.batch(dtype=fit.program.dtype), {"loc": torch.linspace(-2.0, 2.0, 20).double()}

    def branching(values: Any, batch: lv.Batch) -> tuple[torch.Tensor, ...]:
        sign = 1.0 if float(values["loc"]) > 0 else -1.0
        return (sign * torch.randn(3).double() + values["loc"],)

    seeds = list(range(20))
    (found,) = over_draws(fit.program, batch, branching, draws, seeds=seeds)
    (wanted,) = over_draws(fit.program, batch, branching, draws, seeds=seeds, recorded=False)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.0)
