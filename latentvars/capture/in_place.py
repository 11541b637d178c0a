"""Results in the memory of what is needed no more: the same operations, with less memory to go through."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from latentvars.capture.nodes import form_of, is_pointwise, name_of, same_form, written_by

SPACES = ("aten", "latentvars")  # whose operators share memory with nothing but what their schemas say
# but for these
SHARING = ("_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "native_dropout", "lift", "dequantize", "set")
# in other precisions an operation in place can round in another way
EXACT = (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
EITHER_WAY = ("add", "mul")  # of whose two arguments either may be the first


def in_place(graph: GraphModule) -> GraphModule:
    """The same function, to the bit, with what is done number by number in the memory of an argument where it can be.

    It can where that was made in the graph, lies there as the result does, and neither it nor a view of it is looked at
    again. Arguments of the graph and constants are not written to.

    Args:
        graph: as :func:`latentvars.capture.folded` gives it; not changed.
    """
    found = GraphModule(graph, copy.deepcopy(graph.graph))
    nodes = list(found.graph.nodes)
    memory = _Memory(nodes)
    for position, node in enumerate(nodes):
        target = _writing(node)
        for at, given in enumerate(node.args[:2] if target is not None else ()):
            free = isinstance(given, Node) and memory.is_free(given, position)
            if not free or not same_form(form_of(given), form_of(node)) or memory.is_met_elsewhere(node, at):
                continue
            if at == 1:
                if name_of(node) not in EITHER_WAY or node.kwargs:
                    continue
                node.args = (node.args[1], node.args[0], *node.args[2:])
            node.target = target  # type: ignore[assignment]
            memory.join(node, given)  # type: ignore[arg-type]
            break
    found.recompile()
    return found


def _writing(node: Node) -> object:
    """The operator that does the same in the memory of its first argument; None where there is none."""
    form = form_of(node)
    if node.op != "call_function" or not is_pointwise(node) or form is None or form.dtype not in EXACT:
        return None
    name, _, overload = getattr(node.target, "__name__", "").partition(".")
    packet = getattr(torch.ops.aten, f"{name}_", None) if getattr(node.target, "namespace", "") == "aten" else None
    found = getattr(packet, overload, None)
    own = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return found if found is not None and [argument.name for argument in found._schema.arguments] == own else None


class _Memory:
    """Which values of a graph may lie in the same memory, and when each memory is last looked at.

    Attributes:
        of: values that count as one memory lead to one of them, their root.
        own: values in memory that the operation which gives them takes for them.
        last: by root, the last position in the graph at which that memory is looked at.
        foreign: roots of memory that is not the graph's own to write to, or is written to already.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.of = {node: node for node in nodes}
        self.own = {node for node in nodes if _is_new(node)}
        self.last: dict[Node, int] = {}
        self.foreign: set[Node] = set()
        parts: dict[object, Node] = {}
        for node in nodes:
            for other in _sharing(node, self.own, parts):
                self.join(node, other)
        for position, node in enumerate(nodes):
            for given in node.all_input_nodes:
                self.last[self.root(given)] = position
            if node.op != "call_function" or written_by(node):
                self.foreign |= {self.root(one) for one in (node, *written_by(node))}

    def root(self, node: Node) -> Node:
        while self.of[node] is not node:
            node = self.of[node]
        return node

    def join(self, node: Node, other: Node) -> None:
        """From now on these count as one memory."""
        one, two = self.root(node), self.root(other)
        if one is two:
            return
        self.of[one] = two
        self.last[two] = max(self.last.get(one, -1), self.last.get(two, -1))
        if one in self.foreign:
            self.foreign.add(two)

    def is_free(self, node: Node, position: int) -> bool:
        """Whether a value was made in the graph, and nothing looks at its memory after this position."""
        root = self.root(node)
        return node in self.own and root not in self.foreign and self.last.get(root, -1) <= position

    def is_met_elsewhere(self, node: Node, at: int) -> bool:
        """Whether an operation sees the memory of one argument through another one, too."""
        root = self.root(node.args[at])  # type: ignore[arg-type]
        others = [given for k, given in enumerate(node.args) if k != at and isinstance(given, Node)]
        return any(self.root(other) is root for other in [*others, *_nodes(node.kwargs.values())])


def _nodes(values: object) -> Iterator[Node]:
    return (value for value in values if isinstance(value, Node))  # type: ignore[attr-defined]


def _is_new(node: Node) -> bool:
    """Whether an operation puts what it gives, or each of its parts, into memory of its own."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or schema.is_mutable:
        return name_of(node) == "getitem" and isinstance(node.args[0], Node) and _is_taken_apart(node.args[0])
    target: object = node.target
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)  # type: ignore[attr-defined]
    known = getattr(target, "namespace", "") in SPACES and name_of(node) not in SHARING and not composite
    return known and all(value.alias_info is None for value in schema.returns)


def _is_taken_apart(node: Node) -> bool:
    """Whether a tuple of values in memory of their own is met by its parts alone, each under one number."""
    parts = [isinstance(user.args[1], int) and user.args[1] >= 0 for user in node.users if name_of(user) == "getitem"]
    return len(parts) == len(node.users) and all(parts) and _is_new(node)


def _sharing(node: Node, own: set[Node], parts: dict[object, Node]) -> list[Node]:
    """The values whose memory a value may lie in."""
    if node not in own:
        return node.all_input_nodes
    if name_of(node) != "getitem":
        return []
    return [parts.setdefault((node.args[0], node.args[1]), node)]
