"""Gaussian mixtures from and to scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import KindError, NameUnknownError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


def read(fitted: Any) -> tuple[str, dict[str, Tensor]]:
    """Form of the covariance and globals of a fitted mixture.

    Raises:
        KindError: another estimator, or one that is not fitted.
    """
    from sklearn.mixture import GaussianMixture

    if not isinstance(fitted, GaussianMixture) or not hasattr(fitted, "means_"):
        raise KindError(
            given=f"{type(fitted).__name__}{'' if hasattr(fitted, 'means_') else ' that is not fitted'}",
            needed="a fitted sklearn.mixture.GaussianMixture",
            remedy="call fit(x) on it first",
        )
    spread = _tensor(fitted.covariances_)
    form = fitted.covariance_type
    named = {"covariance": spread} if form in ("full", "tied") else {"scale": spread.sqrt()}
    return form, {"weights": _tensor(fitted.weights_), "loc": _tensor(fitted.means_)} | named


def write(form: str, point: Mapping[str, Tensor]) -> GaussianMixture:
    """A fitted mixture with the globals ``point``."""
    from sklearn.mixture import GaussianMixture

    weights, means = (array(point, name) for name in ("weights", "loc"))
    covariances = array(point, "covariance") if form in ("full", "tied") else array(point, "scale") ** 2
    fitted = GaussianMixture(len(weights), covariance_type=form)
    fitted.weights_, fitted.means_, fitted.covariances_ = weights, means, covariances
    if form in ("full", "tied"):
        # scikit-learn wants the upper triangular U with U Uᵀ = Σ⁻¹
        fitted.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariances)).swapaxes(-1, -2)
        fitted.precisions_ = fitted.precisions_cholesky_ @ fitted.precisions_cholesky_.swapaxes(-1, -2)
    else:
        fitted.precisions_cholesky_ = covariances**-0.5
        fitted.precisions_ = 1 / covariances
    fitted.converged_, fitted.n_iter_, fitted.lower_bound_ = True, 0, -np.inf
    fitted.n_features_in_ = means.shape[1]  # type: ignore[attr-defined]
    return fitted


def array(point: Mapping[str, Tensor], name: str) -> np.ndarray:
    """One global as a float64 array.

    Raises:
        NameUnknownError: it is not in ``point``.
    """
    if name not in point:
        raise NameUnknownError(f"globals {', '.join(map(str, point))}", f"the global {name!r}", "pass fit.point.")
    return np.array(torch.as_tensor(point[name]).detach().cpu().to(torch.float64).numpy())


def _tensor(value: Any) -> Tensor:
    return torch.tensor(np.asarray(value), dtype=torch.float64)
