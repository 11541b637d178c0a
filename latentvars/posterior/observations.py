"""The observed sites of a model as arrays with the rows first: what was observed, and what the model would draw."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentvars.capture import over_draws
from latentvars.program import Program
from latentvars.randomness import derive, seeded
from latentvars.rows import ROWS_PLATE, Batch, Rows

DRAWN_AT_ONCE = 1_000_000  # numbers


@dataclass(frozen=True)
class Layout:
    """How the values of one observed site lie.

    Attributes:
        event_dims: axes of one observation.
        plates: negative batch axis → name of the plate, the rows' excepted.
    """

    event_dims: int
    plates: Mapping[int, str]

    def rows_first(self, value: Tensor) -> Tensor:
        """``[other plates ..., N, *event]`` → ``[N, other plates ..., *event]``."""
        return value.movedim(value.dim() - self.event_dims - 1, 0)

    def names(self, site: str, dims: int) -> tuple[str, ...]:
        """Names of the axes of a value of ``dims`` axes, rows first."""
        plates = dims - self.event_dims - 1
        left = [self.plates.get(k - plates - 1, f"{site}_dim_{k}") for k in range(plates)]
        return ("row", *left, *(f"{site}_dim_{plates + k}" for k in range(self.event_dims)))


@dataclass(frozen=True)
class Observations:
    """The observed sites of one program on some rows.

    Attributes:
        values: site → ``[N, ...]`` as observed, NaN beyond the length of a sequence.
        names: site → names of the axes.
        labels: axis → labels, for the axes of features.
        layouts: site → how its values lie.
        columns: site → the column that it observes, None where it observes something else.
    """

    values: dict[str, np.ndarray]
    names: dict[str, tuple[str, ...]]
    labels: dict[str, tuple[str, ...]]
    layouts: dict[str, Layout]
    columns: dict[str, str | None]

    @staticmethod
    def of(
        program: Program, rows: Rows, point: Mapping[str, Tensor], dims: Mapping[str, tuple[str, ...]]
    ) -> Observations:
        """Read the observed sites off traces of the model.

        Args:
            program: the model.
            rows: data.
            point: constrained globals; no observed value depends on them.
            dims: names of axes that the model gives.
        """
        layouts = _layouts(program, point)
        parts: dict[str, list[Tensor]] = {site: [] for site in layouts}
        columns = {site: _candidates(site, rows) for site in layouts}
        for batch in batches(program, rows):
            with torch.no_grad(), seeded(0):
                run = program.trace(point, batch)
            for site, layout in layouts.items():
                value = layout.rows_first(run.sites[site].value)
                columns[site] = [c for c in columns[site] if c == site or _holds(batch[c], value)]
                parts[site].append(value)
        read = Observations({}, {}, {}, layouts, {site: next(iter(found), None) for site, found in columns.items()})
        for site, found in parts.items():
            read._add(site, torch.cat(found), rows, dims.get(site, ()))
        return read

    def covariates(self, rows: Rows) -> dict[str, Tensor]:
        """The columns that no observed site holds."""
        return {name: value for name, value in rows.columns.items() if name not in self.columns.values()}

    def _add(self, site: str, value: Tensor, rows: Rows, given: tuple[str, ...]) -> None:
        column = self.columns[site]
        features = () if column is None else rows.features.get(column, ())
        names = self.layouts[site].names(site, value.dim())
        if _has_steps(value, rows):
            names = ("row", "step", *names[2:])
        labelled = len(features) == value.shape[-1] and names[-1] not in ("row", "step")
        if labelled and names[-1].startswith(f"{site}_dim_"):
            names = (*names[:-1], "feature" if len(rows.columns) == 1 else f"{column}_feature")
        self.names[site] = given if len(given) == value.dim() else names
        self.values[site] = without_padding(value, rows)
        if labelled:
            self.labels[self.names[site][-1]] = features


def predictions(
    program: Program, rows: Rows, layouts: Mapping[str, Layout], values: Mapping[str, Tensor], size: int, seed: int
) -> dict[str, np.ndarray]:
    """Draws of the observed sites of new rows like these, their locals drawn from the model given the globals.

    Args:
        program: the model.
        rows: N rows, of which covariates and lengths are used.
        layouts: how the sites' values lie.
        values: globals ``[size, *shape]``, one set for each draw, or ``[1, *shape]``, the same for all.
        size: draws, S.
        seed: of the draws.

    Returns:
        site → ``[S, N, ...]``, NaN beyond the length of a sequence.
    """
    if all(value.shape[0] == 1 for value in values.values()):
        drawn = _at_the_point(program, rows, layouts, {name: value[0] for name, value in values.items()}, size, seed)
    else:
        drawn = _at_draws(program, rows, layouts, values, seed)
    return {site: without_padding(torch.from_numpy(value), rows, 1) for site, value in drawn.items()}


def _at_the_point(
    program: Program, rows: Rows, layouts: Mapping[str, Layout], point: Mapping[str, Tensor], size: int, seed: int
) -> dict[str, np.ndarray]:
    """Several copies of the rows in one batch, where they are few."""
    pieces = batches(program, rows)
    drawn: dict[str, list[np.ndarray]] = {}
    numbers = sum(value.numel() for value in pieces[0].columns.values())
    at_once = 1 if len(pieces) > 1 else max(1, min(size, DRAWN_AT_ONCE // max(1, numbers)))
    whole = itertools.product(range(0, size, at_once), pieces)
    for number, (first, piece) in enumerate(whole):
        count = min(at_once, size - first)
        batch = piece if len(pieces) > 1 else piece.select(torch.arange(len(rows)).repeat(count))
        for site, value in program.predict(point, batch, derive(seed, number)).items():
            if site in layouts:
                moved = layouts[site].rows_first(value)
                moved = moved.reshape(count, len(batch) // count, *moved.shape[1:])
                drawn.setdefault(site, []).append(moved.cpu().numpy())
    return {site: _arranged(parts, size) for site, parts in drawn.items()}


def _at_draws(
    program: Program, rows: Rows, layouts: Mapping[str, Layout], values: Mapping[str, Tensor], seed: int
) -> dict[str, np.ndarray]:
    """All rows at each draw of the globals; many draws by a graph."""
    pieces, size = batches(program, rows), next(iter(values.values())).shape[0]
    sites = [site for site in program.roles.observed if site in layouts]

    def drawn(at: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, ...]:
        found = program.predicted(at, batch)
        return tuple(layouts[site].rows_first(found[site]) for site in sites)

    parts = []
    for number, piece in enumerate(pieces):
        seeds = [derive(seed, draw * len(pieces) + number) for draw in range(size)]
        parts.append([value.cpu().numpy() for value in over_draws(program, piece, drawn, values, seeds=seeds)])
    return {site: np.concatenate(own, 1) for site, own in zip(sites, zip(*parts, strict=True), strict=True)}


def batches(program: Program, rows: Rows) -> list[Batch]:
    """All rows in order, a few thousand at a time; sequences in one batch, so that they are padded alike."""
    size = rows.block
    return list(rows.batches(size, shuffle=False, dtype=program.dtype))


def without_padding(value: Tensor, rows: Rows, lead: int = 0) -> np.ndarray:
    """``[*lead, N, T, ...]`` with NaN beyond the length of each sequence; other values as they are."""
    array = value.detach().cpu().numpy()
    if rows.lengths is None or not _has_steps(value, rows, lead) or bool((rows.lengths == rows.lengths[0]).all()):
        return array
    valid = (torch.arange(array.shape[lead + 1]) < rows.lengths[:, None]).numpy()
    valid = valid.reshape((1,) * lead + valid.shape + (1,) * (array.ndim - lead - 2))
    kept = array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
    return np.where(valid, kept, np.asarray(np.nan, kept.dtype))


def _arranged(parts: list[np.ndarray], size: int) -> np.ndarray:
    """Pieces of draws and of rows → ``[S, N, ...]``."""
    pieces = sum(part.shape[0] for part in parts) // size
    if pieces == 1:
        return np.concatenate(parts)
    return np.concatenate([np.concatenate(parts[k::pieces]) for k in range(pieces)], 1)


def _layouts(program: Program, point: Mapping[str, Tensor]) -> dict[str, Layout]:
    with torch.no_grad(), seeded(0):
        run = program.trace(point, program.sketch)
    layouts = {}
    for name in program.roles.observed:
        site = run.sites[name]
        if site.value.numel():  # a factor has no value
            plates = {dim: plate for dim, plate in site.frames.items() if plate != ROWS_PLATE}
            layouts[name] = Layout(site.fn.event_dim, plates)
    return layouts


def _has_steps(value: Tensor, rows: Rows, lead: int = 0) -> bool:
    return rows.lengths is not None and value.dim() > lead + 1 and value.shape[lead + 1] == int(rows.lengths.max())


def _candidates(site: str, rows: Rows) -> list[str]:
    """The columns that a site may observe: that of its name, else any whose values turn out to be its own."""
    return [site] if site in rows.columns else list(rows.columns)


def _holds(column: Tensor, value: Tensor) -> bool:
    """Whether an observed value is this column, up to an axis of one feature; missing entries are alike."""
    if column.numel() != value.numel():
        return False
    column = column.reshape(value.shape)
    return bool(((column == value) | (column.isnan() & value.isnan())).all())
