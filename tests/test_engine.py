"""The loop: when it stops, what it records, what interrupts it, several starts; guides of the globals and bounds."""

from __future__ import annotations

import functools
import itertools
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from torch import Tensor, nn

import latentvars as lv
from latentvars.errors import NumericalError, SettingError
from latentvars.inference.fits.extent import Extent
from latentvars.inference.running.algorithm import OneByOne, Problem
from latentvars.program import Bound
from latentvars.randomness import derive

MIXTURE = {"weights": [0.5, 0.5], "loc": [[-1.0], [1.0]], "scale": [[1.0], [1.0]]}


def mixture() -> user_models.FlatMixture:
    return user_models.FlatMixture(2, 1)


def column() -> np.ndarray:
    return cases.line(21)[:, None]


def mixture_fit(algorithm: Any, **settings: Any) -> lv.Fit:
    return lv.fit(mixture(), column(), algorithm, **{"progress": False, **settings})


# --- stopping --------------------------------------------------------------------------------------------------------


def test_rules_read_the_history() -> None:
    assert lv.Tolerance(1e-3)([1.0], 0.0) is None
    assert lv.Tolerance(1e-3)([1.0, 1.1], 0.0) is None
    assert lv.Tolerance(1e-3)([1.0, 1.1, 1.1005], 0.0) is lv.Status.CONVERGED
    assert lv.TimeLimit(2.0)([1.0], 1.9) is None
    assert lv.TimeLimit(2.0)([1.0], 2.0) is lv.Status.TIME
    both = lv.AnyOf((lv.TimeLimit(2.0), lv.Tolerance(1e-3)))
    assert both([1.0, 1.1], 1.0) is None
    assert both([1.0, 1.0], 1.0) is lv.Status.CONVERGED
    assert both([1.0, 1.0], 3.0) is lv.Status.TIME
    assert lv.Never()([1.0] * 999, math.inf) is None


def test_a_plateau_is_a_gain_within_its_noise() -> None:
    noise = np.random.default_rng(0).normal(size=200)
    rising = np.arange(200) * 1.0
    assert lv.Plateau(window=50)(list(rising + noise), 0.0) is None
    assert lv.Plateau(window=50)(list(100 * (1 - 0.9 ** np.arange(200)) + noise), 0.0) is lv.Status.PLATEAU
    assert lv.Plateau(window=50)(list(np.full(99, 1.0)), 0.0) is None
    assert lv.Plateau(window=50)(list(np.full(100, 1.0)), 0.0) is lv.Status.PLATEAU
    assert lv.Plateau(window=50, per_row=0.0)(list(1e-9 * rising), 0.0) is None


def test_every_end_has_its_status() -> None:
    converged = mixture_fit(lv.EM(stop=lv.Tolerance(1e-4)))
    assert converged.status is lv.Status.CONVERGED and converged.status.converged
    assert abs(converged.history[-1] - converged.history[-2]) < 1e-4
    assert np.all(np.abs(np.diff(converged.history[:-1])) >= 1e-4)
    assert mixture_fit(lv.EM(passes=3, stop=lv.Never())).status is lv.Status.LIMIT
    timed = mixture_fit(lv.EM(stop=lv.TimeLimit(0.0)))
    assert timed.status is lv.Status.TIME and len(timed.history) == 1
    assert mixture_fit(lv.SVI(passes=60, stop=lv.Plateau(window=5))).status is lv.Status.PLATEAU
    assert str(converged).splitlines()[0].endswith(lv.Status.CONVERGED.value)
    given = lv.from_point(mixture(), column(), MIXTURE)
    assert given.status is lv.Status.GIVEN and len(given.history) == 0 and not given.status.converged


def test_history_has_one_entry_a_pass_and_no_pass_is_the_start() -> None:
    assert len(mixture_fit(lv.EM(passes=7, stop=lv.Never())).history) == 7
    assert len(mixture_fit(lv.SVI(passes=7, stop=lv.Never(), batch_size=5)).history) == 7
    start = mixture_fit(lv.EM(passes=0), start=MIXTURE)
    assert len(start.history) == 0
    assert {name: value.tolist() for name, value in start.point.items()} == MIXTURE


