"""Rows that stay in their files give what rows in memory give: numpy, Parquet and zarr, read slice by slice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import latentvars as lv
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError, StorageError
from latentvars.inference.running.memory import peak_bytes
from latentvars.rows import overview, shuffling
from latentvars.rows.column import Column

SOURCE = np.random.default_rng(2)
X = SOURCE.normal(size=(900, 3)) + np.repeat([[0.0, 0.0, 1.0], [4.0, 1.0, -3.0], [-3.0, 5.0, 2.0]], 300, 0)
X = X[SOURCE.permutation(900)]
GAPS = np.where(SOURCE.random(X.shape) < 0.05, np.nan, X)
EM = lv.EM(stop=lv.Tolerance(1e-11))
MODEL = lv.models.GaussianMixture(3)


def numpy_file(folder: Path, x: np.ndarray) -> Any:
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def fortran_file(folder: Path, x: np.ndarray) -> Any:
    np.save(folder / "f.npy", np.asfortranarray(x))
    return folder / "f.npy"


def part_of_a_map(folder: Path, x: np.ndarray) -> Any:
    wide = np.zeros((len(x) + 7, 5))
    wide[5:-2, 1:4] = x
    wide.tofile(folder / "raw")
    return np.memmap(folder / "raw", np.float64, "r", shape=wide.shape)[5:-2, 1:4]


def parquet_file(folder: Path, x: np.ndarray) -> Any:
    frame = pl.DataFrame(x, schema=["a", "b", "c"]).fill_nan(None)
    frame.insert_column(0, pl.Series("text", ["t"] * len(x))).write_parquet(folder / "x.parquet", row_group_size=170)
    return lv.Parquet(folder / "x.parquet", ["a", "b", "c"])


def parquet_folder(folder: Path, x: np.ndarray) -> Any:
    for number, part in enumerate(np.array_split(x, 3)):
        pl.DataFrame(part, schema=["a", "b", "c"]).write_parquet(folder / f"{number}.parquet")
    return lv.Parquet(folder)


def zarr_array(folder: Path, x: np.ndarray) -> Any:
    zarr = pytest.importorskip("zarr")
    array = zarr.open_array(str(folder / "x.zarr"), mode="w", shape=x.shape, chunks=(128, 3), dtype="f8")
    array[:] = x
    return folder / "x.zarr"


FILES = [numpy_file, fortran_file, part_of_a_map, parquet_file, parquet_folder, zarr_array]
Make = Callable[[Path, np.ndarray], Any]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, blocks and samples so small that 900 rows are many of them."""
    monkeypatch.setattr(overview, "CHUNK", 300)
    monkeypatch.setattr(overview, "SEEN", 600)
    monkeypatch.setattr(shuffling, "BLOCK", 60)
    monkeypatch.setattr(shuffling, "BUFFER", 400)


@pytest.mark.parametrize("make", FILES)
def test_what_is_read_is_what_was_written(make: Make, tmp_path: Path) -> None:
    rows, memory = lv.Rows(make(tmp_path, GAPS)), lv.Rows(GAPS)
    assert rows.streamed and isinstance(rows["x"], Column) and not memory.streamed
    assert rows.digest() == memory.digest() and len(rows) == 900
    assert str(rows) == str(memory)
    for at in ([5, 3, 800, 5, -1], slice(100, 200), torch.arange(900) % 7 == 0):
        ours, theirs = rows.batch(at), memory.batch(at)
        assert torch.equal(ours.x.nan_to_num(9.0), theirs.x.nan_to_num(9.0))
        assert ours.observed is not None and theirs.observed is not None
        assert torch.equal(ours.observed["x"], theirs.observed["x"]) and torch.equal(ours.index, theirs.index)
    assert rows.in_memory().digest() == memory.digest()


