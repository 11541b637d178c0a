"""How many rows fit into a budget of memory: measured on a few of them, then kept to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentvars.errors import SettingError
from latentvars.inference.running.algorithm import Algorithm, Problem
from latentvars.rows import Batch

STREAMED = 2**28  # bytes for a pass over rows in files, where nothing else is said
PROBES = (64, 192)
MOST_ROWS = 2**16  # in a batch: more than that is not faster
ROOM = 0.5  # share of the budget that measured tensors may take; workspaces of kernels and fragments are the rest


class Peak(TorchDispatchMode):
    """Bytes of all tensors that are made inside and alive at the same time, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and value.layout == torch.strided:
                storage = value.untyped_storage()
                self.alive[StorageWeakRef(storage)] = storage.nbytes()
        self.alive = {one: size for one, size in self.alive.items() if not one.expired()}
        self.bytes = max(self.bytes, sum(self.alive.values()))
        return found


def peak_bytes(work: Callable[[], Any]) -> int:
    """Bytes of tensors that ``work`` has at a time, at most."""
    with Peak() as peak:
        work()
    return peak.bytes


def within_memory(algorithm: Any, problem: Problem) -> Any:
    """The algorithm with batches of so many rows that a pass stays within its ``memory``.

    Where an update has more rows than fit, it is made of several batches; the result is the same.

    Raises:
        SettingError: not even one row fits.
    """
    budget = getattr(algorithm, "memory", None)
    if budget is None and problem.rows.streamed and hasattr(algorithm, "memory"):
        budget = STREAMED
    everything = range(problem.size)
    wanted = algorithm.rows_per_batch(everything) or len(everything)
    if budget is None or (wanted <= PROBES[0] and not problem.rows.streamed):
        return algorithm
    few = min(PROBES[0], len(problem.rows))
    small, large = (_measured(algorithm, problem, size) for size in (few, max(2 * few, PROBES[1])))
    row = max(1.0, (large - small) / (max(2 * few, PROBES[1]) - few))
    fixed = max(0.0, small - few * row)
    most = int((ROOM * budget - fixed) / row)
    if most < 1:
        raise SettingError(
            given=f"memory={budget}, of which a pass needs {fixed + row:.3g} bytes for the first row",
            needed=f"at least {(fixed + row) / ROOM:.3g} bytes",
            remedy="raise memory=, or use shorter sequences",
        )
    most = min(most, MOST_ROWS)
    if wanted > most:
        return algorithm.in_batches(most, wanted)
    return replace(algorithm, batch_size=wanted) if problem.rows.streamed else algorithm


def _measured(algorithm: Algorithm, problem: Problem, size: int) -> int:
    """Bytes of the contribution of a batch of the longest rows."""
    rows = problem.all.telling
    longest = torch.arange(len(rows)) if rows.lengths is None else rows.lengths.argsort(descending=True)
    at = longest[torch.arange(size) % min(len(rows), size)]
    probing: Any = replace(algorithm, batch_size=size)  # type: ignore[type-var]
    state = probing.init(replace(problem, rows=rows, whole=None))

    def work() -> None:
        batch: Batch = rows.batch(at, dtype=problem.program.dtype)
        probing.contribution(state, replace(batch, total=problem.size), 0)

    return peak_bytes(work)
