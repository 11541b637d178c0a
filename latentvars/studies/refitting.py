"""Fitting the model of a fit again, to data like its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentvars.inference import EM, Fit, Fitter, Status
from latentvars.posterior.scales import entry_bounds
from latentvars.program import GlobalSpace

INSIDE = 1e-3


def refitter(fit: Fit, start: Mapping[str, Any], restarts: int | None = None) -> Fitter:
    """Fits the model of a fit by its own algorithm (EM where it has none), with what it knew of the globals.

    Args:
        fit: whose model it is.
        start: of the first start.
        restarts: in the place of those of the algorithm.
    """
    algorithm: Any = fit.algorithm if fit.algorithm is not None else EM()
    algorithm = algorithm if restarts is None else replace(algorithm, restarts=restarts)
    space = fit.program.space
    return Fitter(fit.model, algorithm, fixed=space.fixed, tied=space.tied, start=dict(start))


def again(fitter: Fitter, rows: Any, seed: int, *, start: bool = True) -> Fit:
    """One fit of a seed of its own; without ``start`` from a start of its own too."""
    return replace(fitter, seed=seed, start=fitter.start if start else None)(rows)


def finished(fit: Fit) -> Fit:
    """The fit, where Ctrl-C did not cut it off: a half-done one would say something else.

    Raises:
        KeyboardInterrupt: it did.
    """
    if fit.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return fit


def inside(space: GlobalSpace, point: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The point with probabilities a little inside their support, from where every algorithm can move."""
    found = {}
    for site in space.sites:
        value = point[site.name]
        bounds = entry_bounds(site, value)
        if bounds.simplex:
            value = torch.where(value > 0, value.clamp(min=INSIDE), value)
            value = value / value.sum(-1, keepdim=True)
        elif bounds.entrywise:
            gap = INSIDE * bounds.distance
            value = torch.where(bounds.two_sided, value.clamp(bounds.low + gap, bounds.high - gap), value)
        found[site.name] = value
    return found
