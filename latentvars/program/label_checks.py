"""Whether labels that are known beforehand are those of a model's locals."""

from __future__ import annotations

import torch
from torch import Tensor

from latentvars.errors import DataError, NameUnknownError
from latentvars.program.program import Program
from latentvars.rows import Rows


def check_labels(program: Program, rows: Rows) -> None:
    """Whether the known labels are those of discrete locals of the model.

    Raises:
        NameUnknownError: of something else.
        DataError: a label that the local does not have, with its row.
        ShapeError: labels of rows where they are of steps, or the other way round.
    """
    if not rows.known:
        return
    values = program.prior_draw(0)
    sites = program.trace(values, program.sketch).local
    found = {name: sites[name].fn.enumerate_support(expand=False).shape[0] for name in program.roles.discrete}
    collapsed = [site.fn for site in sites.values() if site.observed and hasattr(site.fn, "given")]
    found |= {fn.local: fn.labels for fn in collapsed}  # type: ignore[attr-defined]
    for name, labels in rows.known.items():
        if name not in found:
            raise NameUnknownError(
                given=f"known labels of {name!r}",
                needed=f"names of discrete locals of the model: {list(found)}",
                remedy="correct the name in Rows(..., known=...)",
            )
        _check_range(name, labels, found[name], rows)
    program.trace(values, rows.batch(torch.arange(min(2, len(rows))), dtype=program.dtype))


def _check_range(name: str, labels: Tensor, count: int, rows: Rows) -> None:
    bad = (labels >= count).nonzero()[:, 0]
    if not len(bad):
        return
    at, row = int(bad[0]), int(bad[0])
    step = ""
    if rows.lengths is not None and len(labels) == rows.steps:
        ends = rows.lengths.cumsum(0)
        row = int((ends <= at).sum())
        step = f", step {at - int(ends[row] - rows.lengths[row])}"
    raise DataError(
        given=f"the label {int(labels[at])} of {name!r} in row {rows.names[row]!r}{step} ({len(bad)} such labels)",
        needed=f"labels from 0 to {count - 1}, or -1 where they are not known",
        remedy="correct known=, or give the model more components or states",
    )
