"""What an embedding is worth on one division of the rows: probes, neighbours, retrieval, clusters, faithfulness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from latentvars.embedding.downstream.retrieval import RetrievalScores, scored
from latentvars.errors import SettingError

LENGTH = 10  # of lists, where a name does not say
NEAREST = 5
PENALTIES = np.logspace(-3, 3, 13)
WITH_LABELS = ("probe", "knn", "recall@10", "mrr@10", "ndcg@10", "ari", "v-measure", "trustworthiness")
WITH_NUMBERS = ("ridge", "knn-r2", "trustworthiness")
WITHOUT = ("trustworthiness",)


@dataclass(frozen=True, eq=False)
class Split:
    """Vectors of one division of the rows into training and test.

    Attributes:
        train, test: ``[A, W]``, ``[B, W]``.
        train_labels, test_labels: classes, or numbers to be predicted, ``[A]``, ``[B]``; None without labels.
        raw: the test rows of the data as numbers ``[B, D]``; None where data are no table.
        seed: for what is random in a measure.
    """

    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    train_labels: Any = field(repr=False)
    test_labels: Any = field(repr=False)
    raw: np.ndarray | None = field(repr=False)
    seed: int

    def lists(self, k: int) -> RetrievalScores:
        """Each test row looks for the training rows of its class, by Euclidean distance."""
        from sklearn.neighbors import NearestNeighbors

        if k > len(self.train):
            raise SettingError(f"lists of {k} among {len(self.train)} rows", "shorter lists", "lower k in the name.")
        near = NearestNeighbors(n_neighbors=k).fit(self.train).kneighbors(self.test, return_distance=False)
        found = self.train_labels[near] == self.test_labels[:, None]
        names, counts = np.unique(self.train_labels, return_counts=True)
        sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return scored(found, np.array([sizes.get(label, 0) for label in self.test_labels.tolist()]))

    @cached_property
    def clusters(self) -> np.ndarray:
        """Clusters of the test rows, by the k-means of the training rows with as many centres as classes."""
        from sklearn.cluster import KMeans

        classes = len(np.unique(self.train_labels))
        centres = KMeans(classes, n_init=10, random_state=self.seed)  # type: ignore[arg-type]
        return np.asarray(centres.fit(self.train).predict(self.test))


Measure = Callable[[Split], float]


def _probe(split: Split) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(split.train, split.train_labels).score(split.test, split.test_labels))


def _nearest(split: Split) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    near = KNeighborsClassifier(min(NEAREST, len(split.train)))
    return float(near.fit(split.train, split.train_labels).score(split.test, split.test_labels))


def _ridge(split: Split) -> float:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    return float(probe.fit(split.train, split.train_labels).score(split.test, split.test_labels))


def _nearest_numbers(split: Split) -> float:
    from sklearn.neighbors import KNeighborsRegressor

    near = KNeighborsRegressor(min(NEAREST, len(split.train)))
    return float(near.fit(split.train, split.train_labels).score(split.test, split.test_labels))


def _rand(split: Split) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(split.test_labels, split.clusters))


def _v_measure(split: Split) -> float:
    from sklearn.metrics import v_measure_score

    return float(v_measure_score(split.test_labels, split.clusters))


def _trustworthiness(split: Split) -> float:
    from sklearn.manifold import trustworthiness

    if split.raw is None:
        raise SettingError("trustworthiness without a table of numbers", "data [N, D]", "leave it out of metrics=.")
    if len(split.test) <= 2 * NEAREST:
        raise SettingError(
            given=f"trustworthiness of {NEAREST} neighbours among {len(split.test)} test rows",
            needed=f"more than {2 * NEAREST} test rows",
            remedy="raise test=, or leave it out of metrics=",
        )
    return float(trustworthiness(split.raw, split.test, n_neighbors=NEAREST))


PLAIN: Mapping[str, Measure] = {
    "probe": _probe,
    "knn": _nearest,
    "ari": _rand,
    "v-measure": _v_measure,
    "trustworthiness": _trustworthiness,
}
OF_NUMBERS: Mapping[str, Measure] = {"ridge": _ridge, "knn-r2": _nearest_numbers}
LISTS: Mapping[str, Callable[[RetrievalScores], float]] = {
    "recall": lambda found: found.recall,
    "precision": lambda found: found.precision,
    "hits": lambda found: found.hits,
    "mrr": lambda found: found.reciprocal_rank,
    "ndcg": lambda found: found.ndcg,
    "map": lambda found: found.average_precision,
}


def of_numbers(given: Mapping[str, Measure] | Sequence[str] | None) -> bool:
    """Whether labels are asked to be numbers, by a measure of such."""
    names = () if given is None or isinstance(given, Mapping) else (given,) if isinstance(given, str) else given
    return any(name in OF_NUMBERS for name in names)


def measures(
    given: Mapping[str, Measure] | Sequence[str] | None, labelled: bool, numbers: bool = False
) -> dict[str, Measure]:
    """Measures by name.

    Args:
        given: names, functions, or None for those that fit the labels.
        labelled: whether there are labels.
        numbers: whether these are numbers to be predicted, not classes.

    Raises:
        SettingError: an unknown name, or one that needs other labels than there are.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str):
        given = (given,)
    fitting = WITH_NUMBERS if numbers else WITH_LABELS if labelled else WITHOUT
    names = fitting if given is None else given
    found = {name: _measure(name) for name in names}
    if not found:
        raise SettingError("no metrics", "one or more", f"choose among {sorted({*PLAIN, *LISTS, *OF_NUMBERS})}")
    needing = [name for name in found if name != "trustworthiness"]
    if not labelled and needing:
        raise SettingError(
            f"metrics={needing} without labels", "labels", "pass labels=, or metrics=('trustworthiness',)"
        )
    classes = [name for name in needing if name not in OF_NUMBERS]
    if numbers and classes:
        raise SettingError(
            given=f"metrics={classes}, of classes, with labels that are numbers to be predicted",
            needed=f"some of {list(WITH_NUMBERS)}",
            remedy="leave metrics= out, or cut the numbers into classes",
        )
    return found


def _measure(name: str) -> Measure:
    if name in PLAIN or name in OF_NUMBERS:
        return {**PLAIN, **OF_NUMBERS}[name]
    kind, _, length = name.partition("@")
    if kind not in LISTS or (length and not length.isdecimal()) or length == "0":
        choice = [*PLAIN, *OF_NUMBERS, *(f"{one}@k" for one in LISTS)]
        raise SettingError(f"the metric {name!r}", f"one of {choice}, or a mapping of functions", "change metrics=.")
    k, read = int(length or LENGTH), LISTS[kind]
    return lambda split: read(split.lists(k))
