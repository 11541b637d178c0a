"""The bootstrap likelihood-ratio test: are more components there than chance would show?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.errors import DataError, KindError, LatentVarsError, NumericalError, SettingError, SupportError
from latentvars.inference import EM, Fit, Fitter, Status
from latentvars.inference import fit as fit_model
from latentvars.inference.guides.posteriors import PointMass
from latentvars.randomness import derive
from latentvars.studies.collecting import collected
from latentvars.studies.refitting import again, inside, refitter
from latentvars.studies.resampling import Resampling, resampling

WORSE = 0.05  # nats below the smaller model: more than a fit loses that stops within its tolerance


@dataclass(frozen=True, eq=False)
class LikelihoodRatio:
    """An observed 2 Δ log L, and those of data drawn from the smaller model.

    Attributes:
        statistic: observed, nats times two.
        replicates: ``[R]``, of those that succeeded.
        parameters: degrees of freedom of the smaller and of the larger model.
        failures: what went wrong in each replicate that is not among them.
        worse: how many replicates had a larger model that fits worse than the smaller one: a bad optimum.
        unconverged: how many had a fit that stopped at a limit.
        seed: that decided the replicates.
        interrupted: whether Ctrl-C ended them early.
        large: the fit of the larger model to the data.
    """

    statistic: float
    replicates: Tensor = field(repr=False)
    parameters: tuple[int, int]
    failures: tuple[str, ...]
    worse: int
    unconverged: int
    seed: int
    interrupted: bool
    large: Fit = field(repr=False)

    def __len__(self) -> int:
        return len(self.replicates)

    @property
    def p_value(self) -> float:
        """(1 + how many replicates are at least the observed one) / (1 + R) (Davison & Hinkley 1997, eq. 4.11)."""
        return (1 + int((self.replicates >= self.statistic).sum())) / (1 + len(self))

    def critical(self, level: float = 0.05) -> float:
        """The quantile of 1 − level of the replicates, beyond which the smaller model is rejected.

        Raises:
            SettingError: a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise SettingError(f"level={level}", "a probability between 0 and 1", "write critical(0.05)")
        return float(torch.quantile(self.replicates, 1 - level))

    def __str__(self) -> str:
        small, large = self.parameters
        total = len(self) + len(self.failures)
        notes = [
            f"{len(self.failures)} failed ({self.failures[0]})" if self.failures else "",
            f"{self.worse} with a larger model that fits worse: raise restarts=" if self.worse else "",
            f"{self.unconverged} did not converge" if self.unconverged else "",
            "interrupted" if self.interrupted else "",
        ]
        lines = [
            f"Likelihood ratio of {small} against {large} free parameters: 2 Δ log L = {self.statistic:.4f}, "
            f"p = {self.p_value:.4g}",
            ", ".join([f"  {len(self)} of {total} replicates from the smaller model", *(n for n in notes if n)]),
            f"  theirs: mean {float(self.replicates.mean()):.4f}, 95 % below {self.critical():.4f}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Comparison:
    """Everything that a process needs to make replicates."""

    small: Fitter
    large: Fitter
    data: Resampling
    seed: int


@dataclass(frozen=True)
class Simulated:
    """2 Δ log L of one replicate, or what went wrong."""

    number: int
    statistic: float = float("nan")
    worse: bool = False
    converged: bool = False
    failure: str = ""
    interrupted: bool = False


def likelihood_ratio(
    small: Fit,
    large: Fit | LatentModel,
    *,
    replicates: int = 99,
    restarts: int = 5,
    seed: int = 0,
    workers: int | None = None,
    progress: bool | None = None,
) -> LikelihoodRatio:
    """Test a model against a larger one by data drawn from the smaller (McLachlan 1987; McLachlan & Peel 2000, 6.4).

    For numbers of components or states 2 Δ log L has no χ² law, as the smaller model lies on the edge of the larger.
    Here its law is found by simulation: both models are fitted to data from the smaller fit, each from its own point on
    the data and from new starts. A larger model that misses its optimum in the replicates makes p too small: raise
    ``restarts`` until ``worse`` is 0 and p does not change.

    Args:
        small: a fit by EM, or another whose globals are a point, of a model without continuous locals.
        large: a fit of the larger model to the same rows, with as many starts; or the model, which is then fitted.
        replicates: data sets, R; p is a multiple of 1 / (R + 1).
        restarts: starts of each fit to a replicate.
        seed: decides everything, whatever the number of workers.
        workers: processes; 1: everything runs here; None: one for each core where the replicates take long.
        progress: show a bar; None: where standard error is a terminal.

    Returns:
        The observed ratio, the replicates and p; after Ctrl-C of those that were done.

    Raises:
        KindError: globals that are a distribution.
        SupportError: continuous locals, whose log-likelihoods are bounds.
        SettingError: a larger model without more free parameters; rows that cannot be drawn anew.
        DataError: fits of different rows.
        NumericalError: every replicate failed.
    """
    if replicates < 1 or restarts < 1:
        raise SettingError(f"replicates={replicates}, restarts={restarts}", "at least 1 of each", "raise them")
    _check(small)
    if not isinstance(large, Fit):
        algorithm: Any = EM() if small.algorithm is None else small.algorithm
        algorithm = replace(algorithm, restarts=max(restarts, getattr(small.algorithm, "restarts", 1)))
        large = fit_model(large, small.rows, algorithm, seed=seed, progress=False)
    _check(large)
    _check_pair(small, large)
    statistic = 2 * (large.log_likelihood - small.log_likelihood)
    if _is_worse(small, large):
        _warn(f"the larger model fits the data worse than the smaller one, 2 Δ log L = {statistic:.4f}")
    data = resampling(small, small.rows, "parametric", "frequency")
    comparison = Comparison(_refitter(small, restarts), _refitter(large, restarts), data, seed)
    done, interrupted = collected(partial(_simulated, comparison), replicates, workers, progress, "replicate")
    return _result(statistic, small, large, done, interrupted, seed)


def _refitter(fit: Fit, restarts: int) -> Fitter:
    return refitter(fit, inside(fit.program.space, fit.point), restarts)


def _check(fit: Fit) -> None:
    """Whether the log-likelihood of a fit is a maximum."""
    if not isinstance(fit.globals, PointMass):
        raise KindError(
            given=f"globals that are a distribution ({type(fit.globals).__name__})",
            needed="a maximum of the likelihood",
            remedy="fit both models by lv.EM(); draws are compared by lv.compare",
        )
    if not fit.exact:
        raise SupportError(
            given="a model with continuous locals, whose log-likelihoods are lower bounds",
            needed="log-likelihoods",
            remedy="integrate the locals out in the model; differences of bounds are no likelihood ratios",
        )


def _check_pair(small: Fit, large: Fit) -> None:
    if small.rows.digest() != large.rows.digest():
        raise DataError(
            given="fits of different rows", needed="both of the same", remedy="fit both models to the same Rows"
        )
    if large.free_parameters <= small.free_parameters:
        raise SettingError(
            given=f"a larger model of {large.free_parameters} free parameters, a smaller one of "
            f"{small.free_parameters}",
            needed="more in the larger one, of which the smaller is a special case",
            remedy="change their places",
        )


def _is_worse(small: Fit, large: Fit) -> bool:
    return large.log_likelihood < small.log_likelihood - WORSE


def _warn(what: str) -> None:
    warnings.warn(
        f"{what}: a bad optimum (or, under priors, a mode elsewhere); raise restarts=", UserWarning, stacklevel=3
    )


def _simulated(comparison: Comparison, number: int) -> Simulated:
    seed = derive(comparison.seed, 21, number)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each replicate would repeat what the fits have said
            rows = comparison.data.draw(seed)
            small = again(comparison.small, rows, derive(seed, 0))
            if small.status is Status.INTERRUPTED:
                return Simulated(number, interrupted=True)
            large = again(comparison.large, rows, derive(seed, 1))
    except LatentVarsError as error:
        return Simulated(number, failure=f"{type(error).__name__}: {error.given}")
    if large.status is Status.INTERRUPTED:
        return Simulated(number, interrupted=True)
    converged = small.status.converged and large.status.converged
    return Simulated(number, 2 * (large.log_likelihood - small.log_likelihood), _is_worse(small, large), converged)


def _result(
    statistic: float, small: Fit, large: Fit, done: list[Simulated], interrupted: bool, seed: int
) -> LikelihoodRatio:
    good = [one for one in done if not one.failure]
    failures = tuple(one.failure for one in done if one.failure)
    if not good:
        raise NumericalError(
            given=f"{len(failures)} replicates, none of which could be fitted: {failures[0]}",
            needed="data from the smaller fit that both models can be fitted to",
            remedy="fit simpler models, or give them priors",
        )
    worse = sum(one.worse for one in good)
    if worse:
        _warn(f"the larger model fits worse than the smaller one in {worse} of {len(good)} replicates")
    return LikelihoodRatio(
        statistic=statistic,
        replicates=torch.tensor([one.statistic for one in good], dtype=torch.float64),
        parameters=(small.free_parameters, large.free_parameters),
        failures=failures,
        worse=worse,
        unconverged=sum(not one.converged for one in good),
        seed=seed,
        interrupted=interrupted,
        large=large,
    )
