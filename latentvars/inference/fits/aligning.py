"""``align``: draws of a sampler in one labelling, with what that changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from latentvars.errors import KindError, SettingError, SupportError
from latentvars.inference.fits.fit import Fit
from latentvars.inference.guides.posteriors import PointMass
from latentvars.inference.sampling import Draws
from latentvars.posterior.relabelling import Method
from latentvars.posterior.summary import r_hat
from latentvars.posterior.symmetry import Aligned, Symmetries
from latentvars.randomness import derive


@dataclass(frozen=True, eq=False)
class Alignment:
    """A fit whose labels, signs and rotations mean the same in all draws.

    Attributes:
        fit: the aligned fit; its log-likelihoods, predictions and beliefs are those of before, draw by draw.
        before: the fit as it was.
        moved: local or axis → share of the draws whose labels changed places, or whose factors turned.
        orders: discrete local → ``[C, S, K]``: label k of the aligned draw is what the draw calls ``order[c, s, k]``.
        turns: axis of factors → ``[C, S, L, L]``, by which loadings were multiplied from the right.
        ambiguity: discrete local → ``[K, K]``, mean posterior probability that two labels should change places (0: no
            doubt, ½: nothing tells them apart); axis of factors → 1 − cos of the angle that is left.
    """

    fit: Fit
    before: Fit
    moved: Mapping[str, float]
    orders: Mapping[str, Tensor]
    turns: Mapping[str, Tensor]
    ambiguity: Mapping[str, Tensor]

    @cached_property
    def r_hat_before(self) -> dict[str, Tensor]:
        """Global → rank-normalised split R-hat of each number before (Vehtari et al. 2021), ``[*shape]``."""
        return _r_hat(self.before)

    @cached_property
    def r_hat(self) -> dict[str, Tensor]:
        """Global → the same after."""
        return _r_hat(self.fit)

    def __str__(self) -> str:
        lines = [f"alignment of {', '.join(self.moved) or 'nothing'}"]
        for name, share in self.moved.items():
            lines.append(
                f"  {name}: {share:.1%} of the draws changed, ambiguity {float(self.ambiguity[name].max()):.2g}"
            )
        if self.fit.globals is not self.before.globals and isinstance(self.fit.globals, Draws):
            worst = [max(float(value.max()) for value in found.values()) for found in (self.r_hat_before, self.r_hat)]
            lines.append(f"  largest R-hat {worst[0]:.3f} before, {worst[1]:.3f} after")
        return "\n".join(lines)


def align(fit: Fit, *, method: Method = "stephens", to: Fit | None = None, seed: int | None = None) -> Alignment:
    """Bring the draws of a sampler into one labelling.

    A posterior does not change when components, states or factors are renamed (or factors turned), so that chains
    may differ in names alone, and change names on the way. The names along axes that the model calls component, state,
    latent or factor in its ``dims()`` are chosen such that all draws speak of the same thing; whether the density
    really does not change is tried first. Without ``dims()`` a global with one entry for each label of the only
    discrete local has its labels.

    Args:
        fit: by ``lv.NUTS()``; with ``to=`` also a point.
        method: ``"stephens"``: by the posterior probabilities of rows (Stephens 2000); ``"ecr"``: by their most
            probable labels (Papastamoulis & Iliopoulos 2010); ``"pivot"``: by the values of the globals (Marin et al.
            2005).
        to: another fit of the same model, whose names are taken: those of its point.
        seed: of a guide's draws; None: that of the fit.

    Returns:
        The aligned fit, with R-hat before and after, and how ambiguous the names are.

    Raises:
        KindError: a fit by a guide, or a point without ``to=``.
        SupportError: a model whose density changes when labels are permuted, or that names no axes of labels.
        SettingError: an unknown method.
    """
    if method not in get_args(Method):
        raise SettingError(f"method={method!r}", f"one of {list(get_args(Method))}", "correct method=")
    seed = fit.seed if seed is None else seed
    draws, score = _draws(fit, to)
    found = Symmetries.of(fit.program, fit.rows, {name: value[0] for name, value in draws.items()})
    if not found:
        raise SupportError(
            given=f"a model {type(fit.model).__name__} in which no labels or factors were found: {found.why}",
            needed="axes called component, state, latent or factor, along which the density is symmetric",
            remedy="name them in dims() of the model, as {'loc': ('component',), 'z': ('row', 'component')}",
        )
    target = None if to is None else to.point
    aligned = found.align(draws, score, method, target, derive(seed, 40))
    return _result(fit, aligned)


def _draws(fit: Fit, to: Fit | None) -> tuple[dict[str, Tensor], Tensor]:
    """Globals ``[S, *shape]`` and the log density of each, of which the largest is the pivot."""
    if isinstance(fit.globals, Draws):
        return {n: v.flatten(0, 1) for n, v in fit.globals.values.items()}, fit.globals.stats["lp"].flatten()
    if isinstance(fit.globals, PointMass) and to is not None:
        return {n: v[None] for n, v in fit.point.items()}, torch.zeros(1)
    raise KindError(
        given=f"globals that are {'a point' if isinstance(fit.globals, PointMass) else 'known by a guide'}",
        needed="draws of a sampler; or a point and to=",
        remedy="fit by lv.NUTS(); a guide stays with the names of its start; write to=other to compare points",
    )


def _result(fit: Fit, aligned: Aligned) -> Alignment:
    if isinstance(fit.globals, Draws):
        lead = fit.globals.free.shape[:2]
        space, before = fit.program.space, fit.globals
        free = space.unconstrain(aligned.values).reshape(before.free.shape)
        said = (*before.said, f"aligned: {', '.join(aligned.moved)}")
        turned = [name for name in before.locals if aligned.turns and fit.program.roles.continuous]
        if turned:
            raise SupportError(
                given=f"draws of the continuous locals {turned} beside factors that can be turned",
                needed="factors that are integrated out",
                remedy="integrate them out in the model, as lv.models.FactorAnalysis does",
            )
        posterior: Draws | PointMass = Draws(space, free, before.stats, said, before.locals)
    else:
        lead = torch.Size([1, 1])
        posterior = PointMass({name: value[0] for name, value in aligned.values.items()})
    again = Fit.of(
        fit.program,
        fit.rows,
        fit.algorithm,
        posterior,
        status=fit.status,
        history=fit.history,
        seed=fit.seed,
        seconds=fit.seconds,
    )
    again = replace(again, extent=fit.extent)
    return Alignment(
        again,
        fit,
        {name: float(value.double().mean()) for name, value in aligned.moved.items()},
        {name: value.reshape(*lead, -1) for name, value in aligned.orders.items()},
        {name: value.reshape(*lead, *value.shape[1:]) for name, value in aligned.turns.items()},
        aligned.ambiguity,
    )


def _r_hat(fit: Fit) -> dict[str, Tensor]:
    if not isinstance(fit.globals, Draws):
        raise KindError("a point, of which there are no chains", "draws of a sampler", "fit by lv.NUTS()")
    return {name: r_hat(value) for name, value in fit.globals.values.items()}
