"""What is kept of a run that an error breaks off: the last good state, as a fit."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentvars.errors import LatentVarsError
from latentvars.inference.fits.fit import Fit
from latentvars.program import Program, model_modules

NOTE = "the fit before the pass that failed is kept: read it off the error, as error.fit"


@dataclass(frozen=True)
class Kept:
    """A run before one of its passes.

    Attributes:
        passes: how many passes it had done.
        state: the state of its algorithm; what training changes in place stands in ``trained``.
        trained: copies of weights and buffers.
    """

    passes: int
    state: Any
    trained: tuple[Tensor, ...]


class Checkpoints:
    """The last two checkpoints of a run: the newest one may already be the one that is broken."""

    def __init__(self, program: Program) -> None:
        self.modules = tuple(model_modules(program.model).values())
        self.last: deque[Kept] = deque(maxlen=2)

    def add(self, state: Any, passes: int) -> None:
        """Remember the state before a pass."""
        copies = tuple(tensor.detach().clone() for tensor in self._trained(state))
        self.last.append(Kept(passes, copy.copy(state), copies))

    def best(self, finished: Callable[[Kept], Fit]) -> Fit | None:
        """The checkpoint with the higher log-likelihood and prior, as a fit; None where neither has a finite one."""
        found = [(value, k) for k, kept in enumerate(self.last) if (value := self._value(kept, finished)) is not None]
        if not found:
            return None
        kept = self.last[max(found)[1]]
        self._restore(kept)
        return finished(kept)

    def _value(self, kept: Kept, finished: Callable[[Kept], Fit]) -> float | None:
        """Log-likelihood of the rows and log prior at a checkpoint, nats; None where something is not finite."""
        self._restore(kept)
        try:
            fit = finished(kept)
            value = fit.log_likelihood + float(fit.program.prior(fit.point))
        except (LatentVarsError, ArithmeticError, ValueError, RuntimeError):  # as broken as what came after it
            return None
        sound = all(bool(tensor.isfinite().all()) for tensor in (*fit.point.values(), *kept.trained))
        return value if sound and value == value else None

    def _restore(self, kept: Kept) -> None:
        """Put weights and buffers back; an optimiser begins anew, since its averages may hold what broke the run."""
        with torch.no_grad():
            for tensor, value in zip(self._trained(kept.state), kept.trained, strict=True):
                tensor.copy_(value)
        for value in _fields(kept.state):
            if isinstance(value, torch.optim.Optimizer):
                value.state.clear()

    def _trained(self, state: Any) -> list[Tensor]:
        own = [value for value in _fields(state) if isinstance(value, nn.Module)]
        modules = [*self.modules, *own]
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _fields(state: Any) -> list[Any]:
    return list(getattr(state, "__dict__", {}).values())


def attach(error: Exception, fit: Fit | None) -> None:
    """Give an error the fit before it, unless it has one of its own."""
    if fit is None or getattr(error, "fit", None) is not None:
        return
    error.fit = fit  # type: ignore[attr-defined]
    error.add_note(NOTE)
