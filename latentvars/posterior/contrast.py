"""Functions of globals and locals: their posterior, read off any fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from latentvars.errors import KindError, NameUnknownError, NumericalError, SettingError, ShapeError
from latentvars.posterior.contrast_result import Contrast, Region
from latentvars.posterior.datatree import Knowledge
from latentvars.posterior.delta import linearised
from latentvars.posterior.latent_draws import latent_draws
from latentvars.posterior.standard_errors import StandardErrors
from latentvars.randomness import derive, generator
from latentvars.rows import Rows

NORMAL_DRAWS = 10_000
LATENT_DRAWS = 400  # draws of the locals of all rows cost a run of the model each


class Learnt(Protocol):
    """What is read: :class:`latentvars.Fit`."""

    @property
    def rows(self) -> Rows: ...

    @property
    def seed(self) -> int: ...

    def conform(self, data: Any) -> Rows: ...

    def knowledge(self, draws: int | None = None, *, seed: int | None = None) -> Knowledge: ...

    def standard_errors(self) -> StandardErrors: ...


def contrast(
    fit: Learnt,
    function: Callable[[dict[str, Tensor]], Any],
    *,
    latents: bool = False,
    data: Any = None,
    draws: int | None = None,
    regions: Region | Mapping[str, Region] | None = None,
    probability: float = 0.89,
    seed: int | None = None,
) -> Contrast:
    """The posterior of a function of the globals, and of the locals where they are asked for.

    Of draws (``lv.NUTS()``, ``lv.SVI()``) the function is worked out at each. Of a point (``lv.EM()``) it is worked out
    there, with a standard error by the delta method from :meth:`latentvars.Fit.standard_errors` and the normal
    approximation that follows from it. Functions that do not change when components or states change places, as the
    largest mean minus the smallest, are right whatever the labels do.

    Args:
        fit: by any algorithm.
        function: of one mapping, name → value of each global, constrained; it gives a number, a tensor of one shape, or
            a mapping of names to such.
        latents: whether the mapping has the locals of all rows too, ``[N, ...]`` (as
            :meth:`latentvars.Fit.draw_latents`), one joint draw for each draw of the globals. Given a point these are
            draws at the point: their spread leaves out that of the globals.
        data: rows whose locals are drawn; those of the fit by default.
        draws: of the globals; None: 1,000 of a guide, all those of a sampler, 400 with locals.
        regions: regions of the quantity, by name, as :meth:`Contrast.probability` reads them.
        probability: of the interval.
        seed: of the draws; None: that of the fit.

    Raises:
        NameUnknownError: the function asks for a site that does not exist.
        KindError: it gives no numbers.
        ShapeError: it gives other shapes at other draws.
        NumericalError: it gives numbers that are not finite.
        SupportError: of a point, a function that torch cannot differentiate; also as ``fit.standard_errors()`` and
            ``fit.draw_latents()``.
        SettingError: a probability outside (0, 1), or rows without ``latents=True``.
    """
    _check(probability, data, latents)
    if draws is not None and draws < 2:
        raise SettingError(f"draws={draws}", "at least two, for a spread", "write draws=1000")
    seed = fit.seed if seed is None else seed
    known = fit.knowledge((LATENT_DRAWS if latents else None) if draws is None else draws, seed=seed)
    if known.draws is None and not latents:
        found = _of_point(fit, known, function, probability, seed)
    else:
        found = _of_draws(fit, known, function, latents, data, draws, probability, seed)
    if regions is None:
        return found
    named = regions if isinstance(regions, Mapping) else {"region": regions}
    return replace(found, regions={name: found.probability(region) for name, region in named.items()})


def _check(probability: float, data: Any, latents: bool) -> None:
    if not 0 < probability < 1:
        raise SettingError(f"probability={probability}", "a probability between 0 and 1", "write probability=0.89")
    if data is not None and not latents:
        raise SettingError("data= of a function of globals alone", "latents=True", "leave data out, or ask for latents")


def _of_point(fit: Learnt, known: Knowledge, function: Any, probability: float, seed: int) -> Contrast:
    """By the delta method, with draws of the normal approximation for regions that are no intervals."""
    read = partial(_read, function)
    read(known.point)  # errors of the function come before the work
    flat = linearised(read, fit.standard_errors())
    sizes = [value.numel() for value in flat.value.values()]
    centre = torch.cat([value.flatten() for value in flat.value.values()])
    values, vectors = torch.linalg.eigh(flat.covariance.nan_to_num())
    root = vectors * values.clamp(min=0).sqrt()
    noise = torch.randn(NORMAL_DRAWS, len(centre), dtype=torch.float64, generator=generator(seed, 16))
    errors = flat.covariance.diagonal().clamp(min=0).sqrt()
    drawn = (centre + noise @ root.mT).masked_fill(errors.isnan(), torch.nan)
    shapes = {name: value.shape for name, value in flat.value.items()}
    return Contrast(
        draws={n: part.reshape(-1, *shapes[n]) for n, part in zip(shapes, drawn.split(sizes, 1), strict=True)},
        estimate=flat.value,
        errors={n: part.reshape(shapes[n]) for n, part in zip(shapes, errors.split(sizes), strict=True)},
        chains=1,
        correlated=False,
        basis="at the point estimate; standard errors by the delta method, probabilities by the normal approximation",
        level=probability,
        withheld=flat.withheld,
    )


def _of_draws(
    fit: Learnt,
    known: Knowledge,
    function: Any,
    latents: bool,
    data: Any,
    draws: int | None,
    probability: float,
    seed: int,
) -> Contrast:
    """The function at each draw of the globals, and of the locals given them."""
    size = known.size or draws or LATENT_DRAWS
    values = known.draws or {name: value.expand(size, *value.shape) for name, value in known.point.items()}
    if not values and not latents:
        raise KindError("a model without globals", "something to draw", "ask for latents=True")
    sites = dict(values)
    if latents:
        rows = fit.rows if data is None else fit.conform(data)
        drawn = known.locals if data is None else {}
        sites |= latent_draws(known.program, rows, values, size, derive(seed, 17), drawn)
    found = [_read(function, {name: value[number] for name, value in sites.items()}) for number in range(size)]
    _check_shapes(found)
    sampled = known.draws is not None and known.log_q is None
    return Contrast(
        draws={name: torch.stack([one[name] for one in found]) for name in found[0]},
        estimate=None,
        errors=None,
        chains=known.chains,
        correlated=sampled,
        basis=_basis(known, size, sampled),
        level=probability,
    )


def _basis(known: Knowledge, size: int, sampled: bool) -> str:
    if known.draws is None:
        return f"{size} draws of the locals at the point estimate of the globals, whose own spread is left out"
    if sampled:
        return f"{known.chains} chain{'s' * (known.chains > 1)} of {size // known.chains} draws"
    return f"{size} draws of the guide, an approximation"


def _read(function: Callable[[dict[str, Tensor]], Any], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the function gives, checked: quantity → numbers ``[*shape]``."""
    try:
        given = function({name: value.clone() for name, value in values.items()})
    except KeyError as error:
        asked = error.args[0] if error.args else None
        if not isinstance(asked, str) or asked in values:
            raise
        raise NameUnknownError(
            given=f"the site {asked!r}",
            needed=f"one of {list(values)}",
            remedy="correct the name; of locals, write latents=True",
        ) from error
    own = getattr(function, "__name__", "")
    answers = given if isinstance(given, Mapping) else {own if own.isidentifier() else "value": given}
    if not answers:
        raise _no_numbers("an empty mapping")
    return {str(name): _number(str(name), value) for name, value in answers.items()}


def _number(name: str, value: Any) -> Tensor:
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_numbers(f"{name}: {type(value).__name__}") from error
    if found.is_complex() or not found.numel():
        raise _no_numbers(f"{name}: {'complex numbers' if found.is_complex() else 'an empty tensor'}")
    found = found.to(torch.float64)
    if not bool(found.isfinite().all()):
        raise NumericalError(
            given=f"{name} = {found.detach().flatten()[:4].tolist()}, not finite",
            needed="finite numbers at every draw",
            remedy="look for logarithms of zero, and quotients by it",
        )
    return found


def _no_numbers(given: str) -> KindError:
    return KindError(
        given=f"a function that gives {given}",
        needed="a number, a tensor, or a mapping of names to them",
        remedy="return numbers",
    )


def _check_shapes(found: Sequence[Mapping[str, Tensor]]) -> None:
    first = {name: list(value.shape) for name, value in found[0].items()}
    for number, one in enumerate(found):
        now = {name: list(value.shape) for name, value in one.items()}
        if now != first:
            raise ShapeError(
                given=f"a function that gives {first} at the first draw, {now} at draw {number}",
                needed="the same quantities of one shape at all draws",
                remedy="pad or reduce what it gives",
            )
