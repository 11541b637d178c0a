"""The objective of an M-step and its slope, as a recorded graph once they have been asked for often.

L-BFGS asks for the same function of other numbers, pass after pass. Its operations are recorded with everything that
changes between passes as an argument, and run from C++ from then on; where that cannot be, the code goes on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as trees

from latentvars.capture import UNRECORDABLE, from_cpp, shortened
from latentvars.program import GlobalSpace, Program
from latentvars.program.scope import surroundings

OFTEN = 300  # evaluations in whose time a graph is recorded
AGREES = 1e-9  # relative difference of a recorded slope from the plain one

# globals, and a tree of whatever changes between passes → scalar, nats
Objective = Callable[[Mapping[str, Tensor], Any], Tensor]


@dataclass(frozen=True)
class Slope:
    """An objective over some globals in unconstrained space.

    Attributes:
        program: the model.
        space: the globals that move.
        objective: the function.
        rest: the other globals.
        inputs: what changes between passes.
    """

    program: Program
    space: GlobalSpace
    objective: Objective
    rest: Mapping[str, Tensor]
    inputs: Any

    @cached_property
    def given(self) -> tuple[list[Any], Any]:
        """The other globals and the inputs as a list, and how to lay it out again."""
        return trees.tree_flatten((dict(self.rest), self.inputs))

    @cached_property
    def layout(self) -> Any:
        """What a graph needs to be the same: the places of :attr:`given`, and their shapes and precisions."""
        numbers, places = self.given
        return places, [(one.shape, one.dtype) for one in numbers]

    def at(self, free: Tensor, rest: Mapping[str, Tensor], inputs: Any) -> tuple[Tensor, Tensor]:
        """The objective and its gradient at ``free`` ``[size]``."""
        with torch.enable_grad(), surroundings(self.program.dtype):
            vector = free.detach().requires_grad_()
            values, _ = self.space.constrain(vector)
            found = self.objective({**rest, **values}, inputs)
            (gradient,) = torch.autograd.grad(found, vector)
        return found.detach(), gradient

    def plain(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """By the model's own code."""
        return self.at(free, self.rest, self.inputs)


@dataclass
class Repeated:
    """What is known of a function after some evaluations.

    Attributes:
        asked: evaluations so far.
        constants: what a graph took for granted; another function has others.
        layout: shapes of what is passed to the graph.
        code: the graph; None before it is recorded, and where it cannot be.
    """

    asked: int = 0
    constants: tuple[Any, ...] = ()
    layout: Any = None
    code: Callable[..., Any] | None = field(default=None, repr=False)

    def evaluated(self, slope: Slope, constants: tuple[Any, ...], free: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and its gradient.

        Args:
            slope: the function.
            constants: objects that it reads besides its inputs, of which a graph keeps what they hold now.
            free: ``[size]``.
        """
        if list(map(id, constants)) != list(map(id, self.constants)):
            self.asked, self.constants, self.code = 0, constants, None
        self.asked += 1
        if self.asked < OFTEN:
            return slope.plain(free)
        if self.asked == OFTEN:
            self.layout, self.code = slope.layout, _recorded(slope, free)
        if self.code is None or slope.layout != self.layout:
            return slope.plain(free)
        value, gradient = self.code(free, *slope.given[0])
        return value, gradient


def _recorded(slope: Slope, free: Tensor) -> Callable[..., Any] | None:
    """The graph, where one can be recorded that gives what the code gives."""
    numbers, places = slope.given

    def function(free: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        rest, inputs = trees.tree_unflatten(list(given), places)
        return slope.at(free, rest, inputs)

    try:
        code = from_cpp(shortened(function, free, *numbers, dtype=slope.program.dtype), free, *numbers)
        found = code(free, *numbers)
    except UNRECORDABLE:
        return None
    return code if all(_agrees(*pair) for pair in zip(found, slope.plain(free), strict=True)) else None


def _agrees(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= AGREES * wanted.abs().max().clamp(min=1.0))
