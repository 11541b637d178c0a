"""Whether values are some of a latent, and what a continuous one is read as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentvars.errors import DataError, KindError, ShapeError
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.generator import GeneratorSource
from latentvars.latent_space.law import standardised


def checked(z: Any, source: FittedSource | GeneratorSource) -> Tensor:
    """Values ``[M, *shape]`` of the latent in its precision; one value alone becomes ``[1, *shape]``.

    Raises:
        ShapeError: values of another shape.
        DataError: values outside the support, or none.
    """
    try:
        z = torch.as_tensor(z)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"latents that are no numbers: {str(error)[:80]}", "a tensor or array", "pass one") from error
    if z.dim() and not len(z):
        raise DataError(f"no latents: shape {list(z.shape)}", "one point or more", f"pass values of {source.site!r}")
    if isinstance(source, FittedSource) and source.discrete:
        return _labels(z, source)
    shape = source.shape
    z = z.to(source.dtype)
    z = z[None] if z.shape == shape else z
    if z.dim() != len(shape) + 1 or z.shape[1:] != shape:
        raise ShapeError(
            given=f"latents of shape {list(z.shape)}",
            needed=f"[points{''.join(f', {size}' for size in shape)}] for {source.site!r}",
            remedy="pass one value, or a table of values",
        )
    if not bool(torch.isfinite(z).all()) or not bool(source.place.support.check(z).all()):
        raise DataError(
            given=f"latents outside the support {source.place.support} of {source.site!r}",
            needed="finite values within it",
            remedy="correct them",
        )
    return z


def check_continuous(source: FittedSource | GeneratorSource, what: str) -> None:
    """KindError where the latent is discrete."""
    if source.discrete:
        raise KindError(
            given=f"{what} in the discrete latent {source.site!r}",
            needed="a continuous latent",
            remedy="decode its values: space.decode(range(K)); rows by fit.latent(rows)",
        )


def features_of(
    source: FittedSource | GeneratorSource, given: Any = None, spread: bool = True
) -> Callable[[Tensor], Tensor]:
    """Real numbers of a latent ``[M, W]`` → means, and standard deviations, of what is decoded ``[M, F]``."""

    def features(free: Tensor) -> Tensor:
        z = source.value(free.to(source.dtype))
        return standardised(source.laws(z, given, 0), spread).to(free.dtype)

    return features


def means_of(source: FittedSource | GeneratorSource, data: Any) -> Tensor:
    """Posterior means of the latent ``[N, *shape]``; KindError of a generator, or of a discrete latent."""
    check_continuous(source, "points of rows")
    if isinstance(source, GeneratorSource):
        raise KindError("points of rows of a generator", "an encoder or a guide", "write space.invert(x).modes[0]")
    return source.fit.latent(data).mean(source.site)


def _labels(z: Tensor, source: FittedSource) -> Tensor:
    z = z.reshape(1) if z.dim() == 0 else z
    z = z[None] if source.chain and z.dim() == 1 else z
    if z.dim() != 1 + source.chain:
        needed = "[points, steps] states" if source.chain else "[points] categories"
        raise ShapeError(f"latents of shape {list(z.shape)}", needed, "pass whole numbers from 0")
    if z.dtype.is_floating_point and not bool((z == z.round()).all()):
        raise DataError("latents that are not whole numbers", f"0 to {source.labels - 1}", "pass categories")
    if z.numel() and not (int(z.min()) >= 0 and int(z.max()) < source.labels):
        raise DataError(
            given=f"latents from {int(z.min())} to {int(z.max())}",
            needed=f"whole numbers from 0 to {source.labels - 1}",
            remedy=f"pass values of {source.site!r}",
        )
    return z.long()
