"""Blocks of one shape, in which the place of a row depends on the row alone.

Floating-point results depend on where they are computed: matrix products take other kernels for other sizes, the
vectorised exp of the last few elements is another function than that of the rest, several threads cut an array in
several ways, and a guide that draws an intermediate latent draws another number at another place. So that the vector
of a row is a function of the row, to the bit, all of this is held fixed:

* rows are computed in blocks of a fixed number of slots; sequences in blocks of equal lengths, whose number of slots
  depends on that length, so that many different lengths are slow, as sequences one at a time are;
* the slot of a row is a hash of its values; slots that stay empty are filled with rows that stand elsewhere;
* a block holds complete rows, or rows in which the same entries are missing (laws of vectors are computed pattern by
  pattern), so that rows with gaps take a block for each pattern: many patterns are slow, as rows one at a time are;
* weights are one, names are positions, and torch runs on one thread.

What stands in the other slots has no influence, since a model treats rows as independent. Equal rows are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from latentvars.rows import Rows

SLOTS = 512
SEQUENCE_SLOTS = 64
SEQUENCE_STEPS = 1 << 15  # steps in a block of sequences, where more than one fits
HASHED = 1 << 20  # numbers hashed at a time


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


def fingerprints(rows: Rows) -> np.ndarray:
    """A hash of the values of each row, ``[N]`` uint64, the same on every machine."""
    return _hashed(rows.columns, rows.lengths)


def _hashed(columns: Mapping[str, torch.Tensor], lengths: torch.Tensor | None) -> np.ndarray:
    """A hash of the entries of each row in columns of ``[S, ...]``, ``[N]`` uint64."""
    size = len(next(iter(columns.values())))
    steps = np.zeros(size, np.uint64)
    for name in sorted(columns):
        values = columns[name].numpy().reshape(size, -1)
        factors = _scrambled(np.arange(values.shape[1], dtype=np.uint64)) | np.uint64(1)
        at_once = max(1, HASHED // values.shape[1])
        for start in range(0, size, at_once):
            part = slice(start, start + at_once)
            words = _words(values[part])
            hashed = ((words ^ (words >> np.uint64(32))) * factors).sum(1, dtype=np.uint64)
            steps[part] = _scrambled(steps[part] ^ hashed)
    if lengths is None:
        return steps
    each = lengths.numpy()
    starts = each.cumsum() - each
    order = (np.arange(size) - np.repeat(starts, each)).astype(np.uint64)
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
    for group in _alike(rows, members):
        slots = SLOTS
        if rows.lengths is not None:
            slots = max(1, min(SEQUENCE_SLOTS, SEQUENCE_STEPS // int(rows.lengths[group[0]])))
        for table in _tables(keys, group, slots):
            used = table >= 0
            yield Block(rows_at(rows, np.where(used, table, table[used][0])), np.flatnonzero(used), table[used])


def _alike(rows: Rows, members: np.ndarray) -> list[np.ndarray]:
    """``members`` by what decides how they are computed: the length, and which entries are missing."""
    steps = np.ones_like(members) if rows.lengths is None else rows.lengths.numpy()[members]
    gaps = np.zeros(len(members), np.int64)
    if rows.observed is not None:
        missing = {name: (~mask).to(torch.int64) for name, mask in rows.observed.items()}
        pattern = _hashed(missing, rows.lengths)[members].view(np.int64)
        complete = ~_any_missing(rows)[members]
        gaps = np.where(complete, 0, pattern)
    order = np.lexsort((gaps, steps))
    cuts = np.flatnonzero((np.diff(steps[order]) != 0) | (np.diff(gaps[order]) != 0)) + 1
    return np.split(members[order], cuts)


def _any_missing(rows: Rows) -> np.ndarray:
    """Whether any entry of a row is missing, ``[N]``."""
    assert rows.observed is not None
    by_step = np.any([(~mask).numpy().reshape(rows.steps, -1).any(1) for mask in rows.observed.values()], 0)
    if rows.lengths is None:
        return by_step
    lengths = rows.lengths.numpy()
    return np.logical_or.reduceat(by_step, lengths.cumsum() - lengths)


def steps_of(rows: Rows, at: np.ndarray) -> np.ndarray:
    """Numbers of the steps of the sequences ``at``, one sequence after another."""
    assert rows.lengths is not None
    lengths = rows.lengths.numpy()
    starts, kept = (lengths.cumsum() - lengths)[at], lengths[at]
    return np.repeat(starts - (kept.cumsum() - kept), kept) + np.arange(kept.sum())


def rows_at(rows: Rows, at: np.ndarray) -> Rows:
    """The rows ``at``, of weight 1 and without names; repeats are allowed."""
    where = at if rows.lengths is None else steps_of(rows, at)
    columns = {name: value[torch.from_numpy(where)] for name, value in rows.columns.items()}
    return Rows(columns, lengths=None if rows.lengths is None else rows.lengths[torch.from_numpy(at)])


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
    """Whether rows are equal pair by pair, to the bit."""
    if rows.lengths is not None:
        if not np.array_equal(rows.lengths.numpy()[one], rows.lengths.numpy()[other]):
            return False
        one, other = steps_of(rows, one), steps_of(rows, other)
    values = [value.numpy() for value in rows.columns.values()]
    return all(np.array_equal(_words(value[one]), _words(value[other])) for value in values)


def _words(values: np.ndarray) -> np.ndarray:
    """The bits of float64 or int64 numbers; NaN, which has many patterns of bits, has one."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values)
    return np.ascontiguousarray(values).view(np.uint64)


def _scrambled(words: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every bit depends on all (SplitMix64; Steele, Lea & Flood 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
