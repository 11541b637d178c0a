"""Names and labels of the axes of labelled results."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvars.contract import LatentModel
from latentvars.rows import Rows

if TYPE_CHECKING:
    import xarray as xr

RESERVED = frozenset({"sample", "chain", "draw"})  # names to which ArviZ gives a meaning


@dataclass(frozen=True)
class Axes:
    """How arrays become labelled variables.

    Attributes:
        names: site → names of its axes.
        labels: axis → labels along it.
    """

    names: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Sequence[Any] | np.ndarray]

    @staticmethod
    def of(model: LatentModel, rows: Rows) -> Axes:
        """What the model says in its optional ``dims()`` and ``coords(rows)``; rows have their own names."""
        dims, coords = getattr(model, "dims", None), getattr(model, "coords", None)
        names = {} if dims is None else {site: tuple(axes) for site, axes in dims().items()}
        labels = {} if coords is None else dict(coords(rows))
        return Axes(names, {**labels, "row": row_labels(rows.names)})

    def labelled(self, labels: Mapping[str, Sequence[Any] | np.ndarray]) -> Axes:
        """The same with further labels."""
        return replace(self, labels={**self.labels, **labels})

    def of_site(self, name: str, dims: int) -> tuple[str, ...]:
        """Names of the ``dims`` axes of a site: the model's where it names that many, else ``<name>_dim_0``, ..."""
        given = self.names.get(name, ())
        return given if len(given) == dims else tuple(f"{name}_dim_{k}" for k in range(dims))

    def dataset(
        self,
        values: Mapping[str, np.ndarray],
        names: Mapping[str, tuple[str, ...]] | None = None,
        lead: tuple[str, ...] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Arrays as one labelled dataset.

        Args:
            values: variable → array ``[*lead, ...]``.
            names: variable → names of the axes right of ``lead``; :meth:`of_site` by default.
            lead: names of the leading axes of all variables.
            attributes: of the dataset.

        An axis whose name cannot be used (reserved by ArviZ, the name of a variable, or of another size elsewhere)
        is called ``<variable>_dim_<k>``, with a warning; a name that stands twice in one variable gets ``_bis``.
        """
        names = names or {}
        sizes: dict[str, int] = {}
        variables = {}
        for name, value in values.items():
            given = names.get(name) or self.of_site(name, value.ndim - len(lead))
            proposed = [*lead, *_without_repeats(given)]
            axes = []
            for k, (axis, size) in enumerate(zip(proposed, value.shape, strict=True)):
                usable = k < len(lead) or (axis not in RESERVED and axis not in values)
                if not usable or sizes.get(axis, size) != size:
                    fallback = f"{name}_dim_{k - len(lead)}"
                    warnings.warn(f"axis {axis!r} of {name!r} is called {fallback!r}: the name is taken", stacklevel=2)
                    axis = fallback
                sizes[axis] = size
                axes.append(axis)
            variables[name] = (axes, value)
        coords = {axis: self._labels(axis, size) for axis, size in sizes.items()}
        import xarray as xr

        return xr.Dataset(variables, coords, dict(attributes or {}))

    def of_variables(self, variables: Mapping[str, xr.Variable]) -> xr.Dataset:
        """Variables whose axes have their names already, with labels along them; their numbers are not read."""
        import xarray as xr

        sizes = {axis: size for value in variables.values() for axis, size in value.sizes.items()}
        return xr.Dataset(dict(variables), {str(axis): self._labels(str(axis), size) for axis, size in sizes.items()})

    def _labels(self, axis: str, size: int) -> np.ndarray:
        labels = self.labels.get(axis, self.labels.get(axis.removesuffix("_bis"), ()))
        return row_labels(labels) if len(labels) == size else np.arange(size)


def row_labels(names: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """Labels as a one-dimensional array that netCDF can hold: whole numbers, numbers, moments, else text."""
    if isinstance(names, np.ndarray):
        return names
    if isinstance(names, range):
        return np.arange(names.start, names.stop, names.step)
    if names and all(isinstance(name, int | np.integer) and not isinstance(name, bool) for name in names):
        return np.array(names, dtype=np.int64)
    if names and all(isinstance(name, float | np.floating) for name in names):
        return np.array(names, dtype=np.float64)
    if names and all(_is_moment(name) for name in names):
        return np.array(names, dtype="datetime64[ns]")
    return np.array([str(name) for name in names], dtype=np.str_)


def _is_moment(name: Hashable) -> bool:
    """Whether a label is a date with a time, of no time zone."""
    return isinstance(name, datetime.datetime | np.datetime64) and getattr(name, "tzinfo", None) is None


def _without_repeats(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        while name in found:
            name = f"{name}_bis"
        found.append(name)
    return found
