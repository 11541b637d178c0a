"""The one loop: minibatch SVI, gradient accumulation and batch EM are settings of it."""

from __future__ import annotations

import copy
import itertools
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from latentvars.contract import LatentModel
from latentvars.errors import ModelError, NumericalError, SettingError
from latentvars.inference.algorithm import Algorithm, Problem
from latentvars.inference.backend import Backend, Local
from latentvars.inference.em import EM
from latentvars.inference.fit import Fit, prepared
from latentvars.inference.optima import Optima
from latentvars.inference.starting import starting_point
from latentvars.inference.stopping import Status
from latentvars.program import Program, check_missing, model_modules
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows


def fit(
    model: LatentModel,
    data: Any,
    algorithm: Algorithm | None = None,
    *,
    seed: int = 0,
    start: Mapping[str, Any] | None = None,
    resume: Fit | None = None,
    progress: bool | None = None,
) -> Fit:
    """Fit a latent-variable model.

    Args:
        model: any object with a Pyro ``model(rows)``; it is copied, never changed.
        data: :class:`latentvars.Rows`, or anything it accepts.
        algorithm: ``lv.EM()`` by default; ``lv.SVI(...)``.
        seed: every random number of the run is derived from it; torch's global generator is left alone.
        start: constrained starting values for some or all globals.
        resume: an earlier fit of the same model and data to go on from, with its optimiser's state.
        progress: show a bar with the objective per row; None: where standard error is a terminal.

    Returns:
        The fit; after Ctrl-C the fit so far, with status ``INTERRUPTED``.

    Raises:
        DataError: data that cannot be fitted (empty, infinite, constant where a variance is estimated).
        ModelError: a model that breaks the contract.
        SupportError: a site that the algorithm cannot handle.
        NumericalError: a non-finite objective, with the site and the batch.
    """
    algorithm = algorithm if algorithm is not None else EM()
    if resume is not None:
        return _resumed(resume, data, algorithm, progress)
    rows, program = bind(model, data)
    _check_estimable(model, rows)
    if algorithm.restarts == 1:
        values = starting_point(program, rows, seed, start)
        run = Run(algorithm, program, rows, seed, algorithm.init(Problem(program, rows, values, seed)))
        return run.go(progress).finished(None)
    return _best_of_starts(model, rows, algorithm, seed, start, progress)


def _resumed(resume: Fit, data: Any, algorithm: Algorithm, progress: bool | None) -> Fit:
    """Go on from a copy of the state of an earlier fit, or from its point where the state was not kept."""
    rows = prepared(resume.model, data)
    resume.schema.check(rows)
    if resume.state is not None and type(algorithm) is not type(resume.algorithm):
        raise SettingError(
            given=f"a fit by {type(resume.algorithm).__name__} to be resumed by {type(algorithm).__name__}",
            needed="the same algorithm",
            remedy="start the other one where this fit ended: lv.fit(..., start=fit.point)",
        )
    program, state = _unshared(resume.program, resume.state)
    if state is None:
        state = algorithm.init(Problem(program, rows, resume.point, resume.seed))
    run = Run(algorithm, program, rows, resume.seed, state, list(resume.history))
    return run.go(progress).finished(resume.optima)


def _unshared(program: Program, state: Any) -> tuple[Program, Any]:
    """Copies of what training changes, so that the earlier fit stays as it is."""
    shared = (program.roles, program.roles.space, program.sketches)
    return copy.deepcopy((program, state), {id(value): value for value in shared})


def _best_of_starts(
    model: LatentModel,
    rows: Rows,
    algorithm: Algorithm,
    seed: int,
    start: Mapping[str, Any] | None,
    progress: bool | None,
) -> Fit:
    """Run every start to its end and keep the best; one that fails is counted, and an error only if all do.

    The first start is that of a single run; the others draw new starting values for what ``start`` does not give.
    """
    best: Run | None = None
    ends: list[float] = []
    tolerance, failure, interrupted = 0.0, None, False
    for k in range(algorithm.restarts):
        own = seed if k == 0 else derive(seed, 10, k)
        program = bind(model, rows)[1]
        try:
            values = starting_point(program, rows, own, start)
            state = algorithm.init(Problem(program, rows, values, own))
            run = Run(algorithm, program, rows, own, state).go(progress)
        except NumericalError as error:
            failure = error
            ends.append(float("nan"))
            continue
        end, noise = algorithm.reached(run.history) if run.history else (-np.inf, 0.0)
        if best is None or end > np.nanmax(ends):
            best, tolerance = run, noise
        ends.append(end)
        interrupted = run.status is Status.INTERRUPTED
        if interrupted:
            break
    if best is None:
        assert failure is not None
        raise failure
    best.seed = seed
    if interrupted:  # also where an earlier start, which had come to its end, is the best
        best.status = Status.INTERRUPTED
    return best.finished(Optima(tuple(ends), tolerance))


def bind(model: LatentModel, data: Any) -> tuple[Rows, Program]:
    """The checked rows, and the program of a private copy of the model."""
    rows = prepared(model, data)
    trained = _copied(model)
    start_networks = getattr(trained, "start_networks", None)
    if start_networks is not None:
        start_networks(rows)
    program = Program.of(trained, rows)
    check_missing(program, rows)
    return rows, program


def _copied(model: LatentModel) -> LatentModel:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            given=f"{type(model).__name__} cannot be copied: {error}",
            needed="a model that copy.deepcopy accepts: fitting works on a copy",
            remedy="detach tensors that are attributes of the model, and keep no open files or locks in it",
        ) from error


def _check_estimable(model: LatentModel, rows: Rows) -> None:
    """The model's own objections to these rows, where it has a ``check``."""
    check = getattr(model, "check", None)
    if check is not None:
        check(rows)


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
        """Passes over the data until a rule says stop."""
        began = time.monotonic()
        weight = float(self.rows.weights.sum())
        _train(self.program, True)
        hidden = None if progress is None else not progress
        with Interruption() as interrupted, tqdm(total=self._passes_left(), disable=hidden, unit="pass") as bar:
            for epoch in range(len(self.history), self.algorithm.passes):
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
        self.seconds = time.monotonic() - began
        return self

    def _passes_left(self) -> int:
        return max(0, self.algorithm.passes - len(self.history))

    def _pass(self, epoch: int, interrupted: Interruption) -> float | None:
        """One pass over the data; returns its objective, nats, or None where it was cut short."""
        size = self.algorithm.rows_per_batch(self.rows)
        batches = self.rows.batches(
            size, seed=derive(self.seed, 4), epoch=epoch, shuffle=self.algorithm.shuffles(), dtype=self.program.dtype
        )
        objective = 0.0
        for group in grouped(batches, self.algorithm.batches_per_update(self.rows)):
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

    def _not_finite(self, group: list[Batch], epoch: int) -> NumericalError:
        """Say which site on which rows is to blame."""
        values = self.algorithm.posterior(self.state).point
        culprits = []
        for batch in group:
            densities = self.program.site_log_probs(values, batch, derive(self.seed, 5))
            for name, log_prob in densities.items():
                if name in self.program.space.names:
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
