"""Rows: the data of a fit as one frozen value."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import KindError, SettingError, ShapeError
from latentvars.rows.batch import Batch
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
from latentvars.rows.reading import read_columns
from latentvars.rows.schema import Schema


@final
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Rows:
    """Data of a fit: N rows, each an observation or a sequence of steps, in one or more named columns.

    Args:
        x: a numpy array, torch tensor, nested list of numbers, pandas or polars Series or DataFrame (the column
            ``"x"``), a list of arrays or frames ``[T_i]`` or ``[T_i, D]`` (each a sequence), or a mapping from column
            names to any of these. NaN and None are missing entries.
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
            where its dtype allows it.
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
        found_lengths, order, ids = row_lengths(sources, steps, lengths, groups)
        if order is not None:
            values = {name: value[order] for name, value in values.items()}
        size = steps if found_lengths is None else len(found_lengths)
        found_names = frame_names(sources) if found_lengths is None else ids
        shapes = {name: tuple(value.shape[1:]) for name, value in values.items()}
        features = {n: sources[n].features or default_features(n, shape) for n, shape in shapes.items() if shape}
        labels = {name: known_labels(name, value, size, steps, order) for name, value in (known or {}).items()}
        found_names = row_names(names, found_names, size)
        self._set(values, found_lengths, row_weights(weights, size), features, found_names, labels)

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
        observed = {name: ~torch.isnan(value) for name, value in columns.items()} if missing else None
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
            parts.append(f"{sum(int((~mask).sum()) for mask in self.observed.values())} missing entries")
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
        rows = object.__new__(Rows)
        lengths = torch.tensor([self.steps])
        rows._set(self.columns, lengths, row_weights(None, 1), self.features, range(1), self.known)
        return rows

    def subset(self, index: Any) -> Rows:
        """The rows at ``index`` (positions, a slice or a boolean mask), in that order; repeats are allowed."""
        at = positions_of(index, len(self))
        where, lengths = at, None
        if self.lengths is not None:
            lengths = self.lengths[at]
            padded = self._padded(at)
            where = padded[torch.arange(padded.shape[1]) < lengths[:, None]]
        rows = object.__new__(Rows)
        columns = {name: value[where] for name, value in self.columns.items()}
        known = {name: value[where if len(value) == self.steps else at] for name, value in self.known.items()}
        rows._set(columns, lengths, self.weights[at], self.features, tuple(self.names[i] for i in at.tolist()), known)
        return rows

    def with_weights(self, weights: Any) -> Rows:
        """The same rows, sharing their columns, with other weights ``[N]``.

        Raises:
            ShapeError, DataError: as for the weights of new rows.
        """
        rows = object.__new__(Rows)
        rows._set(self.columns, self.lengths, row_weights(weights, len(self)), self.features, self.names, self.known)
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
            if has_nan(value):
                value = value.nan_to_num(nan=torch.nan)  # NaN has many bit patterns
            sha.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
            sha.update(np.ascontiguousarray(value.numpy()).data)
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
        at = torch.arange(len(self)) if index is None else positions_of(index, len(self))
        where, lengths, valid = None if index is None else at, None, None
        if self.lengths is not None:
            lengths = self.lengths if index is None else self.lengths[at]
            longest = int(lengths.max())
            even = index is None and int(lengths.min()) == longest
            where = None if even else self._padded(at)
            valid = torch.arange(longest) < lengths[:, None] if self.observed is not None or self.known else None

        def pick(value: Tensor) -> Tensor:
            if where is not None:
                value = value[where]
            elif lengths is not None:
                value = value.unflatten(0, (len(lengths), -1))
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        observed = None
        if self.observed is not None:
            observed = {name: pick(mask) for name, mask in self.observed.items()}
            if valid is not None:
                valid = valid.to(device)
                observed = {n: m & valid.reshape(valid.shape + (1,) * (m.ndim - 2)) for n, m in observed.items()}
        weights = self.weights if index is None else self.weights[at]
        return Batch(
            {name: pick(value) for name, value in self.columns.items()},
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
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Batch]:
        """Batches that cover each row once; the last may be smaller.

        Args:
            size: rows in a batch; None: one batch of all rows, in order.
            seed: with ``epoch``, the only thing that the order of the rows depends on.
            epoch: a new order in each pass over the data.
            shuffle: False keeps the order of the data.
            dtype: as in :meth:`batch`.
            device: as in :meth:`batch`.
        """
        if size is None:
            return iter((self.batch(None, dtype, device),))
        if size < 1 or seed < 0 or epoch < 0:
            raise SettingError(
                f"size={size}, seed={seed}, epoch={epoch}", "size >= 1, seed >= 0, epoch >= 0", "change the setting."
            )
        order = np.random.default_rng((seed, epoch)).permutation(len(self)) if shuffle else np.arange(len(self))
        return (self.batch(order[i : i + size], dtype, device) for i in range(0, len(self), size))

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
