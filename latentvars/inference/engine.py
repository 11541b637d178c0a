"""The one loop: minibatch SVI, gradient accumulation and batch EM are settings of it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentvars.errors import NumericalError
from latentvars.inference.fits.fit import Fit
from latentvars.inference.fits.keeping import Checkpoints, Kept, attach
from latentvars.inference.fits.optima import Optima
from latentvars.inference.running.algorithm import Algorithm
from latentvars.inference.running.backend import Word
from latentvars.inference.running.interruption import Interruption
from latentvars.inference.running.snapshots import Snapshots
from latentvars.inference.running.stopping import Status
from latentvars.inference.running.whole import Whole
from latentvars.program import Program, model_modules
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows

COPIED = 3  # passes from which on a copy in the precision of the program pays
POSITIONS = 2**32  # batches of an update that a process may have


@dataclass
class Run:
    """One run of an algorithm: the loop and what it has so far."""

    algorithm: Algorithm
    program: Program
    whole: Whole
    seed: int
    state: Any
    history: list[float] = field(default_factory=list)
    snapshots: Snapshots | None = None
    status: Status = Status.LIMIT
    seconds: float = 0.0
    batch: Batch | None = None
    narrow: Rows | None = None
    heard: Word = field(default_factory=Word)

    @property
    def rows(self) -> Rows:
        """The rows of this process."""
        return self.whole.own

    def finished(self, optima: Optima | None) -> Fit:
        """The fit of this run; with several processes all of them have to be there."""
        return self._fit(optima, self.whole)

    def _fit(self, optima: Optima | None, whole: Whole | None) -> Fit:
        total = None if self.batch is None else self.algorithm.log_likelihood(self.state, self.batch)
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
            whole=whole,
            total=total,
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
        weight = self.whole.weight
        _train(self.program, True)
        hidden = None if progress is None else not progress
        hidden = True if self.whole.backend.rank else hidden
        with Interruption() as interrupted, tqdm(total=self._passes_left(), disable=hidden, unit="pass") as bar:
            for epoch in range(len(self.history), self.algorithm.passes):
                checkpoints.add(self.state, len(self.history))
                objective = self._pass(epoch, interrupted, began)
                if objective is not None:
                    self.history.append(objective / weight)
                    bar.set_postfix_str(f"{self.history[-1]:.6f} nats/row", refresh=False)
                    bar.update()
                if self._asked(interrupted):
                    self.status = Status.INTERRUPTED
                    break
                ended = self.algorithm.ended(self.state, self.history, self._running(began))
                if ended is not None:
                    self.status = ended
                    break
                self._keep(began)
        _train(self.program, False)

    def _asked(self, interrupted: Interruption) -> bool:
        """Whether the run is to end: what all processes know, where there are several."""
        return self.heard.interrupted if self.whole.shared else interrupted.asked

    def _running(self, began: float) -> float:
        """Seconds since the beginning, the same in all processes."""
        return self.heard.seconds if self.whole.shared else time.monotonic() - began

    def _keep(self, began: float) -> None:
        """Write a snapshot, where it is time for one."""
        now = time.monotonic()
        if self.snapshots is not None and self.whole.backend.rank == 0 and self.snapshots.due(now):
            posterior, seconds = self.algorithm.posterior(self.state), now - began
            history = np.array(self.history)
            fit = Fit(
                self.program, self.rows, self.algorithm, posterior, self.status, history, None, self.seed, seconds
            )
            self.snapshots.write(fit, self.whole, now)

    def _before(self, kept: Kept) -> Fit:
        """The fit of this run before a pass that failed."""
        history = self.history[: kept.passes]
        return replace(self, state=kept.state, history=history, status=Status.FAILED)._fit(None, None)

    def _passes_left(self) -> int:
        return max(0, self.algorithm.passes - len(self.history))

    def _pass(self, epoch: int, interrupted: Interruption, began: float) -> float | None:
        """One pass over the data; returns its objective, nats, or None where it was cut short."""
        objective = 0.0
        for group in self._groups(epoch):
            if self._asked(interrupted):
                return None
            total, self.heard = self.whole.backend.sum(
                partial(self._contribution, group, epoch), lambda: Word(interrupted.asked, time.monotonic() - began)
            )
            objective += self.algorithm.objective(self.state, total)
            self.state = self.algorithm.update(self.state, total)
        return objective

    def _contribution(self, group: Iterable[Batch], epoch: int) -> Any:
        """What the batches of an update contribute in this process, one in memory at a time."""
        self.rows.check_unchanged()
        total, first = None, self.whole.backend.rank * POSITIONS if self.whole.shared else 0
        for position, batch in enumerate(group, first):
            found = self.algorithm.contribution(self.state, batch, position)
            if not np.isfinite(found.objective):
                raise self._not_finite(batch, epoch)
            total = found if total is None else total + found
        return total

    def _groups(self, epoch: int) -> Iterator[Iterable[Batch]]:
        """The batches of a pass, update by update."""
        if not self.whole.shared:
            return grouped(self._batches(epoch), self.algorithm.batches_per_update(self.rows))
        everything = range(self.whole.rows)
        size = min(self.algorithm.rows_per_batch(everything) or len(everything), len(everything))
        updates = math.ceil(math.ceil(len(everything) / size) / self.algorithm.batches_per_update(everything))
        self.whole.check_updates(updates)
        each = math.ceil(len(self.rows) / updates / size)
        return grouped(self._batches(epoch, each * updates), each)

    def _batches(self, epoch: int, parts: int | None = None) -> Iterable[Batch]:
        """The batches of a pass; where it is all rows in their order, the same one in every pass."""
        shuffle = self.algorithm.shuffles()
        size = self.algorithm.rows_per_batch(self.rows) if parts is None else None
        if (parts == 1 or (parts is None and (size is None or size >= len(self.rows)))) and not self.rows.streamed:
            if self.batch is None:
                own = self.rows.batch(dtype=self.program.dtype)
                self.batch = replace(own, total=self.whole.rows) if shuffle else own
            return [self.batch]
        seed = derive(self.seed, 4)
        found = self._drawn_from(shuffle).batches(
            size, parts=parts, seed=seed, epoch=epoch, shuffle=shuffle, dtype=self.program.dtype
        )
        return (replace(batch, total=self.whole.rows) for batch in found) if self.whole.shared else found

    def _drawn_from(self, shuffle: bool) -> Rows:
        """The rows, for runs that draw batches of them in pass after pass in the precision of the program.

        A copy of half their size takes half as long to be picked from as the numbers themselves.
        """
        wide = self.program.dtype == torch.float64 or self.rows.streamed
        if wide or not shuffle or self.algorithm.passes < COPIED or getattr(self.algorithm, "memory", None) is not None:
            return self.rows
        if self.narrow is None:
            dtype = self.program.dtype
            self.narrow = self.rows.with_columns_read(lambda x: x.to(dtype) if x.is_floating_point() else x)
        return self.narrow

    def _not_finite(self, batch: Batch, epoch: int) -> NumericalError:
        """Say which site on which rows is to blame."""
        values = self.algorithm.posterior(self.state).point
        choices = self.program.roles.choices
        program = self.program.given(choices[0]) if choices else self.program
        culprits = []
        for name, log_prob in program.site_log_probs(values, batch, derive(self.seed, 5)).items():
            if name in choices.names:
                continue
            if name in program.space.names:
                if not bool(log_prob.isfinite().all()):
                    culprits.append(f"global {name!r}")
                continue
            bad = batch.index[impossible(log_prob, self.program.roles.nesting).expand(len(batch))]
            if len(bad):
                culprits.append(f"site {name!r} on rows {_listed(bad)}")
        elsewhere = f"rows {_listed(batch.index)} (every site alone is finite at the point of the globals)"
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


def grouped(batches: Iterable[Batch], size: int) -> Iterator[Iterable[Batch]]:
    """Consecutive batches, ``size`` at a time; a group is to be gone through before the next one."""
    iterator = iter(batches)
    for first in iterator:
        yield itertools.chain((first,), itertools.islice(iterator, size - 1))


def _train(program: Program, on: bool) -> None:
    for module in model_modules(program.model).values():
        module.train(on)
