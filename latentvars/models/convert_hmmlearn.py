"""Hidden Markov models from and to hmmlearn, which is imported only where it is used."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import KindError
from latentvars.models.convert_sklearn import array
from latentvars.models.emissions import (
    Categorical,
    DiagonalGaussian,
    Emission,
    FullGaussian,
    Gaussian,
    Poisson,
    SphericalGaussian,
    TiedGaussian,
)

COVARIANCE_TYPES: dict[type, str] = {
    FullGaussian: "full",
    TiedGaussian: "tied",
    DiagonalGaussian: "diag",
    SphericalGaussian: "spherical",
}


def read(fitted: Any) -> tuple[Emission, dict[str, Tensor]]:
    """Emission and globals of a fitted hmmlearn model.

    Raises:
        KindError: another estimator, or one that is not fitted.
    """
    name = type(fitted).__name__
    readers = {"GaussianHMM": _read_gaussian, "PoissonHMM": _read_poisson, "CategoricalHMM": _read_categorical}
    if name not in readers or not hasattr(fitted, "transmat_"):
        raise KindError(
            given=f"{name}{'' if hasattr(fitted, 'transmat_') else ' that is not fitted'}",
            needed=f"a fitted {', '.join(readers)} of hmmlearn",
            remedy="call fit(x) on it first, or set its parameters",
        )
    emission, point = readers[name](fitted)
    chain = {"initial": _tensor(fitted.startprob_), "transition": _tensor(fitted.transmat_)}
    return emission, chain | point


def write(emission: Emission, point: Mapping[str, Tensor]) -> Any:
    """A fitted hmmlearn model with the globals ``point``.

    Raises:
        KindError: hmmlearn has no model of this emission.
        ImportError: hmmlearn is not installed.
        NameUnknownError: a global is not in ``point``.
    """
    states = len(array(point, "initial"))
    if isinstance(emission, Poisson):
        fitted = _hmmlearn().PoissonHMM(states)
        fitted.lambdas_ = array(point, "rate")
        fitted.n_features = fitted.lambdas_.shape[1]
    elif isinstance(emission, Categorical):
        fitted = _hmmlearn().CategoricalHMM(states, n_features=emission.categories)
        fitted.emissionprob_ = array(point, "probs")
    elif type(emission) in COVARIANCE_TYPES:
        fitted = _hmmlearn().GaussianHMM(states, covariance_type=COVARIANCE_TYPES[type(emission)])
        fitted.means_ = array(point, "loc")
        fitted.n_features = fitted.means_.shape[1]
        fitted.covars_ = array(point, "covariance") if "covariance" in point else array(point, "scale") ** 2
    else:
        raise KindError(
            given=f"the emission {type(emission).__name__}",
            needed="one that hmmlearn has: Gaussian, Poisson or Categorical",
            remedy="keep the model here",
        )
    fitted.startprob_, fitted.transmat_ = array(point, "initial"), array(point, "transition")
    return fitted


def _read_gaussian(fitted: Any) -> tuple[Emission, dict[str, Tensor]]:
    form, loc = fitted.covariance_type, _tensor(fitted.means_)
    states, features = loc.shape
    fitted = copy.copy(fitted)
    fitted.n_features = features  # covars_ needs it, and parameters set by hand leave it out
    covars = _tensor(fitted.covars_)  # one matrix per state for every form
    emission = Gaussian(features, form)
    if form in ("full", "tied"):
        return emission, {"loc": loc, "covariance": covars if form == "full" else covars[0]}
    if form == "diag":
        return emission, {"loc": loc, "scale": covars.diagonal(dim1=-2, dim2=-1).sqrt()}
    # after fit() hmmlearn repeats the matrix of a spherical state for each feature
    return emission, {"loc": loc, "scale": covars[:, 0, 0].reshape(states, -1)[:, 0].sqrt()}


def _read_poisson(fitted: Any) -> tuple[Emission, dict[str, Tensor]]:
    rate = _tensor(fitted.lambdas_)
    return Poisson(rate.shape[1]), {"rate": rate}


def _read_categorical(fitted: Any) -> tuple[Emission, dict[str, Tensor]]:
    probs = _tensor(fitted.emissionprob_)
    return Categorical(probs.shape[1]), {"probs": probs}


def _hmmlearn() -> Any:
    try:
        return importlib.import_module("hmmlearn.hmm")
    except ModuleNotFoundError as error:
        raise ImportError(
            "hmmlearn is not installed\n  needed: the package hmmlearn, to make its models\n  do: pip install hmmlearn"
        ) from error


def _tensor(value: Any) -> Tensor:
    return torch.tensor(np.asarray(value), dtype=torch.float64)
