"""Leave-future-out cross-validation of sequences: what a model predicts of the steps to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentvars.distributions import HiddenMarkov
from latentvars.errors import KindError, SettingError, SupportError
from latentvars.inference import Fit
from latentvars.posterior.criticism.reading import counted_once, known_of, smoothed, towards_posterior
from latentvars.posterior.datatree import Knowledge, draw_scores
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Rows
from latentvars.studies.refitting import again, finished, refitter

if TYPE_CHECKING:
    import pandas

WINDOW = 25  # cuts whose scores are worked out together


@dataclass(frozen=True, eq=False)
class LeaveFutureOut:
    """Predictive densities of the steps to come.

    Attributes:
        cuts: t, after how many steps the future was left out, ``[C]``.
        elpd_i: log p(x_t+1..t+M | x_1..t) of each sequence, nats, ``[C, N]``; NaN where it ends before.
        pareto_k: shape of the weights' tail at each cut ``[C]``; −inf after a refit by a sampler.
        refits: the cuts at which the model was fitted again.
        ahead: M.
    """

    cuts: np.ndarray
    elpd_i: np.ndarray = field(repr=False)
    pareto_k: np.ndarray = field(repr=False)
    refits: tuple[int, ...]
    ahead: int

    @property
    def elpd(self) -> float:
        """Sum over all cuts and sequences, nats."""
        return float(np.nansum(self.elpd_i))

    @property
    def se(self) -> float:
        """Standard error of :attr:`elpd` over its terms, as if they were independent, nats."""
        terms = self.elpd_i[~np.isnan(self.elpd_i)]
        return float(np.sqrt(len(terms)) * terms.std())

    def summary(self) -> pandas.DataFrame:
        """A line for each cut: ``elpd`` of all sequences, ``pareto_k``, ``refitted``."""
        import pandas

        values = {
            "elpd": np.nansum(self.elpd_i, 1),
            "pareto_k": self.pareto_k,
            "refitted": np.isin(self.cuts, self.refits),
        }
        return pandas.DataFrame(values, index=pandas.Index(self.cuts, name="steps"))

    def __str__(self) -> str:
        return (
            f"Leave-future-out: elpd {self.elpd:.3f} nats (standard error {self.se:.3f}), {self.ahead} "
            f"step{'s' if self.ahead > 1 else ''} ahead after {self.cuts[0]} to {self.cuts[-1]} steps, "
            f"{len(self.refits)} refits for {len(self.cuts)} cuts"
        )


def leave_future_out(
    fit: Fit,
    *,
    first: int,
    ahead: int = 1,
    threshold: float = 0.7,
    draws: int | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> LeaveFutureOut:
    """Σ_t log p(x_t+1..t+M | x_1..t) of sequences, t = ``first`` ..., locals removed, by Pareto-smoothed importance
    sampling (Bürkner, Gabry & Vehtari 2020).

    The model is fitted to the first steps; its draws are weighted by the density of each step that is added, and it is
    fitted again, by the algorithm of the fit, where the weights' tail is too heavy. Several sequences are cut at the
    same step, and those that are long enough predicted. The predictive densities are differences of scores of sequences
    cut at t + M and at t (for chains the one-step predictions of one pass), so that any model of sequences will do.

    Args:
        fit: of sequences, by ``lv.NUTS()``, or by ``lv.SVI()`` with a guide that has a spread.
        first: steps that are never predicted, L.
        ahead: steps that are predicted together, M.
        threshold: of Pareto k, above which the model is fitted again; −inf: at every cut.
        draws: of the globals; None: 1,000, or all those of a sampler where there are fewer.
        seed: of the refits; None: that of the fit.
        progress: show a bar; None: where standard error is a terminal.

    Raises:
        KindError: a fit whose globals are a point.
        SettingError: no step left to predict, or rows that are no sequences.
        DataError: rows with weights.
        SupportError: continuous locals; a fit of several processes, or rows that stay in files.
        NumericalError: log-likelihoods that are not finite; whatever a refit raises.
    """
    seed = fit.seed if seed is None else seed
    cuts = _cuts(fit.rows, first, ahead)
    counted_once(fit.rows, "leave-future-out")
    if not fit.exact:
        raise SupportError(
            given="a model with continuous locals, whose log-likelihoods are lower bounds",
            needed="log-likelihoods of sequences without their locals",
            remedy="integrate the locals out in the model",
        )
    one = known_of(fit, 1, seed)
    if one.draws is None:
        raise KindError(
            given="globals that are a point, which no draw can be taken of",
            needed="draws of the globals",
            remedy="fit the model by lv.NUTS(), or by lv.SVI()",
        )
    start = {name: value[0] for name, value in one.draws.items()}
    past: Past | None = None
    refits, terms, shapes = [], [], []
    for t in tqdm(cuts, disable=None if progress is None else not progress, unit="step"):
        found = None if past is None else past.weights(t)
        if past is None or found is None or float(found[1]) > threshold:
            past = Past.of(fit, t, start, draws, seed)
            refits.append(t)
            found = past.weights(t)
        terms.append(past.predicted(t, ahead, found[0]))
        shapes.append(float(found[1]))
    return LeaveFutureOut(np.array(cuts), torch.stack(terms).numpy(), np.array(shapes), tuple(refits), ahead)


@dataclass(frozen=True)
class Past:
    """Draws of the globals given the first steps, and the scores of longer and longer sequences at them.

    Attributes:
        known: of the refit.
        rows: the whole sequences.
        cut: after how many steps it was refitted.
        scores: t → log p(x_1..t) of each sequence ``[S, N]``; grows.
        base: log ratio of the posterior given the first steps to what the draws are from, ``[S]``.
    """

    known: Knowledge
    rows: Rows
    cut: int
    scores: dict[int, Tensor]
    base: Tensor

    @staticmethod
    def of(fit: Fit, cut: int, start: Mapping[str, Tensor], draws: int | None, seed: int) -> Past:
        """Fit the model to the first ``cut`` steps."""
        rows = fit.rows.first_steps(cut)
        refit = finished(again(refitter(fit, start), rows, derive(seed, 50, cut)))
        known = known_of(refit, draws, derive(seed, 51, cut))
        assert known.draws is not None
        base = torch.zeros(known.size, dtype=torch.float64)
        if known.log_q is not None:
            base = towards_posterior(known, *draw_scores(known.program, known.rows, known.draws, 0)).double()
        return Past(known, fit.rows, cut, {}, base)

    def weights(self, t: int) -> tuple[Tensor, Tensor]:
        """Log weights ``[S]`` towards the posterior given t steps, and the shape of their tail."""
        ratios = self.base if t == self.cut else self.base + (self.at(t) - self.at(self.cut)).sum(1)
        weights, shape = smoothed(ratios[:, None])
        return weights[:, 0], shape[0]

    def predicted(self, t: int, ahead: int, weights: Tensor) -> Tensor:
        """log p(x_t+1..t+M | x_1..t) of each sequence ``[N]``, NaN where it ends before."""
        assert self.rows.lengths is not None
        found = torch.logsumexp(weights[:, None] + self.at(t + ahead) - self.at(t), 0)
        return torch.where(self.rows.lengths >= t + ahead, found, torch.nan)

    def at(self, t: int) -> Tensor:
        """log p(x_1..t) of each sequence ``[S, N]``, nats."""
        if t not in self.scores:
            assert self.known.draws is not None and self.rows.lengths is not None
            window = range(t, min(t + WINDOW, int(self.rows.lengths.max())) + 1)
            self.scores.update(prefix_scores(self.known.program, self.rows, self.known.draws, window))
        return self.scores[t]


def prefix_scores(program: Program, rows: Rows, draws: Mapping[str, Tensor], cuts: range) -> dict[int, Tensor]:
    """log p(x_1..t | θ) of every sequence for every t of ``cuts`` and every draw of the globals.

    Args:
        program: the model.
        rows: N sequences; of one shorter than t all steps count.
        draws: ``[S, *shape]``.
        cuts: values of t.

    Returns:
        t → ``[S, N]``, nats.
    """
    size = len(next(iter(draws.values())))
    each = [{name: value[draw] for name, value in draws.items()} for draw in range(size)]
    if _is_chain(program, each[0]):
        longest = rows.first_steps(cuts[-1])
        steps = torch.stack([_steps_of_chain(program, longest, values) for values in each])
        sums = steps.cumsum(-1)
        return {t: sums[..., min(t, sums.shape[-1]) - 1] for t in cuts}
    prefixes = Rows.joined([rows.first_steps(t) for t in cuts])
    scores = draw_scores(program, prefixes, draws, 0)[1].double().unflatten(1, (len(cuts), len(rows)))
    return {t: scores[:, k] for k, t in enumerate(cuts)}


def _is_chain(program: Program, values: Mapping[str, Tensor]) -> bool:
    """Whether a row is one observed chain, and nothing else."""
    with torch.no_grad():
        local = program.trace(values, program.sketch).local
    return len(local) == 1 and all(isinstance(s.fn, HiddenMarkov) and s.mask is None for s in local.values())


def _steps_of_chain(program: Program, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
    """log p(x_t | x_1..t-1) ``[N, T]``, 0 past the end."""
    with torch.no_grad():
        (site,) = program.trace(values, rows.batch(dtype=program.dtype)).local.values()
        chain = site.fn
        assert isinstance(chain, HiddenMarkov)
        return chain.predict_steps(site.value)[1].double()


def _cuts(rows: Rows, first: int, ahead: int) -> range:
    if rows.lengths is None:
        raise SettingError(
            given="rows that are single observations, which have no future",
            needed="sequences",
            remedy='pass lengths= or groups= to Rows, or write lv.loo(fit, unit="row")',
        )
    if first < 1 or ahead < 1:
        raise SettingError(f"first={first}, ahead={ahead}", "both at least 1", "write first=20, ahead=1")
    longest = int(rows.lengths.max())
    if first + ahead > longest:
        raise SettingError(
            given=f"first={first}, ahead={ahead} of sequences of at most {longest} steps",
            needed="a step that is left to predict",
            remedy="lower first= or ahead=",
        )
    return range(first, longest - ahead + 1)
