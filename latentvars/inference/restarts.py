"""Several starts: run together for a short while where that is possible, the best ones on to their ends."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.errors import ModelError, NumericalError, SupportError
from latentvars.inference.em.em import plan_of, plan_summed
from latentvars.inference.engine import Run
from latentvars.inference.fits.fit import Fit
from latentvars.inference.fits.optima import Optima
from latentvars.inference.running.algorithm import Algorithm, OneByOne, Problem, Screened
from latentvars.inference.running.backend import first
from latentvars.inference.running.binding import Restrictions, bind_again
from latentvars.inference.running.degenerate import Keep, Restart, explained, refused
from latentvars.inference.running.memory import within_memory
from latentvars.inference.running.snapshots import Checkpoint, Snapshots
from latentvars.inference.running.stopping import Status
from latentvars.inference.running.whole import Whole
from latentvars.inference.starting.values import further, start_seed, starting_point
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.starts import Start

TIE = 1e-10  # relative: ends as near as that differ by rounding alone, which must not choose between them
LONG_RUNS = 3
FAILURES = (NumericalError, ModelError, ArithmeticError, np.linalg.LinAlgError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Work:
    """What is to be fitted to what, besides starts and seeds.

    Attributes:
        model: the user's.
        whole: the rows, checked.
        algorithm: how.
        known: what is known of the globals.
        progress: whether runs show a bar.
        checkpoint: where runs are written to.
        bound: a copy of the model that no run has changed yet, where the rows were bound to one in this process.
    """

    model: LatentModel
    whole: Whole
    algorithm: Algorithm
    known: Restrictions
    progress: bool | None = None
    checkpoint: Checkpoint | None = None
    bound: Program | None = None

    def first_program(self) -> Program:
        """The copy of the model for the first run."""
        return self.bound or self.program()

    def program(self) -> Program:
        """A copy of the model of its own, with the weights that the first process has."""
        program = bind_again(self.model, self.whole, self.known)
        if self.whole.shared:
            for module in program.modules.values():
                module.load_state_dict(first(self.whole.backend, module.state_dict()))
        return program

    def starting_point(self, program: Program, seed: int, start: Mapping[str, Any] | Start | None) -> dict[str, Tensor]:
        """Constrained globals to begin with, the same in every process."""
        values = starting_point(program, self.whole.seen, seed, start)
        return first(self.whole.backend, values) if self.whole.shared else values

    def run(
        self,
        program: Program,
        values: Mapping[str, Tensor],
        seed: int,
        state: Any = None,
        history: Sequence[float] = (),
    ) -> Run:
        """A run that is still to go, from constrained globals, or from the state and history of an earlier run."""
        problem = Problem(program, self.whole.own, values, seed, self.whole)
        check_shared(self.algorithm, problem)
        algorithm = within_memory(self.algorithm, problem)
        state = self.whole.backend.together(lambda: algorithm.init(problem) if state is None else state)
        snapshots = None if self.checkpoint is None else Snapshots(self.checkpoint, time.monotonic())
        return Run(algorithm, program, self.whole, seed, state, list(history), snapshots)


def best_of_starts(work: Work, seed: int, start: Mapping[str, Any] | Start | None) -> Fit:
    """Run several starts and keep the best end; one that fails is counted, and an error only if all do.

    The first start is that of a single run; the others draw new starting values for what ``start`` does not give.
    An end in which a component has collapsed onto a few rows is kept only where all have: such optima are spurious,
    however high (Day 1969; McLachlan & Peel 2000, section 3.10). Where the algorithm can screen, all starts run
    together for a short while and the best three go on to their ends; otherwise every start runs to its end.
    """
    found = tried(work, seed, start, range(work.algorithm.restarts))
    return found.finished(seed, found.ends)


def tried(work: Work, seed: int, start: Mapping[str, Any] | Start | None, numbers: Sequence[int]) -> LongRuns:
    """Run the starts of these numbers."""
    whole, algorithm = work.whole, work.algorithm
    seeds = {k: start_seed(seed, k) for k in numbers}
    program = work.first_program()
    long = LongRuns(work, program)
    ends = long.ends
    values = _starting_points(program, seeds, start, long)
    order = list(values)
    screened: dict[int, Screened] = {}
    found = None
    if order:
        problem = Problem(program, whole.own, values[order[0]], seed, whole)
        found = _screened(algorithm, problem, list(values.values()))
    if found is not None and not isinstance(found, OneByOne):
        screened = dict(zip(order, found, strict=True))
        for k, short in screened.items():
            values[k], ends[k] = short.values, short.objective / whole.weight
        order.sort(key=lambda k: (screened[k].degenerate, -np.nan_to_num(ends[k], nan=-np.inf)))
        long.cut = {k for k in order if not screened[k].ended and len(screened[k].history) < algorithm.passes}
        long.most = LONG_RUNS
    long.alone = found.reason if isinstance(found, OneByOne) else ""
    for k in order:
        short = screened.get(k)
        if long.best is not None and short is not None:
            if np.isnan(ends[k]):
                break  # failed in its short run
            if len(short.history) >= algorithm.passes:
                continue  # it has had all its passes, and ended lower
            if short.ended and abs(ends[k] - long.short_end) <= long.tolerance:
                continue  # the same optimum as the best
        ends[k] = long.end(values[k], seeds[k], short)
        long.cut.discard(k)
        if long.enough:
            break
    return long


def _starting_points(
    program: Program, seeds: Mapping[int, int], start: Mapping[str, Any] | Start | None, long: LongRuns
) -> dict[int, dict[str, Tensor]]:
    """The starts that can be made, by number."""
    values = {}
    for k, own in seeds.items():
        try:
            values[k] = long.work.starting_point(program, own, start if k == 0 else further(program, start))
        except SupportError:
            raise
        except FAILURES as error:
            long.failure = long.failure or error
    return values


def _screened(
    algorithm: Algorithm, problem: Problem, starts: list[dict[str, Tensor]]
) -> Sequence[Screened] | OneByOne | None:
    """Short runs of all starts; one by one where one of them fails before it has begun."""
    if problem.all.scattered:
        return OneByOne(problem.all.scattered)
    try:
        return algorithm.screen(problem, starts)
    except SupportError:
        raise
    except FAILURES as error:
        return OneByOne(f"together they could not begin ({str(error).splitlines()[0]})")


def sound_end(work: Work, seed: int, start: Mapping[str, Any] | Start | None) -> Fit:
    """One start to its end; where that is degenerate and the algorithm's rule says so, others until one is not.

    Raises:
        NumericalError: a degenerate end that the rule refuses, with the components and rows; ``error.fit`` has it.
    """
    rule = getattr(work.algorithm, "degenerate", Keep())
    for attempt in range(1 + (rule.times if isinstance(rule, Restart) else 0)):
        own = seed if attempt == 0 else derive(seed, 13, attempt)
        program = work.program() if attempt else work.first_program()
        values = work.starting_point(program, own, start if attempt == 0 else further(program, start))
        run = work.run(program, values, own)
        try:
            ended(run, work.progress)
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
    error = refused(fit.program, fit.point, run.rows, fit.collapsed, fit.empty)
    if error is not None:
        error.fit = fit
        raise error
    return run


class LongRuns:
    """Runs to their ends, one after the other; the best so far, and of those that end at one optimum the first.

    Attributes:
        program: of the short runs.
        best, began: the best run, and the globals, the seed and the history that it began with.
        reached, tolerance, sound: its end, the noise of ends, and whether it is no degenerate one.
        ends: objective per row at the end of each start, after a screening that of its short run; NaN where it failed.
        cut: starts that a screening cut off.
        alone: why starts could not be screened.
    """

    def __init__(self, work: Work, program: Program) -> None:
        self.work, self.program = work, program
        self.ends = np.full(work.algorithm.restarts, np.nan)
        self.cut: set[int] = set()
        self.alone = ""
        self.began: tuple[dict[str, Tensor], int, list[float]] = ({}, 0, [])
        self.best: Run | None = None
        self.reached, self.tolerance, self.sound = -np.inf, 0.0, False
        self.short_end = -np.inf  # where the best was after its short run
        self.interrupted = False
        self.failure: Exception | None = None
        self.most: int | None = None
        self.done = 0

    def end(self, values: dict[str, Tensor], seed: int, short: Screened | None = None) -> float:
        """The objective per row at the end of a run, which goes on from a short one; nats, NaN where it fails."""
        algorithm, state, history = self.work.algorithm, None, []
        try:
            program = self.program
            if short is not None and short.state is not None:
                state, history = short.state, list(short.history)
            else:
                program = self.work.program()
            run = ended(self.work.run(program, values, seed, state, history), self.work.progress)
        except SupportError:
            raise
        except FAILURES as error:
            self.failure = self.failure or error
            return float("nan")
        self.done += 1
        end, noise = algorithm.reached(run.history) if run.history else (-np.inf, 0.0)
        sound = not algorithm.collapsed(run.state)
        if self.best is None or sound > self.sound or (sound == self.sound and self._higher(end)):
            self.best, self.reached, self.tolerance, self.sound = run, end, noise, sound
            self.short_end = history[-1] if history else -np.inf
            self.began = (values, seed, history)
        self.interrupted = run.status is Status.INTERRUPTED
        return end

    def _higher(self, end: float) -> bool:
        """Whether an end lies above the best one by more than rounding."""
        return end > self.reached and not math.isclose(end, self.reached, rel_tol=TIE, abs_tol=TIE)

    @property
    def enough(self) -> bool:
        """Whether no further start has to run."""
        return self.interrupted or (self.most is not None and self.done >= self.most)

    def finished(self, seed: int, ends: np.ndarray, unfinished: int | None = None) -> Fit:
        """The fit of the best run, with the ends of all starts."""
        if self.best is None:
            assert self.failure is not None
            raise self.failure
        self.best.seed = seed
        if self.interrupted:  # also where an earlier start, which had come to its end, is the best
            self.best.status = Status.INTERRUPTED
        failure = "" if self.failure is None else str(self.failure).splitlines()[0]
        cut = len(self.cut) if unfinished is None else unfinished
        optima = Optima(tuple(ends.tolist()), self.tolerance, self.reached, cut, failure, self.alone)
        return self.best.finished(optima)


def check_shared(algorithm: Algorithm, problem: Problem) -> None:
    """Whether processes with rows of their own can run an algorithm together.

    Raises:
        SupportError: an M-step that needs the rows themselves, not sums over them.
    """
    if not problem.all.shared or not hasattr(algorithm, "variance_floor"):
        return
    plan = plan_of(problem, 0.0) if not problem.program.roles.choices else plan_summed(problem, 0.0)
    if plan.retained:
        raise SupportError(
            given=f"{type(algorithm).__name__} over several processes on a model whose factors {list(plan.retained)} "
            "have no sufficient statistics, so that the M-step needs every row",
            needed="factors of an exponential family whose parameters do not depend on the rows",
            remedy="fit it with lv.SVI(), or in one process",
        )
