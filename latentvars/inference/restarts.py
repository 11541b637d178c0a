"""Several starts: run together for a short while where that is possible, the best ones on to their ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.errors import NumericalError
from latentvars.inference.algorithm import Algorithm, Problem
from latentvars.inference.binding import Restrictions, bind
from latentvars.inference.engine import Run
from latentvars.inference.fit import Fit
from latentvars.inference.optima import Optima
from latentvars.inference.starting import starting_point
from latentvars.inference.stopping import Status
from latentvars.randomness import derive
from latentvars.rows import Rows

LONG_RUNS = 3


def best_of_starts(
    model: LatentModel,
    rows: Rows,
    algorithm: Algorithm,
    seed: int,
    start: Mapping[str, Any] | None,
    progress: bool | None,
    known: Restrictions | None = None,
) -> Fit:
    """Run several starts and keep the best end; one that fails is counted, and an error only if all do.

    The first start is that of a single run; the others draw new starting values for what ``start`` does not give.
    An end in which a component has collapsed onto a few rows is kept only where all have: such optima are spurious,
    however high (Day 1969; McLachlan & Peel 2000, section 3.10). Where the algorithm can screen, all starts run
    together for a short while and the best three go on to their ends; otherwise every start runs to its end.
    """
    seeds = [seed if k == 0 else derive(seed, 10, k) for k in range(algorithm.restarts)]
    ends = np.full(len(seeds), np.nan)
    program = bind(model, rows, known)[1]
    values = [starting_point(program, rows, own, start) for own in seeds]
    screened = algorithm.screen(Problem(program, rows, values[0], seed), values)
    order = range(len(seeds))
    if screened is not None:
        weight = float(rows.weights.sum())
        ends[:] = [start.objective / weight for start in screened]
        values = [start.values for start in screened]
        keys = [(start.degenerate, -np.nan_to_num(end, nan=-np.inf)) for start, end in zip(screened, ends, strict=True)]
        order = sorted(order, key=keys.__getitem__)[:LONG_RUNS]
    long = _LongRuns(model, rows, algorithm, progress, known)
    for k in order:
        ends[k] = long.end(values[k], seeds[k])
        if long.interrupted:
            break
    return long.finished(seed, ends)


class _LongRuns:
    """Runs to their ends, one after the other; the best so far."""

    def __init__(
        self,
        model: LatentModel,
        rows: Rows,
        algorithm: Algorithm,
        progress: bool | None,
        known: Restrictions | None,
    ) -> None:
        self.model, self.rows, self.algorithm, self.progress = model, rows, algorithm, progress
        self.known = known
        self.best: Run | None = None
        self.reached, self.tolerance, self.sound = -np.inf, 0.0, False
        self.interrupted = False
        self.failure: NumericalError | None = None

    def end(self, values: dict[str, Tensor], seed: int) -> float:
        """The objective per row at the end of a run, nats; NaN where it fails."""
        program = bind(self.model, self.rows, self.known)[1]
        try:
            state = self.algorithm.init(Problem(program, self.rows, values, seed))
            run = Run(self.algorithm, program, self.rows, seed, state).go(self.progress)
        except NumericalError as error:
            self.failure = error
            return float("nan")
        end, noise = self.algorithm.reached(run.history) if run.history else (-np.inf, 0.0)
        sound = not self.algorithm.collapsed(run.state)
        if self.best is None or (sound, end) > (self.sound, self.reached):
            self.best, self.reached, self.tolerance, self.sound = run, end, noise, sound
        self.interrupted = run.status is Status.INTERRUPTED
        return end

    def finished(self, seed: int, ends: np.ndarray) -> Fit:
        """The fit of the best run."""
        if self.best is None:
            assert self.failure is not None
            raise self.failure
        self.best.seed = seed
        if self.interrupted:  # also where an earlier start, which had come to its end, is the best
            self.best.status = Status.INTERRUPTED
        return self.best.finished(Optima(tuple(ends.tolist()), self.tolerance, self.reached))
