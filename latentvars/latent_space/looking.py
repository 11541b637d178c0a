"""What is found of each row, for anomaly scores: its likelihood, and how it is predicted from its own latent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentvars.errors import MissingDataError, SupportError
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.generator import GeneratorSource
from latentvars.latent_space.inversion import inverted, search, weigh
from latentvars.latent_space.law import Law
from latentvars.posterior.latent_draws import latent_draws
from latentvars.posterior.smoothing import pareto_smoothed
from latentvars.program import Bound
from latentvars.randomness import derive, seeded
from latentvars.rows import Batch, Rows

RESTARTS, MODES = 4, 4  # of rows whose likelihood is found by search
SEARCHED = 2**14  # numbers of the rows that are searched together
LEAST_DRAWS = 200


@dataclass(frozen=True)
class Looked:
    """What was found of some rows.

    Attributes:
        log_likelihood: ``[N]``.
        k_hat: ``[N]``.
        excess: predictive score ``[N]``; None where it was not asked for.
        predictive_p: ``[N]``, likewise.
    """

    log_likelihood: Tensor
    k_hat: Tensor
    excess: Tensor | None
    predictive_p: Tensor | None

    @staticmethod
    def joined(parts: Sequence[Looked]) -> Looked:
        """Parts, one behind the other, without what is predicted."""
        log_likelihood, k_hat = (
            torch.cat([getattr(one, name) for one in parts]) for name in ("log_likelihood", "k_hat")
        )
        return Looked(log_likelihood, k_hat, None, None)


def look(
    source: FittedSource | GeneratorSource, data: Any, predictive: bool, draws: int, by_search: bool, seed: int
) -> Looked:
    """Likelihoods, and predictive scores where they are asked for, of rows; None: those of the fit."""
    read: Any = _fitted if isinstance(source, FittedSource) else _generated
    return read(source, data, predictive, draws, by_search, seed)


def _fitted(source: FittedSource, data: Any, predictive: bool, draws: int, by_search: bool, seed: int) -> Looked:
    rows = source.fit.rows if data is None else source.fit.conform(data)
    scored, k_hat = marginal(source, rows, draws, by_search, derive(seed, 1))
    if not predictive:
        return Looked(scored, k_hat, None, None)
    if rows.observed is not None:
        raise MissingDataError(
            given="the predictive score of rows with gaps",
            needed="complete rows, which new ones are drawn beside",
            remedy='leave it out: scores=("likelihood", "typicality")',
        )
    excess, p = [], []
    for number, (_, part) in enumerate(rows.parts(2**20)):
        own = derive(seed, 2, number)
        points = {name: value.expand(draws, *value.shape) for name, value in source.point.items()}
        locals_ = latent_draws(source.program, part, points, draws, own)
        given = partial(_read_sites, source, part.batch(dtype=source.dtype), locals_)
        one = _predictive(given, draws, own)
        excess.append(one[0])
        p.append(one[1])
    return Looked(scored, k_hat, torch.cat(excess), torch.cat(p))


def marginal(source: FittedSource, rows: Rows, draws: int, by_search: bool, seed: int) -> tuple[Tensor, Tensor]:
    """log p(x) of each row ``[N]``, nats, and the k-hat of how it was found: exact where locals are summed out, by
    importance sampling with the guide as proposal, or by inversion of rows that the guide does not know."""
    if source.exact:
        found = source.fit.score_rows(rows).to(torch.float64)
        return found, torch.full_like(found, -torch.inf)
    if not by_search:
        try:
            smoothed = pareto_smoothed(_guide_weights(source, rows, draws, seed))
            return smoothed.log_mean, smoothed.k_hat
        except SupportError:  # a guide of the rows of the fit alone
            pass
    log_evidence, k_hat = [], []
    for number, (_, part) in enumerate(rows.parts(SEARCHED)):
        target, own = source.target(part), derive(seed, 4, number)
        found = weigh(target, search(target, RESTARTS, MODES, own), max(draws, LEAST_DRAWS), own)
        log_evidence.append(found.log_evidence)
        k_hat.append(found.k_hat)
    return torch.cat(log_evidence), torch.cat(k_hat)


def _guide_weights(source: FittedSource, rows: Rows, draws: int, seed: int) -> Tensor:
    """log p(x, z) − log q(z | x) of draws of the guide, ``[draws, N]``."""
    bound, parts = Bound(1, importance=True), []
    for number, batch in enumerate(rows.batches(rows.block, shuffle=False, dtype=source.dtype)):
        with torch.no_grad():
            each = [
                source.program.score(source.point, batch, derive(seed, number, k), bound).rows for k in range(draws)
            ]
        parts.append(torch.stack(each).to(torch.float64))
    return torch.cat(parts, 1)


def _read_sites(
    source: FittedSource, batch: Batch, locals_: Mapping[str, Tensor], draw: int
) -> list[tuple[Law, Tensor, Tensor | None]]:
    """Each observed site given one draw of the locals: its law, its value, and which steps count."""
    here = {name: value[draw] for name, value in locals_.items()}
    run = source.run_given(here, batch)
    laws = source.laws_of(run, here)
    return [(law, run.sites[name].value, batch.mask if law.row_axis == -2 else None) for name, law in laws.items()]


def _generated(source: GeneratorSource, data: Any, predictive: bool, draws: int, by_search: bool, seed: int) -> Looked:
    target: Any = source.target(data)
    found = inverted(target, search(target, RESTARTS, MODES, seed), draws, seed)
    if not predictive:
        return Looked(found.log_evidence, found.k_hat, None, None)

    def given(draw: int) -> list[tuple[Law, Tensor, Tensor | None]]:
        return [(Law(source.law(found.draws[draw])), target.x, None)]

    return Looked(found.log_evidence, found.k_hat, *_predictive(given, draws, seed))


def _predictive(given: Callable[[int], Any], draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Excess of −log p(x | z) over that of new rows, in its standard deviations, and P(new ≥ own), ``[N]`` each."""
    own, new = [], []
    for draw in range(draws):
        sites = given(draw)
        with torch.no_grad(), seeded(seed, 3, draw):
            own.append(-sum(_by_row(law, value, mask) for law, value, mask in sites))
            new.append(-sum(_by_row(law, _anew(law), mask) for law, _, mask in sites))
    there, drawn = torch.stack(own).to(torch.float64), torch.stack(new).to(torch.float64)
    spread = (drawn - there.mean(0)).std(0).clamp(min=1e-12)
    return (there - drawn).mean(0) / spread, (drawn >= there).to(torch.float64).mean(0)


def _anew(law: Law) -> Tensor:
    """One draw as the site has its values, rows not first."""
    return law.sample(1)[0].movedim(0, law.row_axis - law.event_dims)


def _by_row(law: Law, value: Tensor, mask: Tensor | None) -> Tensor:
    score = law.log_prob(value).movedim(law.row_axis, 0)
    if mask is not None:
        score = torch.where(mask, score, 0.0)
    return score.reshape(len(score), -1).sum(1)
