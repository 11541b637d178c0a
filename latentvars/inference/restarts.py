"""Several starts: run together for a short while where that is possible, the best ones on to their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.errors import ModelError, NumericalError, SupportError
from latentvars.inference.algorithm import Algorithm, OneByOne, Problem, Screened
from latentvars.inference.binding import Restrictions, bind
from latentvars.inference.degenerate import Keep, Restart, explained, refused
from latentvars.inference.engine import Run
from latentvars.inference.fit import Fit
from latentvars.inference.optima import Optima
from latentvars.inference.starting import further, starting_point
from latentvars.inference.stopping import Status
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Rows
from latentvars.starts import Start

LONG_RUNS = 3
FAILURES = (NumericalError, ModelError, ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def best_of_starts(
    model: LatentModel,
    rows: Rows,
    algorithm: Algorithm,
    seed: int,
    start: Mapping[str, Any] | Start | None,
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
    long = _LongRuns(model, rows, algorithm, progress, known, program)
    values = _starting_points(program, rows, seeds, start, long)
    order = list(values)
    cut: set[int] = set()
    screened: dict[int, Screened] = {}
    found = (
        _screened(algorithm, Problem(program, rows, values[order[0]], seed), list(values.values())) if order else None
    )
    if found is not None and not isinstance(found, OneByOne):
        weight = float(rows.weights.sum())
        screened = dict(zip(order, found, strict=True))
        for k, short in screened.items():
            values[k], ends[k] = short.values, short.objective / weight
        order.sort(key=lambda k: (screened[k].degenerate, -np.nan_to_num(ends[k], nan=-np.inf)))
        cut = {k for k in order if not screened[k].ended and len(screened[k].history) < algorithm.passes}
        long.most = LONG_RUNS
    for k in order:
        short = screened.get(k)
        if long.best is not None and short is not None:
            if np.isnan(ends[k]):
                break  # failed in its short run
            if len(short.history) >= algorithm.passes:
                continue  # it has had all its passes, and ended lower
        ends[k] = long.end(values[k], seeds[k], short)
        cut.discard(k)
        if long.enough:
            break
    return long.finished(seed, ends, len(cut), found.reason if isinstance(found, OneByOne) else "")


def _starting_points(
    program: Program, rows: Rows, seeds: list[int], start: Mapping[str, Any] | Start | None, long: _LongRuns
) -> dict[int, dict[str, Tensor]]:
    """The starts that can be made, by number."""
    values = {}
    for k, own in enumerate(seeds):
        try:
            values[k] = starting_point(program, rows, own, start if k == 0 else further(program, start))
        except SupportError:
            raise
        except FAILURES as error:
            long.failure = long.failure or error
    return values


def _screened(
    algorithm: Algorithm, problem: Problem, starts: list[dict[str, Tensor]]
) -> Sequence[Screened] | OneByOne | None:
    """Short runs of all starts; one by one where one of them fails before it has begun."""
    try:
        return algorithm.screen(problem, starts)
    except SupportError:
        raise
    except FAILURES as error:
        return OneByOne(f"together they could not begin ({str(error).splitlines()[0]})")


def sound_end(
    model: LatentModel,
    rows: Rows,
    algorithm: Algorithm,
    seed: int,
    start: Mapping[str, Any] | Start | None,
    progress: bool | None,
    known: Restrictions | None = None,
) -> Fit:
    """One start to its end; where that is degenerate and the algorithm's rule says so, others until one is not.

    Raises:
        NumericalError: a degenerate end that the rule refuses, with the components and rows; ``error.fit`` has it.
    """
    rule = getattr(algorithm, "degenerate", Keep())
    for attempt in range(1 + (rule.times if isinstance(rule, Restart) else 0)):
        own = seed if attempt == 0 else derive(seed, 13, attempt)
        program = bind(model, rows, known)[1]
        values = starting_point(program, rows, own, start if attempt == 0 else further(program, start))
        run = Run(algorithm, program, rows, own, algorithm.init(Problem(program, rows, values, own)))
        try:
            ended(run, progress)
            return run.finished(None)
        except NumericalError:
            if not isinstance(rule, Restart) or attempt == rule.times:
                raise
    raise AssertionError("the last attempt returns or raises")


def ended(run: Run, progress: bool | None) -> Run:
    """A run at its end.

    Raises:
        NumericalError: the run broke off, or its end is one that the algorithm's rule refuses.
    """
    try:
        run.go(progress)
    except NumericalError as error:
        raise explained(error) from error
    if isinstance(getattr(run.algorithm, "degenerate", Keep()), Keep) or run.status is Status.INTERRUPTED:
        return run
    fit = run.finished(None)
    error = refused(fit.program, fit.point, run.rows, fit.collapsed)
    if error is not None:
        error.fit = fit
        raise error
    return run


class _LongRuns:
    """Runs to their ends, one after the other; the best so far."""

    def __init__(
        self,
        model: LatentModel,
        rows: Rows,
        algorithm: Algorithm,
        progress: bool | None,
        known: Restrictions | None,
        program: Program,
    ) -> None:
        self.model, self.rows, self.algorithm, self.progress = model, rows, algorithm, progress
        self.known, self.program = known, program
        self.best: Run | None = None
        self.reached, self.tolerance, self.sound = -np.inf, 0.0, False
        self.interrupted = False
        self.failure: Exception | None = None
        self.most: int | None = None
        self.done = 0

    def end(self, values: dict[str, Tensor], seed: int, short: Screened | None = None) -> float:
        """The objective per row at the end of a run, which goes on from a short one; nats, NaN where it fails."""
        try:
            if short is not None and short.state is not None:
                program, state, history = self.program, short.state, list(short.history)
            else:
                program, history = bind(self.model, self.rows, self.known)[1], []
                state = self.algorithm.init(Problem(program, self.rows, values, seed))
            run = ended(Run(self.algorithm, program, self.rows, seed, state, history), self.progress)
        except SupportError:
            raise
        except FAILURES as error:
            self.failure = self.failure or error
            return float("nan")
        self.done += 1
        end, noise = self.algorithm.reached(run.history) if run.history else (-np.inf, 0.0)
        sound = not self.algorithm.collapsed(run.state)
        if self.best is None or (sound, end) > (self.sound, self.reached):
            self.best, self.reached, self.tolerance, self.sound = run, end, noise, sound
        self.interrupted = run.status is Status.INTERRUPTED
        return end

    @property
    def enough(self) -> bool:
        """Whether no further start has to run."""
        return self.interrupted or (self.most is not None and self.done >= self.most)

    def finished(self, seed: int, ends: np.ndarray, unfinished: int, alone: str) -> Fit:
        """The fit of the best run."""
        if self.best is None:
            assert self.failure is not None
            raise self.failure
        self.best.seed = seed
        if self.interrupted:  # also where an earlier start, which had come to its end, is the best
            self.best.status = Status.INTERRUPTED
        failure = "" if self.failure is None else str(self.failure).splitlines()[0]
        optima = Optima(tuple(ends.tolist()), self.tolerance, self.reached, unfinished, failure, alone)
        return self.best.finished(optima)
