"""EM over several processes, each with rows of its own, of any number.

    torchrun --nproc-per-node 2 examples/distributed_em.py
    torchrun --nnodes 4 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint node1:29500 examples/distributed_em.py
    srun --ntasks 8 python examples/distributed_em.py
    python examples/distributed_em.py        one process: the same program, the same numbers

Every process prints the same estimates. A run that was broken off is gone on with by starting the program again.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

import latentvars as lv


def own_rows(rank: int, size: int) -> lv.Rows:
    """The share of a process; a real one would read its own file: ``lv.Rows(Path(f"rows-{rank}.npy"))``."""
    source = np.random.default_rng(0)
    x = (
        source.normal(size=(30_000, 2))
        + np.array([[0.0, 0.0], [5.0, 1.0], [-3.0, 4.0]])[source.integers(3, size=30_000)]
    )
    ends = np.linspace(0, len(x), size * (size + 1) // 2 + 1).astype(
        int
    )  # the second has twice the rows of the first, ...
    first = rank * (rank + 1) // 2
    return lv.Rows(x[ends[first] : ends[first + rank + 1]])


def main() -> None:
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    size = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", "1")))
    rows, processes, model = own_rows(rank, size), lv.Distributed(timeout=120), lv.models.GaussianMixture(3)
    kept = Path(tempfile.gettempdir()) / "latentvars-distributed-em"
    earlier = lv.load(kept, data=rows) if kept.exists() else None
    fit = lv.fit(model, rows, lv.EM(), backend=processes, checkpoint=kept, resume=earlier, progress=False)
    print(f"process {rank}: {fit}\n{fit.point['loc'].numpy().round(4)}", flush=True)
    vectors = processes.gathered(lv.Embedding(fit).transform(rows))
    print(f"process {rank}: {len(vectors)} vectors, in the order of the processes", flush=True)


if __name__ == "__main__":
    main()
