"""How unlike the data that a model learnt from are some rows? Scores, and p-values calibrated on reference rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from latentvars.errors import KindError, NameUnknownError, SettingError
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.folds import Folds
from latentvars.latent_space.generator import GeneratorSource
from latentvars.latent_space.looking import Looked, look
from latentvars.randomness import derive
from latentvars.rows import Rows

if TYPE_CHECKING:
    import pandas

Score = Literal["likelihood", "typicality", "predictive"]
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
            uniform, or larger, for rows like the reference rows if none of these was learnt from; too small for new
            rows otherwise.
        predictive_p: posterior predictive p-value ``[N]``, P(−log p(x_rep | z) ≥ −log p(x | z)); not calibrated, as x
            is used twice (Meng 1994). None where it was not asked for.
        log_likelihood: log p(x) ``[N]``, nats.
        k_hat: Pareto shape of the weights that it was found by ``[N]``; −inf where it is exact.
        reference: what the p-values are ranks among.
        names: of the rows.
        held_out: whether the model that scored the reference rows had not learnt from them, as far as is known: False
            where they are those of the fit.
    """

    scores: Mapping[str, Tensor] = field(repr=False)
    p_values: Mapping[str, Tensor] = field(repr=False)
    predictive_p: Tensor | None = field(repr=False)
    log_likelihood: Tensor = field(repr=False)
    k_hat: Tensor = field(repr=False)
    reference: str
    names: tuple = field(repr=False)
    held_out: bool = True

    def __len__(self) -> int:
        return len(self.log_likelihood)

    def flagged(self, level: float = 0.05, score: Score = "likelihood") -> Tensor:
        """Positions of the rows whose p-value is at most ``level``, the strangest first.

        Raises:
            NameUnknownError: a score that was not asked for.
        """
        if score not in self.p_values:
            raise NameUnknownError(
                f"the score {score!r}", f"one of {list(self.p_values)}", "ask anomaly for it: scores="
            )
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
        said = f"{len(self)} rows beside {self.reference}; p ≤ .05: {found}"
        if self.held_out:
            return said
        return f"{said}. The model has learnt from these: p-values of new rows are too small; see reference=, folds="


def anomaly(
    source: FittedSource | GeneratorSource,
    data: Any,
    reference: Any,
    scores: Score | Sequence[Score],
    draws: int,
    by_search: bool,
    folds: Folds | None,
    seed: int,
) -> Anomaly:
    """Score rows beside reference rows; see :meth:`latentvars.LatentSpace.anomaly`."""
    scores = (scores,) if isinstance(scores, str) else scores
    _check(source, reference, scores, draws, folds)
    predictive = "predictive" in scores
    looked = partial(look, predictive=predictive, draws=draws, by_search=by_search)
    found = looked(source, data, seed=derive(seed, 2))
    rows = Rows.of(data) if isinstance(source, GeneratorSource) else source.fit.conform(data)
    if folds is None:
        normal = looked(source, reference, seed=derive(seed, 1))
        each, ahead = _ranked(found, normal, scores)
        poor, size = normal.k_hat, len(normal.k_hat)
    else:
        assert isinstance(source, FittedSource)
        ahead, held_out = {}, []
        for number, (held, own) in enumerate(folds.fits(source)):
            held_out.append(looked(own, held, seed=derive(seed, 1, number)))
            here = _ranked(looked(own, rows, seed=derive(seed, 3, number)), held_out[-1], scores)[1]
            ahead = {name: count + ahead.get(name, 0) for name, count in here.items()}
        each = _scores(found, Looked.joined(held_out), scores)
        poor, size = torch.cat([one.k_hat for one in held_out]), len(source.fit.rows)
    _warn(poor, by_search)
    return Anomaly(
        each,
        {name: (count + 1).to(torch.float64) / (size + 1) for name, count in ahead.items()},
        found.predictive_p,
        found.log_likelihood,
        found.k_hat,
        _named(size, reference, folds),
        tuple(rows.names),
        reference is not None or folds is not None,
    )


def _named(size: int, reference: Any, folds: Folds | None) -> str:
    if folds is not None:
        return f"the {size} rows of the fit, each scored by one of {folds.count} fits without it"
    return f"the {size} rows of the fit" if reference is None else f"{size} reference rows"


def _check(source: Any, reference: Any, scores: Sequence[Score], draws: int, folds: Folds | None) -> None:
    unknown = [name for name in scores if name not in get_args(Score)]
    if unknown or not scores:
        raise SettingError(f"scores={list(scores)}", f"some of {list(get_args(Score))}", "correct scores")
    if draws < FEWEST:
        raise SettingError(f"draws={draws}", f"at least {FEWEST}, to smooth their weights", "write draws=100")
    if reference is None and isinstance(source, GeneratorSource):
        raise KindError("anomaly scores of a generator, which has no rows", "reference rows", "pass reference=rows")
    if reference is not None and folds is not None:
        raise SettingError("reference= together with folds=", "one of them", "leave folds out: the reference is enough")


def _ranked(found: Looked, normal: Looked, scores: Sequence[Score]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores of rows, and how many of the reference rows score as high, by name."""
    each, among = _scores(found, normal, scores), _scores(normal, normal, scores)
    return each, {name: as_high(value, among[name]) for name, value in each.items()}


def _warn(k_hat: Tensor, by_search: bool) -> None:
    poor = float((k_hat > UNRELIABLE).double().mean())
    if poor > TOLERATED:
        remedy = "raise draws=" if by_search else "search=True finds better ones, more slowly"
        warnings.warn(
            f"log-likelihoods of {poor:.0%} of the reference rows are by importance weights of k-hat above "
            f"{UNRELIABLE}, and too low on average; p-values hold, since reference rows are scored alike. {remedy}",
            stacklevel=4,
        )


def as_high(score: Tensor, reference: Tensor) -> Tensor:
    """How many of the reference scores are at least as high ``[N]``."""
    below = torch.searchsorted(reference.sort().values, score.contiguous(), right=False)
    return len(reference) - below


def _scores(found: Looked, normal: Looked, names: Sequence[str]) -> dict[str, Tensor]:
    level = normal.log_likelihood.mean()
    every = {
        "likelihood": -found.log_likelihood,
        "typicality": (found.log_likelihood - level).abs(),
        "predictive": found.excess,
    }
    return {name: every[name] for name in names}  # type: ignore[misc]
