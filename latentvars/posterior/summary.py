"""A table of the globals: one line for each number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from latentvars.posterior.datatree import Knowledge, globals_group
from latentvars.posterior.standard_errors import StandardErrors

if TYPE_CHECKING:
    import pandas
    import xarray as xr


def summary(
    known: Knowledge,
    probability: float = 0.89,
    interval: Literal["eti", "hdi"] = "eti",
    errors: StandardErrors | None = None,
) -> pandas.DataFrame:
    """One line for each number of each global, as ``loc[0, height]``.

    Args:
        known: the globals.
        probability: of the interval.
        interval: equal tails, or highest density.
        errors: standard errors of a point.

    Returns:
        ``mean``, ``sd`` and the interval where there are draws; of several chains also effective
        sample sizes, R-hat and Monte Carlo errors (Vehtari et al. 2021). Else the ``estimate`` and, with ``errors``,
        ``sd`` (the standard error) and the confidence interval ``ci89_lb``, ``ci89_ub``; not rounded.
    """
    group = globals_group(known)
    if known.draws is None:
        return _estimates(group) if errors is None else _with_errors(_estimates(group), errors, probability)
    import arviz_stats  # here, because it takes longer to import than all else that a fit needs
    import xarray as xr

    tree = xr.DataTree.from_dict({"posterior": group})
    settings: dict[str, Any] = {"ci_prob": probability, "ci_kind": interval, "round_to": "none"}
    return arviz_stats.summary(tree, kind="all" if known.chains > 1 else "stats", **settings)  # type: ignore


def r_hat(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat (Vehtari et al. 2021) of draws ``[C, S, *shape]``, ``[*shape]``."""
    from arviz_stats import base

    rank = cast(Any, base).array_stats
    shape = draws.shape[2:]
    flat = draws.reshape(*draws.shape[:2], -1).movedim(-1, 0).to(torch.float64).numpy()
    found = [float(rank.rhat(one)) if np.ptp(one) > 0 else float("nan") for one in flat]
    return torch.tensor(found, dtype=torch.float64).reshape(shape)


def _with_errors(table: pandas.DataFrame, errors: StandardErrors, probability: float) -> pandas.DataFrame:
    intervals = errors.interval(probability)
    bounds = torch.cat([intervals[name].reshape(-1, 2) for name in errors.point])
    percent = f"ci{100 * probability:g}"
    columns = {
        "sd": torch.cat([errors.errors[name].flatten() for name in errors.point]).numpy(),
        f"{percent}_lb": bounds[:, 0].numpy(),
        f"{percent}_ub": bounds[:, 1].numpy(),
    }
    return table.assign(**columns)


def _estimates(group: xr.Dataset) -> pandas.DataFrame:
    import xarray as xr

    found: dict[str, float] = {}
    for name, variable in group.data_vars.items():
        labels = [group[axis].values for axis in variable.dims]
        for place in np.ndindex(variable.shape):
            named = ", ".join(str(along[k]) for along, k in zip(labels, place, strict=True))
            found[f"{name}[{named}]" if named else str(name)] = float(variable.values[place])
    return xr.DataArray(list(found.values()), {"global": list(found)}, name="estimate").to_dataframe()
