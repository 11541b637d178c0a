"""The bootstrap: the spread of an estimate over data sets like the one at hand (Efron 1979)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from latentvars.errors import KindError, LatentVarsError, NumericalError, SettingError
from latentvars.inference import Fit, Fitter, Status
from latentvars.inference.running.algorithm import OneGo
from latentvars.posterior.alignment import Labels, labels_of, matching
from latentvars.posterior.axes import Axes
from latentvars.posterior.latent import has_labels
from latentvars.posterior.relabelling import evenly
from latentvars.posterior.scales import entry_bounds
from latentvars.randomness import derive
from latentvars.rows import Rows
from latentvars.studies.bootstrap_result import Bootstrap
from latentvars.studies.collecting import collected
from latentvars.studies.refitting import again, inside, refitter
from latentvars.studies.resampling import Resampling, resampling

COMPARED_STEPS = 5_000


@dataclass(frozen=True)
class Reference:
    """What the labels of a replicate are matched with.

    Attributes:
        labels: the labels of one local.
        probs: its posterior probabilities under the fit, ``[N, (T,) K]``.
    """

    labels: Labels
    probs: Tensor


@dataclass(frozen=True)
class Refit:
    """Everything that a process needs to make replicates.

    Attributes:
        fitter: from the point of the fit, with a single start.
        data: where the data of a replicate come from.
        restarts: number of further starts of its own.
        compared: rows over which labels are matched.
        references: one for each set of labels.
        seed: of the whole bootstrap.
    """

    fitter: Fitter
    data: Resampling
    restarts: int
    compared: Rows
    references: tuple[Reference, ...]
    seed: int


@dataclass(frozen=True)
class Replicate:
    """One refit: its globals and log-likelihood, or what went wrong."""

    number: int
    values: dict[str, Tensor] | None = None
    log_likelihood: float = float("nan")
    converged: bool = False
    failure: str = ""
    interrupted: bool = False


def bootstrap(
    fit: Fit,
    rows: Any = None,
    *,
    replicates: int = 200,
    seed: int = 0,
    kind: Literal["rows", "parametric"] = "rows",
    weights: Literal["frequency", "sampling"] = "frequency",
    restarts: int = 0,
    workers: int | None = None,
    progress: bool | None = None,
) -> Bootstrap:
    """Refit a model to data sets like its own.

    Each replicate is fitted by the same algorithm, from the point of the fit (probabilities below 0.001 are raised to
    it, so that what was estimated as zero can return; exact zeros of a simplex stay). Where the model names the axes of
    its labels in ``dims()``, the components or states of each replicate are put into the order of the fit.

    Args:
        fit: by EM or SVI.
        rows: the data; those of the fit by default.
        replicates: number of refits, R.
        seed: decides them all, whatever the number of workers.
        kind: ``"rows"``: rows (sequences) are drawn again with replacement, as weights; ``"parametric"``: the observed
            columns are drawn from the fitted model, covariates, lengths and gaps stay (Efron & Tibshirani 1993, ch. 6).
        weights: how ``"rows"`` reads row weights: ``"frequency"``: weight 2 is the row twice; ``"sampling"``: a drawn
            row keeps its weight.
        restarts: further starts of each replicate, of which the best end is kept.
        workers: processes; 1: everything runs here; None: one for each core where the replicates take long.
        progress: show a bar; None: where standard error is a terminal.

    Returns:
        The replicates that succeeded, and how many failed; after Ctrl-C those that were done.

    Raises:
        KindError: a fit by NUTS, Laplace or Pathfinder.
        SettingError: a single row to draw from (use ``kind="parametric"``), or an unknown kind.
        ModelError: ``kind="parametric"`` of a model whose observed sites are no columns.
        NumericalError: every replicate failed.
    """
    if replicates < 2 or restarts < 0:
        raise SettingError(
            f"replicates={replicates}, restarts={restarts}", "at least 2 replicates, 0 restarts", "raise them"
        )
    if isinstance(fit.algorithm, OneGo):
        raise KindError(
            given=f"a fit by {type(fit.algorithm).__name__}, whose draws have the spread of the posterior already",
            needed="a fit whose globals are a point or a guide",
            remedy="read fit.summary(), or bootstrap a fit by lv.EM()",
        )
    used = fit.rows if rows is None else fit.conform(rows)
    compared = evenly(used, COMPARED_STEPS)
    references, aligned = _references(fit, compared)
    refit = Refit(
        refitter(fit, inside(fit.program.space, fit.point), restarts=1),
        resampling(fit, used, kind, weights),
        restarts,
        compared,
        references,
        seed,
    )
    done, interrupted = collected(partial(_replicate, refit), replicates, workers, progress, "replicate")
    return _result(fit, used, done, interrupted, kind, seed, aligned)


def _replicate(refit: Refit, number: int) -> Replicate:
    seed = derive(refit.seed, 20, number)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each replicate would repeat what the fit has said
            data = refit.data.draw(seed)
            best = again(refit.fitter, data, seed)
            for k in range(refit.restarts):
                if best.status is Status.INTERRUPTED:
                    break
                other = again(refit.fitter, data, derive(seed, k), start=False)
                best = max(best, other, key=_objective)
        if best.status is Status.INTERRUPTED:
            return Replicate(number, interrupted=True)
        values = _aligned(best, refit)
    except LatentVarsError as error:
        return Replicate(number, failure=f"{type(error).__name__}: {error.given}")
    return Replicate(number, values, best.log_likelihood, best.status.converged)


def _objective(fit: Fit) -> float:
    return float(fit.history[-1]) if len(fit.history) else -float("inf")


def _aligned(fit: Fit, refit: Refit) -> dict[str, Tensor]:
    values = fit.point
    latent = fit.latent(refit.compared) if refit.references else None
    for reference in refit.references:
        assert latent is not None
        order = matching(reference.probs, latent.mean(reference.labels.local), refit.compared.weights)
        values = reference.labels.permuted(values, order)
    return values


def _references(fit: Fit, compared: Rows) -> tuple[tuple[Reference, ...], bool]:
    """What labels are matched with, and whether every discrete local has its labels matched."""
    latent = fit.latent(compared)
    discrete = tuple(name for name, beliefs in latent.beliefs.items() if has_labels(beliefs[0]))
    dims = Axes.of(fit.model, fit.rows).names
    found = labels_of(dims, fit.program.space.names, discrete)
    aligned = {labels.local for labels in found} == set(discrete)
    if not aligned:
        warnings.warn(
            f"replicates are not aligned for label switching of {', '.join(discrete)}: give the model a dims() that "
            "names the axes of its globals, as {'weights': ('component',), 'z': ('row', 'component')}",
            stacklevel=3,
        )
    return tuple(Reference(labels, latent.mean(labels.local)) for labels in found), aligned


def _result(
    fit: Fit, rows: Rows, done: list[Replicate], interrupted: bool, kind: str, seed: int, aligned: bool
) -> Bootstrap:
    good = [replicate for replicate in done if replicate.values is not None]
    failures = tuple(replicate.failure for replicate in done if replicate.values is None)
    if not good:
        raise NumericalError(
            given=f"{len(failures)} replicates, none of which could be fitted: {failures[0]}",
            needed="data sets like the fit's that can be fitted",
            remedy="fit a simpler model, or use kind='parametric'",
        )
    draws = {name: torch.stack([r.values[name] for r in good if r.values is not None]) for name in fit.point}
    return Bootstrap(
        point=fit.point,
        draws=draws,
        log_likelihood=torch.tensor([replicate.log_likelihood for replicate in good], dtype=torch.float64),
        kind=kind,
        seed=seed,
        failures=failures,
        unconverged=sum(not replicate.converged for replicate in good),
        aligned=aligned,
        interrupted=interrupted,
        bounds={site.name: entry_bounds(site, fit.point[site.name]) for site in fit.program.space.sites},
        axes=Axes.of(fit.model, rows),
    )
