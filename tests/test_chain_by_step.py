"""Chains whose transitions and emissions are others at each step: against enumeration of all paths and plain chains."""

from __future__ import annotations

import itertools

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from chain_brute_force import Enumerated
from torch import Tensor

from latentvars.distributions import ChainPosterior, HiddenMarkov, chain
from latentvars.distributions.chain_evidence import log_evidence
from latentvars.errors import SupportError

F64 = torch.float64


def random_parts(seed: int, states: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    initial = torch.randn(states, generator=generator, dtype=F64).softmax(-1)
    transition = torch.randn(steps - 1, states, states, generator=generator, dtype=F64).softmax(-1)
    return initial, transition, torch.randn(steps, states, generator=generator, dtype=F64)


def enumerated(initial: Tensor, transition: Tensor, log_emission: Tensor) -> Enumerated:
    steps, states = log_emission.shape
    paths = np.array(list(itertools.product(range(states), repeat=steps)))
    joint = initial.numpy()[paths[:, 0]] * np.exp(log_emission.numpy())[np.arange(steps), paths].prod(1)
    for t in range(steps - 1):
        joint = joint * transition.numpy()[t][paths[:, t], paths[:, t + 1]]
    return Enumerated(paths, joint, states)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_all_quantities_equal_enumeration(steps: int) -> None:
    parts = random_parts(steps, 3, steps)
    exact, belief = enumerated(*parts), ChainPosterior(*parts, by_step=True)
    assert float(log_evidence(*parts, None, True)) == pytest.approx(np.log(exact.evidence), rel=1e-12)
    np.testing.assert_allclose(belief.marginals, exact.marginals, atol=1e-13)
    np.testing.assert_allclose(belief.pairwise, exact.pairwise, atol=1e-13)
    assert float(belief.entropy()) == pytest.approx(exact.entropy, abs=1e-12)
    path, joint = belief.viterbi()
    assert path.tolist() == exact.best.tolist()
    assert float(joint) == pytest.approx(np.log(exact.joint.max()), rel=1e-12)
    np.testing.assert_allclose(belief.log_prob(torch.tensor(exact.paths)), np.log(exact.posterior), atol=1e-12)


def test_gradients_equal_differences_twice() -> None:
    initial, transition, log_emission = random_parts(4, 2, 4)
    logits = transition.log().requires_grad_()

    def total(free: Tensor, emission: Tensor) -> Tensor:
        return log_evidence(initial, free.softmax(-1), emission, None, True)

    inputs = (logits, log_emission.requires_grad_())
    assert torch.autograd.gradcheck(total, inputs)
    assert torch.autograd.gradgradcheck(total, inputs)


def test_path_draws_have_the_posterior_frequencies() -> None:
    parts = random_parts(7, 2, 3)
    torch.manual_seed(0)
    draws = ChainPosterior(*parts, by_step=True).sample((40_000,))
    counts = torch.bincount((draws * torch.tensor([4, 2, 1])).sum(-1), minlength=8).numpy()
    expected = 40_000 * enumerated(*parts).posterior
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # 0.999 quantile of chi-square with 7 degrees


def ragged(same: bool) -> tuple[HiddenMarkov, Tensor]:
    """Three sequences of 4, 2 and 1 steps with their own moves and locations; or with the same everywhere."""
    generator = torch.Generator().manual_seed(1)
    initial, value = torch.tensor([0.3, 0.7], dtype=F64), torch.randn(3, 4, generator=generator, dtype=F64)
    transition = torch.randn(3, 3, 2, 2, generator=generator, dtype=F64).softmax(-1)
    loc = torch.randn(3, 4, 2, generator=generator, dtype=F64)
    if same:
        transition, loc = transition[:1, :1].expand(3, 3, 2, 2), loc[:1, :1].expand(3, 4, 2)
    law = HiddenMarkov(initial, transition, dist.Normal(loc, 1.0), torch.tensor([4, 2, 1]), moving=True, emitting=True)
    return law, value


def test_equal_steps_are_the_plain_chain() -> None:
    law, value = ragged(True)
    plain = HiddenMarkov(law.initial, law.transition[0, 0], dist.Normal(law.emission.loc[0, 0], 1.0), law.lengths)
    torch.testing.assert_close(law.log_prob(value), plain.log_prob(value), rtol=0, atol=1e-13)
    torch.testing.assert_close(law.predict_steps(value)[0], plain.predict_steps(value)[0], rtol=0, atol=1e-13)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=F64)
    ours, theirs = law.factors(value, weights), plain.factors(value, weights)
    torch.testing.assert_close(ours["transition"].value.sum(-3), theirs["transition"].value, rtol=0, atol=1e-13)
    torch.testing.assert_close(ours["emission"].weights, theirs["emission"].weights, rtol=0, atol=1e-13)
    torch.manual_seed(3)
    draws = law.sample((20_000,))
    torch.manual_seed(3)
    assert torch.equal(law.expand((3,)).sample((20_000,)), draws)
    others = plain.expand((3,)).sample((20_000,))
    torch.testing.assert_close(draws.mean(0), others.mean(0), rtol=0, atol=0.05)


def test_factors_and_the_entropy_add_up_to_the_log_likelihood() -> None:
    law, value = ragged(False)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=F64)
    found = law.factors(value, weights).values()
    total = sum(float((factor.weights * factor.fn.log_prob(factor.value)).sum()) for factor in found)
    total += float((weights * law.posterior(value).entropy()).sum())
    assert total == pytest.approx(float((weights * law.log_prob(value)).sum()), rel=1e-12)


def test_each_sequence_is_scored_alone() -> None:
    law, value = ragged(False)
    for row, steps in enumerate([4, 2, 1]):
        loc = law.emission.loc[row, :steps]
        parts = (
            law.initial,
            law.transition[row, : steps - 1],
            dist.Normal(loc, 1.0).log_prob(value[row, :steps, None]),
        )
        assert float(law.log_prob(value)[row]) == pytest.approx(np.log(enumerated(*parts).evidence), rel=1e-12)
    mask = chain.step_mask(law.lengths, 4)
    assert mask is not None
    junk = torch.where(mask, value, torch.nan)
    assert torch.equal(law.log_prob(junk), law.log_prob(value))


def test_what_the_next_step_would_need_is_an_error() -> None:
    law, value = ragged(False)
    with pytest.raises(SupportError, match="another at each step"):
        law.predictive(value)
    with pytest.raises(SupportError, match="emission"):
        law.forecast(value)
