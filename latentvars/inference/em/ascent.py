"""L-BFGS over some globals in unconstrained space, for whatever has no closed form.

It works on Q(θ′) = Σ w log f(θ′) + log prior(θ′), which costs nothing in the number of rows wherever the factors have
sufficient statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import NumericalError
from latentvars.inference.em.repeated import Objective, Repeated, Slope
from latentvars.program import GlobalSpace, Program

Evaluated = Callable[[Tensor], tuple[Tensor, Tensor]]

STUCK = 1e-3  # slope relative to Q at which L-BFGS must find a way up
EDGE = 60.0  # where a value on the edge of its support is put on the unconstrained scale


@dataclass(frozen=True)
class Effort:
    """How far L-BFGS goes in one M-step.

    Attributes:
        steps: most steps.
        tolerance: relative gain of Q below which it ends.
    """

    steps: int
    tolerance: float


EXHAUSTIVE = Effort(steps=100, tolerance=1e-15)


@dataclass(frozen=True)
class Ascent:
    """What L-BFGS climbs.

    Attributes:
        objective: of all globals and the inputs, scalar, nats.
        inputs: what changes between passes.
        constants: what the objective reads besides, and does not change.
        repeated: what is known of it from earlier passes; None: it is not asked for often.
    """

    objective: Objective
    inputs: Any = ()
    constants: tuple[Any, ...] = ()
    repeated: Repeated | None = None

    def slope(self, program: Program, space: GlobalSpace, current: Mapping[str, Tensor]) -> Evaluated:
        """The function over some globals in unconstrained space."""
        rest = {name: value for name, value in current.items() if name not in space.names}
        slope = Slope(program, space, self.objective, rest, self.inputs)
        if self.repeated is None:
            return slope.plain
        return partial(self.repeated.evaluated, slope, self.constants)


def climb(
    program: Program,
    names: tuple[str, ...],
    ascent: Ascent,
    current: dict[str, Tensor],
    effort: Effort = EXHAUSTIVE,
    floors: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """L-BFGS over some globals in unconstrained space; a step that does not improve is not taken.

    ``floors`` has least values of positive globals; one that begins lower does not fall further.

    Raises:
        NumericalError: the objective or its slope is not finite, or the slope leads nowhere.
    """
    from scipy.optimize import Bounds, minimize  # a quarter of a second, for models without closed forms alone

    space = program.space.subset(names)
    slope_at = ascent.slope(program, space, current)

    def negative(free: np.ndarray) -> tuple[float, np.ndarray]:
        found, gradient = slope_at(torch.tensor(free, dtype=program.dtype))
        value = float(found)
        return (-value, -gradient.double().numpy()) if np.isfinite(value) else (np.inf, np.zeros_like(free))

    free = space.unconstrain({name: current[name] for name in space.names}).double()
    start = free.nan_to_num().clamp(-EDGE, EDGE).numpy()
    before, slope = negative(start)
    _check_slope(space, before, slope)
    least = np.minimum(_lowest(space, floors or {}), start)
    slope = np.where((start <= least) & (slope > 0), 0.0, slope)  # downwards there is no way on
    options = {"maxiter": effort.steps, "ftol": effort.tolerance, "gtol": 1e-9}
    bounds = Bounds(least, np.inf) if floors else None  # type: ignore[arg-type]
    found = minimize(negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    if not found.fun < before:
        if np.abs(slope).max() > STUCK * max(1.0, abs(before)) and np.abs(start).max() < EDGE:
            raise _stuck(space, before, slope, str(found.message))
        return current
    values, _ = space.constrain(torch.tensor(found.x, dtype=program.dtype))
    # storage of their own: parts of one vector lie at odd addresses, on which the last bit of a product can depend
    return {**current, **{name: value.clone() for name, value in values.items()}}


def _lowest(space: GlobalSpace, floors: Mapping[str, Tensor]) -> np.ndarray:
    """Lower bounds on the unconstrained scale, ``[size]``."""
    found = []
    for site in space.sites:
        low = torch.full((site.free,), -torch.inf, dtype=torch.float64)
        if site.name in floors and bool((floors[site.name] > 0).all()):
            low = space.subset((site.name,)).unconstrain({site.name: floors[site.name]}).double()
        found.append(low)
    return torch.cat(found).numpy()


def _check_slope(space: GlobalSpace, value: float, slope: np.ndarray) -> None:
    """Q has a finite value and slope where L-BFGS begins.

    Raises:
        NumericalError: with the globals.
    """
    broken = _at(space, ~np.isfinite(slope))
    if np.isfinite(value) and not broken:
        return
    raise NumericalError(
        given=f"an M-step by L-BFGS in which Q is {-value:.6g} nats"
        + (f" and its derivatives with respect to {broken} are not finite" if broken else f", of {list(space.names)}"),
        needed="a finite Q with finite derivatives at the current globals",
        remedy="keep these globals away from where their density has no derivative (a prior, or start=), "
        "or write the density without roots and quotients that vanish there",
    )


def _stuck(space: GlobalSpace, value: float, slope: np.ndarray, message: str) -> NumericalError:
    steep = _at(space, np.abs(slope) >= 0.1 * np.abs(slope).max())
    return NumericalError(
        given=f"an M-step in which L-BFGS found no step up from Q = {-value:.6g} nats, although its largest derivative "
        f"is {np.abs(slope).max():.3g}, with respect to {steep} ({message})",
        needed="a density whose derivatives are those of its values",
        remedy="remove detach(), rounding and draws from the model, and check own distributions with "
        "torch.autograd.gradcheck",
    )


def _at(space: GlobalSpace, chosen: np.ndarray) -> list[str]:
    """The globals to which some chosen unconstrained number belongs."""
    parts = np.split(chosen, np.cumsum([site.free for site in space.sites])[:-1])
    return [site.name for site, part in zip(space.sites, parts, strict=True) if part.any()]
