"""Training the guide between M-steps: gradient steps on the networks' weights, the globals held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from latentvars.inference.running.settings import check_at_least
from latentvars.inference.svi.svi import Gradient, Optimizer, Schedule, adam, check_clip, check_optimizer
from latentvars.program import Bound, Program, model_modules
from latentvars.rows import Batch


@dataclass(frozen=True)
class GuideSteps:
    """How the guide, and every other network of the model, is trained between M-steps: by gradients, globals held.

    Attributes:
        passes: passes over the data between one M-step and the next.
        warmup: passes before the first M-step, which a guide that knows nothing yet would lead astray.
        optimizer: a torch factory, parameters → optimiser.
        schedule: a torch factory, optimiser → learning-rate schedule, stepped after each update.
        particles: draws per row and update.
        clip: largest norm of the gradient per row; None: no limit.
    """

    passes: int = 10
    warmup: int = 200
    optimizer: Optimizer = adam
    schedule: Schedule | None = None
    particles: int = 5
    clip: float | None = None

    def __post_init__(self) -> None:
        check_at_least("passes", self.passes, 0)
        check_at_least("warmup", self.warmup, 0)
        check_at_least("particles", self.particles, 1)
        check_optimizer(self.optimizer)
        check_clip(self.clip)


def guide_gradient(
    program: Program,
    values: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    batch: Batch,
    particles: int,
    bound: Bound,
    seed: int,
) -> Gradient:
    """Objective and gradient in the weights of the networks on one batch, the log prior of the globals shared out."""
    score = program.score(values, expanded(batch, particles), seed, replace(bound, importance=False))
    rows = score.rows.reshape(len(batch), particles)
    rows = rows.logsumexp(1) - torch.tensor(float(particles)).log() if bound.importance else rows.mean(1)
    objective = (batch.weights * rows).sum()
    gradients: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if objective.requires_grad:
        gradients = torch.autograd.grad(objective, list(parameters.values()), allow_unused=True)
    of_prior = float(score.prior.detach()) * len(batch) / batch.total
    return Gradient(float(objective.detach()) + of_prior, gradients, len(batch))


def expanded(batch: Batch, draws: int) -> Batch:
    """Every row ``draws`` times, one after the other, so that all its draws are made in one run of the model."""
    return batch.select(torch.arange(len(batch)).repeat_interleave(draws))


@contextmanager
def evaluating(program: Program) -> Iterator[None]:
    """Networks as they are read out: no dropout, batch normalisation by its running averages."""
    parts = [part for module in model_modules(program.model).values() for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
