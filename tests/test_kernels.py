"""Compiled recursions of chains against the same sums written with numpy, for chains that couple and that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentvars.kernels._core import exponentials
from latentvars.kernels.chains import (
    Chains,
    Observed,
    Posterior,
    evidence,
    expected,
    filtering,
    observed_evidence,
    posterior,
    smoothing,
    viterbi,
)
from latentvars.kernels.mixtures import Form

logsumexp = np.logaddexp.reduce  # scipy's takes ten times as long for the few states of a step


def serial(initial: np.ndarray, transition: np.ndarray, emission: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """log p(x), p(z_t | x) and the slopes by A, step by step in log space."""
    with np.errstate(divide="ignore"):
        moves, ahead = np.log(transition), [np.log(initial) + emission[0]]
    for row in emission[1:]:
        ahead.append(logsumexp(ahead[-1][:, None] + moves, 0) + row)
    behind = [np.zeros(len(initial))]
    for row in emission[:0:-1]:
        behind.insert(0, logsumexp(moves + (row + behind[0])[None], 1))
    total = logsumexp(ahead[-1])
    forward, backward = np.array(ahead), np.array(behind)
    into = emission[1:] + backward[1:] - total
    slopes = np.exp(forward[:-1, :, None] + into[:, None, :]).sum(0)
    joint = forward + backward
    return float(total), np.exp(joint - logsumexp(joint, -1, keepdims=True)), slopes


def sticky(states: int, stay: float) -> np.ndarray:
    matrix = np.full((states, states), (1 - stay) / (states - 1))
    np.fill_diagonal(matrix, stay)
    return matrix


def left_right(states: int) -> np.ndarray:
    return 0.9 * np.eye(states) + 0.1 * np.eye(states, k=1) + 0.1 * (np.arange(states) == states - 1) * np.eye(states)


def mixing(states: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(states), states)


def chains(transition: np.ndarray, lengths: list[int], spread: float, seed: int = 0, at: int | None = None) -> Chains:
    """Chains with normal emission scores; all begin in state ``at``, or anywhere."""
    noise, states = np.random.default_rng(seed), len(transition)
    initial = np.full(states, 1 / states) if at is None else np.eye(states)[at]
    zeros = np.zeros(len(lengths), dtype=np.int64)
    emission = spread * noise.normal(size=(sum(lengths), states))
    ends = np.cumsum(lengths)
    return Chains(
        initial[None], zeros, transition[None, None], zeros, emission, ends - np.array(lengths), np.array(lengths)
    )


CASES = {
    "one state": chains(np.ones((1, 1)), [5, 1], 1.0),
    "one step": chains(mixing(3), [1], 1.0),
    "ragged, more than a block": chains(mixing(4), [*range(1, 90)], 1.0),
    "many states": chains(mixing(70), [30] * 3, 1.0),
    "cut into chunks": chains(mixing(3), [9_000, 40, 5_000], 1.0),
    "chunks that do not meet": chains(sticky(2, 0.9999), [12_000], 0.3),
    "some meet, some do not": chains(sticky(3, 0.9995), [6_000, 6_000], 2.0),
    "left to right": chains(left_right(5), [200, 60], 1.0, at=0),
    "left to right, long": chains(left_right(3), [6_000], 1.0, at=0),
    "emissions that underflow": chains(mixing(4), [200, 50], 400.0),
    "nothing observed": chains(sticky(3, 0.9), [500], 0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_evidence_and_posterior_equal_sums_in_log_space(name: str) -> None:
    given = CASES[name]
    weights = np.random.default_rng(1).random(len(given.lengths))
    found, apart = posterior(given, weights, by_chain=False), posterior(given, weights, by_chain=True)
    totals, slopes = evidence(given), 0.0
    for n, (low, size) in enumerate(zip(given.begins, given.lengths, strict=True)):
        total, marginals, slope = serial(given.initial[0], given.transition[0, 0], given.log_emission[low : low + size])
        for ours in (totals[n], found.total[n], apart.total[n]):
            assert ours == pytest.approx(total, rel=1e-12)
        np.testing.assert_allclose(found.marginals[low : low + size], weights[n] * marginals, rtol=0, atol=1e-11)
        np.testing.assert_allclose(apart.slopes[n, 0], weights[n] * slope, rtol=1e-9)
        slopes = slopes + weights[n] * slope
    np.testing.assert_allclose(found.slopes[0, 0], slopes, rtol=1e-9)


@pytest.mark.parametrize("name", ["ragged, more than a block", "cut into chunks", "left to right"])
def test_the_exact_way_agrees_and_marginals_sum_to_one(name: str) -> None:
    given = CASES[name]
    states, steps, total = filtering(given)
    np.testing.assert_allclose(total, evidence(given), rtol=1e-12)
    np.testing.assert_allclose(np.add.reduceat(steps, given.begins), total, rtol=1e-12)
    smooth, _ = smoothing(given, states, steps, total)
    np.testing.assert_allclose(smooth.sum(-1), 1.0, atol=1e-11)
    fast = posterior(given, np.ones(len(total)), by_chain=False)
    np.testing.assert_allclose(fast.marginals, smooth, atol=1e-11)


def test_a_chain_gives_the_same_bits_in_any_company_and_on_any_number_of_threads() -> None:
    given = chains(mixing(5), [5_000, *range(1, 140)], 1.0)
    ones = np.ones(len(given.lengths))

    def run(threads: int) -> Posterior:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return posterior(given, ones, by_chain=False)
        finally:
            torch.set_num_threads(before)

    one, two = run(1), run(2)
    assert np.array_equal(one.total, two.total)
    assert np.array_equal(one.slopes, two.slopes)
    for n in (0, 1, 77, 139):
        part = slice(given.begins[n], given.begins[n] + given.lengths[n])
        zero = np.zeros(1, dtype=np.int64)
        single = Chains(
            given.initial, zero, given.transition, zero, given.log_emission[part].copy(), zero, given.lengths[n : n + 1]
        )
        alone = posterior(single, np.ones(1), by_chain=False)
        assert alone.total[0] == one.total[n]
        assert np.array_equal(alone.marginals, one.marginals[part])


def test_single_precision_in_double_precision_inside() -> None:
    given = CASES["cut into chunks"]
    single = Chains(
        given.initial, given.initial_of, given.transition, given.transition_of, given.log_emission.astype(np.float32),
        given.begins, given.lengths,
    )  # fmt: skip
    np.testing.assert_allclose(evidence(single), evidence(given), rtol=1e-6)
    assert posterior(single, np.ones(3), by_chain=False).marginals.dtype == np.float32


def test_the_most_likely_path_is_the_best_of_all() -> None:
    given = chains(mixing(3), [6, 4], 1.0)
    paths = viterbi(given)
    for low, size in zip(given.begins, given.lengths, strict=True):
        every = np.array(np.meshgrid(*[range(3)] * size, indexing="ij")).reshape(size, -1)
        scores = np.log(given.initial[0])[every[0]] + sum(
            given.log_emission[low + t, every[t]] + (np.log(given.transition[0, 0])[every[t - 1], every[t]] if t else 0)
            for t in range(size)
        )
        assert paths[low : low + size].tolist() == every[:, scores.argmax()].tolist()


def test_exponentials_keep_sixteen_digits_and_let_nan_through() -> None:
    x = np.concatenate([-np.logspace(-12, np.log10(599.0), 4_000), [0.0, -601.0, -np.inf, np.nan]])
    found = x.copy()
    exponentials(found)
    np.testing.assert_allclose(found[:-3], np.exp(x[:-3]), rtol=5e-16)
    assert found[-3:-1].tolist() == [0.0, 0.0]
    assert np.isnan(found[-1])


def with_own_matrices(states: int, lengths: list[int], moves: bool, spread: float = 1.0) -> Chains:
    """Chains each of which has a transition matrix, or one for each move, of its own."""
    noise, count = np.random.default_rng(5), len(lengths)
    each = max(lengths) - 1 if moves else 1
    transition = noise.dirichlet(np.ones(states), (count, each, states))
    given = chains(transition[0, 0], lengths, spread)
    return Chains(
        given.initial, given.initial_of, transition, np.arange(count), given.log_emission, given.begins, given.lengths
    )


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("states", [1, 3, 8, 11, 40])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_chains_with_matrices_of_their_own(states: int, moves: bool, spread: float) -> None:
    given = with_own_matrices(states, [7, 1, 30], moves, spread)
    weights = np.array([1.0, 0.5, 2.0])
    found, totals, paths = posterior(given, weights, by_chain=True), evidence(given), viterbi(given)
    for n, (low, size) in enumerate(zip(given.begins, given.lengths, strict=True)):
        emission = given.log_emission[low : low + size]
        moves_of = given.transition[n] if moves else np.repeat(given.transition[n], max(size - 1, 1), 0)
        total, marginals, slopes, path = by_step(given.initial[0], moves_of, emission)
        assert totals[n] == pytest.approx(total, rel=1e-12)
        assert found.total[n] == pytest.approx(total, rel=1e-12)
        np.testing.assert_allclose(found.marginals[low : low + size], weights[n] * marginals, rtol=0, atol=1e-11)
        ours = found.slopes[n][: size - 1] if moves else found.slopes[n, 0]
        theirs = slopes if moves else slopes.sum(0)
        np.testing.assert_allclose(ours, weights[n] * theirs, rtol=1e-9, atol=1e-12)
        assert paths[low : low + size].tolist() == path


def by_step(
    initial: np.ndarray, moves: np.ndarray, emission: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, list[int]]:
    """log p(x), p(z_t | x), the slopes by the matrix of each move and the most probable path, in log space."""
    logs, ahead = np.log(moves), [np.log(initial) + emission[0]]
    best, origins = [ahead[0]], []
    for t, row in enumerate(emission[1:]):
        ahead.append(logsumexp(ahead[-1][:, None] + logs[t], 0) + row)
        scores = best[-1][:, None] + logs[t]
        origins.append(scores.argmax(0))
        best.append(scores.max(0) + row)
    behind = [np.zeros(len(initial))]
    for t in range(len(emission) - 1, 0, -1):
        behind.insert(0, logsumexp(logs[t - 1] + (emission[t] + behind[0])[None], 1))
    path = [int(best[-1].argmax())]
    for origin in reversed(origins):
        path.insert(0, int(origin[path[0]]))
    total, forward, backward = logsumexp(ahead[-1]), np.array(ahead), np.array(behind)
    slopes = np.exp(forward[:-1, :, None] + (emission[1:] + backward[1:] - total)[:, None, :])
    joint = forward + backward
    return float(total), np.exp(joint - logsumexp(joint, -1, keepdims=True)), slopes, path


@pytest.mark.parametrize("states", [2, 3, 4, 5, 9, 200])
def test_the_most_probable_path_of_a_long_chain(states: int) -> None:
    given = chains(mixing(states), [400, 3], 2.0)
    moves = np.repeat(given.transition[0], 399, 0)
    *_, path = by_step(given.initial[0], moves, given.log_emission[:400])
    assert viterbi(given)[:400].tolist() == path


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("states", [1, 2, 5, 8, 17, 29, 50, 260])
def test_the_most_probable_paths_of_chains_side_by_side(states: int, single: bool) -> None:
    """Ragged, so that those that go abreast end one after another; a state that cannot be left is among them."""
    transition = mixing(states)
    transition[-1] = np.eye(states)[-1]
    given = chains(transition, [3, 70, 1, 40, 40, 2, 66, 9, 35], 2.0)
    table = given.log_emission.astype(np.float32 if single else np.float64)
    paths = viterbi(replace(given, log_emission=table))
    with np.errstate(divide="ignore"):
        initial, moves = np.log(given.initial[0]), np.log(transition)
    for low, size in zip(given.begins, given.lengths, strict=True):
        best, origins = initial + table[low], []
        for row in table[low + 1 : low + size].astype(np.float64):
            scores = best[:, None] + moves
            origins.append(scores.argmax(0))
            best = scores.max(0) + row
        path = [int(best.argmax())]
        for origin in reversed(origins):
            path.insert(0, int(origin[path[0]]))
        assert paths[low : low + size].tolist() == path


@pytest.mark.parametrize("seed", range(4))
def test_transitions_that_all_but_vanish_and_are_forced(seed: int) -> None:
    """As EM leaves them behind: between 1e-300 and 1e-120, and now and then the one way to an observation."""
    noise, states = np.random.default_rng(seed), 12
    matrix = noise.dirichlet(np.full(states, 0.3), states)
    dying = (noise.random((states, states)) < 0.5) & ~np.eye(states, dtype=bool)
    matrix = np.where(dying, 10.0 ** -noise.uniform(120, 300, (states, states)), matrix)
    given = chains(matrix / matrix.sum(1, keepdims=True), [60], 1.0)
    given = replace(given, log_emission=given.log_emission * noise.choice([1.0, 30.0, 400.0], (60, 1)))
    total, marginals, slopes = serial(given.initial[0], given.transition[0, 0], given.log_emission)
    found = posterior(given, np.ones(1), by_chain=False)
    assert found.total[0] == pytest.approx(total, rel=1e-13)
    assert evidence(given)[0] == pytest.approx(total, rel=1e-13)
    np.testing.assert_allclose(found.marginals, marginals, rtol=0, atol=1e-10)
    counts = [one.reshape(states, states) * given.transition[0, 0] for one in (found.slopes, slopes)]
    np.testing.assert_allclose(*counts, rtol=0, atol=1e-9)


def test_a_million_steps_cut_into_chunks_equal_an_uncut_recursion() -> None:
    given = chains(mixing(2), [1_000_000], 1.0)
    single = Chains(
        given.initial, given.initial_of, np.repeat(given.transition, 2, 0), np.zeros(1, dtype=np.int64),
        given.log_emission, given.begins, given.lengths,
    )  # fmt: skip
    assert evidence(given)[0] == pytest.approx(evidence(single)[0], rel=1e-12)
    cut, whole = (posterior(one, np.ones(1), by_chain=False) for one in (given, single))
    np.testing.assert_allclose(cut.marginals, whole.marginals, rtol=0, atol=1e-11)
    np.testing.assert_allclose(cut.slopes[0], whole.slopes[0], rtol=1e-10)


def test_arrays_that_do_not_fit_are_refused() -> None:
    given = chains(mixing(3), [5, 4], 1.0)
    beyond = Chains(
        given.initial, given.initial_of, given.transition, given.transition_of, given.log_emission, given.begins,
        given.lengths + 1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="chain 1 lies outside"):
        evidence(beyond)
    with pytest.raises(ValueError, match=r"weights is \[3\], needed: \[2\]"):
        posterior(given, np.ones(3), by_chain=False)


def features(form: Form, x: np.ndarray) -> np.ndarray:
    """t(x) ``[M, F]``."""
    one, size = np.ones((len(x), 1)), x.shape[1]
    if form == Form.CODES:
        return np.eye(4)[x[:, 0].astype(int)]
    further = {
        Form.LINEAR: np.empty((len(x), 0)),
        Form.DIAGONAL: x**2,
        Form.SPHERICAL: (x**2).sum(1, keepdims=True),
        Form.FULL: np.stack([x[:, i] * x[:, j] for i in range(size) for j in range(i, size)], 1),
    }
    return np.concatenate([one, x, further[form]], 1)


def observed(form: Form, transition: np.ndarray, lengths: list[int], spread: float = 0.3) -> tuple[Observed, Chains]:
    """Chains of observations, and the same with a table of their densities."""
    noise, states, size = np.random.default_rng(3), len(transition), 1 if form == Form.CODES else 3
    values = noise.normal(size=(sum(lengths), size)) + 5.0
    centre = np.full(size, 5.0)
    if form == Form.CODES:
        values, centre = noise.integers(0, 4, values.shape).astype(float), np.zeros(1)
    read = features(form, values - centre)
    natural = spread * noise.normal(size=(states, read.shape[1]))
    law, ends = noise.dirichlet(np.ones(states)), np.cumsum(lengths)
    zeros, begins = np.zeros(len(lengths), dtype=np.int64), ends - np.array(lengths)
    own = np.ascontiguousarray(natural.T) if form == Form.CODES else natural
    chains = Chains(law[None], zeros, transition[None, None], zeros, read @ natural.T, begins, np.array(lengths))
    return Observed(form, values, centre, own, law, transition, begins, np.array(lengths)), chains


@pytest.mark.parametrize("form", list(Form)[1:6], ids=lambda form: form.name)
@pytest.mark.parametrize(
    ("states", "lengths"), [(3, [*range(1, 60)]), (5, [9_000, 40]), (11, [300] * 20)], ids=["ragged", "cut", "even"]
)
def test_statistics_of_observed_chains_are_those_of_a_table_of_densities(
    form: Form, states: int, lengths: list[int]
) -> None:
    of, table = observed(form, mixing(states), lengths)
    weights = np.random.default_rng(1).random(len(lengths))
    found, wanted = expected(of, weights), posterior(table, weights, by_chain=False)
    assert found is not None
    np.testing.assert_allclose(found.total, wanted.total, rtol=1e-12)
    np.testing.assert_allclose(observed_evidence(of), found.total, rtol=1e-13)
    np.testing.assert_allclose(found.initial_slopes, wanted.initial_slopes, rtol=1e-10)
    np.testing.assert_allclose(found.slopes, wanted.slopes[0, 0], rtol=1e-10)
    sums = wanted.marginals.T @ features(form, of.values - of.centre)
    np.testing.assert_allclose(found.sums.T if form == Form.CODES else found.sums, sums, rtol=1e-10, atol=1e-9)


FEW_AND_MANY = [[256], [257], [700], [1_000, 5], [1_024], [900] * 3, [1_100] * 40, [3_000, 2, 700, 700], [12_000, 500]]


@pytest.mark.parametrize("stay", [None, 0.999], ids=["mixing", "sticky"])
@pytest.mark.parametrize("lengths", FEW_AND_MANY, ids=lambda lengths: f"{len(lengths)} of {lengths[0]}")
def test_however_chains_are_cut_sums_are_the_same(lengths: list[int], stay: float | None) -> None:
    """Chunks of sticky chains do not meet; those that were cut because they are few are gone through whole."""
    transition = mixing(3) if stay is None else sticky(3, stay)
    of, table = observed(Form.DIAGONAL, transition, lengths, 0.3 if stay is None else 0.02)
    weights = np.random.default_rng(1).random(len(lengths))
    found, wanted = expected(of, weights), posterior(table, weights, by_chain=False)
    assert (found is None) == (stay is not None and lengths[0] > 10_240)
    if found is not None:
        np.testing.assert_allclose(found.total, wanted.total, rtol=1e-12)
        np.testing.assert_allclose(found.initial_slopes, wanted.initial_slopes, rtol=1e-9)
        np.testing.assert_allclose(found.slopes, wanted.slopes[0, 0], rtol=1e-9)
        sums = wanted.marginals.T @ features(Form.DIAGONAL, of.values - of.centre)
        np.testing.assert_allclose(found.sums, sums, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transition", [sticky(2, 0.9999), left_right(3)], ids=["sticky", "left to right, impossible"])
def test_observed_chains_that_lanes_cannot_do_are_given_back(transition: np.ndarray) -> None:
    of, _ = observed(Form.DIAGONAL, transition, [12_000], 0.01 if len(transition) == 2 else 300.0)
    assert expected(of, np.ones(1)) is None


@pytest.mark.parametrize("apart", [1.0, 1e6])
@pytest.mark.parametrize("form", [Form.APART, Form.WHITENED])
def test_evidence_of_normals_by_residuals(form: Form, apart: float) -> None:
    """Means a million standard deviations from one another and from zero."""
    noise, states, lengths = np.random.default_rng(4), 3, [5, 40, 2_000]
    z = np.repeat(np.arange(states), sum(lengths) // states + 1)[: sum(lengths)]
    loc = apart * (1 + np.arange(states))[:, None] * np.ones(3)
    x = loc[z] + noise.normal(size=(len(z), 3))
    root = np.tril(noise.normal(size=(states, 3, 3)), -1) + 2 * np.eye(3)
    if form == Form.APART:
        root = root * np.eye(3)
    y = np.einsum("kij,mkj->mki", root, x[:, None] - loc)
    diagonal = np.diagonal(root, axis1=1, axis2=2)
    constant = np.log(diagonal).sum(1) - 1.5 * np.log(2 * np.pi)
    rest = diagonal if form == Form.APART else root[(slice(None), *np.tril_indices(3))]
    natural = np.concatenate([constant[:, None], loc, rest], 1)
    law, ends = noise.dirichlet(np.ones(states)), np.cumsum(lengths)
    zeros, begins = np.zeros(3, dtype=np.int64), ends - np.array(lengths)
    table = constant - 0.5 * (y**2).sum(-1)
    moves = mixing(states)
    wanted = evidence(Chains(law[None], zeros, moves[None, None], zeros, table, begins, np.array(lengths)))
    found = observed_evidence(Observed(form, x, np.zeros(3), natural, law, moves, begins, np.array(lengths)))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("code", [0.5, -1.0, 4.0, np.nan])
def test_codes_outside_their_table_are_refused(code: float) -> None:
    of, _ = observed(Form.CODES, mixing(3), [20])
    of.values[7] = code
    with pytest.raises(ValueError, match="is none"):
        expected(of, np.ones(1))
