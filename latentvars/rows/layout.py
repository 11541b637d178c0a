"""How rows lie in the columns: sequences, weights, names, positions; each checked once, at the door."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import DataError, KindError, NameUnknownError, ShapeError
from latentvars.rows.column import Column
from latentvars.rows.reading import Source, is_missing, labels, share, to_tensor


def unknown_column(name: str, columns: Mapping[str, Tensor]) -> NameUnknownError:
    """The error for a column that does not exist."""
    known = ", ".join(map(repr, columns))
    return NameUnknownError(f"the column {name!r}", f"one of {known}", f"pass Rows({{{name!r}: ...}}) or rename it.")


def default_features(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the last axis where none were given: the column's name, numbered where there is more than one."""
    return (name,) if shape[-1] == 1 else tuple(f"{name}{i}" for i in range(shape[-1]))


def has_nan(value: Tensor | Column) -> bool:
    """Whether anything is NaN; only looked for where the sum is."""
    if isinstance(value, Column):
        return value.missing > 0
    return value.is_floating_point() and bool(torch.isnan(value.sum())) and bool(torch.isnan(value).any())


def positions_of(index: Any, size: int) -> Tensor:
    """Positions ``[B]`` int64 in ``0 .. size-1`` from positions, a slice or a boolean mask."""
    if isinstance(index, slice):
        index = np.arange(size)[index]
    at = index.detach().cpu() if isinstance(index, Tensor) else share(np.asarray(index))
    if at.dtype == torch.bool and at.shape == (size,):
        at = at.nonzero().squeeze(-1)
    if at.ndim != 1 or at.numel() == 0 or at.is_floating_point() or at.dtype == torch.bool:
        raise ShapeError(
            f"an index of shape {list(at.shape)} and {at.dtype} into {size} rows",
            "at least one position, or one boolean per row",
            "pass a 1-d index.",
        )
    at = at.to(torch.int64)
    low, high = (int(end) for end in torch.aminmax(at))
    if low < -size or high >= size:
        raise ShapeError(f"positions from {low} to {high}", f"0 to {size - 1}", "pick rows that exist.")
    return at if low >= 0 else torch.where(at < 0, at + size, at)


def common_steps(sources: Mapping[str, Source]) -> int:
    """Steps in every column, which must agree."""
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


def check_values(name: str, value: Tensor) -> None:
    """Raises DataError where a column has no features or infinite values."""
    if 0 in value.shape:
        raise DataError(
            f"column {name!r} has 0 feature(s) (shape={tuple(value.shape)}) while a minimum of 1 is required.",
            "at least one feature",
            "pass the columns that are to be modelled.",
        )
    if isinstance(value, Column):  # read when all columns are known
        return
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


def row_lengths(
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
        raise ShapeError(
            f"lengths={str(given.tolist())[:60]}", "positive whole numbers, one per sequence", "correct lengths."
        )
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
    if not all(isinstance(label, Hashable) for label in given):
        raise KindError("groups with more than one id per step", "one id per step", "pass a 1-d array of ids.")
    codes: dict[Hashable, int] = {}
    code = np.array([codes.setdefault(label, len(codes)) for label in given])
    adjacent = bool((np.diff(code) >= 0).all())
    order = None if adjacent else torch.from_numpy(np.argsort(code, kind="stable"))
    return torch.from_numpy(np.bincount(code)), order, tuple(codes)


def frame_names(sources: Mapping[str, Source]) -> Sequence[Hashable] | None:
    """Row names from the indexes of the frames, which must agree."""
    found = [source.names for source in sources.values() if source.names is not None]
    if any(names != found[0] for names in found):
        raise DataError(
            "columns whose indexes differ", "the same index in every column", "align the columns, or drop the index."
        )
    return found[0] if found else None


def row_names(given: Any, found: Sequence[Hashable] | None, size: int) -> Sequence[Hashable]:
    """The names that were given, or else found, or else positions."""
    if given is None:
        return range(size) if found is None else found
    names = tuple(labels(given))
    if len(names) != size:
        raise ShapeError(f"{len(names)} names", f"one for each of the {size} rows", "correct names.")
    return names


def known_labels(name: str, given: Any, size: int, steps: int, order: Tensor | None) -> Tensor:
    """Labels of one local, ``[size]`` or ``[steps]`` int64, −1 where they are not known."""
    values = to_tensor(f"known[{name!r}]", given).to(torch.float64).nan_to_num(nan=-1.0)
    if values.ndim != 1 or len(values) not in (size, steps):
        sequences = f", or for each of the {steps} steps: [{steps}]" if steps != size else ""
        raise ShapeError(
            f"known[{name!r}] of shape {list(values.shape)}",
            f"one label for each of the {size} rows: [{size}]{sequences}",
            "write -1 where a label is not known.",
        )
    bad = ((values != values.round()) | (values < -1)).nonzero().squeeze(-1)[:3].tolist()
    if bad:
        raise DataError(
            f"known[{name!r}] with {values[bad].tolist()} at {bad}",
            "whole numbers from 0, or -1 or NaN where a label is not known",
            "code the labels as 0, 1, ...",
        )
    labels = values.long()
    return labels if order is None or len(labels) != steps else labels[order]


def row_weights(given: Any, size: int, streamed: bool = False) -> Tensor:
    """Weights ``[size]``, float64, checked; ones where none were given: a single number where rows stay in files."""
    if given is None:
        return torch.ones(1, dtype=torch.float64).expand(size) if streamed else torch.ones(size, dtype=torch.float64)
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
