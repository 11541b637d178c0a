"""Gaussian emissions: one class for each form of covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from latentvars.errors import DataError, SettingError
from latentvars.models.columns import check_width
from latentvars.models.emissions.base import PSEUDO_ROWS, event_dims, positive, scalar_or_row
from latentvars.models.priors import Priors

BLUR = 0.02
FIRST = 1_000  # rows
TOGETHER = 100_000  # numbers of residuals that are multiplied together


def Gaussian(features: int | None = None, covariance: str = "full") -> GaussianEmission:
    """Gaussian emission with sites ``loc`` ``[K, D]`` and one for the spread.

    Args:
        features: D; None takes it from the data.
        covariance: ``"full"`` (site ``covariance`` ``[K, D, D]``), ``"tied"`` (one ``covariance`` ``[D, D]`` for all
            groups), ``"diag"`` (``scale`` ``[K, D]``) or ``"spherical"`` (``scale`` ``[K]``). Scales are standard
            deviations, in the units of the data.

    Raises:
        SettingError: another covariance, or a number of features below 1.
    """
    if covariance not in FORMS:
        raise SettingError(f"covariance={covariance!r}", f"one of {', '.join(FORMS)}", "change covariance.")
    return FORMS[covariance](features)


@final
@dataclass(frozen=True)
class FullGaussian:
    """p(x | k) = N(x; loc_k, covariance_k). Observations without a feature axis are taken as ``[…, 1]``."""

    features: int | None = None

    def __post_init__(self) -> None:
        positive("features", self.features)

    @property
    def blur(self) -> float:
        return BLUR

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        size = check_width(self.features, width)
        loc = priors.sample("loc", (groups, size), constraints.real)
        covariance = priors.sample("covariance", (groups, size, size), constraints.positive_definite)
        return MultivariateNormal(loc, covariance_matrix=covariance)

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"loc": (group, "feature"), "covariance": (group, "feature", "feature_bis")}

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"feature": list(features), "feature_bis": list(features)}

    def points(self, x: Tensor) -> Tensor:
        return standardised(x)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        loc = _locs(x, weights)
        some = max(1, TOGETHER // x.numel())
        parts = zip(weights.mT.split(some), loc.split(some), strict=True)
        scatter = torch.cat([_scatter(x, own, centres[:, None]) for own, centres in parts])
        total = (weights.sum(0) + PSEUDO_ROWS)[:, None, None]
        return {"loc": loc, "covariance": (scatter + PSEUDO_ROWS * _overall_covariance(x)) / total}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_varies(x, features)


@final
@dataclass(frozen=True)
class TiedGaussian:
    """p(x | k) = N(x; loc_k, covariance), one covariance for all. Numbers without a feature axis become ``[…, 1]``."""

    features: int | None = None

    def __post_init__(self) -> None:
        positive("features", self.features)

    @property
    def blur(self) -> float:
        return BLUR

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        size = check_width(self.features, width)
        loc = priors.sample("loc", (groups, size), constraints.real)
        covariance = priors.sample("covariance", (size, size), constraints.positive_definite)
        return MultivariateNormal(loc, covariance_matrix=covariance)

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"loc": (group, "feature"), "covariance": ("feature", "feature_bis")}

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"feature": list(features), "feature_bis": list(features)}

    def points(self, x: Tensor) -> Tensor:
        return standardised(x)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        loc = _locs(x, weights)
        scatter = torch.stack([_scatter(x, weights[:, k], loc[k]) for k in range(len(loc))]).sum(0)
        covariance = (scatter + PSEUDO_ROWS * _overall_covariance(x)) / (weights.sum() + PSEUDO_ROWS)
        return {"loc": loc, "covariance": covariance}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_varies(x, features)


@final
@dataclass(frozen=True)
class DiagonalGaussian:
    """p(x | k) = Π_d N(x_d; loc_kd, scale_kd²)."""

    features: int | None = None

    def __post_init__(self) -> None:
        positive("features", self.features)

    @property
    def blur(self) -> float:
        return BLUR

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        size = check_width(self.features, width)
        loc = priors.sample("loc", (groups, size), constraints.real)
        scale = priors.sample("scale", (groups, size), constraints.positive)
        return Normal(scalar_or_row(loc, width), scalar_or_row(scale, width)).to_event(event_dims(width))

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"loc": (group, "feature"), "scale": (group, "feature")}

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"feature": list(features)}

    def points(self, x: Tensor) -> Tensor:
        return standardised(x)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        loc = _locs(x, weights)
        return {"loc": loc, "scale": _variances(x, weights, loc).sqrt()}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_varies(x, features)


@final
@dataclass(frozen=True)
class SphericalGaussian:
    """p(x | k) = Π_d N(x_d; loc_kd, scale_k²), one scale for all features of a group."""

    features: int | None = None

    def __post_init__(self) -> None:
        positive("features", self.features)

    @property
    def blur(self) -> float:
        return BLUR

    def distribution(self, groups: int, width: int | None, priors: Priors) -> TorchDistribution:
        size = check_width(self.features, width)
        loc = priors.sample("loc", (groups, size), constraints.real)
        scale = priors.sample("scale", (groups,), constraints.positive)
        return Normal(scalar_or_row(loc, width), scalar_or_row(scale[:, None], width)).to_event(event_dims(width))

    def sites(self, group: str) -> dict[str, tuple[str, ...]]:
        return {"loc": (group, "feature"), "scale": (group,)}

    def coords(self, features: tuple[str, ...]) -> dict[str, list[str]]:
        return {"feature": list(features)}

    def points(self, x: Tensor) -> Tensor:
        return standardised(x)

    def start(self, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
        loc = _locs(x, weights)
        return {"loc": loc, "scale": _variances(x, weights, loc).mean(-1).sqrt()}

    def check(self, x: Tensor, features: tuple[str, ...]) -> None:
        check_width(self.features, x.shape[-1])

    def check_estimable(self, x: Tensor, features: tuple[str, ...]) -> None:
        if bool(constant(x).all()):
            check_varies(x, features)


GaussianEmission = FullGaussian | TiedGaussian | DiagonalGaussian | SphericalGaussian

FORMS: dict[str, Callable[[int | None], GaussianEmission]] = {
    "full": FullGaussian,
    "tied": TiedGaussian,
    "diag": DiagonalGaussian,
    "spherical": SphericalGaussian,
}


def standardised(x: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1 (0 where constant), ``[S, D]``."""
    centred = x - x.mean(0)
    spread = centred.square().mean(0).sqrt()
    return centred / torch.where(spread > 0, spread, 1.0)


