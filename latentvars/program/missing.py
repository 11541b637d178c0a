"""Missing entries under Pyro: observed sites read NaN, sketches have none, and a column that is needed is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from latentvars.distributions import observed_part
from latentvars.rows import ROWS_PLATE, Batch, Rows


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


def _typical(rows: Rows, name: str) -> Tensor:
    """The first complete observation; where there is none the first observed value of each feature, or else 1, which
    hardly any support excludes."""
    value = rows.seen.columns[name]
    observed = ~value.isnan()
    complete = observed.reshape(len(value), -1).all(1)
    if bool(complete.any()):
        return value[int(complete.to(torch.uint8).argmax())]
    first = observed.to(torch.uint8).argmax(0, keepdim=True)
    return torch.where(observed.any(0), value.gather(0, first)[0], 1.0)
