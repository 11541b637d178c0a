"""The continuous locals of a model, guide or none."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from latentvars.contract import LatentModel
from latentvars.program.program import sketch_batch
from latentvars.program.roles import sketched
from latentvars.program.run import Site
from latentvars.rows import Rows


def continuous_locals(model: LatentModel, rows: Rows, dtype: torch.dtype) -> Mapping[str, Site]:
    """The local sites that are neither observed nor enumerated, in their order, from a run on two rows.

    Raises:
        ModelError: a model that cannot be run, or that breaks the contract.
    """
    run = sketched(model, sketch_batch(rows, 2, 3, dtype), dtype)
    return {
        name: site
        for name, site in run.local.items()
        if not (site.observed or site.fn.has_enumerate_support or getattr(site.fn.support, "is_discrete", False))
    }
