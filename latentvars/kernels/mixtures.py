"""The E-step of mixtures of an exponential family, and the closed forms of normal components, by the compiled core.

Posterior weights are never stored. What is computed depends neither on the number of threads nor on chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from latentvars.kernels import _core


class Form(IntEnum):
    """Features of D numbers x about a centre, by which the core knows them."""

    TABLE = 0
    LINEAR = 1  # 1, x
    DIAGONAL = 2  # 1, x, x²
    SPHERICAL = 3  # 1, x, |x|²
    FULL = 4  # 1, x, x_i x_j with i ≤ j
    CODES = 5  # an indicator of each code
    # normals themselves, by residuals, which keep their digits however far apart they are
    APART = 6  # of independent numbers: log density at the mean, means, 1 / standard deviations
    WHITENED = 7  # log density at the mean, means, lower triangle of W row by row, Wᵀ W the precision


def expected(
    form: Form, values: Tensor, centre: Tensor, weights: Tensor, natural: Tensor, mixtures: int
) -> tuple[Tensor, Tensor]:
    """Σ w log p(x) of each mixture ``[S]``, nats, and Σ w r t(x), ``[S·K, F]``.

    Args:
        form: of the features.
        values: observations ``[M, D]``; for a table the features themselves, ``[F, M]``, the first of them 1.
        centre: ``[D]``.
        weights: of the observations, ``[M]``.
        natural: coefficients ``[S·K, F]``, the logarithms of the weights of the components included.
        mixtures: S.
    """
    objective, sums = torch.empty(mixtures, dtype=torch.float64), torch.empty_like(natural)
    x, c, w, eta = values.numpy(), centre.numpy(), weights.numpy(), natural.numpy()
    _core.mixture_expected(int(form), x, c, w, eta, objective.numpy(), sums.numpy(), torch.get_num_threads())
    return objective, sums


@dataclass(frozen=True)
class Normals:
    """Normal components, every few of which may share a spread.

    Attributes:
        loc: ``[B, D]``.
        spread: covariances ``[G, D, D]``, or standard deviations ``[G, D]`` or ``[G]``; G divides B.
    """

    loc: Tensor
    spread: Tensor

    @property
    def products(self) -> int:
        """R, how many products of features tell the spread."""
        size = self.loc.shape[1]
        return (1, size, size * (size + 1) // 2)[self.spread.dim() - 1]


class NormalSums(NamedTuple):
    """The E-step of S mixtures of normals.

    Attributes:
        objective: Σ w log p(x) of each, ``[S]``, nats.
        sums: Σ w r (1, x − c, products of x − c), ``[S·K, 1 + D + R]``; products that components share are divided
            evenly among them.
        apart: whether c is the mean of each component, and not the centre.
        sharpest: the largest inverse of a standard deviation; infinite where a spread is none.
    """

    objective: Tensor
    sums: Tensor
    apart: bool
    sharpest: float


def normal_expected(
    normals: Normals,
    shares: Tensor,
    values: Tensor,
    weights: Tensor,
    centre: Tensor,
    shared: Tensor,
    reach: float,
    widest: float,
) -> NormalSums:
    """The E-step by products of features as long as these keep their digits, and by residuals where not.

    Args:
        normals: of all mixtures, those of each after those of the one before.
        shares: weights of the components, ``[S, K]``.
        values: observations ``[M, D]``.
        weights: theirs, ``[M]``.
        centre: ``[D]``.
        shared: sums of products over all observations ``[R]``, where components share a spread.
        reach: the largest distance of a number from the centre.
        widest: the range over a standard deviation at which products give way.
    """
    rows, size = normals.loc.shape
    objective = torch.empty(len(shares), dtype=torch.float64)
    sums = torch.empty((rows, 1 + size + normals.products), dtype=torch.float64)
    x, w, c, share, all_over = (one.numpy() for one in (values, weights, centre, shares, shared))
    loc, spread, out = normals.loc.numpy(), normals.spread.numpy(), (objective.numpy(), sums.numpy())
    threads = torch.get_num_threads()
    found = _core.normal_expected(x, w, c, share, loc, spread, all_over, reach, widest, *out, threads)
    return NormalSums(objective, sums, *found)


def natural_of(normals: Normals, centre: Tensor) -> tuple[Tensor, float]:
    """Coefficients ``[B, 1 + D + R]`` of 1, x − c and the products of x − c, and the largest inverse of a standard
    deviation: infinite, and the coefficients without meaning, where a spread is none."""
    found = normals.loc.new_empty((len(normals.loc), 1 + normals.loc.shape[1] + normals.products))
    arrays = (normals.loc, normals.spread, centre, found)
    return found, _core.normal_natural(*(array.numpy() for array in arrays))


def maximum(
    normals: Normals, weight: Tensor, first: Tensor, second: Tensor, centre: Tensor, least: Tensor | None
) -> tuple[Normals, Tensor]:
    """The normals of greatest likelihood, from sums of w, w(x − c) and the products of x − c.

    Args:
        normals: the current ones, kept where there is no weight.
        weight: ``[B]``.
        first: ``[B, D]``.
        second: ``[B, D, D]``, or ``[B, D]`` for standard deviations.
        centre: c, ``[D]`` or ``[B, D]``.
        least: least variances ``[D]``, to which standard deviations are raised; None: none.

    Returns:
        The normals, and which covariances lie below the least variances, ``[G]``; they are left there.
    """
    found = Normals(normals.loc.clone(), normals.spread.clone())
    low = torch.zeros(len(normals.spread), dtype=torch.uint8)
    least = normals.loc.new_empty(0) if least is None else least
    arrays = (weight, first, second, centre, least, found.loc, found.spread, low)
    _core.normal_maximum(*(array.contiguous().numpy() for array in arrays))
    return found, low.bool()


def maximum_of_sums(normals: Normals, sums: Tensor, centre: Tensor, least: Tensor | None) -> tuple[Normals, Tensor]:
    """As :func:`maximum`, from sums ``[B, 1 + D + R]`` as :class:`NormalSums` has them."""
    found = Normals(normals.loc.clone(), normals.spread.clone())
    low = torch.empty(len(normals.spread), dtype=torch.uint8)
    least = normals.loc.new_empty(0) if least is None else least
    arrays = (sums, centre, least, found.loc, found.spread, low)
    _core.normal_maximum_of_sums(*(array.numpy() for array in arrays))
    return found, low.bool()
