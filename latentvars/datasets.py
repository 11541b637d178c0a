"""Three small real data sets with published results, for examples and tests; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data with its names and where it comes from.

    Attributes:
        x: ``[N]`` or ``[N, D]``.
        names: names of the N rows or steps.
        features: names of the D features; one name where ``x`` has one axis.
        source: publication and origin.
        target: ``[N]`` int64 class of each row, which no model here is fitted to; None where there is none.
        classes: names of the classes.
    """

    x: np.ndarray
    names: tuple[int, ...]
    features: tuple[str, ...]
    source: str
    target: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def frame(self) -> DataFrame:
        """The data as a frame ``[N, D]`` that carries its names, as :class:`latentvars.Rows` reads them."""
        from pandas import DataFrame, Index

        columns = Index(list(self.features))
        return DataFrame(self.x.reshape(len(self), -1), index=Index(list(self.names)), columns=columns)


def iris() -> Dataset:
    """Fisher's irises: x ``[150, 4]`` in cm, three species of 50."""
    from sklearn import datasets

    bunch: Any = datasets.load_iris()
    features = tuple(name.removesuffix(" (cm)") + " / cm" for name in bunch.feature_names)
    source = (
        "R. A. Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7, 179-188; "
        "measured by E. Anderson; scikit-learn's copy"
    )
    classes = tuple(str(name) for name in bunch.target_names)
    return Dataset(bunch.data, tuple(range(150)), features, source, bunch.target.astype(np.int64), classes)


def digits() -> Dataset:
    """Handwritten digits: x ``[1797, 64]``, grey levels 0 … 16 of 8 × 8 images row by row; target 0 … 9."""
    from sklearn import datasets

    bunch: Any = datasets.load_digits()
    source = (
        "E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository; "
        "its test part, scikit-learn's copy"
    )
    features = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    target = bunch.target.astype(np.int64)
    return Dataset(bunch.data, tuple(range(len(target))), features, source, target, tuple(str(k) for k in range(10)))


def earthquakes() -> Dataset:
    """Earthquakes of magnitude 7 and above in the world, each year from 1900 to 2006: x ``[107]`` counts."""
    source = (
        "US Geological Survey; W. Zucchini and I. L. MacDonald (2009), Hidden Markov Models for Time Series, table 1.1"
    )
    years = tuple(range(1900, 1900 + len(EARTHQUAKES)))
    return Dataset(np.array(EARTHQUAKES, dtype=np.int64), years, ("earthquakes",), source)


# fmt: off
EARTHQUAKES = (
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19, 20, 22,
    19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22, 17, 19, 15, 34,
    10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18, 14, 10, 15, 8, 15, 6,
    11, 8, 7, 18, 16, 13, 12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
)
# fmt: on