@pytest.mark.parametrize("make", FILES)
def test_em_is_that_in_memory(make: Make, tmp_path: Path) -> None:
    ours = lv.fit(MODEL, lv.Rows(make(tmp_path, X)), lv.EM(stop=lv.Tolerance(1e-11), memory=60_000), progress=False)
    theirs = lv.fit(MODEL, X, EM, progress=False)
    assert ours.algorithm is not None and ours.algorithm.batch_size < 450  # type: ignore[attr-defined]
    for name, value in theirs.point.items():
        torch.testing.assert_close(ours.point[name], value, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.history, theirs.history, rtol=0, atol=1e-10)
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    torch.testing.assert_close(ours.row_log_likelihood, theirs.row_log_likelihood, rtol=0, atol=1e-9)
    assert ours.bic == pytest.approx(theirs.bic, rel=1e-12) and ours.empty == theirs.empty == ()


def test_gaps_weights_and_restarts(tmp_path: Path) -> None:
    weights = SOURCE.integers(0, 3, 900)
    rows = lv.Rows(numpy_file(tmp_path, GAPS), weights=weights)
    algorithm = lv.EM(stop=lv.Tolerance(1e-10), restarts=2)
    ours = lv.fit(MODEL, rows, algorithm, progress=False)
    theirs = lv.fit(MODEL, lv.Rows(GAPS, weights=weights), algorithm, progress=False)
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-11)
    torch.testing.assert_close(ours.point["loc"], theirs.point["loc"], rtol=0, atol=1e-8)


def test_a_start_from_a_sample_finds_the_same_optimum(tmp_path: Path, small: None) -> None:
    rows = lv.Rows(numpy_file(tmp_path, X))
    assert not rows.overview.whole and 150 < len(rows.seen) <= 200
    assert torch.equal(rows.seen["x"], torch.from_numpy(X)[rows.overview.index])
    extremes = rows.overview.extremes["x"]
    assert torch.equal(extremes.amin(0), torch.from_numpy(X.min(0))) and torch.equal(
        extremes.amax(0), torch.from_numpy(X.max(0))
    )
    ours, theirs = lv.fit(MODEL, rows, EM, progress=False), lv.fit(MODEL, X, EM, progress=False)
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, abs=1e-6)


def test_sequences(tmp_path: Path, small: None) -> None:
    lengths = [40, 5, 80, 12] * 6 + [78]
    counts = SOURCE.poisson(np.where(np.arange(900) % 60 < 30, 3, 9)).astype(np.int32)
    np.save(tmp_path / "c.npy", counts)
    chain, start = lv.models.HiddenMarkov(2, lv.emissions.Poisson()), {"rate": [[2.0], [8.0]]}
    rows = lv.Rows(tmp_path / "c.npy", lengths=lengths)
    ours = lv.fit(chain, rows, lv.EM(stop=lv.Tolerance(1e-11), batch_size=4), start=start, progress=False)
    memory = lv.Rows(counts, lengths=lengths)
    again = {name: value for name, value in lv.fit(chain, memory, EM, start=start, progress=False).point.items()}
    torch.testing.assert_close(ours.point["rate"], again["rate"], rtol=0, atol=1e-5)
    onward = lv.fit(chain, rows, EM, start=again, progress=False)
    torch.testing.assert_close(
        onward.point, lv.fit(chain, memory, EM, start=again, progress=False).point, atol=1e-10, rtol=0
    )
    with pytest.raises(KindError, match="pass lengths"):
        lv.fit(chain, lv.Rows(tmp_path / "c.npy"), EM, progress=False)
    with pytest.raises(KindError, match="groups"):
        lv.Rows(tmp_path / "c.npy", groups=np.repeat([0, 1], 450))


@pytest.mark.parametrize("parts", [None, 7])
def test_shuffled_batches_cover_each_row_once(tmp_path: Path, small: None, parts: int | None) -> None:
    rows, x = lv.Rows(numpy_file(tmp_path, X)), torch.from_numpy(X)
    seen = []
    for batch in rows.batches(64, seed=1, epoch=3, parts=parts):
        assert torch.equal(batch.x, x[batch.index]) and batch.total == 900
        seen.append(batch.index)
    order = torch.cat(seen)
    assert torch.equal(order.sort().values, torch.arange(900))
    again = torch.cat([batch.index for batch in rows.batches(64, seed=1, epoch=3, parts=parts)])
    other = torch.cat([batch.index for batch in rows.batches(64, seed=1, epoch=4, parts=parts)])
    assert torch.equal(order, again) and not torch.equal(order, other)
    far = (order[1:] - order[:-1]).abs() > 20
    assert far.double().mean() > 0.5  # not in the order of the file


