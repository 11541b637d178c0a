"""Predictive checks: are data that the model draws like those at hand?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latentvars.errors import NameUnknownError, SettingError
from latentvars.posterior.criticism.entries import features_of, observations_of
from latentvars.posterior.criticism.quantities import (
    Quantity,
    check_numbers,
    default_quantities,
    quantities_of,
)
from latentvars.posterior.criticism.reading import DRAWS, Fitted, known_of, repeated
from latentvars.posterior.datatree import Knowledge
from latentvars.posterior.observations import Observations, predictions
from latentvars.posterior.priors import prior_draws
from latentvars.randomness import derive

if TYPE_CHECKING:
    import pandas

DRAWN_AT_ONCE = 5_000_000  # numbers
Functions = Mapping[str, Callable[..., Any]] | Sequence[Callable[..., Any]] | Callable[..., Any]


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Test quantities of the observed data beside those of data drawn from the model.

    Attributes:
        observed: quantity → T(y), ``[1]``; of a quantity that reads the globals T(y, θ) at each draw, ``[S]``.
        replicated: quantity → T of each drawn data set, ``[S]``.
        kind: ``"posterior"``, ``"prior"``, or ``"plug-in"`` where the globals are a point.
        seed: of what is random.
    """

    observed: Mapping[str, np.ndarray] = field(repr=False)
    replicated: Mapping[str, np.ndarray] = field(repr=False)
    kind: str
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.replicated)

    def p_value(self, name: str, ties: Literal["half", "random"] = "half") -> float:
        """P(T(y_rep) >= T(y)) of one quantity: near 0 or 1 where the model does not give data like these. It is no
        test of a given level: data that the globals were learnt from lie nearer to the middle (Meng 1994).

        Args:
            name: of the quantity.
            ties: how replicates equal to the data count: by half, or ordered among them at random, which makes
                p-values of discrete quantities uniform where they should be.

        Raises:
            NameUnknownError: there is no such quantity.
            SettingError: another way to count ties.
        """
        if name not in self.replicated:
            raise NameUnknownError(f"the quantity {name!r}", f"one of {list(self.names)}", "correct the name")
        if ties not in ("half", "random"):
            raise SettingError(f"ties={ties!r}", "'half' or 'random'", "correct ties=")
        above = _sides(self.replicated[name], self.observed[name])
        share = 0.5
        if ties == "random":
            share = float(np.random.default_rng(derive(self.seed, 47, self.names.index(name))).random())
        return float(above[0] + share * above[1])

    @property
    def p_values(self) -> dict[str, float]:
        """Quantity → p-value, ties by half."""
        return {name: self.p_value(name) for name in self.names}

    def summary(self) -> pandas.DataFrame:
        """A line for each quantity: ``observed`` (its mean over draws where it reads the globals), ``mean``, ``sd`` and
        ``q05``, ``q95`` of the replicates, ``p_value``."""
        import pandas

        lines = {}
        for name in self.names:
            rep = self.replicated[name]
            rep = rep[~np.isnan(rep)]
            low, high = np.quantile(rep, [0.05, 0.95]) if len(rep) else (np.nan, np.nan)
            lines[name] = {
                "observed": self.observed[name].mean(),
                "mean": rep.mean() if len(rep) else np.nan,
                "sd": rep.std() if len(rep) else np.nan,
                "q05": low,
                "q95": high,
                "p_value": self.p_value(name),
            }
        return pandas.DataFrame.from_dict(lines, orient="index")

    def __str__(self) -> str:
        size = len(next(iter(self.replicated.values())))
        note = ", globals at a point: their uncertainty is left out" if self.kind == "plug-in" else ""
        text = f"{self.kind.capitalize()} predictive check, {size} data sets{note}:\n"
        return text + self.summary().to_string(float_format=lambda value: f"{value:.4g}")


