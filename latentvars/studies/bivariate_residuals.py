"""Bivariate residuals, with p-values from refits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from latentvars.errors import KindError, LatentVarsError, NumericalError, SettingError, SupportError
from latentvars.inference import Fit, Fitter, Status
from latentvars.posterior.criticism.bivariate import BivariateResiduals, bivariate_tables
from latentvars.posterior.criticism.reading import known_of
from latentvars.randomness import derive
from latentvars.studies.collecting import collected
from latentvars.studies.refitting import again, inside, refitter
from latentvars.studies.resampling import Resampling, resampling

TABLE_DRAWS = 100


@dataclass(frozen=True)
class Refits:
    """What a process needs to refit a model to data of its own.

    Attributes:
        fitter: from the point of the fit, with a single start.
        data: where the data of a replicate come from.
        seed: of all replicates.
    """

    fitter: Fitter
    data: Resampling
    seed: int


@dataclass(frozen=True)
class Refitted:
    """χ² of all pairs in one replicate; None where the refit failed."""

    number: int
    chi2: np.ndarray | None = None
    interrupted: bool = False


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
    source = resampling(fit, fit.rows, "parametric", "frequency")
    refits = Refits(refitter(fit, inside(fit.program.space, fit.point), restarts=1), source, seed)
    done, interrupted = collected(partial(_refitted, refits), replicates, workers, progress, "replicate")
    drawn = [one.chi2 for one in done if one.chi2 is not None]
    if not drawn:
        raise NumericalError(
            f"all {len(done)} replicates failed", "refits that succeed", "look at lv.bootstrap(fit, kind='parametric')"
        )
    fine = np.stack(drawn)
    own = np.array([pair.chi2 for pair in found.pairs])
    p_values = (1 + (fine >= own - 1e-9).sum(0)) / (1 + len(fine))
    return replace(
        found,
        p_values=p_values,
        replicates=len(fine),
        failed=len(done) - len(fine),
        interrupted=interrupted,
    )


def _refitted(refits: Refits, number: int) -> Refitted:
    seed = derive(refits.seed, 21, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each replicate would repeat what the fit has said
        try:
            fit = again(refits.fitter, refits.data.draw(seed), seed)
            if fit.status is Status.INTERRUPTED:
                return Refitted(number, interrupted=True)
            pairs = bivariate_tables(known_of(fit, TABLE_DRAWS, seed))
        except LatentVarsError:
            return Refitted(number)
    return Refitted(number, np.array([pair.chi2 for pair in pairs]))
