"""The one data column of a mixture or a chain, as its emission wants it, and what is wrong with it."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from latentvars.errors import MissingDataError, ShapeError
from latentvars.rows import Batch, Rows


def column_name(rows: Rows) -> str:
    """``"x"``, or the only column there is."""
    return next(iter(rows.columns)) if len(rows.columns) == 1 else "x"


def column(rows: Rows) -> Tensor:
    """The data column of all rows or steps, ``[S]`` or ``[S, D]``, NaN where an entry is missing.

    Raises:
        ShapeError: it has more than two axes.
    """
    name = column_name(rows)
    x = rows[name]
    if x.dim() > 2:
        raise ShapeError(
            given=f"column {name!r} of shape {list(x.shape[1:])} per observation",
            needed="one number or one vector of features",
            remedy="reshape it to [observations, features]",
        )
    return x


def matrix(x: Tensor) -> Tensor:
    """``[S]`` or ``[S, D]`` → ``[S, D]`` float64."""
    return (x if x.dim() == 2 else x.unsqueeze(-1)).to(torch.float64)


def feature_names(rows: Rows) -> tuple[str, ...]:
    """Names of the features of the data column; its own name where it has one number per row."""
    name = column_name(rows)
    return tuple(rows.features.get(name, (name,)))


def width(x: Tensor, lead: int) -> int | None:
    """Number of features of ``x``, whose first ``lead`` axes are rows (and steps); None without a feature axis."""
    return None if x.dim() == lead else x.shape[lead]


def as_events(batch: Batch, lead: int, event_shape: Size) -> Tensor:
    """The data column as ``[*lead, *event_shape]`` in the precision of the batch."""
    x = batch.x
    return x.reshape(x.shape[:lead] + event_shape).to(batch.weights.dtype)


def counted(rows: Rows, used: Tensor) -> Tensor:
    """The observations ``[S, D]`` that count, by a mask ``[S]``: those of the rows themselves where all do."""
    x = matrix(column(rows))
    return x if bool(used.all()) else x[used]


def check_observed(x: Tensor, features: tuple[str, ...]) -> None:
    """Every feature of ``[S, D]`` has an observed entry.

    Raises:
        MissingDataError: with the names of those that have none.
    """
    if len(x) and not bool(x[:1].isnan().any()):  # the first row has them all
        return
    empty = [name for name, gap in zip(features, x.isnan().all(0).tolist(), strict=True) if gap]
    if empty:
        raise MissingDataError(
            given=f"feature{'s' * (len(empty) > 1)} {', '.join(map(repr, empty))} missing in all {len(x)} observations",
            needed="at least one observed entry in each feature",
            remedy="drop the feature, or check the data",
        )


def check_width(features: int | None, given: int | None) -> int:
    """The number of features D, from the setting or from the data.

    Raises:
        ShapeError: both are known and differ.
    """
    found = 1 if given is None else given
    if features is not None and features != found:
        raise ShapeError(
            given=f"{found} feature{'s' * (found != 1)} in the data",
            needed=f"{features} feature{'s' * (features != 1)}, as the model says",
            remedy="pass the columns that the model describes, or change its number of features",
        )
    return found
