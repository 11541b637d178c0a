"""Rows: the data of a fit as one frozen value."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import KindError, SettingError, ShapeError
from latentvars.rows.batch import Batch
from latentvars.rows.column import Column, Mask
from latentvars.rows.layout import (
    check_values,
    common_steps,
    default_features,
    frame_names,
    has_nan,
    known_labels,
    positions_of,
    row_lengths,
    row_names,
    row_weights,
    unknown_column,
)
from latentvars.rows.overview import Overview, checked, overview_of
from latentvars.rows.reading import read_columns
from latentvars.rows.schema import Schema
from latentvars.rows.shuffling import buffers

DIGESTED = 2**20  # numbers hashed at a time
READ_ROWS, READ_STEPS = 4_096, 2**16


@final
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Rows:
    """Data of a fit: N rows, each an observation or a sequence of steps, in one or more named columns.

    Args:
        x: a numpy array, torch tensor, nested list of numbers, pandas or polars Series or DataFrame (the column
            ``"x"``), a list of arrays or frames ``[T_i]`` or ``[T_i, D]`` (each a sequence), or a mapping from column
            names to any of these. NaN and None are missing entries. A ``numpy.memmap``, an open zarr array,
            :class:`latentvars.Parquet` or a path to a .npy, .parquet or .zarr stays in its file: it is read once to be
            checked, and then in slices, as fitting goes along.
        lengths: steps of each sequence; sequences lie one after another. Positive, and they sum to the steps.
        groups: an id per step; steps of equal id form one sequence, in order of first appearance. The ids become
            the names of the rows.
        weights: one per row, finite, nonnegative, not all zero. By position, whatever index a Series has.
        known: what is known of discrete locals: site → labels, one per row, or for sequences one per step, from 0;
            −1 or NaN where they are not known. The model is then fitted to these labels as well.
        names: one per row; default: the frame's index, the group ids, or 0 .. N-1. Need not be unique.

    Attributes:
        columns: ``[N, ...]`` each, or for sequences the steps of all rows one after another, ``[S, ...]``. Integers
            are int64, booleans and floats float64, missing entries NaN, on the CPU. Memory is shared with the input
            where its dtype allows it. A :class:`Column`, which reads its slices, where the numbers stay in a file.
        lengths: ``[N]`` int64, or None where a row is an observation.
        weights: ``[N]`` float64.
        features: names of the last axis of each column that has more than one axis.
        names: N row names.
        observed: True where an entry was observed, shapes as ``columns``; None where nothing is missing.
        known: local → labels ``[N]``, or of steps ``[S]``, int64, −1 where they are not known.

    Raises:
        DataError: empty, infinite or not numeric; weights that are negative, not finite or all zero.
        ShapeError: columns, lengths, groups, weights or names that do not fit together.
        KindError: sparse matrices and other things that are not data.
    """

    columns: Mapping[str, Tensor]
    lengths: Tensor | None
    weights: Tensor
    features: Mapping[str, tuple[str, ...]]
    names: Sequence[Hashable]
    observed: Mapping[str, Tensor] | None
    known: Mapping[str, Tensor]

    def __init__(
        self,
        x: Any,
        *,
        lengths: Any = None,
        groups: Any = None,
        weights: Any = None,
        names: Sequence[Hashable] | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(x, Rows | Batch):
            raise KindError(f"x is {type(x).__name__} already", "data", "use it as it is, or Rows.of(data).")
        sources = read_columns(x)
        steps = common_steps(sources)
        values = {name: source.values for name, source in sources.items()}
        for name, value in values.items():
            check_values(name, value)
        streamed = any(isinstance(value, Column) for value in values.values())
        if groups is not None and streamed:
            raise KindError("groups= of rows in a file", "sequences that lie one after another", "pass lengths=.")
        found_lengths, order, ids = row_lengths(sources, steps, lengths, groups)
        if order is not None:
            values = {name: value[order] for name, value in values.items()}
        size = steps if found_lengths is None else len(found_lengths)
        found_names = frame_names(sources) if found_lengths is None else ids
        shapes = {name: tuple(value.shape[1:]) for name, value in values.items()}
        features = {n: sources[n].features or default_features(n, shape) for n, shape in shapes.items() if shape}
        labels = {name: known_labels(name, value, size, steps, order) for name, value in (known or {}).items()}
        found_names = row_names(names, found_names, size)
        self._set(values, found_lengths, row_weights(weights, size, streamed), features, found_names, labels)
        if streamed:
            object.__setattr__(self, "overview", checked(self))
            self._find_gaps()

    def _set(
        self,
        columns: Mapping[str, Tensor],
        lengths: Tensor | None,
        weights: Tensor,
        features: Mapping[str, tuple[str, ...]],
        names: Sequence[Hashable],
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        missing = any(has_nan(value) for value in columns.values())
        observed = {name: _mask(value) for name, value in columns.items()} if missing else None
        for attribute, value in (
            ("columns", dict(columns)),
            ("lengths", lengths),
            ("weights", weights),
            ("features", dict(features)),
            ("names", names),
            ("observed", observed),
            ("known", dict(known or {})),
        ):
            object.__setattr__(self, attribute, value)

    def _find_gaps(self) -> None:
        """Once all values have been seen: where some are missing."""
        if any(has_nan(value) for value in self.columns.values()):
            object.__setattr__(self, "observed", {name: _mask(value) for name, value in self.columns.items()})

    @property
    def streamed(self) -> bool:
        """Whether some of the numbers stay in files."""
        return any(isinstance(value, Column) for value in self.columns.values())

    @cached_property
    def overview(self) -> Overview:
        """A sample, the first rows, and those with the extremes, in memory."""
        return overview_of(self)

    @property
    def seen(self) -> Rows:
        """Rows in memory that stand for these: themselves, or a sample where they stay in files."""
        return self.overview.sample if self.streamed else self

    @property
    def block(self) -> int | None:
        """Rows that are read off together: 4,096, or all sequences (None) where they are in memory."""
        if self.lengths is None:
            return READ_ROWS
        return max(1, READ_STEPS // int(self.lengths.max())) if self.streamed else None

    def in_memory(self) -> Rows:
        """The same rows, read into memory; themselves where they are there."""
        return self.with_columns_read(lambda value: value[:]) if self.streamed else self

    def check_unchanged(self) -> None:
        """Whether the files are still those that were checked; DataError where they are not."""
        for value in self.columns.values():
            if isinstance(value, Column):
                value.check_unchanged()

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """The rows of several Rows in memory that have the same columns, one after another, named by position."""
        one = parts[0]
        rows = object.__new__(Rows)
        rows._set(
            {name: torch.cat([part.columns[name] for part in parts]) for name in one.columns},
            None if one.lengths is None else torch.cat([part.lengths for part in parts if part.lengths is not None]),
            torch.cat([part.weights for part in parts]),
            one.features,
            range(sum(map(len, parts))),
            {name: torch.cat([part.known[name] for part in parts]) for name in one.known},
        )
        return rows

    @staticmethod
    def of(data: Any) -> Rows:
        """``data`` itself if it is Rows, otherwise ``Rows(data)``."""
        return data if isinstance(data, Rows) else Rows(data)

    def __len__(self) -> int:
        return self.weights.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.columns:
            raise unknown_column(name, self.columns)
        return self.columns[name]

    def __repr__(self) -> str:
        parts = [f"{len(self)} rows"]
        if self.lengths is not None:
            parts = [f"{len(self)} sequences of {int(self.lengths.min())} to {int(self.lengths.max())} steps"]
        parts += [f"{name} {list(value.shape[1:]) or 'scalar'}" for name, value in self.columns.items()]
        if self.observed is not None:
            parts.append(f"{sum(map(_missing, self.observed.values()))} missing entries")
        if bool((self.weights != 1).any()):
            parts.append(f"weights sum to {float(self.weights.sum()):g}")
        return f"Rows({', '.join(parts)})"

    @property
    def steps(self) -> int:
        """Steps of all sequences together, S (the rows, where a row is an observation)."""
        return next(iter(self.columns.values())).shape[0]

    @property
    def schema(self) -> Schema:
        """What other data must look like to be read by a model fitted to these rows."""
        shapes = {name: tuple(value.shape[1:]) for name, value in self.columns.items()}
        return Schema(shapes, self.lengths is not None, dict(self.features))

    def as_sequence(self) -> Rows:
        """All observations, in order, as the steps of one sequence of weight 1; sequences stay as they are."""
        if self.lengths is not None:
            return self
        if self.streamed:
            raise KindError(
                f"{len(self)} rows in a file as one sequence, which is as long in memory",
                "sequences that fit into memory one by one",
                "pass lengths= to Rows, or rows.in_memory().",
            )
        rows = object.__new__(Rows)
        lengths = torch.tensor([self.steps])
        rows._set(self.columns, lengths, row_weights(None, 1), self.features, range(1), self.known)
        return rows

    def subset(self, index: Any) -> Rows:
        """The rows at ``index`` (positions, a slice, a boolean mask), in that order, in memory; repeats are allowed."""
        at = positions_of(index, len(self))
        return self.picked(at, tuple(self.names[i] for i in at.tolist()))

    def first_steps(self, steps: int) -> Rows:
        """The sequences cut to their first ``steps`` steps, at least one; shorter ones as they are.

        Raises:
            KindError: rows that are single observations, or that stay in their files.
        """
        if self.lengths is None or self.streamed or steps < 1:
            raise KindError(
                f"the first {steps} steps of {self!r}", "sequences in memory, and one step or more", "pass lengths=."
            )
        position = torch.arange(self.steps) - self._starts.repeat_interleave(self.lengths)
        kept = position < steps
        rows = object.__new__(Rows)
        columns = {name: value[kept] for name, value in self.columns.items()}
        known = {name: value[kept] if len(value) == self.steps else value for name, value in self.known.items()}
        rows._set(columns, self.lengths.clamp(max=steps), self.weights, self.features, self.names, known)
        return rows

    def picked(self, at: Tensor, names: Sequence[Hashable] | None = None) -> Rows:
        """The rows at positions ``[B]`` from 0, in memory, named by their order where no names are given."""
        where = self._steps_of(at)
        return self.holding({name: value[where] for name, value in self.columns.items()}, at, names)

    def holding(self, columns: Mapping[str, Tensor], at: Tensor, names: Sequence[Hashable] | None = None) -> Rows:
        """The rows at positions ``[B]``, whose columns have been read already."""
        rows = object.__new__(Rows)
        lengths = None if self.lengths is None else self.lengths[at]
        known = {n: value[at if len(value) == len(self) else self._steps_of(at)] for n, value in self.known.items()}
        names = range(len(at)) if names is None else names
        rows._set(columns, lengths, self.weights[at], self.features, names, known)
        return rows

    def _steps_of(self, at: Tensor) -> Tensor:
        """Positions in the columns of the rows ``at``."""
        if self.lengths is None:
            return at
        padded = self._padded(at)
        return padded[torch.arange(padded.shape[1]) < self.lengths[at][:, None]]

    def parts(self, numbers: int) -> Iterator[tuple[int, Rows]]:
        """All rows in their order, in memory some at a time: the position of the first, and rows of so many numbers."""
        width = sum(value.shape[1:].numel() for value in self.columns.values())
        if self.lengths is None:
            size = max(1, numbers // width)
            for low in range(0, len(self), size):
                yield low, self.picked(torch.arange(low, min(low + size, len(self))))
            return
        low, ends = 0, self.lengths.cumsum(0)
        while low < len(self):
            before = int(ends[low - 1]) if low else 0
            high = max(low + 1, int(torch.searchsorted(ends, before + numbers // width, right=True)))
            yield low, self.picked(torch.arange(low, high))
            low = high

    def with_columns_read(self, read: Callable[[Any], Tensor]) -> Rows:
        """The same rows with each column as ``read`` gives it."""
        rows = object.__new__(Rows)
        columns = {name: read(value) for name, value in self.columns.items()}
        rows._set(columns, self.lengths, self.weights, self.features, self.names, self.known)
        return rows

    def with_weights(self, weights: Any) -> Rows:
        """The same rows, sharing their columns, with other weights ``[N]``.

        Raises:
            ShapeError, DataError: as for the weights of new rows.
        """
        rows = object.__new__(Rows)
        rows._set(self.columns, self.lengths, row_weights(weights, len(self)), self.features, self.names, self.known)
        if self.streamed:
            object.__setattr__(rows, "overview", checked(rows))
        return rows

    def with_columns(self, columns: Mapping[str, Tensor]) -> Rows:
        """The same rows with other values of some columns, of the shapes that they have here.

        Raises:
            NameUnknownError: there is no such column.
            ShapeError: another shape.
            DataError: infinite values.
        """
        for name, value in columns.items():
            if value.shape != self[name].shape:
                raise ShapeError(
                    f"values of shape {list(value.shape)} for column {name!r}",
                    f"the shape it has, {list(self[name].shape)}",
                    "correct the values.",
                )
            check_values(name, value)
        rows = object.__new__(Rows)
        rows._set({**self.columns, **columns}, self.lengths, self.weights, self.features, self.names, self.known)
        return rows

    def digest(self) -> str:
        """SHA-256 over columns, lengths and weights, in hexadecimal; equal data gives it again in any process."""
        sha = hashlib.sha256()
        parts: dict[str, Tensor] = {f"column {name}": value for name, value in self.columns.items()}
        parts |= {"weights": self.weights} | ({} if self.lengths is None else {"lengths": self.lengths})
        parts |= {f"known {name}": value for name, value in self.known.items()}
        for name, value in sorted(parts.items()):
            sha.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            size = max(1, DIGESTED // max(1, value.shape[1:].numel()))
            for low in range(0, len(value), size):
                part = value[low : low + size]
                part = part.nan_to_num(nan=torch.nan) if has_nan(part) else part  # NaN has many bit patterns
                sha.update(np.ascontiguousarray(part.numpy()).data)
        return sha.hexdigest()

    def batch(
        self, index: Any = None, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Batch:
        """The rows at ``index`` (all, if None) as a batch of size B.

        Args:
            index: positions, a slice or a boolean mask.
            dtype: floating columns and weights are cast to it; None leaves them.
            device: where the tensors go; None leaves them on the CPU.
        """
        if index is None and self.streamed:
            raise KindError(
                f"a batch of all {len(self)} rows, which stay in their files",
                "some rows at a time",
                "pass batch_size= or memory= to the algorithm, or rows.in_memory() in the place of the rows.",
            )
        if index is None:
            return self._batch(slice(0, len(self)), dtype, device)
        return self._batch(positions_of(index, len(self)), dtype, device)

    def _batch(self, index: Tensor | slice, dtype: torch.dtype | None, device: torch.device | str | None) -> Batch:
        """The rows at these positions, which are known to exist; a piece of rows in memory is not copied."""
        piece = index if isinstance(index, slice) else None
        at = torch.arange(index.start, index.stop) if isinstance(index, slice) else index
        whole = piece is not None and len(at) == len(self) and not self.streamed
        where, lengths, valid = None if whole else at, None, None
        if self.lengths is not None:
            lengths = self.lengths if whole else self.lengths[at]
            longest = int(lengths.max())
            even = whole and int(lengths.min()) == longest
            where = None if even else self._padded(at)
            valid = torch.arange(longest) < lengths[:, None] if self.observed is not None or self.known else None

        def pick(value: Tensor) -> Tensor:
            if piece is not None and lengths is None:
                value = value[piece]
            elif where is not None and where.dim() == 1 and isinstance(value, Tensor):
                value = value.index_select(0, where)
            elif where is not None:
                value = value[where]
            elif lengths is not None:
                value = value.unflatten(0, (len(lengths), -1))
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        picked = {name: pick(value) for name, value in self.columns.items()}
        observed = None
        if self.observed is not None:
            observed = {name: ~torch.isnan(value) for name, value in picked.items()}
            if valid is not None:
                valid = valid.to(device)
                observed = {n: m & valid.reshape(valid.shape + (1,) * (m.ndim - 2)) for n, m in observed.items()}
        weights = self.weights.index_select(0, at) if piece is None else self.weights[piece]
        return Batch(
            picked,
            at.to(device),
            len(self),
            weights.to(device=device, dtype=dtype),
            None if lengths is None else lengths.to(device),
            observed,
            {name: self._labels(value, at, where, valid).to(device) for name, value in self.known.items()},
        )

    def batches(
        self,
        size: int | None = None,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        parts: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Batch]:
        """Batches that cover each row once; the last may be smaller.

        Rows in files are shuffled in two steps, so that files are read in long pieces: blocks of rows that lie together
        are put into a random order, and the rows of some blocks at a time, as many as a buffer of 64 MB holds, are
        shuffled with one another. Rows of one block come at about the same time, those that lie far apart do not.

        Args:
            size: rows in a batch; None: one batch of all rows, in order.
            seed: with ``epoch``, the only thing that the order of the rows depends on.
            epoch: a new order in each pass over the data.
            shuffle: False keeps the order of the data.
            parts: number of batches, in the place of ``size``: their sizes differ by one row at most.
            dtype: as in :meth:`batch`.
            device: as in :meth:`batch`.
        """
        if size is None and parts is None:
            return iter((self.batch(None, dtype, device),))
        size = 1 if size is None else size
        if size < 1 or seed < 0 or epoch < 0:
            raise SettingError(
                f"size={size}, seed={seed}, epoch={epoch}", "size >= 1, seed >= 0, epoch >= 0", "change the setting."
            )
        cuts = range(0, len(self), size) if parts is None else [len(self) * k // parts for k in range(parts)]
        ends = [*cuts[1:], len(self)]
        if shuffle and self.streamed:
            return self._from_buffers(
                list(zip(cuts, ends, strict=True)), np.random.default_rng((seed, epoch)), dtype, device
            )
        if not shuffle:
            return (self._batch(slice(low, high), dtype, device) for low, high in zip(cuts, ends, strict=True))
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(self)))
        return (self._batch(order[low:high], dtype, device) for low, high in zip(cuts, ends, strict=True))

    def _from_buffers(
        self,
        cuts: Sequence[tuple[int, int]],
        source: np.random.Generator,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> Iterator[Batch]:
        """Shuffled batches of rows in files, from buffers of blocks that are read in one go."""
        numbers = sum(value.shape[1:].numel() for value in self.columns.values()) * self.steps / len(self)
        held, order = None, torch.zeros(0, dtype=torch.int64)
        upcoming = iter(buffers(len(self), numbers, source))
        for low, high in cuts:
            while len(order) < high - low:
                new = next(upcoming)
                block = self.picked(new.sort().values)
                block = block.picked(new.argsort().argsort())
                held = block if held is None or not len(order) else Rows.joined([held, block])
                order = torch.cat([order, new])
            assert held is not None
            some = torch.arange(high - low)
            batch = held.batch(some, dtype, device)
            yield replace(batch, index=order[: high - low].to(device), total=len(self))
            order = order[high - low :]
            held = held.picked(torch.arange(high - low, len(held))) if len(order) else None

    def _labels(self, value: Tensor, at: Tensor, where: Tensor | None, valid: Tensor | None) -> Tensor:
        """Labels of a batch; those of steps with −1 on the padding."""
        if self.lengths is None or valid is None or len(value) != self.steps:
            return value[at]
        by_row = value.unflatten(0, (len(at), -1)) if where is None else value[where]
        return torch.where(valid.cpu(), by_row, -1)

    @cached_property
    def _starts(self) -> Tensor:
        assert self.lengths is not None
        return self.lengths.cumsum(0) - self.lengths

    def _padded(self, at: Tensor) -> Tensor:
        """Step numbers ``[B, T]`` of the sequences ``at``; padding repeats a sequence's last step."""
        assert self.lengths is not None
        lengths = self.lengths[at]
        offsets = torch.minimum(torch.arange(int(lengths.max())), lengths[:, None] - 1)
        return self._starts[at][:, None] + offsets


def _mask(value: Any) -> Any:
    """Where a column is observed."""
    return Mask(value) if isinstance(value, Column) else ~torch.isnan(value)


def _missing(mask: Any) -> int:
    """How many entries of a column are."""
    return mask.column.missing if isinstance(mask, Mask) else int((~mask).sum())
