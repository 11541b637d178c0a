"""The E-step of mixtures of an exponential family, and the closed forms of normal components, by the compiled core.

Posterior weights are never stored. What is computed depends neither on the number of threads nor on chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

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

    @cached_property
    def _whitened(self) -> tuple[Tensor, Tensor, float]:
        size = self.loc.shape[1]
        numbers = (1, size, size * (size + 1) // 2)[self.spread.dim() - 1]
        factors = self.loc.new_empty((len(self.spread), numbers))
        constant = self.loc.new_empty(len(self.loc))
        arrays = (self.loc, self.spread, factors, constant)
        return factors, constant, _core.normal_whitened(*(array.numpy() for array in arrays))

    @property
    def sharpest(self) -> float:
        """The largest inverse of a standard deviation; infinite where a spread is none."""
        return self._whitened[2]

    def natural(self, centre: Tensor, apart: bool) -> tuple[Tensor, Tensor]:
        """Coefficients of 1, x − c and products of it.

        Args:
            centre: c, ``[D]``.
            apart: whether those of the products stand by themselves, once for each spread.

        Returns:
            ``[B, F]``, and ``[G, R]`` or ``[0, R]``.
        """
        factors, constant, _ = self._whitened
        size, rest = self.loc.shape[1], factors.shape[1]
        own = self.loc.new_empty((len(self.loc), 1 + size + (0 if apart else rest)))
        squares = self.loc.new_empty((len(self.spread) if apart else 0, rest))
        arrays = (self.loc, self.spread, factors, constant, centre, own, squares)
        _core.normal_natural(*(array.numpy() for array in arrays))
        return own, squares

    def variance_from(self, sums: Tensor, shared: Tensor) -> float:
        """The smallest variance to which sums lead.

        Args:
            sums: of features about a centre, ``[B, F]``.
            shared: sums of products of all components together ``[R]``, where they share a spread; else ``[0]``.
        """
        return _core.normal_variance(self.loc.numpy(), self.spread.numpy(), sums.numpy(), shared.numpy())

    def residual(self, log_weights: Tensor, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """As :func:`expected`, about the mean of each component: right however far apart the components are.

        Args:
            log_weights: of the components, ``[S, K]``.
            values: ``[M, D]``.
            weights: of the observations, ``[M]``.
        """
        factors, constant, _ = self._whitened
        size, rest = self.loc.shape[1], factors.shape[1]
        objective = self.loc.new_empty(len(log_weights))
        sums = self.loc.new_empty((len(self.loc), 1 + size + rest))
        constant = (constant + log_weights.reshape(-1)).numpy()
        x, w, loc, out = values.numpy(), weights.numpy(), self.loc.numpy(), (objective.numpy(), sums.numpy())
        matrix, one = self.spread.dim() == 3, self.spread.dim() == 1
        _core.mixture_residual(x, w, loc, factors.numpy(), constant, matrix, one, *out, torch.get_num_threads())
        return objective, sums


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
