"""Distribution functions of all observed entries of a fit, averaged over what is known of its globals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import NameUnknownError, SupportError
from latentvars.posterior.criticism.conditional import Condition, row_tails
from latentvars.posterior.datatree import Knowledge
from latentvars.posterior.observations import Observations, batches, predictions, without_padding
from latentvars.randomness import derive
from latentvars.rows import Rows

PREDICTED_AT_ONCE = 5_000_000  # numbers


@dataclass(frozen=True)
class Feature:
    """One number of each observation.

    Attributes:
        name: of it.
        site: the observed site.
        place: of the feature among the axes of the site right of rows and steps.
    """

    name: str
    site: str
    place: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Entries:
    """P(X < x) and P(X <= x) of every observed entry.

    Attributes:
        below, upto: site → ``[N, ...]``, for sequences ``[N, T, ...]``; NaN where nothing was observed. The same where
            the law is continuous.
        features: what stands in them.
    """

    below: Mapping[str, np.ndarray] = field(repr=False)
    upto: Mapping[str, np.ndarray] = field(repr=False)
    features: tuple[Feature, ...] = ()

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """P(X < x) and P(X <= x) of one feature, ``[N]`` or ``[N, T]``.

        Raises:
            NameUnknownError: there is no such feature.
        """
        feature = next((one for one in self.features if one.name == name), None)
        if feature is None:
            raise NameUnknownError(
                f"the feature {name!r}", f"one of {[one.name for one in self.features]}", "correct the name"
            )
        at = (..., *feature.place)
        return self.below[feature.site][at], self.upto[feature.site][at]


def observations_of(known: Knowledge) -> Observations:
    """The observed sites of a fit."""
    return Observations.of(known.program, known.rows, known.point, known.axes.names)


def features_of(observations: Observations, rows: Rows) -> tuple[Feature, ...]:
    """The features of all observed sites, by the names that they have in the data, else as ``x[0]``."""
    found: list[tuple[str, str, tuple[int, ...]]] = []
    for site, value in observations.values.items():
        lead = 1 + (rows.lengths is not None and value.ndim > 1 and value.shape[1] == int(rows.lengths.max()))
        axes = observations.names[site][lead:]
        named = len(axes) == 1 and axes[0] in observations.labels
        for place in np.ndindex(value.shape[lead:]):
            label = str(observations.labels[axes[0]][place[0]]) if named else ""
            found.append((label or _place(site, place), site, place))
    names = [name for name, _, _ in found]
    return tuple(
        Feature(name if names.count(name) == 1 else f"{site}[{name}]", site, place) for name, site, place in found
    )


def _place(site: str, place: tuple[int, ...]) -> str:
    return f"{site}[{', '.join(map(str, place))}]" if place else site


def exact_entries(
    known: Knowledge, observations: Observations, given: Condition, weights: Tensor | None = None
) -> Entries:
    """By distribution functions, averaged over the draws of the globals.

    Args:
        known: of the fit.
        observations: its observed sites.
        given: what each entry is given, as in :func:`row_tails`.
        weights: of the draws for each row, ``[S, N]``, which sum to one; None: all alike.

    Raises:
        SupportError: continuous locals, or a law whose distribution function is not known.
    """
    if known.program.roles.continuous:
        raise SupportError(
            given=f"the continuous locals {list(known.program.roles.continuous)}",
            needed="locals that are summed or integrated out exactly",
            remedy="read lv.pit(fit), which falls back on draws",
        )
    sums: dict[str, list[Tensor]] = {}
    size = max(1, known.size)
    for draw in range(size):
        values = _at(known, draw)
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for batch in batches(known.program, known.rows):
            for site, one in row_tails(known.program, values, batch, given).items():
                layout = observations.layouts[site]
                parts.setdefault(site, []).append((layout.rows_first(one.below), layout.rows_first(one.upto)))
        for site, pairs in parts.items():
            share = torch.tensor(1 / size) if weights is None else weights[draw]
            both = [torch.cat(side).double() for side in zip(*pairs, strict=True)]
            both = [side * share.reshape(share.shape + (1,) * (side.dim() - 1)) for side in both]
            sums[site] = both if site not in sums else [a + b for a, b in zip(sums[site], both, strict=True)]
    shaped = {site: [_as_observed(side, observations.values[site]) for side in both] for site, both in sums.items()}
    below, upto = ({site: _array(both[k], known.rows) for site, both in shaped.items()} for k in (0, 1))
    return Entries(below, upto, features_of(observations, known.rows))


def drawn_entries(
    known: Knowledge, observations: Observations, draws: int, seed: int, weights: Tensor | None = None
) -> Entries:
    """By draws of new rows, one at each draw of the globals, or ``draws`` at their point.

    Args:
        known, observations, weights: as in :func:`exact_entries`.
        draws: of rows, where the globals are a point.
        seed: of the draws.
    """
    size = known.size or draws
    numbers = sum(value.size for value in observations.values.values())
    at_once = max(1, PREDICTED_AT_ONCE // max(1, numbers))
    below = {site: np.zeros(value.shape) for site, value in observations.values.items()}
    upto = {site: np.zeros(value.shape) for site, value in observations.values.items()}
    for first in range(0, size, at_once):
        count = min(at_once, size - first)
        drawn = predictions(
            known.program,
            known.rows,
            observations.layouts,
            {name: value[first : first + count] for name, value in _all(known).items()},
            count,
            derive(seed, first),
        )
        share = np.full((count, 1), 1 / size) if weights is None else weights[first : first + count].numpy()
        for site, value in observations.values.items():
            by_row = share.reshape(share.shape + (1,) * (value.ndim - 1))
            below[site] += (by_row * (drawn[site] < value)).sum(0)
            upto[site] += (by_row * (drawn[site] <= value)).sum(0)
    for site, value in observations.values.items():
        below[site][np.isnan(value)] = np.nan
        upto[site][np.isnan(value)] = np.nan
    return Entries(below, upto, features_of(observations, known.rows))


def _at(known: Knowledge, draw: int) -> dict[str, Tensor]:
    return dict(known.point) if known.draws is None else {name: value[draw] for name, value in known.draws.items()}


def _all(known: Knowledge) -> dict[str, Tensor]:
    """Globals ``[S, *shape]``, or ``[1, *shape]`` at the point."""
    return {name: value[None] for name, value in known.point.items()} if known.draws is None else dict(known.draws)


def _as_observed(value: Tensor, like: np.ndarray) -> Tensor:
    """In the shape of what was observed, which has no axes of plates along which nothing changes."""
    return value.expand(like.shape)


def _array(value: Tensor, rows: Rows) -> np.ndarray:
    return without_padding(value.clamp(0, 1), rows)