def check_varies(x: Tensor, features: tuple[str, ...]) -> None:
    """No column is constant.

    Raises:
        DataError: with the names of those that are.
    """
    names = [name for name, same in zip(features, constant(x).tolist(), strict=True) if same]
    if names:
        raise DataError(
            given=f"constant feature{'s' * (len(names) > 1)} {', '.join(map(repr, names))} in {len(x)} rows",
            needed="values that differ, since a variance is estimated for each feature",
            remedy="drop the feature, or check the data",
        )


def constant(x: Tensor) -> Tensor:
    """Whether all observed entries of a feature are equal, ``[D]``."""
    if len(x) > 2 * FIRST and not bool(constant(x[:FIRST]).any()):  # where the first rows differ, all do
        return torch.zeros(x.shape[1], dtype=torch.bool)
    return x.nan_to_num(nan=-torch.inf).amax(0) <= x.nan_to_num(nan=torch.inf).amin(0)


def _locs(x: Tensor, weights: Tensor) -> Tensor:
    """Weighted means ``[K, D]``; of an empty group the mean of the data."""
    total = weights.sum(0)[:, None]
    return torch.where(total > 0, weights.mT @ x / torch.where(total > 0, total, 1.0), x.mean(0))


def _scatter(x: Tensor, weights: Tensor, loc: Tensor) -> Tensor:
    """Σ w (x − loc)(x − loc)ᵀ of ``weights [..., S]``, ``[..., D, D]``."""
    centred = x - loc
    return (centred * weights[..., None]).mT @ centred


def _overall_covariance(x: Tensor) -> Tensor:
    """Covariance of the data, kept definite where features are collinear or constant, ``[D, D]``."""
    covariance = _scatter(x, torch.full_like(x[:, 0], 1 / len(x)), x.mean(0))
    return covariance + torch.diag(1e-3 * _overall_variance(x))


def _overall_variance(x: Tensor) -> Tensor:
    """Variances of the columns, ``[D]``; 1 where a column is constant."""
    variance = x.var(0, correction=0)
    return torch.where(variance > 0, variance, 1.0)


def _variances(x: Tensor, weights: Tensor, loc: Tensor) -> Tensor:
    """Variance of each feature in each group, ``[K, D]``."""
    squares = torch.stack([weights[:, k] @ (x - loc[k]).square() for k in range(len(loc))])
    return (squares + PSEUDO_ROWS * _overall_variance(x)) / (weights.sum(0) + PSEUDO_ROWS)[:, None]
