"""What a latent space is like: which units carry something, how factors are spread over them, how smooth it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import DataError, SettingError, ShapeError
from latentvars.latent_space.checks import check_continuous, features_of, means_of
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.generator import GeneratorSource
from latentvars.randomness import derive, generator

ACTIVE = 0.01
BINS = 20
TREES = 100
MOST_CLASSES = 20  # values of a factor of whole numbers that is read as classes


@dataclass(frozen=True, eq=False)
class Units:
    """How much each number of a latent says of a row.

    Attributes:
        variance: of the posterior means over the rows ``[W]`` (Burda, Grosse & Salakhutdinov 2016).
        active: ``[W]``, where that is above the threshold.
        total_correlation: ½ (Σ log var − log det cov) of the aggregate posterior of the active numbers, nats, as if it
            were normal: zero where they are uncorrelated.
    """

    variance: Tensor
    active: Tensor
    total_correlation: float

    def __str__(self) -> str:
        return f"{int(self.active.sum())} of {len(self.active)} units active, TC {self.total_correlation:.2f} nats"


@dataclass(frozen=True, eq=False)
class Disentanglement:
    """How factors of variation are spread over the numbers of a latent: W numbers, F factors.

    Attributes:
        information: mutual information of each number, in 20 bins, and each factor ``[W, F]``, nats.
        importance: of each number for predicting each factor, by a random forest ``[W, F]``; columns sum to one.
        mig: gap between the two most informative numbers, in shares of the entropy of a factor, averaged (Chen et al.
            2018).
        disentanglement: whether each number matters for one factor alone, 0 … 1 (Eastwood & Williams 2018).
        completeness: whether each factor is carried by one number alone, 0 … 1.
        informativeness: accuracy (of classes) or R² (of numbers) of the forest on a held-out third, averaged.
    """

    information: np.ndarray
    importance: np.ndarray
    mig: float
    disentanglement: float
    completeness: float
    informativeness: float

    def __str__(self) -> str:
        return (
            f"MIG {self.mig:.2f}, disentanglement {self.disentanglement:.2f}, completeness {self.completeness:.2f}, "
            f"informativeness {self.informativeness:.2f}"
        )


@dataclass(frozen=True, eq=False)
class Smoothness:
    """How much what is decoded moves along ways between draws of the prior.

    Attributes:
        path_length: mean of |f(z(t + ε)) − f(z(t))|² / ε² (Karras, Laine & Aila 2019), f the decoded mean.
        error: its Monte Carlo standard error.
        largest_jump: the longest of these moves in units of their mean: near 1 where all is smooth.
    """

    path_length: float
    error: float
    largest_jump: float


@dataclass(frozen=True, eq=False)
class Measures:
    """The measures of one continuous latent space."""

    source: FittedSource | GeneratorSource = field(repr=False)

    def units(self, data: Any = None, threshold: float = ACTIVE) -> Units:
        """Which numbers of the latent carry something of the rows (of the fit by default)."""
        means = self.source.free(means_of(self.source, data))
        assert isinstance(self.source, FittedSource)
        variances = self.source.fit.latent(data).std(self.source.site).square().flatten(1)
        return units(means.to(torch.float64), variances.to(torch.float64), threshold)

    def disentanglement(self, factors: Any, data: Any = None, *, seed: int = 0) -> Disentanglement:
        """How known factors of the rows ``[N, F]`` are spread over the numbers of their posterior means."""
        means = self.source.free(means_of(self.source, data))
        return disentanglement(means.double().numpy(), factors, seed)

    def smoothness(self, draws: int = 1_000, *, step: float = 1e-2, given: Any = None, seed: int = 0) -> Smoothness:
        """Path length along straight ways between draws of the prior."""
        check_continuous(self.source, "smoothness")
        if draws < 2 or not 0 < step < 1:
            raise SettingError(f"draws={draws}, step={step}", "two draws or more, 0 < step < 1", "write step=0.01")
        ends = [self.source.free(self.source.draw(draws, derive(seed, k))).to(torch.float64) for k in (1, 2)]
        shares = torch.rand(draws, generator=generator(seed, 3), dtype=torch.float64) * (1 - step)
        return smoothness(features_of(self.source, given, False), ends[0], ends[1], shares, step)


def units(means: Tensor, variances: Tensor, threshold: float = ACTIVE) -> Units:
    """Active units of posterior means and variances ``[N, W]``."""
    spread = means.var(0)
    active = spread > threshold
    found = 0.0
    if int(active.sum()) > 1:
        some = means[:, active]
        covariance = torch.cov(some.T) + torch.diag(variances[:, active].mean(0))
        found = 0.5 * float(covariance.diagonal().log().sum() - torch.logdet(covariance))
    return Units(spread, active, found)


def disentanglement(z: np.ndarray, factors: Any, seed: int = 0) -> Disentanglement:
    """Measures of ``z [N, W]`` beside factors ``[N, F]`` (or ``[N]``), classes or numbers.

    Raises:
        ShapeError: another number of rows.
        DataError: a factor that is constant.
    """
    given = np.asarray(factors)
    given = given[:, None] if given.ndim == 1 else given
    if given.ndim != 2 or len(given) != len(z):
        raise ShapeError(f"factors of shape {list(given.shape)}", f"[{len(z)}, factors]", "one line for each row")
    for number, factor in enumerate(given.T):
        if len(np.unique(factor)) < 2:
            raise DataError(f"factor {number}, which is constant", "factors that vary", "leave it out")
    codes = [_codes(factor) for factor in given.T]
    information = np.array([[_information(_binned(one), code) for code in codes] for one in z.T])
    entropies = np.array([_entropy(np.bincount(code)) for code in codes])
    ordered = np.sort(information, 0)[::-1]
    gap = ordered[0] - (ordered[1] if len(ordered) > 1 else 0)
    forests = [_forest(z, factor, seed) for factor in given.T]
    importance = np.array([found for found, _ in forests]).T
    share = importance.sum(1) / importance.sum()
    return Disentanglement(
        information,
        importance,
        float((gap / entropies).mean()),
        float((share * (1 - _normalised_entropy(importance.T))).sum()),
        float((1 - _normalised_entropy(importance)).mean()),
        float(np.mean([score for _, score in forests])),
    )


def smoothness(
    features: Callable[[Tensor], Tensor], starts: Tensor, ends: Tensor, shares: Tensor, step: float
) -> Smoothness:
    """Path length of ways ``[M, W]`` to ``[M, W]`` at shares ``[M]`` of the way."""
    share = shares[:, None]
    here, there = (1 - share) * starts + share * ends, (1 - share - step) * starts + (share + step) * ends
    with torch.no_grad():
        squares = (features(there) - features(here)).square().sum(1) / step**2
    lengths = squares.sqrt()
    return Smoothness(
        float(squares.mean()), float(squares.std() / len(squares) ** 0.5), float(lengths.max() / lengths.mean())
    )


def _codes(factor: np.ndarray) -> np.ndarray:
    return np.unique(factor, return_inverse=True)[1] if _is_class(factor) else _binned(factor)


def _is_class(factor: np.ndarray) -> bool:
    return factor.dtype.kind in "OUSb" or (
        bool(np.all(factor == np.round(factor))) and len(np.unique(factor)) <= MOST_CLASSES
    )


def _binned(values: np.ndarray) -> np.ndarray:
    edges = np.histogram_bin_edges(values, BINS)
    return np.clip(np.digitize(values, edges[1:-1]), 0, BINS - 1)


def _information(first: np.ndarray, second: np.ndarray) -> float:
    from sklearn.metrics import mutual_info_score

    return float(mutual_info_score(first, second))


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _normalised_entropy(importance: np.ndarray) -> np.ndarray:
    """Entropy of each column ``[A, B]`` → ``[B]``, in units of that of equal shares."""
    if len(importance) == 1:
        return np.zeros(importance.shape[1])
    found = [_entropy(column) if column.sum() > 0 else np.log(len(importance)) for column in importance.T]
    return np.array(found) / np.log(len(importance))


def _forest(z: np.ndarray, factor: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.model_selection import train_test_split

    own = RandomForestClassifier if _is_class(factor) else RandomForestRegressor
    first, held, goal, true = train_test_split(z, factor, test_size=1 / 3, random_state=seed)
    forest = own(TREES, random_state=seed).fit(first, goal)
    return forest.feature_importances_, float(forest.score(held, true))
