"""``lv.fit``: from a model and data to a fit."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from latentvars.contract import LatentModel
from latentvars.errors import DataError, KindError, NameUnknownError, ProcessError, SettingError
from latentvars.inference.amortised import Amortised, with_guide
from latentvars.inference.em.em import EM
from latentvars.inference.fits.fit import Fit
from latentvars.inference.fits.saving import text
from latentvars.inference.guides.posteriors import PointMass
from latentvars.inference.restarts import Work, best_of_starts, sound_end
from latentvars.inference.running.algorithm import Algorithm, OneGo
from latentvars.inference.running.backend import Backend, Local
from latentvars.inference.running.binding import Restrictions, bind, check_estimable, prepared
from latentvars.inference.running.snapshots import Checkpoint
from latentvars.inference.running.stopping import Status
from latentvars.inference.running.whole import Whole
from latentvars.inference.sampling import NUTS
from latentvars.inference.sampling.local_draws import with_locals
from latentvars.inference.sampling.nuts import check_drawable
from latentvars.inference.spreading import spread_starts
from latentvars.inference.starting.values import check_interior, starting_point, starting_points
from latentvars.program import Program
from latentvars.rows import Rows
from latentvars.starts import Memberships, Start


def fit(
    model: LatentModel,
    data: Any,
    algorithm: Algorithm | OneGo | None = None,
    *,
    seed: int = 0,
    start: Mapping[str, Any] | Start | None = None,
    resume: Fit | None = None,
    progress: bool | None = None,
    fixed: Mapping[str, Any] | None = None,
    tied: Mapping[str, Any] | None = None,
    backend: Backend | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    guide: Literal["auto"] | Amortised | None = None,
) -> Fit:
    """Fit a latent-variable model.

    Args:
        model: any object with a Pyro ``model(rows)``; it is copied, never changed.
        data: :class:`latentvars.Rows`, or anything it accepts.
        algorithm: ``lv.EM()`` by default; ``lv.SVI(...)``, ``lv.NUTS(...)``, ``lv.Laplace()``, ``lv.Pathfinder()``.
        seed: every random number of the run is derived from it; torch's global generator is left alone.
        start: constrained starting values for some or all globals; or a way to find them: ``lv.KMeansPlusPlus()`` (the
            default of built-in models), ``lv.RandomRows()``, ``lv.Hierarchical()``, ``lv.PriorDraws()`` (the default of
            models without ``initial``), ``lv.Pathfinder()``, or ``lv.Memberships(labels or shares)``. With
            ``restarts``, starts after the first are drawn anew.
        resume: an earlier fit of the same model and data to go on from, with its optimiser's state.
        progress: show a bar with the objective per row; None: where standard error is a terminal.
        fixed: what is known of globals: site → array of its shape, NaN where an entry is free, as
            ``{"transition": [[nan, nan, 0], [0, nan, nan], [0, 0, 1]]}`` for a left-right chain. Fixed entries stay as
            they are to the bit, whatever ``start`` says, and are no degrees of freedom. Single entries can be fixed
            where they are independent, and in rows of probabilities.
        tied: entries that share one value: site → whole numbers of its shape, equal for the entries of a group,
            negative for entries that are alone, as ``{"scale": [[0], [0], [-1]]}``. A group is one degree of freedom.
        backend: ``lv.Distributed()`` in every one of several processes; None: this process alone.
        checkpoint: a folder that a run is written to while it is under way, or :class:`latentvars.Checkpoint` with how
            often; ``resume=lv.load(folder, data=rows)`` goes on from there.
        guide: how continuous locals are drawn where the model has no ``guide(rows)``: ``"auto"`` or
            ``lv.Amortised(...)``, a network from the columns of a row to a normal; the fitted model keeps it.

    Returns:
        The fit; after Ctrl-C the fit so far, with status ``INTERRUPTED``.

    Raises:
        DataError: data that cannot be fitted (empty, infinite, constant where a variance is estimated).
        ModelError: a model that breaks the contract.
        SupportError: a site that the algorithm cannot handle, or of which single entries cannot be fixed or tied.
        SettingError: values in ``fixed`` or ``tied`` that cannot be.
        NumericalError: a non-finite objective, with the site and the batch; an M-step that fails; a fall of EM's
            objective.
        ProcessError: another process has failed, or is gone.

        An error that breaks a run off has the fit before it as ``error.fit``, with status ``FAILED``: it can be read,
        saved and resumed.
    """
    algorithm = algorithm if algorithm is not None else EM()
    _check_kinds(algorithm, start, resume)
    if guide is not None:
        if resume is not None:
            raise SettingError("guide= together with resume=", "one of them", "leave it out: a fit keeps its guide")
        data = Rows.of(data)
        model = with_guide(model, data, guide)
    if isinstance(algorithm, NUTS):
        data = Rows.of(data)
        model = with_locals(model, data)
    if isinstance(algorithm, OneGo):
        _check_alone(algorithm, resume, backend, checkpoint)
        return _in_one_go(model, data, algorithm, seed, start, progress, Restrictions(fixed or {}, tied or {}))
    if resume is not None:
        if fixed is not None or tied is not None:
            raise SettingError(
                "fixed= or tied= together with resume=", "one of them", "leave them out: a resumed fit keeps its own"
            )
        return _resumed(resume, data, algorithm, progress, backend, Checkpoint.of(checkpoint))
    known, saved = Restrictions(fixed or {}, tied or {}), Checkpoint.of(checkpoint)
    processes = (backend or Local()).joined()
    rows, bound = processes.together(lambda: bind(model, data, known))
    whole = Whole.of(rows, processes)
    _check_agreed(whole, (text(algorithm), seed, text(model), rows.schema.columns))
    processes.together(lambda: check_estimable(model, whole.telling))
    work = Work(model, whole, algorithm, known, progress, saved, None if whole.scattered else bound)
    if processes.size > 1:
        start = _agreed_start(whole, start)
    if algorithm.restarts == 1:
        return sound_end(work, seed, start)
    return spread_starts(work, seed, start) if processes.spreads_starts else best_of_starts(work, seed, start)


def _in_one_go(
    model: LatentModel,
    data: Any,
    algorithm: OneGo,
    seed: int,
    start: Mapping[str, Any] | Start | None,
    progress: bool | None,
    known: Restrictions,
) -> Fit:
    """A fit without passes; each chain or path has a start of its own for what ``start`` leaves open."""
    rows, program = bind(model, data, known)
    check_drawable(program, rows, type(algorithm).__name__)
    starts = []
    for values in starting_points(program, rows, seed, algorithm.starts, start):
        check_interior(program.space, values)
        starts.append(program.space.unconstrain(values))
    began = time.monotonic()
    found, status = algorithm.sample(program, rows, starts, seed, progress)
    seconds = time.monotonic() - began
    return Fit.of(program, rows, algorithm, found, status=status, history=np.zeros(0), seed=seed, seconds=seconds)


def _check_alone(algorithm: OneGo, *others: Any) -> None:
    """It goes in one go, in one process."""
    for name, value, remedy in zip(
        ("resume", "backend", "checkpoint"),
        others,
        (
            "begin where the fit ended: start=fit.point",
            "leave it out: all rows have to be in one process",
            "leave it out, and save the fit that comes out",
        ),
        strict=True,
    ):
        if value is not None:
            what = f"lv.{type(algorithm).__name__} with {name}="
            raise SettingError(what, "a run in one go, in one process", remedy)


def _check_agreed(whole: Whole, said: Any) -> None:
    """All processes have to do the same.

    Raises:
        ProcessError: they were called with different arguments.
    """
    if whole.backend.size == 1:
        return
    found = whole.backend.gather(said)
    other = next((rank for rank, one in enumerate(found) if one != found[0]), None)
    if other is not None:
        raise ProcessError(
            given=f"process {other} called lv.fit with {found[other]}, process 0 with {found[0]}",
            needed="the same model, algorithm, seed and columns in every process",
            remedy="call it with the same arguments but for the rows",
        )


def _agreed_start(whole: Whole, start: Any) -> Any:
    """The starting values of the first process; a way to find them is followed by each on the same rows."""
    if isinstance(start, Memberships) and whole.scattered:
        raise SettingError(
            given=f"start=lv.Memberships(...) where {whole.scattered}",
            needed="values, or a way to find them in some of the rows",
            remedy="start from values of the globals, or from lv.KMeansPlusPlus()",
        )
    values = start if isinstance(start, Mapping) else None
    first = whole.backend.gather(None if values is None else dict(values))[0]
    return start if first is None else first


def _check_kinds(algorithm: Any, start: Any, resume: Any) -> None:
    """The arguments are what their names say."""
    if isinstance(algorithm, type) or not (hasattr(algorithm, "contribution") or isinstance(algorithm, OneGo)):
        name = algorithm.__name__ if isinstance(algorithm, type) else repr(algorithm)
        raise KindError(f"the algorithm {name}", "an algorithm with its settings", "write lv.EM() or lv.SVI()")
    if start is not None and (isinstance(start, type) or not (isinstance(start, Mapping) or hasattr(start, "again"))):
        name = start.__name__ if isinstance(start, type) else type(start).__name__
        raise KindError(
            f"start= is a {name}",
            "a mapping from globals to values, or a way to start",
            "write start={'loc': [0.0, 1.0]} or start=lv.KMeansPlusPlus()",
        )
    if resume is not None and not isinstance(resume, Fit):
        raise KindError(f"resume= is a {type(resume).__name__}", "a fit", "pass what lv.fit or lv.load returned")


def _resumed(
    resume: Fit,
    data: Any,
    algorithm: Algorithm,
    progress: bool | None,
    backend: Backend | None,
    checkpoint: Checkpoint | None,
) -> Fit:
    """Go on from a copy of the state of an earlier fit, or from its point where the state was not kept."""
    processes = (backend or Local()).joined()
    rows = processes.together(lambda: _same_rows(resume, data, algorithm))
    whole = Whole.of(rows, processes)
    _check_agreed(whole, (text(algorithm), resume.seed, len(resume.history), _printed(resume.point)))
    if resume.state is not None and whole.shared != (resume.extent is not None):
        raise SettingError(
            given="a fit of rows in one process to be resumed by several, or the other way round",
            needed="the processes of the earlier fit",
            remedy="begin a new fit where it ended: lv.fit(..., start=fit.point)",
        )
    program, state = _unshared(resume.program.given({}), resume.state)
    known = Restrictions(program.space.fixed, program.space.tied)
    work = Work(resume.model, whole, algorithm, known, progress, checkpoint)
    run = work.run(program, resume.point, resume.seed, state, resume.history.tolist())
    return run.go(progress).finished(resume.optima)


def _printed(point: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in point.items()}


def _same_rows(resume: Fit, data: Any, algorithm: Algorithm) -> Rows:
    """The rows that a fit is to go on with; they have to be those of the fit."""
    rows = prepared(resume.model, data)
    resume.schema.check(rows)
    if resume.state is not None and type(algorithm) is not type(resume.algorithm):
        raise SettingError(
            given=f"a fit by {type(resume.algorithm).__name__} to be resumed by {type(algorithm).__name__}",
            needed="the same algorithm",
            remedy="start the other one where this fit ended: lv.fit(..., start=fit.point)",
        )
    if resume.state is not None and rows.digest() != resume.rows.digest():
        raise DataError(
            given=f"a fit of {len(resume.rows)} rows to be resumed on {len(rows)} rows that are not the same",
            needed="the data of the earlier fit",
            remedy="begin a new fit where it ended: lv.fit(..., start=fit.point)",
        )
    return rows


def _unshared(program: Program, state: Any) -> tuple[Program, Any]:
    """Copies of what training changes, so that the earlier fit stays as it is."""
    shared = (program.roles, program.roles.space, program.sketches)
    return copy.deepcopy((program, state), {id(value): value for value in shared})


def from_point(model: LatentModel, data: Any, point: Mapping[str, Any], *, seed: int = 0) -> Fit:
    """A fit at given parameters, without fitting: every readout of a fit works on it.

    Args:
        model: the model.
        data: rows.
        point: constrained values of all globals.
        seed: of draws made later.

    Raises:
        NameUnknownError: a global is missing, or a name is that of none.
    """
    rows, program = bind(model, data, start=False)
    absent = sorted(set(program.space.names) - set(point))
    if absent:
        raise NameUnknownError(
            given=f"a point with {sorted(point)}",
            needed=f"a value for every global: {absent} too",
            remedy="add them, or fit the model with these values as start=",
        )
    values = starting_point(program, rows, seed, point)
    return Fit.of(program, rows, None, PointMass(values), status=Status.GIVEN, history=np.zeros(0), seed=seed)
