"""Columns of inputs (covariates): what reads them, what is wrong with them, and the multinomial logit on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from latentvars.errors import DataError, MissingDataError, SettingError, ShapeError
from latentvars.rows import Batch, Rows

RANK_TOLERANCE = 1e-9


def read_inputs(rows: Batch, name: str) -> Tensor:
    """The column of inputs, ``[B, P]`` or ``[B, T, P]``, in the precision of the batch."""
    return rows[name].to(rows.weights.dtype)


def categories(inputs: Tensor, coefficients: Tensor) -> Tensor:
    """Multinomial logit: p(k) ∝ exp(u · β_k) with β_0 = 0 (McFadden 1974).

    Args:
        inputs: u, ``[..., P]``.
        coefficients: ``[P, K-1]``, of the categories but the first; or ``[J, P, K-1]``, of J logits.

    Returns:
        ``[..., K]``, or ``[..., J, K]``.
    """
    logits = torch.einsum("...p,...pk->...k", inputs if coefficients.dim() == 2 else inputs[..., None, :], coefficients)
    return torch.cat([torch.zeros_like(logits[..., :1]), logits], -1).softmax(-1)


def constant_logit(inputs: Tensor, probs: Tensor) -> Tensor:
    """Coefficients ``[..., P, K-1]`` that give the same ``probs`` ``[..., K]`` at all inputs ``[S, P]``; only nearly so
    where the inputs hold no constant."""
    direction = least_squares(inputs, torch.ones_like(inputs[:, 0]))
    logits = (probs[..., 1:] / probs[..., :1]).log()
    return direction[:, None] * logits[..., None, :]


def least_squares(inputs: Tensor, y: Tensor) -> Tensor:
    """Coefficients ``[P, ...]`` with which ``inputs`` ``[S, P]`` come nearest to ``y`` ``[S, ...]``.

    By the normal equations of inputs of length one, as a start needs few digits; by singular values, as torch leaves
    the order of columns to chance where it pivots (driver gelsy), which is felt in the last bit.
    """
    norm = inputs.norm(dim=0)
    scaled = inputs / torch.where(norm > 0, norm, 1.0)
    moments = scaled.mT @ y.reshape(len(y), -1)
    solved = (
        torch.linalg.lstsq(scaled.mT @ scaled, moments, driver="gelsd").solution
        / torch.where(norm > 0, norm, 1.0)[:, None]
    )
    return solved.reshape(inputs.shape[-1], *y.shape[1:])


def check_groups(by: str, name: str | None, groups: int) -> None:
    """Inputs can drive a choice between at least two groups.

    Raises:
        SettingError: there is one group.
    """
    if name is not None and groups < 2:
        raise SettingError(f"{by}={name!r} for one group", "at least two groups to choose from", f"leave {by} out.")


def check_inputs(rows: Rows, names: Iterable[str]) -> None:
    """The columns of inputs are matrices without missing entries.

    Raises:
        NameUnknownError: there is no such column.
        ShapeError: it is no matrix.
        MissingDataError: with the first entry, by name and position.
    """
    for name in names:
        inputs = rows[name]
        if inputs.dim() != 2:
            raise ShapeError(
                given=f"column {name!r} of inputs of shape {list(inputs.shape)}",
                needed="a matrix [observations, inputs], with a column of ones where an intercept is wanted",
                remedy="use lv.Design('~ a + b', frame).frame, or numpy.column_stack([numpy.ones(n), a, b])",
            )
        missing = inputs.isnan()
        if bool(missing.any()):
            row, column = missing.nonzero()[0].tolist()
            raise MissingDataError(
                given=f"{int(missing.sum())} missing entries in {name!r}, the first in {rows.features[name][column]!r} "
                f"at position {row}",
                needed="observed inputs: they are conditioned on, not modelled",
                remedy="impute them, or drop these rows",
            )


def check_rank(inputs: Tensor, names: tuple[str, ...], what: str) -> None:
    """No column of ``[S, P]`` is a combination of the others.

    Raises:
        DataError: with the names of those that are, and of those that they are made of.
    """
    from scipy.linalg import qr

    matrix = inputs.to(torch.float64)
    scaled = matrix / torch.where((norm := matrix.norm(dim=0)) > 0, norm, 1.0)
    found: Any = qr(scaled.numpy(), mode="r", pivoting=True)
    triangle, order = torch.tensor(found[0]), found[1]
    size = triangle.diagonal().abs()
    rank = int((size > RANK_TOLERANCE * max(1.0, float(size[0]))).sum())
    if rank == len(names):
        return
    solved = torch.linalg.pinv(triangle[:rank, :rank]) @ triangle[:rank, rank:]
    dependent = []
    for column, weights in zip(order[rank:], solved.mT, strict=True):
        parts = [repr(names[order[k]]) for k in range(rank) if abs(float(weights[k])) > 1e-6]
        dependent.append(f"{names[column]!r} of {', '.join(parts)}" if parts else f"{names[column]!r}, which is 0")
    raise DataError(
        given=f"collinear inputs {what}: {'; '.join(dependent)}",
        needed=f"{len(names)} linearly independent columns over {len(matrix)} observations (rank {rank})",
        remedy="drop one of them (a formula with an intercept leaves out the first level of a factor by itself)",
    )


def input_axis(name: str) -> str:
    """Name of the axis of coefficients along the inputs of a column."""
    return f"{name}_feature"


def input_coords(dims: Mapping[str, tuple[str, ...]], rows: Rows, names: Iterable[str]) -> dict[str, list[str]]:
    """Labels along the axes of inputs that occur in ``dims`` (those of the parts of a product have its number)."""
    axes = {axis for site in dims.values() for axis in site}
    return {
        axis: list(rows.features[name])
        for name in names
        for axis in axes
        if axis == input_axis(name) or axis.removeprefix(f"{input_axis(name)}_").isdigit()
    }
