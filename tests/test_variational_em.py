"""Variational EM: against closed forms and numerical maxima, and what every algorithm has to keep to."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import cases
import guided_models as models
import numpy as np
import pytest
import torch
import user_models
from scipy.optimize import minimize

import latentvars as lv
from latentvars.errors import ModelError, NumericalError, SettingError, SupportError
from latentvars.inference.guided_em.steps import GuidedState
from latentvars.inference.guided_em.weighed_draws import Draws
from latentvars.inference.running.algorithm import Problem
from latentvars.program import Bound

QUICK = functools.partial(torch.optim.Adam, lr=0.05)
STEPS = lv.GuideSteps(passes=5, warmup=50, optimizer=QUICK, particles=3)
LONG = lv.VariationalEM(guide_steps=STEPS, draws=30, most_draws=120, stop=lv.Plateau(window=8, per_row=1e-6))
SHORT = lv.VariationalEM(
    passes=9,
    guide_steps=lv.GuideSteps(passes=2, warmup=3, optimizer=QUICK, particles=2),
    draws=5,
    most_draws=20,
    stop=lv.Never(),
)
EFFECTS = {"mu": 0.0, "tau": 1.0}
LOADINGS = {"loadings": [[0.5, 0.5, 0.0]], "noise": 1.0}


def fit_effects(algorithm: Any = SHORT, rows: lv.Rows | None = None, **settings: Any) -> lv.Fit:
    rows = models.effects() if rows is None else rows
    settings = settings if "resume" in settings else {"start": EFFECTS, **settings}
    return lv.fit(models.Effects(len(rows)), rows, algorithm, progress=False, **settings)


def start_of(model: Any, rows: lv.Rows, algorithm: Any, values: dict[str, Any]) -> GuidedState:
    found = lv.from_point(model, rows, values)
    return algorithm.init(Problem(found.program, found.rows, found.point, 0))


# --- where it ends ---------------------------------------------------------------------------------------------------


def test_a_guide_that_contains_the_posterior_gives_the_maximum_of_factor_analysis() -> None:
    x = models.one_factor()
    covariance, best = models.best_pca(x)
    found = lv.fit(models.Factors(3, 1, isotropic=True), x, LONG, start=LOADINGS, progress=False)
    assert found.status is lv.Status.PLATEAU
    loadings, noise = found.point["loadings"].numpy(), float(found.point["noise"])
    ours = loadings.T @ loadings + noise**2 * np.eye(3)
    # 120 draws add about 1 / sqrt(120) of a standard error, which is near 0.1 here; half its square a number, in nats
    np.testing.assert_allclose(ours, covariance, atol=0.03)
    assert best - 5e-4 < models.of_normal(x, ours) <= best
    assert found.history[-1] == pytest.approx(best, abs=1e-3)  # no gap, no noise: the guide is the posterior


def test_closed_forms_reach_the_maximum_of_random_effects() -> None:
    rows = models.effects()
    top = minimize(lambda p: -models.of_effects(rows, p[0], np.exp(p[1])).sum(), [0.0, 0.0])
    found = fit_effects(LONG)
    mu, tau = float(found.point["mu"]), float(found.point["tau"])
    assert -top.fun - 0.02 < models.of_effects(rows, mu, tau).sum() <= -top.fun
    assert "closed form: Normal loc" in found.explain()
    assert "closed form: Normal scale" in found.explain()


def test_a_decoder_is_trained_beside_the_guide() -> None:
    x = models.one_factor()
    _, best = models.best_pca(x)
    found = lv.fit(models.Decoded(3), x, replace(LONG, most_draws=60), start={"noise": 1.0}, progress=False)
    weight = found.program.modules["decoder"].weight.detach().numpy()
    ours = weight @ weight.T + float(found.point["noise"]) ** 2 * np.eye(3)
    assert best - 0.01 < models.of_normal(x, ours) <= best


def test_the_elbo_rises() -> None:
    history = fit_effects(replace(SHORT, passes=60, draws=50, most_draws=50)).history
    assert history[-10:].mean() > history[10:20].mean() > history[:3].mean()


def test_the_m_step_maximises_the_average_over_its_draws() -> None:
    """Against the weighted mean and variance of the draws themselves."""
    rows = models.effects()
    state = start_of(models.Effects(60), rows, SHORT, EFFECTS)
    state.waiting = 0
    total = SHORT.contribution(state, rows.batch(dtype=torch.float64), 0)
    (leaf,) = total.expected.statistics
    statistics = total.expected.statistics[leaf]
    after = SHORT.update(state, total)
    centre = state.plan.references[leaf].centre
    mean = statistics["first"] / 60
    torch.testing.assert_close(after.values["mu"], (mean + centre).reshape(()))
    torch.testing.assert_close(after.values["tau"], (statistics["second"] / 60 - mean**2).sqrt().reshape(()))
    assert float(statistics["weight"]) == pytest.approx(60)


# --- draws that depend on discrete locals ----------------------------------------------------------------------------


def test_draws_given_a_discrete_local_are_summed_over_it() -> None:
    x = torch.as_tensor(models.blurred(8))
    weights, loc, scale = (torch.tensor(v, dtype=torch.float64) for v in ([0.7, 0.3], [-1.0, 2.5], [0.7, 0.4]))
    found = lv.from_point(models.BlurredMixture(8), x, {"weights": weights, "loc": loc, "scale": scale})
    batch = found.rows.batch(dtype=torch.float64)
    guide = found.program.guided(batch, 3)
    assert guide is not None
    u = guide.sites["u"].value
    rows = found.program.expectation(found.point, batch, guide).score.rows
    normal = torch.distributions.Normal
    each = weights.log() + normal(loc, scale).log_prob(u[:, None])
    torch.testing.assert_close(rows, each.logsumexp(1) + normal(u, 0.5).log_prob(x))


def test_gradients_along_the_path_have_no_noise_at_the_posterior() -> None:
    rows = models.effects()
    found = lv.from_point(models.Effects(60), rows, EFFECTS)
    known = rows.columns["known"]
    variance = 1 / (1 + known**-2)
    with torch.no_grad():
        found.model.posterior.loc.copy_(variance * rows.columns["x"] / known**2)
        found.model.posterior.log_scale.copy_(0.5 * variance.log())
    gradients = {}
    for path in (True, False):
        score = found.program.score(found.point, rows.batch(), 1, Bound(analytic=False, path=path))
        gradients[path] = torch.autograd.grad(score.rows.sum(), list(found.model.posterior.parameters()))
    assert all(float(g.abs().max()) < 1e-12 for g in gradients[True])
    assert all(float(g.abs().max()) > 0.1 for g in gradients[False][1:])
    assert all(p.requires_grad for p in found.model.posterior.parameters())


def test_gradients_along_the_path_are_right_on_average() -> None:
    rows = models.effects(4)
    found = lv.from_point(models.Effects(4), rows, EFFECTS)
    batch = rows.batch().select(torch.arange(4).repeat_interleave(20_000))
    parameters = list(found.model.posterior.parameters())
    path, exact = (
        torch.autograd.grad(found.program.score(found.point, batch, 2, bound).rows.sum() / 20_000, parameters)
        for bound in (Bound(analytic=False, path=True), Bound())
    )
    for one, other in zip(path, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.25)


# --- what every algorithm keeps to -----------------------------------------------------------------------------------


def test_a_seed_repeats_to_the_bit_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    ours, theirs, other = fit_effects(seed=1), fit_effects(seed=1), fit_effects(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(ours, theirs)
    assert not torch.equal(ours.point["mu"], other.point["mu"])


@pytest.mark.parametrize("passes", [2, 3, 4, 7])
@pytest.mark.parametrize("size", [None, 25], ids=["whole", "batches"])
def test_stopped_and_resumed_is_one_run(passes: int, size: int | None) -> None:
    algorithm = replace(SHORT, batch_size=size)
    first = fit_effects(replace(algorithm, passes=passes))
    kept = {name: value.clone() for name, value in first.point.items()}
    resumed = fit_effects(algorithm, resume=first)
    assert_same(resumed, fit_effects(algorithm))
    assert all(torch.equal(first.point[name], value) for name, value in kept.items())


@pytest.mark.parametrize("kind", [lv.VariationalEM, lv.MonteCarloEM], ids=["variational", "monte-carlo"])
@cases.over([name for name, case in cases.CASES.items() if case.user and not case.exact])
def test_models_of_the_table_run_stop_and_go_on(name: str, kind: Any) -> None:
    case = cases.CASES[name]
    steps = lv.GuideSteps(passes=1, warmup=2, particles=2)
    algorithm = kind(passes=6, guide_steps=steps, draws=4, most_draws=8, batch_size=15, stop=lv.Never())
    first = lv.fit(case.model(), case.data(), replace(algorithm, passes=3), seed=4, progress=False)
    resumed = lv.fit(case.model(), case.data(), algorithm, resume=first, progress=False)
    whole = lv.fit(case.model(), case.data(), algorithm, seed=4, progress=False)
    np.testing.assert_allclose(resumed.history, whole.history, rtol=1e-7)  # L-BFGS: to rounding
    assert all(bool(value.isfinite().all()) for value in whole.point.values())
    assert set(whole.program.space.names) <= set(whole.explain().split())


def test_a_pass_that_was_cut_short_begins_anew() -> None:
    rows = models.effects()
    state = start_of(models.Effects(60), rows, SHORT, EFFECTS)
    state.waiting = 0
    first, second = (rows.batch(np.arange(*span), dtype=torch.float64) for span in ((0, 40), (40, 60)))

    def advanced(state: GuidedState, batch: lv.Batch) -> GuidedState:
        return SHORT.update(state, SHORT.contribution(replace(state, updates=0), batch, 0))

    whole = advanced(advanced(state, first), second)
    again = advanced(advanced(advanced(state, first), first), second)
    assert whole.m_steps == again.m_steps == 1
    assert torch.equal(whole.values["tau"], again.values["tau"])


def test_statistics_of_batches_add_up() -> None:
    rows = models.effects()
    state = start_of(models.Effects(60), rows, SHORT, EFFECTS)
    state.waiting = 0
    one, other = (SHORT.contribution(state, rows.batch(at), 0) for at in (np.arange(40), np.arange(40, 60)))
    total = one + other
    assert total.objective == pytest.approx(one.objective + other.objective)
    (leaf,) = total.expected.statistics
    assert float(total.expected.statistics[leaf]["weight"]) == pytest.approx(60)
    assert torch.equal(total.index, torch.arange(60))
    assert len(total.effective) == 60


def test_saved_and_loaded(tmp_path: Any) -> None:
    algorithm = replace(SHORT, guide_steps=lv.GuideSteps(passes=2, warmup=3))
    found = fit_effects(algorithm)
    loaded = lv.load(found.save(tmp_path / "fit", datatree=False), model=models.Effects(60))
    assert loaded.algorithm == found.algorithm
    assert torch.equal(loaded.row_log_likelihood, found.row_log_likelihood)
    assert torch.equal(loaded.latent().mean("z"), found.latent().mean("z"))
    further = fit_effects(replace(algorithm, passes=14), resume=loaded)
    assert len(further.history) == 14


def test_weight_two_is_a_row_twice_and_weight_zero_is_absence() -> None:
    rows = models.effects(30)
    weights = np.ones(30)
    weights[:10], weights[10:20] = 2.0, 0.0
    times = weights.astype(int)
    again = rows.subset(np.repeat(np.arange(30), times))
    weighted = fit_effects(LONG, cases.with_weights(rows, weights))
    repeated = fit_effects(LONG, again)
    for name in EFFECTS:  # other draws: equal up to their noise
        torch.testing.assert_close(weighted.point[name], repeated.point[name], rtol=0, atol=0.03)
    x = rows.columns["x"].clone()
    x[10:20] = 1e3
    elsewhere = lv.Rows({"x": x, "known": rows.columns["known"]}, weights=weights)
    ours, theirs = fit_effects(rows=cases.with_weights(rows, weights)), fit_effects(rows=elsewhere)
    assert_point(ours.point, theirs.point)
    doubled = fit_effects(rows=cases.with_weights(rows, np.full(30, 2.0)))
    assert_point(doubled.point, fit_effects(rows=rows).point, 1e-5)  # Adam's epsilon sees the scale


def test_the_best_of_several_starts_is_kept() -> None:
    rows = models.effects()
    found = lv.fit(models.Effects(60), rows, replace(SHORT, restarts=2), start=EFFECTS, progress=False)
    assert found.optima is not None
    assert len(found.optima.objectives) == 2


def test_dropout_acts_in_guide_steps_only() -> None:
    model = models.Factors(3, 1, isotropic=True)
    model.encoder = models.Dropped(model.encoder)
    state = start_of(model, lv.Rows(models.one_factor()), SHORT, LOADINGS)
    modules = state.program.modules["encoder"]
    batch = lv.Rows(models.one_factor()).batch(dtype=torch.float64)
    for waiting, same in ((0, True), (1, False)):
        state.waiting = waiting
        found = []
        for training in (True, False):
            modules.train(training)
            found.append(SHORT.contribution(state, batch, 0).objective)
            assert modules.training is training
        assert (found[0] == found[1]) is same


def test_fixed_globals_stay_as_they_are() -> None:
    rows = models.effects()
    found = lv.fit(models.Effects(60), rows, SHORT, start={"mu": 0.0}, fixed={"tau": 0.7}, progress=False)
    assert float(found.point["tau"]) == 0.7
    assert float(found.point["mu"]) != 0.0


def test_a_missing_entry_leaves_the_prior_of_its_local() -> None:
    """q, as it begins, is that prior: every draw has the ratio 1, whatever its value."""
    x = np.full(40, np.nan)
    x[0] = 0.3
    rows = lv.Rows({"x": x, "known": np.ones(40)})
    for algorithm in (SHORT, lv.MonteCarloEM(draws=5)):
        state = start_of(models.Effects(40), rows, algorithm, EFFECTS)
        state.waiting = 0
        batch = rows.batch(np.arange(1, 40), dtype=torch.float64)
        assert algorithm.contribution(state, batch, 0).objective == pytest.approx(0.0, abs=1e-12)


def test_globals_that_drift_are_not_at_their_end() -> None:
    """The rule for the objective says converged at once; windows of ten M-steps tell a drift from jitter."""
    state = start_of(models.Effects(60), models.effects(), SHORT, EFFECTS)
    algorithm = replace(SHORT, stop=lv.Tolerance(1.0))
    jitter = torch.tensor([0.01, -0.01], dtype=torch.float64).repeat(10)
    still, moving = jitter, jitter + 0.005 * torch.arange(20)
    for trail, patient, end in (
        (still, algorithm, lv.Status.CONVERGED),
        (moving, algorithm, None),
        (moving, replace(algorithm, drift=None), lv.Status.CONVERGED),
        (still[:19], algorithm, None),
    ):
        found = replace(state, rested=True, trail=tuple(torch.stack([trail, still[: len(trail)]], 1)))
        assert patient.ended(found, [-1.0] * 30, 0.0) is end
    assert algorithm.ended(replace(found, rested=False), [-1.0] * 30, 0.0) is None


# --- settings and errors ---------------------------------------------------------------------------------------------


def test_draws_grow_up_to_the_most() -> None:
    draws = Draws(20, 1.5, 60)
    assert [draws.after(k) for k in range(5)] == [20, 30, 45, 60, 60]
    assert Draws(20, 1.0, 60).after(10**6) == 20
    assert Draws(20, 2.0, 60).after(10**6) == 60


@pytest.mark.parametrize(
    "settings",
    [{"draws": 1}, {"draws": 50, "most_draws": 20}, {"growth": 0.9}, {"passes": -1}, {"batch_size": 0}, {"drift": 0}],
    ids=str,
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        lv.VariationalEM(**settings)


@pytest.mark.parametrize("settings", [{"particles": 0}, {"warmup": -1}, {"clip": 0.0}], ids=str)
def test_guide_steps_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        lv.GuideSteps(**settings)


@pytest.mark.parametrize("algorithm", [lv.VariationalEM(), lv.MonteCarloEM()], ids=["variational", "monte-carlo"])
def test_models_without_continuous_locals_are_sent_to_em(algorithm: Any) -> None:
    with pytest.raises(SupportError, match=r"lv\.EM\(\), which is exact"):
        lv.fit(user_models.ExplicitMixture(), cases.line(1), algorithm)


@pytest.mark.parametrize("algorithm", [lv.VariationalEM(), lv.MonteCarloEM()], ids=["variational", "monte-carlo"])
def test_models_of_networks_alone_are_sent_to_svi(algorithm: Any) -> None:
    with pytest.raises(SupportError, match=r"lv\.SVI\(\), which trains networks"):
        lv.fit(lv.models.VAE.mlp(2, 1, hidden=(2,), likelihood="gaussian"), cases.blobs(1), algorithm)


def test_em_sends_continuous_locals_here() -> None:
    with pytest.raises(SupportError, match=r"lv\.VariationalEM\(\), with lv\.MonteCarloEM\(\)"):
        lv.fit(user_models.FactorAnalysis(3, 1), cases.factors(), lv.EM())


def test_a_continuous_local_without_a_guide_says_what_to_do() -> None:
    class Bare(models.Effects):
        guide = None  # type: ignore[assignment]

    with pytest.raises(ModelError, match=r"guide\(rows\)[\s\S]*lv\.VariationalEM\(\), lv\.MonteCarloEM\(\)"):
        lv.fit(Bare(60), models.effects(), lv.EM())


def test_a_learning_rate_that_breaks_the_guide_is_an_error() -> None:
    wild = replace(SHORT, guide_steps=lv.GuideSteps(optimizer=functools.partial(torch.optim.SGD, lr=1e200)))
    with pytest.raises(NumericalError):
        fit_effects(wild)


# --- helpers ---------------------------------------------------------------------------------------------------------


def assert_point(ours: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=tolerance, atol=tolerance)


def assert_same(ours: lv.Fit, theirs: lv.Fit) -> None:
    """Equal to the bit."""
    assert np.array_equal(ours.history, theirs.history)
    assert all(torch.equal(ours.point[name], value) for name, value in theirs.point.items())
    assert torch.equal(ours.row_log_likelihood, theirs.row_log_likelihood)