def test_the_history_of_weighted_rows_is_per_unit_of_weight() -> None:
    em = lv.EM(passes=4, stop=lv.Never())
    one = mixture_fit(em, start=MIXTURE)
    three = lv.fit(mixture(), lv.Rows(column(), weights=np.full(24, 3.0)), em, start=MIXTURE, progress=False)
    np.testing.assert_allclose(three.history, one.history, rtol=1e-12)


# --- interruption ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InterruptedEM(lv.EM):
    """Ctrl-C in the midst of update ``at``."""

    at: int = 3

    def update(self, state: Any, total: Any) -> Any:
        if state.updates + 1 == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().update(state, total)


@dataclass(frozen=True)
class InterruptedSVI(lv.SVI):
    """Ctrl-C before update ``at``."""

    at: int = 5

    def contribution(self, state: Any, batch: lv.Batch, position: int) -> Any:
        if state.updates + 1 == self.at and position == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().contribution(state, batch, position)


def test_ctrl_c_returns_the_fit_so_far() -> None:
    before = signal.getsignal(signal.SIGINT)
    found = mixture_fit(InterruptedEM(at=3), start=MIXTURE)
    assert signal.getsignal(signal.SIGINT) is before
    assert found.status is lv.Status.INTERRUPTED
    assert "interrupted" in str(found)
    whole = mixture_fit(lv.EM(passes=3, stop=lv.Never()), start=MIXTURE)
    assert np.array_equal(found.history, whole.history)
    for name, value in whole.point.items():
        assert torch.equal(found.point[name], value)
    assert found.latent().mean("z").shape == (24, 2)


def test_ctrl_c_in_the_midst_of_a_pass_of_svi() -> None:
    found = mixture_fit(InterruptedSVI(passes=9, batch_size=8, at=5, stop=lv.Never()))
    assert found.status is lv.Status.INTERRUPTED
    assert len(found.history) == 1  # three updates a pass: the second pass was cut short
    assert found.state.updates == 5
    assert math.isfinite(found.log_likelihood)
    again = InterruptedSVI(passes=3, batch_size=8, at=-1, stop=lv.Never())
    resumed = lv.fit(mixture(), column(), again, resume=found, progress=False)
    assert len(resumed.history) == 3


def test_ctrl_c_ends_further_starts() -> None:
    found = mixture_fit(InterruptedEM(passes=4, at=2, restarts=4, stop=lv.Never()))
    assert found.status is lv.Status.INTERRUPTED


