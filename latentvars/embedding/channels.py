"""What a fit gives for a row: which sites, of which shape, and what their coordinates are called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch

from latentvars.embedding.blocks import rows_at
from latentvars.errors import KindError, ModelError, NameUnknownError
from latentvars.rows import Rows
from latentvars.threads import one_thread


class Beliefs(Protocol):
    """Posterior beliefs over the local latents of N rows, as :class:`latentvars.LatentPosterior`."""

    @property
    def sites(self) -> tuple[str, ...]: ...

    def mean(self, name: str | None = None) -> Any:
        """``[N, ...]``; for what belongs to the steps of sequences ``[N, T, ...]``."""
        ...


class Fitted(Protocol):
    """A fit, as an embedding sees it.

    Looked up by name where it has them: ``conform(data) -> Rows`` (data as the fit reads them, or an error),
    ``schema`` and ``rows`` (of the data it was made from), ``model.dims()`` and ``model.coords(rows)`` (names).
    """

    def latent(self, data: Any) -> Beliefs: ...


@dataclass(frozen=True)
class Channel:
    """The share of one site in the vector.

    Attributes:
        site: its name.
        shape: of its posterior mean, without rows and steps.
        per_step: whether there is one for each step of a sequence.
    """

    site: str
    shape: tuple[int, ...]
    per_step: bool = False

    @property
    def width(self) -> int:
        return math.prod(self.shape)

    def names(self, fitted: Fitted) -> list[str]:
        """``z_component_0``, ... where the model names the axes of the site (``z_red``, ... where it labels them with
        text), otherwise ``z0``, ... (``z`` for a single number)."""
        axes = _axes(fitted, self)
        if axes is None:
            if len(self.shape) < 2:
                return [self.site] if not self.shape else [f"{self.site}{k}" for k in range(self.width)]
            axes = [[str(k) for k in range(size)] for size in self.shape]
        return ["_".join([self.site, *labels]) for labels in product(*axes)]


def channels(fitted: Fitted, rows: Rows, sites: str | Sequence[str] | None) -> tuple[Channel, ...]:
    """The channels of ``sites`` (None: all), found by embedding the first row.

    Raises:
        ModelError: the model has no local latents, or their posterior means depend on more than the row.
        NameUnknownError: a site that is no local latent.
    """
    with one_thread():
        first = fitted.latent(_twice(rows, 1))
        means = {name: floating(first.mean(name)) for name in _chosen(tuple(first.sites), sites)}
        for name, mean in means.items():
            _check_equal_rows(name, mean)
        if rows.lengths is None:
            return tuple(Channel(name, mean.shape[1:]) for name, mean in means.items())
        # what grows with the steps belongs to them
        longer = fitted.latent(_twice(rows, 2))
        grows = {name: floating(longer.mean(name)).shape != mean.shape for name, mean in means.items()}
    return tuple(Channel(name, mean.shape[1 + grows[name] :], grows[name]) for name, mean in means.items())


def _twice(rows: Rows, steps: int) -> Rows:
    """The first row and its copy, of so many steps where rows are sequences (the last is repeated)."""
    if rows.lengths is None:
        return rows_at(rows, np.zeros(2, np.int64))
    own = torch.arange(steps).clamp(max=int(rows.lengths[0]) - 1).repeat(2)
    return Rows({name: value[own] for name, value in rows.columns.items()}, lengths=[steps, steps])


def _check_equal_rows(site: str, mean: np.ndarray) -> None:
    if not np.allclose(mean[0], mean[1], rtol=1e-3, atol=1e-6, equal_nan=True):
        raise ModelError(
            given=f"two equal rows whose posterior means of {site!r} differ",
            needed="a posterior that depends on the values of a row alone",
            remedy="let the guide read rows.x, not rows.index, and let no local's law in it depend on another's draw",
        )


def floating(value: Any) -> np.ndarray:
    """A tensor or array as floating-point numbers."""
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _chosen(known: tuple[str, ...], sites: str | Sequence[str] | None) -> tuple[str, ...]:
    if not known:
        raise ModelError(
            given="a fit whose model has no local latents",
            needed="a latent for each row, of which to take the posterior mean",
            remedy="embed with a model that has locals; globals are in fit.point",
        )
    names = known if sites is None else (sites,) if isinstance(sites, str) else tuple(sites)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise NameUnknownError(
            given=f"sites={sites!r}", needed=f"local sites of the model: {list(known)}", remedy="correct sites="
        )
    return names


def _axes(fitted: Fitted, part: Channel) -> list[list[str]] | None:
    """Labels along each axis, where the model's ``dims()`` names rows, steps and as many axes as there are."""
    model = getattr(fitted, "model", None)
    dims = getattr(model, "dims", None)
    named = () if dims is None else dims().get(part.site, ())
    if len(named) != 1 + part.per_step + len(part.shape):
        return None
    own = named[1 + part.per_step :]
    coords, rows = getattr(model, "coords", None), getattr(fitted, "rows", None)
    labels = {} if coords is None or rows is None else coords(rows)
    return [_labels(axis, size, labels.get(axis, ())) for axis, size in zip(own, part.shape, strict=True)]


def _labels(axis: str, size: int, given: Sequence[Any]) -> list[str]:
    """Labels that are text stand for themselves, numbers follow the name of the axis."""
    labels = list(given) if len(given) == size else list(range(size))
    return [label if isinstance(label, str) and not label.isdigit() else f"{axis}_{label}" for label in labels]


def checked(fitted: Any) -> Fitted:
    """``fitted`` itself, if it can be embedded with.

    Raises:
        KindError: it has no ``latent``.
    """
    if not is_fit(fitted):
        raise KindError(
            given=f"{type(fitted).__name__} in the place of a fit",
            needed="a fit, as lv.fit(...) returns, or a recipe that makes one from data",
            remedy="write Embedding(lv.fit(model, data)), or Embedding(lv.Fitter(model))",
        )
    return fitted


def is_fit(source: Any) -> bool:
    """Whether ``source`` has beliefs over the latents of rows."""
    return callable(getattr(source, "latent", None)) and not isinstance(source, type)
