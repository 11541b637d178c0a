"""What can be said of a single operation of a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

CHECKS = ("_linalg_check_errors",)


def name_of(node: Node) -> str:
    """The name of an operation without its overload, as ``add``."""
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]


def is_random(node: Node) -> bool:
    """Whether an operation draws from torch's generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def is_pointwise(node: Node) -> bool:
    """Whether each number that an operation gives depends on the numbers at its place alone."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags and not is_random(node) and not written_by(node)


def written_by(node: Node) -> list[Node]:
    """The arguments that an operation writes to."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return []
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    names = [argument.name for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
    return [given[name] for name in names if isinstance(given.get(name), Node)]  # type: ignore[misc]


def shares_memory(node: Node) -> bool:
    """Whether what an operation gives may lie in the memory of its first argument."""
    schema = getattr(node.target, "_schema", None)
    shared = schema is None or any(value.alias_info is not None for value in schema.returns)
    return shared and bool(node.args) and isinstance(node.args[0], Node)


def has_effect(node: Node) -> bool:
    """Whether an operation does more than give a value."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function":
        return False
    return (
        name_of(node) in CHECKS
        or (not hasattr(node.target, "_schema") and name_of(node) == "reseed")
        or bool(written_by(node))
    )


def touched(graph: Graph) -> set[Node]:
    """Everything that is written to, all that it is a view of, and all views of these."""
    found: set[Node] = set()
    written: Any
    for node in graph.nodes:
        for written in written_by(node):
            while shares_memory(written) and written.op == "call_function":
                found.add(written)
                written = written.args[0]
            found.add(written)
    for node in graph.nodes:
        if any(argument in found for argument in node.all_input_nodes) and shares_memory(node):
            found.add(node)
    return found


def form_of(node: Any) -> Tensor | None:
    """A tensor without data of the shape, strides and precision of what an operation gives; None for other things."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, Tensor):
        return None
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def same_form(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors lie in memory in the same way."""
    if one is None or other is None or one.dtype != other.dtype:
        return False
    return one.shape == other.shape and one.stride() == other.stride()
