"""The inverse Hessian that L-BFGS estimates along its path, as a factor that normal noise is multiplied by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from latentvars.inference.density.climbing import Path

LEAST_CURVED = 1e-12


class Spread(NamedTuple):
    """F = diag(√a) (I + Q (L − I) Qᵀ), so that F Fᵀ is the covariance, P × P of rank-r parts.

    Attributes:
        diagonal: a ``[P]``, positive.
        basis: Q ``[P, r]``, orthonormal columns.
        inner: L ``[r, r]``, lower triangular.
    """

    diagonal: Tensor
    basis: Tensor
    inner: Tensor

    def times(self, noise: Tensor) -> Tensor:
        """F ε of each row of ``[K, P]``."""
        along = noise @ self.basis
        return self.diagonal.sqrt() * (noise + (along @ self.inner.mT - along) @ self.basis.mT)

    def covariance_times(self, vector: Tensor) -> Tensor:
        """F Fᵀ v of ``[P]``."""
        turned = self.diagonal.sqrt() * vector
        along = turned @ self.basis
        turned = turned + (along @ self.inner - along) @ self.basis.mT
        return self.times(turned[None])[0]

    @property
    def log_det(self) -> Tensor:
        """log |F|."""
        return 0.5 * self.diagonal.log().sum() + self.inner.diagonal().log().sum()

    @property
    def dense(self) -> Tensor:
        """F ``[P, P]``."""
        return self.times(torch.eye(len(self.diagonal), dtype=self.diagonal.dtype)).mT


def spreads(path: Path, memory: int) -> Iterator[Spread | None]:
    """The estimate at each point of a path but the first (Zhang et al. 2022, algorithms 3 and 4); None where there is
    none.

    Args:
        path: points and gradients of minus the log density.
        memory: pairs of steps that are used.
    """
    diagonal = torch.ones_like(path.points[0])
    steps: deque[Tensor] = deque(maxlen=memory)
    turns: deque[Tensor] = deque(maxlen=memory)
    for step, turn in zip(path.points.diff(dim=0), path.gradients.diff(dim=0), strict=True):
        if bool(step @ turn > LEAST_CURVED * (turn @ turn)):
            diagonal = _diagonal(diagonal, step, turn)
            steps.append(step)
            turns.append(turn)
        yield _spread(diagonal, torch.stack(tuple(steps), 1), torch.stack(tuple(turns), 1)) if steps else None


def _diagonal(before: Tensor, step: Tensor, turn: Tensor) -> Tensor:
    """The diagonal that the estimate begins with, updated (Gilbert & Lemaréchal 1989, eq. 4.9)."""
    bent, curved, scaled = turn @ (before * turn), step @ turn, step @ (step / before)
    inverse = bent / (curved * before) + turn.square() / curved
    inverse = inverse - bent * step.square() / (curved * scaled * before.square())
    found = 1 / inverse
    return found if bool((found > 0).all() and found.isfinite().all()) else before


def _spread(diagonal: Tensor, steps: Tensor, turns: Tensor) -> Spread | None:
    """diag(a) + B γ Bᵀ with B = [diag(a) Z, S] (Byrd, Nocedal & Schnabel 1994, theorem 2.2), factored."""
    products = steps.mT @ turns
    inverse = torch.linalg.inv(products.triu())
    middle = inverse.mT @ (products.diagonal().diag_embed() + turns.mT @ (diagonal[:, None] * turns)) @ inverse
    gamma = torch.cat([torch.cat([torch.zeros_like(inverse), -inverse], 1), torch.cat([-inverse.mT, middle], 1)])
    wide = torch.cat([diagonal.sqrt()[:, None] * turns, steps / diagonal.sqrt()[:, None]], 1)
    basis, small = torch.linalg.qr(wide)
    core = small @ gamma @ small.mT
    inner, failed = torch.linalg.cholesky_ex(torch.eye(len(core), dtype=core.dtype) + 0.5 * (core + core.mT))
    return None if int(failed) or not bool(inner.isfinite().all()) else Spread(diagonal, basis, inner)
