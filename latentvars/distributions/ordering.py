"""Order of components by one of their features: a support of globals ``[K, D]``."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Size, Tensor
from torch.distributions import Transform, constraints


@final
class OrderedBy(constraints.Constraint):
    """Matrices ``[K, D]`` whose column ``feature`` rises strictly from row to row; all entries positive where
    ``positive``."""

    event_dim = 2

    def __init__(self, feature: int, positive: bool) -> None:
        self.feature, self.positive = feature, positive

    def check(self, value: Any) -> Any:
        """Whether each matrix is in the support, ``[...]``."""
        rises = (value[..., self.feature].diff(dim=-1) > 0).all(-1)
        return rises & (value > 0).flatten(-2).all(-1) if self.positive else rises

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, OrderedBy)
        return same and (other.feature, other.positive) == (self.feature, self.positive)

    def __hash__(self) -> int:
        return hash((self.feature, self.positive))

    def __repr__(self) -> str:
        return f"OrderedBy(feature={self.feature}{', positive' if self.positive else ''})"

    def arranged(self, value: Tensor) -> Tensor:
        """The order ``[K]`` of rows that brings a matrix into the support."""
        return value[..., self.feature].argsort()


@final
class OrderedTransform(Transform):
    """θ ``[..., K, D]`` → a matrix of :class:`OrderedBy`: the column rises by exp θ; positive entries are exp θ."""

    domain = constraints.independent(constraints.real, 2)
    bijective = True

    def __init__(self, support: OrderedBy) -> None:
        super().__init__()
        self.support = support

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return self.support

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrderedTransform) and other.support == self.support

    __hash__ = None  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        return torch.where(self._column(x), self._steps(x).cumsum(-2), x.exp() if self.support.positive else x)

    def _inverse(self, y: Tensor) -> Tensor:
        steps = torch.cat([y[..., :1, :], y.diff(dim=-2)], -2)
        logs = torch.where(self._column(y), steps, torch.ones_like(y)).clamp(min=torch.finfo(y.dtype).tiny).log()
        free = y.clamp(min=torch.finfo(y.dtype).tiny).log() if self.support.positive else y
        found = torch.where(self._column(y), logs, free)
        return torch.cat([free[..., :1, :], found[..., 1:, :]], -2)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ of the θ that go through exp, ``[...]``."""
        through = torch.ones_like(x, dtype=torch.bool) if self.support.positive else self._column(x) & ~self._first(x)
        return torch.where(through, x, torch.zeros_like(x)).sum((-2, -1))

    def forward_shape(self, shape: tuple[int, ...]) -> Size:
        return Size(shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> Size:
        return Size(shape)

    def _column(self, x: Tensor) -> Tensor:
        return (torch.arange(x.shape[-1], device=x.device) == self.support.feature % x.shape[-1]).expand(x.shape)

    def _first(self, x: Tensor) -> Tensor:
        return (torch.arange(x.shape[-2], device=x.device) == 0)[:, None].expand(x.shape)

    def _steps(self, x: Tensor) -> Tensor:
        free = ~self._column(x) | (self._first(x) & (not self.support.positive))
        return torch.where(free, x, torch.where(free, torch.zeros_like(x), x).exp())
