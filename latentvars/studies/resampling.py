"""Data sets like a given one: its rows drawn again, or new observations drawn from the fitted model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import ModelError, SettingError
from latentvars.inference import Fit
from latentvars.posterior.criticism.reading import repeated
from latentvars.posterior.observations import Layout, Observations, predictions
from latentvars.program import Program
from latentvars.rows import Rows


class Resampling(Protocol):
    """Where the data of replicates come from."""

    def draw(self, seed: int) -> Rows:
        """One data set; equal seeds give equal ones."""
        ...


@dataclass(frozen=True)
class ByRows:
    """Rows drawn with replacement, given as weights: no data are copied.

    Attributes:
        rows: the data.
        sampling: whether a row that is drawn keeps its weight; else weight 2 is the row twice.
    """

    rows: Rows
    sampling: bool

    def draw(self, seed: int) -> Rows:
        weights = self.rows.weights.numpy()
        chances = (weights > 0) / (weights > 0).sum() if self.sampling else weights / weights.sum()
        size = int((weights > 0).sum()) if self.sampling else max(1, round(float(weights.sum())))
        counts = np.random.default_rng(seed).multinomial(size, chances).astype(np.float64)
        drawn = counts * weights if self.sampling else counts * (weights.sum() / size)
        return self.rows.with_weights(drawn)


@dataclass(frozen=True)
class FromModel:
    """Observed columns drawn from a model at a point; covariates, lengths and missing entries stay.

    Attributes:
        model: the fitted model.
        rows: the data, all of weight 1.
        point: constrained globals.
        layouts: observed site → how its values lie.
        columns: observed site → the column that it observes.
    """

    model: Any
    rows: Rows
    point: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]
    columns: Mapping[str, str]

    def draw(self, seed: int) -> Rows:
        program = Program.of(self.model, self.rows)
        values = {name: value[None] for name, value in self.point.items()}
        drawn = predictions(program, self.rows, self.layouts, values, 1, seed)
        return self.rows.with_columns({self.columns[site]: self._column(site, drawn[site][0]) for site in drawn})

    def _column(self, site: str, drawn: np.ndarray) -> Tensor:
        """``[N, ...]`` or padded ``[N, T, ...]`` as a column, NaN where the data have none."""
        name = self.columns[site]
        given, value = self.rows[name], torch.from_numpy(drawn)
        if self.rows.lengths is not None:
            value = value[torch.arange(value.shape[1]) < self.rows.lengths[:, None]]
        value = value.reshape(given.shape).to(given.dtype)
        if self.rows.observed is not None:
            value = torch.where(self.rows.observed[name], value, torch.full_like(given, torch.nan))
        return value


def resampling(fit: Fit, rows: Rows, kind: str, weights: str) -> Resampling:
    """Where replicates of a fit come from; see :func:`latentvars.studies.bootstrap.bootstrap`."""
    if weights not in ("frequency", "sampling"):
        raise SettingError(f"weights={weights!r}", "'frequency' or 'sampling'", "change weights")
    if kind == "rows":
        return _by_rows(rows, weights)
    if kind == "parametric":
        return _from_model(fit, rows)
    raise SettingError(f"kind={kind!r}", "'rows' or 'parametric'", "change kind")


def _by_rows(rows: Rows, weights: str) -> ByRows:
    used = int((rows.weights > 0).sum())
    if used < 2:
        unit = "row" if rows.lengths is None else "sequence"
        raise SettingError(
            given=f"one {unit}, from which no other data set can be drawn",
            needed=f"several independent {unit}s",
            remedy="use kind='parametric', which draws new data from the fitted model",
        )
    return ByRows(rows, weights == "sampling")


def _from_model(fit: Fit, rows: Rows) -> FromModel:
    rows = repeated(rows, "use kind='rows'")
    if rows.known:
        raise SettingError(
            given=f"rows whose {', '.join(rows.known)} is known, which draws from the model would not follow",
            needed="rows without known labels",
            remedy="use kind='rows'",
        )
    observations = Observations.of(fit.program, rows, fit.point, {})
    columns = {site: column for site, column in observations.columns.items() if column is not None}
    missing = [site for site in fit.program.roles.observed if site not in columns]
    if missing or len(set(columns.values())) < len(columns):
        raise ModelError(
            given=f"observed sites {missing or list(columns)} that are not each a column of the data",
            needed="one column for each observed site, so that draws of the site can take its place",
            remedy="observe whole columns (obs=rows['y']), or use kind='rows'",
        )
    return FromModel(fit.model, rows, fit.point, observations.layouts, columns)
