"""From Pyro code to a pure tensor graph: captured once, replayed without handlers, mapped over many sets of globals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule

from latentvars.program.scope import surroundings

DROPPED = ("detach", "_linalg_check_errors")
VIEWS = ("view", "_unsafe_view")


def capture(function: Callable[..., Any], *examples: Any, dtype: torch.dtype) -> GraphModule:
    """Record the tensor operations of a function.

    Args:
        function: tensors (in dictionaries or tuples) → tensors; gradients taken inside become part of the graph.
        examples: arguments of the right shapes; the graph holds for these shapes, whatever the values.
        dtype: default precision while recording.

    Returns:
        A module that repeats the operations. Checks inside linear algebra are left out: where a matrix is not positive
        definite the result is not finite, and the other elements of a batch are unharmed.

    Raises:
        RuntimeError: control flow that depends on values.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes seconds to import, and few need it

    with surroundings(dtype):
        graph = make_fx(function)(*examples)
    for node in list(graph.graph.nodes):
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if name in VIEWS:  # under vmap memory lies in another order, of which a view need not exist
            node.target = torch.ops.aten.reshape.default
        if node.target is torch.ops.aten.scatter_.value and len(node.args[0].users) == 1:  # type: ignore[union-attr]
            node.target = torch.ops.aten.scatter.value  # vmap knows the one that leaves its argument alone
        if name not in DROPPED:
            continue
        if node.users:
            node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
