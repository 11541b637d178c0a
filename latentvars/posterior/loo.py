"""Leave-one-out cross-validation from the draws of one fit, locals removed: what a model predicts for rows it has not
seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import numpy as np

from latentvars.errors import DataError, KindError, NumericalError, SettingError, SupportError
from latentvars.rows import Rows

if TYPE_CHECKING:
    import pandas
    import xarray as xr

EFFICIENCY_ROWS = 200

Unit = Literal["row", "sequence"]
Weights = Literal["stacking", "BB-pseudo-BMA", "pseudo-BMA"]


class Drawn(Protocol):
    """What is read: :class:`latentvars.Fit`."""

    @property
    def rows(self) -> Rows: ...

    @property
    def exact(self) -> bool: ...

    @property
    def extent(self) -> object | None: ...

    def to_datatree(
        self, draws: int | None = None, *, seed: int | None = None, predictive: bool | int = True, latents: bool = True
    ) -> xr.DataTree: ...


def loo(fit: Drawn, *, unit: Unit, draws: int | None = None, seed: int | None = None) -> Any:
    """Expected log predictive density of rows left out one by one, Σₙ log p(xₙ | x₋ₙ), nats, by Pareto-smoothed
    importance sampling (Vehtari, Gelman & Gabry 2017).

    The density of a row is the marginal one, its locals removed: left out is the row with its locals. Given a local
    that was learnt from the row itself, every model with locals would seem to predict well. Draws of a guide are
    weighted towards the posterior (Magnusson et al. 2019).

    Args:
        fit: by ``lv.NUTS()``, or by ``lv.SVI()`` with a guide that has a spread.
        unit: what is left out, said so that nobody mistakes it: ``"row"`` for rows that are single observations,
            ``"sequence"`` for rows that are whole sequences.
        draws: of the globals; None: 1,000, or all those of a sampler.
        seed: of the draws; None: that of the fit.

    Returns:
        ``arviz_stats.ELPDData``: ``elpd``, its standard error ``se``, effective number of parameters ``p``, and for
        each row ``elpd_i`` and ``pareto_k`` (above .7: that row is not to be trusted).

    Raises:
        KindError: a fit whose globals are a point.
        SettingError: a unit that the rows are not.
        DataError: fewer than two rows, or rows with weights.
        SupportError: log-likelihoods that are bounds, of continuous locals; a fit of several processes.
        NumericalError: draws with log-likelihoods that are not finite.
    """
    return _from_tree(_tree(fit, unit, draws, seed))


def _tree(fit: Drawn, unit: Unit, draws: int | None, seed: int | None) -> xr.DataTree:
    """What is read of a fit, checked."""
    check_unit(fit.rows, unit)
    if fit.extent is not None:
        raise SupportError(
            given="a fit of several processes, each of which has rows of its own",
            needed="all rows in one process",
            remedy="save its point, and fit or sample again from there in one process",
        )
    if not fit.exact:
        raise SupportError(
            given="a model with continuous locals, whose log-likelihoods are lower bounds",
            needed="log-likelihoods of rows without their locals",
            remedy="integrate the locals out in the model; differences of bounds are no differences of models",
        )
    tree = fit.to_datatree(draws, seed=seed, predictive=False, latents=False)
    if "posterior" not in tree.children:
        raise KindError(
            given="globals that are a point, which no draw can be taken of",
            needed="draws of the globals",
            remedy="fit the model by lv.NUTS(), or by lv.SVI(); of points compare fit.bic",
        )
    scores = next(iter(tree["log_likelihood"].data_vars.values()))
    if not bool(np.isfinite(scores.values).all()):
        raise NumericalError(
            given=f"{int((~np.isfinite(scores.values)).sum())} log-likelihoods of rows that are not finite",
            needed="finite ones at every draw",
            remedy="look at the draws: priors may reach where the density has no value",
        )
    return tree


def _from_tree(tree: xr.DataTree) -> Any:
    import arviz_stats

    stats, library = tree["sample_stats"], cast(Any, arviz_stats)
    if "log_q" in stats:
        return library.loo_approximate_posterior(tree, stats["lp"], stats["log_q"], pointwise=True)
    return library.loo(tree, pointwise=True, reff=_efficiency(tree))


def _efficiency(tree: xr.DataTree) -> float:
    """Effective draws of the rows' likelihoods, of all draws: unlike that of the globals it knows no labels."""
    from arviz_stats import base

    scores = next(iter(tree["log_likelihood"].data_vars.values())).values
    some = scores[..., :: max(1, scores.shape[-1] // EFFICIENCY_ROWS)]
    likelihood = np.exp(some - some.max((0, 1)))
    effective = cast(Any, base).array_stats.ess(likelihood, chain_axis=0, draw_axis=1, method="mean")
    found = float(np.nanmean(effective)) / scores[..., 0].size
    return min(1.0, found) if found > 0 else 1.0


def compare(
    fits: Mapping[str, Drawn], *, unit: Unit, weights: Weights = "stacking", seed: int | None = None
) -> pandas.DataFrame:
    """Several models of the same rows by :func:`loo`, best first.

    Args:
        fits: name → fit.
        unit: what is left out, as in :func:`loo`.
        weights: how models are weighted: stacking of predictive distributions (Yao et al. 2018), or by pseudo-BMA.
        seed: of the draws; None: that of each fit.

    Returns:
        A line for each model: ``rank``, ``elpd`` (nats), ``p``, ``elpd_diff`` to the best and its standard error
        ``dse``, ``weight``, ``se``, ``warning``.

    Raises:
        SettingError: fewer than two fits, or an unknown kind of weights.
        DataError: fits of different data or columns; others as :func:`loo`.
    """
    if len(fits) < 2:
        raise SettingError(
            f"{len(fits)} fits to compare", "two or more", 'write lv.compare({"a": fit, "b": other}, ...)'
        )
    if weights not in get_args(Weights):
        raise SettingError(f"weights={weights!r}", f"one of {list(get_args(Weights))}", "correct weights=")
    digests = {name: fit.rows.digest() for name, fit in fits.items()}
    first = next(iter(digests))
    other = next((name for name, digest in digests.items() if digest != digests[first]), None)
    if other is not None:
        raise DataError(
            given=f"the fits {first!r} and {other!r} of different data",
            needed="the same rows in all fits",
            remedy="fit all models to the same Rows: densities of other data cannot be compared",
        )
    trees = {name: _tree(fit, unit, None, seed) for name, fit in fits.items()}
    observed = {name: sorted(map(str, tree["observed_data"].data_vars)) for name, tree in trees.items()}
    other = next((name for name in observed if observed[name] != observed[first]), None)
    if other is not None:
        raise DataError(
            given=f"the fits {first!r}, which scores {observed[first]}, and {other!r}, which scores {observed[other]}",
            needed="models that observe the same columns",
            remedy="compare models of the same columns: densities of different ones cannot be compared",
        )
    import arviz_stats

    found = {name: _from_tree(tree) for name, tree in trees.items()}
    return cast(Any, arviz_stats).compare(found, method=weights)


def check_unit(rows: Rows, unit: str) -> None:
    """Whether ``unit`` says what the rows are, which can be left out one by one; errors as :func:`loo`."""
    given = "row" if rows.lengths is None else "sequence"
    if unit == "future":
        raise SettingError(
            'unit="future"', "lv.leave_future_out, which fits again on the way", "lv.leave_future_out(fit, first=20)"
        )
    if unit not in ("row", "sequence"):
        raise SettingError(f"unit={unit!r}", 'unit="row" or unit="sequence"', f'write unit="{given}"')
    if unit != given:
        raise SettingError(
            f"unit={unit!r} where rows are {'single observations' if given == 'row' else 'sequences'}",
            "what is left out as what the rows are",
            f'write unit="{given}"',
        )
    if len(rows) < 2:
        raise DataError(
            given="one row, without which nothing is left",
            needed="two rows or more",
            remedy="cut a long sequence into several, or compare fit.bic",
        )
    if bool((rows.weights != 1).any()):
        raise DataError(
            given="rows with weights: a row that counts several times is not left out by leaving out one",
            needed="rows that count once",
            remedy="repeat rows in the place of whole weights",
        )
