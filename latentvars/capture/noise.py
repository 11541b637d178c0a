"""What a graph draws: taken out of it as arguments, or drawn inside it from seeds that are arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from latentvars.capture.nodes import is_random, name_of
from latentvars.capture.recording import Unrecordable
from latentvars.randomness import derive

FRESH = ("empty", "new_empty", "empty_like", "empty_strided")
MADE = ("randn", "rand")  # by shape alone
FILLING = ("normal_", "uniform_", "exponential_")  # what was made before, with numbers as arguments


@dataclass(frozen=True)
class Noise:
    """A draw that depends on nothing but its shape.

    Attributes:
        form: a tensor without data of its shape, strides and precision.
        kind: how numbers are drawn, as ``normal_``.
        arguments: numbers, as mean and standard deviation.
    """

    form: Tensor
    kind: str
    arguments: tuple[Any, ...]

    def drawn(self, generator: torch.Generator) -> Tensor:
        """The numbers that torch's own generator in the same state would give."""
        form = self.form
        value = torch.empty_strided(form.shape, form.stride(), dtype=form.dtype)
        return getattr(value, self.kind)(*self.arguments, generator=generator)


def hoisted(graph: GraphModule, draws: int) -> list[list[Noise]] | None:
    """Make what is drawn further arguments, in the order in which it is drawn.

    Args:
        graph: of any number of arguments; changed in place unless the answer is None.
        draws: seeds that are used one after the other, for equal parts of what is drawn.

    Returns:
        The noise of each draw; None where some of it depends on values.

    Raises:
        Unrecordable: draws that do not all make the same numbers.
    """
    drawing = _drawing(graph.graph, draws)
    found = [_noise(node) for node in drawing]
    if any(noise is None for noise in found):
        return None
    for k, node in enumerate(drawing):
        last = [other for other in graph.graph.nodes if other.op == "placeholder"][-1]
        with graph.graph.inserting_after(last):
            given = graph.graph.placeholder(f"noise{k}")
        given.meta = dict(node.meta)
        own = node.args[0]
        node.replace_all_uses_with(given)
        graph.graph.erase_node(node)
        if isinstance(own, Node):
            own.replace_all_uses_with(given)
    each = len(drawing) // draws
    return [[noise for noise in found[k * each : (k + 1) * each] if noise] for k in range(draws)]


def reseeded(graph: GraphModule, draws: int) -> None:
    """Before the first random operation of each draw the generator is given its seed, a further argument.

    Raises:
        Unrecordable: draws that do not all make the same numbers.
    """
    drawing = _drawing(graph.graph, draws)
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    each = len(drawing) // draws
    for k in reversed(range(draws)):
        with graph.graph.inserting_after(last):
            seed = graph.graph.placeholder(f"seed{k}")
        with graph.graph.inserting_before(drawing[k * each]):
            graph.graph.call_function(reseed, (seed,))


def reseed(seed: int) -> None:
    """Give torch's generator, which is lent for the run of a graph, the seed of a draw."""
    torch.default_generator.manual_seed(derive(seed))


def noise_of(parts: Sequence[Sequence[Noise]], seeds: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """The noise of all draws, each from its own seed."""
    found: list[Tensor] = []
    for part, seed in zip(parts, seeds, strict=True):
        if part:
            generator.manual_seed(derive(seed))
            found += [noise.drawn(generator) for noise in part]
    return found


def _drawing(graph: Graph, draws: int) -> list[Node]:
    drawing = [node for node in graph.nodes if is_random(node)]
    if len(drawing) % draws:
        raise Unrecordable("draws do not all make the same random numbers")
    return drawing


def _noise(node: Node) -> Noise | None:
    """A draw by its shape and numbers; None where it depends on more."""
    name, form = name_of(node), node.meta.get("val")
    if not isinstance(form, Tensor) or form.device.type != "cpu" or node.kwargs.get("generator") is not None:
        return None
    form = torch.empty_strided(form.shape, form.stride(), dtype=form.dtype, device="meta")
    if name in MADE and not node.all_input_nodes:
        return Noise(form, "normal_" if name == "randn" else "uniform_", ())
    own = node.args[0] if node.args else None
    if name not in FILLING or not isinstance(own, Node) or name_of(own) not in FRESH:
        return None
    numbers = node.args[1:]
    if node.kwargs or not all(isinstance(number, int | float) for number in numbers):
        return None
    return Noise(form, name, tuple(numbers))
