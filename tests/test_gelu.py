"""The smooth activation in one pass: against scipy's normal distribution and torch's own activation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.autograd import forward_ad

from latentvars.capture import compiled, folded
from latentvars.capture.recording import capture
from latentvars.distributions.gelu import activated, gelu, in_torch, written_out
from latentvars.kernels import _core
from latentvars.models.networks import MLP


def errors(values: Tensor, slopes: Tensor, x: Tensor) -> tuple[float, float]:
    """The largest absolute errors."""
    wide = x.double().numpy()
    exact = wide * norm.cdf(wide), norm.cdf(wide) + wide * norm.pdf(wide)
    return tuple(np.abs(one.numpy() - right).max() for one, right in zip((values, slopes), exact, strict=True))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 40_000])
def test_values_and_slopes_are_those_of_the_normal_distribution(size: int) -> None:
    x = torch.linspace(-12, 12, size)
    if not size:
        assert activated(x)[0].shape == (0,)
        return
    value, slope = errors(*activated(x), x)
    assert value < 4e-7 and slope < 3e-7
    if size > 17:  # no worse than what it stands for
        leaf = x.clone().requires_grad_()
        there = nn.functional.gelu(leaf)
        theirs = errors(there.detach(), torch.autograd.grad(there.sum(), leaf)[0], x)
        assert value < theirs[0] and slope < theirs[1]


def test_written_out_for_a_compiler_it_errs_by_no_more() -> None:
    x = torch.linspace(-12, 12, 40_000)
    value, slope = errors(*written_out(x), x)
    assert value < 4e-7 and slope < 3e-7


def test_the_lower_tail_keeps_its_digits() -> None:
    """Where 1 + erf has lost them all."""
    x = torch.linspace(-10, -4, 2_000)
    wide = x.double().numpy()
    for way in (activated, written_out):
        np.testing.assert_allclose(way(x)[0].numpy(), wide * norm.cdf(wide), rtol=1e-5)


def test_ends_of_the_range() -> None:
    value, slope = activated(torch.tensor([torch.nan, 0.0, 1e30, -1e30, 1e-30, torch.inf]))
    assert value.isnan().tolist() == [True] + [False] * 5
    np.testing.assert_allclose(value[1:], [0.0, 1e30, 0.0, 5e-31, np.inf])
    assert slope[:1].isnan()
    np.testing.assert_allclose(slope[1:5], [0.5, 1.0, 0.0, 0.5], rtol=2e-7)


def test_results_do_not_depend_on_threads_and_neighbours() -> None:
    x = torch.randn(300, 301, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = activated(x)
        torch.set_num_threads(2)
        for one, other in zip(alone, activated(x), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[0][17:20, 5:9], activated(x[17:20, 5:9])[0])


def test_networks_learn_with_it_as_with_that_of_torch() -> None:
    ours = MLP(5, 3, (16, 8), generator=torch.Generator().manual_seed(1))
    theirs = copy.deepcopy(ours.layers)
    for place, layer in enumerate(theirs):
        if not isinstance(layer, nn.Linear):
            theirs[place] = nn.GELU()
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(2))
    for network in (ours, theirs):
        network(x).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    double = ours.double()
    torch.testing.assert_close(double(x.double()), theirs.double()(x.double()), rtol=1e-14, atol=1e-14)


def test_the_core_writes_into_arrays_of_its_own_precision_only() -> None:
    """A copy would be written to, and what was to be written left as it lay in memory."""
    x = np.ones(3, dtype=np.float32)
    with pytest.raises(TypeError, match="incompatible"):
        _core.gelu(x, 1, np.empty(3), np.empty(3))
    with pytest.raises(TypeError, match="incompatible"):
        _core.gelu(x, 1, np.empty(6, dtype=np.float32)[::2], np.empty(3, dtype=np.float32))
    with pytest.raises(TypeError, match="incompatible"):
        activated(torch.ones(3, dtype=torch.float64))


def test_second_derivatives_and_vmap() -> None:
    x = torch.linspace(-4, 4, 24).reshape(4, 6).requires_grad_()
    (first,) = torch.autograd.grad(gelu(x).sum(), x, create_graph=True)
    wide = x.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(nn.functional.gelu(wide).sum(), wide, create_graph=True)
    torch.testing.assert_close(
        torch.autograd.grad(first.sum(), x)[0].double(),
        torch.autograd.grad(wanted.sum(), wide)[0],
        rtol=1e-5,
        atol=1e-6,
    )
    for at in (0, 1):
        for one, other in zip(torch.vmap(activated.operator, at)(x.detach()), in_torch(x.detach()), strict=True):
            torch.testing.assert_close(one, other.movedim(at, 0), rtol=1e-5, atol=1e-6)


def test_a_derivative_that_goes_forward_is_that_of_torch() -> None:
    x = torch.linspace(-3, 3, 9)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(gelu(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    torch.testing.assert_close(found, in_torch(x)[1])


def test_torch_finds_the_operator_in_order() -> None:
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(activated.operator, (torch.linspace(-1, 1, 6).requires_grad_(),), test_utils=tests)


@pytest.mark.long
def test_compiled_it_is_written_out(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the compiler merges it with what stands around it."""
    monkeypatch.setenv("LATENTVARS_CACHE", str(tmp_path))
    x = torch.linspace(-3, 3, 32).reshape(4, 8)

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        found = gelu(2.0 * leaf).square().sum()
        return found.detach(), torch.autograd.grad(found, leaf)[0]

    graph = folded(capture(step, x, dtype=torch.float32))
    assert "latentvars.gelu" in graph.code
    with pytest.warns(UserWarning, match="compiling"):
        code = compiled(graph, x)
    for one, other in zip(code(x), step(x), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-5)
