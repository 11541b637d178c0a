"""Embedding is a transformer by scikit-learn's own checks, and works where transformers are used."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from user_models import FlatMixture

import latentvars as lv
from latentvars.errors import SettingError

# scikit-learn's remarks where a test mixes arrays and frames on purpose
pytestmark = [
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
    pytest.mark.filterwarnings("ignore:X has feature names"),
]

PASSES = lv.EM(passes=10)
IRIS, SPECIES = load_iris(return_X_y=True)
COLUMNS = ["sepal length", "sepal width", "petal length", "petal width"]


def autoencoder(rows: lv.Rows) -> lv.Fit:
    """A recipe whose model takes its widths from the data."""
    model = lv.models.VAE.mlp(rows["x"].shape[1], 2, (4,), "gaussian")
    return lv.fit(model, rows, lv.SVI(passes=2), progress=False)


def explicit_mixture(rows: lv.Rows) -> lv.Fit:
    """A user's mixture whose component is a site."""
    return lv.fit(FlatMixture(2, rows["x"].shape[1]), rows, PASSES, progress=False)


def mixture(covariance: str, components: int = 2) -> lv.Fitter:
    return lv.Fitter(lv.models.GaussianMixture(components, covariance=covariance), PASSES)


@dataclass(frozen=True)
class Named:
    """A recipe whose repr has no address: names of tests have to be the same in every process."""

    name: str

    def __call__(self, rows: lv.Rows) -> lv.Fit:
        return {"explicit": explicit_mixture, "autoencoder": autoencoder}[self.name](rows)


SOURCES: dict[str, Callable[[lv.Rows], lv.Fit]] = {
    "diag": lv.Fitter(lv.models.GaussianMixture(2, covariance="diag"), lv.EM(passes=20)),
    "full": mixture("full"),
    "explicit": Named("explicit"),
    "autoencoder": Named("autoencoder"),
}


@parametrize_with_checks([lv.Embedding(source) for source in SOURCES.values()])
def test_scikit_learns_checks(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_set_output_transform_polars",
        "check_dataframe_column_names_consistency",
    ],
)
def test_checks_that_scikit_learn_runs_on_its_own_transformers(name: str) -> None:
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip(f"this scikit-learn has no {name}")
    check("Embedding", lv.Embedding(mixture("diag")))


@pytest.fixture(scope="module")
def fitted() -> lv.Fit:
    return mixture("tied", 3)(pd.DataFrame(IRIS, columns=COLUMNS))


def test_a_pipeline_learns_the_embedding_from_its_own_training_rows() -> None:
    pipeline = make_pipeline(StandardScaler(), lv.Embedding(mixture("full", 3)), LogisticRegression(C=100))
    pipeline.fit(IRIS, SPECIES)
    assert pipeline.score(IRIS, SPECIES) > 0.95  # the published error of this mixture on iris is 5 of 150
    scaled = StandardScaler().fit_transform(IRIS)
    alone = mixture("full", 3)(scaled).latent().mean("z").numpy()
    np.testing.assert_array_equal(pipeline[:-1].transform(IRIS), alone)


