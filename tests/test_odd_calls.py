"""What a new user may ask of vectors and latent spaces by mistake: told in our words, with what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import latentvars as lv
from latentvars.errors import DataError, KindError, LatentVarsError, NameUnknownError, SettingError, ShapeError

FLOAT = torch.float64
X = lv.datasets.iris().x


class Encoded:
    """x ~ Normal(z W, .5) with an encoder of one's own: whole numbers are not what it takes."""

    def __init__(self) -> None:
        self.encoder = nn.Linear(4, 4, dtype=FLOAT)

    def model(self, rows: lv.Batch) -> None:
        loadings = pyro.sample("loadings", dist.Normal(torch.zeros(2, 4, dtype=FLOAT), 1.0).to_event(2))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=FLOAT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 0.5).to_event(1), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            out = self.encoder(rows.x)
            pyro.sample("z", dist.Normal(out[:, :2], out[:, 2:].exp()).to_event(1))


@pytest.fixture(scope="module")
def factors() -> lv.Fit:
    return lv.fit(lv.models.FactorAnalysis(2), X, lv.EM(passes=30), progress=False)


@pytest.fixture(scope="module")
def mixture() -> lv.Fit:
    return lv.fit(lv.models.GaussianMixture(3), X, lv.EM(passes=30), progress=False)


@pytest.mark.parametrize("model", [lv.models.FactorAnalysis(2), lv.models.GaussianMixture(3)])
def test_no_points_are_told(model: Any) -> None:
    space = lv.LatentSpace(lv.fit(model, X, lv.EM(passes=5), progress=False))
    with pytest.raises(DataError, match="no latents"):
        space.decode(space.sample(3)[:0])


def test_whole_numbers_are_read_as_what_was_fitted() -> None:
    fit = lv.fit(Encoded(), X, lv.SVI(passes=2), progress=False)
    whole = X.round().astype(int)
    vectors = lv.Embedding(fit).transform(whole)
    assert np.array_equal(vectors, lv.Embedding(fit).transform(whole.astype(float)))
    frame = pandas.DataFrame(X, columns=list("abcd"))
    named = lv.Embedding(lv.fit(Encoded(), frame, lv.SVI(passes=2), progress=False))
    assert np.array_equal(named.transform(frame.round().astype(int)), named.transform(frame.round()))


def test_counts_stay_whole() -> None:
    quakes = lv.datasets.earthquakes()
    fit = lv.fit(lv.models.Mixture(2, lv.emissions.Poisson()), quakes.x, lv.EM(passes=5), progress=False)
    assert lv.Embedding(fit).transform(quakes.x[:5]).shape == (5, 2)


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", True, None])
def test_numbers_of_neighbours_are_whole(factors: lv.Fit, k: Any) -> None:
    vectors = lv.Embedding(factors).vectors(X)
    for ask in (lv.Index(vectors).search, lv.BeliefIndex(factors.latent()).search):
        with pytest.raises(SettingError, match="k="):
            ask("0", k=k)
    with pytest.raises(SettingError, match="k="):
        lv.recommend(vectors, vectors, k)


def test_numpy_s_whole_numbers_are_whole(factors: lv.Fit) -> None:
    found = lv.Index(lv.Embedding(factors).vectors(X)).search("0", k=np.int64(3))  # type: ignore[arg-type]
    assert found.ids.shape == (1, 3)


def test_what_is_no_table_of_numbers_is_told() -> None:
    with pytest.raises(ShapeError, match="no array"):
        lv.Vectors([[1, 2], [3]])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="detach"):
        lv.Vectors(torch.eye(2, requires_grad=True))  # type: ignore[arg-type]
    with pytest.raises(KindError, match="metadata of type list"):
        lv.Vectors(np.eye(2), metadata=[1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["fit", "embedding"])
def test_what_makes_vectors_is_none_itself(factors: lv.Fit, what: str) -> None:
    given: Any = factors if what == "fit" else lv.Embedding(factors)
    for ask in (lv.Index, lv.vectors_of, lambda one: lv.concordance(one, X), lambda one: lv.drift(X, one)):
        with pytest.raises(KindError, match=r"lv.Embedding\(fit\).vectors"):
            ask(given)


def test_vectors_are_no_draws(factors: lv.Fit) -> None:
    for given in (lv.Embedding(factors).vectors(X), factors):
        with pytest.raises(KindError, match="draw_latents"):
            lv.propagate(given, lambda z, y: (np.zeros(1), np.eye(1)), X[:, 3])


def test_an_embedding_of_nothing_says_what_it_needs() -> None:
    with pytest.raises(KindError, match="int in the place of a fit"):
        lv.Embedding(3).transform(X)
    with pytest.raises(ValueError, match="call fit"):
        lv.Embedding(lv.Fitter(lv.models.GaussianMixture(2))).transform(X)


def test_vectors_that_are_no_probabilities_are_not_decoded(mixture: lv.Fit) -> None:
    embedding = lv.Embedding(mixture)
    for wrong in ([0.2, 0.2, 0.9], [2.0, -1.0, 0.0]):
        with pytest.raises(DataError, match="no probabilities"):
            embedding.inverse_transform([[1.0, 0.0, 0.0], wrong])
    single = embedding.transform(X).astype(np.float32)
    assert np.allclose(embedding.inverse_transform(single), single @ mixture.point["loc"].numpy(), atol=1e-4)


def test_scores_of_a_search_and_of_recommendations(factors: lv.Fit) -> None:
    vectors = lv.Embedding(factors).vectors(X)
    found = lv.Index(vectors, "euclidean").search(["0", "70", "1"], k=5)
    relevant = {"70": found.ids[1, 2:4], 0: found.ids[0, :1]}
    expected = lv.retrieval_scores(found.ids[:2], [relevant[0], relevant["70"]], k=5)
    assert lv.retrieval_scores(found, relevant, k=5).ndcg == pytest.approx(expected.ndcg)
    items = lv.recommend(vectors.take([0, 1]), vectors.take(slice(5, 50)), 5)
    assert lv.retrieval_scores(items, {"1": items.items[1, :2]}, k=5).recall == 1.0
    uncertain = lv.BeliefIndex(factors.latent()).search(["0"], k=5)
    assert lv.retrieval_scores(uncertain, {"0": uncertain.ids[0, :2]}, k=5).recall == 1.0
    with pytest.raises(NameUnknownError, match="'99'"):
        lv.retrieval_scores(found, {"99": ["1"]}, k=5)
    with pytest.raises(KindError, match="whose they are"):
        lv.retrieval_scores(found.ids, relevant, k=5)


def test_a_latent_space_is_asked_oddly(factors: lv.Fit) -> None:
    space = lv.LatentSpace(factors)
    found = space.anomaly(X[:3], scores="likelihood")
    assert list(found.p_values) == ["likelihood"]
    with pytest.raises(NameUnknownError, match="typicality"):
        found.flagged(0.05, "typicality")
    with pytest.raises(KindError, match="region=3"):
        space.sample(3, region=3)  # type: ignore[arg-type]
    assert repr(space.aggregate(components=2)) == "Aggregate of 'z': a mixture of 2 normals"
    line = nn.Linear(2, 4)
    with pytest.raises(LatentVarsError, match="4 outputs for 2 points") as caught:
        lv.LatentSpace.of_generator(line, dist.Normal(0.0, 1.0))
    assert str(caught.value).count("needed:") == 1
