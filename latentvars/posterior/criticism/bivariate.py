"""Two-way tables of categorical items, observed and expected under a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from latentvars.distributions.product import Columns
from latentvars.errors import DataError
from latentvars.posterior.criticism.entries import Feature, features_of, observations_of
from latentvars.posterior.datatree import Knowledge, draw_scores
from latentvars.posterior.observations import Observations
from latentvars.program import Program, check_missing
from latentvars.rows import Rows

if TYPE_CHECKING:
    import pandas

CELLS_AT_ONCE = 100_000  # rows


@dataclass(frozen=True)
class Item:
    """A categorical feature.

    Attributes:
        name: of it.
        column: that holds it.
        place: among the numbers of one row of the column.
        categories: how many.
    """

    name: str
    column: str
    place: int
    categories: int


@dataclass(frozen=True, eq=False)
class Pair:
    """Two items.

    Attributes:
        names: of them.
        observed: weight of the rows in each cell ``[A, B]``, of rows where both were observed.
        expected: the same under the model.
    """

    names: tuple[str, str]
    observed: np.ndarray = field(repr=False)
    expected: np.ndarray = field(repr=False)

    @property
    def chi2(self) -> float:
        """Pearson's Σ (O − E)² / E; infinite where something impossible was observed."""
        both = np.broadcast_arrays(self.observed, self.expected)
        counted = (both[0] > 0) | (both[1] > 0)
        with np.errstate(divide="ignore"):
            return float(((both[0] - both[1]) ** 2 / both[1])[counted].sum())

    @property
    def df(self) -> int:
        """(A − 1)(B − 1)."""
        return int((self.observed.shape[0] - 1) * (self.observed.shape[1] - 1))


@dataclass(frozen=True, eq=False)
class BivariateResiduals:
    """Bivariate residuals χ² / df of all pairs of categorical items.

    Attributes:
        pairs: with their tables.
        p_values: of each pair by a parametric bootstrap ``[P]``; None where none was asked for.
        replicates: of the bootstrap.
        failed: refits that failed.
        interrupted: whether Ctrl-C ended the refits early.
    """

    pairs: tuple[Pair, ...]
    p_values: np.ndarray | None = None
    replicates: int = 0
    failed: int = 0
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.pairs)

    def summary(self) -> pandas.DataFrame:
        """A line for each pair, the largest residual first: ``residual`` (χ² / df), ``chi2``, ``df``, ``n`` (weight of
        the rows), and ``p_value`` of the bootstrap."""
        import pandas

        lines: dict[str, list[Any]] = {
            "residual": [pair.chi2 / pair.df for pair in self.pairs],
            "chi2": [pair.chi2 for pair in self.pairs],
            "df": [pair.df for pair in self.pairs],
            "n": [pair.observed.sum() for pair in self.pairs],
        }
        if self.p_values is not None:
            lines["p_value"] = list(self.p_values)
        names = pandas.MultiIndex.from_tuples([pair.names for pair in self.pairs], names=["item", "other"])
        return pandas.DataFrame(lines, index=names).sort_values("residual", ascending=False)

    def __str__(self) -> str:
        note = (
            "χ² / df has no known distribution, as the model was fitted to the same tables: replicates= gives p-values"
            if self.p_values is None
            else f"p-values of a parametric bootstrap of {self.replicates} refits"
            + (f", {self.failed} more failed" if self.failed else "")
            + (", interrupted" if self.interrupted else "")
        )
        return f"Bivariate residuals of {len(self)} pairs ({note}):\n{self.summary().round(4).to_string()}"


def bivariate_tables(known: Knowledge) -> tuple[Pair, ...]:
    """Observed and expected tables of all pairs of categorical items.

    p(a, b) is the marginal likelihood of a row of which nothing but the two items is observed, so that any model with
    missing entries integrated out will do; given covariates it is averaged over the rows. With draws of the globals it
    is averaged over them.

    Args:
        known: of a fit whose rows are single observations.

    Raises:
        DataError: rows that are sequences, or fewer than two categorical items.
        MissingDataError: a column of items that the model computes with.
    """
    if known.rows.lengths is not None:
        raise DataError(
            given="rows that are sequences",
            needed="rows that are single observations",
            remedy="read lv.pseudo_residuals(fit), or lv.predictive_check(fit, ...)",
        )
    observations = observations_of(known)
    items = items_of(known.program, known.point, observations, known.rows)
    if len(items) < 2:
        raise DataError(
            given=f"{len(items)} categorical items that are columns of the data",
            needed="two or more: Bernoulli or Categorical features observed as they stand in a column",
            remedy="read lv.pit(fit) or lv.predictive_check(fit) for numbers",
        )
    columns = {name for name in observations.columns.values() if name is not None}
    blank = _blank(known.rows, columns)
    check_missing(known.program, blank)
    pairs = list(itertools.combinations(items, 2))
    probs = _probs(known, blank, columns, pairs)
    found = []
    for (first, second), table in zip(pairs, probs, strict=True):
        one, other = (_codes(known.rows, item) for item in (first, second))
        both = ~(one.isnan() | other.isnan())
        weights = known.rows.weights[both]
        cells = one[both].long() * second.categories + other[both].long()
        size = first.categories * second.categories
        observed = torch.zeros(size, dtype=torch.float64).index_add(0, cells, weights)
        share = weights.sum() * table[0] if len(table) == 1 else weights @ table[both]
        shape = (first.categories, second.categories)
        found.append(Pair((first.name, second.name), observed.reshape(shape).numpy(), share.reshape(shape).numpy()))
    return tuple(found)


