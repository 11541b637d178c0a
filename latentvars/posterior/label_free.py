"""Numbers of the globals that mean the same whatever the labels, and however the factors are turned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latentvars.distributions.bijection import base_support
from latentvars.posterior.alignment import Labels
from latentvars.posterior.rotation import Factors
from latentvars.posterior.symmetry import Symmetries, reordered


@dataclass(frozen=True)
class LabelFree:
    """A function of globals that no renaming changes: labels in the order of one number, factors by their products.

    Attributes:
        labels: what can be renamed.
        keys: local → the global by whose numbers its labels are put in order.
        factors: what can be turned, whose loadings are replaced by ΛΛᵀ.
    """

    labels: tuple[Labels, ...] = ()
    keys: Mapping[str, str] | None = None
    factors: Factors | None = None

    @staticmethod
    def of(found: Symmetries) -> LabelFree:
        """Labels are put in order of the first global that has one entry or more for each and is not a simplex."""
        keys = {}
        for labels in found.labels:
            candidates = [name for name, axes in labels.axes.items() if len(axes) == 1]
            if candidates:
                entrywise = [n for n in candidates if base_support(found.program.space[n].support).event_dim == 0]
                keys[labels.local] = (entrywise or candidates)[0]
        return LabelFree(tuple(labels for labels in found.labels if labels.local in keys), keys, found.factors)

    def __call__(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Globals ``[S, *shape]`` → numbers ``[S, ...]``."""
        found = dict(values)
        for labels in self.labels:
            key = (self.keys or {})[labels.local]
            value = values[key].movedim(1 + labels.axes[key][0], 1)
            first = value.reshape(*value.shape[:2], -1)[..., 0]
            found.update(reordered(found, labels, first.argsort(1)))
        if self.factors is not None:
            for name, axis in self.factors.axes.items():
                loadings = found.pop(name).movedim(1 + axis, -1).flatten(1, -2)
                product = loadings @ loadings.mT
                below = torch.tril_indices(*product.shape[1:])
                found[f"{name}·{name}"] = product[:, below[0], below[1]]
        return found
