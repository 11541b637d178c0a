"""Laws that hold for every model, over the table of cases."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import cases
import numpy as np
import pytest
import torch
import user_models
from cases import CASES, EM_CASES, EXACT, LABELLED, over, permuted, with_weights
from torch import Tensor

import latentvars as lv
from latentvars.inference.em.m_step import complete_objective
from latentvars.inference.running.algorithm import Problem
from latentvars.program import Bound, Program, model_parameters

MINIBATCH = [name for name in CASES if name != "vae-gaussian"]
QUICK_EM = lv.EM(passes=2, stop=lv.Never())


# --- what batches contribute adds up ---------------------------------------------------------------------------------


@over(EM_CASES)
def test_expected_statistics_of_shards_add_to_the_whole(name: str) -> None:
    rows, program, start = bound(name)
    em = lv.EM()
    state = em.init(Problem(program, rows, start, 0))
    whole = em.contribution(state, batch_of(program, rows), 0)
    parts = [em.contribution(state, batch_of(program, rows, shard), k) for k, shard in enumerate(shards(len(rows)))]
    total = parts[0] + parts[1] + parts[2]
    assert total.objective == pytest.approx(whole.objective, rel=1e-10)
    for leaf, statistics in whole.statistics.items():
        for key, value in statistics.items():
            torch.testing.assert_close(total.statistics[leaf][key], value, rtol=1e-10, atol=1e-10)
    elsewhere = nearby(program, start, 0.1)
    with torch.no_grad():
        ours, theirs = (complete_objective(program, state.plan, elsewhere, t) for t in (total, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@over(MINIBATCH)
@pytest.mark.parametrize("guide", [lv.MeanField(), lv.Delta()], ids=["mean-field", "delta"])
def test_gradients_of_shards_add_to_the_whole(name: str, guide: Any) -> None:
    if not CASES[name].exact:
        pytest.skip("the noise of the model's guide depends on the batches")
    rows, program, start = bound(name)
    svi = lv.SVI(guide=guide)
    state = svi.init(Problem(program, rows, start, 0))
    whole = svi.contribution(state, batch_of(program, rows), 0)
    parts = [svi.contribution(state, batch_of(program, rows, shard), k) for k, shard in enumerate(shards(len(rows)))]
    total = parts[0] + parts[1] + parts[2]
    assert total.objective == pytest.approx(whole.objective, rel=1e-10)
    assert total.rows == whole.rows
    assert_gradients(total.gradients, whole.gradients, 1e-9)


@over(["gmm-diag", "hmm-product", "user-mixture", "user-hierarchy"])
def test_accumulating_batches_is_one_big_batch(name: str) -> None:
    case = CASES[name]
    rows = case.data()
    small = lv.SVI(passes=4, batch_size=-(-len(rows) // 3), batches_per_step=3, stop=lv.Never())
    large = lv.SVI(passes=4, batch_size=len(rows), stop=lv.Never())
    ours, theirs = (lv.fit(case.model(), rows, svi, seed=3, progress=False) for svi in (small, large))
    assert_points(ours.point, theirs.point, 1e-8)
    np.testing.assert_allclose(ours.history, theirs.history, rtol=1e-9)


# --- expectation–maximisation climbs ---------------------------------------------------------------------------------


@over(EM_CASES)
def test_em_never_lowers_its_objective(name: str) -> None:
    found = lv.fit(CASES[name].model(), CASES[name].data(), lv.EM(passes=10, stop=lv.Never()), seed=1)
    steps = np.diff(found.history)
    assert steps.min() >= -1e-9 * abs(found.history[-1])
    assert steps.max() > 0 or name == "mixture-categorical"


@over(EM_CASES)
def test_history_of_em_is_the_objective_per_row(name: str) -> None:
    rows, program, start = bound(name)
    found = lv.fit(CASES[name].model(), rows, lv.EM(passes=1), start=start, progress=False)
    assert found.history[0] == pytest.approx(float(objective(program, start, rows)) / len(rows), rel=1e-12)


# --- weights ---------------------------------------------------------------------------------------------------------


@over(EM_CASES)
def test_em_weight_two_is_a_row_twice_and_weight_zero_is_absence(name: str) -> None:
    weighted, repeated = twice_and_never(name)
    _, _, start = bound(name)
    ours, theirs = (lv.fit(CASES[name].model(), rows, QUICK_EM, start=start) for rows in (weighted, repeated))
    assert_points(ours.point, theirs.point, 1e-6 if numeric(ours) else 1e-9)
    np.testing.assert_allclose(ours.history, theirs.history, rtol=1e-8 if numeric(ours) else 1e-11)
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-8)
    assert ours.bic == pytest.approx(theirs.bic, rel=1e-8)


@over([name for name in CASES if CASES[name].exact])
def test_svi_weight_two_is_a_row_twice_and_weight_zero_is_absence(name: str) -> None:
    gradients = []
    for rows in twice_and_never(name):
        _, program, start = bound(name)
        svi = lv.SVI()
        state = svi.init(Problem(program, rows, start, 0))
        gradients.append(svi.contribution(state, batch_of(program, rows), 0))
    assert gradients[0].objective == pytest.approx(gradients[1].objective, rel=1e-10)
    assert_gradients(gradients[0].gradients, gradients[1].gradients, 1e-9)


# --- order, batches and padding --------------------------------------------------------------------------------------


@over(EXACT)
def test_scores_depend_on_the_row_alone(name: str) -> None:
    rows, program, start = bound(name)
    whole = lv.from_point(CASES[name].model(), rows, start).score_rows()
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = lv.from_point(CASES[name].model(), rows.subset(order), start).score_rows()
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-12)
    for k in (0, len(rows) // 2, len(rows) - 1):
        alone = program.score(start, batch_of(program, rows, [k])).rows
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=0, atol=1e-12)


@over([name for name, case in CASES.items() if case.discrete])
def test_beliefs_do_not_depend_on_the_batch_size(name: str) -> None:
    rows, _, start = bound(name)
    found = lv.from_point(CASES[name].model(), rows, start)
    site = CASES[name].discrete
    whole, parts = found.latent().mean(site), found.latent(batch_size=4).mean(site)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.latent(batch_size=4).entropy(site), found.latent().entropy(site), rtol=0, atol=1e-11
    )


@over(["vae-gaussian", "user-factors"])
def test_amortised_beliefs_do_not_depend_on_the_batch_size(name: str) -> None:
    rows, _, start = bound(name)
    found = lv.from_point(CASES[name].model(), rows, start)
    for read in (lv.LatentPosterior.mean, lv.LatentPosterior.std):
        torch.testing.assert_close(read(found.latent(batch_size=7)), read(found.latent()), rtol=0, atol=1e-12)


@over(EM_CASES)
def test_em_does_not_depend_on_row_order_or_batch_size(name: str) -> None:
    rows, _, start = bound(name)
    order = np.random.default_rng(1).permutation(len(rows))
    plain = lv.fit(CASES[name].model(), rows, QUICK_EM, start=start)
    shuffled = lv.fit(CASES[name].model(), rows.subset(order), QUICK_EM, start=start)
    batched = lv.fit(CASES[name].model(), rows, lv.EM(passes=2, stop=lv.Never(), batch_size=7), start=start)
    for other in (shuffled, batched):
        assert_points(other.point, plain.point, 1e-6 if numeric(plain) else 1e-8)
        np.testing.assert_allclose(other.history, plain.history, rtol=1e-8)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_the_elbo_is_below_the_exact_marginal() -> None:
    rows, program, point = factor_analysis(2)
    exact = linear_gaussian(rows, point)
    with torch.no_grad():
        elbo = program.score(point, batch_of(program, rows), 0, Bound(particles=200)).rows
        tighter = program.score(point, batch_of(program, rows), 0, Bound(particles=200, importance=True)).rows
    assert bool((elbo < exact).all())
    assert bool((elbo < tighter + 0.05).all())
    torch.testing.assert_close(tighter.sum(), exact.sum(), rtol=0, atol=2.0)


def test_the_elbo_of_the_exact_posterior_is_the_exact_marginal() -> None:
    rows, program, point = factor_analysis(1)
    loadings, noise = point["loadings"], point["noise"]
    precision = 1 + (loadings @ loadings.mT) / noise**2
    with torch.no_grad():
        program.model.encoder.line.weight.copy_((loadings / noise**2) / precision)
        program.model.encoder.log_scale.copy_(-0.5 * precision.log().squeeze(-1))
        for bound_ in (Bound(analytic=False), Bound(particles=3, importance=True)):
            rows_score = program.score(point, batch_of(program, rows), 4, bound_).rows
            torch.testing.assert_close(rows_score, linear_gaussian(rows, point), rtol=0, atol=1e-10)


# --- enumerated = collapsed ------------------------------------------------------------------------------------------


def test_an_enumerated_mixture_equals_the_collapsed_one() -> None:
    rows = lv.Rows(cases.blobs(3))
    collapsed = lv.models.GaussianMixture(2, 2, "diag")
    start = bound("gmm-diag")[2]
    ours = lv.fit(user_models.FlatMixture(2, 2), rows, lv.EM(passes=15, stop=lv.Never()), start=start)
    theirs = lv.fit(collapsed, rows, lv.EM(passes=15, stop=lv.Never()), start=start)
    assert_equal_fits(ours, theirs)
    torch.testing.assert_close(ours.latent().mean("z"), theirs.latent().mean("z"), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.latent().entropy("z"), theirs.latent().entropy("z"), rtol=0, atol=1e-8)
    assert torch.equal(ours.latent().mode("z"), theirs.latent().mode("z"))


def test_an_enumerated_chain_equals_the_collapsed_one() -> None:
    matrix = cases.short_chains()
    steps = matrix.shape[1]
    collapsed = lv.models.HiddenMarkov(2, lv.emissions.Gaussian(covariance="spherical"))
    start = bound("user-chain")[2]
    grown = {**start, "loc": start["loc"][:, None]}
    sequences = lv.Rows(matrix.reshape(-1), lengths=[steps] * len(matrix))
    ours = lv.fit(user_models.ExplicitChain(), matrix, lv.EM(passes=6, stop=lv.Never()), start=start)
    theirs = lv.fit(collapsed, sequences, lv.EM(passes=6, stop=lv.Never()), start=grown)
    assert_equal_fits(ours, theirs)
    beliefs = ours.latent()
    smoothed = torch.stack([beliefs.mean(f"z_{t}") for t in range(steps)], 1)
    torch.testing.assert_close(smoothed, theirs.latent().mean("z"), rtol=0, atol=1e-9)


def assert_equal_fits(ours: lv.Fit, theirs: lv.Fit) -> None:
    np.testing.assert_allclose(ours.history, theirs.history, rtol=0, atol=1e-9)
    assert_points(
        {k: v.squeeze() for k, v in ours.point.items()}, {k: v.squeeze() for k, v in theirs.point.items()}, 1e-9
    )
    torch.testing.assert_close(ours.row_log_likelihood, theirs.row_log_likelihood, rtol=0, atol=1e-9)


# --- EM and SVI climb the same hill ----------------------------------------------------------------------------------


@over(EM_CASES)
def test_the_optimum_of_em_is_stationary(name: str) -> None:
    rows, program, _ = bound(name)
    free = program.space.unconstrain(optimum(name).point).requires_grad_()
    value = objective(program, program.space.constrain(free)[0], rows)
    (gradient,) = torch.autograd.grad(value, free)
    assert float(gradient.abs().max()) / len(rows) < 1e-4
    elsewhere = nearby(program, optimum(name).point, 0.05)
    assert float(objective(program, elsewhere, rows)) < float(value.detach())


@over(["mixture-bernoulli", "hmm-product", "user-mixture", "user-hierarchy"])
def test_a_point_guide_ends_where_em_does(name: str) -> None:
    rows, program, _ = bound(name)
    top = optimum(name).point
    svi = lv.SVI(
        passes=120,
        optimizer=functools.partial(torch.optim.Adam, lr=0.03),
        schedule=functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.97),
        guide=lv.Delta(),
        stop=lv.Never(),
    )
    found = lv.fit(CASES[name].model(), rows, svi, start=nearby(program, top, 0.03), progress=False)
    gap = float(objective(program, top, rows) - objective(program, found.point, rows)) / len(rows)
    assert -1e-6 < gap < 1e-4


# --- runs ------------------------------------------------------------------------------------------------------------


@over(EM_CASES)
def test_em_stopped_and_resumed_is_one_run(name: str) -> None:
    case = CASES[name]
    rows = case.data()
    first = lv.fit(case.model(), rows, lv.EM(passes=1, stop=lv.Never()), seed=5)
    resumed = lv.fit(case.model(), rows, QUICK_EM, resume=first)
    whole = lv.fit(case.model(), rows, QUICK_EM, seed=5)
    if whole.state.plan.numeric:  # a line search turns the last bit of a product, which addresses decide, into more
        np.testing.assert_allclose(resumed.history, whole.history, rtol=1e-7)
    else:
        assert_identical(resumed, whole)


@over()
def test_svi_stopped_and_resumed_is_one_run(name: str) -> None:
    case = CASES[name]
    rows = case.data()
    first = lv.fit(case.model(), rows, minibatch_svi(rows, 1), seed=5)
    before = snapshot(first)
    resumed = lv.fit(case.model(), rows, minibatch_svi(rows, 3), resume=first)
    assert_identical(resumed, lv.fit(case.model(), rows, minibatch_svi(rows, 3), seed=5))
    assert before.keys() == snapshot(first).keys()
    for key, value in snapshot(first).items():
        assert torch.equal(before[key], value), f"resuming changed {key} of the earlier fit"


def test_two_models_trained_alternately_are_as_if_trained_apart() -> None:
    names = ("user-factors", "user-mixture", "vae-gaussian")
    data = {name: CASES[name].data() for name in names}
    fits: dict[str, lv.Fit] = {}
    for passes in (1, 2, 3):
        for name in names:
            svi = minibatch_svi(data[name], passes)
            fits[name] = lv.fit(CASES[name].model(), data[name], svi, seed=2, resume=fits.get(name))
    for name in names:
        assert_identical(fits[name], lv.fit(CASES[name].model(), data[name], minibatch_svi(data[name], 3), seed=2))


@over()
def test_the_same_seed_repeats_and_two_seeds_differ(name: str) -> None:
    case = CASES[name]
    rows = case.data()
    torch.manual_seed(1)
    first = lv.fit(case.model(), rows, minibatch_svi(rows, 1), seed=7)
    torch.manual_seed(2)
    again = lv.fit(case.model(), rows, minibatch_svi(rows, 1), seed=7)
    other = lv.fit(case.model(), rows, minibatch_svi(rows, 1), seed=8)
    assert_identical(first, again)
    assert not np.array_equal(first.history, other.history)
    assert torch.equal(draw(first, 3), draw(again, 3))
    assert not torch.equal(draw(first, 3), draw(first, 4))


@over()
def test_no_verb_touches_the_global_generator_or_the_default_precision(name: str) -> None:
    case = CASES[name]
    rows = case.data()
    model = case.model()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    found = lv.fit(model, rows, lv.EM(passes=2) if case.em else minibatch_svi(rows, 2), progress=False)
    svi = lv.fit(model, rows, minibatch_svi(rows, 1))
    svi.globals.draws(2, 0)
    found.score_rows(rows)
    if found.program.roles.discrete or found.program.roles.continuous or case.discrete:
        found.latent().sample(found.latent().sites[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.get_default_dtype() == torch.float32


@over()
def test_the_users_model_and_data_are_not_changed(name: str) -> None:
    case = CASES[name]
    model, rows = case.model(), case.data()
    parts, digest = tensors_of(model), rows.digest()
    fields = dict(vars(model))
    lv.fit(model, rows, minibatch_svi(rows, 2))
    assert vars(model) == fields
    assert rows.digest() == digest
    for key, value in tensors_of(model).items():
        assert torch.equal(value, parts[key]), f"{key} of the user's model was changed"


# --- labels and precision --------------------------------------------------------------------------------------------


@over(LABELLED)
def test_a_permutation_of_labels_leaves_the_score_unchanged(name: str) -> None:
    rows, program, start = bound(name)
    swapped = permuted(start, CASES[name].labels, [1, 0])
    assert any(not torch.equal(swapped[site], start[site]) for site in start)
    batch = batch_of(program, rows)
    ours, theirs = program.score(swapped, batch), program.score(start, batch)
    torch.testing.assert_close(ours.rows, theirs.rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.prior, theirs.prior, rtol=0, atol=1e-11)
    site = CASES[name].discrete
    if site in program.roles.discrete:
        before, after = (program.beliefs(point, batch)[site].probs for point in (start, swapped))
        torch.testing.assert_close(after, before.flip(-1), rtol=0, atol=1e-12)


@over()
def test_precision_is_double_unless_networks_say_otherwise(name: str) -> None:
    rows, program, start = bound(name)
    assert program.dtype == torch.float64
    assert all(value.dtype == torch.float64 for value in start.values())
    single = lv.Rows(
        {key: value.numpy().astype("float32") for key, value in rows.columns.items()}, lengths=rows.lengths
    )
    if "group" not in rows.columns:
        assert program.score(start, batch_of(program, single)).rows.dtype == torch.float64


def test_networks_of_single_precision_make_everything_single() -> None:
    rows = lv.Rows(cases.blobs(7))
    found = lv.fit(lv.models.VAE.mlp(2, 1, (4,), "gaussian"), rows, lv.SVI(passes=2))
    assert found.program.dtype == torch.float32
    assert found.row_log_likelihood.dtype == torch.float32
    assert found.latent().mean("z").dtype == torch.float32
    half = user_models.FactorAnalysis(3, 2)
    half.encoder.float()
    globals_too = lv.fit(half, cases.factors(), lv.SVI(passes=2))
    assert {value.dtype for value in globals_too.point.values()} == {torch.float32}


# --- helpers ---------------------------------------------------------------------------------------------------------


@functools.cache
def bound(name: str) -> tuple[lv.Rows, Program, dict[str, Tensor]]:
    """Rows, program and a start of a case; shared by the tests, which do not change them."""
    case = CASES[name]
    nothing = lv.EM(passes=0) if case.em else lv.SVI(passes=0, guide=lv.Delta())
    found = lv.fit(case.model(), case.data(), nothing, progress=False)
    return found.rows, found.program, found.point


@functools.cache
def optimum(name: str) -> lv.Fit:
    """The fit by EM, run until nothing changes."""
    em = lv.EM(passes=300, stop=lv.Tolerance(1e-10))
    return lv.fit(CASES[name].model(), CASES[name].data(), em, progress=False)


def batch_of(program: Program, rows: lv.Rows, index: Any = None) -> lv.Batch:
    return rows.batch(index, dtype=program.dtype)


def shards(size: int) -> list[list[int]]:
    """Three uneven parts, not in order."""
    order = np.random.default_rng(4).permutation(size).tolist()
    return [order[:1], order[1 : size // 2], order[size // 2 :]]


def twice_and_never(name: str) -> tuple[lv.Rows, lv.Rows]:
    """Data with weights 0, 1 and 2, and the same with those rows left out or repeated."""
    rows = CASES[name].data()
    times = np.ones(len(rows), dtype=int)
    times[[1, len(rows) // 2]] = 2
    times[[0, len(rows) - 1]] = 0
    return with_weights(rows, times.astype(float)), rows.subset(np.repeat(np.arange(len(rows)), times))


def objective(program: Program, point: Mapping[str, Tensor], rows: lv.Rows) -> Tensor:
    score = program.score(point, batch_of(program, rows))
    return score.prior + (score.rows * rows.weights).sum()


def nearby(program: Program, point: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
    """Globals a seeded step away on the unconstrained scale."""
    free = program.space.unconstrain(point)
    noise = torch.randn(free.shape, generator=torch.Generator().manual_seed(9), dtype=free.dtype)
    return program.space.constrain(free + step * noise)[0]


def numeric(found: lv.Fit) -> bool:
    """Whether some global is maximised by iteration, whose end depends on rounding."""
    return bool(found.state.plan.numeric)


def minibatch_svi(rows: lv.Rows, passes: int) -> lv.SVI:
    return lv.SVI(passes=passes, batch_size=-(-len(rows) // 2), stop=lv.Never())


def factor_analysis(latents: int) -> tuple[lv.Rows, Program, dict[str, Tensor]]:
    loadings = torch.tensor([[1.0, 0.7, -0.4], [0.1, 0.5, 0.8]], dtype=torch.float64)[:latents]
    point = {"loadings": loadings, "noise": torch.tensor(0.6, dtype=torch.float64)}
    found = lv.from_point(user_models.FactorAnalysis(3, latents), cases.factors(), point)
    return found.rows, found.program, point


def linear_gaussian(rows: lv.Rows, point: Mapping[str, Tensor]) -> Tensor:
    """log N(x; 0, WᵀW + s² I) of each row."""
    loadings = point["loadings"]
    covariance = loadings.mT @ loadings + point["noise"] ** 2 * torch.eye(loadings.shape[-1], dtype=loadings.dtype)
    law = torch.distributions.MultivariateNormal(torch.zeros_like(covariance[0]), covariance)
    return law.log_prob(rows.columns["x"])


def tensors_of(model: Any) -> dict[str, Tensor]:
    """Copies of all weights and buffers."""
    modules = [model] if isinstance(model, torch.nn.Module) else vars(model).values()
    found = {}
    for number, module in enumerate(m for m in modules if isinstance(m, torch.nn.Module)):
        found |= {f"{number}.{key}": value.clone() for key, value in module.state_dict().items()}
    return found


def snapshot(found: lv.Fit) -> dict[str, Tensor]:
    """Copies of everything that a fit holds."""
    weights = {name: value.detach().clone() for name, value in model_parameters(found.model).items()}
    return {**{name: value.clone() for name, value in found.globals.tensors().items()}, **weights}


def draw(found: lv.Fit, seed: int) -> Tensor:
    """Draws of a local, or of a global where there are none."""
    beliefs = found.latent()
    if beliefs.sites:
        return beliefs.sample(beliefs.sites[0], draws=5, seed=seed)
    return next(iter(found.globals.draws(5, seed)[0].values()))


def assert_points(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float) -> None:
    assert set(ours) == set(theirs)
    for site, value in theirs.items():
        torch.testing.assert_close(ours[site], value, rtol=tolerance, atol=tolerance, msg=lambda m, s=site: f"{s}: {m}")


def assert_gradients(ours: tuple[Any, ...], theirs: tuple[Any, ...], tolerance: float) -> None:
    assert any(value is not None and bool((value != 0).any()) for value in theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_identical(ours: lv.Fit, theirs: lv.Fit) -> None:
    """Equal to the bit."""
    assert np.array_equal(ours.history, theirs.history)
    assert torch.equal(ours.row_log_likelihood, theirs.row_log_likelihood)
    left, right = snapshot(ours), snapshot(theirs)
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key