def predictive_check(
    fit: Fitted,
    quantities: Functions | None = None,
    *,
    draws: int | None = None,
    prior: bool = False,
    seed: int | None = None,
) -> PredictiveCheck:
    """Compare test quantities of the data with those of data sets drawn from the model (Rubin 1984; Gelman, Meng &
    Stern 1996): new locals, the same covariates, lengths and gaps, one data set for each draw of the globals.

    Args:
        fit: of any algorithm. Globals that are a point are left there (plug-in): replicates then vary too little.
        quantities: ``{name: function}``, or functions with names. A function takes the observed site as an array
            ``[N, ...]`` (of several sites a mapping from site to array), for sequences ``[N, T, ...]``; missing entries
            and steps past the end are NaN. One of two arguments also takes the globals of a draw, a mapping from site
            to array. It returns a number, or an array of several. None: of each feature its mean, standard deviation,
            minimum and maximum, of counts the share of zeros, of sequences the correlation of neighbouring steps.
        draws: data sets, S; None: 1,000, or all draws of a sampler where there are fewer.
        prior: draw the globals from their priors, not from what was learnt.
        seed: of the draws; None: that of the fit.

    A row of weight w counts as w rows.

    Raises:
        SettingError: no functions, fewer than one draw, or weights that are not whole numbers.
        ModelError: ``prior`` with flat priors.
        SupportError: a fit of several processes, or rows that stay in files.
        DataError: a quantity of the data is not a number.
        KindError: a function gives something else than numbers.
    """
    seed = fit.seed if seed is None else seed
    known = known_of(fit, draws, seed)
    known = replace(known, rows=repeated(known.rows, "round them, or leave them out: rows.with_weights(...)"))
    if prior:
        known = _at_priors(known, draws or DRAWS, derive(seed, 48))
    observations = observations_of(known)
    single = len(observations.values) == 1
    used = (
        default_quantities(features_of(observations, known.rows), observations.values, known.rows.lengths is not None)
        if quantities is None
        else quantities_of(quantities, single)
    )
    observed = _of_observed(used, observations, known)
    found: dict[str, list[float]] = {}
    for data, values in _replicates(known, observations, draws or DRAWS, derive(seed, 49)):
        for name, value in _read(used, data, values).items():
            found.setdefault(name, []).append(value)
    kind = "prior" if prior else "plug-in" if known.draws is None else "posterior"
    return PredictiveCheck(observed, {name: np.array(found[name]) for name in observed}, kind, seed)


def _read(used: list[Quantity], data: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: value for quantity in used for name, value in quantity.read(data, values).items()}


def _of_observed(used: list[Quantity], observations: Observations, known: Knowledge) -> dict[str, np.ndarray]:
    """Quantity → ``[1]``, or ``[S]`` where it reads the globals."""
    found: dict[str, np.ndarray] = {}
    for quantity in used:
        size = max(1, known.size) if quantity.with_globals else 1
        each = [quantity.read(observations.values, _values(known, draw)) for draw in range(size)]
        for one in each:
            check_numbers(one)
        found |= {name: np.array([one[name] for one in each]) for name in each[0]}
    return found


def _replicates(
    known: Knowledge, observations: Observations, draws: int, seed: int
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Data sets with the gaps of the observed one, and their globals."""
    size = known.size or draws
    gaps = {site: np.isnan(value) for site, value in observations.values.items()}
    at_once = max(1, DRAWN_AT_ONCE // max(1, sum(gap.size for gap in gaps.values())))
    point = {name: value[None] for name, value in known.point.items()}
    for first in range(0, size, at_once):
        count = min(at_once, size - first)
        some = point if known.draws is None else {n: v[first : first + count] for n, v in known.draws.items()}
        drawn = predictions(known.program, known.rows, observations.layouts, some, count, derive(seed, first))
        for k in range(count):
            data = {site: np.where(gaps[site], np.nan, value[k]) for site, value in drawn.items()}
            yield data, _values(known, first + k)


def _values(known: Knowledge, draw: int) -> dict[str, np.ndarray]:
    """The globals of one draw, as arrays."""
    values = known.point if known.draws is None else {name: value[draw] for name, value in known.draws.items()}
    return {name: value.detach().cpu().numpy() for name, value in values.items()}


def _at_priors(known: Knowledge, draws: int, seed: int) -> Knowledge:
    """Draws of the globals from their priors in the place of what was learnt."""
    values = prior_draws(known.program, draws, seed)
    return replace(known, draws=values, log_q=None, chains=1, stats={}, locals={})


def _sides(replicated: np.ndarray, observed: np.ndarray) -> tuple[float, float]:
    """Shares of the replicates above and equal to the data; those that are no numbers are left out."""
    fine = ~np.isnan(replicated)
    against = np.broadcast_to(observed, replicated.shape)[fine]
    if not fine.any():
        return float("nan"), float("nan")
    return float((replicated[fine] > against).mean()), float((replicated[fine] == against).mean())
