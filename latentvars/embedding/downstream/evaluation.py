"""evaluate_embedding: is an embedding better than what costs nothing?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from latentvars.embedding.downstream.candidates import Candidate, Data, baselines, candidate, read
from latentvars.embedding.downstream.evaluation_result import Evaluation
from latentvars.embedding.downstream.measures import Measure, Split, measures, of_numbers
from latentvars.errors import DataError, KindError, SettingError, ShapeError
from latentvars.randomness import derive


def evaluate_embedding(
    candidates: Mapping[str, Any],
    data: Any,
    labels: Any = None,
    *,
    metrics: Mapping[str, Measure] | Sequence[str] | None = None,
    baselines: Sequence[str] = ("raw", "pca", "random projection"),
    seeds: int = 5,
    test: float = 0.3,
    groups: Any = None,
    width: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure embeddings beside baselines, on several random divisions into training and test rows.

    ``lv.evaluate_embedding({"mixture": lv.Embedding(lv.Fitter(lv.models.GaussianMixture(10)))}, x, y)``.

    What a candidate is decides what is fitted, and the table says it of each:

    - vectors or an array ``[N, W]``: taken as they are ("given");
    - a fit, ``lv.Embedding(fit)`` or any transformer that has been fitted: it transforms the rows, and learns nothing
      ("fitted before"). Both may have seen the test rows, which flatters them;
    - a recipe (:class:`latentvars.Fitter`), ``lv.Embedding(recipe)`` or any scikit-learn transformer that has not been
      fitted: a clone learns from the training rows of each division ("fitted in each split"), with their labels if it
      uses any. Where its ``random_state`` is None it is another one in each division; a recipe has its own seed.

    Measures, of the test rows: "probe" (accuracy of a logistic regression on standardised vectors of the training
    rows), "knn" (accuracy of 5 nearest neighbours); of test rows that look for the training rows of their class:
    "recall@k" (at most k over the size of the class), "precision@k", "hits@k", "mrr@k", "ndcg@k", "map@k", as in
    :class:`RetrievalScores`; "ari" and "v-measure" of k-means with as many clusters as classes; "trustworthiness"
    (Venna & Kaski 2001, 5 neighbours) beside the data as they are. Of labels that are numbers to be predicted: "ridge"
    (R² of a ridge regression on standardised vectors, its penalty by leave-one-out) and "knn-r2" (R² of the mean of 5
    nearest neighbours). Distances are Euclidean, in the units of the
    vectors. Any other number comes from a function.

    Args:
        candidates: name → what makes vectors.
        data: N rows, as those that were fitted.
        labels: classes ``[N]``, or numbers to be predicted: numbers with fractions, or any where ``metrics`` names
            "ridge" or "knn-r2". Without labels only trustworthiness is measured.
        metrics: names, or name → function of a :class:`Split` to a number.
        baselines: some of "raw", "standardised", "pca", "random projection", fitted in each split.
        seeds: S, number of divisions.
        test: share of the rows for test, in each class alike where there are classes.
        groups: ``[N]``, such as patients: rows of one group are never on both sides (classes may then be uneven).
        width: of PCA and random projections; None: that of the first candidate, at most the columns of the data.
        seed: of everything random.

    Raises:
        KindError, ShapeError, DataError, SettingError: candidates, labels or settings that do not fit; errors of a
            candidate carry its name as a note.
    """
    if not isinstance(candidates, Mapping):
        raise KindError(
            given=f"candidates of type {type(candidates).__name__}",
            needed="a mapping from names to what makes vectors",
            remedy='write {"mixture": lv.Embedding(fit)}',
        )
    rows = read(data)
    if not candidates or seeds < 1 or not 0 < test < 1:
        given = f"{len(candidates)} candidates, seeds={seeds}, test={test}"
        raise SettingError(given, "candidates, seeds from 1, a share between 0 and 1", "change them.")
    classes, numbers = _labels(labels, rows, of_numbers(metrics))
    chosen = measures(metrics, classes is not None, numbers)
    splits = _divisions(rows, None if numbers else classes, groups, seeds, test, seed)
    found = {}
    for name, one in candidates.items():
        with _named(name):
            found[name] = candidate(one, rows)
    scores, widths = _scores(found, rows, classes, splits, chosen, seed)
    named = (baselines,) if isinstance(baselines, str) else baselines
    costless = _baselines(named, found, rows, width or widths[0], len(splits[0][0]))
    more, others = _scores(costless, rows, classes, splits, chosen, seed)
    everything = {**found, **costless}
    return Evaluation(
        candidates=tuple(everything),
        fitted=tuple(one.how for one in everything.values()),
        widths=(*widths, *others),
        metrics=tuple(chosen),
        scores=np.concatenate([scores, more]),
        sizes=(len(splits[0][0]), len(splits[0][1])),
        own=len(found),
    )