def test_a_second_ctrl_c_raises_at_once() -> None:
    @dataclass(frozen=True)
    class Impatient(lv.EM):
        def update(self, state: Any, total: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().update(state, total)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        mixture_fit(Impatient())
    assert signal.getsignal(signal.SIGINT) is before


# --- progress --------------------------------------------------------------------------------------------------------


def test_the_bar_shows_the_objective_and_can_be_silenced(capfd: pytest.CaptureFixture[str]) -> None:
    mixture_fit(lv.EM(passes=2, stop=lv.Never()), progress=False)
    assert capfd.readouterr() == ("", "")
    mixture_fit(lv.EM(passes=2, stop=lv.Never()), progress=None)  # standard error is no terminal here
    assert not sys.stderr.isatty()
    assert capfd.readouterr() == ("", "")
    found = mixture_fit(lv.EM(passes=2, stop=lv.Never()), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{found.history[-1]:.6f} nats/row" in err and "pass" in err


# --- numbers that are not finite -------------------------------------------------------------------------------------


class Bounded:
    """Two columns, of which the second is bounded by a global."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc + z, 1.0), obs=rows["x"])
            pyro.sample("share", dist.Uniform(0.0, top), obs=rows["share"])


@pytest.mark.parametrize("algorithm", [lv.EM(), lv.SVI(guide=lv.Delta()), lv.SVI(guide=lv.Delta(), batch_size=4)])
def test_a_non_finite_objective_names_the_site_and_its_rows(algorithm: Any) -> None:
    share = np.full(12, 0.5)
    share[[7, 10]] = 3.0
    with pytest.raises(NumericalError) as caught:
        lv.fit(Bounded(), {"x": cases.line(3)[:12], "share": share}, algorithm, start={"loc": 0.0, "top": 2.0})
    message = str(caught.value)
    assert "'share'" in message and "pass 1" in message and "'x'" not in message
    assert "7" in message or "10" in message
    for row in (0, 3, 5):
        assert f"[{row}" not in message


def test_a_non_finite_global_is_an_error() -> None:
    @dataclass(frozen=True)
    class Broken(lv.SVI):
        def update(self, state: Any, total: Any) -> Any:
            with torch.no_grad():
                state.guide.loc.fill_(math.nan)
            return super().update(state, total)

    with pytest.raises(NumericalError, match="pass 2"):
        mixture_fit(Broken(passes=3))
    with pytest.raises(NumericalError, match="log-likelihood"):
        mixture_fit(Broken(passes=1))


class Cusp:
    """Its density is finite at zero, its gradient is not."""

    def model(self, rows: lv.Batch) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        depth = pyro.sample("depth", dist.Normal(0.0, 1.0))
        with rows.plate():
            pyro.sample("x", dist.Normal(level + depth.abs().sqrt(), 1.0), obs=rows.x)


def test_a_gradient_that_is_not_finite_names_its_global() -> None:
    svi = lv.SVI(passes=3, guide=lv.Delta())
    with pytest.raises(NumericalError, match=r"globals \['depth'\].*update 1"):
        lv.fit(Cusp(), cases.line(3), svi, start={"level": 0.0, "depth": 0.0}, progress=False)


# --- several starts --------------------------------------------------------------------------------------------------


def test_the_best_of_several_starts_is_kept_and_its_replications_counted() -> None:
    em = lv.EM(passes=10, stop=lv.Never())
    found = mixture_fit(replace(em, restarts=4))
    assert found.optima is not None
    assert len(found.optima.objectives) == 4
    assert found.history[-1] == max(found.optima.objectives)
    assert found.optima.objectives[0] == mixture_fit(em).history[-1]
    best = max(found.optima.objectives)
    close = sum(best - end <= found.optima.tolerance for end in found.optima.objectives)
    assert found.optima.replicated == close
    assert f"best optimum found {close} of 4 times" in str(found)
    assert mixture_fit(em).optima is None


@dataclass(frozen=True)
class FailingEM(lv.EM):
    """The starts with these numbers fail."""

    failing: tuple[int, ...] = ()
    met: list[int] = field(default_factory=list)

    def init(self, problem: Problem) -> Any:
        self.met.append(problem.seed)
        if len(self.met) - 1 in self.failing:
            raise NumericalError("planted", "nothing", "nothing")
        return super().init(problem)

    def screen(self, problem: Problem, starts: Any) -> OneByOne:
        return OneByOne("it counts its starts")


def test_a_start_that_fails_is_counted() -> None:
    found = mixture_fit(FailingEM(restarts=3, failing=(1,), passes=5, stop=lv.Never()))
    assert found.optima is not None
    assert [math.isnan(end) for end in found.optima.objectives] == [False, True, False]
    assert "1 start" in str(found) and "failed" in str(found)
    with pytest.raises(NumericalError, match="planted"):
        mixture_fit(FailingEM(restarts=3, failing=(0, 1, 2)))


def test_svi_restarts_from_other_starts() -> None:
    svi = lv.SVI(passes=3, restarts=3, stop=lv.Never(), guide=lv.Delta())
    found = mixture_fit(svi)
    assert found.optima is not None and len(set(found.optima.objectives)) == 3
    repeated = mixture_fit(svi)
    assert found.optima == repeated.optima
    for name, value in found.point.items():
        assert torch.equal(value, repeated.point[name])


# --- guides of the globals: a conjugate model whose posterior is known -----------------------------------------------

NOISE = 0.5


class Line:
    """Normal regression with known noise; ``tau`` enters by its logarithm, so that its posterior is log-normal."""

    def model(self, rows: lv.Batch) -> None:
        line = pyro.sample("line", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            mean = line[0] + line[1] * rows["t"] + tau.log() * rows["u"]
            pyro.sample("y", dist.Normal(mean, NOISE), obs=rows["y"])


def line_rows() -> lv.Rows:
    noise = np.random.default_rng(50)
    t, u = np.linspace(-1.0, 1.5, 20), noise.normal(size=20)
    return lv.Rows({"y": 1.0 + 2.0 * t + 0.3 * u + NOISE * noise.normal(size=20), "t": t, "u": u})


def line_posterior() -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of (line, log tau) given the data, and the log evidence in nats."""
    rows = line_rows()
    design = torch.stack([torch.ones(20, dtype=torch.float64), rows["t"], rows["u"]], -1)
    prior = torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64).diag()
    covariance = torch.linalg.inv(torch.linalg.inv(prior) + design.mT @ design / NOISE**2)
    mean = covariance @ design.mT @ rows["y"] / NOISE**2
    marginal = design @ prior @ design.mT + NOISE**2 * torch.eye(20, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.zeros(20, dtype=torch.float64), marginal)
    return mean, covariance, law.log_prob(rows["y"])


class MyGuide(nn.Module):
    """A user's guide: tau given the line, written in Pyro."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.9, 2.1, 0.2], dtype=torch.float64))
        self.factor = nn.Parameter(0.1 * torch.eye(2, dtype=torch.float64))
        self.slopes = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self) -> None:
        line = pyro.sample("line", dist.MultivariateNormal(self.loc[:2], scale_tril=self.factor))
        pyro.sample("tau", dist.LogNormal(self.loc[2] + (line - self.loc[:2]) @ self.slopes, self.scale))


def decaying(lr: float, gamma: float) -> dict[str, Any]:
    return {
        "optimizer": functools.partial(torch.optim.Adam, lr=lr),
        "schedule": functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=gamma),
    }


def unconstrained_draws(found: lv.Fit, size: int) -> Tensor:
    values, log_q = found.globals.draws(size, 1)
    assert log_q is not None and log_q.shape == (size,)
    return torch.cat([values["line"], values["tau"].log()[:, None]], -1)


NEAR = {"line": [0.9, 2.1], "tau": 1.2}


@pytest.mark.parametrize("guide", [lv.FullRank(), lv.MeanField()], ids=["full-rank", "mean-field"])
def test_guides_find_the_posterior_of_a_conjugate_model(guide: Any) -> None:
    mean, covariance, _ = line_posterior()
    correlated = isinstance(guide, lv.FullRank)
    svi = lv.SVI(passes=240, particles=2, guide=guide, stop=lv.Never(), **decaying(0.04, 0.982))
    found = lv.fit(Line(), line_rows(), svi, start=NEAR, progress=False)
    # independent normals have the variances of the conditionals
    exact = covariance.diagonal().sqrt() if correlated else torch.linalg.inv(covariance).diagonal().rsqrt()
    draws = unconstrained_draws(found, 2_000)
    assert float(((middle(found) - mean) / exact).abs().max()) < 0.12
    assert float((draws.std(0) / exact - 1).abs().max()) < 0.08
    correlation = covariance / (exact[:, None] * exact) if correlated else torch.eye(3, dtype=torch.float64)
    assert float((torch.corrcoef(draws.mT) - correlation).abs().max()) < 0.12


def middle(found: lv.Fit) -> Tensor:
    return torch.cat([found.point["line"], found.point["tau"].log()[None]])


def test_a_point_guide_finds_the_mode() -> None:
    svi = lv.SVI(passes=150, guide=lv.Delta(), stop=lv.Never(), **decaying(0.1, 0.95))
    found = lv.fit(Line(), line_rows(), svi, start=NEAR, progress=False)
    torch.testing.assert_close(middle(found), mode(), rtol=0, atol=1e-4)
    exact = lv.fit(Line(), line_rows(), lv.EM(), progress=False)
    torch.testing.assert_close(middle(exact), mode(), rtol=0, atol=1e-6)


def mode() -> Tensor:
    """Of the density of (line, tau) itself: log tau is lowered by the Jacobian −log tau."""
    mean, covariance, _ = line_posterior()
    return mean - covariance[:, 2]


def set_to_the_posterior(guide: Any, mean: Tensor, covariance: Tensor) -> None:
    with torch.no_grad():
        if hasattr(guide, "guide"):
            set_to_the_posterior(guide.guide, mean, covariance)
            return
        guide.loc.copy_(mean)
        if isinstance(guide, MyGuide):
            guide.factor.copy_(torch.linalg.cholesky(covariance[:2, :2]))
            guide.slopes.copy_(torch.linalg.solve(covariance[:2, :2], covariance[:2, 2]))
            guide.scale.copy_(torch.linalg.inv(covariance)[2, 2].rsqrt())
        elif hasattr(guide, "below"):
            factor = torch.linalg.cholesky(covariance)
            guide.log_scale.copy_(factor.diagonal().log())
            guide.below.copy_(factor.tril(-1))
        else:  # diagonal + rank two, by hand: a small diagonal and the rest in two columns
            values, vectors = torch.linalg.eigh(covariance)
            guide.log_scale.fill_(0.5 * float(values[0].log()))
            guide.factor.copy_(vectors[:, 1:] * (values[1:] - values[0]).sqrt())


@pytest.mark.parametrize(
    "guide", [lv.FullRank(), lv.LowRank(2), lv.Custom(MyGuide())], ids=["full-rank", "low-rank", "custom"]
)
def test_at_the_exact_posterior_every_draw_gives_the_log_evidence(guide: Any) -> None:
    mean, covariance, evidence = line_posterior()
    start = lv.fit(Line(), line_rows(), lv.SVI(passes=0, guide=guide))
    set_to_the_posterior(start.state.guide, mean, covariance)
    svi = lv.SVI(guide=guide)
    batch = start.rows.batch(dtype=torch.float64)
    for update in range(3):
        start.state.updates = update
        assert svi.contribution(start.state, batch, 0).objective == pytest.approx(float(evidence), abs=1e-9)


def test_a_users_guide_is_left_alone() -> None:
    guide, before = MyGuide(), MyGuide().loc
    start = lv.from_point(Line(), line_rows(), NEAR)
    module = lv.SVI(guide=lv.Custom(guide)).guide.build(start.program.space, start.point, torch.float64)
    assert not set(map(id, module.parameters())) & set(map(id, guide.parameters()))
    method = lv.fit(Line(), line_rows(), lv.SVI(passes=2, guide=lv.Custom(guide.forward)), progress=False)
    assert torch.equal(guide.loc, before)
    assert not torch.equal(method.state.guide.owner.loc, guide.loc)


# --- gradients, batches, steps ---------------------------------------------------------------------------------------


def test_minibatches_have_the_same_optimum() -> None:
    svi = lv.SVI(passes=60, batch_size=5, guide=lv.Delta(), stop=lv.Never(), **decaying(0.05, 0.98))
    found = lv.fit(Line(), line_rows(), svi, start=NEAR, progress=False)
    _, covariance, _ = line_posterior()
    assert float(((middle(found) - mode()) / covariance.diagonal().sqrt()).abs().max()) < 0.1


def test_the_gradients_of_the_minibatches_of_a_pass_average_to_the_full_one() -> None:
    start = lv.fit(Line(), line_rows(), lv.SVI(passes=0, guide=lv.Delta()))
    svi, rows = lv.SVI(guide=lv.Delta()), start.rows
    whole = svi.contribution(start.state, rows.batch(dtype=torch.float64), 0)
    parts = [svi.contribution(start.state, batch, 0) for batch in rows.batches(7, seed=1, dtype=torch.float64)]
    for k, gradient in enumerate(whole.gradients):
        # each minibatch stands for all rows: its gradient per row
        scaled = sum(part.rows / 20 * part.gradients[k] for part in parts)
        torch.testing.assert_close(torch.as_tensor(scaled), gradient, rtol=1e-10, atol=1e-10)


def test_the_schedule_and_the_clip_reach_the_steps() -> None:
    steps: dict[str, Any] = {
        "guide": lv.Delta(),
        "optimizer": functools.partial(torch.optim.SGD, lr=1.0),
        "schedule": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        "stop": lv.Never(),
        "clip": 1e-3,
    }
    start = {"line": [5.0, 5.0], "tau": 1.0}
    points = []
    for passes in range(4):
        found = lv.fit(Line(), line_rows(), lv.SVI(passes=passes, **steps), start=start, progress=False)
        points.append(found.state.guide.loc.detach())
    lengths = [float((after - before).norm()) for before, after in itertools.pairwise(points)]
    assert lengths == pytest.approx([1e-3, 5e-4, 2.5e-4], rel=1e-4)


def test_particles_average_independent_draws() -> None:
    state = lv.fit(Line(), line_rows(), lv.SVI(passes=0)).state
    batch = line_rows().batch(dtype=torch.float64)
    one = np.array([objective_at(lv.SVI(), state, batch, update) for update in range(40)])
    five = np.array([objective_at(lv.SVI(particles=5), state, batch, update) for update in range(40)])
    assert abs(five.mean() - one.mean()) < 4 * one.std() / math.sqrt(40) * math.sqrt(1.2)
    assert 0.2 < five.std() / one.std() < 0.75  # 1/√5 = 0.45


def objective_at(svi: lv.SVI, state: Any, batch: lv.Batch, update: int) -> float:
    state.updates = update
    return svi.contribution(state, batch, 0).objective


# --- bounds on continuous locals -------------------------------------------------------------------------------------


def factors_at_start() -> lv.Fit:
    return lv.fit(user_models.FactorAnalysis(3, 2), cases.factors(), lv.SVI(passes=0, guide=lv.Delta()))


def test_the_importance_bound_is_above_the_elbo_and_rises_with_its_draws() -> None:
    found = factors_at_start()
    batch = found.rows.batch(dtype=torch.float64)

    def mean_objective(svi: lv.SVI) -> float:
        return float(np.mean([objective_at(svi, found.state, batch, update) for update in range(10)]))

    elbo = mean_objective(lv.SVI(guide=lv.Delta(), particles=4))
    few = mean_objective(lv.SVI(guide=lv.Delta(), particles=4, importance=True))
    many = mean_objective(lv.SVI(guide=lv.Delta(), particles=16, importance=True))
    assert elbo < few < many
    assert few - elbo > 1.0


def test_the_weight_of_the_divergence_grows_during_the_warm_up() -> None:
    found = factors_at_start()
    batch = found.rows.batch(dtype=torch.float64)
    svi = lv.SVI(guide=lv.Delta(), kl_warmup=10, kl_weight=2.0)
    for update, weight in [(0, 0.0), (5, 1.0), (9, 1.8), (10, 2.0), (50, 2.0)]:
        found.state.updates = update
        noise = derive(found.state.seed, 9, update, 0, 0)
        score = found.program.score(found.point, batch, noise, Bound(kl_weight=weight))
        expected = float((score.prior + score.rows.sum()).detach())
        assert objective_at(svi, found.state, batch, update) == pytest.approx(expected, rel=1e-12)


def test_stop_rules_do_not_see_the_warm_up() -> None:
    svi = lv.SVI(kl_warmup=5, stop=lv.Tolerance(1.0))
    assert svi.ended(None, [1.0] * 6, 0.0) is None
    assert svi.ended(None, [1.0] * 7, 0.0) is lv.Status.CONVERGED


def test_the_closed_form_of_the_divergence_equals_its_sampled_mean() -> None:
    found = factors_at_start()
    batch = found.rows.batch(dtype=torch.float64)
    read: Callable[[bool], Tensor] = lambda closed: found.program.score(  # noqa: E731
        found.point, batch, 3, Bound(particles=100, analytic=closed)
    ).rows.detach()
    closed, sampled = read(True), read(False)
    assert float((closed - sampled).abs().max()) < 0.8
    assert float((closed - sampled).mean().abs()) < 0.1
    assert not torch.equal(closed, sampled)


def test_a_state_of_one_process_is_not_resumed_by_several() -> None:
    """Its steps are as long as one share of the rows wants them."""
    found = lv.fit(mixture(), column(), lv.SVI(passes=1), progress=False)
    others = replace(found, extent=Extent(2, 6, 6.0, 6.0, -1.0, ()))
    with pytest.raises(SettingError, match=r"start=fit\.point"):
        lv.fit(mixture(), column(), lv.SVI(passes=2), resume=others, progress=False)


def test_a_copy_in_single_precision_gives_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, gaps too; nothing of it is left in the fit."""
    x = np.random.default_rng(0).normal(size=(60, 5)) * [1e-3, 1.0, 1e3, 1.0, 1.0]
    x[::7, 2] = np.nan
    svi = lv.SVI(passes=4, batch_size=16)

    def run() -> lv.Fit:
        return lv.fit(lv.models.VAE.mlp(5, 2, hidden=(6,), likelihood="gaussian"), x, svi, progress=False)

    picked: list[torch.dtype] = []
    batches = lv.Rows.batches

    def watched(rows: lv.Rows, *args: Any, **settings: Any) -> Any:
        picked.append(rows["x"].dtype)
        return batches(rows, *args, **settings)

    monkeypatch.setattr(lv.Rows, "batches", watched)
    copied = run()
    assert picked.count(torch.float32) == 4
    monkeypatch.setattr("latentvars.inference.engine.COPIED", 99)
    picked.clear()
    assert (copied.history == run().history).all()
    assert torch.float32 not in picked
    assert copied.rows["x"].dtype == torch.float64
