"""Label switching: the order of components or states that makes one set of globals comparable to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentvars.errors import ShapeError

# axes along which the labels of one local lie: the first is the local's own
LABELLED = (("component",), ("state", "from_state", "to_state"))


@dataclass(frozen=True)
class Labels:
    """Where the labels of one discrete local lie.

    Attributes:
        local: the local, whose belief has the labels along its last axis.
        axes: global → its axes along which they lie.
    """

    local: str
    axes: Mapping[str, tuple[int, ...]]

    def permuted(self, values: Mapping[str, Tensor], order: Tensor, lead: int = 0) -> dict[str, Tensor]:
        """Globals with label k taken from what was label ``order[k]``.

        Args:
            values: global → ``[*lead, *shape]``.
            order: a permutation ``[K]``.
            lead: number of leading axes that are not the site's own.
        """
        found = dict(values)
        for name, axes in self.axes.items():
            for axis in axes:
                found[name] = found[name].index_select(lead + axis, order)
        return found


def labels_of(dims: Mapping[str, tuple[str, ...]], globals_: tuple[str, ...], locals_: tuple[str, ...]) -> list[Labels]:
    """The labels that a model names in its ``dims()``: axes called component, or state (and from_state, to_state).

    Args:
        dims: site → names of its axes.
        globals_: names of the globals.
        locals_: names of the discrete locals. A local without dims has the labels if it is the only one.

    Returns:
        One entry for each set of labels of a local; none where the model names no such axes.
    """
    found = []
    for names in LABELLED:
        axes = {
            site: tuple(k for k, axis in enumerate(dims[site]) if axis in names)
            for site in globals_
            if any(axis in names for axis in dims.get(site, ()))
        }
        owners = [site for site in locals_ if dims.get(site, ())[-1:] == names[:1]]
        owners = owners or (list(locals_) if len(locals_) == 1 and locals_[0] not in dims else [])
        if axes and len(owners) == 1:
            found.append(Labels(owners[0], axes))
    return found


def matching(reference: Tensor, other: Tensor, weights: Tensor | None = None) -> Tensor:
    """The order of the labels of ``other`` that brings it closest to ``reference``.

    The distance is between what the labels mean for the data, Σ wₙ |reference[n, k] − other[n, order[k]]| over
    posterior probabilities of the same rows, so it needs no scale and knows no family (Stephens 2000 minimises a
    divergence of the same probabilities); the assignment is the best of all K! (Kuhn 1955).

    Args:
        reference: ``[N, K]`` or ``[N, T, K]``.
        other: the same shape.
        weights: of the rows, ``[N]``.

    Returns:
        ``[K]``: label k of the reference is label ``order[k]`` of the other.
    """
    from scipy.optimize import linear_sum_assignment

    if reference.shape != other.shape:
        raise ShapeError(
            given=f"posterior probabilities of shapes {list(reference.shape)} and {list(other.shape)}",
            needed="the same rows and the same number of labels",
            remedy="ask both models for the beliefs over the same rows",
        )
    if weights is not None:
        steps = reference[0].numel() // reference.shape[-1]
        weights = weights.to(reference.dtype).repeat_interleave(steps)[:, None]
    first, second = (value.detach().reshape(-1, value.shape[-1]) for value in (reference, other))
    cost = torch.stack(
        [((column[:, None] - second).abs() * (1.0 if weights is None else weights)).sum(0) for column in first.mT]
    )
    return torch.as_tensor(linear_sum_assignment(cost.numpy())[1])
