"""Data with missing entries, and marginals of the emissions written down without the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from scipy import stats
from torch import Tensor

import latentvars as lv

Law = Callable[[np.ndarray], float]  # log density of the observed entries of one observation, 0 where there are none


def punched(x: np.ndarray, share: float = 0.3, seed: int = 0) -> np.ndarray:
    """Floats with a share of entries missing; the second row (or step) misses all."""
    noise = np.random.default_rng(seed)
    holes = noise.random(x.shape) < share
    holes[1] = True
    return np.where(holes, np.nan, x.astype(float))


def with_gaps(rows: lv.Rows, covariates: Sequence[str] = (), share: float = 0.25, seed: int = 0) -> lv.Rows:
    """The same rows with missing entries in every column that is no covariate."""
    noise = np.random.default_rng(seed)
    columns = {}
    for name, value in rows.columns.items():
        holes = noise.random(tuple(value.shape)) < share
        columns[name] = value if name in covariates else np.where(holes, np.nan, value.double().numpy())
    return lv.Rows(columns, lengths=rows.lengths, weights=rows.weights)


def normal(loc: np.ndarray, covariance: np.ndarray) -> Law:
    """The block of the observed coordinates."""

    def law(x: np.ndarray) -> float:
        o = ~np.isnan(x)
        return float(stats.multivariate_normal.logpdf(x[o], loc[o], covariance[np.ix_(o, o)])) if o.any() else 0.0

    return law


def independent(densities: Sequence[Callable[[float], float]]) -> Law:
    """The sum over the observed coordinates."""
    return lambda x: sum(float(f(v)) for f, v in zip(densities, np.atleast_1d(x), strict=True) if not np.isnan(v))


def poisson(rate: np.ndarray) -> Law:
    return independent([partial(stats.poisson.logpmf, mu=r) for r in rate])


def bernoulli(probs: np.ndarray) -> Law:
    return independent([partial(stats.bernoulli.logpmf, p=p) for p in probs])


def categorical(probs: np.ndarray) -> Law:
    return independent([lambda code: np.log(probs[int(code)])])


def split(first: Law, second: Law, at: int) -> Law:
    """Independent laws of the columns before and from ``at``."""
    return lambda x: first(x[:at]) + second(x[at:])


def table(laws: Sequence[Law], x: np.ndarray) -> np.ndarray:
    """Log density of each observation under each law, ``[S, K]``."""
    return np.array([[law(one) for law in laws] for one in x])


def arrays(point: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in point.items()}


def covariances(form: str, point: Mapping[str, np.ndarray], features: int) -> list[np.ndarray]:
    """Σ_k of every component in one of the four forms."""
    size = len(point["loc"])
    if form == "full":
        return list(point["covariance"])
    if form == "tied":
        return [point["covariance"]] * size
    scale = point["scale"] if form == "diag" else np.repeat(point["scale"][:, None], features, 1)
    return [np.diag(one**2) for one in scale]


def emission_laws(emission: str, point: Mapping[str, np.ndarray], features: int) -> list[Law]:
    """The laws of the components of ``EMISSIONS[emission]`` at a point."""
    if emission in ("full", "tied", "diag", "spherical"):
        return [normal(m, c) for m, c in zip(point["loc"], covariances(emission, point, features), strict=True)]
    if emission == "poisson":
        return [poisson(rate) for rate in point["rate"]]
    if emission == "bernoulli":
        return [bernoulli(probs) for probs in point["probs"]]
    if emission == "categorical":
        return [categorical(probs) for probs in point["probs"]]
    parts = zip(point["loc_0"], point["covariance_0"], point["probs_1"], strict=True)
    return [split(normal(m, c), bernoulli(p), 2) for m, c, p in parts]


FEATURES = 3
EMISSIONS: dict[str, Callable[[], lv.models.emissions.Emission]] = {
    "full": lambda: lv.emissions.Gaussian(FEATURES, "full"),
    "tied": lambda: lv.emissions.Gaussian(FEATURES, "tied"),
    "diag": lambda: lv.emissions.Gaussian(FEATURES, "diag"),
    "spherical": lambda: lv.emissions.Gaussian(FEATURES, "spherical"),
    "poisson": lambda: lv.emissions.Poisson(FEATURES),
    "bernoulli": lambda: lv.emissions.Bernoulli(FEATURES),
    "categorical": lambda: lv.emissions.Categorical(4),
    "product": lambda: lv.emissions.Product(lv.emissions.Gaussian(2), lv.emissions.Bernoulli(1)),
}


def observations(emission: str, size: int, seed: int = 0) -> np.ndarray:
    """Complete data in the support of an emission, in two groups."""
    noise = np.random.default_rng(seed)
    group = (np.arange(size) % 2)[:, None]
    if emission == "poisson":
        return noise.poisson(np.where(group == 0, [2.0, 6.0, 4.0], [7.0, 2.0, 5.0])).astype(float)
    if emission == "bernoulli":
        return (noise.random((size, FEATURES)) < np.where(group == 0, 0.75, 0.3)).astype(float)
    if emission == "categorical":
        return noise.choice(4, size, p=[0.4, 0.3, 0.2, 0.1]).astype(float)
    mix = np.array([[1.0, 0.5, 0.0], [0.0, 0.8, -0.4], [0.0, 0.0, 0.6]])
    x = noise.normal(size=(size, FEATURES)) @ mix + 2.0 * group * [1.0, -0.7, 0.4]
    return np.column_stack([x[:, :2], (x[:, 2] > 0.2).astype(float)]) if emission == "product" else x
