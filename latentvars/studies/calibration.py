"""Simulation-based calibration: whether an algorithm finds the posterior of a model, tried on data of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.errors import KindError, LatentVarsError, NumericalError, SettingError
from latentvars.inference import Fit, Status, from_point
from latentvars.inference import fit as fit_model
from latentvars.inference.running.algorithm import OneGo
from latentvars.inference.sampling import Draws
from latentvars.posterior.datatree import draw_scores
from latentvars.posterior.label_free import LabelFree
from latentvars.posterior.priors import check_proper
from latentvars.posterior.standard_errors import labels
from latentvars.posterior.symmetry import Symmetries
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Rows
from latentvars.studies.calibration_result import Calibration
from latentvars.studies.collecting import collected
from latentvars.studies.resampling import FromModel, resampling

Quantities = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Method(Protocol):
    """A way to a posterior of one's own."""

    def __call__(self, model: LatentModel, rows: Rows, seed: int) -> Fit:
        """A fit whose globals have draws."""
        ...


@dataclass(frozen=True)
class Simulator:
    """Everything that a process needs to simulate and fit.

    Attributes:
        model: the model.
        method: an algorithm, or a way of one's own.
        data: where simulated data come from.
        quantities: of globals ``[S, *shape]``, to be ranked.
        draws: L.
        seed: of all simulations.
    """

    model: Any
    method: Any
    data: FromModel
    quantities: Quantities
    draws: int
    seed: int


@dataclass(frozen=True)
class Simulation:
    """Ranks of one simulation, or what went wrong."""

    number: int
    ranks: dict[str, int] | None = None
    failure: str = ""
    warned: bool = False
    interrupted: bool = False


