"""Fits without some of their rows, so that these are rows which a model has not learnt from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from latentvars.errors import KindError, SettingError
from latentvars.inference import Fit
from latentvars.latent_space.fitted import FittedSource
from latentvars.randomness import derive, generator
from latentvars.rows import Rows
from latentvars.studies.refitting import again, finished, refitter


@dataclass(frozen=True)
class Folds:
    """A division of the rows of a fit.

    Attributes:
        count: of parts, K.
        recipe: rows → fit, such as :class:`latentvars.Fitter`; None: the model of the fit by its own algorithm.
        seed: of the division and of the fits.
    """

    count: int
    recipe: Callable[[Rows], Fit] | None = field(repr=False)
    seed: int

    def fits(self, source: FittedSource) -> Iterator[tuple[Rows, FittedSource]]:
        """The rows that each fit has not seen, and the latent space of that fit.

        Raises:
            SettingError: fewer than two parts, or more than rows.
            KindError: a model with networks and no recipe.
        """
        rows, size = source.fit.rows, len(source.fit.rows)
        if not isinstance(self.count, int) or not 2 <= self.count <= size:
            raise SettingError(f"folds={self.count}", f"from 2 to {size}, the rows of the fit", "write folds=5")
        recipe = self._recipe(source.fit)
        order = torch.randperm(size, generator=generator(self.seed, 1))
        for number, held in enumerate(order.tensor_split(self.count)):
            kept = torch.ones(size, dtype=torch.bool)
            kept[held] = False
            fit = finished(recipe(rows.subset(kept), derive(self.seed, 2, number)))
            yield rows.subset(held.sort().values), FittedSource.of(fit, source.site)

    def _recipe(self, fit: Fit) -> Callable[[Rows, int], Any]:
        if self.recipe is not None:
            own = self.recipe
            return lambda rows, _: own(rows)
        if fit.program.modules:
            raise KindError(
                given=f"folds of a fit of {type(fit.model).__name__}, whose networks have learnt from all rows",
                needed="networks that have not",
                remedy="pass recipe=lv.Fitter(model, algorithm) with an untrained model, or reference=rows held out",
            )
        fitter = refitter(fit, {})
        return lambda rows, seed: again(fitter, rows, seed, start=False)
