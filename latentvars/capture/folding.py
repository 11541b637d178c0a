"""A shorter graph that gives the same: constants computed once, nothing computed twice or on copies of one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg

from latentvars.capture.factoring import factored
from latentvars.capture.layout import along_rows
from latentvars.capture.nodes import form_of, has_effect, is_pointwise, is_random, name_of, same_form, touched
from latentvars.capture.recording import capture, check_pure

SHAPING = ("reshape", "view", "expand", "permute", "squeeze", "slice", "alias")
BY_SHAPE = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
LARGEST = 1_000_000  # numbers of a constant


def shortened(function: Callable[..., Any], *examples: Any, dtype: torch.dtype) -> GraphModule:
    """The shortened graph of a function that changes nothing which outlives it; errors of
    :data:`latentvars.capture.recording.UNRECORDABLE`."""
    graph = capture(function, *examples, dtype=dtype)
    check_pure(graph.graph)
    return folded(graph)


def folded(graph: GraphModule, *, exact: bool = True) -> GraphModule:
    """The same function of its arguments, with what does not depend on them computed once, and nothing twice.

    Args:
        graph: changed in place.
        exact: every operation that is left gives what it gave before, to the bit (but for the sign of a zero).
            Otherwise values that are repeated are not copied, and factors that they share are multiplied last, so that
            results round otherwise, and may leave the range of numbers elsewhere; it is faster.
    """
    graph.graph.set_codegen(CodeGen())  # tensors in, tensors out: no trees to take apart
    folding = _Folding(graph, exact)
    for node in list(graph.graph.nodes):
        folding.look_at(node)
    folding.put_constants()
    if not exact:
        factored(graph.graph)
        along_rows(graph.graph)
    graph.graph.eliminate_dead_code(has_effect)
    graph.recompile()
    return graph


class _Folding:
    """One pass over a graph.

    Attributes:
        values: what is known of operations that do not depend on arguments.
        seen: operations by what they do.
        copies: an operation that repeats one value → that value, and the shape.
    """

    def __init__(self, graph: GraphModule, exact: bool) -> None:
        self.graph, self.exact = graph, exact
        self.touched = touched(graph.graph)
        self.values: dict[Node, Any] = {}
        self.seen: dict[Any, Node] = {}
        self.copies: dict[Node, tuple[Node, list[int]]] = {}

    def look_at(self, node: Node) -> None:
        if node.op == "get_attr":
            self.values[node] = attrgetter(str(node.target))(self.graph)
        if node.op != "call_function" or node in self.touched or is_random(node) or has_effect(node):
            return
        key = (node.target, repr(node.args), repr(sorted(node.kwargs.items())))
        same = self.seen.get(key) or self._unchanged(node)
        if same is not None:
            self._replace(node, same)
            return
        self.seen[key] = node
        value = self._value(node)
        if value is not None:
            self.values[node] = value
            return
        if name_of(node) == "expand" and _numel(node.args[0]) < _numel(node):
            self.copies[node] = (node.args[0], list(node.meta["val"].shape))  # type: ignore[assignment]
        elif is_pointwise(node):
            self.seen[key] = self._before_copying(node) or node
        elif name_of(node) in ("sum", "mean"):
            self.seen[key] = self._added(node) or node

    def put_constants(self) -> None:
        """Constants in the places of the operations that made them, where others need them."""
        for k, (node, value) in enumerate(self.values.items()):
            if (
                node.op == "get_attr"
                or not isinstance(value, Tensor)
                or all(user in self.values for user in node.users)
            ):
                continue
            name = f"constant{k}"
            self.graph.register_buffer(name, value)
            with self.graph.graph.inserting_before(node):
                node.replace_all_uses_with(self.graph.graph.get_attr(name))

    def _replace(self, node: Node, by: Node) -> None:
        node.replace_all_uses_with(by)
        self.graph.graph.erase_node(node)

    def _value(self, node: Node) -> Any:
        """What an operation gives whatever the arguments are; None where they matter."""
        known: Mapping[Node, Any] = self.values
        if _numel(node) > LARGEST:
            return None
        if name_of(node) in BY_SHAPE:
            form = form_of(node.args[0])
            if form is None:
                return None
            known = {node.args[0]: torch.empty_strided(form.shape, form.stride(), dtype=form.dtype)}  # type: ignore[dict-item]
        elif not all(argument in known for argument in node.all_input_nodes):
            return None
        arguments = map_arg((node.args, node.kwargs), known.__getitem__)
        target: Any = node.target
        with torch.no_grad():
            return target(*arguments[0], **arguments[1])

    def _unchanged(self, node: Node) -> Node | None:
        """The argument that an operation gives as it is, in the same layout; None where it does something."""
        given: Any = self._neutral(node)
        if not isinstance(given, Node) or given in self.touched:
            return None
        return given if same_form(form_of(given), form_of(node)) else None

    def _neutral(self, node: Node) -> Any:
        name, first = name_of(node), node.args[0] if node.args else None
        if name in SHAPING:
            return first
        if name in ("neg", "t") and isinstance(first, Node) and name_of(first) == name:
            return first.args[0]
        if len(node.args) != 2 or node.kwargs:
            return None
        second = node.args[1]
        if name in ("mul", "div", "pow") and self._is(second, 1):
            return first
        if name in ("add", "sub") and self._is(second, 0):
            return first
        return second if (name == "mul" and self._is(first, 1)) or (name == "add" and self._is(first, 0)) else None

    def _is(self, argument: Any, number: int) -> bool:
        """Whether an argument is this number everywhere."""
        if isinstance(argument, Node):
            value = self.values.get(argument)
            return isinstance(value, Tensor) and value.is_floating_point() and bool((value == number).all())
        return isinstance(argument, int | float) and argument == number

    def _before_copying(self, node: Node) -> Node | None:
        """What is done to each of many copies of a value is done to the value, and copied afterwards."""
        inputs = node.all_input_nodes
        if not inputs or not all(argument in self.copies for argument in inputs):
            return None
        bases = [self.copies[argument] for argument in inputs]
        if any(shape != bases[0][1] or _shape(base) != _shape(bases[0][0]) for base, shape in bases):
            return None
        form, once, shape = form_of(node), self._form_once(node), bases[0][1]
        kept = _format(once, shape, form)
        if once is None or (self.exact and kept is None):
            return None
        aten = torch.ops.aten
        with self.graph.graph.inserting_before(node):
            small = self._made(node.target, *map_arg((node.args, node.kwargs), lambda one: self.copies[one][0]), once)
            found = self._made(aten.expand.default, (small, shape), {}, once.expand(shape))
            if self.exact:
                found = self._made(aten.clone.default, (found,), {"memory_format": kept}, form)
        self.copies[found] = (small, shape)
        self._replace(node, found)
        return found

    def _added(self, node: Node) -> Node | None:
        """A sum over one number as that number, over two as one addition."""
        given, form, own = node.args[0], form_of(node), form_of(node.args[0])
        if form is None or own is None or own.dtype != form.dtype or not form.is_floating_point() or not form.numel():
            return None
        aten, count = torch.ops.aten, own.numel() // form.numel()
        dims: Any = node.args[1] if len(node.args) > 1 else None
        with self.graph.graph.inserting_before(node):
            if count == 1 and same_form(own.reshape(form.shape), form):
                found = self._made(aten.reshape.default, (given, list(form.shape)), {}, form)
            elif count == 2 and name_of(node) == "sum" and isinstance(dims, list | tuple) and len(dims) == 1:
                if not same_form(own.sum(dims).reshape(form.shape), form):
                    return None
                parts = [(given, dims[0], k) for k in range(2)]
                halves = [self._made(aten.select.int, part, {}, own.select(dims[0], part[2])) for part in parts]
                whole = own.select(dims[0], 0) + own.select(dims[0], 1)
                found = self._made(aten.add.Tensor, tuple(halves), {}, whole)
                if whole.dim() != form.dim():
                    found = self._made(aten.unsqueeze.default, (found, dims[0]), {}, whole.unsqueeze(dims[0]))
                if not same_form(form_of(found), form):
                    return None
            else:
                return None
        self._replace(node, found)
        return found

    def _form_once(self, node: Node) -> Tensor | None:
        """The form of a pointwise operation on the values before they were copied."""
        arguments = map_arg((node.args, node.kwargs), lambda one: form_of(self.copies[one][0]))
        target: Any = node.target
        found = target(*arguments[0], **arguments[1])
        return found if isinstance(found, Tensor) else None

    def _made(self, target: Any, arguments: Any, keywords: Any, form: Tensor | None) -> Node:
        """A new operation, or the same one from before."""
        key = (target, repr(arguments), repr(sorted(keywords.items())))
        if key not in self.seen:
            self.seen[key] = self.graph.graph.call_function(target, tuple(arguments), dict(keywords))
            self.seen[key].meta["val"] = form
        return self.seen[key]


def _format(once: Tensor | None, shape: list[int], form: Tensor | None) -> torch.memory_format | None:
    """How a value is to be copied for the copies to lie in memory as they should; None where that cannot be said."""
    if once is None:
        return None
    for kept in (torch.preserve_format, torch.contiguous_format):
        if same_form(torch.clone(once.expand(shape), memory_format=kept), form):
            return kept
    return None


def _shape(node: Any) -> list[int]:
    form = form_of(node)
    return [] if form is None else list(form.shape)


def _numel(node: Any) -> int:
    form = form_of(node)
    return 0 if form is None else form.numel()
