"""Up a density by L-BFGS, with all points on the way (Byrd, Lu, Nocedal & Zhu 1995; scipy does the work)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.capture import Potential
from latentvars.errors import NumericalError

WRONG = (RuntimeError, ValueError, ArithmeticError)  # a matrix that is not positive definite, say


@dataclass(frozen=True)
class Path:
    """The way of a climb, from its start on, L + 1 points.

    Attributes:
        points: unconstrained globals ``[L + 1, P]``.
        values: minus the log density there ``[L + 1]``, nats.
        gradients: of these values ``[L + 1, P]``.
    """

    points: Tensor
    values: Tensor
    gradients: Tensor


@dataclass
class _Asked:
    """The potential as scipy asks for it; where it has no value it is a little above the last one that it had."""

    potential: Potential
    last: tuple[np.ndarray, float, np.ndarray] | None = None
    edge: float = 0.0

    def __call__(self, free: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.found(free)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return self.edge, np.zeros_like(free)
        self.last = (free.copy(), value, gradient)
        self.edge = value + max(1.0, abs(value))
        return value, gradient

    def found(self, free: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            value, gradient = self.potential.numpy(free.copy())
        except WRONG:
            return np.inf, np.zeros_like(free)
        return float(value), np.asarray(gradient, dtype=np.float64).copy()

    def at(self, free: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """Point, value and gradient of a point that was met, or is met now."""
        if self.last is None or not np.array_equal(self.last[0], free):
            self(free)
        assert self.last is not None
        return self.last


def climbed(potential: Potential, start: Tensor, steps: int, *, memory: int = 10, tolerance: float = 1e-13) -> Path:
    """The way from a start to a maximum of the density.

    Args:
        potential: minus the log density.
        start: unconstrained globals ``[P]``.
        steps: most steps.
        memory: pairs of steps and gradients that the curvature is estimated from.
        tolerance: ends once a step gains less than this share of the value.

    Raises:
        NumericalError: the start has no finite density.
    """
    from scipy.optimize import minimize

    asked, begin = _Asked(potential), start.detach().double().numpy()
    value, gradient = asked.found(begin)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise NumericalError(
            given=f"a start where the log density is {-value:.6g}, or has no gradient",
            needed="a finite density with finite derivatives",
            remedy="give start=, as the point of a fit by lv.EM(), away from the edges of supports",
        )
    met = [(begin, value, gradient)]
    settings: Any = {"maxiter": steps, "maxcor": memory, "ftol": tolerance, "gtol": 1e-9, "maxfun": 20 * steps + 100}
    minimize(asked, begin, jac=True, method="L-BFGS-B", callback=lambda x: met.append(asked.at(x)), options=settings)
    points, values, gradients = (torch.from_numpy(np.stack(part)) for part in zip(*met, strict=True))
    return Path(points, values, gradients)
