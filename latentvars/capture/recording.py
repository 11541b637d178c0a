"""Recording the tensor operations of a function as a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from latentvars.capture.nodes import CHECKS, form_of, has_effect, is_random, name_of, shares_memory, written_by
from latentvars.program.scope import surroundings

DROPPED = ("detach", *CHECKS)
VIEWS = ("view", "_unsafe_view")


class Unrecordable(Exception):
    """Why a function cannot be recorded."""


# what recording a function may raise
UNRECORDABLE = (Unrecordable, RuntimeError, TypeError, ValueError, NotImplementedError)


def capture(function: Callable[..., Any], *examples: Any, dtype: torch.dtype, checked: bool = False) -> GraphModule:
    """Record the tensor operations of a function.

    Args:
        function: tensors (in dictionaries or tuples) → tensors; gradients taken inside become part of the graph.
        examples: arguments of the right shapes; the graph holds for these shapes, whatever the values.
        dtype: default precision while recording.
        checked: keep the checks inside linear algebra, which raise an error.

    Returns:
        A module that repeats the operations. Checks inside linear algebra are left out unless asked for: where a matrix
        is not positive definite the result is not finite, and the other elements of a batch are unharmed.

    Raises:
        RuntimeError: control flow that depends on values.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes seconds to import, and few need it

    with surroundings(dtype):
        graph = make_fx(function)(*examples)
    for node in list(graph.graph.nodes):
        name = name_of(node)
        if name in VIEWS:  # under vmap memory lies in another order, of which a view need not exist
            node.target = torch.ops.aten.reshape.default
        node.target = _elsewhere(node) or node.target
        _fix_precision(node)
        if name not in DROPPED or (checked and name in CHECKS):
            continue
        if node.users:
            node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code(has_effect)
    graph.recompile()
    return graph


def check_pure(graph: Graph) -> None:
    """Nothing that outlives a run of the graph is written to.

    Raises:
        Unrecordable: something is.
    """
    for node in graph.nodes:
        written: Any
        for written in written_by(node):
            while written.op == "call_function" and shares_memory(written):
                written = written.args[0]
            if written.op != "call_function":
                raise Unrecordable("a step changes a tensor that outlives it")


def _fix_precision(node: Node) -> None:
    """Numbers that are made keep the precision that they had, whatever the default is when the graph runs."""
    if node.op != "call_function" or node.all_input_nodes or node.kwargs.get("dtype") is not None:
        return
    form = form_of(node)
    names = {argument.name for argument in node.target._schema.arguments if argument.kwarg_only}  # type: ignore[union-attr]
    if form is not None and "dtype" in names:
        node.kwargs = {**node.kwargs, "dtype": form.dtype}


def _elsewhere(node: Node) -> Any:
    """The operation that leaves its argument alone, for one that writes to what nothing else reads; None elsewhere.

    vmap knows more of these, and only they can be moved and merged.
    """
    name = name_of(node)
    if not name.endswith("_") or name.endswith("__") or is_random(node) or not written_by(node):
        return None
    own = node.args[0]
    if not isinstance(own, Node) or own.op != "call_function" or shares_memory(own) or len(own.users) > 1:
        return None
    forms = [form_of(argument) for argument in (*node.all_input_nodes, node)]
    if name != "scatter_" and len({form.dtype for form in forms if form is not None}) > 1:
        return None
    pair = getattr(torch.ops.aten, name[:-1], None)
    return getattr(pair, node.target._overloadname, None)  # type: ignore[union-attr]
