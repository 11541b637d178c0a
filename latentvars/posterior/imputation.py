"""Missing entries given the observed ones of their rows, at one point of the globals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Size, Tensor

from latentvars.contract import Factor
from latentvars.distributions import Guess, drawn, expected, guessed
from latentvars.program import Program
from latentvars.randomness import derive, seeded
from latentvars.rows import Batch, Rows

READ_ROWS = 4_096
GUIDE_DRAWS = 100  # over which expectations given continuous locals are averaged
NUMBERS_AT_ONCE = 2_000_000
LARGEST_CODE = {torch.float32: 2**24, torch.float64: 2**53}  # whole numbers up to there are exact


def impute(
    program: Program, rows: Rows, point: Mapping[str, Tensor], *, draws: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """The columns of ``rows`` with expectations, or draws, in the place of their missing entries.

    Discrete locals are summed out (or drawn) by their exact posterior, continuous ones are drawn by the guide, and
    missing entries follow from the model given both and the observed entries.

    Args:
        program: the model.
        rows: data.
        point: constrained globals.
        draws: number of draws; None: expectations (of a category: the most probable code).
        seed: of draws, and of the guide.

    Returns:
        Every column as it stands in ``rows``, ``[S, ...]``, or ``[draws, S, ...]``; observed entries to the bit.
        Entries that no observed site holds as they stand remain NaN.
    """
    gaps = [name for name, column in rows.columns.items() if bool(column.isnan().any())]
    parts: dict[str, list[Tensor]] = {name: [] for name in gaps}
    for number, batch in enumerate(_batches(program, rows) if gaps else []):
        own = derive(seed, 13, number)
        values = (
            _expectations(program, point, batch, own) if draws is None else _draws(program, point, batch, draws, own)
        )
        for name in gaps:
            filled = _filled(batch[name], _places(program, point, batch, name), values)
            parts[name].append(torch.stack([batch.steps(one) for one in filled]))
    found = {}
    for name, column in rows.columns.items():
        whole = column.expand((draws or 1, *column.shape))
        if name in gaps:
            whole = torch.where(column.isnan(), torch.cat(parts[name], 1).to(column.dtype), column)
        found[name] = whole[0] if draws is None else whole
    return found


def _expectations(program: Program, point: Mapping[str, Tensor], batch: Batch, seed: int) -> dict[str, Tensor]:
    """Observed sites with E[x | x_o] for what is missing, ``[1, ...]``."""
    unweighted = replace(batch, weights=torch.ones_like(batch.weights))
    rounds = GUIDE_DRAWS if program.roles.continuous else 1
    sums: dict[str, tuple[Guess, ...]] = {}
    shapes: dict[str, Size] = {}
    with torch.no_grad():
        for draw in range(rounds):
            factors = program.expectation(point, unweighted, program.guided(batch, derive(seed, draw))).factors
            for name in program.roles.observed:
                new, shapes[name] = _over_locals(factors[name]), factors[name].value.shape
                old = sums.get(name, tuple(guess._replace(value=0 * guess.value) for guess in new))
                sums[name] = tuple(g._replace(value=g.value + h.value / rounds) for h, g in zip(new, old, strict=True))
    return {name: guessed(guesses).reshape(1, *shapes[name]) for name, guesses in sums.items()}


def _over_locals(factor: Factor) -> tuple[Guess, ...]:
    """Expectations of one observed site, averaged over the enumerated locals, whose dimensions lead."""
    batch = factor.value.dim() - len(factor.fn.event_shape)
    enumerated = range(factor.weights.dim() - batch)
    return tuple(guess.average(factor.weights, enumerated) for guess in expected(factor.fn, factor.value))


def _draws(program: Program, point: Mapping[str, Tensor], batch: Batch, draws: int, seed: int) -> dict[str, Tensor]:
    """Observed sites with draws of what is missing, ``[draws, ...]``: all at once where no local has to be drawn."""
    alone = bool(program.roles.continuous or program.roles.discrete)
    numbers = sum(value.numel() for value in batch.columns.values())
    at_once = 1 if alone else max(1, NUMBERS_AT_ONCE // numbers)
    parts: dict[str, list[Tensor]] = {name: [] for name in program.roles.observed}
    with torch.no_grad():
        for first in range(0, draws, at_once):
            guide = program.guided(batch, derive(seed, first, 0))
            values = dict(point)
            if program.roles.discrete:
                values |= program.joint_draw(point, batch, derive(seed, first, 1), guide)
            run = program.trace(values, batch, guide)
            with seeded(seed, first, 2):
                for name, found in parts.items():
                    site = run.sites[name]
                    some = drawn(site.fn, site.value, min(at_once, draws - first))
                    found.append(some.reshape(len(some), *site.value.shape))
    return {name: torch.cat(found) for name, found in parts.items()}


def _places(program: Program, point: Mapping[str, Tensor], batch: Batch, column: str) -> dict[str, Tensor]:
    """Where the entries of each observed site stand in a column: site → flat positions, −1 where they do not.

    Found by running the model on the column's own positions in the place of its values: whatever an observed site
    selects, permutes or reshapes comes out as positions.
    """
    value = batch[column]
    codes = torch.arange(value.numel(), dtype=program.dtype, device=value.device)
    coded = replace(batch, columns={**batch.columns, column: codes.reshape(value.shape)}, observed=None)
    with torch.no_grad(), seeded(0):
        there, here = program.trace(point, coded), program.trace(point, batch)
    places = {}
    for name in program.roles.observed:
        code, entry = there.sites[name].value.to(program.dtype), here.sites[name].value
        position = code.nan_to_num(nan=0).clamp(0, value.numel() - 1).long()
        origin = value.reshape(-1)[position].to(entry.dtype)
        same = (position == code) & ((origin == entry) | (origin.isnan() & entry.isnan()))
        places[name] = torch.where(same, position, -1)
    return places


def _filled(column: Tensor, places: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
    """The column with the values of the sites that hold its entries, ``[draws, *column.shape]``."""
    size = len(next(iter(values.values())))
    flat = column.reshape(-1).expand(size, column.numel()).clone()
    for name, place in places.items():
        held = place >= 0
        flat[:, place[held]] = values[name].to(flat.dtype)[:, held]
    return flat.reshape(size, *column.shape)


def _batches(program: Program, rows: Rows) -> list[Batch]:
    """All rows in order, sequences in one batch; few enough at a time for their positions to be exact numbers."""
    widest = max(column[0].numel() for column in rows.columns.values())
    size = min(READ_ROWS, max(1, LARGEST_CODE[program.dtype] // widest)) if rows.lengths is None else None
    return list(rows.batches(size, shuffle=False, dtype=program.dtype))
