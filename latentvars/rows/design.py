"""Design: covariates coded by a formula, and coded in the same way again for new data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from latentvars.errors import DataError, KindError, LatentVarsError, MissingDataError, NameUnknownError, SettingError


@final
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Design:
    """The matrix of covariates that a Wilkinson formula describes (Wilkinson & Rogers 1973), as read by ``formulaic``.

    ``Design("~ income + C(region)", frame)`` has a column ``Intercept`` unless the formula says ``- 1``; the levels of
    a factor, and what ``center(x)`` or ``bs(x)`` learn from the data, are kept for new data: :meth:`of`. Give it to
    the rows by its frame, which carries the names: ``lv.Rows({"x": y, "inputs": design.frame})``.

    Args:
        formula: right-hand side only, as ``"~ a + b"`` or ``"a + b"``.
        frame: pandas or polars DataFrame, or a mapping from names to columns; one row per observation or step.

    Attributes:
        formula: as given.
        names: P names of the columns.
        matrix: ``[N, P]`` float64.
        spec: what formulaic has learned from the data.

    Raises:
        NameUnknownError: the formula names a variable that the frame does not have.
        MissingDataError: missing entries in a variable.
        DataError: levels that were not there before, or entries that are not finite.
        SettingError: a formula that cannot be read, or with two sides.
    """

    formula: str
    names: tuple[str, ...]
    matrix: Tensor
    spec: Any

    def __init__(self, formula: str, frame: Any) -> None:
        import formulaic

        try:
            read: Any = formulaic.Formula(formula)  # pyright: ignore[reportAbstractUsage]
            variables = {str(name) for name in read.required_variables}
        except Exception as error:
            raise _unreadable(formula, str(error)) from error
        if not isinstance(read, formulaic.SimpleFormula):
            raise _unreadable(formula, "it has two sides, or several parts")
        table = _table(frame)
        _check_variables(variables, table)
        self._set(formula, _evaluated(formula, read, table))

    def _set(self, formula: str, found: Any) -> None:
        names = tuple(str(name) for name in found.columns)
        matrix = torch.tensor(np.asarray(found, dtype=np.float64))
        infinite = [name for name, fine in zip(names, matrix.isfinite().all(0).tolist(), strict=True) if not fine]
        if infinite:
            raise DataError(
                given=f"entries of the design that are not finite, in {', '.join(map(repr, infinite))}",
                needed="finite numbers in every column",
                remedy="check the domain of the functions in the formula, as log(x) at 0",
            )
        for attribute, value in (
            ("formula", formula),
            ("names", names),
            ("matrix", matrix),
            ("spec", found.model_spec),
        ):
            object.__setattr__(self, attribute, value)

    def of(self, frame: Any) -> Design:
        """New data in the coding of these: the same columns, levels and centres.

        Raises:
            Everything that the constructor does; DataError for a level that these data do not have.
        """
        table = _table(frame)
        _check_variables({str(name) for name in self.spec.required_variables}, table)
        new = object.__new__(Design)
        new._set(self.formula, _evaluated(self.formula, self.spec, table))
        return new

    @property
    def frame(self) -> Any:
        """The matrix as a pandas DataFrame, whose names become those of the features in ``lv.Rows``."""
        import pandas

        return pandas.DataFrame(self.matrix.numpy(), columns=list(self.names))

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def __repr__(self) -> str:
        return f"Design({self.formula!r}, {len(self)} rows: {', '.join(self.names)})"


def _table(frame: Any) -> Any:
    """A pandas DataFrame with a fresh index."""
    import pandas

    if isinstance(frame, pandas.DataFrame):
        return frame.reset_index(drop=True)
    if isinstance(frame, Mapping):
        return pandas.DataFrame(dict(frame))
    if type(frame).__module__.startswith("polars"):
        return pandas.DataFrame(frame.to_dict(as_series=False))
    raise KindError(
        given=f"a frame of type {type(frame).__name__}",
        needed="a pandas or polars DataFrame, or a mapping from names to columns",
        remedy="give the variables of the formula by name",
    )


def _check_variables(variables: set[str], table: Any) -> None:
    absent = sorted(variables - {str(name) for name in table.columns})
    if absent:
        raise NameUnknownError(
            given=f"the variable{'s' * (len(absent) > 1)} {', '.join(map(repr, absent))} in the formula",
            needed=f"names of columns: {', '.join(map(repr, table.columns))}",
            remedy="add them to the frame, or correct the formula",
        )
    empty = {name: table[name].isna().to_numpy() for name in sorted(variables)}
    gaps = [
        f"{name!r} ({int(gap.sum())}, the first at row {int(gap.argmax())})" for name, gap in empty.items() if gap.any()
    ]
    if gaps:
        raise MissingDataError(
            given=f"missing entries in {', '.join(gaps)}",
            needed="observed values of every covariate",
            remedy="impute them, or drop these rows from the data and the frame",
        )


def _evaluated(formula: str, source: Any, table: Any) -> Any:
    """formulaic's matrix; its remark on unknown levels, which it would code as zeros, becomes an error."""
    import formulaic
    from formulaic.errors import DataMismatchWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            return formulaic.model_matrix(source, table, na_action="raise", output="pandas", context={})
    except LatentVarsError:
        raise
    except DataMismatchWarning as error:
        raise DataError(
            given=f"levels in the new data that the design has not seen: {error}",
            needed=f"the levels of the data that {formula!r} was first read with",
            remedy="drop these rows, merge the levels, or make the design from all data",
        ) from error
    except Exception as error:
        raise _unreadable(formula, f"{type(error).__name__}: {error}") from error


def _unreadable(formula: str, problem: str) -> SettingError:
    return SettingError(
        given=f"the formula {formula!r}: {problem}",
        needed="the right-hand side of a formula, as '~ income + C(region)'",
        remedy="correct it; see the grammar of formulaic",
    )
