"""From Pyro code to a pure tensor graph: captured once, replayed without handlers, mapped over many sets of globals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg

from latentvars.program.scope import surroundings

CHECKS = ("_linalg_check_errors",)
DROPPED = ("detach", *CHECKS)
VIEWS = ("view", "_unsafe_view")
SHAPING = ("reshape", "view", "expand", "permute", "squeeze", "slice", "alias")
NEUTRAL = ("mul", "div", "pow")


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
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if name in VIEWS:  # under vmap memory lies in another order, of which a view need not exist
            node.target = torch.ops.aten.reshape.default
        if node.target is torch.ops.aten.scatter_.value and len(node.args[0].users) == 1:  # type: ignore[union-attr]
            node.target = torch.ops.aten.scatter.value  # vmap knows the one that leaves its argument alone
        if name not in DROPPED or (checked and name in CHECKS):
            continue
        if node.users:
            node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code(_has_effect)
    graph.recompile()
    return graph


def folded(graph: GraphModule) -> GraphModule:
    """The same function of its arguments, with what does not depend on them computed once, and nothing twice.

    Every operation that is left gives what it gave before, to the bit.
    """
    graph.graph.set_codegen(CodeGen())  # tensors in, tensors out: no trees to take apart
    touched = _touched(graph.graph)
    values: dict[Node, Any] = {}
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            values[node] = attrgetter(str(node.target))(graph)
        if node.op != "call_function" or node in touched or is_random(node) or _has_effect(node):
            continue
        key = _key(node)
        same = seen.get(key) or _unchanged(node, touched)
        if same is not None:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)
            continue
        seen[key] = node
        if all(argument in values for argument in node.all_input_nodes):
            arguments = map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*arguments[0], **arguments[1])
    _replace_by_values(graph, values)
    graph.graph.eliminate_dead_code(_has_effect)
    graph.recompile()
    return graph


def compiled(graph: GraphModule, *examples: Tensor) -> Callable[..., Any]:
    """The same operations called from C++, where this version of torch can; without gradients."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced: Any = torch.jit.trace(graph.eval(), examples, check_trace=False)
            return torch.jit.freeze(traced, optimize_numerics=False)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return graph.forward


def is_random(node: Node) -> bool:
    """Whether an operation draws from torch's generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


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


def _touched(graph: Graph) -> set[Node]:
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


def _has_effect(node: Node) -> bool:
    """Whether an operation does more than give a value."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    return name in CHECKS or (not hasattr(node.target, "_schema") and name == "reseed") or bool(written_by(node))


def _unchanged(node: Node, touched: set[Node]) -> Node | None:
    """The argument that an operation gives as it is, in the same layout; None where it does something."""
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    given = node.args[0] if node.args else None
    neutral = name in NEUTRAL and len(node.args) == 2 and node.args[1] == 1 and not node.kwargs
    if not isinstance(given, Node) or given in touched or not (name in SHAPING or neutral):
        return None
    before, after = given.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.dtype != after.dtype:
        return None
    return given if before.shape == after.shape and before.stride() == after.stride() else None


def _key(node: Node) -> Any:
    """Equal for operations that give the same."""
    return (node.target, repr(node.args), repr(sorted(node.kwargs.items())))


def _replace_by_values(graph: GraphModule, values: dict[Node, Any]) -> None:
    """Constants in the places of the operations that made them, where others need them."""
    for k, (node, value) in enumerate(values.items()):
        if node.op == "get_attr" or not isinstance(value, Tensor):
            continue
        if all(user in values for user in node.users):
            continue
        name = f"constant{k}"
        graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(name))
