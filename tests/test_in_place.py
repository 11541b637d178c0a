"""Results in the memory of what is needed no more: to the bit what the graph gives, and nothing else is written to."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latentvars.capture import capture, folded
from latentvars.capture.in_place import in_place
from latentvars.capture.nodes import written_by

X, Y = torch.linspace(-1.0, 2.0, 12).reshape(3, 4), torch.linspace(0.5, 3.0, 12).reshape(3, 4)


def graphs(function: Callable[..., object], *examples: Tensor) -> tuple[object, ...]:
    """The graph of a function, the same in place, and how many operations of it write."""
    before = folded(capture(lambda *given: (function(*given),), *examples, dtype=torch.float32))
    after = in_place(before)
    assert not any(written_by(node) for node in before.graph.nodes)
    return before, after, sum(bool(written_by(node)) for node in after.graph.nodes)


def check(function: Callable[..., object], writes: int) -> None:
    """As many operations write, and the graph gives what it gave, twice, and leaves its arguments alone."""
    given = X.clone(), Y.clone()
    before, after, found = graphs(function, *given)
    assert found == writes
    for _ in range(2):
        torch.testing.assert_close(after(*given), before(X, Y), rtol=0, atol=0)  # type: ignore[operator]
        assert torch.equal(given[0], X) and torch.equal(given[1], Y)


def test_a_value_that_is_needed_no_more_gives_its_memory() -> None:
    check(lambda x, y: ((x + y) * y).exp(), 2)


def test_the_second_of_two_arguments_gives_its_own_where_the_order_is_free() -> None:
    check(lambda x, y: x * (x + y), 1)
    check(lambda x, y: x - (x + y), 0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (z := x + y) * y + z,
        lambda x, y: (z := x + y).exp() @ z.T,
        lambda x, y: (z := x @ y.T) * z.T,
        lambda x, y: ((z := x + y).reshape(-1)[:3], z.exp())[0] + z.sum(),
    ],
    ids=["used again", "a view of it used again", "seen through a view", "a part of it used again"],
)
def test_what_is_looked_at_again_is_not_written_to(function: Callable[..., object]) -> None:
    _, after, _ = graphs(function, X, Y)
    before, _, _ = graphs(function, X, Y)
    torch.testing.assert_close(after(X, Y), before(X, Y), rtol=0, atol=0)  # type: ignore[operator]


def test_what_is_given_back_is_not_written_to() -> None:
    before = folded(capture(lambda x, y: ((z := x + y), z * 2, z.exp()), X, Y, dtype=torch.float32))
    after = in_place(before)
    assert not any(written_by(node) for node in after.graph.nodes)
    torch.testing.assert_close(after(X, Y), before(X, Y), rtol=0, atol=0)


def test_arguments_and_constants_are_not_written_to() -> None:
    constant = torch.arange(12.0).reshape(3, 4)
    check(lambda x, y: x * constant, 0)
    check(lambda x, y: x.view(4, 3) * 2, 0)


def test_another_form_needs_memory_of_its_own() -> None:
    check(lambda x, y: (x.sum(0) * 2) * y, 1)
    check(lambda x, y: (x.T.contiguous() + 1).T * y, 1)
    check(lambda x, y: (x + y).double() * y.double(), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_precisions_in_which_writing_rounds_otherwise_are_left(dtype: torch.dtype) -> None:
    given = X.to(dtype), Y.to(dtype)
    graph = folded(capture(lambda x, y: (((x + y) * y).exp(),), *given, dtype=torch.float32))
    assert not any(written_by(node) for node in in_place(graph).graph.nodes)


@pytest.mark.parametrize("name", ["lift", "dequantize"])
def test_operations_that_give_their_argument_itself_are_no_values_of_their_own(name: str) -> None:
    check(lambda x, y: getattr(torch.ops.aten, name)(x).exp() + y, 1)


def test_parts_are_met_under_one_number_or_not_written_to() -> None:
    """Hand-made: the whole tuple given back, and a part counted from either end."""
    for last in (lambda parts, part: (parts, part), lambda parts, part: part):
        graph = torch.fx.Graph()
        x = graph.placeholder("x")
        parts = graph.call_function(torch.ops.aten.max.dim, (x, 1))
        part = graph.call_function(operator.getitem, (parts, 0))
        again = graph.call_function(operator.getitem, (parts, -2))
        ends = [graph.call_function(torch.ops.aten.exp.default, (one,)) for one in (part, again)]
        graph.output(last(parts, tuple(ends)))
        found = torch.max(X, 1)
        for node, value in ((x, X), (part, found[0]), (again, found[0]), *((end, found[0]) for end in ends)):
            node.meta["val"] = value
        plain = torch.fx.GraphModule(torch.nn.Module(), graph)
        torch.testing.assert_close(in_place(plain)(X), plain(X), rtol=0, atol=0)
