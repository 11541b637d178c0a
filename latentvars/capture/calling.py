"""Running a graph from C++: the same operations in the same order, without an interpreter between them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule


def from_cpp(graph: GraphModule, *examples: Tensor) -> Callable[..., Any]:
    """The same operations called from C++, where this version of torch can; without gradients.

    Args:
        graph: tensors → a tuple of tensors, as :func:`latentvars.capture.folded` gives it.
        examples: its arguments.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced: Any = torch.jit.trace(graph.eval(), examples, check_trace=False)
            frozen = torch.jit.freeze(traced, optimize_numerics=False)
        called = _AsWritten(frozen)
        called(*examples)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return graph.forward
    return called


class _Executor:
    """Torch's executor of graphs, which would merge matrix products: that rounds otherwise. One switch serves all
    threads of a process, so that it stays off until the last of the graphs that run has ended."""

    def __init__(self) -> None:
        self.lock, self.running, self.before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self.lock:
            if not self.running:
                self.before = torch._C._get_graph_executor_optimize()
                torch._C._set_graph_executor_optimize(False)
            self.running += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.running -= 1
            if not self.running:
                torch._C._set_graph_executor_optimize(self.before)


EXECUTOR = _Executor()


@dataclass(frozen=True)
class _AsWritten:
    """Operations as they stand."""

    code: Callable[..., Any]

    def __call__(self, *arguments: Tensor) -> Any:
        with EXECUTOR:
            return self.code(*arguments)
