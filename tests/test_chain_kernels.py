"""The recursions of a chain: against enumeration of all paths, finite differences, and themselves under padding."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from chain_brute_force import enumerate_paths
from torch.fx.experimental.proxy_tensor import make_fx

from latentvars.distributions import ChainPosterior, chain, stationary
from latentvars.distributions.chain_evidence import log_evidence
from latentvars.errors import ModelError

F64 = torch.float64


def random_chain(seed: int, states: int, steps: int, batch: tuple[int, ...] = ()) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    initial = torch.rand(states, generator=generator, dtype=F64).softmax(-1)
    transition = (2 * torch.randn(states, states, generator=generator, dtype=F64)).softmax(-1)
    log_emission = 2 * torch.randn(*batch, steps, states, generator=generator, dtype=F64)
    return initial, transition, log_emission


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_all_quantities_equal_enumeration(seed: int, states: int, steps: int) -> None:
    initial, transition, log_emission = random_chain(seed, states, steps)
    if seed == 2:
        transition = torch.triu(transition) / torch.triu(transition).sum(-1, keepdim=True)
        initial = torch.eye(states, dtype=F64)[0]
    exact = enumerate_paths(initial.numpy(), transition.numpy(), log_emission.exp().numpy())
    belief = ChainPosterior(initial, transition, log_emission)

    assert float(log_evidence(initial, transition, log_emission, None)) == pytest.approx(np.log(exact.evidence), 1e-12)
    np.testing.assert_allclose(belief.marginals, exact.marginals, atol=1e-13)
    np.testing.assert_allclose(belief.pairwise, exact.pairwise, atol=1e-13)
    assert float(belief.entropy()) == pytest.approx(exact.entropy, abs=1e-12)
    path, joint = belief.viterbi()
    assert path.tolist() == exact.best.tolist()
    assert float(joint) == pytest.approx(np.log(exact.joint.max()), 1e-12)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(belief.log_prob(torch.tensor(exact.paths)), np.log(exact.posterior), atol=1e-12)


def test_path_draws_have_the_posterior_frequencies() -> None:
    initial, transition, log_emission = random_chain(5, 2, 4)
    exact = enumerate_paths(initial.numpy(), transition.numpy(), log_emission.exp().numpy())
    torch.manual_seed(0)
    draws = ChainPosterior(initial, transition, log_emission).sample((20_000,))
    code = (draws * torch.tensor([8, 4, 2, 1])).sum(-1)
    counts = torch.bincount(code, minlength=16).numpy()
    expected = 20_000 * exact.posterior
    seen = expected > 5
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi_square < 2.5 * seen.sum()
    assert abs(counts - expected)[~seen].max(initial=0) < 15


def test_gradients_and_second_derivatives_equal_finite_differences() -> None:
    initial, transition, log_emission = random_chain(1, 3, 4, (2,))
    lengths = torch.tensor([4, 2])
    inputs = tuple(value.requires_grad_() for value in (initial, transition, log_emission))

    def function(*values: torch.Tensor) -> torch.Tensor:
        return log_evidence(*values, lengths)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_gradient_is_the_posterior() -> None:
    initial, transition, log_emission = random_chain(2, 3, 5)
    inputs = tuple(value.requires_grad_() for value in (initial, transition, log_emission))
    slopes = torch.autograd.grad(log_evidence(*inputs, None), inputs)
    exact = enumerate_paths(*(value.detach().numpy() for value in (initial, transition, log_emission.exp())))
    np.testing.assert_allclose((slopes[0] * initial).detach(), exact.marginals[0], atol=1e-13)
    np.testing.assert_allclose((slopes[1] * transition).detach(), exact.pairwise.sum(0), atol=1e-13)
    np.testing.assert_allclose(slopes[2], exact.marginals, atol=1e-13)


def test_gradient_at_zero_probabilities_is_the_one_sided_derivative() -> None:
    transition = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]], dtype=F64)
    initial = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    log_emission = random_chain(3, 3, 6)[2]
    leaves = (initial.clone().requires_grad_(), transition.clone().requires_grad_())
    by_initial, by_transition = torch.autograd.grad(log_evidence(*leaves, log_emission, None), leaves)
    base, step = log_evidence(initial, transition, log_emission, None), 1e-7
    for i in range(3):
        moved = initial + step * torch.eye(3, dtype=F64)[i]
        slope = (log_evidence(moved, transition, log_emission, None) - base) / step
        assert float(by_initial[i]) == pytest.approx(float(slope), 1e-4)
        for j in range(3):
            moved = transition.clone()
            moved[i, j] += step
            slope = (log_evidence(initial, moved, log_emission, None) - base) / step
            assert float(by_transition[i, j]) == pytest.approx(float(slope), 1e-4, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_stay_finite_at_extremes(dtype: torch.dtype) -> None:
    """A forbidden path that is 10^2000 times likelier, an emission that is impossible in a state, and in all states."""
    transition = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    initial = torch.tensor([1.0, 0.0], dtype=dtype)
    plain = torch.zeros(3, 2, dtype=dtype)
    far, blocked, impossible = plain.clone(), plain.clone(), plain.clone()
    far[1:, 0] = -5000.0
    blocked[1, 1] = impossible[1] = -torch.inf
    for log_emission, value in ((far, -10_000.0), (blocked, 0.0), (impossible, -torch.inf)):
        leaves = tuple(v.clone().requires_grad_() for v in (initial, transition, log_emission))
        total = log_evidence(*leaves, None)
        assert float(total.detach()) == pytest.approx(value)
        for slope in torch.autograd.grad(total, leaves):
            assert bool(slope.isfinite().all())


def test_states_that_contradict_by_thousands_of_nats_are_kept() -> None:
    """State 1 is all but ruled out at t=0 and is the only one left at t=1: probability space would underflow."""
    transition = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)
    initial = torch.tensor([0.5, 0.5], dtype=F64)
    log_emission = torch.tensor([[0.0, -3000.0], [-9000.0, 0.0]], dtype=F64)
    belief = ChainPosterior(initial, transition, log_emission)
    assert float(belief.filtered.total) == pytest.approx(np.log(0.5) - 3000.0, abs=1e-9)
    assert belief.mode.tolist() == [1, 1]
    assert float(belief.marginals[0, 1]) == pytest.approx(1.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-3)])
def test_long_chains_neither_underflow_nor_lose_precision(dtype: torch.dtype, tolerance: float) -> None:
    initial, transition, log_emission = random_chain(4, 3, 2000)
    log_emission = log_emission - 50.0
    total, rows = 0.0, initial.numpy()
    for t in range(2000):
        rows = (rows if t == 0 else rows @ transition.numpy()) * np.exp(log_emission[t].numpy())
        total, rows = total + np.log(rows.sum()), rows / rows.sum()
    belief = ChainPosterior(initial.to(dtype), transition.to(dtype), log_emission.to(dtype))
    assert float(belief.filtered.total) == pytest.approx(total, 1e-6 if dtype == torch.float32 else 1e-13)
    assert float((belief.marginals.sum(-1) - 1).abs().max()) < tolerance
    assert bool(belief.entropy().isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_changes_no_bit(dtype: torch.dtype) -> None:
    """150 steps, so that sums over time span several chunks."""
    lengths = torch.tensor([150, 1, 70, 149])
    initial, transition, log_emission = (value.to(dtype) for value in random_chain(6, 3, 150, (4,)))

    def read(amount: int) -> list[torch.Tensor]:
        leaves = [value.clone().requires_grad_() for value in (initial, transition)]
        padded = torch.cat([log_emission, torch.zeros(4, amount, 3, dtype=dtype)], 1)
        valid = chain.step_mask(lengths, padded.shape[1])
        assert valid is not None
        padded = torch.where(valid[..., None], padded, 0.0).requires_grad_()
        slopes = torch.autograd.grad(log_evidence(*leaves, padded, lengths).sum(), [*leaves, padded])
        belief = ChainPosterior(initial, transition, padded.detach(), lengths)
        path, joint = belief.viterbi()
        whole = [belief.filtered.total, joint, belief.entropy(), belief.log_prob(path), *slopes[:2]]
        by_step = [belief.marginals, path, slopes[2], belief.filtered.states, belief.filtered.steps]
        return whole + [value[:, :150] for value in by_step] + [belief.pairwise[:, :149]]

    for amount in (1, 63, 200):
        for plain, padded in zip(read(0), read(amount), strict=True):
            assert torch.equal(plain, padded)


def test_padding_gives_zeros_and_minus_one() -> None:
    initial, transition, log_emission = random_chain(7, 2, 4, (2,))
    lengths = torch.tensor([4, 2])
    log_emission[1, 2:] = 0.0
    belief = ChainPosterior(initial, transition, log_emission, lengths)
    single = ChainPosterior(initial, transition, log_emission[1, :2])
    assert belief.mode[1].tolist() == [*single.mode.tolist(), -1, -1]
    assert belief.sample((5,))[:, 1, 2:].unique().tolist() == [-1]
    assert float(belief.marginals[1, 2:].abs().sum()) == 0.0
    assert float(belief.pairwise[1, 1:].abs().sum()) == 0.0
    torch.testing.assert_close(belief.entropy()[1], single.entropy())
    torch.testing.assert_close(belief.marginals[1, :2], single.marginals)
    paths = belief.sample((5,))
    torch.testing.assert_close(belief.log_prob(paths)[:, 1], single.log_prob(paths[:, 1, :2]))
    assert torch.equal(belief.log_prob(paths.clamp(min=1)), belief.log_prob(torch.where(paths < 0, 99, paths.clamp(1))))


def test_captured_and_vmapped_evidence_is_right_on_new_data() -> None:
    initial, transition, log_emission = random_chain(8, 2, 4, (3,))

    def value_and_slope(p: torch.Tensor, e: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = p.detach().requires_grad_()
        total = log_evidence(p, transition, e, lengths).sum()
        return total.detach(), torch.autograd.grad(total, p)[0]

    graph = make_fx(value_and_slope)(initial, log_emission, torch.tensor([4, 1, 3]))
    starts = random_chain(9, 2, 1)[0].expand(2, 2).clone()
    starts[1] = torch.tensor([0.9, 0.1])
    lengths = torch.tensor([2, 4, 3])
    values, slopes = torch.func.vmap(graph, in_dims=(0, None, None))(starts, 1 + log_emission, lengths)
    for start, value, slope in zip(starts, values, slopes, strict=True):
        expected = value_and_slope(start, 1 + log_emission, lengths)
        torch.testing.assert_close((value, slope), expected)


def test_stationary_law() -> None:
    transition = random_chain(10, 4, 1)[1].requires_grad_()
    law = stationary(transition)
    power = torch.linalg.matrix_power(transition.detach(), 500)[0]
    torch.testing.assert_close(law.detach(), power, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(
        lambda logits: stationary(logits.softmax(-1)), (transition.detach().requires_grad_(),)
    )
    both = stationary(torch.stack([transition.detach(), transition.detach().flip(0, 1)]))
    torch.testing.assert_close(both[1], both[0].flip(0))


def test_stationary_law_of_a_reducible_chain_is_refused() -> None:
    with pytest.raises(ModelError, match="reducible"):
        stationary(torch.eye(2, dtype=F64))
    absorbing = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=F64)
    torch.testing.assert_close(stationary(absorbing), torch.tensor([0.0, 1.0], dtype=F64))
    with pyro.validation_enabled(False):
        assert stationary(torch.eye(2, dtype=F64)).shape == (2,)
