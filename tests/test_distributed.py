"""Several processes give what one gives: each test reads what two and three gloo processes have printed."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed_worker import CHAIN, FITS, MIXTURE, chain_rows, fitted, mixture_rows, sampled_rows

import latentvars as lv
from latentvars.errors import StorageError
from latentvars.inference.em.expected import Expected
from latentvars.inference.running.distributed import Place, place_of
from latentvars.inference.running.flattening import flatten, rebuild

WORKER = Path(__file__).with_name("distributed_worker.py")
EXACT = ("mixture", "batches", "accelerated", "chain", "starts in turn", "point")
NOISY = ("minibatches", "online", "vae", "sampled")
ERRORS = ("bad rows", "breaking", "other seeds")
Told = list[dict[str, Any]]


def started(size: int, folder: Path, *tasks: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(folder), *tasks]
    return [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]


def read(processes: list[subprocess.Popen], folder: Path) -> Told:
    """What each process has told; of one that was killed, what it told before."""
    for process in processes:
        try:
            _, errors = process.communicate(timeout=250)
        except subprocess.TimeoutExpired:
            for one in processes:
                one.kill()
            raise
        assert process.returncode in (0, 9), errors
    files = [folder / f"{rank}.json" for rank in range(len(processes))]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files]


@pytest.fixture(scope="module")
def told(broken: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Told]:
    """By number of processes, what they have told of all tasks: one of two is killed at last, and three go on there.

    Two launches for all tests, since each process takes seconds to import what it needs.
    """
    folder = tmp_path_factory.mktemp("told")
    two = started(2, broken, *EXACT, *NOISY, "starts", "embedded", *ERRORS, f"killed={broken}")
    found = read(two, broken)
    assert "killed" not in found[1]
    return {2: found, 3: read(started(3, folder, "mixture", "chain", "bad rows", f"resumed={broken}"), folder)}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where a run of two processes of which one was killed has left its snapshot."""
    return tmp_path_factory.mktemp("broken")


@functools.cache
def alone(name: str) -> dict[str, Any]:
    """What one process tells of a task."""
    return fitted(name)


