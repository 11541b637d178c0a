"""propagate: a downstream estimator that knows how uncertain the latents are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, overload

import numpy as np

from latentvars.embedding.downstream.propagated import Propagated, PropagatedPredictions
from latentvars.embedding.vectors import Vectors
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError
from latentvars.randomness import derive


class Estimator(Protocol):
    """A predictor in the manner of scikit-learn."""

    def fit(self, X: Any, y: Any) -> Any: ...

    def predict(self, X: Any) -> Any: ...


@overload
def propagate(
    latent: Any,
    estimator: Estimator,
    y: Any = None,
    *,
    new: Any = None,
    site: str | None = None,
    draws: int = 20,
    seed: int = 0,
) -> PropagatedPredictions: ...


@overload
def propagate(
    latent: Any,
    estimator: Callable[[np.ndarray, Any], Any],
    y: Any = None,
    *,
    new: None = None,
    site: str | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Propagated: ...


def propagate(
    latent: Any,
    estimator: Any,
    y: Any = None,
    *,
    new: Any = None,
    site: str | None = None,
    draws: int = 20,
    seed: int = 0,
) -> Propagated | PropagatedPredictions:
    """Fit a downstream estimator on each of some draws of the latents, and combine the fits; beside it, the plug-in.

    A fit on posterior means takes them for known. Its standard errors leave out that they are not. Here each fit sees
    one draw, as if the latents had been observed, and the draws differ as much as the posterior says: multiple
    imputation, latents being values that are missing in every row (Rubin 1987; plausible values, Mislevy 1991).

    **What the posterior has to know.** Draws say about z and y together only what the model that they come from knew.
    Regress y on draws of q(z | x) from a model without y, and the slope comes out too small by the reliability
    Var(E[z | x]) / Var(z), with an interval that excludes the truth, whereas the plug-in on means is consistent
    (regression calibration; Carroll et al. 2006, chapter 4). So fit the latents together with y (and with all other
    variables of the regression), as further columns of the data; then the draws are right, and the plug-in is not,
    because means of q(z | x, y) already hold y. What is only compared within rows that the model knew (latents
    as outcome, regressed on variables of the model) is right in the same way. The draws should contain the uncertainty
    of the globals as well: ``fit.draw_latents(draws=20)``; those of ``fit.latent()`` are given a point, which narrows
    intervals where rows are few.

    Args:
        latent: a belief for each row (:class:`latentvars.LatentPosterior`), or draws ``[m, N]``, ``[m, N, L]``, or
            ``Fit.draw_latents(...)``, a mapping of them by site. Categories become L = K columns of 0 and 1.
        estimator: for coefficients a function ``fit(z, y)`` of a table ``[N, L]`` that returns either ``(params,
            covariance)`` or results in the manner of statsmodels (``params``, ``cov_params()``, ``df_resid``), such as
            ``lambda z, y: sm.OLS(y, sm.add_constant(z)).fit()``. For predictions an unfitted scikit-learn estimator.
        y: what is passed on to each fit.
        new: latents of the rows to predict, in the manner of ``latent``; those of the fits by default.
        site: the local site, where there are several.
        draws: m, at least 2; draws that are given are all taken.
        seed: of draws of a belief.

    Returns:
        :class:`Propagated`, or of a scikit-learn estimator :class:`PropagatedPredictions`.

    Raises:
        KindError: an estimator that is neither, or latents of sequences.
        ShapeError: y of another length, or fits that differ in the number of coefficients.
        SettingError: fewer than two draws.
        DataError: draws, or a fit with estimates, that are not finite.
        NameUnknownError: no such site.
    """
    tables, means = _tables(latent, site, draws, derive(seed, 81))
    if y is not None and len(y) != tables.shape[1]:
        raise ShapeError(f"y of length {len(y)}", f"one value for each of {tables.shape[1]} rows", "pass as many.")
    if hasattr(estimator, "predict") and hasattr(estimator, "fit") and not isinstance(estimator, type):
        size = tables.shape[-1]
        at = (tables, means) if new is None else _tables(new, site, len(tables), derive(seed, 82), size)
        return _predicted(tables, means, estimator, y, *at)
    if not callable(estimator) or isinstance(estimator, type):
        raise KindError(
            given=f"the estimator {estimator!r}",
            needed="a function fit(z, y) -> (params, covariance), or a scikit-learn estimator",
            remedy="wrap it: lambda z, y: sm.OLS(y, sm.add_constant(z)).fit()",
        )
    if new is not None:
        raise SettingError("new= beside a function of coefficients", "a scikit-learn estimator", "leave new= out.")
    return _combined(tables, means, estimator, y)


def _combined(tables: np.ndarray, means: np.ndarray, fit: Callable[..., Any], y: Any) -> Propagated:
    found = [_coefficients(fit(table, y)) for table in tables]
    if len({len(one[0]) for one in found}) > 1:
        raise ShapeError("fits with different numbers of coefficients", "as many in each", "look at fit(z, y).")
    plug_in = _coefficients(fit(means, y))
    return Propagated(
        draws=np.stack([one[0] for one in found]),
        within=np.mean([one[1] for one in found], 0),
        plug_in=plug_in[0],
        plug_in_covariance=plug_in[1],
        names=found[0][2],
        complete=min(one[3] for one in found),
    )


def _coefficients(result: Any) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], float]:
    """Estimates, covariance, names and degrees of freedom of one fit."""
    complete = np.inf
    if hasattr(result, "params") and hasattr(result, "cov_params"):
        params, covariance = result.params, result.cov_params()
        # inference by the normal distribution, as in logistic regression, has no degrees of freedom
        if getattr(result, "use_t", True):
            complete = float(getattr(result, "df_resid", np.inf))
    elif isinstance(result, tuple) and len(result) == 2:
        params, covariance = result
    else:
        raise KindError(
            given=f"a fit that returned {type(result).__name__}",
            needed="(params, covariance), or results with params and cov_params()",
            remedy="return both from fit(z, y)",
        )
    known = getattr(params, "index", None)
    values, spread = np.atleast_1d(np.asarray(params, float)), np.atleast_2d(np.asarray(covariance, float))
    if values.ndim != 1 or spread.shape != (len(values), len(values)):
        given = f"params of shape {list(values.shape)} with a covariance of shape {list(spread.shape)}"
        raise ShapeError(given, "[P] and [P, P]", "return them so from fit(z, y).")
    if not (np.isfinite(values).all() and np.isfinite(spread).all()):
        raise DataError(
            given="a fit on one draw with estimates or covariances that are not finite",
            needed="a regular fit on every draw",
            remedy="look for collinear columns (probabilities and categories add up to 1: leave one out)",
        )
    labels = range(len(values)) if known is None or callable(known) else known
    return values, spread, tuple(map(str, labels)), complete


def _predicted(
    tables: np.ndarray, means: np.ndarray, estimator: Any, y: Any, at: np.ndarray, at_means: np.ndarray
) -> PropagatedPredictions:
    from sklearn.base import clone

    if len(at) != len(tables):
        given = f"{len(at)} draws of the new rows beside {len(tables)} of the others"
        raise ShapeError(given, "as many, from the same draws of the globals", "draw both alike.")
    classifies = hasattr(estimator, "predict_proba")

    def predictions(table: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, Any]:
        own: Any = clone(estimator)
        fitted = own.fit(table, y)
        if classifies:
            return np.asarray(fitted.predict_proba(rows)), fitted.classes_
        return np.asarray(fitted.predict(rows), dtype=float), None

    found = [predictions(table, rows) for table, rows in zip(tables, at, strict=True)]
    return PropagatedPredictions(np.stack([one[0] for one in found]), predictions(means, at_means)[0], found[0][1])


def _tables(
    latent: Any, site: str | None, draws: int, seed: int, categories: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws ``[m, N, L]`` and means ``[N, L]`` (those of the draws, where no belief has better ones)."""
    if all(callable(getattr(latent, name, None)) for name in ("sample", "mean", "log_prob")):
        if draws < 2:
            raise SettingError(f"draws={draws}", "at least 2: one says nothing of the spread", "write draws=20")
        means, drawn = np.asarray(latent.mean(site)), np.asarray(latent.sample(site, draws, seed))
        return _encoded(drawn, means.shape[-1] if means.ndim == 2 else None), _table(means)
    if isinstance(latent, Vectors) or hasattr(latent, "latent"):
        raise KindError(
            given=f"{type(latent).__name__} in the place of draws of latents",
            needed="a belief for each row, or draws [m, N, L]",
            remedy="pass fit.latent(), or fit.draw_latents(draws=20)",
        )
    drawn = np.asarray(_of_site(latent, site) if isinstance(latent, Mapping) else latent)
    if drawn.ndim < 2 or len(drawn) < 2:
        raise SettingError(
            given=f"draws of shape {list(drawn.shape)}",
            needed="[m, N] or [m, N, L] with at least two draws",
            remedy="pass fit.draw_latents(draws=20), or a LatentPosterior",
        )
    tables = _encoded(drawn, categories)
    if not np.isfinite(tables).all():
        raise DataError("draws that are not finite", "finite numbers", "leave these rows or draws out.")
    return tables, tables.mean(0)


def _of_site(found: Mapping[str, Any], site: str | None) -> Any:
    if site is None and len(found) == 1:
        return next(iter(found.values()))
    if site is None or site not in found:
        raise NameUnknownError(f"the local site {site!r}", f"one of {list(found)}", "write site=")
    return found[site]


def _encoded(drawn: np.ndarray, categories: int | None) -> np.ndarray:
    """``[m, N, L]``; categories ``[m, N]`` as indicators."""
    if drawn.dtype.kind in "iub" and drawn.ndim == 2:
        size = categories or int(drawn.max()) + 1
        return (drawn[:, :, None] == np.arange(size)).astype(float)
    return np.stack([_table(one) for one in drawn])


def _table(values: np.ndarray) -> np.ndarray:
    if values.ndim > 2:
        raise KindError(
            given=f"latents of shape {list(values.shape)} of the rows",
            needed="one vector for each row",
            remedy="reduce sequences first, by their mean over the steps for example",
        )
    return (values[:, None] if values.ndim == 1 else values).astype(float)