def items_of(program: Program, point: Mapping[str, Tensor], observations: Observations, rows: Rows) -> tuple[Item, ...]:
    """The features that are whole numbers from 0 to some largest one, and that stand in a column."""
    with torch.no_grad():
        run = program.trace(point, program.sketch)
    found = []
    for site, column in observations.columns.items():
        if column is None:
            continue
        features: list[Feature] = [one for one in features_of(observations, rows) if one.site == site]
        fn: Any = run.sites[site].fn
        sizes = categories(fn.support, fn.event_shape[-1] if fn.event_shape else 1)
        for place, feature in enumerate(features):
            size = sizes[place % len(sizes)]
            if size is not None and size > 1:
                found.append(Item(feature.name, column, place, size))
    return tuple(found)


def categories(support: Any, width: int) -> list[int | None]:
    """How many values each of ``width`` columns has; None where they are no codes from 0."""
    if isinstance(support, Columns):
        parts = zip(support.blocks, support.widths, strict=True)
        return [size for block, columns in parts for size in categories(block, columns)]
    if hasattr(support, "base_constraint"):
        return categories(support.base_constraint, width)
    if isinstance(support, type(constraints.boolean)):
        return [2] * width
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if not support.is_discrete or low is None or high is None or bool((torch.as_tensor(low) != 0).any()):
        return [None] * width
    return [int(torch.as_tensor(high).max()) + 1] * width


def _blank(rows: Rows, columns: set[str]) -> Rows:
    """The rows with nothing observed."""
    gone = {name: torch.full(rows[name].shape, torch.nan, dtype=torch.float64) for name in columns}
    return Rows({**rows.columns, **gone})  # without known labels, which would take part in the likelihood


def _probs(known: Knowledge, blank: Rows, columns: set[str], pairs: list[tuple[Item, Item]]) -> list[Tensor]:
    """p(a, b) of each pair, ``[1, A · B]``, or for rows with covariates ``[N, A · B]``."""
    alike = set(blank.columns) <= columns
    each = blank.subset([0]) if alike else blank
    at_once = max(1, CELLS_AT_ONCE // (len(each) * max(a.categories * b.categories for a, b in pairs)))
    found: list[Tensor] = []
    for first in range(0, len(pairs), at_once):
        some = pairs[first : first + at_once]
        sizes = [a.categories * b.categories for a, b in some]
        filled = _filled(each, some)
        scores = _log_mean(known, filled).exp().reshape(len(each), -1)
        found += list(scores.split(sizes, -1))
    return found


def _filled(each: Rows, pairs: list[tuple[Item, Item]]) -> Rows:
    """Each row once for every cell of every pair, all cells of a row one after another."""
    cells = [((a, x), (b, y)) for a, b in pairs for x, y in itertools.product(range(a.categories), range(b.categories))]
    rows = each.subset(torch.arange(len(each)).repeat_interleave(len(cells)))
    values = {name: value.clone() for name, value in rows.columns.items() if bool(value.isnan().any())}
    for number, cell in enumerate(cells):
        for item, code in cell:
            flat = values[item.column].reshape(len(rows), -1)
            flat[number :: len(cells), item.place] = code
    return rows.with_columns(values)


def _log_mean(known: Knowledge, rows: Rows) -> Tensor:
    """Log mean marginal likelihood of each row over the draws of the globals, ``[N]``, nats."""
    values = known.draws or {name: value[None] for name, value in known.point.items()}
    scores = draw_scores(known.program, rows, values, 0)[1].double()
    return torch.logsumexp(scores, 0) - np.log(len(scores))


def _codes(rows: Rows, item: Item) -> Tensor:
    """``[N]``, NaN where it is missing."""
    return rows[item.column].reshape(len(rows), -1)[:, item.place].double()
