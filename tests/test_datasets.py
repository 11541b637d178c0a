"""The data sets are those that were published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import latentvars as lv


def test_earthquakes_are_the_published_table(truth: Path) -> None:
    data = lv.datasets.earthquakes()
    published = pd.read_csv(next((truth / "earthquakes").glob("*.csv")))
    np.testing.assert_array_equal(data.x, published.iloc[:, -1])
    assert (data.names[0], data.names[-1], len(data)) == (1900, 2006, 107)


def test_iris_is_the_published_table(truth: Path) -> None:
    data = lv.datasets.iris()
    published = pd.read_csv(next((truth / "iris").glob("*.csv"))).select_dtypes("number")
    columns = published.columns[-4:]
    # two flowers of scikit-learn's copy differ from Fisher's in one entry each
    assert (data.x != published[columns].to_numpy()).sum() <= 3
    assert data.target is not None and np.bincount(data.target).tolist() == [50, 50, 50]


def test_digits_are_grey_levels_with_their_class() -> None:
    data = lv.datasets.digits()
    assert data.x.shape == (1797, 64) and data.x.min() == 0 and data.x.max() == 16
    assert data.target is not None and sorted(set(data.target)) == list(range(10))


def test_frames_carry_names_into_rows() -> None:
    iris, quakes = lv.datasets.iris(), lv.datasets.earthquakes()
    assert lv.Rows(iris.frame).features["x"] == iris.features
    assert tuple(lv.Rows(quakes.frame).names) == quakes.names
