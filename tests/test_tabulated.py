"""The E-step by products with a table of features against the general one, which goes through autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import CASES, EM_CASES, over
from test_laws import batch_of, bound

import latentvars as lv
from latentvars.families import Selection
from latentvars.inference.algorithm import Problem
from latentvars.inference.em import EMState

TABULATED = [
    name
    for name in EM_CASES
    if name.startswith(("gmm", "mixture", "hmm")) and name not in ("mixture-experts", "hmm-driven", "hmm-product")
]


@over(TABULATED)
def test_objective_and_statistics_are_those_of_the_general_way(name: str) -> None:
    rows, program, start = bound(name)
    state = lv.EM().init(Problem(program, rows, start, 0))
    assert state.table is not None
    found = state.table.expected(start, batch_of(program, rows), with_prior=True)
    general = state.steps.expected(start, batch_of(program, rows), with_prior=True)
    assert found is not None
    assert found.objective == pytest.approx(general.objective, rel=1e-12)
    assert found.statistics.keys() == general.statistics.keys()
    for leaf in state.plan.leaves:
        for key, value in general.statistics[leaf.name].items():
            pair = (found.statistics[leaf.name][key], value)
            spread = [one for name, one in leaf.sources.items() if name in ("scale", "covariance_matrix")]
            if key == "second" and isinstance(spread[0], Selection):  # where a spread is shared, its squares are too
                pair = tuple(spread[0].pull(one, leaf.target) for one in pair)
            torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-10)
    after, wanted = (state.steps.maximise(start, total) for total in (found, general))
    for global_name, value in wanted.items():
        torch.testing.assert_close(after[global_name], value, rtol=1e-10, atol=1e-12)


@over(["mixture-experts", "hmm-driven", "hmm-product", "user-mixture", "user-chain"])
def test_other_models_go_the_general_way(name: str) -> None:
    rows, program, start = bound(name)
    assert lv.EM().init(Problem(program, rows, start, 0)).table is None


@over(["gmm-full", "hmm-gaussian"])
def test_weights_count_and_missing_entries_go_the_general_way(name: str) -> None:
    rows, program, start = bound(name)
    weighted = rows.with_weights(torch.arange(len(rows), dtype=torch.float64) % 3)
    state = lv.EM().init(Problem(program, weighted, start, 0))
    assert state.table is not None
    found = state.table.expected(start, batch_of(program, weighted), with_prior=False)
    general = state.steps.expected(start, batch_of(program, weighted), with_prior=False)
    assert found is not None
    assert found.objective == pytest.approx(general.objective, rel=1e-12)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_where_products_would_lose_digits_the_general_way_is_taken(covariance: str) -> None:
    """Two components 10^4 standard deviations apart."""
    noise = np.random.default_rng(0)
    x = noise.normal(size=(60, 2)) + np.where(np.arange(60) % 2, 1e4, 0.0)[:, None]
    model = lv.models.GaussianMixture(2, covariance=covariance)
    found = lv.fit(model, x, lv.EM(variance_floor=0.0, restarts=3), seed=0, progress=False)
    assert sorted(found.point["weights"].tolist()) == pytest.approx([0.5, 0.5])
    by_group = [x[k::2].std(0) for k in (0, 1)]
    spread = found.point["scale"] if covariance == "diag" else found.point["covariance"].diagonal(0, -2, -1).sqrt()
    np.testing.assert_allclose(np.sort(spread.numpy(), 0), np.sort(np.array(by_group), 0), rtol=1e-6)


class General(lv.EM):
    """EM without tables."""

    def init(self, problem: Problem) -> EMState:
        return replace(super().init(problem), table=None)


@over(["gmm-full", "gmm-tied", "mixture-poisson", "hmm-gaussian"])
@pytest.mark.parametrize("accelerate", [False, True], ids=["plain", "accelerated"])
def test_a_fit_does_not_depend_on_the_way(name: str, accelerate: bool) -> None:
    rows, model = CASES[name].data(), CASES[name].model()
    given = {"passes": 15, "stop": lv.Never(), "accelerate": accelerate}
    ways = [General(**given), lv.EM(**given), lv.EM(**given, batch_size=len(rows) // 2 - 1)]
    general, whole, parts = (lv.fit(model, rows, em, seed=0, progress=False) for em in ways)
    for fit in (whole, parts):
        assert isinstance(fit.state, EMState) and fit.state.table is not None
        np.testing.assert_allclose(fit.history, general.history, rtol=1e-11)
        for site, value in general.point.items():
            torch.testing.assert_close(fit.point[site], value, rtol=1e-7, atol=1e-9)
