"""BeliefIndex as a store: filters beside indices of fewer rows, rows added and removed, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import latentvars as lv
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError, StorageError
from latentvars.posterior.latent import LatentPosterior

chance = np.random.default_rng(3)
SIZE, WIDTH = 12, 2
LOC, STD = chance.normal(size=(SIZE, WIDTH)) * 2, chance.uniform(0.1, 1.0, (SIZE, WIDTH))
ROOT = chance.normal(size=(SIZE, WIDTH, WIDTH))
COV = ROOT @ ROOT.swapaxes(1, 2) * 0.3 + 0.1 * np.eye(WIDTH)
PROBS = chance.dirichlet(np.ones(3), size=SIZE)
DRAWS = LOC + STD * chance.normal(size=(400, SIZE, WIDTH))
IDS = [f"row {n}" for n in range(SIZE)]
KIND = np.array(["a", "b", None] * 4, object)


FAMILIES: dict[str, Any] = {
    "independent": lambda at: lv.Vectors(LOC[at], np.array(IDS)[at], std=STD[at]),
    "full": lambda at: _part(dist.MultivariateNormal(torch.as_tensor(LOC[at]), torch.as_tensor(COV[at])), at),
    "categories": lambda at: _part(dist.Categorical(torch.as_tensor(PROBS[at])), at),
    "draws": lambda at: DRAWS[:, at],
}


def _part(law: Any, at: np.ndarray) -> LatentPosterior:
    return LatentPosterior({"z": [law]}, tuple(np.array(IDS)[at].tolist()))


def index(family: str, at: Any = None) -> lv.BeliefIndex:
    at = np.arange(SIZE) if at is None else np.asarray(at)
    return lv.BeliefIndex(FAMILIES[family](at), ids=np.array(IDS)[at], metadata={"kind": KIND[at], "n": at})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_filter_is_an_index_of_the_rows_that_are_left(family: str) -> None:
    whole, left = index(family), np.flatnonzero(KIND == "a")
    part, query = index(family, left), FAMILIES[family](np.array([1, 5]))
    there = whole.search(query, k=2, where={"kind": "a"}, draws=4_000)
    alone = part.search(query, k=2, draws=4_000)
    assert np.isin(there.positions, left).all()
    assert np.allclose(there.probability, alone.probability, atol=0.04)
    mask = whole.search(query, k=2, where=lambda columns: columns["n"] % 3 == 0, draws=4_000)
    assert np.array_equal(mask.ids, there.ids) and np.array_equal(mask.probability, there.probability)
    without = whole.search(query, k=2, where={"kind": "a"}, exclude=[IDS[0]], draws=4_000)
    assert not (without.positions == 0).any()
    assert np.allclose(
        without.probability, index(family, left[1:]).search(query, k=2, draws=4_000).probability, atol=0.04
    )
    nearest = whole.search(query, k=2, by="expected", where={"kind": "a"})
    assert np.array_equal(nearest.ids, part.search(query, k=2, by="expected").ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_by_id_may_lie_outside_the_filter(family: str) -> None:
    found = index(family).search(["row 1", "row 3"], k=3, where={"kind": "a"})  # of which row 3 is one
    assert not (found.ids[1] == "row 3").any() and (KIND[found.positions] == "a").all()
    with pytest.raises(SettingError, match="k=4 among 3 rows"):
        index(family).search(["row 3"], k=4, where={"kind": "a"})
    assert index(family).search(["row 1"], k=4, where={"kind": "a"}).confidence[0] == pytest.approx(1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_added_and_removed_leave_the_index_of_the_rest(family: str) -> None:
    first, more = index(family, range(8)), np.arange(8, SIZE)
    grown = first.add(FAMILIES[family](more), np.array(IDS)[more], {"kind": KIND[more], "n": more})
    assert len(first) == 8 and grown.ids.tolist() == IDS and grown.metadata["kind"].tolist() == KIND.tolist()
    assert np.allclose(grown.distances(IDS[:3]), index(family).distances(IDS[:3]))
    shrunk = grown.remove(["row 2", "row 9"])
    kept = np.delete(np.arange(SIZE), [2, 9])
    assert shrunk.ids.tolist() == np.array(IDS)[kept].tolist()
    both = [one.search(["row 0"], k=3) for one in (shrunk, index(family, kept))]
    assert np.array_equal(both[0].ids, both[1].ids) and np.array_equal(both[0].probability, both[1].probability)
    with pytest.raises(DataError, match="repeat"):
        first.add(FAMILIES[family](more), IDS[:4], {"kind": KIND[more], "n": more})
    with pytest.raises(DataError, match="the same metadata"):
        first.add(FAMILIES[family](more), np.array(IDS)[more])
    with pytest.raises(NameUnknownError, match="row 99"):
        first.remove("row 99")
    with pytest.raises(DataError, match="all 8 rows"):
        first.remove(IDS[:8])


def test_a_diagonal_takes_a_full_covariance_in() -> None:
    grown = index("independent", range(6)).add(
        FAMILIES["full"](np.arange(6, SIZE)), metadata={"kind": KIND[6:], "n": KIND[6:]}
    )
    cov = np.concatenate([STD[:6, :, None] ** 2 * np.eye(WIDTH), COV[6:]])
    law = _part(dist.MultivariateNormal(torch.as_tensor(LOC), torch.as_tensor(cov)), np.arange(SIZE))
    assert np.allclose(grown.distances(IDS, "wasserstein"), lv.BeliefIndex(law).distances(IDS, "wasserstein"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_index_answers_the_same_to_the_bit(family: str, tmp_path: Path) -> None:
    before = index(family)
    after = lv.load_belief_index(before.save(tmp_path / "beliefs"))
    assert str(after) == str(before) and after.metadata["kind"].tolist() == KIND.tolist()
    for query in (["row 4"], FAMILIES[family](np.array([3]))):
        both = [one.search(query, k=4, where={"kind": ["a", "b"]}, seed=2) for one in (before, after)]
        assert np.array_equal(both[0].ids, both[1].ids) and np.array_equal(both[0].probability, both[1].probability)
    with pytest.raises(StorageError, match=r"exists|way"):
        before.save(tmp_path / "beliefs")
    before.remove("row 0").save(tmp_path / "beliefs", overwrite=True)
    assert len(lv.load_belief_index(tmp_path / "beliefs")) == SIZE - 1


def test_what_is_no_index_of_beliefs_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        lv.load_belief_index(tmp_path / "nothing")
    plain = lv.Index(lv.Vectors(LOC, IDS)).save(tmp_path / "plain")
    with pytest.raises(StorageError):
        lv.load_belief_index(plain)
    saved = index("full").save(tmp_path / "beliefs")
    with pytest.raises(StorageError):
        lv.load_index(saved)
    tensors = next(path for path in saved.iterdir() if path.suffix == ".safetensors")
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError):
        lv.load_belief_index(saved)
    assert all(b"pickle" not in path.read_bytes() for path in saved.iterdir())
    assert json.loads(next(path for path in saved.iterdir() if path.suffix == ".json").read_text())
    odd = lv.BeliefIndex(DRAWS, ids=IDS, metadata={"odd": np.array([{}] * SIZE, object)})
    with pytest.raises(KindError, match="odd"):
        odd.save(tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_vectors_from_elsewhere_and_other_shapes_are_refused() -> None:
    old, new = (lv.Provenance("mean of z", fit=fit) for fit in ("old", "new"))
    held = lv.BeliefIndex(lv.Vectors(LOC, IDS, std=STD, provenance=old))
    other = lv.Vectors(LOC, [f"other {n}" for n in range(SIZE)], std=STD, provenance=new)
    for ask in (held.search, held.add, held.distances):
        with pytest.raises(DataError, match="one fit"):
            ask(other)
    assert held.search(lv.Vectors(LOC, std=STD), k=1).positions.shape == (SIZE, 1)
    with pytest.raises(ShapeError, match="width 1"):
        held.add(lv.Vectors(LOC[:, :1], std=STD[:, :1]))
    with pytest.raises(ShapeError, match="399 draws"):
        index("draws").add(DRAWS[:399], [f"x{n}" for n in range(SIZE)], {"kind": KIND, "n": KIND})
    with pytest.raises(DataError, match="no rows"):
        lv.BeliefIndex(lv.Vectors(LOC[:0], std=STD[:0]))
    with pytest.raises(ShapeError, match="metadata 'kind'"):
        lv.BeliefIndex(DRAWS, metadata={"kind": KIND[:3]})
