"""A model fitted for several numbers of components, or structures, of which the best is to be found."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from latentvars.contract import LatentModel
from latentvars.errors import KindError, NumericalError, SettingError
from latentvars.inference import Fit, Status
from latentvars.inference import fit as fit_model
from latentvars.inference.running.algorithm import Algorithm, OneGo
from latentvars.rows import Rows
from latentvars.studies.collecting import collected
from latentvars.studies.sweep_result import Sweep

Factory = Callable[[Any], LatentModel] | Mapping[Any, LatentModel]


@dataclass(frozen=True)
class Trials:
    """Everything that a process needs to fit the model of each value.

    Attributes:
        factory: value → model.
        values: those to try.
        rows: the data.
        algorithm: how; None: by default.
        seed: of each fit.
    """

    factory: Factory
    values: tuple[Any, ...]
    rows: Rows
    algorithm: Algorithm | OneGo | None
    seed: int


@dataclass(frozen=True)
class Trial:
    """The fit of one value, or why there is none."""

    number: int
    fit: Fit | None = None
    failure: str = ""
    seconds: float = 0.0
    interrupted: bool = False


def sweep(
    factory: Factory,
    data: Any,
    values: Iterable[Hashable] | None = None,
    algorithm: Algorithm | OneGo | None = None,
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Fit one model for each value to the same rows, and compare them.

    ``lv.sweep(lv.models.GaussianMixture, x, range(1, 7), lv.EM(restarts=10))``, or over structures as well:
    ``lv.sweep(lambda at: lv.models.GaussianMixture(at[0], covariance=at[1]), x, [(2, "full"), (2, "tied")])``. The fit
    of each value is what ``lv.fit(factory(value), data, algorithm, seed=seed)`` gives, whatever the others are.

    Args:
        factory: value → model; or a mapping from names to models.
        data: rows.
        values: numbers of components, or anything hashable, each once; None: all names of a mapping.
        algorithm: as in ``lv.fit``; with several starts (``restarts=``) the table says how many reached the best end.
        seed: of every fit.
        workers: processes; 1: everything runs here; None: one for each core where the fits take long. In processes the
            factory has to arrive there, and the fits have to come back.
        progress: show a bar; None: where standard error is a terminal.

    Returns:
        The fits; values that could not be fitted are kept with the reason. After Ctrl-C those that were done.

    Raises:
        SettingError: no values, or one twice.
        KindError: values that cannot be keys; none, without a mapping.
        NumericalError: no value could be fitted.
    """
    trials = Trials(factory, _checked(factory, values), Rows.of(data), algorithm, seed)
    done, interrupted = collected(partial(_trial, trials), len(trials.values), workers, progress, "fit")
    fits = {trials.values[trial.number]: trial.fit for trial in done if trial.fit is not None}
    failures = {trials.values[trial.number]: trial.failure for trial in done if trial.fit is None}
    if not fits:
        raise NumericalError(
            given=f"{len(failures)} values, none of which could be fitted: {next(iter(failures.values()), '')}",
            needed="models that can be fitted to these rows",
            remedy="fit one of them by lv.fit to see where it fails",
        )
    seconds = {trials.values[trial.number]: trial.seconds for trial in done}
    return Sweep(_sharing(fits, trials.rows), failures, seconds, trials.values, seed, interrupted)


def _checked(factory: Factory, values: Iterable[Hashable] | None) -> tuple[Any, ...]:
    if values is None:
        if not isinstance(factory, Mapping):
            raise KindError("a factory without values", "what it is to be called with", "write values=range(1, 7)")
        values = tuple(factory)
    found = tuple(values)
    wrong = next((value for value in found if not isinstance(value, Hashable)), None)
    if wrong is not None:
        raise KindError(f"the value {wrong!r}", "values that can be keys", "write tuples in the place of lists")
    if not found or len(set(found)) < len(found):
        raise SettingError(f"the values {list(found)}", "one or more, each once", "correct values=")
    return found


def _trial(trials: Trials, number: int) -> Trial:
    value, began = trials.values[number], time.monotonic()
    try:
        made = trials.factory[value] if isinstance(trials.factory, Mapping) else trials.factory(value)
        fit = fit_model(made, trials.rows, trials.algorithm, seed=trials.seed, progress=False)
    except Exception as error:  # whatever is wrong with one model, the others are fitted
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Trial(number, failure=reason, seconds=time.monotonic() - began)
    if fit.status is Status.INTERRUPTED:
        return Trial(number, interrupted=True)
    return Trial(number, fit, seconds=time.monotonic() - began)


def _sharing(fits: Mapping[Any, Fit], rows: Rows) -> dict[Any, Fit]:
    """Fits that come from other processes with the rows that are here, not copies of them."""
    digest = rows.digest()
    return {
        value: replace(fit, rows=rows) if fit.rows is not rows and fit.rows.digest() == digest else fit
        for value, fit in fits.items()
    }
