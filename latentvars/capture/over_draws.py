"""A function of the globals and one batch at many draws of the globals: recorded, where that pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from latentvars.capture.batches import flat, like
from latentvars.capture.calling import from_cpp
from latentvars.capture.folding import shortened
from latentvars.capture.recording import UNRECORDABLE
from latentvars.program import Program
from latentvars.randomness import seeded
from latentvars.rows import Batch

OFTEN = 300  # draws in whose time a graph is recorded
AGREES = 1e-9  # relative difference from the model's own code

OfGlobals = Callable[[Mapping[str, Tensor], Batch], tuple[Tensor, ...]]


def over_draws(
    program: Program,
    batch: Batch,
    function: OfGlobals,
    draws: Mapping[str, Tensor],
    *,
    recorded: bool = True,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """What a function gives at each draw, ``[S, ...]`` each.

    With many draws its operations are recorded once and run from C++; compared with the model's own code at the first
    and the last draw. Missing entries and control flow on values are run as they stand.

    Args:
        program: the model.
        batch: rows.
        function: of constrained globals and the batch, without derivatives.
        draws: ``[S, *shape]``.
        recorded: False: always by the model's own code, as where a guide draws by seeds of its own.
        seeds: of what the function draws at each of the draws from torch's own generator; None: it draws nothing.
    """
    size = next(iter(draws.values())).shape[0]

    def at(number: int, code: OfGlobals) -> tuple[Tensor, ...]:
        values = {name: value[number] for name, value in draws.items()}
        with torch.no_grad(), nullcontext() if seeds is None else seeded(seeds[number]):
            return code(values, batch)

    code = function
    if recorded and size >= OFTEN and batch.observed is None:
        with nullcontext() if seeds is None else seeded(seeds[0]):
            graph = _recorded(program, batch, function, draws)
        if graph is not None and all(_same(at(number, graph), at(number, function)) for number in (0, size - 1)):
            code = graph
    return tuple(torch.stack(parts) for parts in zip(*(at(number, code) for number in range(size)), strict=True))


def _recorded(program: Program, batch: Batch, function: OfGlobals, draws: Mapping[str, Tensor]) -> OfGlobals | None:
    """The function as a graph; None where it cannot be recorded."""
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

    def code(values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, ...]:
        return tuple(graph(*(values[name] for name in names), *data))

    return code


def _same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(_agree(*pair) for pair in zip(found, expected, strict=True))


def _agree(found: Tensor, expected: Tensor) -> bool:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return False
    gap = (found - expected)[finite].abs()
    return not gap.numel() or bool(gap.max() <= AGREES * expected[finite].abs().max().clamp(min=1.0))
