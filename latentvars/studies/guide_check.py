"""How far a guide is from the posterior: by importance sampling, and beside NUTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentvars.errors import KindError, NumericalError, SettingError, SupportError
from latentvars.inference import NUTS, Fit
from latentvars.posterior.datatree import draw_scores
from latentvars.posterior.label_free import LabelFree
from latentvars.posterior.smoothing import pareto_smoothed
from latentvars.posterior.standard_errors import labels
from latentvars.posterior.symmetry import Symmetries
from latentvars.randomness import derive
from latentvars.studies.refitting import again, finished, refitter

if TYPE_CHECKING:
    import pandas

GOOD = 0.7  # Pareto shape above which importance weights say nothing


@dataclass(frozen=True, eq=False)
class GuideCheck:
    """What importance weights p(x, θ) / q(θ) of draws of a guide say about it.

    Attributes:
        k_hat: Pareto shape of the weights (Yao et al. 2018; Vehtari et al. 2024): below .5 the guide is good, above .7
            it misses parts of the posterior, and what is below is not to be trusted.
        elbo: mean of log p(x, θ) − log q(θ), nats.
        log_evidence: log of the mean of the smoothed weights, an estimate of log p(x), nats (with continuous locals of
            the bound that their guide leaves).
        effective: size of an equal sample of the posterior, of all draws.
        shift: global → (weighted mean − guide's mean) / weighted sd, ``[*shape]``.
        ratio: global → guide's variance / weighted variance, ``[*shape]``.
    """

    k_hat: float
    elbo: float
    log_evidence: float
    effective: float
    shift: Mapping[str, Tensor] = field(repr=False)
    ratio: Mapping[str, Tensor] = field(repr=False)

    @property
    def gap(self) -> float:
        """log_evidence − elbo, an estimate of KL(q ‖ p), nats."""
        return self.log_evidence - self.elbo

    @property
    def good(self) -> bool:
        """Whether the weights can be trusted."""
        return self.k_hat <= GOOD

    def table(self) -> pandas.DataFrame:
        """``shift`` and ``variance_ratio`` of each number of the globals."""
        return _table(self.shift, self.ratio)

    def __str__(self) -> str:
        verdict = (
            "good" if self.k_hat < 0.5 else "usable with its weights" if self.good else "misses parts of the posterior"
        )
        return (
            f"guide: {verdict} (Pareto k {self.k_hat:.2f}), ELBO {self.elbo:.3f}, evidence {self.log_evidence:.3f}, "
            f"gap {self.gap:.3f} nats, {self.effective:.0f} effective draws"
        )


@dataclass(frozen=True, eq=False)
class Agreement:
    """A fit beside draws of NUTS on the same rows.

    Attributes:
        fit: by its own algorithm.
        reference: by NUTS.
        shift: number → (mean of the fit − mean of NUTS) / sd of NUTS, ``[*shape]``.
        ratio: number → variance of the fit / variance of NUTS, ``[*shape]``.
    """

    fit: Fit
    reference: Fit
    shift: Mapping[str, Tensor] = field(repr=False)
    ratio: Mapping[str, Tensor] = field(repr=False)

    def table(self) -> pandas.DataFrame:
        """``shift`` and ``variance_ratio`` of each number."""
        return _table(self.shift, self.ratio)

    def __str__(self) -> str:
        shift = torch.cat([value.flatten() for value in self.shift.values()]).abs()
        ratio = torch.cat([value.flatten() for value in self.ratio.values()])
        return (
            f"{type(self.fit.algorithm).__name__} beside NUTS on {len(self.fit.rows)} rows: means differ by at most "
            f"{float(shift.max()):.2f} posterior sd, variances are {float(ratio.min()):.2f} to "
            f"{float(ratio.max()):.2f} times those of NUTS"
        )


def check_guide(fit: Fit, *, draws: int = 1_000, seed: int | None = None) -> GuideCheck:
    """Judge a guide over the globals by importance sampling.

    Args:
        fit: by ``lv.SVI()`` with a guide that has a spread, or another algorithm whose draws have a known density.
        draws: of the guide.
        seed: of the draws; None: that of the fit.

    Raises:
        KindError: a point, or draws of a sampler.
        SettingError: fewer than 100 draws.
        NumericalError: log densities that are not finite.
    """
    if draws < 100:
        raise SettingError(f"draws={draws}", "at least 100", "write draws=1000")
    seed = fit.seed if seed is None else seed
    values, log_q = fit.globals.draws(draws, derive(seed, 60))
    if log_q is None:
        raise KindError(
            given=f"a fit by {type(fit.algorithm).__name__}, whose globals have no density of their own",
            needed="a guide over the globals",
            remedy="check a fit by lv.SVI(); of a sampler read R-hat in fit.summary()",
        )
    prior, scores = draw_scores(fit.program, fit.rows, values, derive(seed, 61))
    ratios = prior + scores @ fit.rows.weights.to(scores.dtype) - log_q
    if not bool(ratios.isfinite().all()):
        raise NumericalError(
            given=f"{int((~ratios.isfinite()).sum())} of {draws} draws of the guide without a finite density",
            needed="a guide inside the support of the posterior",
            remedy="train the guide longer, or with a smaller learning rate",
        )
    found = pareto_smoothed(ratios)
    weights = found.log_weights.exp()
    shift, ratio = {}, {}
    for name, value in values.items():
        value = value.to(torch.float64)
        mean = torch.tensordot(weights, value, 1)
        variance = torch.tensordot(weights, (value - mean).square(), 1)
        shift[name] = (mean - value.mean(0)) / variance.sqrt()
        ratio[name] = value.var(0) / variance
    effective = float(1 / weights.square().sum())
    return GuideCheck(float(found.k_hat), float(ratios.mean()), float(found.log_mean), effective, shift, ratio)


def against_nuts(
    fit: Fit, *, rows: int | None = 500, sampler: NUTS | None = None, draws: int = 2_000, seed: int | None = None
) -> Agreement:
    """Fit some of the rows again, by the same algorithm and by NUTS, and compare the two posteriors.

    Where labels can be permuted or factors turned, numbers that this does not change are compared.

    Args:
        fit: by ``lv.SVI()`` or another algorithm that leaves draws.
        rows: how many, evenly spread over the data; None: all.
        sampler: settings of NUTS.
        draws: of each.
        seed: of both; None: that of the fit.

    Raises:
        KindError: a fit whose globals are a point.
        SupportError: a model that NUTS cannot sample.
    """
    if fit.algorithm is None or isinstance(fit.algorithm, NUTS):
        raise KindError(
            given="a fit that no algorithm made" if fit.algorithm is None else "a fit by NUTS itself",
            needed="a fit by lv.SVI()",
            remedy="fit the model by the algorithm that is to be compared",
        )
    if fit.extent is not None or fit.rows.streamed:
        raise SupportError("rows in several processes or files", "rows in memory", "take a subset: rows.subset(...)")
    seed = fit.seed if seed is None else seed
    size = len(fit.rows) if rows is None else min(rows, len(fit.rows))
    if size < 1:
        raise SettingError(f"rows={rows}", "at least one", "write rows=500")
    some = fit.rows.subset(torch.arange(size) * len(fit.rows) // size)
    fitter = refitter(fit, fit.point)
    other = finished(again(fitter, some, derive(seed, 62)))
    found, log_q = other.globals.draws(draws, derive(seed, 63))
    if log_q is None:
        raise KindError("a fit whose globals are a point", "draws of a guide", "fit it by lv.SVI() with a guide")
    sampling = replace(fitter, algorithm=sampler or NUTS(), start=other.point)
    reference = finished(again(sampling, some, derive(seed, 64)))
    drawn, _ = reference.globals.draws(draws, derive(seed, 65))
    free = LabelFree.of(Symmetries.of(other.program, some, {name: value[0] for name, value in drawn.items()}))
    ours, theirs = free(found), free(drawn)
    shift = {name: (ours[name].mean(0) - theirs[name].mean(0)) / theirs[name].std(0) for name in theirs}
    ratio = {name: ours[name].var(0) / theirs[name].var(0) for name in theirs}
    return Agreement(other, reference, shift, ratio)


def _table(shift: Mapping[str, Tensor], ratio: Mapping[str, Tensor]) -> pandas.DataFrame:
    import pandas

    lines = {}
    for name, value in shift.items():
        for label, one, other in zip(labels(name, value), value.flatten(), ratio[name].flatten(), strict=True):
            lines[label] = {"shift": float(one), "variance_ratio": float(other)}
    return pandas.DataFrame.from_dict(lines, orient="index")
