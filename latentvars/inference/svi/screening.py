"""Many starts of SVI at once: the objective and its gradient are captured as one graph and mapped over the starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from latentvars.capture import capture, folded, from_cpp
from latentvars.inference.guides.guides import FromNoise, GlobalGuide
from latentvars.inference.running.algorithm import OneByOne, Problem, Screened
from latentvars.inference.running.stopping import StopRule
from latentvars.program import Program, model_parameters
from latentvars.randomness import derive
from latentvars.rows import Batch

LARGEST = 20_000_000  # numbers that the starts may take together in one intermediate result
LONGEST = 150  # steps of a chain beyond which its captured graph would be too long
FEWEST = 3  # starts below which recording costs more than it saves
# what these do to a parameter they do to each of its entries alone: stacked parameters are steps of each start
ENTRYWISE = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)

SHORT = 16  # features of a column that is laid out feature by feature

Parameters = dict[str, Tensor]
Mapped = Callable[[Parameters, list[list[Tensor]]], tuple[Tensor, Parameters]]


@dataclass(frozen=True)
class ShortRuns:
    """How the short runs go.

    Attributes:
        passes: most steps; each sees all rows.
        draws: of the globals in each step.
        clip: largest norm of the gradient per row of a start; None: no limit.
        ended: the rule by which a start has come to its end.
        reached: history → the objective per row at the end of a run, and its noise, nats.
    """

    passes: int
    draws: int
    clip: float | None
    ended: StopRule
    reached: Callable[[Sequence[float]], tuple[float, float]]


def cannot_screen(problem: Problem, guide: GlobalGuide, starts: int) -> OneByOne | None:
    """Why the starts cannot be run together; None where they can, as far as is known without trying."""
    rows, program = problem.rows, problem.program
    width = sum(value.shape[1:].numel() for value in rows.columns.values())
    if starts < FEWEST:
        return OneByOne(f"fewer than {FEWEST} are not worth recording a step")
    if model_parameters(program.model) or program.roles.continuous:
        return OneByOne("the model has networks or continuous locals, of which each start needs its own")
    if not isinstance(guide, FromNoise):
        return OneByOne("a guide of your own cannot be mapped over starts")
    if rows.lengths is not None and int(rows.lengths.max()) > LONGEST:
        return OneByOne(f"chains of more than {LONGEST} steps")
    if starts * rows.steps * max(width**2, program.space.size) > LARGEST:
        return OneByOne("the data are too large to be held once for each")
    return None


def screen(
    problem: Problem,
    guides: Sequence[GlobalGuide],
    seeds: Sequence[int],
    optimizer: Callable[..., torch.optim.Optimizer],
    schedule: Callable[..., Any] | None,
    short: ShortRuns,
) -> list[Screened] | OneByOne:
    """Short runs of all starts together; on all rows at once they are, to rounding, what each would do by itself.

    Args:
        problem: model and data.
        guides: of each start.
        seeds: of the noise of each start.
        optimizer, schedule: torch factories, as those of SVI.
        short: how the runs go.
    """
    alone = cannot_screen(problem, guides[0], len(guides))
    if alone is not None:
        return alone
    stacked = {
        name: nn.Parameter(torch.stack([dict(guide.named_parameters())[name].detach() for guide in guides]))
        for name, value in guides[0].named_parameters()
        if value.numel()
    }
    stepper = optimizer(list(stacked.values()))
    if type(stepper) not in ENTRYWISE:
        return OneByOne(f"{type(stepper).__name__} does not work on each number of a parameter by itself")
    batch = problem.rows.batch(dtype=problem.program.dtype)
    try:
        graph = _recorded(problem.program, _by_feature(batch), guides[0], short.draws)
        noise = _noise(guides, seeds, 0, short.draws)
        mapped = _flattened(graph, dict(stacked), noise, problem.program.dtype)
        mapped(dict(stacked), noise)
    except (RuntimeError, TypeError) as error:
        return OneByOne(f"a step could not be captured ({str(error).splitlines()[0]})")
    runs = _Runs(mapped, guides, stacked, stepper, schedule(stepper) if schedule else None, short)
    return runs.go(seeds, len(batch), float(batch.weights.sum()))


def _recorded(program: Program, batch: Batch, guide: Any, draws: int) -> Any:
    """Parameters and noise of a start → its objective, nats, and gradients."""

    def step(parameters: Parameters, noise: list[list[Tensor]]) -> tuple[Tensor, Parameters]:
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        parts = []
        for own in noise:
            drawn = torch.func.functional_call(guide, leaves, tuple(own))
            score = program.score(drawn.values, batch)
            parts.append((batch.weights * score.rows).sum() + score.prior - drawn.log_q)
        objective = torch.stack(parts).mean()
        gradients = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
        found = {
            name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(leaves.items(), gradients, strict=True)
        }
        return objective.detach(), found

    example = {name: value.detach() for name, value in guide.named_parameters() if value.numel()}
    return capture(step, example, [guide.drawn_noise() for _ in range(draws)], dtype=program.dtype)


def _flattened(graph: Any, parameters: Parameters, noise: list[list[Tensor]], dtype: torch.dtype) -> Mapped:
    """The graph mapped over the first dimension of parameters and noise, and that recorded in its turn.

    What vmap does on the way is then done once, and what does not depend on arguments is computed once.
    """
    names, widths = list(parameters), [len(own) for own in noise]

    def many(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        own = {name: next(given) for name in names}
        objectives, gradients = torch.vmap(graph)(own, [[next(given) for _ in range(width)] for width in widths])
        return objectives, *(gradients[name] for name in names)

    def flat(parameters: Parameters, noise: list[list[Tensor]]) -> list[Tensor]:
        return [*(parameters[name].detach() for name in names), *(part for own in noise for part in own)]

    examples = flat(parameters, noise)
    code = from_cpp(folded(capture(many, *examples, dtype=dtype), exact=False), *examples)

    def run(parameters: Parameters, noise: list[list[Tensor]]) -> tuple[Tensor, Parameters]:
        objectives, *gradients = code(*flat(parameters, noise))
        return objectives, dict(zip(names, gradients, strict=True))

    return run


def _by_feature(batch: Batch) -> Batch:
    """The same rows with short columns lying feature by feature: what is done to them runs along many rows."""

    def turned(value: Tensor) -> Tensor:
        short = value.dim() == 2 and value.is_floating_point() and value.shape[1] <= SHORT < value.shape[0]
        return value.mT.contiguous().mT if short else value

    return replace(batch, columns={name: turned(value) for name, value in batch.columns.items()})


def _noise(guides: Sequence[Any], seeds: Sequence[int], update: int, draws: int) -> list[list[Tensor]]:
    """The noise of one step of every start: of each draw, what SVI would draw, ``[R, ...]``."""
    found, lent = [], torch.Generator()
    for draw in range(draws):
        own = []
        for guide, seed in zip(guides, seeds, strict=True) if guides[0].noise else ():
            lent.manual_seed(derive(derive(seed, 8, update, draw)))
            own.append(guide.drawn_noise(lent))
        found.append([torch.stack(parts) for parts in zip(*own, strict=True)])
    return found


@dataclass
class _Runs:
    """All starts on their way; one that has ended, or failed, stays where it is."""

    graph: Mapped
    guides: Sequence[GlobalGuide]
    stacked: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: Any
    short: ShortRuns

    def go(self, seeds: Sequence[int], rows: int, weight: float) -> list[Screened]:
        starts = len(self.guides)
        histories: list[list[float]] = [[] for _ in range(starts)]
        active, failed = torch.ones(starts, dtype=torch.bool), torch.zeros(starts, dtype=torch.bool)
        for update in range(self.short.passes):
            with torch.no_grad():
                objectives, gradients = self.graph(
                    dict(self.stacked), _noise(self.guides, seeds, update, self.short.draws)
                )
            sound = objectives.isfinite() & torch.stack(
                [g.reshape(starts, -1).isfinite().all(1) for g in gradients.values()]
            ).all(0)
            failed |= active & ~sound
            active &= sound
            for k in active.nonzero()[:, 0].tolist():
                histories[k].append(float(objectives[k]) / weight)
            self._step({name: -gradient / rows for name, gradient in gradients.items()}, active)
            for k in active.nonzero()[:, 0].tolist():
                active[k] = self.short.ended(histories[k], 0.0) is None
            if not bool(active.any()):
                break
        return [self._end(k, histories[k], bool(failed[k]), bool(active[k]), weight) for k in range(starts)]

    def _step(self, gradients: Parameters, active: Tensor) -> None:
        """One step of the optimiser for those that are on their way."""
        if self.short.clip is not None:
            norms = torch.stack([g.reshape(len(active), -1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
            shrink = (self.short.clip / (norms + 1e-6)).clamp(max=1.0)
            gradients = {name: g * _lead(shrink, g) for name, g in gradients.items()}
        before = {name: value.detach().clone() for name, value in self.stacked.items()}
        for name, value in self.stacked.items():
            value.grad = torch.where(_lead(active, value), gradients[name], torch.zeros_like(value))
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        with torch.no_grad():
            for name, value in self.stacked.items():
                value.copy_(torch.where(_lead(active, value), value, before[name]))

    def _end(self, k: int, history: list[float], failed: bool, moving: bool, weight: float) -> Screened:
        guide = self.guides[k]
        with torch.no_grad():
            for name, value in guide.named_parameters():
                if name in self.stacked:
                    value.copy_(self.stacked[name][k])
        values = {name: value.detach().clone() for name, value in guide.point().items()}
        failed = failed or not history
        objective = float("nan") if failed else self.short.reached(history)[0] * weight
        return Screened(values, objective, ended=not moving)


def _lead(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape((-1,) + (1,) * (like.dim() - 1))
