"""Factors that many numbers share, multiplied once at the end instead of number by number: Σ a·xₙ = a·Σ xₙ.

A large value is kept as a base times a small factor as long as it is only negated, scaled, multiplied or divided; sums
along which the factor does not change are taken of the base. Products are taken in another order, so results change by
rounding; two large values are multiplied before their factors in double precision alone, whose range has room for it.
What is written to in place stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from latentvars.capture.nodes import form_of, has_effect, name_of, touched

LEAST = 4_096  # numbers of a value that is large
SMALLER = 8  # times that a factor has to be smaller

aten = torch.ops.aten


@dataclass(frozen=True)
class Scaled:
    """base · small · number; ``small`` broadcasts to the base, None: 1."""

    base: Node
    small: Node | None = None
    number: float = 1.0


def factored(graph: Graph) -> None:
    """The same function, in place, with shared factors taken out of large values."""
    _Factoring(graph).go()
    graph.eliminate_dead_code(has_effect)
    graph.lint()


class _Factoring:
    """One pass.

    Attributes:
        scaled: large values that are a base times a factor.
        whole: those that were multiplied out, as something else needs them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.touched = touched(graph)
        self.scaled: dict[Node, Scaled] = {}
        self.whole: dict[Node, Node] = {}

    def go(self) -> None:
        for node in list(self.graph.nodes):
            with self.graph.inserting_before(node):
                found = self._factor(node)
                if found is not None:
                    self.scaled[node] = found
                    continue
                total = self._total(node)
                if total is not None:
                    node.replace_all_uses_with(total)
                    continue
                if self._is_summed(node):
                    continue
                for given in node.all_input_nodes:
                    if given in self.scaled:
                        node.replace_input_with(given, self._multiplied_out(given))

    def _factor(self, node: Node) -> Scaled | None:
        """A large value as a base times a factor; None where it is no such thing."""
        form = form_of(node)
        if form is None or form.numel() < LEAST or not form.is_floating_point() or node in self.touched or node.kwargs:
            return None
        name, given = name_of(node), node.args
        if name == "neg" and self._is_large(given[0], form):
            one = self._of(given[0])
            return Scaled(one.base, one.small, -one.number)
        if name not in ("mul", "div") or len(given) != 2:
            return None
        left, right = given
        if name == "mul" and not self._is_large(left, form):
            left, right = right, left
        if not self._is_large(left, form):
            return None
        one = self._of(left)
        if isinstance(right, int | float):
            return self._numbered(one.base, one.small, one.number, right, name)
        small = self._small(right, form)
        if small is not None:
            return Scaled(one.base, self._product(one.small, small, name), one.number)
        if not self._is_large(right, form) or form.dtype != torch.float64:
            return None
        other = self._of(right)
        if one.base is left and other.base is right:
            return None
        found = self._numbered(one.base, one.small, one.number, other.number, name)
        if found is None:
            return None
        base = self._made(node.target, one.base, other.base)
        small = one.small if other.small is None else self._product(one.small, other.small, name)
        return Scaled(base, small, found.number)

    @staticmethod
    def _numbered(base: Node, small: Node | None, number: float, by: float, name: str) -> Scaled | None:
        """A value times or over a number; None where that leaves the range of numbers."""
        if name == "div" and by == 0:
            return None
        found = number * by if name == "mul" else number / by
        lost = found == 0 and number != 0 and by != 0
        return None if lost or not math.isfinite(found) else Scaled(base, small, found)

    def _total(self, node: Node) -> Node | None:
        """A sum of large values whose factors do not change along it; None where it is no such thing."""
        if name_of(node) != "sum" or len(node.args) < 2 or node.kwargs or node in self.touched:
            return None
        given: Any = node.args[0]
        dims, keep = self._along(node), len(node.args) > 2 and bool(node.args[2])
        if given in self.scaled and self._is_constant(given, dims):
            return self._sum(given, dims, keep)
        if self._is_summed(given):  # term by term
            return self._made(given.target, *(self._sum(part, dims, keep) for part in given.args))
        return None

    def _along(self, node: Node) -> list[int]:
        """The dimensions of a sum, from 0; none where it is not that of a large value along some."""
        form, dims = form_of(node.args[0]), node.args[1] if len(node.args) > 1 else None
        if form is None or form.numel() < LEAST or not isinstance(dims, list | tuple):
            return []
        return [int(dim) % form.dim() for dim in dims]  # type: ignore[arg-type]

    def _is_summed(self, node: Any) -> bool:
        """Whether a value is a sum or difference of large ones with factors of their own, and is itself only summed."""
        form = form_of(node)
        if form is None or name_of(node) not in ("add", "sub") or len(node.args) != 2 or node.kwargs or not node.users:
            return False
        parts: Any = node.args
        if node in self.touched or not all(self._is_large(part, form) for part in parts):
            return False
        scaled = [part for part in parts if part in self.scaled]
        sums = all(name_of(user) == "sum" and not user.kwargs and self._along(user) for user in node.users)
        return bool(scaled) and sums and all(self._is_constant(p, self._along(u)) for p in scaled for u in node.users)

    def _is_constant(self, node: Node, dims: list[int]) -> bool:
        """Whether the factor of a value does not change along some dimensions."""
        small, form = form_of(self.scaled[node].small), form_of(node)
        if small is None or form is None:
            return bool(dims)
        places = [dim - form.dim() + small.dim() for dim in dims]
        return bool(dims) and all(place < 0 or small.shape[place] == 1 for place in places)

    def _sum(self, given: Any, dims: list[int], keep: bool) -> Node:
        one, form = self._of(given), form_of(given)
        assert form is not None
        found = self._made(aten.sum.dim_IntList, one.base, dims, keep)
        return self._times(found, self._squeezed(one.small, dims, form.dim(), keep), one.number)

    def _is_large(self, value: Any, form: Tensor) -> bool:
        own = form_of(value)
        if own is None or own.shape != form.shape or own.dtype != form.dtype or value in self.touched:
            return False
        return self._small(value, form) is None

    def _of(self, node: Any) -> Scaled:
        return self.scaled.get(node, Scaled(node))

    def _small(self, value: Any, form: Tensor) -> Node | None:
        """A value that is repeated to a form, before it is; None where it is not."""
        base: Any = value.args[0] if isinstance(value, Node) and name_of(value) == "expand" else value
        own = form_of(base)
        if own is None or own.dtype != form.dtype or value in self.touched or base in self.touched:
            return None
        return base if own.numel() * SMALLER <= form.numel() else None

    def _product(self, one: Node | None, other: Node, name: str) -> Node:
        if one is None:
            return other if name == "mul" else self._made(aten.reciprocal.default, other)
        return self._made(aten.mul.Tensor if name == "mul" else aten.div.Tensor, one, other)

    def _multiplied_out(self, node: Node) -> Node:
        if node not in self.whole:
            one = self.scaled[node]
            self.whole[node] = self._times(one.base, one.small, one.number)
        return self.whole[node]

    def _times(self, value: Node, small: Node | None, number: float) -> Node:
        if small is None:
            return value if number == 1 else self._made(aten.mul.Tensor, value, number)
        return self._made(aten.mul.Tensor, value, small if number == 1 else self._made(aten.mul.Tensor, small, number))

    def _squeezed(self, small: Node | None, dims: list[int], rank: int, keep: bool) -> Node | None:
        """A factor without the dimensions that a sum takes away."""
        form = form_of(small)
        if small is None or form is None or keep:
            return small
        gone = [dim - rank + form.dim() for dim in dims if dim - rank + form.dim() >= 0]
        return self._made(aten.squeeze.dims, small, gone) if gone else small

    def _made(self, target: Any, *arguments: Any) -> Node:
        """A new operation, with the form of what it gives."""
        node = self.graph.call_function(target, arguments)
        forms = [form_of(one) if isinstance(one, Node) else one for one in arguments]
        node.meta["val"] = target(*forms)
        return node
