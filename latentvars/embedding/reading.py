"""Reading what a transformer is given: arrays and frames by scikit-learn's rules, anything else by those of Rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from latentvars.rows import Parquet, Rows

FEWEST = 2  # rows (or steps) from which anything can be learnt


def table_to_rows(x: Any, estimator: BaseEstimator, *, learning: bool, fractions: bool = False) -> Rows:
    """Rows from an array, a nested list or a frame ``[N, D]``.

    Args:
        x: the data; missing entries are left to the model.
        estimator: whose ``n_features_in_`` and ``feature_names_in_`` they must have, unless it is ``learning``.
        learning: whether a model will be fitted to them.
        fractions: whether whole numbers become fractions, as a network takes them that has learnt from such.

    Raises:
        ValueError: as scikit-learn's validation.
        TypeError: sparse matrices.
    """
    if learning:
        array = check_array(
            x,
            ensure_all_finite="allow-nan",  # type: ignore[arg-type]
            ensure_min_samples=FEWEST,
            estimator=estimator,
            input_name="X",
        )
    else:
        array = validate_data(estimator, x, reset=False, ensure_all_finite="allow-nan")
    names = getattr(x, "columns", None)
    named = names is not None and all(isinstance(name, str) for name in names)
    if fractions and np.asarray(array).dtype.kind in "iub":
        array, x = np.asarray(array, dtype=np.float64), x.astype(float) if named and hasattr(x, "astype") else x
    return Rows(x if named else np.asarray(array))


def is_table(x: Any) -> bool:
    """Whether ``x`` is for scikit-learn to read: no Rows, tensor, mapping, file or list of sequences."""
    if isinstance(x, os.PathLike | Parquet):
        return False
    if isinstance(x, Rows | Mapping | torch.Tensor) and not issparse(x):  # some sparse matrices are mappings
        return False
    return not (isinstance(x, list | tuple) and any(hasattr(item, "shape") and len(item.shape) for item in x))
