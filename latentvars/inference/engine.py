"""The one loop: minibatch SVI, gradient accumulation and batch EM are settings of it."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from latentvars.errors import NumericalError
from latentvars.inference.algorithm import Algorithm
from latentvars.inference.backend import Backend, Local
from latentvars.inference.fit import Fit
from latentvars.inference.keeping import Checkpoint, Checkpoints, attach
from latentvars.inference.optima import Optima
from latentvars.inference.stopping import Status
from latentvars.program import Program, model_modules
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows


@dataclass
class Run:
    """One run of an algorithm: the loop and what it has so far."""

    algorithm: Algorithm
    program: Program
    rows: Rows
    seed: int
    state: Any
    history: list[float] = field(default_factory=list)
    backend: Backend = field(default_factory=Local)
    status: Status = Status.LIMIT
    seconds: float = 0.0
    whole: Batch | None = None

    def finished(self, optima: Optima | None) -> Fit:
        """The fit of this run."""
        return Fit.of(
            self.program,
            self.rows,
            self.algorithm,
            self.algorithm.posterior(self.state),
            status=self.status,
            history=np.array(self.history),
            seed=self.seed,
            seconds=self.seconds,
            state=self.state,
            optima=optima,
        )

    def go(self, progress: bool | None) -> Run:
        """Passes over the data until a rule says stop.

        Raises:
            NumericalError: something became non-finite; like every error in a run, with the fit so far as ``fit``.
        """
        began = time.monotonic()
        checkpoints = Checkpoints(self.program)
        try:
            self._passes(progress, began, checkpoints)
        except Exception as error:
            _train(self.program, False)
            self.seconds = time.monotonic() - began
            attach(error, checkpoints.best(self._before))
            raise
        self.seconds = time.monotonic() - began
        return self

    def _passes(self, progress: bool | None, began: float, checkpoints: Checkpoints) -> None:
        weight = float(self.rows.weights.sum())
        _train(self.program, True)
        hidden = None if progress is None else not progress
        with Interruption() as interrupted, tqdm(total=self._passes_left(), disable=hidden, unit="pass") as bar:
            for epoch in range(len(self.history), self.algorithm.passes):
                checkpoints.add(self.state, len(self.history))
                objective = self._pass(epoch, interrupted)
                if objective is not None:
                    self.history.append(objective / weight)
                    bar.set_postfix_str(f"{self.history[-1]:.6f} nats/row", refresh=False)
                    bar.update()
                if interrupted.asked:
                    self.status = Status.INTERRUPTED
                    break
                ended = self.algorithm.ended(self.state, self.history, time.monotonic() - began)
                if ended is not None:
                    self.status = ended
                    break
        _train(self.program, False)

    def _before(self, kept: Checkpoint) -> Fit:
        """The fit of this run before a pass that failed."""
        history = self.history[: kept.passes]
        return replace(self, state=kept.state, history=history, status=Status.FAILED).finished(None)

    def _passes_left(self) -> int:
        return max(0, self.algorithm.passes - len(self.history))

    def _pass(self, epoch: int, interrupted: Interruption) -> float | None:
        """One pass over the data; returns its objective, nats, or None where it was cut short."""
        objective = 0.0
        for group in grouped(self._batches(epoch), self.algorithm.batches_per_update(self.rows)):
            if interrupted.asked:
                return None
            total = self.backend.sum(
                reduce(add, (self.algorithm.contribution(self.state, b, k) for k, b in enumerate(group)))
            )
            if not np.isfinite(total.objective):
                raise self._not_finite(group, epoch)
            objective += self.algorithm.objective(self.state, total)
            self.state = self.algorithm.update(self.state, total)
        return objective

    def _batches(self, epoch: int) -> Iterable[Batch]:
        """The batches of a pass; where it is all rows in their order, the same one in every pass."""
        size, shuffle = self.algorithm.rows_per_batch(self.rows), self.algorithm.shuffles()
        if size is None or size >= len(self.rows):
            self.whole = self.whole or self.rows.batch(dtype=self.program.dtype)
            return [self.whole]
        return self.rows.batches(
            size, seed=derive(self.seed, 4), epoch=epoch, shuffle=shuffle, dtype=self.program.dtype
        )

    def _not_finite(self, group: list[Batch], epoch: int) -> NumericalError:
        """Say which site on which rows is to blame."""
        values = self.algorithm.posterior(self.state).point
        choices = self.program.roles.choices
        program = self.program.given(choices[0]) if choices else self.program
        culprits = []
        for batch in group:
            densities = program.site_log_probs(values, batch, derive(self.seed, 5))
            for name, log_prob in densities.items():
                if name in choices.names:
                    continue
                if name in program.space.names:
                    if not bool(log_prob.isfinite().all()):
                        culprits.append(f"global {name!r}")
                    continue
                bad = batch.index[impossible(log_prob, self.program.roles.nesting).expand(len(batch))]
                if len(bad):
                    culprits.append(f"site {name!r} on rows {_listed(bad)}")
        elsewhere = f"rows {_listed(group[0].index)} (every site alone is finite at the point of the globals)"
        return NumericalError(
            given=f"a non-finite objective in pass {epoch + 1}: " + ("; ".join(culprits[:3]) or elsewhere),
            needed="a finite log density at every row",
            remedy="check the data against the support of that site, start elsewhere (seed=, start=), "
            "use fewer components, or a smaller learning rate",
        )


def impossible(log_prob: Tensor, nesting: int) -> Tensor:
    """Rows ``[B]`` (or ``[1]``) at which a site is not finite: NaN or +inf anywhere, or -inf whatever its latents are.

    Args:
        log_prob: ``[enumerated ..., plates ..., B]``, nats.
        nesting: number of plate dimensions, rows included.
    """
    value = log_prob.reshape((1,) * max(0, nesting - log_prob.dim()) + tuple(log_prob.shape))
    value = value.reshape(-1, *value.shape[value.dim() - nesting :])
    bad = (value.isnan() | value.isposinf()).any(0) | value.isneginf().all(0)
    return bad.reshape(-1, bad.shape[-1]).any(0)


def _listed(index: Tensor) -> str:
    """The first few positions."""
    first = ", ".join(map(str, index[:5].tolist()))
    return f"[{first}{', ...' if len(index) > 5 else ''}]"


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Consecutive batches, ``size`` at a time."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _train(program: Program, on: bool) -> None:
    for module in model_modules(program.model).values():
        module.train(on)


class Interruption:
    """Ctrl-C asks the run to end after the current update; a second one raises at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
