"""The density of a program's globals given the data, as a fast function of one flat unconstrained vector."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from latentvars.capture.batches import flat, like
from latentvars.capture.calling import from_cpp
from latentvars.capture.folding import shortened
from latentvars.capture.packages import NoCompiler, compiled
from latentvars.capture.recording import UNRECORDABLE
from latentvars.errors import SupportError
from latentvars.program import Program
from latentvars.rows import Batch

COMPILING = 30.0  # seconds that compiling takes
OF_AN_OPERATION = 5e-6  # seconds that compiling saves of each operation of a small graph
AT_A_TIME = 2  # chains
AGREES = 1e-7  # relative difference from the model's own code at the start; exact to rounding where it is well scaled


class Way(Enum):
    """How a density is computed, from slow to fast."""

    MODEL = "the model's own code"
    GRAPH = "a recorded graph"
    COMPILED = "compiled code"


@dataclass(frozen=True)
class Potential:
    """−(log prior + Σ wₙ rows[n] + log |Jacobian|) and its gradient, discrete locals summed out.

    Attributes:
        size: length of the vector of unconstrained globals.
        dtype: its precision.
        way: how it is computed.
        reasons: why not faster; for reports.
    """

    size: int
    dtype: torch.dtype
    way: Way
    reasons: tuple[str, ...]
    code: Callable[..., Any] = field(repr=False)
    data: tuple[Tensor, ...] = field(repr=False)

    @staticmethod
    def of(program: Program, batch: Batch, *, fastest: Way = Way.COMPILED, gradients: int | None = None) -> Potential:
        """The potential of a program on a batch of all rows.

        What cannot be recorded or compiled is computed in a slower way, and a warning says why.

        Args:
            program: without continuous locals.
            batch: all rows.
            fastest: ``Way.COMPILED`` takes a minute the first time, ``Way.GRAPH`` a second, ``Way.MODEL`` nothing.
            gradients: how many will be asked for: compiled only where these few save more time than it takes. By a rule
                that looks at no clock and at no package on disk, so that a seed repeats. None: compiled anyway.

        Raises:
            SupportError: continuous locals, which only a guide integrates out.
        """
        if program.roles.continuous:
            raise SupportError(
                given=f"the density of globals given data, with the continuous locals {list(program.roles.continuous)}",
                needed="locals that can be summed out",
                remedy="make them globals, or fit the model with lv.SVI()",
            )
        plain = Potential(program.space.size, program.dtype, Way.MODEL, (), _by_model(program, batch), ())
        found = plain if fastest is Way.MODEL else _faster(program, batch, plain, fastest, gradients)
        if found.reasons:
            warnings.warn(f"the density is computed by {found.way.value}: {'; '.join(found.reasons)}", stacklevel=2)
        return found

    def __call__(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Unconstrained globals ``[size]`` → potential, scalar, nats, and its gradient ``[size]``."""
        value, gradient = self.code(free, *self.data)
        return value, gradient

    def numpy(self, free: np.ndarray) -> tuple[float, np.ndarray]:
        """The same of arrays."""
        value, gradient = self.code(torch.from_numpy(free).to(self.dtype), *self.data)
        return value.item(), gradient.numpy()


def _by_model(program: Program, batch: Batch) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The potential by the model's Pyro code."""

    def potential(free: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = free.detach().requires_grad_()
            values, log_jacobian = program.space.constrain(leaf)
            score = program.score(values, batch)
            value = -(score.prior + (batch.weights * score.rows).sum() + log_jacobian)
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    return potential


def _faster(program: Program, batch: Batch, plain: Potential, fastest: Way, gradients: int | None) -> Potential:
    """The potential as a graph, compiled where it can be."""
    if batch.observed is not None:
        return _slower(plain, "entries are missing")

    def potential(free: Tensor, *data: Tensor) -> tuple[Tensor, Tensor]:
        return _by_model(program, like(batch, iter(data)))(free)

    data, start = tuple(flat(batch)), torch.zeros(plain.size, dtype=plain.dtype)
    try:
        graph = shortened(potential, start, *data, dtype=program.dtype)
    except UNRECORDABLE as error:
        return _slower(plain, (str(error) or type(error).__name__).splitlines()[0])
    found = Potential(plain.size, plain.dtype, Way.GRAPH, (), from_cpp(graph, start, *data), data)
    if not _agree(found, plain):
        return _slower(plain, "the recorded density is not the model's")
    if fastest is not Way.COMPILED or (gradients is not None and not _pays(graph, gradients)):
        return found
    try:
        fast = Potential(plain.size, plain.dtype, Way.COMPILED, (), compiled(graph, start, *data), data)
    except NoCompiler as error:
        return found if gradients is not None else _slower(found, str(error))
    return fast if _agree(fast, plain) else _slower(found, "the compiled density is not the model's")


def _pays(graph: GraphModule, gradients: int) -> bool:
    saved = gradients * len(graph.graph.nodes) * OF_AN_OPERATION / AT_A_TIME
    return saved > COMPILING


def _slower(potential: Potential, reason: str) -> Potential:
    return Potential(potential.size, potential.dtype, potential.way, (reason,), potential.code, potential.data)


def _agree(fast: Potential, plain: Potential) -> bool:
    """Whether values and gradients are the model's at some points, where these are finite."""
    noise = torch.Generator().manual_seed(0)
    for scale in (0.0, 0.1, 1.0):
        free = scale * torch.randn(plain.size, dtype=plain.dtype, generator=noise)
        for a, b in zip(fast(free), plain(free), strict=True):
            if bool(b.isfinite().all()) and not bool((a - b).abs().max() <= _tolerance(b)):
                return False
    return True


def _tolerance(value: Tensor) -> Tensor:
    return AGREES * (1e4 if value.dtype == torch.float32 else 1.0) * value.abs().max().clamp(min=1.0)
