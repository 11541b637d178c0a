"""Missing entries under Pyro: observed sites read NaN, sketches have none, and a column that is needed is named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from latentvars.distributions import observed_part
from latentvars.errors import MissingDataError
from latentvars.rows import ROWS_PLATE, Batch, Rows

if TYPE_CHECKING:
    from latentvars.program.program import Program


@final
class IntegrateMissing(Messenger):
    """Gives every observed site of the rows the law of its observed entries."""

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        local = any(frame.name == ROWS_PLATE for frame in msg["cond_indep_stack"])
        if msg["is_observed"] and local and isinstance(value, Tensor) and value.is_floating_point():
            msg["fn"] = observed_part(msg["fn"], msg["name"])


def without_missing(batch: Batch, rows: Rows) -> Batch:
    """The batch with an observed value of the same feature in the place of every missing one."""
    if batch.observed is None:
        return batch
    columns = {
        name: torch.where(value.isnan(), _typical(rows, name).to(value.dtype), value)
        if value.is_floating_point()
        else value
        for name, value in batch.columns.items()
    }
    return replace(batch, columns=columns, observed=None)


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
    """A complete batch with one column missing throughout."""
    columns = {**batch.columns, name: torch.full_like(batch.columns[name], torch.nan)}
    observed = {other: torch.full_like(value, other != name, dtype=torch.bool) for other, value in columns.items()}
    return replace(batch, columns=columns, observed=observed)


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _typical(rows: Rows, name: str) -> Tensor:
    """The first observed value of each feature; 1 where there is none, which hardly any support excludes."""
    value = rows.columns[name]
    observed = ~value.isnan()
    first = observed.to(torch.uint8).argmax(0, keepdim=True)
    return torch.where(observed.any(0), value.gather(0, first)[0], 1.0)