def calibrate(
    model: LatentModel,
    data: Any,
    algorithm: Any,
    *,
    simulations: int = 200,
    draws: int = 50,
    quantities: Quantities | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Simulation-based calibration (Talts et al. 2018): if globals are drawn from their priors and data from the model
    given them, the rank of each global among draws of its posterior given these data is uniform.

    Ranked are all numbers of the globals, and the log-likelihood of the data, which sees what single globals do not
    (Modrák et al. 2023). Where the density does not change when labels are permuted, they are put into the order of one
    of their numbers, in the truth and in the draws alike; where factors can be turned, ΛΛᵀ takes the place of loadings.

    Args:
        model: with proper priors of all globals.
        data: rows that look like those to be simulated: their number, lengths, covariates and gaps are used, the
            values of observed columns are not.
        algorithm: ``lv.NUTS(...)``, ``lv.SVI(...)``, any that leaves draws; or a function of (model, rows, seed) that
            returns a fit.
        simulations: data sets, M.
        draws: L of each posterior, spread evenly over those that the algorithm leaves; of a sampler few enough of them
            to be nearly independent.
        quantities: function of the globals ``{name: [S, *shape]}`` to what is ranked, ``{name: [S, ...]}``; None: as
            above.
        seed: decides all data, whatever the number of workers.
        workers: processes; 1: everything runs here; None: one for each core where the simulations take long.
        progress: show a bar; None: where standard error is a terminal.

    Returns:
        The ranks, with a test of their uniformity; after Ctrl-C of the simulations that were done.

    Raises:
        SettingError: fewer than 10 simulations or draws.
        ModelError: flat priors, or observed sites that are no columns.
        KindError: an algorithm that leaves a point.
        SettingError: an algorithm that leaves fewer draws.
        NumericalError: no simulation could be fitted.
    """
    if simulations < 10 or draws < 10:
        raise SettingError(f"simulations={simulations}, draws={draws}", "at least 10 of each", "raise them")
    simulator = _simulator(model, data, algorithm, quantities, draws, seed)
    done, interrupted = collected(partial(_simulation, simulator), simulations, workers, progress, "simulation")
    return _result(done, draws, seed, interrupted)


def _simulator(
    model: LatentModel, data: Any, algorithm: Any, quantities: Quantities | None, draws: int, seed: int
) -> Simulator:
    rows = data if isinstance(data, Rows) else Rows.of(data)
    program = Program.of(model, rows)
    trial = from_point(model, rows, _prior_draw(program, derive(seed, 50)))
    check_proper(trial.program)
    source = resampling(trial, trial.rows, "parametric", "frequency")
    assert isinstance(source, FromModel)
    if quantities is None:
        quantities = LabelFree.of(Symmetries.of(trial.program, trial.rows, trial.point))
    return Simulator(model, algorithm, source, quantities, draws, seed)


def _prior_draw(program: Program, seed: int) -> dict[str, Tensor]:
    drawn = program.prior_draw(seed)
    return {name: drawn[name] for name in program.space.names}


def _simulation(simulator: Simulator, number: int) -> Simulation:
    seed = derive(simulator.seed, 51, number)
    program = Program.of(simulator.model, simulator.data.rows)
    truth = _prior_draw(program, seed)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            rows = replace(simulator.data, point=truth).draw(derive(seed, 0))
            fit = _fitted(simulator, rows, derive(seed, 1))
        if fit.status is Status.INTERRUPTED:
            return Simulation(number, interrupted=True)
        values = _spread_draws(fit, simulator.draws, derive(seed, 2))
        ranks = _ranks(simulator, fit, truth, values, derive(seed, 3))
    except (KindError, SettingError):
        raise
    except (LatentVarsError, ArithmeticError, RuntimeError) as error:
        return Simulation(number, failure=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return Simulation(number, ranks, warned=bool(said))


def _fitted(simulator: Simulator, rows: Rows, seed: int) -> Fit:
    method: Any = simulator.method
    if isinstance(method, OneGo) or hasattr(method, "contribution"):
        fit = fit_model(simulator.model, rows, method, seed=seed, progress=False)
    else:
        fit = method(simulator.model, rows, seed)
    values, _ = fit.globals.draws(2, 0)
    if all(bool((value[0] == value[-1]).all()) for value in values.values()):
        raise KindError(
            given=f"{type(method).__name__}, which leaves a point",
            needed="an algorithm that leaves draws of the globals",
            remedy="calibrate lv.NUTS() or lv.SVI() with a guide that has a spread",
        )
    return fit


def _spread_draws(fit: Fit, size: int, seed: int) -> dict[str, Tensor]:
    """Exactly ``size`` draws, spread evenly over all that a sampler left."""
    left = fit.globals.size if isinstance(fit.globals, Draws) else size
    values, _ = fit.globals.draws(left, seed)
    found = len(next(iter(values.values())))
    if found < size:
        raise SettingError(
            given=f"draws={size} where the algorithm leaves {found}",
            needed="as many draws of each posterior as the ranks go up to",
            remedy="raise the draws of the algorithm, or lower draws=",
        )
    at = torch.arange(size) * found // size
    return {name: value[at] for name, value in values.items()}


def _ranks(
    simulator: Simulator, fit: Fit, truth: Mapping[str, Tensor], values: Mapping[str, Tensor], seed: int
) -> dict[str, int]:
    """How many draws are below the truth, ties broken at random."""
    both = {name: torch.cat([truth[name][None].to(value), value]) for name, value in values.items()}
    numbers = dict(simulator.quantities(both))
    _, scores = draw_scores(fit.program, fit.rows, both, seed)
    numbers["log_likelihood"] = scores.sum(1)
    noise = np.random.default_rng(seed)
    found = {}
    for name, value in numbers.items():
        for label, column in zip(labels(name, value[0]), value.reshape(len(value), -1).mT, strict=True):
            if bool((column == column[0]).all()):
                continue
            below, ties = int((column[1:] < column[0]).sum()), int((column[1:] == column[0]).sum())
            found[label] = below + int(noise.integers(ties + 1))
    return found


def _result(done: list[Simulation], draws: int, seed: int, interrupted: bool) -> Calibration:
    good = [one.ranks for one in done if one.ranks is not None]
    failures = tuple(one.failure for one in done if one.ranks is None)
    if not good:
        raise NumericalError(
            given=f"{len(done)} simulations, none of which could be fitted: {next(iter(failures), 'interrupted')}",
            needed="data of the model that can be fitted",
            remedy="look at data drawn from the priors: they may be far from any that could be observed",
        )
    names = [name for name in good[0] if all(name in one for one in good)]
    ranks = {name: np.array([one[name] for one in good]) for name in names}
    return Calibration(ranks, draws, failures, sum(one.warned for one in done), seed, interrupted)
