"""Printed summaries: digits by what is known of a number, and three ways to write them down."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

import latentvars as lv
from latentvars.errors import KindError, NameUnknownError, SettingError

POINT = pandas.DataFrame(
    {
        "estimate": [12.34567, 0.0123456, 1234.567, 1.0],
        "sd": [0.0567, 0.00099, 56.7, np.nan],
        "ci89_lb": [12.2, 0.0107, 1140.0, np.nan],
        "ci89_ub": [12.5, 0.0139, 1330.0, np.nan],
    },
    index=pandas.Index(["loc[0, a_b]", "rate", "size[0]", "fixed"]),
)
DRAWS = pandas.DataFrame(
    {
        "mean": [2.86981, -0.4],
        "sd": [0.0546, 0.5],
        "eti89_lb": [2.78, -1.2],
        "eti89_ub": [2.96, 0.4],
        "ess_bulk": [812.6, 90.0],
        "ess_tail": [700.2, 55.0],
        "r_hat": [1.0031, 1.21],
        "mcse_mean": [0.0019, 0.2],
        "mcse_sd": [0.001, 0.1],
    },
    index=pandas.Index(["loc[1]", "b"]),
)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_a_number_has_the_digits_of_its_error() -> None:
    heads, _, *lines = cells(lv.table(POINT, format="markdown"))
    assert heads == ["", "estimate", "s.e.", "89 % interval"]
    assert lines == [
        ["loc[0, a_b]", "12.346", "0.057", "[12.200, 12.500]"],
        ["rate", "0.01235", "0.00099", "[0.01070, 0.01390]"],
        ["size[0]", "1235", "57", "[1140, 1330]"],
        ["fixed", "1", "–", "–"],
    ]
    assert cells(lv.table(POINT, digits=1, format="markdown"))[2][1:3] == ["12.35", "0.06"]


def test_draws_are_not_printed_beyond_their_monte_carlo_error() -> None:
    heads, _, *lines = cells(lv.table(DRAWS, digits=3, format="markdown"))
    assert heads == ["", "mean", "sd", "89 % interval", "R-hat", "ESS bulk", "ESS tail"]
    assert lines[0] == ["loc[1]", "2.870", "0.055", "[2.780, 2.960]", "1.003", "813", "700"]
    assert lines[1] == ["b", "-0.4", "0.5", "[-1.2, 0.4]", "1.210", "90", "55"]


def test_text_stands_in_columns() -> None:
    lines = lv.table(DRAWS).splitlines()
    assert len({len(line) for line in lines}) == 1 and set(lines[1]) == {"─"}
    assert lines[2].startswith("loc[1]") and lines[2].endswith("700")


def test_latex_is_escaped() -> None:
    lines = lv.table(POINT, of="loc", format="latex").splitlines()
    assert lines == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & estimate & s.e. & 89 \% interval \\",
        r"\midrule",
        r"loc[0, a\_b] & $12.346$ & $0.057$ & $[12.200, 12.500]$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert r"$\hat{R}$" in lv.table(DRAWS, format="latex") and " -- " in lv.table(POINT, format="latex")


def test_tables_of_fits_and_contrasts_are_their_summaries() -> None:
    iris = lv.datasets.iris()
    fit = lv.fit(lv.models.GaussianMixture(2), iris.frame, lv.EM(), progress=False)
    assert lv.table(fit) == lv.table(fit.summary())
    some = lv.table(fit, of=["weights", "loc[0, petal width / cm]"]).splitlines()
    assert [line.split("  ")[0] for line in some[2:]] == ["weights[0]", "weights[1]", "loc[0, petal width / cm]"]
    found = lv.contrast(fit, lambda sites: sites["loc"][0] - sites["loc"][1])
    assert len(lv.table(found).splitlines()) == 2 + 4


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(SettingError, match="digits"):
        lv.table(POINT, digits=0)
    with pytest.raises(SettingError, match="html"):
        lv.table(POINT, format="html")  # type: ignore[arg-type]
    with pytest.raises(NameUnknownError, match="depth"):
        lv.table(POINT, of="depth")
    with pytest.raises(KindError, match="list"):
        lv.table([1.0])  # type: ignore[arg-type]
