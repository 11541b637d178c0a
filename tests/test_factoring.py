"""Factors taken out of large values: the same numbers to rounding, from fewer operations on all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latentvars.capture import capture, folded
from latentvars.capture.factoring import LEAST

ROWS = 2_000
Function = Callable[[Tensor, Tensor, Tensor], Tensor]


def examples() -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 3, generator=noise, dtype=torch.float64)
    loc, scale = torch.randn(4, 1, 3, generator=noise, dtype=torch.float64), torch.rand(4, 1, 3, generator=noise) + 0.5
    return x, loc, scale.double()


def normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-((x - loc) ** 2) / (2 * scale**2) - scale.log()).sum(-1).logsumexp(0)


def slopes(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    leaves = [one.detach().requires_grad_() for one in (loc, scale)]
    return torch.cat([one.flatten() for one in torch.autograd.grad(normal(x, *leaves).sum(), leaves)])


def difference(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Terms with factors of their own; one of them a plain product, the other the same number everywhere."""
    return (scale * (x - loc) - 3.0 * (x * loc)).sum(1)


def kept(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return ((x - loc) / scale * -2.0).sum(1, keepdim=True) + (-(x * x) * scale).sum((0, 1))


def along_the_factor(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The factor changes along the sum."""
    return (scale * (x - loc)).sum(-1)


def seen_twice(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """What is summed is needed as it is, too."""
    both = scale * (x - loc) + x * scale
    return both.sum(1) + both.max() + (both / scale).exp().mean()


def divided(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Quotients of scaled values, and a small number over a large value, which stays."""
    y = (x - loc) * scale
    return (y / (2.0 * (x.square() + 1 + loc * loc))).sum(1) + (scale / (y.square() + 1)).sum(1)


@pytest.mark.parametrize("function", [normal, slopes, difference, kept, along_the_factor, seen_twice, divided])
def test_the_same_to_rounding(function: Function) -> None:
    given = examples()
    graph = folded(capture(function, *given, dtype=torch.float64), exact=False)
    torch.testing.assert_close(graph(*given), function(*given), rtol=1e-12, atol=1e-12)


def large(function: Function, *, exact: bool) -> int:
    """Pointwise operations and sums on large values."""
    graph = folded(capture(function, *examples(), dtype=torch.float64), exact=exact)
    names = ("mul", "div", "neg", "sub", "add", "sum")
    count = 0
    for node in graph.graph.nodes:
        sizes = [one.meta["val"].numel() for one in node.all_input_nodes if "val" in one.meta]
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        count += name in names and max(sizes, default=0) >= LEAST
    return count


@pytest.mark.parametrize(("function", "most"), [(slopes, 0.7), (difference, 0.8), (kept, 0.7)])
def test_less_is_done_with_large_values(function: Function, most: float) -> None:
    assert large(function, exact=False) <= most * large(function, exact=True)


def written_whole(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """A value that is changed after a product was taken of it."""
    y = x * 2.0 + 1.0
    z = y * scale
    y.add_(1.0)
    return z.sum(1) + 0.0 * y.sum(0)


def written_in_part(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    y = x - loc
    z = y * scale - 3.0 * y
    y[:, :, 0] = 5.0
    return z.sum(1) + 0.0 * y.sum(1)


def factor_written(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    small = scale + 1.0
    z = (x - loc) * small
    small.mul_(2.0)
    return z.sum(1) + 0.0 * small[:, 0]


def by_zero(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (((x - loc).square() * scale) / 0.0).sum(1) + ((x * scale) * 1e200 * 1e200 * 1e-200 * 1e-200).sum(1)


def of_little(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Numbers far from one, whose squares cannot be told from zero in single precision."""
    y = (1e-23 * x).float() / (1e-23 * scale[0]).float()
    return (y * y).sum(0).double()


def of_two_kinds(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    count = (4e9 * scale.sign()).long()
    whole = ((x.long() * 0 + 3) * count).sum(1)
    return (x.float() * scale[0, 0, 0]).sum(1).mean() + (x.float() * scale).sum(1) + whole


@pytest.mark.parametrize("function", [written_whole, written_in_part, factor_written, by_zero, of_little, of_two_kinds])
def test_what_cannot_be_deferred_is_not(function: Function) -> None:
    given = examples()
    recorded = capture(function, *given, dtype=torch.float64)
    wanted = function(*given)
    found = folded(recorded, exact=False)(*given)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12, equal_nan=True)