@pytest.mark.parametrize(
    "algorithm",
    [
        lv.SVI(guide=lv.Delta(), passes=40, batch_size=100, memory=100_000),
        lv.OnlineEM(passes=15, batch_size=100, decay=0.9, stop=lv.Never()),
    ],
    ids=["SVI", "OnlineEM"],
)
def test_minibatches_from_files(algorithm: Any, tmp_path: Path, small: None) -> None:
    start = lv.fit(MODEL, X, EM, progress=False)
    away = {**start.point, "loc": start.point["loc"] + 0.2}
    ours = lv.fit(MODEL, lv.Rows(numpy_file(tmp_path, X)), algorithm, start=away, progress=False)
    assert ours.log_likelihood == pytest.approx(start.log_likelihood, abs=2.0)


def test_full_batches_of_svi_in_a_budget_equal_those_in_memory(tmp_path: Path) -> None:
    svi = lv.SVI(guide=lv.Delta(), passes=20)
    ours = lv.fit(
        MODEL, lv.Rows(numpy_file(tmp_path, X)), lv.SVI(guide=lv.Delta(), passes=20, memory=300_000), progress=False
    )
    theirs = lv.fit(MODEL, X, svi, progress=False)
    assert ours.algorithm.batches_per_step > 1  # type: ignore[union-attr]
    np.testing.assert_allclose(ours.history, theirs.history, rtol=0, atol=1e-10)


def test_readouts_in_parts(tmp_path: Path) -> None:
    rows, fit = lv.Rows(numpy_file(tmp_path, X)), lv.fit(MODEL, X, EM, progress=False)
    whole = fit.latent(X).mean("z")
    parts = list(fit.latents(rows, numbers=300))
    assert len(parts) == 9 and parts[1].names == tuple(range(100, 200))
    torch.testing.assert_close(torch.cat([part.mean("z") for part in parts]), whole)
    torch.testing.assert_close(fit.latent(rows).mean("z"), whole)
    torch.testing.assert_close(fit.score_rows(rows), fit.row_log_likelihood)
    vectors = lv.Embedding(fit).transform(X)
    embedding = lv.Embedding(fit, memory=30_000)
    pieces = list(embedding.transform_parts(rows))
    assert len(pieces) > 3 and np.array_equal(np.concatenate(pieces), vectors)
    assert np.array_equal(embedding.transform(tmp_path / "x.npy"), vectors)


def test_saving_leaves_the_rows_in_their_file(tmp_path: Path) -> None:
    rows = lv.Rows(numpy_file(tmp_path, X))
    fit = lv.fit(MODEL, rows, EM, progress=False)
    fit.save(tmp_path / "fit")
    assert sum(file.stat().st_size for file in (tmp_path / "fit").iterdir()) < 10_000
    loaded = lv.load(tmp_path / "fit", data=rows)
    assert loaded.log_likelihood == fit.log_likelihood
    assert lv.load(tmp_path / "fit", data=X).log_likelihood == pytest.approx(fit.log_likelihood, rel=1e-13)


