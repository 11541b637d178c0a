"""A step of SVI as a graph of tensor operations, with everything that differs between steps as an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from latentvars.capture import (
    NoCompiler,
    Noise,
    capture,
    check_pure,
    compiled,
    flat,
    folded,
    from_cpp,
    hoisted,
    like,
    noise_of,
    reseeded,
)
from latentvars.inference.guides.guides import FromNoise
from latentvars.inference.svi.step import Found, Step, gradients_of, objective_of
from latentvars.program import Program, model_modules
from latentvars.randomness import derive, seeded

CHECKED = 4  # first runs of a graph that are compared with the handlers: values that were frozen in would show
ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass
class Graph:
    """A recorded step.

    Attributes:
        code: parameters, data, noise → objective with the sum of all gradients, and the gradients that there are.
        has: for each parameter, whether it has a gradient.
        noise: of the locals, for each draw; None where the graph draws for itself, from seeds that are its last
            arguments.
        checks: runs that are still to be compared.
        rounding: largest difference from the model's code, relative to the largest entry; 0: none, to the bit.
    """

    code: Callable[..., Any]
    has: tuple[bool, ...]
    noise: list[list[Noise]] | None
    checks: int = CHECKED
    rounding: float = 0.0
    generator: torch.Generator = field(default_factory=torch.Generator, repr=False)

    @staticmethod
    def of(step: Step, program: Program, compile: bool = False) -> Graph:
        """Record a step, and compile it where that is asked for.

        Raises:
            NoCompiler: there is none.
            Unrecordable: it changes tensors that outlive it, as batch normalisation does.
            RuntimeError: control flow that depends on values.
        """
        graph, has, noise = recorded(step, program)
        short = folded(graph)
        made = Graph(short.forward, has, noise)
        if compile:
            if noise is None:
                raise NoCompiler("the model draws by what other draws gave")
            made.code, made.rounding = compiled(short, *made.arguments(step)), ROUNDING[program.dtype]
        elif noise is not None:
            made.code = from_cpp(short, *made.arguments(step))
        return made

    def arguments(self, step: Step) -> list[Tensor]:
        """Everything that differs between steps of one shape, but for seeds."""
        found = [*step.parameters.values(), *flat(step.batch)]
        if step.warming:
            found.append(_weight(step))
        guide: Any = step.guide
        for of_globals, _ in step.seeds if guide.noise else ():
            self.generator.manual_seed(derive(of_globals))
            found += guide.drawn_noise(self.generator)
        if self.noise is None:
            return found
        return [*found, *noise_of(self.noise, [of_locals for _, of_locals in step.seeds], self.generator)]

    def run(self, step: Step) -> Found:
        """The graph on a step of the shape that it was recorded for."""
        given: list[Any] = self.arguments(step)
        with torch.no_grad():
            if self.noise is None:
                with seeded(0):
                    summary, *found = self.code(*given, *(seed for _, seed in step.seeds))
            else:
                summary, *found = self.code(*given)
        objective, total = summary.tolist()
        gradients = iter(found)
        return Found(objective, tuple(next(gradients) if has else None for has in self.has), math.isfinite(total))


def recorded(step: Step, program: Program) -> tuple[GraphModule, tuple[bool, ...], list[list[Noise]] | None]:
    """The operations of a step, which parameters have a gradient, and the noise of the locals."""
    guide: Any = step.guide
    assert isinstance(guide, FromNoise)
    holder = _Holder(guide, model_modules(program.model))
    names = holder.names_of(step.parameters.values())
    has: list[bool] = []

    def traced(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = {name: next(given).detach().requires_grad_() for name in names}
        batch = like(step.batch, given)
        weight: Any = next(given) if step.warming else step.bound.kl_weight
        own = replace(step, batch=batch, bound=replace(step.bound, kl_weight=weight))
        noise = [[next(given) for _ in guide.noise] for _ in step.seeds]

        def objective() -> Tensor:
            return objective_of(own, program, [guide(*parts) for parts in noise])

        found = torch.func.functional_call(holder, leaves, (objective,))
        gradients = gradients_of(own, found, list(leaves.values()))
        has[:] = [gradient is not None for gradient in gradients]
        given_back = [gradient for gradient in gradients if gradient is not None]
        total = torch.stack([gradient.sum().to(found.dtype) for gradient in given_back]).sum()
        return torch.stack([found.detach(), total]), *given_back

    examples = [one.detach() for one in Graph(traced, (), [[] for _ in step.seeds]).arguments(step)]
    with _unchanged(holder):
        graph = capture(traced, *examples, dtype=program.dtype, checked=True)
    check_pure(graph.graph)
    noise = hoisted(graph, len(step.seeds))
    if noise is None:
        reseeded(graph, len(step.seeds))
    return graph, tuple(has), noise


def _weight(step: Step) -> Tensor:
    return torch.tensor(step.bound.kl_weight, dtype=step.batch.weights.dtype)


class _Holder(nn.Module):
    """Guide and networks under one roof, so that all their weights can be exchanged at once."""

    def __init__(self, guide: nn.Module, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([guide, *networks.values()])

    def forward(self, function: Callable[[], Tensor]) -> Tensor:
        return function()

    def names_of(self, parameters: Any) -> list[str]:
        """The names of parameters in here."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return [names[id(parameter)] for parameter in parameters]


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Buffers are put back afterwards."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
