"""Ways to run EM: accelerated, online, from many starts; restricted globals; falls and collapses."""

from __future__ import annotations

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from sklearn.datasets import load_iris

import latentvars as lv
from latentvars.errors import NumericalError, SettingError, SupportError
from latentvars.inference.em.em import plan_m_step
from latentvars.inference.em.screening import screen
from latentvars.inference.running.algorithm import Problem
from latentvars.inference.running.binding import bind


def overlapping(rows: int = 2_000) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.concatenate([generator.normal(size=(rows, 2)), generator.normal(size=(rows, 2)) + 1.8])


CASES = {
    "overlapping mixture": (lv.models.GaussianMixture(2), overlapping(400)),
    "iris spherical": (lv.models.GaussianMixture(3, covariance="spherical"), load_iris().data),
    "weak chain": (
        lv.models.HiddenMarkov(2, lv.emissions.Poisson()),
        np.random.default_rng(1).poisson(np.where((np.arange(60) // 7) % 2, 5, 8)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_acceleration_reaches_the_same_optimum_in_fewer_passes(name: str) -> None:
    model, x = CASES[name]
    stop = lv.Tolerance(1e-11)
    plain = lv.fit(model, x, lv.EM(stop=stop))
    fast = lv.fit(model, x, lv.EM(stop=stop, accelerate=True))
    assert fast.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-4)
    assert len(fast.history) < (0.9 if name == "weak chain" else 0.7) * len(plain.history)
    assert (np.diff(fast.history) >= -1e-10).all()


def test_an_extrapolation_that_nobody_has_scored_is_no_end() -> None:
    """Wherever a run is cut off, its point is at least as good as the history says: an EM update cannot be worse."""
    rows, algorithm = lv.Rows(cases.bits(5)), lv.EM(accelerate=True)
    program = lv.from_point(lv.models.Mixture(4, lv.emissions.Bernoulli(4)), rows, four_classes()).program
    state, batch = algorithm.init(Problem(program, rows, four_classes(), 0)), rows.batch()
    taken_back = 0
    for _ in range(60):
        state = algorithm.update(state, algorithm.contribution(state, batch, 0))
        ends = [program.score(values, batch).rows.sum() for values in (algorithm.posterior(state).point, state.values)]
        assert float(ends[0]) >= state.objective - 1e-9
        taken_back += float(ends[1]) < state.objective
    assert taken_back  # some extrapolations are worse than where they began


def four_classes() -> dict[str, torch.Tensor]:
    noise = np.random.default_rng(3)
    return {"weights": torch.full((4,), 0.25, dtype=torch.float64), "probs": torch.tensor(noise.random((4, 4)))}


def test_acceleration_stays_above_the_variance_floor() -> None:
    x = load_iris().data
    for seed in range(4):
        fit = lv.fit(lv.models.GaussianMixture(3), x, lv.EM(accelerate=True, variance_floor=1e-2), seed=seed)
        plain = lv.fit(lv.models.GaussianMixture(3), x, lv.EM(variance_floor=1e-2), seed=seed)
        assert fit.log_likelihood > plain.log_likelihood - 1.0


def test_online_em_converges_to_the_batch_optimum() -> None:
    x = overlapping()
    start = {"loc": [[-1.0, -1.0], [3.0, 3.0]]}
    batch = lv.fit(lv.models.GaussianMixture(2, covariance="tied"), x, start=start)
    first = lv.fit(lv.models.GaussianMixture(2, covariance="tied"), x, lv.EM(passes=1), start=start)
    online = lv.fit(
        lv.models.GaussianMixture(2, covariance="tied"),
        x,
        lv.OnlineEM(passes=15, batch_size=200, decay=0.9, stop=lv.Never()),
        start=start,
    )
    gap = batch.log_likelihood - online.log_likelihood
    assert gap > -1e-6
    assert gap < 0.05 * (batch.log_likelihood - first.log_likelihood)
    assert gap < 1.5
    np.testing.assert_allclose(online.point["loc"], batch.point["loc"], atol=0.1)


def test_online_em_refuses_what_it_cannot_average() -> None:
    with pytest.raises(SettingError, match="batch_size=256 with 150 rows"):
        lv.fit(lv.models.GaussianMixture(2), load_iris().data, lv.OnlineEM())
    with pytest.raises(SupportError, match="no sufficient statistics"):
        lv.fit(StudentMixture(), overlapping(50)[:, 0], lv.OnlineEM(batch_size=20))


class StudentMixture:
    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("components", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.StudentT(4.0, loc[z], 1.0), obs=rows.x)


def test_starts_run_together_end_where_they_end_alone() -> None:
    x = load_iris().data
    model = lv.models.GaussianMixture(3, covariance="diag")
    rows, program = bind(model, x)
    starts = [model.initial(rows, torch.Generator().manual_seed(k)) for k in range(6)]
    problem = Problem(program, rows, starts[0], 0)
    together = screen(problem, plan_m_step(problem, 1e-6), starts, passes=7, per_row=0.0)
    for start, screened in zip(starts, together, strict=True):
        alone = lv.fit(model, x, lv.EM(passes=7, stop=lv.Never()), start=start)
        assert screened.objective / len(x) == pytest.approx(alone.history[-1], abs=1e-10)
        for name, value in alone.point.items():
            torch.testing.assert_close(screened.values[name], value, rtol=1e-8, atol=1e-10)


def test_a_start_that_fails_does_not_harm_the_others() -> None:
    x = load_iris().data
    model = lv.models.GaussianMixture(2)
    rows, program = bind(model, x)
    good = model.initial(rows, torch.Generator().manual_seed(0))
    bad = {**good, "loc": good["loc"] + 1e200}
    problem = Problem(program, rows, good, 0)
    ends = screen(problem, plan_m_step(problem, 1e-6), [good, bad, good], 5, 0.0)
    assert np.isnan(ends[1].objective)
    assert ends[0].objective == ends[2].objective and np.isfinite(ends[0].objective)


def test_a_collapsed_component_is_named_and_set_aside() -> None:
    x = load_iris().data
    spike = {"loc": np.vstack([x[:1], x[60:61], x[100:101], x[140:141]])}
    narrow = np.stack([1e-4 * np.eye(4)] + 3 * [np.cov(x.T)])
    fit = lv.fit(lv.models.GaussianMixture(4), x, start={**spike, "covariance": narrow})
    assert "covariance[0]" in fit.collapsed and "spurious" in str(fit)
    many = lv.fit(lv.models.GaussianMixture(4), x, lv.EM(restarts=20), seed=1)
    assert not many.collapsed
    assert many.optima is not None and many.optima.spurious > 0
    assert "with a collapsed component set aside" in str(many)


def test_without_a_floor_a_collapse_is_an_error_that_says_what_to_do() -> None:
    x = np.concatenate([np.zeros((10, 2)), np.random.default_rng(0).normal(size=(20, 2)) + 5])
    start = {"loc": [[0.0, 0.0], [5.0, 5.0]]}
    with pytest.raises(NumericalError, match=r"positive definite|not finite|non-finite"):
        lv.fit(lv.models.GaussianMixture(2), x, lv.EM(variance_floor=0), start=start)
    assert np.isfinite(lv.fit(lv.models.GaussianMixture(2), x, start=start).log_likelihood)


def test_a_fall_of_the_objective_names_its_global(monkeypatch: pytest.MonkeyPatch) -> None:
    from latentvars.families.normal import NormalFamily

    right = NormalFamily.maximise

    def wrong(self, step, reference):
        value = right(self, step, reference)
        return value * 3 if step.argument == "scale" else value

    monkeypatch.setattr(NormalFamily, "maximise", wrong)
    with pytest.raises(NumericalError, match="lowered Q: scale"):
        priors = {"loc": dist.Normal(torch.zeros(2, 2), 1e3).to_event(2)}  # no flat prior: the closed forms of torch
        lv.fit(lv.models.GaussianMixture(2, covariance="diag", priors=priors), overlapping(100))


class Restricted:
    def __init__(self, support: constraints.Constraint) -> None:
        self.support = support

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat((2,), self.support))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


def test_a_restricted_support_has_no_closed_form_and_is_kept() -> None:
    x = np.random.default_rng(0).normal(size=80) + np.repeat([0.0, 4.0], 40)
    free = lv.fit(Restricted(constraints.real), x, start={"loc": [1.0, 2.0]})
    ordered = lv.fit(Restricted(constraints.ordered_vector), x, start={"loc": [1.0, 2.0]})
    bounded = lv.fit(Restricted(constraints.interval(-1.0, 3.0)), x, start={"loc": [1.0, 2.0]})
    assert "closed form" in free.explain() and "restricts" in ordered.explain()
    torch.testing.assert_close(ordered.point["loc"], free.point["loc"], atol=1e-4, rtol=0)
    assert bounded.point["loc"].max() == pytest.approx(3.0, abs=1e-4)


def test_parameter_tolerance_waits_for_the_parameters() -> None:
    x = overlapping(200)
    loose = lv.fit(lv.models.GaussianMixture(2), x, lv.EM(stop=lv.Tolerance(1e-6)))
    strict = lv.fit(lv.models.GaussianMixture(2), x, lv.EM(stop=lv.Tolerance(1e-6), parameter_tolerance=1e-6))
    assert len(strict.history) > len(loose.history)
