"""A step of SVI as a graph: recorded once for each shape of batch, and run without handlers afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentvars.capture import capture, compiled, folded, is_random, shares_memory, written_by
from latentvars.inference.guides import FromNoise, GlobalGuide
from latentvars.inference.settings import check_at_least
from latentvars.program import Bound, Program, model_modules
from latentvars.randomness import derive, seeded
from latentvars.rows import Batch

LONGEST = 150  # steps of a chain beyond which its graph would be too long
CHECKED = 4  # first runs of a graph that are compared with the handlers: values that were frozen in would show

Shape = tuple[Any, ...]


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


class Found(NamedTuple):
    """Objective of a step, nats, and its gradient in each parameter, None where it has no part."""

    objective: Tensor
    gradients: tuple[Tensor | None, ...]

    @property
    def sound(self) -> bool:
        return bool(self.objective.isfinite())

    def equals(self, other: Found) -> bool:
        """Whether all is the same to the bit."""
        pairs = zip((self.objective, *self.gradients), (other.objective, *other.gradients), strict=True)
        return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@dataclass(frozen=True)
class Step:
    """One step: what is drawn, and on what.

    Attributes:
        batch: the rows.
        parameters: what is trained.
        guide: of the globals.
        seeds: of the globals' noise and of the locals' noise, for each draw.
        bound: how rows are bounded.
        warming: whether the bound's ``kl_weight`` changes in the course of the run.
        share: of all rows, with which the prior counts.
    """

    batch: Batch
    parameters: Mapping[str, nn.Parameter]
    guide: GlobalGuide
    seeds: Sequence[tuple[int, int]]
    bound: Bound
    warming: bool
    share: float

    @property
    def shape(self) -> Shape:
        """What a graph holds for."""
        return tuple((tuple(value.shape), value.dtype) for value in _flat(self.batch))


class Unrecordable(Exception):
    """Why a step cannot be recorded."""


@dataclass
class Recorded:
    """The graphs of a run; a copy, or one that is read from a file, begins without any.

    Attributes:
        graphs: by shape of batch.
        seen: steps by shape of batch.
        reason: why steps cannot be recorded; None where they can, as far as is known.
    """

    graphs: dict[Shape, Graph] = field(default_factory=dict)
    seen: Counter[Shape] = field(default_factory=Counter)
    reason: str | None = None

    def __reduce__(self) -> Any:
        return Recorded, ()

    def run(
        self, step: Step, program: Program, plain: Callable[[], Found], rule: Capture | None, remaining: int
    ) -> Found:
        """Objective and gradients of a step, by its graph where there is one.

        Args:
            step: the step.
            program: the model.
            plain: the step by the model's own code.
            rule: when to record; None: never.
            remaining: steps that the run may still take.
        """
        if rule is None or self.reason is not None:
            return plain()
        shape = step.shape
        self.seen[shape] += 1
        graph = self.graphs.get(shape) or self._recorded(shape, step, program, rule, remaining)
        if graph is None:
            return plain()
        try:
            found = graph.run(step)
        except RuntimeError:  # a matrix that is not positive definite: the model's own code says where
            return plain()
        if not found.sound:
            return plain()
        return found if graph.checks == 0 else self._checked(found, plain(), graph)

    def _recorded(self, shape: Shape, step: Step, program: Program, rule: Capture, remaining: int) -> Graph | None:
        """A new graph, where that pays."""
        expected = remaining * self.seen[shape] / self.seen.total()
        if self.seen[shape] <= rule.wait or expected < rule.least or len(self.graphs) >= rule.most:
            return None
        self.reason = unrecordable(program, step)
        if self.reason is not None:
            return None
        try:
            self.graphs[shape] = Graph.of(step, program)
        except (Unrecordable, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            self.reason = (str(error) or type(error).__name__).splitlines()[0]
        return self.graphs.get(shape)

    def _checked(self, found: Found, expected: Found, graph: Graph) -> Found:
        if expected.sound and not found.equals(expected):
            self.reason, self.graphs = "the recorded step does not give what the model's code gives", {}
        graph.checks -= 1
        return expected


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


@dataclass
class Graph:
    """A recorded step.

    Attributes:
        code: parameters, data, noise and seeds → objective and the gradients that there are.
        has: for each parameter, whether it has a gradient.
        random: whether the graph draws (the locals, by the model's guide).
        checks: runs that are still to be compared.
    """

    code: Callable[..., tuple[Tensor, ...]]
    has: tuple[bool, ...]
    random: bool
    checks: int = CHECKED

    @staticmethod
    def of(step: Step, program: Program) -> Graph:
        """Record a step.

        Raises:
            Unrecordable: it changes tensors that outlive it, as batch normalisation does.
            RuntimeError: control flow that depends on values.
        """
        holder = _Holder(step.guide, model_modules(program.model))
        names = holder.names_of(step.parameters.values())
        has: list[bool] = []

        def traced(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = iter(tensors)
            leaves = {name: next(given).detach().requires_grad_() for name in names}
            batch = _like(step.batch, given)
            weight: Any = next(given)
            bound = replace(step.bound, kl_weight=weight) if step.warming else step.bound
            noise = [[next(given) for _ in own] for own in _noise(step)]
            objective = torch.func.functional_call(
                holder, leaves, (lambda: _objective(replace(step, batch=batch, bound=bound), program, noise),)
            )
            gradients = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
            has[:] = [gradient is not None for gradient in gradients]
            return (objective.detach(), *(gradient for gradient in gradients if gradient is not None))

        with _unchanged(holder):
            graph = capture(traced, *_inputs(step), dtype=program.dtype, checked=True)
        _check_pure(graph.graph)
        random = _reseeding(graph.graph, len(step.seeds))
        short = folded(graph)
        code = short.forward if random else compiled(short, *_inputs(step))
        return Graph(code, tuple(has), random)

    def run(self, step: Step) -> Found:
        """The graph on a step of the shape that it was recorded for."""
        inputs = _inputs(step)
        with torch.no_grad():
            if self.random:
                with seeded(0):
                    objective, *found = self.code(*inputs, *(seed for _, seed in step.seeds))
            else:
                objective, *found = self.code(*inputs)
        given = iter(found)
        return Found(objective, tuple(next(given) if has else None for has in self.has))


def _objective(step: Step, program: Program, noise: Sequence[Sequence[Tensor]]) -> Tensor:
    """As SVI's own, with the noise of the globals given."""
    parts = []
    for own, (_, seed) in zip(noise, step.seeds, strict=True):
        drawn = step.guide(*own)
        score = program.score(drawn.values, step.batch, seed, step.bound)
        parts.append((step.batch.weights * score.rows).sum() + step.share * (score.prior - drawn.log_q))
    return torch.stack(parts).mean()


def _flat(batch: Batch) -> list[Tensor]:
    """The tensors of a batch in a fixed order."""
    lengths = [] if batch.lengths is None else [batch.lengths]
    return [*batch.columns.values(), batch.index, batch.weights, *lengths, *batch.known.values()]


def _like(batch: Batch, given: Iterator[Tensor]) -> Batch:
    """A batch with these tensors in the places of its own."""
    columns = {name: next(given) for name in batch.columns}
    index, weights = next(given), next(given)
    lengths = None if batch.lengths is None else next(given)
    return Batch(columns, index, batch.total, weights, lengths, None, {name: next(given) for name in batch.known})


def _noise(step: Step) -> list[list[Tensor]]:
    """The noise of the globals for each draw, as the guide draws it."""
    guide: Any = step.guide
    found = []
    for seed, _ in step.seeds:
        with seeded(seed):
            found.append(guide.drawn_noise())
    return found


def _inputs(step: Step) -> list[Tensor]:
    """Everything that differs between steps of one shape, but for the seeds."""
    weight = torch.tensor(step.bound.kl_weight, dtype=step.batch.weights.dtype)
    parameters = [parameter.detach() for parameter in step.parameters.values()]
    return [*parameters, *_flat(step.batch), weight, *(part for own in _noise(step) for part in own)]


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


def _check_pure(graph: torch.fx.Graph) -> None:
    """Nothing that outlives a step is written to."""
    for node in graph.nodes:
        written: Any
        for written in written_by(node):
            while written.op == "call_function" and shares_memory(written):
                written = written.args[0]
            if written.op != "call_function":
                raise Unrecordable("a step changes a tensor that outlives it")


def _reseeding(graph: torch.fx.Graph, draws: int) -> bool:
    """Before the first random operation of each draw the generator is given its seed, a further argument.

    Returns:
        Whether anything is drawn.
    """
    drawing = [node for node in graph.nodes if is_random(node)]
    if not drawing:
        return False
    if len(drawing) % draws:
        raise Unrecordable("draws do not all make the same random numbers")
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    each = len(drawing) // draws
    for k in reversed(range(draws)):
        with graph.inserting_after(last):
            seed = graph.placeholder(f"seed{k}")
        with graph.inserting_before(drawing[k * each]):
            graph.call_function(reseed, (seed,))
    return True


def reseed(seed: int) -> None:
    """Give torch's generator, which is lent for the step, the seed of a draw."""
    torch.default_generator.manual_seed(derive(seed))
