"""Fitter: a fit that is still to be made, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from latentvars.contract import LatentModel
from latentvars.inference.amortised import Amortised
from latentvars.inference.em.em import EM
from latentvars.inference.fits.fit import Fit
from latentvars.inference.fitting import fit
from latentvars.inference.running.algorithm import Algorithm, OneGo
from latentvars.starts import Start


@final
@dataclass(frozen=True)
class Fitter:
    """A recipe: ``Fitter(model, algorithm)(data)`` is ``fit(model, data, algorithm)``.

    What has to fit the same model to data that come later, and perhaps several times (an embedding in a pipeline,
    cross-validation), takes it; each call starts anew from the same seed.

    Attributes:
        model: any object with a Pyro ``model(rows)``; it is copied by each call, never changed.
        algorithm: how it is fitted.
        seed: of every call.
        progress: whether each call shows a bar; None: where standard error is a terminal.
        fixed, tied: what is known of globals, as in :func:`latentvars.fit`.
        start: starting values or a way to find them, as in :func:`latentvars.fit`.
        guide: of continuous locals, as in :func:`latentvars.fit`.
    """

    model: LatentModel
    algorithm: Algorithm | OneGo = field(default_factory=EM)
    seed: int = 0
    progress: bool | None = False
    fixed: Mapping[str, Any] | None = None
    tied: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | Start | None = None
    guide: Literal["auto"] | Amortised | None = None

    def __call__(self, data: Any) -> Fit:
        """Fit the model to ``data``; errors as :func:`latentvars.fit`."""
        return fit(
            self.model,
            data,
            self.algorithm,
            seed=self.seed,
            start=self.start,
            guide=self.guide,
            progress=self.progress,
            fixed=self.fixed,
            tied=self.tied,
        )
