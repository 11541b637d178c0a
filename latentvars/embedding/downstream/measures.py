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
WITH_LABELS = ("probe", "knn", "recall@10", "mrr@10", "ndcg@10", "ari", "v-measure", "trustworthiness")
WITHOUT = ("trustworthiness",)


@dataclass(frozen=True, eq=False)
class Split:
    """Vectors of one division of the rows into training and test.

    Attributes:
        train, test: ``[A, W]``, ``[B, W]``.
        train_labels, test_labels: classes ``[A]``, ``[B]``; None without labels.
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
LISTS: Mapping[str, Callable[[RetrievalScores], float]] = {
    "recall": lambda found: found.recall,
    "precision": lambda found: found.precision,
    "hits": lambda found: found.hits,
    "mrr": lambda found: found.reciprocal_rank,
    "ndcg": lambda found: found.ndcg,
    "map": lambda found: found.average_precision,
}


def measures(given: Mapping[str, Measure] | Sequence[str] | None, labelled: bool) -> dict[str, Measure]:
    """Measures by name.

    Raises:
        SettingError: an unknown name, or one that needs labels where there are none.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str):
        given = (given,)
    names = given if given is not None else WITH_LABELS if labelled else WITHOUT
    found = {name: _measure(name) for name in names}
    if not found:
        raise SettingError("no metrics", "one or more", f"choose among {sorted({*PLAIN, *LISTS})}")
    needing = [name for name in found if name != "trustworthiness"]
    if not labelled and needing:
        raise SettingError(
            f"metrics={needing} without labels", "labels", "pass labels=, or metrics=('trustworthiness',)"
        )
    return found


def _measure(name: str) -> Measure:
    if name in PLAIN:
        return PLAIN[name]
    kind, _, length = name.partition("@")
    if kind not in LISTS or (length and not length.isdecimal()) or length == "0":
        choice = [*PLAIN, *(f"{one}@k" for one in LISTS)]
        raise SettingError(f"the metric {name!r}", f"one of {choice}, or a mapping of functions", "change metrics=.")
    k, read = int(length or LENGTH), LISTS[kind]
    return lambda split: read(split.lists(k))
