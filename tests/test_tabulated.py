"""The E-step by products with a table of features against the general one, which goes through autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import CASES, EM_CASES, normal_sequences, over
from test_laws import batch_of, bound

import latentvars as lv
from latentvars.families import Selection
from latentvars.inference.em.em import EMState
from latentvars.inference.em.tabulated import Tabulated
from latentvars.inference.running.algorithm import Problem
from latentvars.program import Program

TABULATED = [
    name
    for name in EM_CASES
    if name.startswith(("gmm", "mixture", "hmm")) and name not in ("mixture-experts", "hmm-driven", "hmm-product")
]


@over(TABULATED)
def test_objective_and_statistics_are_those_of_the_general_way(name: str) -> None:
    check_step(*bound(name))


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_chains_under_flat_priors_go_without_a_run_of_the_model(covariance: str) -> None:
    model = lv.models.HiddenMarkov(2, lv.emissions.Gaussian(2, covariance))
    fit = lv.fit(model, normal_sequences(), lv.EM(passes=0), progress=False)
    check_step(fit.rows, fit.program, fit.point, direct=True)


def check_step(rows: lv.Rows, program: Program, start: dict[str, torch.Tensor], direct: bool = False) -> None:
    """Objective, statistics and M-step of a table are those of the general way."""
    state = lv.EM().init(Problem(program, rows, start, 0))
    assert isinstance(state.table, Tabulated) and (state.table.direct or not direct)
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
    wanted = state.steps.maximise(start, general)
    ways = [state.steps.maximise(start, found)] + ([state.closed.one(start, found)] if state.closed else [])
    for after in ways:
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


def spreads(covariance: str, groups: list[np.ndarray]) -> np.ndarray:
    """Covariances or standard deviations of groups that are known, each about its own first row."""
    each = [np.cov((x - x[0]).T, bias=True) for x in groups]
    found = {
        "full": np.array(each),
        "tied": np.mean(each, 0),
        "diag": np.sqrt([np.diag(one) for one in each]),
        "spherical": np.sqrt([np.trace(one) / len(one) for one in each]),
    }
    return found[covariance]


@pytest.mark.parametrize("gap", [1e2, 1e5, 1e8])
@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_components_as_far_apart_as_numbers_allow_keep_their_digits(covariance: str, gap: float) -> None:
    """Two components up to 10^8 standard deviations apart, together with a product of features and without."""
    x = np.random.default_rng(0).normal(size=(120, 3)) + np.where(np.arange(120) % 2, gap, 0.0)[:, None]
    wanted = spreads(covariance, [x[::2], x[1::2]])
    for restarts in (1, 3):
        em = lv.EM(variance_floor=0.0, restarts=restarts)
        found = lv.fit(lv.models.GaussianMixture(2, covariance=covariance), x, em, progress=False)
        order = found.point["loc"][:, 0].argsort()
        spread = found.point["scale" if "scale" in found.point else "covariance"]
        assert found.point["weights"].tolist() == pytest.approx([0.5, 0.5])
        np.testing.assert_allclose((spread if covariance == "tied" else spread[order]).numpy(), wanted, rtol=1e-9)


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
        by_row = float(fit.rows.weights @ fit.row_log_likelihood)
        assert fit.log_likelihood == pytest.approx(by_row, rel=1e-12)
