"""Blocks of one shape, in which the place of a row depends on the row alone.

Floating-point results depend on where they are computed: matrix products take other kernels for other sizes, the
vectorised exp of the last few elements is another function than that of the rest, several threads cut an array in
several ways, and a guide that draws an intermediate latent draws another number at another place. So that the vector
of a row is a function of the row, to the bit, all of this is held fixed:

* rows are computed in blocks of a fixed number of slots (observations), or of a fixed number of slots and steps
  (sequences; both depend on the row's own length, rounded up, and slot 0 holds a filler of exactly that many steps);
* the slot of a row is a hash of its values; slots that stay empty are filled with rows that stand elsewhere;
* weights are one, names are positions, and torch runs on one thread.

What stands in the other slots has no influence, since a model treats rows as independent. Equal rows are computed once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from latentvars.rows import Rows

SLOTS = 512
SEQUENCE_SLOTS = 64
SEQUENCE_STEPS = 4_096  # steps in a block of sequences, where more than one fits
HASHED = 1 << 20  # numbers hashed at a time

# threads of torch are a setting of the process: two embeddings at once would put back each other's
_SETTING = threading.RLock()


@dataclass(frozen=True)
class Block:
    """Rows that are computed together.

    Attributes:
        rows: the slots, in order; its shape depends only on the kind of rows.
        places: slots that hold rows whose vector is wanted, ``[M]``.
        members: which rows of the data these are, ``[M]``.
    """

    rows: Rows
    places: np.ndarray
    members: np.ndarray


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread; the number of threads is put back."""
    with _SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def fingerprints(rows: Rows) -> np.ndarray:
    """A hash of the values of each row, ``[N]`` uint64, the same on every machine; 0 and −0 are equal."""
    steps = np.zeros(rows.steps, np.uint64)
    for name in sorted(rows.columns):
        values = rows.columns[name].numpy().reshape(rows.steps, -1)
        factors = _scrambled(np.arange(values.shape[1], dtype=np.uint64)) | np.uint64(1)
        size = max(1, HASHED // values.shape[1])
        for start in range(0, rows.steps, size):
            part = values[start : start + size]
            words = np.ascontiguousarray(_canonical(part)).view(np.uint64)
            hashed = ((words ^ (words >> np.uint64(32))) * factors).sum(1, dtype=np.uint64)
            steps[start : start + size] = _scrambled(steps[start : start + size] ^ hashed)
    if rows.lengths is None:
        return steps
    lengths = rows.lengths.numpy()
    starts = lengths.cumsum() - lengths
    order = np.arange(rows.steps, dtype=np.uint64) - np.repeat(starts, lengths).astype(np.uint64)
    return _scrambled(np.add.reduceat(steps * (_scrambled(order) | np.uint64(1)), starts))


def originals(rows: Rows, keys: np.ndarray) -> np.ndarray:
    """The first row of equal values for each row, ``[N]``; itself where there is no earlier one."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    found = first[which]
    copies = np.flatnonzero(found != np.arange(len(keys)))
    if copies.size and not _equal(rows, copies, found[copies]):
        return np.arange(len(keys))  # a collision of hashes: compute every row
    return found


def blocks(rows: Rows, keys: np.ndarray, members: np.ndarray) -> Iterator[Block]:
    """Blocks that cover each of ``members`` once.

    Args:
        rows: the data.
        keys: :func:`fingerprints` of all rows.
        members: rows whose vectors are wanted, ``[M]``.
    """
    if rows.lengths is None:
        for table in _tables(keys, members, SLOTS):
            used = table >= 0
            filled = np.where(used, table, table[used][0])
            yield Block(rows_at(rows, filled), np.flatnonzero(used), table[used])
        return
    ceilings = ceiling(rows.lengths.numpy()[members])
    for steps in np.unique(ceilings).tolist():
        slots = max(1, min(SEQUENCE_SLOTS, SEQUENCE_STEPS // steps))
        for table in _tables(keys, members[ceilings == steps], slots):
            used = table >= 0
            filler = table[used][0]
            filled = np.concatenate([[filler], np.where(used, table, filler)])
            yield Block(rows_at(rows, filled, steps), 1 + np.flatnonzero(used), table[used])


def ceiling(lengths: np.ndarray) -> np.ndarray:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... steps."""
    power = np.int64(1) << np.ceil(np.log2(lengths)).astype(np.int64)
    return np.where(lengths <= power // 4 * 3, power // 4 * 3, power)


def steps_of(rows: Rows, at: np.ndarray) -> np.ndarray:
    """Numbers of the steps of the sequences ``at``, one sequence after another."""
    assert rows.lengths is not None
    lengths = rows.lengths.numpy()
    starts, kept = (lengths.cumsum() - lengths)[at], lengths[at]
    return np.repeat(starts - (kept.cumsum() - kept), kept) + np.arange(kept.sum())


def rows_at(rows: Rows, at: np.ndarray, first_steps: int | None = None) -> Rows:
    """The rows ``at``, of weight 1.

    Args:
        rows: the data.
        at: positions, repeats allowed.
        first_steps: steps of the first of them, cut or continued with its last step; None: its own.
    """
    if rows.lengths is None:
        return Rows({name: value[torch.from_numpy(at)] for name, value in rows.columns.items()})
    where, lengths = steps_of(rows, at), rows.lengths.numpy()[at]
    if first_steps is not None:
        head = where[0] + np.minimum(np.arange(first_steps), lengths[0] - 1)
        where = np.concatenate([head, where[lengths[0] :]])
        lengths = np.concatenate([[first_steps], lengths[1:]])
    return Rows({name: value[torch.from_numpy(where)] for name, value in rows.columns.items()}, lengths=lengths)


def _tables(keys: np.ndarray, members: np.ndarray, slots: int) -> Iterator[np.ndarray]:
    """For each block the row in every slot ``[slots]``, −1 where it is empty."""
    slot = (keys[members] >> np.uint64(32)) % np.uint64(slots)
    order = np.argsort(slot, kind="stable")
    counts = np.bincount(slot.astype(np.int64), minlength=slots)
    block = np.arange(len(members)) - np.repeat(counts.cumsum() - counts, counts)
    tables = np.full((counts.max(), slots), -1)
    tables[block, slot[order].astype(np.int64)] = members[order]
    return iter(tables)


def _equal(rows: Rows, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether rows are equal pair by pair; NaN is equal to NaN."""
    if rows.lengths is not None:
        if not np.array_equal(rows.lengths.numpy()[one], rows.lengths.numpy()[other]):
            return False
        one, other = steps_of(rows, one), steps_of(rows, other)
    values = [value.numpy() for value in rows.columns.values()]
    return all(np.array_equal(value[one], value[other], equal_nan=value.dtype.kind == "f") for value in values)


def _canonical(values: np.ndarray) -> np.ndarray:
    """The same numbers, of which equal ones have equal bits."""
    if values.dtype.kind != "f":
        return values
    return np.where(np.isnan(values), np.nan, values + 0.0)


def _scrambled(words: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every bit depends on all (SplitMix64; Steele, Lea & Flood 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
