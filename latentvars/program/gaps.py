"""Which columns may have gaps: those that are observed only, not computed with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentvars.errors import MissingDataError
from latentvars.program.program import Program
from latentvars.rows import Batch, Rows


def check_missing(program: Program, rows: Rows) -> None:
    """Whether the columns with missing entries are observed only, not computed with.

    Raises:
        MissingDataError: the model or guide has no finite density where a column is missing.
    """
    gaps = [] if rows.observed is None else [name for name, mask in rows.observed.items() if not bool(mask.all())]
    if not gaps:
        return
    values = program.prior_draw(0)
    complete = program.site_log_probs(values, program.sketch)
    for column in gaps:
        try:
            partial = program.site_log_probs(values, _without_column(program.sketch, column))
            sites = [name for name, value in partial.items() if _finite(complete[name]) and not _finite(value)]
            problem = f"on which the density of {sites[0]!r} depends" if sites else ""
        except (ArithmeticError, IndexError, RuntimeError, TypeError) as error:
            problem = f"without which the model fails: {type(error).__name__}: {error}"
        if problem:
            raise MissingDataError(
                given=f"missing entries in column {column!r}, {problem}",
                needed="observed values in every column that a model or guide computes with",
                remedy=f"impute {column!r}, model it by a site of its own with obs=rows[{column!r}], or in a guide "
                "put some number in the place of NaN",
            )


def _without_column(batch: Batch, name: str) -> Batch:
    """A complete batch with one column missing throughout; whole numbers with gaps are floats, as rows have them."""
    column = batch.columns[name]
    column = column if column.is_floating_point() else column.to(batch.weights.dtype)
    columns = {**batch.columns, name: torch.full_like(column, torch.nan)}
    observed = {other: torch.full_like(value, other != name, dtype=torch.bool) for other, value in columns.items()}
    return replace(batch, columns=columns, observed=observed)


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())
