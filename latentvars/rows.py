"""Rows: the data of a fit as one frozen value, and Batch: some of its rows as a model sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, final

import numpy as np
import pyro
import torch
from torch import Tensor

from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError
from latentvars.rows_input import Source, is_missing, labels, read_columns, to_tensor

ROWS_PLATE = "rows"


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of the data, as a model sees them.

    Attributes:
        columns: ``[B, ...]`` each, or for sequences ``[B, T, ...]``, padded with the row's own last step so that
            padded values stay in every support.
        index: ``[B]`` int64, positions of the rows in the data.
        total: rows in the data, N.
        weights: ``[B]``, nonnegative.
        lengths: ``[B]`` int64, steps of each sequence; None where a row is an observation.
        observed: True where an entry was observed, shapes as ``columns``, False on padding; None where nothing is
            missing.
    """

    columns: Mapping[str, Tensor]
    index: Tensor
    total: int
    weights: Tensor
    lengths: Tensor | None = None
    observed: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return self.index.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.columns:
            raise _unknown(name, self.columns)
        return self.columns[name]

    @property
    def x(self) -> Tensor:
        """The column ``"x"``, or the only column there is."""
        if "x" not in self.columns and len(self.columns) == 1:
            return next(iter(self.columns.values()))
        return self["x"]

    @property
    def mask(self) -> Tensor | None:
        """``[B, T]`` bool, True on steps that are not padding; None where a row is an observation."""
        if self.lengths is None:
            return None
        steps = next(iter(self.columns.values())).shape[1]
        return torch.arange(steps, device=self.lengths.device) < self.lengths[:, None]

    def plate(self) -> Any:
        """The rows plate, ``dim=-1``: log densities inside are scaled by N / B under plain ``pyro.infer``."""
        return pyro.plate(ROWS_PLATE, self.total, subsample=self.index, dim=-1)

    def select(self, positions: Any) -> Batch:
        """The rows at ``positions`` of this batch; sequences are trimmed to the longest that is left."""
        at = _positions(positions, len(self)).to(self.index.device)
        lengths = None if self.lengths is None else self.lengths[at]
        steps = slice(None) if lengths is None else slice(int(lengths.max()))

        def take(value: Tensor) -> Tensor:
            return value[at] if lengths is None else value[at, steps]

        columns = {name: take(value) for name, value in self.columns.items()}
        observed = None if self.observed is None else {name: take(value) for name, value in self.observed.items()}
        return Batch(columns, self.index[at], self.total, self.weights[at], lengths, observed)

    def steps(self, value: Tensor) -> Tensor:
        """A padded ``[B, T, ...]`` result without its padding, ``[S, ...]`` (unchanged for observations)."""
        return value if self.mask is None else value[self.mask]


