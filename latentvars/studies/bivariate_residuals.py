"""Bivariate residuals, with p-values from refits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from latentvars.errors import KindError, LatentVarsError, NumericalError, SettingError, SupportError
from latentvars.inference import EM, Fit, Status
from latentvars.inference import fit as fit_model
from latentvars.posterior.criticism.bivariate import BivariateResiduals, bivariate_tables
from latentvars.posterior.criticism.reading import known_of
from latentvars.randomness import derive
from latentvars.studies.bootstrap import inside
from latentvars.studies.parallel import spread
from latentvars.studies.resampling import Resampling, resampling

TABLE_DRAWS = 100


@dataclass(frozen=True)
class Again:
    """What a process needs to refit a model to data of its own.

    Attributes:
        model: the fitted model.
        algorithm: with a single start.
        data: where the data of a replicate come from.
        point: where each replicate starts.
        pairs: how many there are.
        seed: of all replicates.
        fixed, tied: what is known of the globals, as in the fit.
    """

    model: Any
    algorithm: Any
    data: Resampling
    point: dict[str, Tensor]
    pairs: int
    seed: int
    fixed: dict[str, Tensor]
    tied: dict[str, Tensor]


def bivariate_residuals(
    fit: Fit,
    *,
    replicates: int = 0,
    seed: int = 0,
    workers: int | None = None,
    progress: bool | None = None,
) -> BivariateResiduals:
    """Pearson's χ² of each pair of categorical items divided by its degrees of freedom (Vermunt & Magidson 2005): large
    where a model leaves a dependence between two items unexplained.

    The expected table of a pair is exact, from the marginal likelihood of two items with the others missing: any model
    of Bernoulli or Categorical columns will do, one's own as well. Missing entries are left out pair by pair, row
    weights are counts. χ² / df has no χ² distribution, as the globals were fitted to the same tables; ``replicates``
    refits to data from the model give p-values (Oberski, van Kollenburg & Vermunt 2013; Oberski 2016).

    Args:
        fit: of any algorithm; with draws of the globals expected tables are averaged over 100 of them.
        replicates: refits to data drawn from the model, each from the point of the fit; 0: no p-values.
        seed: of the replicates.
        workers: processes; 1: everything runs here; None: one for each core where the replicates take long.
        progress: show a bar; None: where standard error is a terminal.

    Raises:
        DataError: sequences, or fewer than two categorical items.
        MissingDataError: a column of items that the model computes with.
        SupportError: continuous locals.
        KindError: replicates of a fit by a sampler.
        SettingError: a negative number of replicates; replicates of weights that are not whole numbers.
        NumericalError: every replicate failed.
    """
    if replicates < 0:
        raise SettingError(f"replicates={replicates}", "0 or more", "write replicates=200")
    if not fit.exact:
        raise SupportError(
            given=f"the continuous locals {list(fit.program.roles.continuous)}, of which log-likelihoods are bounds",
            needed="exact probabilities of two items",
            remedy="compare tables of the items by lv.predictive_check(fit, quantities)",
        )
    known = known_of(fit, TABLE_DRAWS, fit.seed)
    found = BivariateResiduals(bivariate_tables(known))
    if not replicates:
        return found
    if fit.algorithm is not None and not hasattr(fit.algorithm, "contribution"):
        raise KindError(
            given=f"refits of a fit by {type(fit.algorithm).__name__}",
            needed="a fit whose globals are a point or a guide",
            remedy="write replicates=0, or fit the model by lv.EM()",
        )
    algorithm: Any = fit.algorithm if fit.algorithm is not None else EM()
    space = fit.program.space
    again = Again(
        fit.model,
        replace(algorithm, restarts=1),
        resampling(fit, fit.rows, "parametric", "frequency"),
        inside(space, fit.point),
        len(found),
        seed,
        space.fixed,
        space.tied,
    )
    drawn: list[np.ndarray] = []
    with tqdm(total=replicates, disable=None if progress is None else not progress, unit="replicate") as bar:
        for part in spread(partial(statistics, again), range(replicates), workers):
            drawn += part
            bar.update(len(part))
    fine = np.stack(drawn)[~np.isnan(drawn).any(1)]
    if not len(fine):
        raise NumericalError(
            f"all {replicates} replicates failed", "refits that succeed", "look at lv.bootstrap(fit, kind='parametric')"
        )
    own = np.array([pair.chi2 for pair in found.pairs])
    p_values = (1 + (fine >= own - 1e-9).sum(0)) / (1 + len(fine))
    return replace(found, p_values=p_values, replicates=len(fine), failed=replicates - len(fine))


def statistics(again: Again, numbers: Sequence[int]) -> list[np.ndarray]:
    """χ² of all pairs of some replicates; NaN where a refit failed."""
    return [_statistic(again, number) for number in numbers]


def _statistic(again: Again, number: int) -> np.ndarray:
    seed = derive(again.seed, 21, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each replicate would repeat what the fit has said
        try:
            data = again.data.draw(seed)
            fit = fit_model(
                again.model,
                data,
                again.algorithm,
                seed=seed,
                start=again.point,
                fixed=again.fixed,
                tied=again.tied,
                progress=False,
            )
            if fit.status is Status.INTERRUPTED:
                raise KeyboardInterrupt
            pairs = bivariate_tables(known_of(fit, TABLE_DRAWS, seed))
        except LatentVarsError:
            return np.full(again.pairs, np.nan)
    return np.array([pair.chi2 for pair in pairs])
