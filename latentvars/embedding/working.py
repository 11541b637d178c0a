"""Vectors of rows from the beliefs of a fit: in blocks, as many at a time as the memory takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from latentvars.embedding.blocks import blocks, fingerprints, originals, steps_of
from latentvars.embedding.channels import Channel, Fitted
from latentvars.embedding.taking import Taken
from latentvars.errors import SettingError
from latentvars.rows import Rows
from latentvars.threads import one_thread

COPIES = 4  # of the numbers of rows that are taken up: as read, hashed, sorted into blocks
OF_A_ROW = 12  # numbers besides: hashes, positions, names


def at_once(rows: Rows, parts: Sequence[Channel], each: bool, most: int, memory: int | None) -> int:
    """Rows that are taken up at a time, at most ``most``.

    Raises:
        SettingError: less memory, in bytes, than one row needs.
    """
    if memory is None:
        return most
    steps = 1 if rows.lengths is None else int(rows.lengths.max())
    numbers = COPIES * sum(value.shape[1:].numel() for value in rows.columns.values())
    row = 8 * (steps * numbers + OF_A_ROW + (steps if each else 1) * 2 * sum(part.width for part in parts))
    if row > memory:
        raise SettingError(f"memory={memory}", f"at least {row} bytes, for one row", "raise memory=.")
    return max(1, min(most, memory // row))


def embedded(fitted: Fitted, rows: Rows, parts: Sequence[Channel], taken: Taken, spread: bool) -> np.ndarray:
    """Vectors of all rows, or of all steps."""
    each = taken.each
    keys = fingerprints(rows)
    first = originals(rows, keys)
    copies = np.flatnonzero(first != np.arange(len(first)))
    found: np.ndarray | None = None

    def where(at: np.ndarray) -> np.ndarray:
        return steps_of(rows, at) if each else at

    with one_thread():
        for block in blocks(rows, keys, np.flatnonzero(first == np.arange(len(first)))):
            values = taken.read(fitted, block.rows, parts, spread)[block.places]
            if each:
                values = values.reshape(-1, values.shape[-1])
            if found is None:
                found = np.empty((rows.steps if each else len(rows), values.shape[-1]), values.dtype)
            found[where(block.members)] = values
    assert found is not None
    found[where(copies)] = found[where(first[copies])]
    return found


def conformed(fitted: Fitted, rows: Rows) -> Rows:
    """The rows as the fit reads them (a chain takes observations as the steps of one sequence), checked."""
    conform: Callable[[Rows], Rows] | None = getattr(fitted, "conform", None)
    return rows if conform is None else conform(rows)