def test_a_search_over_recipes_and_settings() -> None:
    pipeline = make_pipeline(lv.Embedding(mixture("diag")), LogisticRegression(C=100))
    grid = {"embedding__source": [mixture("diag", k) for k in (1, 3)]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(IRIS, SPECIES)
    assert search.best_params_["embedding__source"].model.components == 3
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(1 / 3, abs=0.05)  # one component says nothing


def test_beside_other_transformers_and_on_chosen_columns(fitted: lv.Fit) -> None:
    union = make_union(StandardScaler(), lv.Embedding(fitted)).fit(IRIS)
    np.testing.assert_array_equal(union.transform(IRIS)[:, 4:], fitted.latent().mean("z").numpy())
    petals = ColumnTransformer([("z", lv.Embedding(mixture("diag")), COLUMNS[2:])], remainder="passthrough")
    petals.set_output(transform="pandas")
    table = petals.fit_transform(pd.DataFrame(IRIS, columns=COLUMNS))
    names = ["z__z_component_0", "z__z_component_1", *(f"remainder__{name}" for name in COLUMNS[:2])]
    assert list(table.columns) == names


def test_a_clone_shares_the_source_and_keeps_the_output_but_not_what_was_learnt(fitted: lv.Fit) -> None:
    embedding = lv.Embedding(fitted, sites="z", batch_rows=7).set_output(transform="pandas").fit(IRIS)
    twin = clone(embedding)
    assert twin.source is fitted and twin.get_params() == embedding.get_params()
    assert not hasattr(twin, "fit_") and not hasattr(twin, "channels_")
    assert isinstance(twin.transform(IRIS), pd.DataFrame)
    twin.set_output(transform="default")
    assert isinstance(embedding.transform(IRIS), pd.DataFrame)
    recipe = clone(lv.Embedding(mixture("diag")).fit(IRIS))
    with pytest.raises(sklearn.exceptions.NotFittedError, match="not fitted"):
        recipe.transform(IRIS)


def test_frames_come_back_with_the_names_of_rows_and_coordinates(fitted: lv.Fit) -> None:
    flowers = [f"flower {k}" for k in range(len(IRIS))]
    frame = pd.DataFrame(IRIS, index=flowers, columns=COLUMNS)
    embedding = lv.Embedding(fitted)
    plain = embedding.transform(IRIS)
    for x in (frame, lv.Rows(frame), lv.Rows(IRIS, names=flowers)):
        table = clone(embedding).set_output(transform="pandas").transform(x)
        assert list(table.index) == flowers and list(table.columns) == [f"z_component_{k}" for k in range(3)]
        np.testing.assert_array_equal(table.to_numpy(), plain)
    with sklearn.config_context(transform_output="polars"):
        table = embedding.fit_transform(pl.DataFrame(IRIS, schema=COLUMNS))
    assert isinstance(table, pl.DataFrame)
    np.testing.assert_array_equal(table.to_numpy(), plain)
    with pytest.raises(SettingError, match="'arrow'"):
        embedding.set_output(transform="arrow")


def test_steps_of_sequences_come_back_with_row_and_step() -> None:
    counts = pd.DataFrame({"count": [1, 9, 1, 8, 2, 9]})
    rows = lv.Rows(counts, groups=["b", "a", "b", "a", "b", "a"])
    fit = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), rows, lv.EM(passes=3), progress=False)
    each = lv.Embedding(fit, steps="each").set_output(transform="pandas").transform(rows)
    assert list(each.index) == [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1), ("a", 2)]
    assert list(each.columns) == ["z_state_0", "z_state_1"]
    pooled = lv.Embedding(fit).set_output(transform="pandas").transform(rows)
    assert list(pooled.index) == ["b", "a"]
    # a frame without groups is one sequence, whose steps keep the frame's index
    alone = lv.Embedding(fit, steps="each").set_output(transform="pandas")
    assert list(alone.transform(counts.set_index(pd.Index(range(1900, 1906)))).index) == list(range(1900, 1906))


def test_names_of_features_are_those_of_the_fit_and_are_checked(fitted: lv.Fit) -> None:
    embedding = lv.Embedding(fitted)
    assert embedding.n_features_in_ == 4 and list(embedding.feature_names_in_) == COLUMNS
    with pytest.raises(ValueError, match="The feature names should match"):
        embedding.transform(pd.DataFrame(IRIS, columns=COLUMNS[::-1]))
    with pytest.raises(ValueError, match="X has 3 features, but Embedding is expecting 4 features"):
        embedding.transform(IRIS[:, :3])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        embedding.transform(IRIS)
    unnamed = lv.Embedding(mixture("diag")).fit(IRIS)
    assert not hasattr(unnamed, "feature_names_in_") and unnamed.n_features_in_ == 4
    assert not hasattr(lv.Embedding(mixture("diag")), "n_features_in_")


def test_pickled_with_its_fit_it_gives_the_same_bits() -> None:
    embedding = lv.Embedding(autoencoder).fit(IRIS)
    twin = pickle.loads(pickle.dumps(embedding))
    np.testing.assert_array_equal(twin.transform(IRIS), embedding.transform(IRIS))


def test_infinity_is_refused_and_gaps_are_the_models_matter() -> None:
    endless, gaps = IRIS.copy(), IRIS.copy()
    endless[3, 1], gaps[::7, 2] = np.inf, np.nan
    embedding = lv.Embedding(mixture("full")).fit(gaps)
    assert np.isfinite(embedding.transform(gaps)).all()
    for embed in (embedding.transform, clone(embedding).fit):
        with pytest.raises(ValueError, match="infinity"):
            embed(endless)
