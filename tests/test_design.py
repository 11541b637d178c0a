"""Designs from formulas: against patsy, arrays by hand, and their own errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import patsy
import polars as pl
import pytest
import torch

import latentvars as lv
from latentvars.errors import DataError, KindError, MissingDataError, NameUnknownError, SettingError

FRAME = pd.DataFrame(
    {"income": [1.0, 2.5, 4.0, 3.0, 0.5], "region": ["n", "s", "w", "s", "n"], "age": [30, 41, 25, 60, 33]},
    index=[9, 3, 3, 1, 0],
)


@pytest.mark.parametrize(
    "formula", ["~ income + C(region)", "income * age", "~ C(region) - 1", "~ income:C(region)", "~ np.log(income)"]
)
def test_the_matrix_is_that_of_patsy(formula: str) -> None:
    ours = lv.Design(formula.replace("np.log", "log"), FRAME)
    theirs = np.asarray(patsy.dmatrix(formula, FRAME))
    assert ours.matrix.dtype == torch.float64 and len(ours.names) == ours.matrix.shape[1] and len(ours) == 5
    torch.testing.assert_close(
        torch.linalg.matrix_rank(torch.cat([ours.matrix, torch.tensor(theirs)], 1)),
        torch.linalg.matrix_rank(ours.matrix),
    )
    assert ours.matrix.shape == theirs.shape
    np.testing.assert_allclose(np.sort(ours.matrix.numpy(), 1), np.sort(theirs, 1), atol=1e-12)


def test_names_and_coding_by_hand() -> None:
    design = lv.Design("~ income + C(region)", FRAME)
    assert design.names == ("Intercept", "income", "C(region)[T.s]", "C(region)[T.w]")
    assert design.matrix[2].tolist() == [1.0, 4.0, 0.0, 1.0]
    assert list(design.frame.columns) == list(design.names)
    assert "5 rows" in repr(design)


def test_new_data_have_the_coding_of_the_old() -> None:
    design = lv.Design("~ center(income) + C(region)", FRAME)
    new = design.of({"income": [2.2, 2.2], "region": ["w", "w"]})
    assert new.names == design.names
    np.testing.assert_allclose(new.matrix, [[1, 0, 0, 1]] * 2, atol=1e-12)
    np.testing.assert_allclose(new.of(FRAME).matrix, design.matrix, atol=1e-12)


def test_polars_and_mappings_are_read_like_pandas() -> None:
    design = lv.Design("~ income + C(region)", FRAME)
    columns = {name: FRAME[name].tolist() for name in FRAME}
    for other in (pl.DataFrame(columns), columns):
        assert torch.equal(lv.Design("~ income + C(region)", other).matrix, design.matrix)


def test_the_names_reach_the_rows() -> None:
    design = lv.Design("~ income", FRAME)
    rows = lv.Rows({"x": FRAME["age"].to_numpy(), "inputs": design.frame})
    assert rows.features["inputs"] == ("Intercept", "income")
    assert torch.equal(rows["inputs"], design.matrix)


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(NameUnknownError, match="'incme'"):
        lv.Design("~ incme", FRAME)
    with pytest.raises(MissingDataError, match=r"'income' \(1, the first at row 1\)"):
        lv.Design("~ income", FRAME.assign(income=[1.0, np.nan, 2.0, 3.0, 4.0]))
    with pytest.raises(MissingDataError, match="'region'"):
        lv.Design("~ C(region)", FRAME.assign(region=["n", None, "s", "w", "n"]))
    with pytest.raises(SettingError, match="two sides"):
        lv.Design("age ~ income", FRAME)
    with pytest.raises(SettingError, match="formula"):
        lv.Design("~ income +* age", FRAME)
    with pytest.raises(KindError, match="frame of type"):
        lv.Design("~ income", FRAME.to_numpy())
    with np.errstate(divide="ignore"), pytest.raises(DataError, match=r"not finite.*'log"):
        lv.Design("~ log(income)", FRAME.assign(income=0.0))
    design = lv.Design("~ income + C(region)", FRAME)
    with pytest.raises(DataError, match="levels"):
        design.of({"income": [1.0], "region": ["x"]})
    with pytest.raises(NameUnknownError, match="'region'"):
        design.of({"income": [1.0]})
