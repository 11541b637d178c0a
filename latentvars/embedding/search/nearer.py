"""The probability that one belief lies nearer to a query than another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from latentvars.embedding.search.beliefs import Beliefs, CategoricalBeliefs, DrawnBeliefs, NormalBeliefs

FAR = 50.0  # standard deviations from 0 beyond which less than 1e-10 is left (Laurent & Massart 2000, lemma 1)
FLAT = 1e-14  # variance of the difference, relative to its size, below which it is a number


@final
@dataclass(frozen=True, eq=False)
class Nearer:
    """P(a is nearer to the query than b); ties count half.

    Attributes:
        probability: ``[M]``.
        error: ``[M]`` its numerical error, or of draws its standard error.
        draws: how many it comes from; 0: in closed form or by quadrature.
    """

    probability: np.ndarray
    error: np.ndarray = field(repr=False)
    draws: int = 0

    def __float__(self) -> float:
        return float(self.probability.item())

    def __str__(self) -> str:
        return ", ".join(f"{p:.3f} ± {e:.1g}" for p, e in zip(self.probability, self.error, strict=True))


def nearer(query: Beliefs, a: Beliefs, b: Beliefs) -> Nearer:
    """For M triples of independent beliefs of one family, or of joint draws.

    Raises:
        TypeError: another family.
    """
    match query, a, b:
        case NormalBeliefs(), NormalBeliefs(), NormalBeliefs():
            found = [_normal(query, a, b, number) for number in range(len(query.loc))]
            return Nearer(np.array([p for p, _ in found]), np.array([e for _, e in found]))
        case CategoricalBeliefs(), CategoricalBeliefs(), CategoricalBeliefs():
            more = (query.probabilities * (a.probabilities - b.probabilities)).sum(1)
            return Nearer((1 + more) / 2, np.zeros(len(more)))
        case DrawnBeliefs(), DrawnBeliefs(), DrawnBeliefs():
            gap = np.square(query.draws - a.draws).sum(2) - np.square(query.draws - b.draws).sum(2)
            wins = ((gap < 0) + 0.5 * (gap == 0)).sum(0)
            return Nearer(wins / len(gap), standard_error(wins, len(gap)), len(gap))
    raise TypeError(type(query).__name__)


def standard_error(counts: np.ndarray, draws: int) -> np.ndarray:
    """Of counts / draws; by half a success and failure more, so that it is not 0 where all draws agree."""
    share = (counts + 0.5) / (draws + 1)
    return np.sqrt(share * (1 - share) / (draws + 1))


def _normal(query: NormalBeliefs, a: NormalBeliefs, b: NormalBeliefs, number: int) -> tuple[float, float]:
    """D = |q − a|² − |q − b|² = c + Σ βᵢ xᵢ + λᵢ xᵢ², x ~ N(0, I): P(D < 0) from its characteristic function."""
    mean, covariance = _differences(query, a, b, number)
    sign = np.repeat([1.0, -1.0], len(mean) // 2)
    value, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(np.maximum(value, 0))
    bend, turn = np.linalg.eigh(root.T @ (sign[:, None] * root))
    slope = 2 * (sign * mean) @ root @ turn
    constant = float((sign * mean**2).sum())
    scale = float(np.sqrt((slope**2 + 2 * bend**2).sum()))
    size = float((mean**2).sum() + np.trace(covariance))
    middle = constant + float(bend.sum())
    if scale <= FLAT * size or abs(middle) > FAR * scale:
        return (0.5, 0.0) if middle == 0 else (float(middle < 0), 0.0)
    return _below_zero(constant / scale, slope / scale, bend / scale)


def _differences(
    query: NormalBeliefs, a: NormalBeliefs, b: NormalBeliefs, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[2W]`` and covariance of (q − a, q − b)."""
    q, one, other = (beliefs.take(np.array([number])) for beliefs in (query, a, b))
    common = q.covariance[0]
    covariance = np.block([[common + one.covariance[0], common], [common, common + other.covariance[0]]])
    return np.concatenate([q.loc[0] - one.loc[0], q.loc[0] - other.loc[0]]), covariance


def _below_zero(constant: float, slope: np.ndarray, bend: np.ndarray) -> tuple[float, float]:
    """P(c + Σ βᵢ xᵢ + λᵢ xᵢ² < 0) and its error (Gil-Pelaez 1951; Imhof 1961, Davies 1973)."""
    from scipy.integrate import quad

    def integrand(t: float) -> float:
        turn = 1 - 2j * bend * t
        log = 1j * t * constant - 0.5 * (t * t * slope**2 / turn + np.log(turn)).sum()
        return float(np.exp(log).imag) / t

    near, error = quad(integrand, 0.0, 8.0, limit=400, epsabs=1e-10, epsrel=1e-9)
    far, more = quad(integrand, 8.0, np.inf, limit=400, epsabs=1e-10, epsrel=1e-9)
    return float(np.clip(0.5 - (near + far) / np.pi, 0, 1)), float((error + more) / np.pi)
