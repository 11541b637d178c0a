"""Laplace's approximation: a normal at the maximum of the density of the globals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latentvars.capture import Potential, Way
from latentvars.errors import NumericalError
from latentvars.inference.density.climbing import climbed
from latentvars.inference.density.normals import LOG_TWO_PI, Normals
from latentvars.inference.running.algorithm import OneGo
from latentvars.inference.running.settings import check_at_least
from latentvars.inference.running.stopping import Status
from latentvars.inference.sampling.nuts import check_drawable
from latentvars.posterior.identification import inverse_information
from latentvars.posterior.information import Derivatives, coordinates, derivatives
from latentvars.program import Program
from latentvars.rows import Rows

LEFT = {torch.float64: 1e-9, torch.float32: 1e-3}  # nats by which the density may still rise
TOLERABLE = 0.005  # nats, a tenth of a standard deviation
NEWTON, HALVINGS = 20, 30
AWAY, LEAST_FALL = 2.0, 0.1  # that many standard deviations away a normal density is 2 nats lower, on either side


@dataclass(frozen=True)
class Laplace(OneGo):
    """A normal at the maximum of the posterior density of the globals (Tierney & Kadane 1986).

        q(u) = Normal(û, H⁻¹),  û = argmax log p(x, θ(u)) + log |∂θ/∂u|,  H = −∂² of the same at û

    u are the *unconstrained* globals, and the density is that of u, Jacobian included (as Stan's ``laplace``): so û is
    not the image of the posterior mode that EM finds, unless supports are all real numbers. Discrete locals are summed
    out. L-BFGS climbs from the start to the maximum nearby, Newton's steps finish; other maxima are not looked for, so
    that the point of a fit by ``lv.EM(restarts=...)`` is a good start.

    ``fit.globals.log_evidence`` is log p(x, θ(û)) |∂θ/∂u| + ½ P log 2π − ½ log |H|, nats: exact for a normal density,
    and off by terms of order 1 / N otherwise.

    Attributes:
        steps: most steps of L-BFGS.
    """

    steps: int = 1_000

    def __post_init__(self) -> None:
        check_at_least("steps", self.steps, 1)

    @property
    def starts(self) -> int:
        return 1

    def sample(
        self, program: Program, rows: Rows, starts: Sequence[Tensor], seed: int, progress: bool | None
    ) -> tuple[Any, Status]:
        """The normal.

        Raises:
            SupportError: as :func:`latentvars.inference.sampling.nuts.check_drawable`.
            NumericalError: no maximum is reached, or the density is flat there, or rises.
        """
        check_drawable(program, rows, "Laplace")
        potential = Potential.of(program, rows.batch(dtype=program.dtype), fastest=Way.MODEL)
        path = climbed(potential, starts[0], self.steps)
        top, inverse = _top(program, rows, potential, path.points[-1].to(program.dtype))
        factor = torch.linalg.cholesky(inverse)
        height = -float(potential(top)[0])
        _check_falls(program, potential, top, factor, height)
        evidence = height + 0.5 * program.space.size * LOG_TWO_PI + float(factor.diagonal().log().sum())
        said = f"a normal at the maximum of the density on the unconstrained scale, after {len(path.values) - 1} steps"
        found = Normals(program.space, top[None], factor[None], top.new_zeros(1), evidence, (said,))
        return found, Status.CONVERGED


def curvature(program: Program, rows: Rows, free: Tensor) -> Derivatives:
    """Gradient of log p(x, θ(u)) + log |∂θ/∂u| at ``free`` ``[P]``, and minus its second derivatives."""
    found = derivatives(program, program.space.constrain(free)[0], rows)

    def log_jacobian(at: Tensor) -> Tensor:
        return program.space.constrain(at)[1]

    with torch.enable_grad():
        slope: Any = torch.autograd.functional.jacobian(log_jacobian, free)
        bend: Any = torch.autograd.functional.hessian(log_jacobian, free)
    return replace(found, gradient=found.gradient + slope, information=found.information - bend)


def _top(program: Program, rows: Rows, potential: Potential, free: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum ``[P]`` nearby, by Newton's steps, and the inverse information there ``[P, P]``."""
    rise, inverse, found = math.inf, free.new_zeros(0), None
    for _ in range(NEWTON):
        found = curvature(program, rows, free)
        inverse = _inverse(program, found)
        step = inverse @ found.gradient
        rise = float(0.5 * found.gradient @ step)
        if rise <= LEFT[free.dtype]:
            return free, inverse
        further = _further(potential, free, step)
        if further is None:
            break
        free = further
    assert found is not None
    if rise > TOLERABLE:
        move = (inverse @ found.gradient).abs() / inverse.diagonal().sqrt().clamp(min=1e-300)
        raise NumericalError(
            given=f"a density that could still rise by {rise:.3g} nats where the climb ended, most along "
            f"{coordinates(program, (move >= 0.5 * move.max()).nonzero().flatten().tolist())}",
            needed="a maximum, about which the density is expanded",
            remedy="start nearer to it: start=, as the point of a fit by lv.EM(); or sample with lv.NUTS()",
        )
    return free, inverse


def _further(potential: Potential, free: Tensor, step: Tensor) -> Tensor | None:
    """The point after a step, halved until the density is no lower; None where it is lower all along."""
    here = potential(free)[0]
    for halving in range(HALVINGS):
        there = free + 0.5**halving * step
        value = potential(there)[0]
        if bool(value.isfinite()) and bool(value <= here):
            return there
    return None


def _check_falls(program: Program, potential: Potential, top: Tensor, factor: Tensor, height: float) -> None:
    """Whether the density is lower on both sides along each axis of the normal: where it approaches a limit from below,
    as with data that separate two classes, gradient and curvature vanish together, and no maximum is there."""
    for axis in (AWAY * factor).unbind(-1):
        fall = min(height + float(potential(top + side * axis)[0]) for side in (-1, 1))
        if fall < LEAST_FALL:
            raise _flat(program, axis / factor.norm(dim=-1))


def _flat(program: Program, direction: Tensor) -> NumericalError:
    """Directions in units of each coordinate's own."""
    most = direction.abs()
    return NumericalError(
        given="a density that is flat at its maximum in a direction that moves "
        f"{coordinates(program, (most > 0.1 * most.max()).nonzero().flatten().tolist())}",
        needed="a density that falls off in every direction",
        remedy="put a prior on them, fix one of them by fixed=, or use fewer components",
    )


def _inverse(program: Program, found: Derivatives) -> Tensor:
    """The inverse information; an error where the density is flat in some direction."""
    inverse, flat, _ = inverse_information(program, found, torch.zeros(program.space.size, dtype=torch.bool))
    if flat.shape[1]:
        raise _flat(program, flat.abs().amax(1))
    return inverse
