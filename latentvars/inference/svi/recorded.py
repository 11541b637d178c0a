"""When steps of SVI are recorded, and what is done where they cannot be."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from latentvars.capture import UNRECORDABLE, NoCompiler
from latentvars.inference.guides.guides import FromNoise
from latentvars.inference.running.settings import check_at_least
from latentvars.inference.svi.graph import Graph
from latentvars.inference.svi.step import Found, Shape, Step, by_model
from latentvars.program import Program, model_modules

LONGEST = 150  # steps of a chain beyond which its graph would be too long


@dataclass(frozen=True)
class Capture:
    """When SVI records its step as a graph of tensor operations and runs that instead of the model's Pyro code.

    A recorded step gives what the model's code gives, to the bit, in a fraction of the time for small models; it costs
    about a second to record. A step that cannot be recorded runs as before, and ``print(fit)`` says why.

    Attributes:
        wait: steps with batches of one shape before it is recorded for that shape.
        least: steps that the run has to have before it at that moment, of this shape by the share so far.
        most: shapes of batches for which it is recorded.
    """

    wait: int = 50
    least: int = 500
    most: int = 4

    def __post_init__(self) -> None:
        for name, least in (("wait", 0), ("least", 0), ("most", 1)):
            check_at_least(name, getattr(self, name), least)


@dataclass
class Recorded:
    """The graphs of a run; a copy, or one that is read from a file, begins without any.

    Attributes:
        graphs: by shape of batch.
        seen: steps by shape of batch.
        reason: why steps cannot be recorded; None where they can, as far as is known.
        uncompiled: why recorded steps cannot be compiled; None where they can, or were not to be.
    """

    graphs: dict[Shape, Graph] = field(default_factory=dict)
    seen: Counter[Shape] = field(default_factory=Counter)
    reason: str | None = None
    uncompiled: str | None = None

    def __reduce__(self) -> Any:
        return Recorded, ()

    def run(self, step: Step, program: Program, rule: Capture | None, remaining: int, compile: bool = False) -> Found:
        """Objective and gradients of a step, by its graph where there is one.

        Args:
            step: the step.
            program: the model.
            rule: when to record; None: never.
            remaining: steps that the run may still take.
            compile: whether graphs are to be compiled; then from the first step on, so that all steps round alike.
        """
        if rule is None or self.reason is not None:
            return by_model(step, program)
        rule = replace(rule, wait=0, least=0) if compile else rule
        shape = step.shape
        self.seen[shape] += 1
        graph = self.graphs.get(shape) or self._recorded(shape, step, program, rule, remaining, compile)
        if graph is None:
            return by_model(step, program)
        try:
            found = graph.run(step)
        except RuntimeError:  # a matrix that is not positive definite: the model's own code says where
            return by_model(step, program)
        if not found.sound:
            return by_model(step, program)
        return found if graph.checks == 0 else self._checked(found, by_model(step, program), graph)

    def _recorded(
        self, shape: Shape, step: Step, program: Program, rule: Capture, remaining: int, compile: bool
    ) -> Graph | None:
        """A new graph, where that pays."""
        expected = remaining * self.seen[shape] / self.seen.total()
        if self.seen[shape] <= rule.wait or expected < rule.least or len(self.graphs) >= rule.most:
            return None
        self.reason = unrecordable(program, step)
        if self.reason is not None:
            return None
        try:
            self.graphs[shape] = Graph.of(step, program, compile=compile and self.uncompiled is None)
        except NoCompiler as error:
            self.uncompiled = str(error)
            warnings.warn(f"steps are not compiled: {error}", stacklevel=2)
            return self._recorded(shape, step, program, rule, remaining, False)
        except UNRECORDABLE as error:
            self.reason = (str(error) or type(error).__name__).splitlines()[0]
        return self.graphs.get(shape)

    def _checked(self, found: Found, expected: Found, graph: Graph) -> Found:
        graph.checks -= 1
        if expected.sound and not found.equals(expected, graph.rounding):
            self.reason, self.graphs = "the recorded step does not give what the model's code gives", {}
            return expected
        return found if graph.rounding else expected


def unrecordable(program: Program, step: Step) -> str | None:
    """Why a step cannot be recorded, as far as is known without trying."""
    if not isinstance(step.guide, FromNoise):
        return "the guide of the globals is your own"
    if step.batch.observed is not None:
        return "entries are missing, others in every batch"
    if step.batch.lengths is not None and next(iter(step.batch.columns.values())).shape[1] > LONGEST:
        return f"chains of more than {LONGEST} steps"
    for module in model_modules(program.model).values():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd):
                return f"{type(part).__name__} does something else while it is trained"
    return None