@final
@dataclass(frozen=True)
class Schema:
    """What data must look like to be read by a fitted model.

    Attributes:
        columns: trailing shape of each column (without rows and steps).
        sequences: whether a row is a sequence.
        features: names of the last axis of each column that has one.
    """

    columns: Mapping[str, tuple[int, ...]]
    sequences: bool
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, rows: Rows) -> None:
        """Whether ``rows`` fit; further columns are allowed.

        Raises:
            NameUnknownError: a column is not there.
            ShapeError: a column has another shape, or rows are sequences on one side only.
            DataError: feature names that were given on both sides differ.
        """
        if self.sequences != (rows.lengths is not None):
            raise ShapeError(
                f"rows that are {_kind(not self.sequences)}",
                f"rows that are {_kind(self.sequences)}",
                "pass lengths=, groups= or a list of arrays." if self.sequences else "pass one array or frame.",
            )
        for name, shape in self.columns.items():
            if name not in rows.columns:
                raise _unknown(name, rows.columns)
            self._check_column(name, shape, rows)

    def _check_column(self, name: str, shape: tuple[int, ...], rows: Rows) -> None:
        given = tuple(rows.columns[name].shape[1:])
        if given != shape:
            raise ShapeError(_describe(given, name), _describe(shape, name), "pass the features that were fitted.")
        names, fitted = rows.features.get(name), self.features.get(name)
        defaults = (None, _default_features(name, shape) if shape else None)
        if names != fitted and names not in defaults and fitted not in defaults:
            raise DataError(
                f"the features {names} in {name!r}", f"the features {fitted}", "reorder or rename the columns."
            )


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

    def __init__(
        self,
        x: Any,
        *,
        lengths: Any = None,
        groups: Any = None,
        weights: Any = None,
        names: Sequence[Hashable] | None = None,
    ) -> None:
        if isinstance(x, Rows | Batch):
            raise KindError(f"x is {type(x).__name__} already", "data", "use it as it is, or Rows.of(data).")
        sources = read_columns(x)
        steps = _common_steps(sources)
        values = {name: source.values for name, source in sources.items()}
        for name, value in values.items():
            _check_values(name, value)
        row_lengths, order, ids = _sequences(sources, steps, lengths, groups)
        if order is not None:
            values = {name: value[order] for name, value in values.items()}
        size = steps if row_lengths is None else len(row_lengths)
        found = ids if row_lengths is not None else _frame_names(sources)
        shapes = {name: tuple(value.shape[1:]) for name, value in values.items()}
        features = {n: sources[n].features or _default_features(n, shape) for n, shape in shapes.items() if shape}
        self._set(values, row_lengths, _weights(weights, size), features, _names(names, found, size))

    def _set(
        self,
        columns: Mapping[str, Tensor],
        lengths: Tensor | None,
        weights: Tensor,
        features: Mapping[str, tuple[str, ...]],
        names: Sequence[Hashable],
    ) -> None:
        missing = any(_has_nan(value) for value in columns.values())
        observed = {name: ~torch.isnan(value) for name, value in columns.items()} if missing else None
        for attribute, value in (
            ("columns", MappingProxyType(dict(columns))),
            ("lengths", lengths),
            ("weights", weights),
            ("features", MappingProxyType(dict(features))),
            ("names", names),
            ("observed", None if observed is None else MappingProxyType(observed)),
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
            raise _unknown(name, self.columns)
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

    def subset(self, index: Any) -> Rows:
        """The rows at ``index`` (positions, a slice or a boolean mask), in that order; repeats are allowed."""
        at = _positions(index, len(self))
        where, lengths = at, None
        if self.lengths is not None:
            lengths = self.lengths[at]
            padded = self._padded(at)
            where = padded[torch.arange(padded.shape[1]) < lengths[:, None]]
        rows = object.__new__(Rows)
        columns = {name: value[where] for name, value in self.columns.items()}
        rows._set(columns, lengths, self.weights[at], self.features, tuple(self.names[i] for i in at.tolist()))
        return rows

    def digest(self) -> str:
        """SHA-256 over columns, lengths and weights, in hexadecimal; equal data gives it again in any process."""
        sha = hashlib.sha256()
        parts: dict[str, Tensor] = {f"column {name}": value for name, value in self.columns.items()}
        parts |= {"weights": self.weights} | ({} if self.lengths is None else {"lengths": self.lengths})
        for name, value in parts.items():
            if _has_nan(value):
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
        at = torch.arange(len(self)) if index is None else _positions(index, len(self))
        where, lengths, valid = None if index is None else at, None, None
        if self.lengths is not None:
            lengths = self.lengths if index is None else self.lengths[at]
            where = self._padded(at)
            valid = torch.arange(where.shape[1]) < lengths[:, None]

        def pick(value: Tensor) -> Tensor:
            value = value if where is None else value[where]
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


def _kind(sequences: bool) -> str:
    return "sequences" if sequences else "single observations"


def _unknown(name: str, columns: Mapping[str, Tensor]) -> NameUnknownError:
    known = ", ".join(map(repr, columns))
    return NameUnknownError(f"the column {name!r}", f"one of {known}", f"pass Rows({{{name!r}: ...}}) or rename it.")


def _describe(shape: tuple[int, ...], name: str) -> str:
    if len(shape) == 1:
        return f"{shape[0]} features in {name!r}"
    return f"one number per row in {name!r}" if not shape else f"shape {list(shape)} per row in {name!r}"


def _default_features(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    return (name,) if shape[-1] == 1 else tuple(f"{name}{i}" for i in range(shape[-1]))


def _has_nan(value: Tensor) -> bool:
    return value.is_floating_point() and bool(torch.isnan(value.sum())) and bool(torch.isnan(value).any())


def _positions(index: Any, size: int) -> Tensor:
    """Positions ``[B]`` int64 in ``0 .. size-1`` from positions, a slice or a boolean mask."""
    if isinstance(index, slice):
        at = torch.arange(size)[index] if (index.step or 1) > 0 else torch.tensor(range(size)[index])
    else:
        at = torch.as_tensor(index, device="cpu")
        if at.dtype == torch.bool and at.shape == (size,):
            at = at.nonzero().squeeze(-1)
    if at.ndim != 1 or at.numel() == 0 or at.is_floating_point() or at.dtype == torch.bool:
        raise ShapeError(
            f"an index of shape {list(at.shape)} and {at.dtype} into {size} rows",
            "at least one position, or one boolean per row",
            "pass a 1-d index.",
        )
    at = at.to(torch.int64)
    if int(at.min()) < -size or int(at.max()) >= size:
        raise ShapeError(
            f"positions from {int(at.min())} to {int(at.max())}", f"0 to {size - 1}", "pick rows that exist."
        )
    return torch.where(at < 0, at + size, at)


def _common_steps(sources: Mapping[str, Source]) -> int:
    sizes = {name: len(source.values) for name, source in sources.items()}
    if len(set(sizes.values())) > 1:
        raise ShapeError(
            f"columns of different length: {sizes}", "as many rows in every column", "align the columns first."
        )
    if 0 in sizes.values():
        raise DataError(
            "empty data: 0 sample(s), 0 rows", "at least one row", "check the query or file the data came from."
        )
    return next(iter(sizes.values()))


def _check_values(name: str, value: Tensor) -> None:
    if value.numel() == 0:
        raise DataError(
            f"column {name!r} has 0 feature(s) (shape={tuple(value.shape)}) while a minimum of 1 is required.",
            "at least one feature",
            "pass the columns that are to be modelled.",
        )
    if not value.is_floating_point() or bool(torch.isfinite(value.sum())):  # a finite sum: nothing to look for
        return
    infinite = torch.isinf(value).nonzero()
    if len(infinite):
        first = ", ".join(str(tuple(position)) for position in infinite[:3].tolist())
        raise DataError(
            f"column {name!r} has {len(infinite)} infinite values, the first at {first}",
            "finite numbers, or NaN where an entry is missing",
            "replace them, or drop these rows.",
        )


def _sequences(
    sources: Mapping[str, Source], steps: int, lengths: Any, groups: Any
) -> tuple[Tensor | None, Tensor | None, tuple[Hashable, ...] | None]:
    """Lengths of the rows, the order that puts the steps of a row side by side, and ids of the rows."""
    listed = {name: source.lengths for name, source in sources.items() if source.lengths is not None}
    ways = [w for w, given in (("lengths", lengths), ("groups", groups)) if given is not None]
    ways += ["a list of arrays"] if listed else []
    if len(ways) > 1:
        raise ShapeError(f"sequences given by {' and by '.join(ways)}", "one of these", "leave the others out.")
    if groups is not None:
        return _from_groups(groups, steps)
    if lengths is not None:
        return _from_lengths(lengths, steps), None, None
    if not listed:
        return None, None, None
    if len(set(listed.values())) > 1 or len(listed) < len(sources):
        raise ShapeError(
            "columns whose sequences differ in length, or that are not all lists of arrays",
            "the same steps in every column",
            "pass every column as a list of arrays with the same lengths.",
        )
    return torch.tensor(next(iter(listed.values()))), None, None


def _from_lengths(lengths: Any, steps: int) -> Tensor:
    given = to_tensor("lengths", lengths)
    whole = given.to(torch.int64)
    if given.ndim != 1 or not torch.equal(whole.to(given.dtype), given) or bool((whole < 1).any()):
        raise ShapeError(f"lengths={given.tolist()}", "positive whole numbers, one per sequence", "correct lengths.")
    if int(whole.sum()) != steps:
        raise ShapeError(
            f"lengths that sum to {int(whole.sum())}", f"the {steps} steps in the data", "correct lengths or the data."
        )
    return whole.clone()


def _from_groups(groups: Any, steps: int) -> tuple[Tensor, Tensor | None, tuple[Hashable, ...]]:
    given = labels(groups)
    if len(given) != steps:
        raise ShapeError(f"{len(given)} groups", f"one id for each of the {steps} steps", "align groups with the data.")
    gap = next((number for number, label in enumerate(given) if is_missing(label)), None)
    if gap is not None:
        raise DataError(f"groups has no id at step {gap}", "an id for every step", "drop these steps or name them.")
    codes: dict[Hashable, int] = {}
    code = np.array([codes.setdefault(label, len(codes)) for label in given])
    adjacent = bool((np.diff(code) >= 0).all())
    order = None if adjacent else torch.from_numpy(np.argsort(code, kind="stable"))
    return torch.from_numpy(np.bincount(code)), order, tuple(codes)


def _frame_names(sources: Mapping[str, Source]) -> Sequence[Hashable] | None:
    found = [source.names for source in sources.values() if source.names is not None]
    if any(names != found[0] for names in found):
        raise DataError(
            "columns whose indexes differ", "the same index in every column", "align the columns, or drop the index."
        )
    return found[0] if found else None


def _names(given: Any, found: Sequence[Hashable] | None, size: int) -> Sequence[Hashable]:
    if given is None:
        return range(size) if found is None else found
    names = tuple(labels(given))
    if len(names) != size:
        raise ShapeError(f"{len(names)} names", f"one for each of the {size} rows", "correct names.")
    return names


def _weights(given: Any, size: int) -> Tensor:
    if given is None:
        return torch.ones(size, dtype=torch.float64)
    weights = to_tensor("weights", given).to(torch.float64)
    if weights.shape != (size,):
        raise ShapeError(
            f"weights of shape {list(weights.shape)}", f"one for each of the {size} rows: [{size}]", "correct weights."
        )
    bad = ~torch.isfinite(weights) | (weights < 0)
    if bool(bad.any()) or not bool(weights.any()):
        at = bad.nonzero().squeeze(-1)[:3].tolist()
        raise DataError(
            f"weights that are negative or not finite at {at}" if at else "weights that are all zero",
            "finite weights >= 0 that are not all zero",
            "correct weights; weight 0 leaves a row out.",
        )
    return weights
