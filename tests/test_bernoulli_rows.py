"""Rows of independent bits in one pass: against torch's own cross-entropy and distributions."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import binary_cross_entropy_with_logits

from latentvars.capture import compiled, folded
from latentvars.capture.recording import capture
from latentvars.distributions.bernoulli_rows import bernoulli_rows, in_torch, scores, written_out

EXTREME = [-800.0, -90.0, -87.0, -30.0, -1e-9, -0.0, 0.0, 1e-9, 1.0, 30.0, 88.0, 800.0]


def data(rows: int, size: int, dtype: torch.dtype, spread: float = 4.0) -> tuple[Tensor, Tensor]:
    """Logits and values, bits and shares."""
    noise = torch.Generator().manual_seed(rows * 1000 + size)
    logits = spread * torch.randn(rows, size, generator=noise, dtype=torch.float64)
    x = torch.rand(rows, size, generator=noise, dtype=torch.float64)
    x = torch.where(torch.rand(rows, size, generator=noise) < 0.8, (x > 0.5).double(), x)
    return logits.to(dtype), x.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 4e-15), (torch.float32, 3e-6)])
@pytest.mark.parametrize("size", [1, 7, 8, 16, 17, 64, 784, 5_000])
def test_scores_and_slopes_are_those_of_the_cross_entropy(size: int, dtype: torch.dtype, tolerance: float) -> None:
    logits, x = data(37, size, dtype)
    found, slopes = scores(logits, x)
    wide, bits = logits.double().requires_grad_(), x.double()
    wanted = -binary_cross_entropy_with_logits(wide, bits, reduction="none").sum(-1)
    torch.testing.assert_close(found.double(), wanted.detach(), rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(wanted.sum(), wide)
    torch.testing.assert_close(slopes.double(), gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 4e-15), (torch.float32, 2e-7)])
def test_extreme_logits_lose_nothing(dtype: torch.dtype, tolerance: float) -> None:
    """Each alone in its row; torch's cross-entropy errs by 1 % at a logit of −30."""
    logits = torch.tensor(EXTREME, dtype=dtype)[:, None].repeat(3, 1)
    x = torch.tensor([0.0, 1.0, 0.25], dtype=dtype).repeat_interleave(len(EXTREME))[:, None]
    found, slopes = scores(logits, x)
    wide, bits = logits.double(), x.double()
    up, down = wide.clamp(min=0), wide.clamp(max=0)
    wanted = (bits * down - (1 - bits) * up - torch.log1p(torch.exp(-wide.abs())))[:, 0]
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=1e-37)
    torch.testing.assert_close(slopes.double(), bits - torch.sigmoid(wide), rtol=tolerance, atol=tolerance)
    assert bool(scores(torch.full((1, 3), torch.nan, dtype=dtype), torch.ones(1, 3, dtype=dtype))[0].isnan())
    for way in (in_torch, written_out):
        found, slopes = way(logits, x)
        torch.testing.assert_close(found.double(), wanted, rtol=10 * tolerance, atol=1e-37)
        torch.testing.assert_close(slopes.double(), bits - torch.sigmoid(wide), rtol=tolerance, atol=tolerance)
    ends = torch.tensor([torch.inf, -torch.inf], dtype=dtype)[:, None]
    for bit, certain in ((0.0, [-torch.inf, 0.0]), (1.0, [0.0, -torch.inf])):
        for way in (scores, in_torch, written_out):
            assert way(ends, torch.full_like(ends, bit))[0].tolist() == certain


def test_a_derivative_that_goes_forward_is_that_of_torch() -> None:
    """Of dual numbers, of which only torch's own operations know."""
    logits, x = data(4, 3, torch.float64)
    along = torch.ones_like(logits)
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(logits, along)
        found = forward_ad.unpack_dual(bernoulli_rows(dual).log_prob(x)).tangent
    torch.testing.assert_close(found, (x - torch.sigmoid(logits)).sum(-1))


def test_results_do_not_depend_on_threads_and_neighbours() -> None:
    logits, x = data(300, 301, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = scores(logits, x)
        torch.set_num_threads(2)
        for one, other in zip(alone, scores(logits, x), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[0][17:20], scores(logits[17:20], x[17:20])[0])


def test_it_is_the_distribution_that_pyro_has() -> None:
    """Broadcasting, expanding, gradients in both arguments and second derivatives."""
    logits, x = data(6, 5, torch.float64)
    logits = torch.stack([logits, logits.flip(0)]).requires_grad_()
    x.requires_grad_()
    ours, theirs = bernoulli_rows(logits), dist.Bernoulli(logits=logits, validate_args=False).to_event(1)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-14, atol=1e-14)
    wide = ours.expand(torch.Size([3, 2, 6]))
    assert type(wide) is type(ours)
    torch.testing.assert_close(wide.log_prob(x), theirs.log_prob(x).expand(3, 2, 6), rtol=1e-14, atol=1e-14)
    weights = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(2, 6)
    for first, second in zip(
        torch.autograd.grad((weights * ours.log_prob(x)).sum(), (logits, x), create_graph=True),
        torch.autograd.grad((weights * theirs.log_prob(x)).sum(), (logits, x), create_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(first, second, rtol=1e-13, atol=1e-14)
        for one, other in zip(
            torch.autograd.grad(first.square().sum(), logits, retain_graph=True),
            torch.autograd.grad(second.square().sum(), logits, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mapped", [(0, 0), (0, None), (None, 0), (1, 0)])
def test_vmap(mapped: tuple[int | None, int | None]) -> None:
    logits, x = data(4, 9, torch.float64)
    stacked = [
        torch.stack([part, part.flip(0), part.flip(1)], at) if at is not None else part
        for part, at in zip((logits, x), mapped, strict=True)
    ]
    for ours, plain in zip(
        torch.vmap(scores.operator, mapped)(*stacked), torch.vmap(in_torch, mapped)(*stacked), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-13, atol=1e-13)


def test_torch_finds_the_operator_in_order() -> None:
    logits, x = data(3, 5, torch.float64)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(scores.operator, (logits.requires_grad_(), x), test_utils=tests)


@pytest.mark.long
def test_compiled_it_is_written_out(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the compiler merges it with what stands around it."""
    monkeypatch.setenv("LATENTVARS_CACHE", str(tmp_path))
    logits, x = data(8, 16, torch.float32)

    def step(logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = logits.detach().requires_grad_()
        found = bernoulli_rows(2.0 * leaf).log_prob(x).sum()
        return found.detach(), torch.autograd.grad(found, leaf)[0]

    graph = folded(capture(step, logits, x, dtype=torch.float32))
    assert "bernoulli_rows" in graph.code
    with pytest.warns(UserWarning, match="compiling"):
        code = compiled(graph, logits, x)
    for one, other in zip(code(logits, x), step(logits, x), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-5)
