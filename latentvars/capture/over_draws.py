"""A function of the globals and one batch at many draws of the globals: recorded, where that pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from latentvars.capture.batches import flat, like
from latentvars.capture.calling import from_cpp
from latentvars.capture.folding import shortened
from latentvars.capture.recording import UNRECORDABLE
from latentvars.program import Program
from latentvars.rows import Batch

OFTEN = 300  # draws in whose time a graph is recorded
AGREES = 1e-9  # relative difference from the model's own code

OfGlobals = Callable[[Mapping[str, Tensor], Batch], tuple[Tensor, ...]]


def over_draws(
    program: Program, batch: Batch, function: OfGlobals, draws: Mapping[str, Tensor], *, recorded: bool = True
) -> tuple[Tensor, ...]:
    """What a function gives at each draw, ``[S, ...]`` each.

    With many draws its operations are recorded once and run from C++; compared with the model's own code at the first
    and the last draw. Missing entries, control flow on values and guides are run as they stand.

    Args:
        program: the model.
        batch: rows.
        function: of constrained globals and the batch, without derivatives.
        draws: ``[S, *shape]``.
        recorded: False: always by the model's own code.
    """
    size = next(iter(draws.values())).shape[0]
    code = None
    if recorded and size >= OFTEN and batch.observed is None and not program.roles.continuous:
        code = _recorded(program, batch, function, draws)
    found = []
    for number in range(size):
        values = {name: value[number] for name, value in draws.items()}
        with torch.no_grad():
            found.append(function(values, batch) if code is None else code(values))
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True))


def _recorded(program: Program, batch: Batch, function: OfGlobals, draws: Mapping[str, Tensor]) -> Any:
    """The function as a graph; None where it cannot be recorded, or gives something else."""
    names, data = tuple(draws), tuple(flat(batch))

    def operations(*given: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(names, given, strict=False))
        with torch.no_grad():
            return function(values, like(batch, iter(given[len(names) :])))

    first = [draws[name][0] for name in names]
    try:
        graph = from_cpp(shortened(operations, *first, *data, dtype=program.dtype), *first, *data)
    except UNRECORDABLE:
        return None

    def code(values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(graph(*(values[name] for name in names), *data))

    for number in (0, -1):
        values = {name: value[number] for name, value in draws.items()}
        with torch.no_grad():
            expected = function(values, batch)
        if not all(_agree(*pair) for pair in zip(code(values), expected, strict=True)):
            return None
    return code


def _agree(found: Tensor, expected: Tensor) -> bool:
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return False
    gap = (found - expected)[finite].abs()
    return not gap.numel() or bool(gap.max() <= AGREES * expected[finite].abs().max().clamp(min=1.0))
