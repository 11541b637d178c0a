"""evaluate_embedding against scikit-learn's own numbers on the same divisions; nothing learns from test rows."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import adjusted_rand_score, ndcg_score, v_measure_score
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from user_models import FlatMixture

import latentvars as lv
from latentvars.embedding.downstream import Split
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError

DIGITS, LABELS = (part[:400] for part in load_digits(return_X_y=True))
IRIS = lv.datasets.iris()
SPECIES = np.repeat([0, 1, 2], 50)
METRICS = ("probe", "knn", "recall@10", "precision@5", "hits@1", "mrr@20", "ndcg@10", "map@3", "ari", "v-measure")


class Counts(TransformerMixin, BaseEstimator):
    """Column means of what it was fitted to, and a word with the test that watches it."""

    seen: list[np.ndarray] = []  # noqa: RUF012

    def fit(self, X: Any, y: Any = None) -> Counts:
        self.mean_ = np.asarray(X).mean(0)
        Counts.seen.append(np.asarray(X))
        return self

    def transform(self, X: Any) -> np.ndarray:
        return np.asarray(X) - self.mean_


def splits(seeds: int, seed: int = 0, test: float = 0.3, labels: Any = LABELS) -> list[Any]:
    state = lv.randomness.derive(seed, 86) % 2**32
    return list(StratifiedShuffleSplit(seeds, test_size=test, random_state=state).split(labels[:, None], labels))


def test_every_measure_is_the_one_of_scikit_learn() -> None:
    vectors = PCA(6, random_state=0).fit_transform(DIGITS)
    found = lv.evaluate_embedding(
        {"pca": vectors}, DIGITS, LABELS, metrics=(*METRICS, "trustworthiness"), baselines=(), seeds=2
    )
    for number, (train, test) in enumerate(splits(2)):
        a, b, y, z = vectors[train], vectors[test], LABELS[train], LABELS[test]
        distances = np.linalg.norm(b[:, None] - a, axis=-1)
        order = np.argsort(distances, 1)
        same = y[order] == z[:, None]
        first = same.argmax(1) + 1
        among = np.cumsum(same, 1) / np.arange(1, same.shape[1] + 1)
        state = lv.randomness.derive(0, 85, number) % 2**32
        clusters = KMeans(10, n_init=10, random_state=state).fit(a).predict(b)
        expected = {
            "probe": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(a, y).score(b, z),
            "knn": KNeighborsClassifier(5).fit(a, y).score(b, z),
            "recall@10": np.mean([line[:10].sum() / line.sum() for line in same]),
            "precision@5": same[:, :5].mean(),
            "hits@1": KNeighborsClassifier(1).fit(a, y).score(b, z),
            "mrr@20": np.where(first <= 20, 1 / first, 0).mean(),
            "ndcg@10": ndcg_score(y == z[:, None], -distances, k=10),
            "map@3": np.mean((among * same)[:, :3].sum(1) / 3),
            "ari": adjusted_rand_score(z, clusters),
            "v-measure": v_measure_score(z, clusters),
            "trustworthiness": trustworthiness(DIGITS[test], b, n_neighbors=5),
        }
        for name, value in expected.items():
            assert found.scores[0, found.metrics.index(name), number] == pytest.approx(value, rel=1e-9), name


def test_what_is_not_fitted_learns_from_training_rows_alone_and_what_is_learns_nothing() -> None:
    Counts.seen.clear()
    ready = Counts().fit(DIGITS)
    before = ready.mean_.copy()
    found = lv.evaluate_embedding(
        {"fresh": Counts(), "ready": ready, "fixed": DIGITS}, DIGITS, LABELS, metrics=["knn"], baselines=(), seeds=3
    )
    assert found.fitted == ("fitted in each split", "fitted before", "given")
    assert len(Counts.seen) == 4
    for rows, (train, _) in zip(Counts.seen[1:], splits(3), strict=True):
        np.testing.assert_array_equal(rows, DIGITS[train])
    np.testing.assert_array_equal(ready.mean_, before)
    # a shift changes no distance
    np.testing.assert_allclose(found.scores[0], found.scores[2])
    np.testing.assert_allclose(found.scores[1], found.scores[2])


def test_leakage_shows_where_it_is_allowed() -> None:
    """Labels that are noise: a supervised transformer that has seen the test rows seems to know them."""
    chance = np.random.default_rng(0)
    x, y = chance.normal(size=(120, 60)), chance.integers(2, size=120)
    supervised = LinearDiscriminantAnalysis()
    honest, leaking = lv.evaluate_embedding(
        {"honest": supervised, "leaking": LinearDiscriminantAnalysis().fit(x, y)}, x, y, metrics=["knn"], baselines=()
    ).mean[:, 0]
    assert honest < 0.65 and leaking > 0.8


def test_fits_recipes_and_embeddings_are_candidates() -> None:
    x = IRIS.frame
    recipe = lv.Fitter(lv.models.GaussianMixture(3), lv.EM(passes=20))
    fit = recipe(x)
    candidates = {"fit": fit, "embedding": lv.Embedding(fit), "recipe": recipe, "unfitted": lv.Embedding(recipe)}
    found = lv.evaluate_embedding(candidates, x, SPECIES, metrics=["knn", "probe"], seeds=2, seed=3)
    assert found.fitted[:4] == ("fitted before",) * 2 + ("fitted in each split",) * 2
    np.testing.assert_array_equal(found.scores[0], found.scores[1])
    np.testing.assert_array_equal(found.scores[2], found.scores[3])
    assert found.widths == (3, 3, 3, 3, 4, 3, 3) and found.own == 4
    rows = lv.Rows(x)
    again = lv.evaluate_embedding(candidates, rows, SPECIES, metrics=["knn", "probe"], seeds=2, seed=3)
    np.testing.assert_array_equal(again.scores, found.scores)
    other = lv.evaluate_embedding({"fit": fit}, x, SPECIES, metrics=["knn", "probe"], seeds=2, seed=4, baselines=())
    assert not np.array_equal(other.scores[0], found.scores[0])


def test_a_model_of_ones_own_is_evaluated_and_its_labels_are_carried_into_a_regression() -> None:
    """Labels of a plain Pyro mixture, as those of the built-in one with the same density and start."""
    own, built_in = FlatMixture(2, 4), lv.models.GaussianMixture(2, covariance="diag")
    fit = lv.fit(built_in, IRIS.x, lv.EM(passes=40), progress=False)
    own_fit = lv.fit(own, IRIS.x, lv.EM(passes=2), start=fit.point, progress=False)
    found = lv.evaluate_embedding({"own": own_fit, "built in": fit}, IRIS.x, SPECIES > 0, seeds=2, baselines=())
    assert found.mean[0, 0] == found.mean[1, 0] > 0.9

    def means(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = z.sum(0)
        return y @ z / size, np.diag(y.var() / size)

    slopes = [np.sort(lv.propagate(one.latent(), means, IRIS.x[:, 2]).params) for one in (own_fit, fit)]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=0.02)


def test_baselines_learn_in_each_split_and_gaps_are_filled() -> None:
    x = DIGITS.copy()
    x[np.random.default_rng(1).random(x.shape) < 0.05] = np.nan
    names = ("raw", "standardised", "pca", "random projection")
    found = lv.evaluate_embedding({"few": DIGITS[:, :8]}, x, LABELS, metrics=["knn"], baselines=names, seeds=2)
    assert found.candidates == ("few", *names) and found.widths == (8, 64, 64, 8, 8)
    assert found.mean[1, 0] > 0.9 > found.mean[4, 0]
    plain = lv.evaluate_embedding({"few": DIGITS[:, :8]}, DIGITS, LABELS, metrics=["knn"], baselines=["raw"], seeds=2)
    for number, (train, test) in enumerate(splits(2)):
        oracle = KNeighborsClassifier(5).fit(DIGITS[train], LABELS[train]).score(DIGITS[test], LABELS[test])
        assert plain.scores[1, 0, number] == pytest.approx(oracle)


def test_groups_stay_together() -> None:
    """Copies of a row on both sides make noise look known."""
    chance = np.random.default_rng(2)
    x, y = np.repeat(chance.normal(size=(60, 3)), 4, 0), np.repeat(chance.integers(2, size=60), 4)
    loose, tied = (
        lv.evaluate_embedding({"x": x}, x, y, metrics=["hits@1"], baselines=(), groups=groups).mean[0, 0]
        for groups in (None, np.repeat(np.arange(60), 4))
    )
    assert loose > 0.95 and tied < 0.65


def test_tables_and_differences() -> None:
    found = lv.evaluate_embedding({"half": DIGITS[:, ::2]}, DIGITS, LABELS, metrics=["knn", "ari"], seeds=4)
    table = found.table()
    assert table["knn", "mean"]["half"] == pytest.approx(found.scores[0, 0].mean())
    assert table["knn", "sd"]["half"] == pytest.approx(found.scores[0, 0].std(ddof=1))
    assert table["", "fitted"].tolist() == ["given", *["fitted in each split"] * 3]
    away = found.scores[1, 0] - found.scores[0, 0]
    against = found.against("half")
    assert against["knn", "difference"]["raw"] == pytest.approx(away.mean())
    assert against["knn", "error"]["raw"] == pytest.approx(np.sqrt((1 / 4 + 120 / 280) * away.var(ddof=1)))
    assert list(against.index) == ["raw", "pca", "random projection"]
    text = str(found)
    assert f"{found.mean[0, 0]:.3f} ± {found.sd[0, 0]:.3f}" in text and "280 training and 120 test rows" in text
    with pytest.raises(NameUnknownError, match="nobody"):
        found.against("nobody")


def test_measures_of_ones_own_and_no_labels() -> None:
    def spread(split: Split) -> float:
        assert split.train_labels is None
        return float(split.test.std())

    found = lv.evaluate_embedding({"x": IRIS.x}, IRIS.x, metrics={"spread": spread}, baselines=())
    assert found.metrics == ("spread",) and found.scores.shape == (1, 1, 5)
    plain = lv.evaluate_embedding({"x": IRIS.x}, IRIS.x)
    assert plain.metrics == ("trustworthiness",)
    assert plain.mean[0, 0] == plain.mean[1, 0] == pytest.approx(1, abs=1e-3)  # irises of equal size tie


def test_sequences_have_no_table_but_fits() -> None:
    chance = np.random.default_rng(3)
    y = np.repeat([0, 1], 20)
    rows = lv.Rows([chance.poisson(2 + 20 * k, size=(15, 1)) for k in y])
    recipe = lv.Fitter(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), lv.EM(passes=15))
    found = lv.evaluate_embedding({"chain": recipe}, rows, y, metrics=["knn"], baselines=(), seeds=2)
    assert found.mean[0, 0] == 1
    with pytest.raises(SettingError, match="no table"):
        lv.evaluate_embedding({"chain": recipe}, rows, y, metrics=["knn"])
    with pytest.raises(SettingError, match="trustworthiness"):
        lv.evaluate_embedding({"chain": recipe}, rows, y, metrics=["trustworthiness"], baselines=())


def test_rows_that_cannot_be_divided_or_measured_are_told() -> None:
    rare = np.concatenate([[7], SPECIES[1:]])
    with pytest.raises(DataError, match="cannot be divided"):
        lv.evaluate_embedding({"own": IRIS.x}, IRIS.x, rare)
    with pytest.raises(DataError, match="missing"):
        lv.evaluate_embedding({"own": IRIS.x}, IRIS.x, np.where(rare == 7, np.nan, rare))
    with pytest.raises(ShapeError, match="groups"):
        lv.evaluate_embedding({"own": IRIS.x}, IRIS.x, SPECIES, groups=[1, 2])
    with pytest.raises(DataError, match="two groups"):
        lv.evaluate_embedding({"own": IRIS.x}, IRIS.x, SPECIES, groups=np.ones(150))
    with pytest.raises(KindError, match="mapping"):
        lv.evaluate_embedding([IRIS.x], IRIS.x, SPECIES)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="test rows"):
        lv.evaluate_embedding({"own": IRIS.x[:20]}, IRIS.x[:20], metrics=["trustworthiness"], seeds=1)
    with pytest.raises(KindError, match="Dataset"):
        lv.evaluate_embedding({"own": IRIS.x}, IRIS)  # type: ignore[arg-type]
    found = lv.evaluate_embedding({"own": IRIS.x}, IRIS.x, SPECIES, metrics="knn", baselines="raw", seeds=1)
    assert found.metrics == ("knn",) and found.candidates == ("own", "raw")


def test_what_cannot_be_evaluated_is_said() -> None:
    def evaluated(candidate: Any = DIGITS, labels: Any = LABELS, **settings: Any) -> Any:
        return lv.evaluate_embedding({"mine": candidate}, DIGITS, labels, **settings)

    with pytest.raises(ShapeError, match="399 vectors") as caught:
        evaluated(DIGITS[1:])
    assert "in the candidate 'mine'" in caught.value.__notes__
    with pytest.raises(KindError, match="cannot transform new rows"):
        evaluated(TSNE())
    with pytest.raises(KindError, match="class"):
        evaluated(PCA)
    with pytest.raises(ShapeError, match="labels"):
        evaluated(labels=LABELS[1:])
    with pytest.raises(SettingError, match="of classes, with labels that are numbers"):
        evaluated(labels=DIGITS[:, 20] + 0.5, metrics=("probe", "ridge"))
    with pytest.raises(SettingError, match="of classes, with labels that are numbers"):
        evaluated(labels=DIGITS[:, 20] + 0.5, metrics=("ari",))
    with pytest.raises(SettingError, match="numbers to be predicted"):
        evaluated(labels=LABELS.astype(str), metrics=("ridge",))
    with pytest.raises(DataError, match="missing or infinite"):
        evaluated(labels=np.where(LABELS == 0, np.inf, LABELS))
    with pytest.raises(SettingError, match="f1"):
        evaluated(metrics=["f1"])
    with pytest.raises(SettingError, match="recall@x"):
        evaluated(metrics=["recall@x"])
    with pytest.raises(SettingError, match="without labels"):
        evaluated(labels=None, metrics=["knn"])
    with pytest.raises(SettingError, match="umap"):
        evaluated(baselines=["umap"])
    with pytest.raises(SettingError, match="raw"):
        lv.evaluate_embedding({"raw": DIGITS}, DIGITS, LABELS)
    with pytest.raises(SettingError, match="seeds"):
        evaluated(seeds=0)
    with pytest.raises(SettingError, match="lists of 500"):
        evaluated(metrics=["ndcg@500"])
    with pytest.raises(DataError, match="not finite"):
        evaluated(Infinite())


class Infinite(TransformerMixin, BaseEstimator):
    def fit(self, X: Any, y: Any = None) -> Infinite:
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> np.ndarray:
        return np.full((len(X), 2), np.inf)


# ---- pictures


def test_the_picture_shows_the_table() -> None:
    found = lv.evaluate_embedding({"half": DIGITS[:, ::2]}, DIGITS, LABELS, metrics=["knn", "ari"], seeds=2)
    figure = lv.plots.evaluation(found)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["knn", "ari"]
    legend = axis.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["half (given)", "raw", "pca", "random projection"]
    for place, container in enumerate(axis.containers):
        dots, _, (bars,) = container  # type: ignore[misc]
        np.testing.assert_allclose(dots.get_xdata(), found.mean[place])
        ends = np.array([segment[:, 0] for segment in bars.get_segments()])
        np.testing.assert_allclose(np.diff(ends)[:, 0] / 2, found.sd[place], atol=1e-12)
        assert np.round(dots.get_ydata()).tolist() == [0, 1]
    with pytest.raises(NameUnknownError, match="probe"):
        lv.plots.evaluation(found, ["probe"])


def test_ellipses_are_one_standard_deviation_of_what_is_drawn() -> None:
    chance = np.random.default_rng(4)
    points = chance.normal(size=(30, 5)) * [4.0, 3.0, 1.0, 1.0, 1.0]
    roots = chance.normal(size=(30, 5, 5))
    covariance = roots @ roots.mT
    axis = lv.plots.scatter(points, covariance=covariance).axes[0]
    (collection,) = (c for c in axis.collections if hasattr(c, "get_widths"))
    drawn = np.stack([collection.get_widths(), collection.get_heights()], 1) / 2
    pca = PCA(2).fit(points)
    for n in range(30):
        plane = pca.components_ @ covariance[n] @ pca.components_.T
        np.testing.assert_allclose(drawn[n] ** 2, np.linalg.eigvalsh(plane)[::-1], rtol=1e-8)
        angle = np.radians(collection.get_angles()[n])
        along = np.array([np.cos(angle), np.sin(angle)])
        offset = np.asarray(collection.get_offsets())[n]
        signs = np.sign(offset / pca.transform(points[n : n + 1])[0])
        assert along @ (plane * np.outer(signs, signs)) @ along == pytest.approx(drawn[n, 0] ** 2)
    reach = np.abs(np.asarray(collection.get_offsets())).max()
    assert max(map(abs, axis.get_xlim())) > reach


def test_standard_deviations_of_vectors_in_two_coordinates() -> None:
    std = np.array([[1.0, 2.0], [0.5, 0.25]])
    vectors = lv.Vectors([[0.0, 0.0], [5.0, 5.0]], names=["width", "height"], std=std)
    axis = lv.plots.scatter(vectors, std=True).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("width", "height")
    (collection,) = (c for c in axis.collections if hasattr(c, "get_widths"))
    np.testing.assert_allclose(collection.get_widths(), [4, 1])
    np.testing.assert_allclose(np.abs(collection.get_angles()) % 180, [90, 0], atol=1e-9)
    assert axis.get_ylim()[0] <= -2
    assert not [c for c in lv.plots.scatter(vectors).axes[0].collections if hasattr(c, "get_widths")]
    with pytest.raises(KindError, match="without standard deviations"):
        lv.plots.scatter(std, std=True)
    with pytest.raises(ShapeError, match="std of shape"):
        lv.plots.scatter(vectors, std=std[:1])
    with pytest.raises(SettingError, match="beside covariance"):
        lv.plots.scatter(vectors, std=std, covariance=np.zeros((2, 2, 2)))
    with pytest.raises(SettingError, match="linear projection"):
        lv.plots.scatter(DIGITS[:30], std=DIGITS[:30], projection="tsne")
    with pytest.raises(SettingError, match="projection"):
        lv.plots.scatter(DIGITS, projection="umap")


def test_t_sne_keeps_neighbours_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(seed: int) -> np.ndarray:
        axis = lv.plots.scatter(DIGITS[:200], projection="tsne", seed=seed).axes[0]
        return np.asarray(axis.collections[0].get_offsets())

    first = points(0)
    assert trustworthiness(DIGITS[:200], first, n_neighbors=5) > 0.95
    np.testing.assert_array_equal(first, points(0))
    assert lv.plots.scatter(DIGITS[:5], projection="tsne").axes[0].get_xlabel().startswith("t-SNE")
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(SettingError, match=r"latentvars\[viz\]"):
        points(0)


@pytest.mark.parametrize("whole", [False, True])
def test_numbers_are_predicted_as_scikit_learn_does(whole: bool) -> None:
    """Of diabetes: whole numbers are classes, unless a measure of numbers is named."""
    x, y = load_diabetes(return_X_y=True)
    y = y if whole else y + 0.25
    vectors = PCA(4, random_state=0).fit_transform(x)
    metrics = ("ridge", "knn-r2", "trustworthiness") if whole else None
    found = lv.evaluate_embedding({"pca": vectors}, x, y, metrics=metrics, baselines=("raw",), seeds=2)
    assert found.metrics == ("ridge", "knn-r2", "trustworthiness")
    state = lv.randomness.derive(0, 86) % 2**32
    for number, (train, test) in enumerate(ShuffleSplit(2, test_size=0.3, random_state=state).split(x)):
        for place, z in enumerate((vectors, x)):
            scale = StandardScaler().fit(z[train])
            ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(scale.transform(z[train]), y[train])
            near = KNeighborsRegressor(5).fit(z[train], y[train])
            for measure, guess in enumerate((ridge.predict(scale.transform(z[test])), near.predict(z[test]))):
                left = np.square(y[test] - guess).sum() / np.square(y[test] - y[test].mean()).sum()
                assert found.scores[place, measure, number] == pytest.approx(1 - left)
    assert 0.3 < found.mean[1, 0] < 0.6 and found.scores.shape == (2, 3, 2)
    assert lv.plots.evaluation(found) is not None
