"""Unconstrained numbers ↔ constrained values, with as many numbers as there are degrees of freedom."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import IndependentTransform

from latentvars.distributions.ordering import OrderedBy, OrderedTransform
from latentvars.errors import ShapeError


def base_support(support: Any) -> Any:
    """A support without what makes batch dimensions count as those of one event."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def bijection(support: constraints.Constraint) -> Transform:
    """The transform from unconstrained numbers onto ``support``; as ``torch.distributions.biject_to``, which has none
    for positive definite matrices, and for lower triangular ones one with D² numbers and without a Jacobian.

    Raises:
        NotImplementedError: there is no bijection, as for a discrete support.
    """
    if isinstance(support, constraints.independent):
        return IndependentTransform(bijection(support.base_constraint), support.reinterpreted_batch_ndims)
    if isinstance(support, type(constraints.positive_definite)):
        return CovarianceTransform()
    if isinstance(support, type(constraints.lower_cholesky)):
        return CholeskyTransform()
    if isinstance(support, OrderedBy):
        return OrderedTransform(support)
    return biject_to(support)


class CholeskyTransform(Transform):
    """θ ``[..., D(D+1)/2]`` → L ``[..., D, D]``: the lower triangle row by row, its diagonal by its logarithm."""

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        full = x[..., _places(_size(x.shape[-1]), x.device)]
        return full.tril(-1) + full.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        full = y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).log().diag_embed()
        rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1], device=y.device)
        return full[..., rows, columns]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ log L_ii, ``[...]``."""
        return _log_diagonal(x).sum(-1)

    def forward_shape(self, shape: tuple[int, ...]) -> Size:
        size = _size(shape[-1])
        return Size([*shape[:-1], size, size])

    def inverse_shape(self, shape: tuple[int, ...]) -> Size:
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ShapeError(f"matrices of shape {list(shape)}", "square matrices [..., D, D]", "correct the shape.")
        return Size([*shape[:-2], shape[-1] * (shape[-1] + 1) // 2])


class CovarianceTransform(Transform):
    """θ ``[..., D(D+1)/2]`` → Σ = L Lᵀ ``[..., D, D]`` with L as in :class:`CholeskyTransform`."""

    domain = constraints.real_vector
    codomain = constraints.positive_definite
    bijective = True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    __hash__ = None  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        factor = CholeskyTransform()._call(x)
        return factor @ factor.mT

    def _inverse(self, y: Tensor) -> Tensor:
        return CholeskyTransform()._inverse(torch.linalg.cholesky(y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """D log 2 + Σ_i (D − i + 2) log L_ii, i = 1 … D (Muirhead 1982, theorem 2.1.9; exp), ``[...]``."""
        diagonal = _log_diagonal(x)
        size = diagonal.shape[-1]
        powers = torch.arange(size + 1, 1, -1, dtype=x.dtype, device=x.device)
        return size * math.log(2.0) + (powers * diagonal).sum(-1)

    def forward_shape(self, shape: tuple[int, ...]) -> Size:
        return CholeskyTransform().forward_shape(shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> Size:
        return CholeskyTransform().inverse_shape(shape)


def _size(count: int) -> int:
    """D of D(D+1)/2 numbers."""
    size = (math.isqrt(8 * count + 1) - 1) // 2
    if size * (size + 1) // 2 != count:
        raise ShapeError(f"{count} numbers for a triangle", "D(D+1)/2 of them: 1, 3, 6, 10, …", "correct the shape.")
    return size


def _places(size: int, device: torch.device) -> Tensor:
    """``[D, D]`` position of each entry of the lower triangle in the vector; anything above the diagonal."""
    row = torch.arange(size, device=device)[:, None]
    column = torch.arange(size, device=device)[None, :]
    return torch.where(column <= row, row * (row + 1) // 2 + column, 0)


def _log_diagonal(x: Tensor) -> Tensor:
    """log L_ii, ``[..., D]``."""
    position = torch.arange(_size(x.shape[-1]), device=x.device)
    return x[..., position * (position + 3) // 2]
