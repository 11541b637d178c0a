"""How unlike the data that a model learnt from are some rows? Scores, and p-values calibrated on reference rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from latentvars.errors import KindError, MissingDataError, SettingError, SupportError
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.generator import GeneratorSource
from latentvars.latent_space.inversion import inverted, search, weigh
from latentvars.latent_space.law import Law
from latentvars.posterior.latent_draws import latent_draws
from latentvars.posterior.smoothing import pareto_smoothed
from latentvars.program import Bound
from latentvars.randomness import derive, seeded
from latentvars.rows import Batch, Rows

if TYPE_CHECKING:
    import pandas

Score = Literal["likelihood", "typicality", "predictive"]
RESTARTS, MODES = 4, 4  # of rows whose likelihood is found by search
SEARCHED = 2**14  # numbers of the rows that are searched together
LEAST_DRAWS = 200
UNRELIABLE = 0.7  # k-hat above which importance weights are not to be trusted (Vehtari et al. 2024)
TOLERATED = 0.2  # share of reference rows
FEWEST = 25  # draws whose largest weights can be smoothed


@dataclass(frozen=True, eq=False)
class Anomaly:
    """Scores of N rows, larger where a row is stranger, and what reference rows make of them.

    Attributes:
        scores: name → ``[N]``. ``"likelihood"``: −log p(x), nats; ``"typicality"``: |log p(x) − its mean over the
            reference rows| (Nalisnick et al. 2019), which also finds rows that are too likely; ``"predictive"``: by how
            many of its standard deviations −log p(x | z), z ~ p(z | x), is above that of x drawn anew given z.
        p_values: name → ``[N]``: (r + 1) / (n + 1), of n reference rows r of which score as high (Vovk et al. 2005):
            uniform, or larger, for rows like the reference rows if none of these was learnt from.
        predictive_p: posterior predictive p-value ``[N]``, P(−log p(x_rep | z) ≥ −log p(x | z)); not calibrated, as x
            is used twice (Meng 1994). None where it was not asked for.
        log_likelihood: log p(x) ``[N]``, nats.
        k_hat: Pareto shape of the weights that it was found by ``[N]``; −inf where it is exact.
        reference: what the p-values are ranks among.
        names: of the rows.
    """

    scores: Mapping[str, Tensor] = field(repr=False)
    p_values: Mapping[str, Tensor] = field(repr=False)
    predictive_p: Tensor | None = field(repr=False)
    log_likelihood: Tensor = field(repr=False)
    k_hat: Tensor = field(repr=False)
    reference: str
    names: tuple = field(repr=False)

    def __len__(self) -> int:
        return len(self.log_likelihood)

    def flagged(self, level: float = 0.05, score: Score = "likelihood") -> Tensor:
        """Positions of the rows whose p-value is at most ``level``, the strangest first."""
        p = self.p_values[score]
        order = torch.argsort(self.scores[score], descending=True)
        return order[p[order] <= level]

    def table(self) -> pandas.DataFrame:
        """One line a row: scores and p-values."""
        import pandas

        columns = {name: value.numpy() for name, value in self.scores.items()}
        columns |= {f"p_{name}": value.numpy() for name, value in self.p_values.items()}
        return pandas.DataFrame(columns, index=pandas.Index(list(self.names)))

    def __str__(self) -> str:
        found = ", ".join(f"{name} {int((p <= 0.05).sum())}" for name, p in self.p_values.items())
        return f"{len(self)} rows beside {self.reference}; p ≤ .05: {found}"


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


def anomaly(
    source: FittedSource | GeneratorSource,
    data: Any,
    reference: Any,
    scores: Sequence[Score],
    draws: int,
    by_search: bool,
    seed: int,
) -> Anomaly:
    """Score rows beside reference rows; see :meth:`latentvars.LatentSpace.anomaly`."""
    unknown = [name for name in scores if name not in get_args(Score)]
    if unknown or not scores:
        raise SettingError(f"scores={list(scores)}", f"some of {list(get_args(Score))}", "correct scores")
    if draws < FEWEST:
        raise SettingError(f"draws={draws}", f"at least {FEWEST}, to smooth their weights", "write draws=100")
    if reference is None and isinstance(source, GeneratorSource):
        raise KindError("anomaly scores of a generator, which has no rows", "reference rows", "pass reference=rows")
    predictive = "predictive" in scores
    read: Any = _fitted if isinstance(source, FittedSource) else _generated
    normal = read(source, reference, predictive, draws, by_search, derive(seed, 1))
    found = read(source, data, predictive, draws, by_search, derive(seed, 2))
    rows = Rows.of(data) if isinstance(source, GeneratorSource) else source.fit.conform(data)
    size = len(normal.log_likelihood)
    _warn(normal.k_hat, by_search)
    each = _scores(found, normal, scores)
    among = _scores(normal, normal, scores)
    return Anomaly(
        each,
        {name: conformal(value, among[name]) for name, value in each.items()},
        found.predictive_p,
        found.log_likelihood,
        found.k_hat,
        f"the {size} rows of the fit" if reference is None else f"{size} reference rows",
        tuple(rows.names),
    )


def _warn(k_hat: Tensor, by_search: bool) -> None:
    poor = float((k_hat > UNRELIABLE).double().mean())
    if poor > TOLERATED:
        remedy = "raise draws=" if by_search else "search=True finds better ones, more slowly"
        warnings.warn(
            f"log-likelihoods of {poor:.0%} of the reference rows are by importance weights of k-hat above "
            f"{UNRELIABLE}, and too low on average; p-values hold, since reference rows are scored alike. {remedy}",
            stacklevel=4,
        )


def conformal(score: Tensor, reference: Tensor) -> Tensor:
    """(r + 1) / (n + 1) with r of the n reference scores at least as high, ``[N]``."""
    ordered = reference.sort().values
    below = torch.searchsorted(ordered, score.contiguous(), right=False)
    return (len(ordered) - below + 1).to(torch.float64) / (len(ordered) + 1)


def _scores(found: Looked, normal: Looked, names: Sequence[str]) -> dict[str, Tensor]:
    level = normal.log_likelihood.mean()
    every = {
        "likelihood": -found.log_likelihood,
        "typicality": (found.log_likelihood - level).abs(),
        "predictive": found.excess,
    }
    return {name: every[name] for name in names}  # type: ignore[misc]


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