def _scores(
    found: Mapping[str, Candidate],
    rows: Data,
    classes: Any,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    chosen: Mapping[str, Measure],
    seed: int,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """``[C, M, S]``, and the widths of the vectors."""
    scores, widths = np.empty((len(found), len(chosen), len(splits))), [0] * len(found)
    for place, (name, one) in enumerate(found.items()):
        for number, (train, test) in enumerate(splits):
            with _named(name):
                made = _split(one, rows, classes, train, test, derive(seed, 85, number))
                scores[place, :, number] = [measure(made) for measure in chosen.values()]
            widths[place] = made.train.shape[1]
    return scores, tuple(widths)


def _split(one: Candidate, rows: Data, classes: Any, train: np.ndarray, test: np.ndarray, seed: int) -> Split:
    known = (None, None) if classes is None else (classes[train], classes[test])
    return Split(*one.vectors(rows, classes, train, test, seed), *known, _raw(rows, train, test), seed % 2**32)


def _raw(rows: Data, train: np.ndarray, test: np.ndarray) -> np.ndarray | None:
    """Test rows as numbers, gaps filled by means of the training rows."""
    from sklearn.impute import SimpleImputer

    return (
        None if rows.table is None else np.asarray(SimpleImputer().fit(rows.table[train]).transform(rows.table[test]))
    )


def _baselines(
    names: Sequence[str], found: Mapping[str, Candidate], rows: Data, width: int, train: int
) -> dict[str, Candidate]:
    twice = [name for name in names if name in found]
    if twice:
        raise SettingError(f"a candidate called {twice[0]!r} beside the baseline", "another name", "rename it.")
    columns = width if rows.table is None else min(width, rows.table.shape[1], train)
    return baselines(names, rows, columns)


def _labels(labels: Any, rows: Data, wanted: bool) -> tuple[np.ndarray | None, bool]:
    """Classes from 0, or numbers, and which of both; numbers where these are wanted."""
    from sklearn.utils.multiclass import type_of_target

    if labels is None:
        return None, False
    found = np.asarray(labels)
    if found.shape != (len(rows),):
        raise ShapeError(f"labels of shape {list(found.shape)}", f"[{len(rows)}]", "pass one label a row.")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise DataError("labels that are missing or infinite", "a label for each row", "leave these rows out.")
    if wanted and found.dtype.kind not in "iuf":
        raise SettingError(
            given=f"labels of type {found.dtype} beside a measure of numbers",
            needed="numbers to be predicted",
            remedy='measure classes by metrics=("probe", "knn", ...)',
        )
    if wanted or type_of_target(found) == "continuous":
        return found.astype(float), True
    if type_of_target(found) not in ("binary", "multiclass"):
        raise SettingError(
            given=f"labels that are {type_of_target(found)}",
            needed="two or more classes",
            remedy="pass classes, or numbers to be predicted",
        )
    return np.unique(found, return_inverse=True)[1], False


def _divisions(
    rows: Data, classes: Any, groups: Any, seeds: int, test: float, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

    kind = GroupShuffleSplit if groups is not None else ShuffleSplit if classes is None else StratifiedShuffleSplit
    splitter = kind(n_splits=seeds, test_size=test, random_state=derive(seed, 86) % 2**32)
    if groups is not None and np.shape(groups) != (len(rows),):
        raise ShapeError(f"groups of shape {list(np.shape(groups))}", f"[{len(rows)}]", "pass one group a row.")
    try:
        return list(splitter.split(np.empty((len(rows), 1)), classes, groups))
    except ValueError as error:  # of scikit-learn
        raise DataError(
            given=f"{len(rows)} rows that cannot be divided: {error}",
            needed="rows for both sides, two of each class, two groups",
            remedy="change test=, leave rare classes out, or pass coarser labels",
        ) from error


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors with the name of the candidate."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the candidate {name!r}")
        raise
