"""Gaussian mixtures: a mixture with a Gaussian emission, and the way from and to scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from latentvars.models import convert_sklearn
from latentvars.models.emissions import Gaussian
from latentvars.models.mixture import Mixture
from latentvars.rows import Batch, Rows
from latentvars.starts import Grouping


@final
@dataclass(frozen=True)
class GaussianMixture:
    """p(x_n) = Σ_k weights_k N(x_n; loc_k, Σ_k), the component z_n summed out (McLachlan & Peel 2000, eq. 3.1).

    Sites: ``weights`` ``[K]``, ``loc`` ``[K, D]`` and, by ``covariance``: ``"full"`` ``covariance`` ``[K, D, D]``,
    ``"tied"`` ``covariance`` ``[D, D]``, ``"diag"`` ``scale`` ``[K, D]``, ``"spherical"`` ``scale`` ``[K]`` (standard
    deviations); ``z`` (local, collapsed); ``x`` (observed). Data of shape ``[N]`` count as one feature.

    Attributes:
        components: K.
        features: D; None takes it from the data.
        covariance: form of Σ_k.
        priors: site name → prior; sites without one are flat (maximum likelihood).

    Raises:
        SettingError: components or features below 1, or an unknown form of covariance.
        NameUnknownError: a prior of a site that does not exist.
    """

    components: int
    features: int | None = None
    covariance: str = "full"
    priors: Mapping[str, TorchDistribution] | None = None

    def __post_init__(self) -> None:
        self.mixture.dims()

    @property
    def mixture(self) -> Mixture:
        """The same model as a :class:`latentvars.models.Mixture`."""
        return Mixture(self.components, Gaussian(self.features, self.covariance), self.priors)

    def model(self, rows: Batch) -> None:
        """The Pyro model."""
        self.mixture.model(rows)

    def initial(self, rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values, as :meth:`Mixture.initial`."""
        return self.mixture.initial(rows, generator)

    def grouped_start(self, rows: Rows, grouping: Grouping, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values from groups of the rows, as :meth:`Mixture.grouped_start`."""
        return self.mixture.grouped_start(rows, grouping, generator)

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the globals and of z."""
        return self.mixture.dims()

    def coords(self, rows: Rows) -> dict[str, list[int] | list[str]]:
        """Labels along the axes of :meth:`dims`, but for the rows."""
        return self.mixture.coords(rows)

    def prepare(self, rows: Rows) -> Rows:
        """The rows as they are, if the model can read them; errors as :meth:`Mixture.prepare`."""
        return self.mixture.prepare(rows)

    def check(self, rows: Rows) -> None:
        """Whether the globals can be estimated from the rows; errors as :meth:`Mixture.check`."""
        self.mixture.check(rows)

    @staticmethod
    def from_sklearn(fitted: Any) -> tuple[GaussianMixture, dict[str, Tensor]]:
        """The model and the globals of a fitted ``sklearn.mixture.GaussianMixture``, of equal likelihood.

        Raises:
            KindError: another estimator, or one that is not fitted.
        """
        covariance, point = convert_sklearn.read(fitted)
        components, features = point["loc"].shape
        return GaussianMixture(components, features, covariance), point

    def to_sklearn(self, point: Mapping[str, Tensor]) -> Any:
        """A fitted ``sklearn.mixture.GaussianMixture`` with these globals, of equal likelihood.

        Args:
            point: constrained globals, as ``fit.point``.

        Raises:
            NameUnknownError: a global is not in ``point``.
        """
        return convert_sklearn.write(self.covariance, point)
