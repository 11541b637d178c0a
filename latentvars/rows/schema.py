"""Schema: what data must look like to be read by a model that was fitted to other data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, final

from torch import Tensor

from latentvars.errors import DataError, ShapeError
from latentvars.rows.layout import default_features, unknown_column


class Tabular(Protocol):
    """What a schema looks at: :class:`latentvars.Rows`, for one."""

    @property
    def columns(self) -> Mapping[str, Tensor]: ...

    @property
    def lengths(self) -> Tensor | None: ...

    @property
    def features(self) -> Mapping[str, tuple[str, ...]]: ...


@final
@dataclass(frozen=True)
class Schema:
    """What data must look like to be read by a fitted model.

    Attributes:
        columns: trailing shape of each column (without rows and steps).
        sequences: whether a row is a sequence.
        features: names of the last axis of each column that has one.
    """

    columns: Mapping[str, tuple[int, ...]]
    sequences: bool
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, rows: Tabular) -> None:
        """Whether ``rows`` fit; further columns are allowed.

        Raises:
            NameUnknownError: a column is not there.
            ShapeError: a column has another shape, or rows are sequences on one side only.
            DataError: feature names that were given on both sides differ.
        """
        if self.sequences != (rows.lengths is not None):
            raise ShapeError(
                f"rows that are {_kind(not self.sequences)}",
                f"rows that are {_kind(self.sequences)}",
                "pass lengths=, groups= or a list of arrays." if self.sequences else "pass one array or frame.",
            )
        for name, shape in self.columns.items():
            if name not in rows.columns:
                raise unknown_column(name, rows.columns)
            self._check_column(name, shape, rows)

    def _check_column(self, name: str, shape: tuple[int, ...], rows: Tabular) -> None:
        given = tuple(rows.columns[name].shape[1:])
        if given != shape:
            raise ShapeError(
                _describe(given, name),
                _describe(shape, name),
                "pass the columns and features that the model was fitted to.",
            )
        names, fitted = rows.features.get(name), self.features.get(name)
        defaults = (None, default_features(name, shape) if shape else None)
        if names != fitted and names not in defaults and fitted not in defaults:
            raise DataError(
                f"the features {names} in {name!r}", f"the features {fitted}", "reorder or rename them as fitted."
            )


def _kind(sequences: bool) -> str:
    return "sequences" if sequences else "single observations"


def _describe(shape: tuple[int, ...], name: str) -> str:
    if len(shape) == 1:
        return f"{shape[0]} features in {name!r}"
    return f"one number per row in {name!r}" if not shape else f"shape {list(shape)} per row in {name!r}"