def assert_alike(ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float) -> None:
    for name, value in theirs["point"].items():
        np.testing.assert_allclose(ours["point"][name], value, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours["history"], theirs["history"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours["log_likelihood"], theirs["log_likelihood"], rtol=tolerance)
    np.testing.assert_allclose(ours["bic"], theirs["bic"], rtol=tolerance)


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_with_uneven_shares_equal_one(told: Mapping[int, Told], name: str) -> None:
    assert_alike(told[2][0][name], alone(name), 1e-10)
    assert told[2][0][name]["status"] == alone(name)["status"]


@pytest.mark.parametrize("name", ["mixture", "chain"])
def test_three_processes_equal_one(told: Mapping[int, Told], name: str) -> None:
    assert_alike(told[3][0][name], alone(name), 1e-10)


@pytest.mark.parametrize("name", [*EXACT, *NOISY])
def test_all_processes_have_the_same_fit(told: Mapping[int, Told], name: str) -> None:
    first, second = (one[name] for one in told[2])
    assert first["point"] == second["point"] and first["history"] == second["history"]
    assert first["log_likelihood"] == second["log_likelihood"] and first["bic"] == second["bic"]
    assert first["rows"] != second["rows"] and f"rows {first['rows'] + second['rows']} in 2" in first["said"]


@pytest.mark.parametrize(("name", "tolerance"), [("minibatches", 0.3), ("online", 0.05)])
def test_minibatches_end_where_one_process_does(told: Mapping[int, Told], name: str, tolerance: float) -> None:
    ours, theirs = told[2][0][name], alone(name)
    assert ours["log_likelihood"] == pytest.approx(theirs["log_likelihood"], abs=tolerance)


def test_draws_of_two_processes_find_the_maximum(told: Mapping[int, Told]) -> None:
    """x ~ N(mean, spread² + 1), whose maximum is known."""
    x, found = sampled_rows()["x"], told[2][0]["sampled"]["point"]
    assert found["mean"] == pytest.approx(float(x.mean()), abs=0.05)
    assert found["spread"] ** 2 == pytest.approx(float(x.var(correction=0)) - 1, abs=0.15)


def test_an_update_of_minibatches_is_as_large_as_in_one_process(told: Mapping[int, Told]) -> None:
    """An autoencoder of random binary data: the same number of updates of the same size goes as far."""
    ours, theirs = told[2][0]["vae"]["history"], alone("vae")["history"]
    assert np.mean(ours[-5:]) == pytest.approx(np.mean(theirs[-5:]), abs=0.08)
    assert ours[0] == pytest.approx(theirs[0], abs=0.2)


def test_starts_that_are_shared_out_give_all_the_same_best_fit(told: Mapping[int, Told]) -> None:
    one_by_one = lv.fit(MIXTURE, mixture_rows(), lv.EM(restarts=6, stop=lv.Tolerance(1e-10)), seed=3, progress=False)
    for one in told[2]:
        assert one["starts"]["point"] == told[2][0]["starts"]["point"]
        assert one["starts"]["history"] == told[2][0]["starts"]["history"]
        assert one["starts"]["replicated"] == told[2][0]["starts"]["replicated"]
        assert one["starts"]["log_likelihood"] == pytest.approx(one_by_one.log_likelihood, abs=1e-6)
    assert len(told[2][0]["starts"]["replicated"][1]) == 6


def test_embeddings_are_gathered_in_the_order_of_the_processes(told: Mapping[int, Told]) -> None:
    one = lv.fit(MIXTURE, mixture_rows(), FITS["mixture"][1], seed=3, progress=False)
    vectors = np.array(told[2][0]["embedded"]["vectors"])
    np.testing.assert_allclose(vectors, lv.Embedding(one).transform(mixture_rows()), rtol=0, atol=1e-9)
    assert told[2][0]["embedded"] == told[2][1]["embedded"]


@pytest.mark.parametrize("size", [2, 3])
def test_bad_rows_in_one_process_end_all_with_what_is_wrong(told: Mapping[int, Told], size: int) -> None:
    *others, own = (one["bad rows"] for one in told[size])
    assert own["error"] == "DataError" and "-1 in feature 'x'" in own["text"]
    for one in others:
        assert one["error"] == "ProcessError" and f"process {size - 1} of {size} failed: DataError" in one["text"]


def test_a_density_that_breaks_in_one_process_ends_all(told: Mapping[int, Told]) -> None:
    first, second = (one["breaking"] for one in told[2])
    assert second["error"] == "NumericalError" and "site 'x' on rows [0, 1" in second["text"]
    assert first["error"] == "ProcessError" and "process 1 of 2 failed: NumericalError" in first["text"]


def test_processes_that_were_called_differently_say_so(told: Mapping[int, Told]) -> None:
    for one in told[2]:
        assert one["other seeds"]["error"] == "ProcessError" and "process 1 called lv.fit" in one["other seeds"]["text"]


def test_a_killed_process_ends_the_run_and_the_snapshot_goes_on_to_the_same_optimum(
    told: Mapping[int, Told], broken: Path
) -> None:
    said = told[2][0]["killed"]
    assert said["error"] == "ProcessError" and "resume=lv.load" in said["text"]
    assert "process 0 of 2 has lost another one, which was killed or has not answered" in said["text"]
    earlier = lv.load(broken / "run", data=mixture_rows())
    assert 3 <= len(earlier.history) < 14 and not list(broken.glob(".run*"))
    for one in told[3]:
        assert one["resumed"]["earlier"] == len(earlier.history)
        assert_alike(one["resumed"], alone("mixture"), 1e-8)


def test_a_snapshot_is_written_in_one_process_too(tmp_path: Path) -> None:
    one = lv.fit(CHAIN, chain_rows(), lv.EM(passes=5), progress=False, checkpoint=lv.Checkpoint(tmp_path / "a", 0))
    kept = lv.load(tmp_path / "a", data=chain_rows())
    torch.testing.assert_close(kept.point, one.point)
    assert kept.history.tolist() == one.history.tolist()
    assert kept.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-12)
    with pytest.raises(StorageError, match="no folder"):
        lv.fit(CHAIN, chain_rows(), checkpoint=tmp_path / "no" / "where")
    with pytest.raises(StorageError, match="digest differs"):
        lv.load(tmp_path / "a", data=chain_rows().subset([0, 1]))


def test_a_process_that_was_started_alone_is_like_no_backend() -> None:
    one = lv.fit(CHAIN, chain_rows(), lv.EM(passes=5), progress=False)
    other = lv.fit(CHAIN, chain_rows(), lv.EM(passes=5), progress=False, backend=lv.Distributed())
    torch.testing.assert_close(one.point, other.point, rtol=0, atol=0)


def test_the_variables_of_launchers_are_read() -> None:
    assert place_of({}) is None
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}
    assert place_of(torchrun) == Place(3, 8, "node1:1234")
    slurm = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "cpu[03-05,9]"}
    assert place_of({**slurm, "SLURM_JOB_ID": "70001"}) == Place(2, 4, "cpu03:29501")
    assert place_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None  # a job without a step of its own


def test_a_total_survives_being_one_vector() -> None:
    total = Expected(1.5, {"b": {"sums": torch.arange(6.0).reshape(2, 3)}, "a": {"counts": torch.tensor([1, 2])}})
    vector, layout = flatten(total)
    assert vector.tolist() == [1.5, 1, 2, 0, 1, 2, 3, 4, 5] and layout == ((), (2,), (2, 3))
    twice = rebuild(total, 2 * vector)
    assert twice.objective == 3.0 and twice.statistics["a"]["counts"].tolist() == [2, 4]
    assert twice.statistics["b"]["sums"].tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
