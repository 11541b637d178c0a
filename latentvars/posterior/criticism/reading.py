"""What criticism reads of a fit, checked; and importance weights."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from latentvars.errors import DataError, NumericalError, SettingError, SupportError
from latentvars.posterior.datatree import Knowledge
from latentvars.posterior.smoothing import pareto_smoothed
from latentvars.rows import Rows

DRAWS = 1_000


class Fitted(Protocol):
    """What is read: :class:`latentvars.Fit`."""

    @property
    def rows(self) -> Rows: ...

    @property
    def exact(self) -> bool: ...

    @property
    def extent(self) -> object | None: ...

    @property
    def seed(self) -> int: ...

    def knowledge(self, draws: int | None = None, *, seed: int | None = None) -> Knowledge: ...


def known_of(fit: Fitted, draws: int | None, seed: int | None) -> Knowledge:
    """The model, its data and what is known of the globals; 1,000 draws of them at most, unless more are asked for.

    Raises:
        SupportError: a fit of several processes, or rows that stay in their files.
        SettingError: fewer than one draw.
    """
    if fit.extent is not None:
        raise SupportError(
            given="a fit of several processes, each of which has rows of its own",
            needed="all rows in one process",
            remedy="read it in one process: lv.from_point(model, rows, fit.point)",
        )
    if fit.rows.streamed:
        raise SupportError(
            given="rows that stay in their files",
            needed="rows in memory",
            remedy="read some of them: lv.from_point(model, rows.subset(range(10_000)), fit.point)",
        )
    if draws is not None and draws < 1:
        raise SettingError(f"draws={draws}", "at least one draw", "write draws=1000")
    return fit.knowledge(DRAWS if draws is None else draws, seed=seed)


def counted_once(rows: Rows, what: str) -> None:
    """Whether each row counts once.

    Raises:
        DataError: rows with weights.
    """
    if bool((rows.weights != 1).any()):
        raise DataError(
            given=f"{what} of rows with weights",
            needed="rows that count once",
            remedy="repeat rows in the place of whole weights",
        )


def repeated(rows: Rows, remedy: str) -> Rows:
    """Rows of weight w as w rows.

    Args:
        rows: with any weights.
        remedy: what to do about weights that are no whole numbers.

    Raises:
        SettingError: such weights.
    """
    weights = rows.weights
    if bool((weights == 1).all()):
        return rows
    if bool((weights != weights.round()).any()):
        raise SettingError(
            given="row weights that are not whole numbers",
            needed="whole numbers: each row is drawn as many times",
            remedy=remedy,
        )
    again = rows.subset(torch.arange(len(rows)).repeat_interleave(weights.long()))
    return again.with_weights(torch.ones(len(again), dtype=torch.float64))


def smoothed(log_ratios: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed importance weights (Vehtari et al. 2024).

    Args:
        log_ratios: of target to proposal at S draws, ``[S, M]``, up to constants, nats.

    Returns:
        Normalised log weights ``[S, M]``, and the shape k of the tail of each set ``[M]``: above .7 the weights are not
        to be trusted. Equal ratios have k = −inf.

    Raises:
        NumericalError: ratios that are not finite.
    """
    if not bool(log_ratios.isfinite().all()):
        raise NumericalError(
            given=f"{int((~log_ratios.isfinite()).sum())} log densities that are not finite",
            needed="finite ones at every draw",
            remedy="look at the draws: priors may reach where the density has no value",
        )
    found = pareto_smoothed(log_ratios)
    return found.log_weights, found.k_hat


def towards_posterior(known: Knowledge, prior: Tensor, scores: Tensor) -> Tensor:
    """Log ratio of the posterior to what the draws are from, ``[S]``, nats: zero for a sampler.

    Args:
        known: with draws.
        prior: log prior of each draw, ``[S]``.
        scores: of each row ``[S, N]``.
    """
    if known.log_q is None:
        return torch.zeros_like(prior)
    return prior + scores @ known.rows.weights.to(scores.dtype) - known.log_q
