"""What is evaluated: vectors as they are, transformers that have learnt, and transformers that learn in each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentvars.embedding.adapter import Embedding
from latentvars.embedding.channels import is_fit
from latentvars.embedding.reading import is_table
from latentvars.embedding.vectors import Vectors, as_vectors
from latentvars.errors import DataError, KindError, SettingError, ShapeError
from latentvars.randomness import derive
from latentvars.rows import Rows

GIVEN, BEFORE, WITHIN = "given", "fitted before", "fitted in each split"
BASELINES = ("raw", "pca", "random projection", "standardised")


@dataclass(frozen=True, eq=False)
class Data:
    """Rows as they were given, and as a table of numbers ``[N, D]`` where they are one."""

    rows: Any = field(repr=False)
    table: np.ndarray | None = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def all(self, reader: Any) -> Any:
        """All rows, as a transformer reads them: of Rows that are a table, only embeddings read more than the table."""
        plain = isinstance(self.rows, Rows) and self.table is not None and not isinstance(reader, Embedding)
        return self.table if plain else self.rows

    def take(self, reader: Any, at: np.ndarray) -> Any:
        """Some of the rows, likewise."""
        rows = self.all(reader)
        if isinstance(rows, Rows):
            return rows.subset(at)
        return rows.iloc[at] if hasattr(rows, "iloc") else rows[at]


def read(given: Any) -> Data:
    """Data of any kind that a fit reads.

    Raises:
        KindError: no rows.
    """
    if isinstance(given, Vectors):
        return Data(given.values, given.values)
    if is_table(given):
        rows = given if hasattr(given, "shape") else np.asarray(given)
        table = np.asarray(rows)
        if not table.ndim:
            raise KindError(
                given=f"data of type {type(given).__name__}",
                needed="rows: an array, a frame, lv.Rows",
                remedy="pass the rows themselves, such as dataset.frame",
            )
        return Data(rows, table.astype(float) if table.dtype.kind in "fiub" and table.ndim == 2 else None)
    rows = Rows.of(given)
    columns = list(rows.columns.values())
    flat = rows.lengths is None and not rows.streamed and len(columns) == 1 and columns[0].ndim == 2
    return Data(rows, np.asarray(columns[0], dtype=float) if flat else None)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to vectors.

    Attributes:
        how: "given", "fitted before" or "fitted in each split".
        fixed: vectors of all rows ``[N, W]``; None where they are learnt in each split.
        learner: an unfitted transformer; None where vectors are fixed.
    """

    how: str
    fixed: np.ndarray | None = field(repr=False, default=None)
    learner: Any = field(repr=False, default=None)

    def vectors(
        self, data: Data, labels: Any, train: np.ndarray, test: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the training and of the test rows."""
        if self.fixed is not None:
            return self.fixed[train], self.fixed[test]
        from sklearn.base import clone

        own: Any = clone(self.learner)
        rows = data.take(own, train)
        _seed(own, seed)
        own.fit(rows, None if labels is None else labels[train])
        return _numbers(own.transform(rows)), _numbers(own.transform(data.take(own, test)))


def candidate(given: Any, data: Data) -> Candidate:
    """Read one: vectors, a transformer, a fit, or a recipe of a fit.

    Raises:
        KindError: neither, or a transformer without ``transform``.
        ShapeError: another number of vectors than of rows.
    """
    if isinstance(given, type):
        raise KindError(f"the class {given.__name__}", "an object", f"write {given.__name__}().")
    if hasattr(given, "fit") and hasattr(given, "fit_transform") and not hasattr(given, "transform"):
        raise KindError(
            given=f"{type(given).__name__}, which cannot transform new rows",
            needed="a transformer, or vectors",
            remedy="pass the vectors that its fit_transform makes; they have then seen the test rows",
        )
    if not hasattr(given, "transform") and (is_fit(given) or callable(given)):
        given = Embedding(given)
    if hasattr(given, "transform"):
        if not _is_fitted(given):
            return Candidate(WITHIN, learner=given)
        return Candidate(BEFORE, fixed=_checked(_numbers(given.transform(data.all(given))), data))
    return Candidate(GIVEN, fixed=_checked(as_vectors(given).values, data))


def baselines(names: Sequence[str], data: Data, width: int) -> dict[str, Candidate]:
    """What any embedding should be compared with, learnt in each split; gaps are filled by the means of columns.

    Raises:
        SettingError: an unknown name, or data that are no table of numbers.
    """
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.random_projection import GaussianRandomProjection

    unknown = [name for name in names if name not in BASELINES]
    if unknown or (names and data.table is None):
        raise SettingError(
            given=f"the baseline {unknown[0]!r}" if unknown else f"baselines={tuple(names)} of data that are no table",
            needed=f"some of {BASELINES}, and data [N, D]",
            remedy="change baselines=, or write baselines=() and pass transformers as candidates",
        )
    steps: Mapping[str, Any] = {
        "raw": "passthrough",
        "pca": PCA(width),
        "random projection": GaussianRandomProjection(width),  # type: ignore[arg-type]
        "standardised": StandardScaler(),
    }
    return {name: Candidate(WITHIN, learner=make_pipeline(SimpleImputer(), steps[name])) for name in names}


def _is_fitted(transformer: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(transformer)
    except (NotFittedError, TypeError):
        return False
    return True


def _seed(estimator: Any, seed: int) -> None:
    """Every ``random_state`` that is not set, inside pipelines too."""
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    states = sorted(name for name in parameters if name.split("__")[-1] == "random_state")
    estimator_seeds = {
        name: derive(seed, place) % 2**32 for place, name in enumerate(states) if parameters[name] is None
    }
    if estimator_seeds:
        estimator.set_params(**estimator_seeds)


def _numbers(vectors: Any) -> np.ndarray:
    found = np.asarray(vectors.toarray() if hasattr(vectors, "toarray") else vectors)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise DataError(f"vectors of shape {list(found.shape)}, or not finite", "[N, W], finite", "look at transform.")
    return found


def _checked(vectors: np.ndarray, data: Data) -> np.ndarray:
    if len(vectors) != len(data):
        given = f"{len(vectors)} vectors beside {len(data)} rows"
        raise ShapeError(given, "one vector for each row", "pass the vectors of all rows, in their order.")
    return vectors
