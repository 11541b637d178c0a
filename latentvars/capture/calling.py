"""Running a graph from C++: the same operations in the same order, without an interpreter between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from latentvars.capture.in_place import in_place


def from_cpp(graph: GraphModule, *examples: Tensor) -> Callable[..., Any]:
    """The same operations called from C++, where this version of torch can; without gradients.

    What is done number by number takes the place of what is needed no more: the same numbers, from less memory.

    Args:
        graph: tensors → a tuple of tensors, as :func:`latentvars.capture.folded` gives it.
        examples: its arguments; those of calls have their shapes and precisions.
    """
    short = in_place(graph).eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced: Any = torch.jit.trace(short, examples, check_trace=False)
            frozen = torch.jit.freeze(traced, optimize_numerics=False)
        called = _AsWritten(frozen)
        called(*examples)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return short.forward
    return called


@dataclass(frozen=True)
class _AsWritten:
    """Operations as they stand: torch's executor would merge matrix products, which rounds otherwise. Each thread has a
    switch of its own."""

    code: Callable[..., Any]

    def __call__(self, *arguments: Tensor) -> Any:
        before = torch._C._get_graph_executor_optimize()
        torch._C._set_graph_executor_optimize(False)
        try:
            with torch._C._AutoDispatchBelowAutograd():  # nothing is differentiated: past what would listen
                return self.code(*arguments)
        finally:
            torch._C._set_graph_executor_optimize(before)
