"""Test quantities: what a predictive check compares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvars.errors import DataError, KindError, SettingError
from latentvars.posterior.criticism.entries import Feature

Data = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Quantity:
    """A number, or several, read off data, or off data and globals.

    Attributes:
        name: of it.
        function: of the observed sites, or of their only one, and of the globals where ``with_globals``.
        with_globals: whether it is a discrepancy (Gelman, Meng & Stern 1996), which differs between draws on the
            observed data as well.
        single: whether the function takes the only site as an array.
    """

    name: str
    function: Callable[..., Any]
    with_globals: bool
    single: bool

    def read(self, data: Data, values: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Name → number; several numbers are called ``name[0]``, ``name[1]``, ...

        Raises:
            KindError: something else than numbers.
        """
        given: Any = next(iter(data.values())) if self.single else data
        found = self.function(given, values) if self.with_globals else self.function(given)
        try:
            array = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise KindError(
                given=f"the quantity {self.name!r} gives {type(found).__name__}",
                needed="a number, or an array of numbers",
                remedy="return float(...) or an array",
            ) from error
        if array.ndim == 0:
            return {self.name: float(array)}
        return {f"{self.name}[{', '.join(map(str, at))}]": float(one) for at, one in np.ndenumerate(array)}


def quantities_of(given: Any, single: bool) -> list[Quantity]:
    """From ``{name: function}`` or functions with names.

    Raises:
        SettingError: no functions, two of one name, or one of another number of arguments than one or two.
    """
    named = dict(given) if isinstance(given, Mapping) else _by_name(given)
    if not named or not all(callable(one) for one in named.values()):
        raise SettingError(
            given=f"quantities={given!r}",
            needed="functions of the data, by name",
            remedy='write quantities={"largest": lambda x: x.max()}',
        )
    return [Quantity(str(name), one, _takes_globals(str(name), one), single) for name, one in named.items()]


def default_quantities(features: Sequence[Feature], observed: Data, sequences: bool) -> list[Quantity]:
    """Of each feature: mean, sd, min and max; of counts the share of zeros; of sequences the correlation of neighbours.

    Missing entries and padding are left out.
    """
    found = []
    for feature in features:
        own = observed[feature.site][(..., *feature.place)]
        seen = own[~np.isnan(own)]
        functions: dict[str, Callable[[np.ndarray], float]] = {
            "mean": _mean,
            "sd": _spread,
            "min": _least,
            "max": _most,
        }
        if len(seen) and bool((seen == np.round(seen)).all() and (seen >= 0).all()):
            functions["share of zeros"] = _zeros
        if sequences and own.ndim == 2:
            functions["lag-1 correlation"] = _neighbours
        found += [
            Quantity(f"{name} of {feature.name}", _Of(feature, function), False, False)
            for name, function in functions.items()
        ]
    return found


def check_numbers(found: Mapping[str, float]) -> None:
    """Whether quantities of the observed data are numbers.

    Raises:
        DataError: one is NaN.
    """
    wrong = [name for name, value in found.items() if np.isnan(value)]
    if wrong:
        raise DataError(
            given=f"the quantity {wrong[0]!r} of the observed data is not a number",
            needed="numbers: missing entries and the padding of sequences are NaN",
            remedy="leave them out, as np.nanmean(x) does",
        )


@dataclass(frozen=True)
class _Of:
    """A function of one feature's entries."""

    feature: Feature
    function: Callable[[np.ndarray], float]

    def __call__(self, data: Data) -> float:
        return self.function(np.asarray(data[self.feature.site][(..., *self.feature.place)], dtype=np.float64))


def _mean(x: np.ndarray) -> float:
    return float(np.nanmean(x))


def _spread(x: np.ndarray) -> float:
    return float(np.nanstd(x))


def _least(x: np.ndarray) -> float:
    return float(np.nanmin(x))


def _most(x: np.ndarray) -> float:
    return float(np.nanmax(x))


def _zeros(x: np.ndarray) -> float:
    return float(np.nanmean(np.where(np.isnan(x), np.nan, x == 0)))


def _neighbours(x: np.ndarray) -> float:
    """Of steps ``[N, T]``; 0 where nothing varies."""
    centred = x - np.nanmean(x)
    pairs = centred[:, :-1] * centred[:, 1:]
    whole = np.nansum(centred**2)
    return float(np.nansum(pairs) / whole) if whole > 0 else 0.0


def _by_name(given: Any) -> dict[str, Any]:
    functions = [given] if callable(given) else list(given)
    names = [getattr(one, "__name__", type(one).__name__) for one in functions]
    if len(set(names)) < len(names):
        raise SettingError(
            given=f"several quantities of one name: {names}",
            needed="a name for each",
            remedy='write quantities={"largest": lambda x: x.max(), ...}',
        )
    return dict(zip(names, functions, strict=True))


def _takes_globals(name: str, function: Callable[..., Any]) -> bool:
    """Whether a function has a second argument that it needs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False  # some built-in functions have no signature
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one for one in parameters if one.kind in positional and one.default is inspect.Parameter.empty]
    if len(needed) > 2:
        raise SettingError(
            given=f"the quantity {name!r} of {len(needed)} arguments",
            needed="a function of the data, or of the data and the globals",
            remedy="give the others defaults",
        )
    return len(needed) == 2
