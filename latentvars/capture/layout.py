"""How results lie in memory: rows last, where the model has a few features last."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from latentvars.capture.nodes import form_of, is_pointwise, name_of

SHORT = 16  # numbers of a last dimension along which a loop does not pay
LEAST = 4_096  # numbers of a result that is worth it


def along_rows(graph: Graph) -> None:
    """Let pointwise operations on values that are repeated each in another direction run along many rows.

    torch lays a result out as its arguments lie; where all of them are repeated it can only follow the order of the
    dimensions, and loops over a few features at a time. The same numbers, elsewhere in memory.
    """
    for node in list(graph.nodes):
        form = form_of(node)
        if not is_pointwise(node) or form is None or form.dim() < 2 or form.numel() < LEAST:
            continue
        if not form.shape[-1] <= SHORT < form.shape[-2] or any(_dense(given, node) for given in node.all_input_nodes):
            continue
        if any(given_form is None for given_form in map(form_of, node.all_input_nodes)):
            continue
        _turn(graph, node)


def _dense(given: Node, node: Node) -> bool:
    """Whether an argument says how the result is to lie."""
    own, form = form_of(given), form_of(node)
    return own is not None and form is not None and own.numel() == form.numel() and name_of(given) != "expand"


def _turn(graph: Graph, node: Node) -> None:
    """The operation on its arguments with the last two dimensions exchanged, and its result turned back."""
    aten = torch.ops.aten

    def turned(given: Node) -> Node:
        own = form_of(given)
        if own is None or own.dim() == 0:
            return given
        if own.dim() == 1:
            return graph.call_function(aten.unsqueeze.default, (given, -1))
        return graph.call_function(aten.transpose.int, (given, -2, -1))

    with graph.inserting_before(node):
        arguments = map_arg((node.args, node.kwargs), turned)
        made = graph.call_function(node.target, *arguments)  # type: ignore[arg-type]
        back = graph.call_function(aten.transpose.int, (made, -2, -1))
    back.meta = dict(node.meta)
    node.replace_all_uses_with(back)
    graph.erase_node(node)