def test_what_is_wrong_with_files(tmp_path: Path, small: None) -> None:
    with pytest.raises(StorageError, match="no such file"):
        lv.Rows(tmp_path / "none.npy")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(KindError, match=r"\.npy, \.parquet or \.zarr"):
        lv.Rows(tmp_path / "x.csv")
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(StorageError, match="cannot be read as npy"):
        lv.Rows(tmp_path / "broken.npy")
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    with pytest.raises(DataError, match="<U1"):
        lv.Rows(tmp_path / "text.npy")
    parquet_file(tmp_path, X)
    with pytest.raises(NameUnknownError, match=r"\['q'\]"):
        lv.Parquet(tmp_path / "x.parquet", ["a", "q"])
    with pytest.raises(DataError, match="'text' do not hold numbers"):
        lv.Parquet(tmp_path / "x.parquet")
    wrong = X.copy()
    wrong[850, 1] = np.inf
    with pytest.raises(DataError, match="infinite") as caught:
        lv.Rows(numpy_file(tmp_path, wrong))
    assert caught.value.__notes__ == ["positions count from row 800"]
    with pytest.raises(ShapeError, match="different length"):
        lv.Rows({"x": lv.Parquet(tmp_path / "x.parquet", "a"), "y": X[:10]})
    constant = np.where([True, False, False], 1.0, X)
    with pytest.raises(DataError, match="x0"):
        lv.fit(MODEL, lv.Rows(numpy_file(tmp_path, constant)), progress=False)
    negative = np.abs(X).round()
    negative[899, 0] = -1
    with pytest.raises(DataError, match="-1"):
        lv.fit(lv.models.Mixture(2, lv.emissions.Poisson(3)), lv.Rows(numpy_file(tmp_path, negative)), progress=False)
    with pytest.raises(KindError, match="in_memory"):
        lv.Rows(numpy_file(tmp_path, X))["x"].mean()
    with pytest.raises(SettingError, match="memory"):
        lv.fit(MODEL, lv.Rows(numpy_file(tmp_path, X)), lv.EM(memory=100), progress=False)


def test_a_column_that_varies_outside_the_sample_is_no_constant_one(tmp_path: Path, small: None) -> None:
    x = X.copy()
    x[:, 0] = 1.0
    x[[7, 899], 0] = 2.0
    rows = lv.Rows(numpy_file(tmp_path, x))
    start = {"weights": [0.5, 0.5], "loc": [[1.0, 0.0, 0.0], [1.0, 3.0, 0.0]], "scale": [[0.2, 2.0, 2.0]] * 2}
    diagonal = lv.models.GaussianMixture(2, covariance="diag")
    assert np.isfinite(lv.fit(diagonal, rows, lv.EM(passes=2), start=start, progress=False).log_likelihood)


def test_a_file_that_changes_ends_the_fit(tmp_path: Path) -> None:
    rows = lv.Rows(numpy_file(tmp_path, X))
    os.utime(tmp_path / "x.npy", ns=(1, 1))
    with pytest.raises(DataError, match="has changed since it was opened") as caught:
        lv.fit(MODEL, rows, EM, progress=False)
    assert "begin again" in str(caught.value)
    rows = lv.Rows(numpy_file(tmp_path, X))
    np.save(tmp_path / "x.npy", X[:400])
    with pytest.raises(DataError, match=r"ends before rows|has changed"):
        lv.fit(MODEL, rows, EM, progress=False)


def test_the_peak_of_tensors_is_measured() -> None:
    def work() -> None:
        a = torch.zeros(1000, dtype=torch.float64)
        b = torch.ones(500, dtype=torch.float64)
        del a
        (b + 1).sum()

    assert 12_000 <= peak_bytes(work) <= 12_100


HUNGRY = """
import resource, sys
import numpy as np
import torch
import latentvars as lv
torch.set_num_threads(1)
model = lv.models.GaussianMixture(4, covariance="diag")
algorithm = lv.EM(passes=1, memory=16_000_000)
def work(path, most):
    rows = lv.Rows(np.load(path, mmap_mode="r"))
    fit = lv.fit(model, rows, algorithm, progress=False)
    assert np.isfinite(fit.log_likelihood)
    for number, part in enumerate(lv.Embedding(fit, batch_rows=4096).transform_parts(rows)):
        if number == most:
            break
work(sys.argv[2], 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work(sys.argv[1], 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """51 MB of rows after 16 MB, which fill the sample: the peak hardly grows."""
    source = np.random.default_rng(0)
    for name, rows in (("large", 400_000), ("tiny", 125_000)):
        np.save(tmp_path / f"{name}.npy", source.normal(size=(rows, 16)))
    command = [sys.executable, "-c", HUNGRY, str(tmp_path / "large.npy"), str(tmp_path / "tiny.npy")]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=threads)
    assert int(done.stdout) < 30_000_000
